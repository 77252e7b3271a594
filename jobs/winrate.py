"""Win-rates with clustered intervals, from a run's games or from an outside table (no engine, no Ray).

    python -m jobs.winrate CONFIG.yaml [key=value ...]

The same as ``lemonpress winrate``; a file of its own so that it can be an entry point of ``ray job submit``.
"""

import sys

from pipeline.cli import main

if __name__ == "__main__":
    raise SystemExit(main(["winrate", *sys.argv[1:]]))
