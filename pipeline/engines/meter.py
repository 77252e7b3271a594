"""Counts what one stage spends on one row."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import NoReturn, Protocol, TypeVar

from pipeline.core.errors import EngineRequestError, PoisonRow
from pipeline.core.row import Tokens
from pipeline.engines.base import (
    Embedding,
    Engine,
    Generation,
    LabelProbs,
    LogLikelihood,
    Prompt,
    SamplingParams,
    Scored,
)


class _HasTokens(Protocol):
    tokens: Tokens


R = TypeVar("R", bound=_HasTokens)


class InFlight:
    """Sequences that an engine works on or that wait for it.

    Attributes:
        asked: sequences of the calls that have not returned: a request for n candidates counts n until the last of
            them has ended, so that those that wait for it are counted too. The engine may know better.
        on_end: called whenever a call has returned.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.asked = 0
        self.on_end: Callable[[], None] = lambda: None

    def now(self) -> int:
        known = self._engine.unfinished()
        return self.asked if known is None else known


class Meter(Engine):
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

    async def generate(self, prompt: Prompt, params: SamplingParams) -> Generation:
        return await self._count(self._engine.generate(prompt, params), params.n)

    async def label_probs(self, prompt: Prompt, labels: Sequence[str], prefill: str = "") -> LabelProbs:
        return await self._count(self._engine.label_probs(prompt, labels, prefill))

    async def loglikelihood(self, prompt: Prompt, text: str) -> LogLikelihood:
        return await self._count(self._engine.loglikelihood(prompt, text))

    async def reward(self, prompt: Prompt, text: str) -> Scored:
        return await self._count(self._engine.reward(prompt, text))

    async def embed(self, text: str) -> Embedding:
        return await self._count(self._engine.embed(text))

    async def quality(self, source: str, text: str, reference: str) -> Scored:
        return await self._count(self._engine.quality(source, text, reference))


class Refusal(Meter):
    """Stands in front of an engine that a row has killed, and lets none of its requests through: so its stages do what
    they do when a request fails.

    Args:
        error: raised by every call.
    """

    def __init__(self, engine: Engine, error: PoisonRow) -> None:
        super().__init__(engine)
        self._error = error

    async def _count(self, call: Awaitable[object], sequences: int = 1) -> NoReturn:
        getattr(call, "close", lambda: None)()  # a coroutine that never ran would complain
        raise self._error
