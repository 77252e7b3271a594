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


def shortened(markdown: str, prompts: int = 2) -> str:
    """A page in Markdown with the first few of its prompts to read."""
    head, *cards = re.split(r"(?=^<details>)", markdown, flags=re.M)
    return "".join([head, *cards[:prompts]]) + markdown[markdown.index("## How these numbers were made") :]


def above_agreement(markdown: str) -> str:
    """All that comes before the shares of equal choices, which the page rounds to whole percentages."""
    return markdown.partition("\nShare of prompts for which two selectors")[0].replace("⟦U\\+202E⟧", "")


def numbers(text: str) -> set[str]:
    """Everything with a digit in it."""
    return set(re.findall(r"[+−]?\d(?:[\d.,]*\d)?%?", text.replace("\\", "")))
