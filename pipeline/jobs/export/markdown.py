"""The card's building blocks. Names and texts come from models and data: none acts as HTML, Markdown or a link."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from pipeline.core.languages import language_name
from pipeline.core.safety import escape_markdown, redact

_LONGEST, _LINES = 1_200, 40  # characters and lines of one text
_BAR = 8  # characters of a whole


def plain(value: Any) -> str:
    """One line of running text: no secret, no Markdown, no HTML, and nothing that becomes a link by itself."""
    return escape_markdown(redact(str(value)))


def text_cell(text: str) -> str:
    """A longer text in a table's cell: its lines and indents are kept, and it wraps, as code blocks do not."""
    shown = redact(text.strip(), _LONGEST + 1)
    cut = len(shown) > _LONGEST
    lines = shown[:_LONGEST].splitlines()
    if len(lines) > _LINES:
        cut, lines = True, lines[:_LINES]
    cells = ["&nbsp;" * (len(line) - len(line.lstrip())) + plain(line) for line in lines]
    return "<br>".join([*cells, "… \\[cut here\\]"] if cut else cells)


def bar(n: int, total: int) -> str:
    """``███ 31%``: a share that can be seen."""
    if not total:
        return "-"
    percent = "&lt;1%" if 0 < n / total < 0.005 else f"{n / total:.0%}"
    return "&nbsp;".join(filter(None, ("█" * round(_BAR * n / total) or "▏" * bool(n), percent)))


def language_cell(tag: str) -> str:
    """``German (de)`` for a checked BCP 47 tag."""
    if tag in ("und", "all"):
        return {"und": "not stated", "all": "**all**"}[tag]
    name = language_name(tag)
    return plain(tag if name is None or name == tag else f"{name.partition(' (')[0]} ({tag})")


def table(names: Sequence[str], rows: Iterable[Iterable[Any]], right: Iterable[int] = ()) -> str:
    """A table of finished Markdown cells.

    Args:
        names: the head.
        rows: cells that are safe already (:func:`plain`, :func:`text_cell`, numbers).
        right: the columns of numbers.
    """
    right = set(right)
    rule = "|" + "|".join("--:" if i in right else "---" for i in range(len(names))) + "|"
    lines = ["| " + " | ".join(names) + " |", rule]
    return "\n".join([*lines, *("| " + " | ".join(str(cell) for cell in row) + " |" for row in rows)])


def facts(names: Sequence[str], rows: Iterable[Iterable[Any]], right: Iterable[int] = ()) -> str:
    """A table of plain values."""
    return table(names, ([plain(cell) for cell in row] for row in rows), right)
