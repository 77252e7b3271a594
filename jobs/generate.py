"""Sample every prompt's candidate set.

    python -m jobs.generate CONFIG.yaml [key=value ...]

The same as ``lemonpress generate``; a file of its own so that it can be an entry point of ``ray job submit``.
"""

import sys

from pipeline.cli import main

if __name__ == "__main__":
    raise SystemExit(main(["generate", *sys.argv[1:]]))
