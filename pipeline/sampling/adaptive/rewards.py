"""What further candidates are expected to gain where the one with the highest score is chosen.

That is learned from the batch, because scores differ in how they are spread: chrF and probabilities end at a bound, and
a spread may come from bad outliers, which say nothing of better ones. At every earlier number of candidates, what the
next one really gained is regressed on what was known before it was drawn: how many spreads the best score lay above the
mean, the spread, the number of candidates, the level of the best score, its lead over the second, and how long the
prompt's answers are. The regression is log-linear (Poisson quasi-likelihood, which needs no more than the mean to be
right), and a ridge draws it towards what about holds for normal laws, so that a small batch is no worse off than with
these.

Whether a prompt went on depended on what was known by then, and not on the next candidate: so to learn from those that
did is no bias. The candidates of the first round are exchangeable, and every cyclic order of them is learned from.

To deal out the rest by expected gain after a first round is AdaBoN's idea (arXiv 2505.12050), which fits a kernel
density a prompt from a larger first round. Gains are in the score's own unit, because the mean score of the chosen
candidates is what the selector maximises: no prompt is rescaled.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import cast

import numpy as np

from pipeline.core.columns import Bools, Floats, Ints

_NORMAL = np.array([0.0, -1.0, 1.0, -1.0, 0.0, 0.0, 0.0])
"""Coefficients before anything is learned: of (1, luck, log spread, log number, level, lead, log length)."""
_RIDGE = 1.0
_SHRINK = 3  # degrees of freedom that the batch's variance counts for beside a prompt's own
_LUCK = (-1.0, 6.0)
_LEARN = 2_000  # prompts that are learned from, at most
_STEPS = 50


def reward_gains(
    scores: Floats, drawn: Floats, most: int, first: int, lengths: Floats, highest: float = np.inf
) -> Floats:
    """Expected gain of 1 to ``most`` further candidates.

    Args:
        scores: of all candidates so far [P, N], in the order in which they were drawn; NaN = none, or invalid. The best
            of them is what is to be improved on.
        drawn: of those that further candidates are like (the greedy one is not) [P, N], NaN elsewhere.
        most: largest number of further candidates.
        first: candidates that were drawn for every prompt whatever their scores, failed ones included.
        lengths: expected tokens of each prompt's next candidate, above 0 [P].
        highest: the largest score that a candidate can have: nobody gains more than what is left to it.

    Returns:
        [P, most], in the scores' unit; 0 for prompts without a drawn score, and where no prompt's scores differ.
    """
    gains = np.zeros((len(scores), most))
    prompts = _Prompts.of(scores, drawn, lengths)
    known = np.flatnonzero(prompts.count > 0)
    spread = prompts.spread()
    if not most or not len(known) or not spread:
        return gains
    best = prompts.best()[known]
    view = _View(spread, float(best.mean()), float(best.std()) or 1.0, float(prompts.length[known].mean()))
    unit, coefficients = _learn(prompts.take(known[:: -(-len(known) // _LEARN)]), view, first, highest)
    for count in np.unique(prompts.count[known]).tolist():
        rows = np.flatnonzero(prompts.count == count)
        features = view.features(prompts.take(rows).begun(count))
        gains[rows] = (unit * _exp(features @ coefficients))[:, None] * _growth(count, most)
    return cast(Floats, np.minimum(gains, np.maximum(highest - prompts.best(), 0.0)[:, None]))


@dataclass(frozen=True)
class _Prompts:
    """The scores of a batch.

    Attributes:
        drawn: valid scores of candidates that were drawn, in order [P, N]; NaN behind them.
        given: best score of the other candidates [P]; -inf = none.
        length: logarithm of the prompt's length [P].
    """

    drawn: Floats
    given: Floats
    length: Floats

    @classmethod
    def of(cls, scores: Floats, drawn: Floats, lengths: Floats) -> _Prompts:
        valid = np.isfinite(drawn)
        order = np.argsort(~valid, axis=1, kind="stable")
        compact = np.take_along_axis(np.where(valid, drawn, np.nan), order, axis=1)
        others = np.where(np.isfinite(scores) & ~valid, scores, -np.inf)
        return cls(compact, others.max(axis=1, initial=-np.inf), np.log(lengths))

    @cached_property
    def count(self) -> Ints:
        """Valid scores of every prompt [P]."""
        return cast(Ints, np.isfinite(self.drawn).sum(axis=1))

    def take(self, rows: Ints | Bools) -> _Prompts:
        return _Prompts(self.drawn[rows], self.given[rows], self.length[rows])

    def begun(self, number: int) -> _Prompts:
        """As they were after so many drawn candidates."""
        return _Prompts(self.drawn[:, :number], self.given, self.length)

    def best(self) -> Floats:
        """Best score of all candidates [P]."""
        return cast(Floats, np.fmax(np.fmax.reduce(self.drawn, axis=1, initial=-np.inf), self.given))

    def spread(self) -> float:
        """Standard deviation within prompts; 0 where no prompt's scores differ."""
        rows = self.drawn[self.count > 1]
        return float(np.sqrt(np.nanvar(rows, axis=1, ddof=1).mean())) if len(rows) else 0.0


