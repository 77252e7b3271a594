"""The best candidate by the reference: what a perfect selector would pick."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pipeline.selection.base import Choice, Pool, Selector, selector


@selector("oracle")
@dataclass
class Oracle(Selector):
    """Highest quality against the row's reference, by the row's task: an upper bound, never a system.

    It reads the answer key, so its win-rate or accuracy may only stand beside those of real selectors, as what they
    are measured against (recovered share). Ties are broken by a seeded hash; a row without a reference, or whose
    task has no notion of quality, takes the fallback, marked. ``values`` are the qualities in 0..1. O(N).
    """

    cost: ClassVar[str] = "0"
    source: ClassVar[str] = "arXiv 2506.20544, hope and risk"

    def highest(self) -> float:
        return 1.0

    async def select(self, pool: Pool) -> Choice:
        task, row = pool.task, pool.row
        values = await pool.of_each(lambda text: task.verify(text, row.reference, row))
        if all(v is None for v in values):
            return Choice(pool.fallback(), detail={"fallback": "nothing to verify against"})
        return self.best(pool, values)
