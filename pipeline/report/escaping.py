"""Texts of models and data on their way into the page: nothing of them may act as HTML or Markdown."""

from __future__ import annotations

import re
from typing import Any

from markupsafe import Markup, escape

_LONGEST = 20_000  # characters of one text on the page; the table keeps all of it
_CONTROLS = {c: 0x2400 + c for c in range(32) if chr(c) not in "\t\n\r"} | {127: 0x2421}
_BIDI = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_SPECIAL = re.compile(r"([\\`*_{}\[\]()#+!|<>~&$@:])")


def clean(text: Any) -> str:
    """A text as it can be shown: control characters become visible signs, very long texts are cut (and say so)."""
    shown = str(visible(str(text).replace("\r\n", "\n")))
    if len(shown) > _LONGEST:
        return f"{shown[:_LONGEST]}… [{len(shown) - _LONGEST:,} more characters in the table]"
    return shown


def visible(value: Any) -> Any:
    """Every plain string on its way into a template passes here; Markup has been through it."""
    return value.translate(_CONTROLS) if isinstance(value, str) and not isinstance(value, Markup) else value


def escape_markdown(text: Any) -> str:
    """One line of plain text for running Markdown or a table's cell."""
    line = " ".join(_mark_bidi(clean(text)).split())
    return _SPECIAL.sub(r"\\\1", line).replace("\\<", "&lt;").replace("\\>", "&gt;").replace("\\&", "&amp;")


def escape_line(text: Any) -> str:
    """One line inside an HTML tag, where Markdown's own escapes do not work."""
    return str(escape(" ".join(_mark_bidi(clean(text)).split())))


def fence(text: Any) -> str:
    """A code block whose fence is longer than any run of backticks inside."""
    shown = _mark_bidi(clean(text))
    ticks = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", shown)), default=0))
    return f"{ticks}text\n{shown}\n{ticks}"


def _mark_bidi(text: str) -> str:
    """Markdown cannot isolate directions, so the characters that override them are spelled out."""
    return _BIDI.sub(lambda m: f"⟦U+{ord(m[0]):04X}⟧", text)
