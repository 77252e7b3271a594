"""Show what went wrong in a run, by cause.

    python -m jobs.errors RUN

The same as ``lemonpress errors``; a file of its own so that it can be an entry point of ``ray job submit``.
"""

import sys

from pipeline.cli import main

if __name__ == "__main__":
    raise SystemExit(main(["errors", *sys.argv[1:]]))
