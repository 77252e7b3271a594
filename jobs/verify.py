"""Check that a run is consistent, and that its prompts give the same answers again.

    python -m jobs.verify RUN [key=value ...]

The same as ``lemonpress verify``; a file of its own so that it can be an entry point of ``ray job submit``.
"""

import sys

from pipeline.cli import main

if __name__ == "__main__":
    raise SystemExit(main(["verify", *sys.argv[1:]]))
