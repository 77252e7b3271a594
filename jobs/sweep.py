"""A grid of sampling settings compared, and a policy recommended: generate and select over it, then statistics.

    python -m jobs.sweep CONFIG.yaml [key=value ...]

The same as ``lemonpress sweep``; a file of its own so that it can be an entry point of ``ray job submit``.
"""

import sys

from pipeline.cli import main

if __name__ == "__main__":
    raise SystemExit(main(["sweep", *sys.argv[1:]]))
