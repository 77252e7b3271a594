"""Play the games: pairwise comparisons of systems, in both orders.

    python -m jobs.judge CONFIG.yaml [key=value ...]

The same as ``lemonpress judge``; a file of its own so that it can be an entry point of ``ray job submit``.
"""

import sys

from pipeline.cli import main

if __name__ == "__main__":
    raise SystemExit(main(["judge", *sys.argv[1:]]))
