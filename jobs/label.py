"""Select from answers that exist already, and write the labels beside the input's own columns.

    python -m jobs.label CONFIG.yaml [key=value ...]

The same as ``lemonpress label``; a file of its own so that it can be an entry point of ``ray job submit``.
"""

import sys

from pipeline.cli import main

if __name__ == "__main__":
    raise SystemExit(main(["label", *sys.argv[1:]]))
