"""Try selectors on the candidates of a finished run.

    python -m jobs.replay RUN|TABLE.parquet [key=value ...]

The same as ``lemonpress replay``; a file of its own like those of all jobs.
"""

import sys

from pipeline.cli import main

if __name__ == "__main__":
    raise SystemExit(main(["replay", *sys.argv[1:]]))
