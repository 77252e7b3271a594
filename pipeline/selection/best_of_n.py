"""Best-of-N: the candidate with the highest reward."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import ClassVar

from pipeline.errors import EngineRequestError
from pipeline.selection.base import Choice, Pool, Selector, selector


@selector("best_of_n")
@dataclass
class BestOfN(Selector):
    """Argmax of a reward model's raw score.

    The paper uses INF-ORM-Llama3.1-70B, whose head vLLM does not serve; any sequence-classification model with
    one output does (``kind: vllm, runner: reward`` or ``kind: transformers``). Equal texts are scored once.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"reward"})
    cost: ClassVar[str] = "N reward scores"
    source: ClassVar[str] = "arXiv 2506.20544, selection"

    async def select(self, pool: Pool) -> Choice:
        texts = sorted({c.text for c in pool.candidates if c.text is not None})
        scores = dict(zip(texts, await asyncio.gather(*(self._reward(pool, t) for t in texts)), strict=True))
        return self.best(pool, [None if c.text is None else scores[c.text] for c in pool.candidates])

    @staticmethod
    async def _reward(pool: Pool, text: str) -> float | None:
        assert pool.engine is not None
        try:
            return (await pool.engine.reward(pool.row.messages, text)).value
        except EngineRequestError:
            return None
