"""The judge's audit: games whose right result is known, because one answer is a damaged copy of the other.

Versions of an answer: *truncated* (its first half), *numbers* (every digit changed), *shuffled* (its words, or where it
has no spaces its characters, in random order), *language* (an answer to the same question, or failing that to another
one, in another language) and *identical* (put to the judge all the same: what it says is pure order bias).
"""

from __future__ import annotations

import asyncio
import functools
import heapq
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from pipeline.core.hashing import derive_seed, hash_rng
from pipeline.core.languages import base_language, is_language
from pipeline.core.row import Row, answer
from pipeline.engines.base import Engine
from pipeline.engines.stage import PROMPT, Stage
from pipeline.judging.games import ORDERS, Referee, Refereeing
from pipeline.judging.names import AUDIT, ORIGINAL
from pipeline.tasks import Task, task_for

VERSIONS = ("identical", "truncated", "numbers", "shuffled", "language")
_SHORTEST = 20  # characters from which half of an answer is clearly less than the whole
_LONG_REFERENCE = 40  # a shorter reference is a final answer, not an answer to read
_FEWEST_WORDS = 5


@dataclass
class AuditStage(Refereeing, Stage):
    """Puts known-answer pairs to the judge, in both orders, on the rows that were chosen for it.

    The original is the reference where that is a text, else the opponent's answer, else the first selection.

    Args:
        opponent: the system whose answer serves as the original.
        seed: of the alterations.
        donors: the chosen rows' ids, each with an answer in another language; ``None`` = there is none.
    """

    opponent: str = ""
    seed: int = 1
    donors: Mapping[int, str | None] = field(default_factory=dict)

    reads: ClassVar[tuple[str, ...]] = (*PROMPT, "row_id", "reference", "selections", "answers", "games")
    writes: ClassVar[tuple[str, ...]] = ("games",)

    @property
    def name(self) -> str:
        return "audit"

    async def __call__(self, row: Row, engine: Engine | None) -> Row:
        assert engine is not None
        if row.unreadable or row.row_id not in self.donors:
            return row
        original = original_answer(row, self.opponent)
        if not original:
            return row
        versions = altered(original, self.donors[row.row_id], self.seed, row.prompt_id)
        referee = Referee(self, engine, row)
        games = [
            referee.play(ORIGINAL, AUDIT + version, original, text, order, ask_always=True)
            for version, text in versions.items()
            for order in ORDERS
        ]
        row.games = [*row.games, *await asyncio.gather(*games)]
        return row


def original_answer(row: Row, opponent: str) -> str | None:
    if row.reference and len(row.reference) >= _LONG_REFERENCE:
        return row.reference
    return answer(row, opponent) or next((s.text for s in row.selections if s.text), None)


def altered(text: str, other_language: str | None, *seed: object) -> dict[str, str]:
    """Version -> text; versions that cannot be made of this text are left out."""
    rng = hash_rng("audit", *seed)
    found = {"identical": text}
    if len(text) >= _SHORTEST:
        found["truncated"] = text[: len(text) // 2].rstrip()
    numbers = re.sub(r"\d", lambda m: _other_digit(m[0], rng.randrange(1, 10)), text)
    if numbers != text:
        found["numbers"] = numbers
    words = text.split()
    units, glue = (words, " ") if len(words) >= _FEWEST_WORDS else (list("".join(words)), "")
    if len(units) >= _FEWEST_WORDS:
        rng.shuffle(units)
        if glue.join(units) != text:
            found["shuffled"] = glue.join(units)
    if other_language and other_language != text:
        found["language"] = other_language
    return found


def _other_digit(digit: str, step: int) -> str:
    """Another digit of the same script."""
    value = unicodedata.decimal(digit)
    return chr(ord(digit) - value + (value + step) % 10)


def choose_rows(rows: Iterable[tuple[int, str, str | None]], per_language: int, seed: int) -> list[int]:
    """Ids of the rows to audit on: per language those whose cluster has the smallest hash, so that translations of one
    question are chosen together.

    Args:
        rows: (row_id, cluster_id, language) of every row; gone over once.
    """
    kept: dict[str | None, list[tuple[int, int]]] = {}
    for row_id, cluster, language in rows:
        heap = kept.setdefault(language, [])
        item = (-derive_seed("audit", seed, cluster), row_id)
        if len(heap) < per_language:
            heapq.heappush(heap, item)
        else:
            heapq.heappushpop(heap, item)
    return sorted(row_id for heap in kept.values() for _, row_id in heap)


def find_donors(rows: list[Row], opponent: str, tasks: Mapping[str, Task]) -> dict[int, str | None]:
    """For every row, an answer in another language than the one that was asked for and answered in.

    What an answer is in is identified, not taken from the request: a model that answers every prompt in English leaves
    no such version, and no judge is graded down for it. Of its cluster if there is one, else of any row, else the
    question itself where that is in another language.
    """
    originals = [(r.cluster_id, original_answer(r, opponent)) for r in rows]
    right = functools.cache(is_language)  # by text and language: every text is asked about once for each language
    donors: dict[int, str | None] = {}
    for row, (_, original) in zip(rows, originals, strict=True):
        wanted = base_language(task_for(row, tasks).answer_language(row))
        if wanted is None or not original or not right(original, wanted):
            donors[row.row_id] = None  # the original is in the wrong language itself, or that cannot be told
            continue
        others = sorted(
            (cluster != row.cluster_id, derive_seed("donor", row.prompt_id, text), text)
            for cluster, text in originals
            if text and right(text, wanted) is False
        )
        asked = row.messages[-1].get("content") if row.messages and base_language(row.language) != wanted else None
        donors[row.row_id] = others[0][2] if others else asked
    return donors
