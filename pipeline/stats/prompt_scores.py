"""From games to prompt scores, and the judge's rates: flips, ties, invalid verdicts, label mass."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipeline.core.columns import Bools, Floats, Ints, nullable
from pipeline.stats.games import INVALID, Games
from pipeline.stats.signature import of_games, signature


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


def judge_rates(games: Games) -> pa.Table:
    """The rates that stand beside every win-rate, per comparison and language (and ``all``).

    Returns:
        Columns ``system, opponent, judge, template, language, n_games, flip_rate`` (over prompts with two valid
        verdicts: the winner changes with the order; win + tie is no flip), ``tie_rate`` (over valid games),
        ``invalid_rate`` (over games), ``mean_mass`` (probability on the labels, over the games that have one),
        ``signature``. A rate over nothing is null.
    """
    scores = prompt_scores(games)
    n_languages = len(games.languages)
    shape = (len(games.comparisons), n_languages + 1)

    def count(comparison: Ints, prompt: Ints, weights: Floats | Bools) -> Floats:
        cell = comparison * n_languages + games.prompt_language[prompt]
        sums = np.bincount(cell, weights=weights.astype(np.float64), minlength=shape[0] * n_languages)
        grid = sums.reshape(shape[0], n_languages)
        return np.hstack([grid, grid.sum(axis=1, keepdims=True)])

    def by_game(weights: Floats | Bools) -> Floats:
        return count(games.comparison, games.prompt, weights)

    def by_prompt(weights: Bools) -> Floats:
        return count(scores.comparison, scores.prompt, weights)

    has_mass = ~np.isnan(games.mass)
    n_games = by_game(np.ones(len(games.score)))
    with np.errstate(invalid="ignore", divide="ignore"):
        rates = {
            "flip_rate": by_prompt(scores.flipped) / by_prompt(scores.both_valid),
            "tie_rate": by_game(games.outcome == 0) / by_game(games.outcome != INVALID),
            "invalid_rate": by_game(games.outcome == INVALID) / n_games,
            "mean_mass": by_game(np.where(has_mass, games.mass, 0.0)) / by_game(has_mass),
        }
    rows = np.argwhere(n_games > 0)
    kinds = [games.comparisons[k] for k, _ in rows]
    language_names = [*games.languages, "all"]
    recipes = [
        signature("judge-rates", of_games(c, int(scores.orders[k]), bool(scores.soft[k])))
        for k, c in enumerate(games.comparisons)
    ]
    return pa.table(
        {
            "system": pa.array([c.system for c in kinds], pa.string()),
            "opponent": pa.array([c.opponent for c in kinds], pa.string()),
            "judge": pa.array([c.judge for c in kinds], pa.string()),
            "template": pa.array([c.template for c in kinds], pa.string()),
            "language": pa.array([language_names[i] for _, i in rows], pa.string()),
            "n_games": pa.array(n_games[tuple(rows.T)].astype(np.int64)),
            **{name: nullable(grid[tuple(rows.T)]) for name, grid in rates.items()},
            "signature": pa.array([recipes[k] for k, _ in rows], pa.string()),
        }
    )
