"""Reviewed texts of the report. Where sentences change on purpose, write them anew and read the difference:

LEMONPRESS_GOLDEN=write python -m pytest tests/report && git diff tests/report/golden
"""

from __future__ import annotations

import os
import re
from pathlib import Path

FOLDER = Path(__file__).with_suffix("")
_VERSIONS = re.compile(r"(?<=\bv:)[^|\s]+|(?<=\bsacrebleu:)[^|\s]+|(?<=^Lemonpress )[^;\s]+", re.M)


def assert_golden(name: str, text: str) -> None:
    """The text, without the versions of packages in it, is the one that was reviewed."""
    found = _VERSIONS.sub("VERSION", text)
    path = FOLDER / name
    if os.environ.get("LEMONPRESS_GOLDEN") == "write":
        path.write_text(found, encoding="utf-8")
    reviewed = path.read_text(encoding="utf-8") if path.exists() else ""
    assert found.split("\n") == reviewed.split("\n"), f"{path.name} reads differently: see {__name__}"
