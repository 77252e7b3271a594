"""Likelihood: the candidate that the generator itself finds most probable."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import ClassVar

from pipeline.core.bounds import bounded
from pipeline.core.errors import ConfigError, EngineRequestError
from pipeline.core.row import Candidate
from pipeline.selection.base import Choice, Pool, Selector, selector


@selector("likelihood")
@dataclass
class Likelihood(Selector):
    """Highest mean (or total) token log-probability.

    Sampled candidates bring their log-probability; given ones cost one prefill each on ``engine``, under the prompt
    that the task would have them sampled with (raw text for base models).

    Attributes:
        normalize: ``mean`` per token (the end token counts) or ``total``.
        rescore: score every candidate on ``engine``, also those that bring a log-probability.
    """

    cost: ClassVar[str] = "0 for sampled candidates, N prefills for given ones"
    source: ClassVar[str] = "arXiv 2506.20544, selection"
    normalize: str = bounded("mean", one_of=("mean", "total"))
    rescore: bool = False

    def check(self, key: str) -> None:
        super().check(key)
        if self.rescore and not self.engine:
            raise ConfigError(f"{key}.engine: rescore=true needs an engine that can loglikelihood")

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
        if (logprob is None or self.rescore) and pool.engine is not None:
            asked = pool.task.instruct(pool.row.messages, pool.row)
            try:
                found = await pool.engine.loglikelihood(asked, candidate.text)
            except EngineRequestError:
                return None
            logprob, count = found.logprob, found.num_tokens
        if logprob is None or not count:
            return None
        return logprob / count if self.normalize == "mean" else logprob
