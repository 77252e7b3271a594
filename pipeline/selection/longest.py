"""The longest candidate."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.selection.base import Choice, Pool, Selector, selector


@selector("longest")
@dataclass
class Longest(Selector):
    """The candidate with the most characters: a baseline that exposes judges who reward length."""

    source = "baseline"

    async def select(self, pool: Pool) -> Choice:
        return self.best(pool, [None if c.text is None else float(len(c.text)) for c in pool.candidates])
