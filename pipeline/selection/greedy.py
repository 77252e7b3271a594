"""The greedy candidate."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.selection.base import Choice, Pool, Selector, selector


@selector("greedy")
@dataclass
class Greedy(Selector):
    """The candidate decoded at temperature 0; in a pool without one, the hash-seeded index, and ``detail`` says so."""

    source = "arXiv 2506.20544, baselines"

    async def select(self, pool: Pool) -> Choice:
        index = pool.greedy()
        if index is not None:
            return Choice(index)
        return Choice(pool.fallback(), detail={"fallback": "no greedy candidate"})
