"""All jobs of a run, one after the other: generate, select, judge, winrate, report.

    python -m jobs.run CONFIG.yaml [key=value ...]

The same as ``lemonpress run``; a file of its own so that it can be an entry point of ``ray job submit``.
"""

import sys

from pipeline.cli import main

if __name__ == "__main__":
    raise SystemExit(main(["run", *sys.argv[1:]]))
