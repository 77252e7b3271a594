"""Write a run's self-contained HTML report.

    python -m jobs.report CONFIG.yaml [key=value ...]

The same as ``lemonpress report``; a file of its own so that it can be an entry point of ``ray job submit``.
"""

import sys

from pipeline.cli import main

if __name__ == "__main__":
    raise SystemExit(main(["report", *sys.argv[1:]]))
