"""Score the candidates and let every configured selector choose.

    python -m jobs.select CONFIG.yaml [key=value ...]

The same as ``lemonpress select``; a file of its own so that it can be an entry point of ``ray job submit``.
"""

import sys

from pipeline.cli import main

if __name__ == "__main__":
    raise SystemExit(main(["select", *sys.argv[1:]]))
