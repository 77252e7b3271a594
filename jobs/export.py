"""Training data from a run's selections: SFT, DPO, reward model or KTO (no engine, no Ray).

    python -m jobs.export CONFIG.yaml [key=value ...]

The same as ``lemonpress export``; a file of its own so that it can be an entry point of ``ray job submit``.
"""

import sys

from pipeline.cli import main

if __name__ == "__main__":
    raise SystemExit(main(["export", *sys.argv[1:]]))
