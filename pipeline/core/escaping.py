"""Texts of models and data on their way into the page: nothing of them may act as HTML or Markdown."""

from __future__ import annotations

import re
from typing import Any

from markupsafe import Markup, escape

from pipeline.core import safety

_LONGEST = 20_000  # characters of one text on the page; the table keeps all of it
_SPECIAL = re.compile(r"([\\`*_{}\[\]()#+!|<>~&$@:])")
_ISOLATED = re.compile("⟦U\\+2068⟧([^⟦]*)⟦U\\+2069⟧")
_LINK = re.compile(r"(?i)(?<![a-z0-9])www(?=\.)|[a-z]{2,12}(?=\\?://)|(?<!\\)(?=\\?@(?:\\?[\w-])+\.)")


def clean(text: Any) -> str:
    """A text as it can be shown: control characters become visible signs, very long texts are cut (and say so)."""
    cut = str(text)[: _LONGEST + 1] if len(str(text)) > 2 * _LONGEST else str(text)
    shown = str(visible(cut))
    if len(shown) > _LONGEST:
        return f"{shown[:_LONGEST]}… [{len(str(text)) - _LONGEST:,} more characters in the table]"
    return shown


def visible(value: Any) -> Any:
    """Every plain string on its way into a template passes here; Markup has been through it.

    Names that are isolated (:func:`pipeline.core.safety.isolated`) stay so: an isolate orders nothing but what it
    holds.
    """
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return _ISOLATED.sub("\u2068\\1\u2069", safety.visible(value))


def escape_markdown(text: Any) -> str:
    """One line of plain text for running Markdown or a table's cell.

    Forges make links of bare addresses (``https://``, ``www.``, ``a@b.c``), some of them after all escapes are undone:
    ``<wbr>``, which shows nothing, splits these words.
    """
    line = _apart(" ".join(clean(text).split()))
    escaped = _SPECIAL.sub(r"\\\1", line).replace("\\<", "&lt;").replace("\\>", "&gt;").replace("\\&", "&amp;")
    return _LINK.sub(lambda m: f"{m[0]}<wbr>", escaped)


def escape_line(text: Any) -> str:
    """One line inside an HTML tag, where Markdown's own escapes do not work."""
    return _LINK.sub(lambda m: f"{m[0]}<wbr>", str(escape(_apart(" ".join(clean(text).split())))))


def _apart(line: str) -> str:
    """Isolated as a whole, unless parts of it are."""
    return line if "\u2068" in line else safety.isolated(line)


def fence(text: Any) -> str:
    """A code block whose fence is longer than any run of backticks inside."""
    shown = clean(text)
    ticks = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", shown)), default=0))
    return f"{ticks}text\n{shown}\n{ticks}"
