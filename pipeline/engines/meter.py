"""Counts what one stage spends on one row."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeVar

from pipeline.core.errors import EngineRequestError
from pipeline.core.row import Tokens
from pipeline.engines.base import (
    CountsUnfinished,
    Embedding,
    Engine,
    Generation,
    LabelProbs,
    LogLikelihood,
    Prompt,
    Quality,
    Reward,
    SamplingParams,
)


class _HasTokens(Protocol):
    tokens: Tokens


R = TypeVar("R", bound=_HasTokens)


class InFlight:
    """Sequences that an engine works on or that wait for it.

    Attributes:
        asked: sequences of the calls that have not returned.
        on_end: called whenever a call has returned.

    Args:
        engine: told about by the meters in front of it, unless it knows better (:class:`CountsUnfinished`): a request
            for n candidates counts n until the last of them has ended, so that those that wait for it are counted too.
    """

    def __init__(self, engine: Engine) -> None:
        self._counting = engine if isinstance(engine, CountsUnfinished) else None
        self.asked = 0
        self.on_end: Callable[[], None] = lambda: None

    def now(self) -> int:
        """How many."""
        return self._counting.unfinished() if self._counting is not None else self.asked


class Meter:
    """An engine in front of another that adds up the cost of the calls that go through it.

    Args:
        in_flight: told about them, too.
        on_call: called before each of them.

    Attributes:
        total: the sum so far; calls that raised count as a request, without tokens unless the error tells its cost.
    """

    def __init__(
        self, engine: Engine, in_flight: InFlight | None = None, on_call: Callable[[], None] = lambda: None
    ) -> None:
        self._engine = engine
        self._on_call = on_call
        self._in_flight = in_flight or InFlight(engine)
        self.model = engine.model
        self.revision = engine.revision
        self.capabilities = engine.capabilities
        self.verdict_tokens = engine.verdict_tokens
        self.total = Tokens(requests=0)

    async def _count(self, call: Awaitable[R], sequences: int = 1) -> R:
        self.total.requests += 1
        self._in_flight.asked += sequences
        self._on_call()
        try:
            result = await call
        except EngineRequestError as error:
            if error.cost is not None:
                self._add(error.cost)
            raise
        finally:
            self._in_flight.asked -= sequences
            self._in_flight.on_end()
        self._add(result.tokens)
        return result

    def _add(self, cost: Tokens) -> None:
        self.total.requests += cost.requests - 1
        self.total.prompt += cost.prompt
        self.total.cached += cost.cached
        self.total.completion += cost.completion

    async def start(self) -> None:
        await self._engine.start()

    async def stop(self) -> None:
        await self._engine.stop()

    async def generate(self, prompt: Prompt, params: SamplingParams) -> Generation:
        return await self._count(self._engine.generate(prompt, params), params.n)

    async def label_probs(self, prompt: Prompt, labels: Sequence[str], prefill: str = "") -> LabelProbs:
        return await self._count(self._engine.label_probs(prompt, labels, prefill))

    async def loglikelihood(self, prompt: Prompt, text: str) -> LogLikelihood:
        return await self._count(self._engine.loglikelihood(prompt, text))

    async def reward(self, prompt: Prompt, text: str) -> Reward:
        return await self._count(self._engine.reward(prompt, text))

    async def embed(self, text: str) -> Embedding:
        return await self._count(self._engine.embed(text))

    async def quality(self, source: str, text: str, reference: str) -> Quality:
        return await self._count(self._engine.quality(source, text, reference))

    async def count_tokens(self, prompt: Prompt) -> int:
        return await self._engine.count_tokens(prompt)