@dataclass(frozen=True)
class _View:
    """What prompts look like beside their batch.

    Attributes:
        spread: standard deviation within prompts.
        level, levels: mean and standard deviation of the best scores.
        length: mean logarithm of the prompts' lengths.
    """

    spread: float
    level: float
    levels: float
    length: float

    def features(self, prompts: _Prompts) -> Floats:
        """What is known of prompts that all have as many drawn candidates [P, 7]."""
        count = prompts.drawn.shape[1]
        ordered = -np.sort(-prompts.drawn, axis=1)
        top, mean, best = ordered[:, 0], ordered.mean(axis=1), prompts.best()
        second = np.maximum(ordered[:, 1], prompts.given) if count > 1 else prompts.given
        second = np.where(prompts.given > top, top, second)
        variance = (_SHRINK * self.spread**2 + ((ordered - mean[:, None]) ** 2).sum(axis=1)) / (_SHRINK + count - 1)
        spread = np.sqrt(variance * (1 + 1 / count))  # of the next score around this mean
        ahead = np.maximum(best - ordered[:, count // 2], 0) + 0.1 * self.spread
        lead = np.clip((best - second) / ahead, 0, 1) if count > 1 else np.full(len(best), 0.3)
        columns = (
            np.ones(len(best)),
            np.clip((best - mean) / spread, *_LUCK),
            np.log(spread / self.spread),
            np.full(len(best), np.log(count)),
            (best - self.level) / self.levels,
            lead,
            prompts.length - self.length,
        )
        return np.stack(columns, axis=1)


def _exp(exponents: Floats) -> Floats:
    return np.exp(np.clip(exponents, -30, 20))


def _learn(prompts: _Prompts, view: _View, first: int, highest: float) -> tuple[float, Floats]:
    """(unit of the gains, coefficients of the logarithm of the next candidate's gain in it)."""
    features, gains = _examples(prompts, view, first, highest)
    if not gains.any():
        return 0.0, _NORMAL
    unit = float((gains**2).sum() / gains.sum())  # in it the variance of gains is about their mean, as the law wants
    gains = gains / unit
    found = _NORMAL.copy()
    found[0] = np.log(gains.mean() / np.exp(features @ _NORMAL).mean())
    ridge = np.diag([1e-6, *np.full(len(found) - 1, _RIDGE)])
    for _ in range(_STEPS):
        expected = _exp(features @ found)
        slope = features.T @ (gains - expected) - ridge @ (found - _NORMAL)
        step = np.linalg.solve((features.T * expected) @ features + ridge, slope)
        found = found + step * min(1.0, 2 / max(float(np.abs(step).max()), 1e-12))
        if np.abs(step).max() < 1e-7:
            break
    return unit, found


def _examples(prompts: _Prompts, view: _View, first: int, highest: float) -> tuple[Floats, Floats]:
    """(what was known before a candidate [E, 7], what it gained [E])."""
    features, gains = [], []

    def add(these: _Prompts, number: int) -> None:
        these = these.take(these.begun(number).best() < highest)  # the others are known to gain nothing
        seen = these.begun(number)
        features.append(view.features(seen))
        gains.append(np.maximum(these.drawn[:, number] - seen.best(), 0.0))

    whole = prompts.take(prompts.count >= first)
    for shift in range(first):
        turned = _Prompts(np.roll(whole.drawn[:, :first], shift, axis=1), whole.given, whole.length)
        for number in range(max(min(2, first - 1), 1), first):
            add(turned, number)
    for number in range(first, int(prompts.count.max())):
        add(prompts.take(prompts.count > number), number)
    if not gains:
        return np.empty((0, len(_NORMAL))), np.empty(0)
    return np.concatenate(features), np.concatenate(gains)


def _growth(count: int, most: int) -> Floats:
    """Gain of 1 to ``most`` further candidates after ``count``, as a multiple of the first one's.

    Of an exponential upper tail, of which a share p = 1 / (count + 1) lies above the best score so far: the mean of
    max(0, X_1 .. X_m) grows as the sum of (1 - (1 - p)^j) / j over j = 1 .. m.
    """
    share, number = 1 / (count + 1), np.arange(1, most + 1)
    return cast(Floats, np.cumsum((1 - (1 - share) ** number) / (number * share)))
