"""The config of adaptive N."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.core.bounds import bounded
from pipeline.core.errors import ConfigError

SCORING = ("best_of_n", "judge", "likelihood", "self_certainty", "oracle")
"""Kinds of selectors that give every candidate a number by itself, of which they choose the largest."""

VOTING = ("majority_vote",)

FAIR = ("language",)
"""What a budget can be dealt out within."""


@dataclass
class Adaptive:
    """Draw the candidates in rounds, and more of them only where they are worth their tokens.

    Attributes:
        by: the selector whose scores or votes decide, by its name under ``selectors``; ``null`` = off: the same N for
            all prompts.
        first: candidates of every prompt in the first round. The plan's ``n`` is the most that a prompt can get.
        mean_n: the budget: the tokens that so many candidates of every prompt cost on average, as the first round's
            lengths show.
        tokens: the budget in completion tokens per prompt on average, instead of ``mean_n``.
        rounds: all rounds, the first one included. Each further one loads the model again.
        fair: ``language`` = every language gets the tokens that ``mean_n`` candidates of each of its prompts cost, and
            deals them out among its own prompts; ``null`` = the largest gain per token comes first, whatever its
            language, which leaves little to languages whose answers take many tokens.
        min_gain: another candidate is drawn only where its expected gain is larger: in the score's unit, or, by votes,
            in the probability that the leading answer is the most probable one.
    """

    by: str | None = None
    first: int = bounded(4, ge=2)
    mean_n: float | None = None
    tokens: float | None = bounded(None, gt=0)
    rounds: int = bounded(2, ge=2, cure="{at}.by=null turns rounds off")
    fair: str | None = bounded(None, one_of=FAIR)
    min_gain: float = bounded(0.0, ge=0)

    def check_with(self, key: str, n: int) -> None:
        """Raise ConfigError, naming the key below ``key``, on a value that cannot work with a plan of ``n``."""
        if self.by is None:
            return
        if self.first >= n:
            raise ConfigError(f"{key}.first: from 2 to less than the plan's n ({n}), not {self.first}")
        if (self.mean_n is None) == (self.tokens is None):
            raise ConfigError(f"{key}: set one of {key}.mean_n and {key}.tokens: the budget of all rounds together")
        if self.mean_n is not None and not self.first <= self.mean_n <= n:
            raise ConfigError(f"{key}.mean_n: from {key}.first to n ({self.first} to {n}), not {self.mean_n:g}")
