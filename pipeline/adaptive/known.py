"""Rewards that were stored between two rounds are not asked for again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from pipeline.engines.base import Engine, Prompt, Reward, Tokens
from pipeline.records import Row

SCORER = "adaptive:"
"""Begins ``Score.scorer`` where the numbers were made between two rounds, as in ``adaptive:best_of_n``."""


class KnownRewards:
    """An engine whose rewards for some texts are known already: these cost nothing.

    Args:
        engine: answers everything else.
        values: text -> reward.
    """

    def __init__(self, engine: Engine, values: Mapping[str, float]) -> None:
        self._engine, self._values = engine, values

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    async def reward(self, prompt: Prompt, text: str) -> Reward:
        """The known reward, or the engine's."""
        if text in self._values:
            return Reward(self._values[text], Tokens(requests=0))
        return await self._engine.reward(prompt, text)


def known_rewards(row: Row, set_name: str, method: str, engine: Engine) -> Engine:
    """The engine with the rewards that were stored between two rounds for the selector ``method``."""
    found = [s.values for s in row.scores if (s.scorer, s.plan) == (SCORER + method, set_name)]
    if not found:
        return engine
    pairs = zip(row.plan(set_name), found[0], strict=False)
    known = KnownRewards(engine, {c.text: v for c, v in pairs if c.text is not None and v is not None})
    return cast(Engine, known)
