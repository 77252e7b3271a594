"""An engine that refuses every request of one row, so that its stages do what they do when a request fails."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import NoReturn

from pipeline.core.errors import PoisonRow
from pipeline.engines.base import Engine, Prompt
from pipeline.engines.meter import Meter


class Refusal(Meter):
    """Stands in front of an engine that a row has killed, and lets none of its requests through.

    Args:
        engine: for its name and capabilities only.
        error: raised by every call.
    """

    def __init__(self, engine: Engine, error: PoisonRow) -> None:
        super().__init__(engine)
        self._error = error

    async def _count(self, call: Awaitable[object], sequences: int = 1) -> NoReturn:
        getattr(call, "close", lambda: None)()  # a coroutine that never ran would complain
        raise self._error

    async def count_tokens(self, prompt: Prompt) -> NoReturn:
        raise self._error
