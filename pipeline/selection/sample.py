"""The paper's single-sample decoding."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.selection.base import Choice, Pool, Selector, selector


@selector("sample")
@dataclass
class Sample(Selector):
    """The first stochastic (or given) candidate: the baseline that every method is compared with.

    A pool without a stochastic candidate gives its greedy one, and says so.
    """

    source = "arXiv 2506.20544, baselines"

    async def select(self, pool: Pool) -> Choice:
        for index in pool.selectable():
            if pool.candidates[index].origin != "greedy":
                return Choice(index)
        return Choice(pool.greedy(), detail={"fallback": "no stochastic candidate"})
