"""Minimum Bayes risk: the candidate most like the others."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from pipeline.errors import ConfigError, nearest
from pipeline.scoring.utility import UTILITIES
from pipeline.selection.base import Choice, Pool, Selector, selector


@selector("mbr")
@dataclass
class MBR(Selector):
    """Argmax over y of the mean utility u(y, y') over the other candidates y'.

    The candidate is the hypothesis, the others are references; it is left out by index, not by text, so a
    repeated text supports itself. Ties are broken by a seeded hash. O(N^2) utilities, no engine calls.

    Attributes:
        utility: ``chrf``.
    """

    cost: ClassVar[str] = "0 (N^2 utilities on the CPU)"
    source: ClassVar[str] = "arXiv 2506.20544, selection"
    utility: str = "chrf"

    def check(self, key: str) -> None:
        super().check(key)
        if self.utility not in UTILITIES:
            raise ConfigError(f"{key}.utility: unknown utility {self.utility!r}{nearest(self.utility, UTILITIES)}")

    async def select(self, pool: Pool) -> Choice:
        indices = pool.selectable()
        texts = [pool.candidates[i].text or "" for i in indices]
        matrix = await asyncio.to_thread(UTILITIES[self.utility], texts, texts)
        values: list[float | None] = [None] * len(pool.candidates)
        for i, value in zip(indices, mean_of_others(matrix), strict=True):
            values[i] = value
        return self.best(pool, values)


def mean_of_others(matrix: Sequence[Sequence[float]]) -> list[float]:
    """Row means of a square utility matrix without its diagonal; a single candidate gets 0."""
    n = len(matrix)
    return [(sum(row) - row[i]) / (n - 1) if n > 1 else 0.0 for i, row in enumerate(matrix)]
