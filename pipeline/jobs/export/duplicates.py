"""Duplicates up to Unicode form and spaces, and texts that say the same in another dress."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata

from pipeline.core.row import Message
from pipeline.tasks.numbers import decimal_comma


def normalised(text: str) -> str:
    """NFC, every run of white space one space, none at the ends."""
    return " ".join(unicodedata.normalize("NFC", text).split())


_SAME = str.maketrans({**dict.fromkeys("−–‐‑", "-"), "٬": "'", "’": "'", "٫": "."})
_FENCE = re.compile(r"(```.*?(?:```|\Z))", re.DOTALL)
_GROUPS = {True: re.compile(r"(?<=\d)[.' ](?=\d{3}(?!\d))"), False: re.compile(r"(?<=\d)[,' ](?=\d{3}(?!\d))")}
_DRESS = re.compile(r"(?<![^\W_])-(?=\d)|(?<=\d)[.,](?=\d)|(?<=\w)[*/](?=\w)|[%‰]|[^\w\s]|_")


def essence(text: str, language: str | None = None) -> str:
    """What a text says without case, markdown, punctuation and the form of its digits.

    "**1,000** Eggs." is "1000 eggs". Signs of calculation, decimal points and code in fences stay.
    """
    parts = _FENCE.split(text)
    return " ".join(" ".join(part if i % 2 else _bare(part, language) for i, part in enumerate(parts)).split())


def _bare(text: str, language: str | None) -> str:
    text = unicodedata.normalize("NFKC", text).translate(_SAME).casefold()
    text = "".join(c if c.isascii() or not c.isdecimal() else str(unicodedata.decimal(c)) for c in text)
    return _DRESS.sub(_dressed, _GROUPS[decimal_comma(language)].sub("", text))


def _dressed(match: re.Match[str]) -> str:
    """Keeps minus signs, decimal points, operators and symbols; other marks part words."""
    mark = match[0]
    if mark in ".,":
        start, end = match.span()
        between = match.string[start - 1 : start].isdigit() and match.string[end : end + 1].isdigit()
        return "." if between else " "
    if mark == "-":
        return "-" if match.string[match.end() : match.end() + 1].isdigit() else " "
    if mark in "*/":
        around = match.string[match.start() - 1 : match.start()] + match.string[match.end() : match.end() + 1]
        return mark if len(around) == 2 and around.isalnum() and match.start() else " "
    # Symbols, and the vowel signs of the scripts of India, which are no letters to a regular expression.
    return mark if (unicodedata.category(mark)[0] in "SM" and mark not in "`~|^") or mark in "%‰" else " "


class Duplicates:
    """A set of 8-byte digests of the prompts and answers seen so far: some 90 bytes of memory a row.

    Two different rows share a digest with a chance of about n^2 / 2^65: 3 in 10^6 at ten million rows.
    """

    def __init__(self) -> None:
        self._seen: set[bytes] = set()

    def seen(self, messages: list[Message], answer: str, tools: str | None = None) -> bool:
        """Whether this prompt, with these tools and this answer, came before; it is kept in mind."""
        turns = [
            [m.get("role"), m.get("name"), normalised(m.get("content") or ""), m.get("tool_calls")] for m in messages
        ]
        text = json.dumps([turns, normalised(answer), tools], ensure_ascii=True)
        digest = hashlib.blake2b(text.encode("ascii"), digest_size=8).digest()
        if digest in self._seen:
            return True
        self._seen.add(digest)
        return False
