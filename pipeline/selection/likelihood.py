"""Likelihood: the candidate that the generator itself finds most probable."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import ClassVar

from pipeline.core.bounds import bounded
from pipeline.core.errors import EngineRequestError
from pipeline.core.row import Candidate
from pipeline.engines.base import Engine
from pipeline.selection.base import Choice, Pool, Selector, selector


@selector("likelihood")
@dataclass
class Likelihood(Selector):
    """Highest mean (or total) token log-probability.

    Sampled candidates bring their log-probability; given ones cost one prefill each on ``engine``, under the prompt
    that the task would have them sampled with (raw text for base models).

    Attributes:
        normalize: ``mean`` per token (the end token counts) or ``total``.
    """

    cost: ClassVar[str] = "0 for sampled candidates, N prefills for given ones"
    source: ClassVar[str] = "arXiv 2506.20544, selection"
    normalize: str = bounded("mean", one_of=("mean", "total"))

    def highest(self) -> float:
        return 0.0

    async def select(self, pool: Pool) -> Choice:
        values = [self._value(pool, candidate) for candidate in pool.candidates]
        if pool.engine is None:  # there is nothing to wait for, and a task for each would cost more than the value
            return self.best(pool, [await value for value in values])
        return self.best(pool, await asyncio.gather(*values))

    async def _value(self, pool: Pool, candidate: Candidate) -> float | None:
        if candidate.text is None:
            return None
        if candidate.text in pool.known:
            return pool.known[candidate.text]
        logprob, count = candidate.logprob, candidate.num_tokens
        if logprob is None and pool.engine is not None:
            logprob, count = await self._score(pool.engine, pool, candidate.text)
        if logprob is None or not count:
            return None
        return logprob / count if self.normalize == "mean" else logprob

    @staticmethod
    async def _score(engine: Engine, pool: Pool, text: str) -> tuple[float | None, int | None]:
        try:
            result = await engine.loglikelihood(pool.task.instruct(pool.row.messages, pool.row), text)
        except EngineRequestError:
            return None, None
        return result.logprob, result.num_tokens
