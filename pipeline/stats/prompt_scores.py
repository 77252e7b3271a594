"""From games to prompt scores: the mean of the two orders, and what unreadable verdicts could make of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.core.columns import Bools, Floats, Ints
from pipeline.stats.games import Comparison, Games
from pipeline.stats.signature import of_games


@dataclass(frozen=True)
class PromptScores:
    """E prompts' scores, one entry per (comparison, prompt) with a game, sorted by both.

    Attributes:
        comparison, prompt: codes [E] into ``Games``.
        score: [E], mean of the two orders, 0..1; NaN = invalid: an order has no valid verdict, or is not there.
        lost, won: [E], the score if every missing or invalid verdict were a loss, or a win: bounds.
        n_games: [E], games in the table (1 or 2).
        flipped: [E], the system won in one order and lost in the other.
        both_valid: [E], both orders have a verdict: the prompts on which a flip could be seen.
        length_difference: [E], mean over the games; NaN = not known.
        forfeit: [E], an answer is missing in a game.
        orders: [K], 2, or 1 for a comparison all of whose games have the same order.
        soft: [K], whether a score is neither 0, 1/2 nor 1.
    """

    comparison: Ints
    prompt: Ints
    score: Floats
    lost: Floats
    won: Floats
    n_games: Ints
    flipped: Bools
    both_valid: Bools
    length_difference: Floats
    forfeit: Bools
    orders: Ints
    soft: Bools

    def choices(self, kind: Comparison, *codes: int) -> dict[str, object]:
        """For the signature of a number that is made of some comparisons."""
        return of_games(kind, int(self.orders[list(codes)].max()), bool(self.soft[list(codes)].any()))


def prompt_scores(games: Games) -> PromptScores:
    """Reduce games to prompt scores. O(G log G)."""
    n_prompts = len(games.prompt_language)
    kinds = len(games.comparisons)
    seen = np.zeros((kinds, 2), dtype=bool)
    seen[games.comparison, games.order] = True
    orders = seen.sum(axis=1)

    key, entry = np.unique(games.comparison * n_prompts + games.prompt, return_inverse=True)
    comparison, prompt = np.divmod(key, n_prompts)

    def per_entry(values: Floats | Bools) -> Floats:
        return np.asarray(np.bincount(entry, weights=values, minlength=len(key)), dtype=np.float64)

    valid = ~np.isnan(games.score)
    n_valid = per_entry(valid)
    total = per_entry(np.where(valid, games.score, 0.0))
    asked = orders[comparison]
    lost = total / asked
    both_valid = n_valid == 2
    n_games = np.bincount(entry, minlength=len(key))
    return PromptScores(
        comparison=comparison,
        prompt=prompt,
        score=np.where(n_valid == asked, lost, np.nan),
        lost=lost,
        won=lost + (asked - n_valid) / asked,
        n_games=n_games,
        # a tie is no winner: win + tie is a weaker preference, not one for the other side
        flipped=both_valid & (per_entry(games.outcome == 1) == 1) & (per_entry(games.outcome == -1) == 1),
        both_valid=both_valid,
        length_difference=per_entry(games.length_difference) / n_games,
        forfeit=per_entry(games.forfeit) > 0,
        orders=orders,
        soft=np.bincount(games.comparison[valid & (games.score * 2 % 1 != 0)], minlength=kinds) > 0,
    )
