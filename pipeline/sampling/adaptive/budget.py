"""Deals a budget of tokens out over prompts by what further candidates gain per token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np

from pipeline.core.columns import Bools, Floats, Ints

_SAFETY = 2.0
"""Standard deviations of the next round's tokens that are kept back from the budget."""


@dataclass(frozen=True)
class Lengths:
    """What a prompt's next candidate is expected to cost.

    Attributes:
        mean: tokens [P].
        doubt: variance of that mean [P]: it is estimated from some candidates.
        spread: variance of one candidate's tokens around its prompt's mean.
    """

    mean: Floats
    doubt: Floats
    spread: float

    def take(self, rows: Ints) -> Lengths:
        """Those of some of the prompts."""
        return Lengths(self.mean[rows], self.doubt[rows], self.spread)


def lengths(tokens: Floats) -> Lengths:
    """Mean length of every prompt's candidates, drawn towards the batch's mean where it is estimated from few.

    Args:
        tokens: of the candidates so far [P, N]; NaN = none.
    """
    valid = np.isfinite(tokens)
    count = valid.sum(axis=1)
    some = count > 0
    means = np.where(valid, tokens, 0.0).sum(axis=1) / np.maximum(count, 1)
    freedom = max(int((count - some).sum()), 1)
    within = float((np.where(valid, tokens - means[:, None], 0.0) ** 2).sum() / freedom)
    grand = float(means[some].mean()) if some.any() else 0.0
    noise = within / np.maximum(count, 1)
    between = max(float(means[some].var() - noise[some].mean()), 0.0) if some.any() else 0.0
    trust = np.where(some, between / np.maximum(between + noise, 1e-12), 0.0)
    mean = np.maximum(grand + trust * (means - grand), 1.0)
    return Lengths(mean, trust * noise, within)


def concave(gains: Floats) -> Floats:
    """Least concave curves above expected gains [P, m], which start at 0 (a second vote may gain what the first one
    cannot).
    """
    curves = np.concatenate([np.zeros((len(gains), 1)), gains], axis=1)
    size, rows = curves.shape[1], np.arange(len(curves))
    found = curves.copy()
    at = np.zeros(len(curves), np.int64)
    while (at < size - 1).any():
        steps = np.arange(size)[None, :] - at[:, None]
        slopes = np.where(steps > 0, (curves - curves[rows, at][:, None]) / np.maximum(steps, 1), -np.inf)
        to = np.where(at < size - 1, slopes.argmax(axis=1), at)
        inside = (steps > 0) & (np.arange(size)[None, :] <= to[:, None])
        slope = np.where(at < size - 1, slopes.max(axis=1), 0.0)
        line = curves[rows, at][:, None] + slope[:, None] * steps
        found = np.where(inside, line, found)
        at = to
    return cast(Floats, found[:, 1:])


def deal_out(gains: Floats, room: Ints, expected: Lengths, budget: float, least: float = 0.0) -> Ints:
    """How many further candidates each prompt gets: always the one with the largest gain per token next.

    Gains grow ever more slowly, so this is the best use of the budget but for its last candidate. Of the budget, two
    standard deviations of what the candidates will really cost are kept back.

    Args:
        gains: expected gain of 1, 2 .. further candidates [P, M].
        room: most candidates that each prompt may still get [P].
        expected: their lengths.
        budget: tokens.
        least: a candidate that is expected to gain no more than this is not drawn.

    Returns:
        [P]; the sum of expected tokens is at most ``budget``.
    """
    most = gains.shape[1]
    if not most or budget <= 0:
        return np.zeros(len(gains), np.int64)
    number = np.arange(1, most + 1)
    within = np.minimum(number - 1, np.maximum(room - 1, 0)[:, None])  # no slope leads beyond a prompt's own room
    steps = np.diff(concave(np.take_along_axis(gains, within, axis=1)), axis=1, prepend=0.0)
    wanted: Bools = (steps > max(least, 1e-12)) & (number[None, :] <= room[:, None])
    rows, columns = np.nonzero(wanted)
    worth = steps[rows, columns] / expected.mean[rows]
    order = np.lexsort((rows, columns, -worth))
    rows, columns = rows[order], columns[order]
    cost = np.cumsum(expected.mean[rows])
    variance = np.cumsum(expected.spread + (2 * columns + 1) * expected.doubt[rows])
    taken = cost + _SAFETY * np.sqrt(variance) <= budget
    kept = int(np.argmin(taken)) if not taken.all() else len(taken)
    return np.bincount(rows[:kept], minlength=len(gains))
