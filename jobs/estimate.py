"""What a run will cost, from a few of its prompts.

    python -m jobs.estimate CONFIG.yaml [key=value ...]

The same as ``lemonpress estimate``; a file of its own so that it can be an entry point of ``ray job submit``.
"""

import sys

from pipeline.cli import main

if __name__ == "__main__":
    raise SystemExit(main(["estimate", *sys.argv[1:]]))
