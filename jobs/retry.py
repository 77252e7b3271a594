"""Run the failed rows of a run again, and only those.

    python -m jobs.retry RUN [key=value ...]

The same as ``lemonpress retry``; a file of its own so that it can be an entry point of ``ray job submit``.
"""

import sys

from pipeline.cli import main

if __name__ == "__main__":
    raise SystemExit(main(["retry", *sys.argv[1:]]))
