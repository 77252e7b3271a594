"""What further candidates are expected to gain where the one with the highest score is chosen.

A prompt's scores are taken as draws from a law of its own, with a mean and a spread. Four scores say little about a
spread, so its posterior is shared out over a grid of spreads whose frequencies are fitted to the whole batch
(empirical Bayes: the nonparametric maximum likelihood of a mixture, by EM); the mean has a flat prior. All laws of a
batch have one shape, more or less skewed to either side (:mod:`pipeline.adaptive.shapes`): the one that makes the batch
most likely. With M the best score so far, m more candidates gain E[max(M, X_1 .. X_m)] - M, on average over the
posterior.

To fit each prompt's law in a first round, and to deal out the rest by expected gain, is AdaBoN's idea (arXiv
2505.12050), which fits a kernel density a prompt from a larger first round. Gains are in the score's own unit, because
the mean score of the chosen candidates is what the selector maximises: no prompt is rescaled.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import numpy as np

from pipeline.adaptive.shapes import SHAPES, Shape
from pipeline.stats.arrays import Floats, Ints

_SPREADS = 20  # points of the grid
_LEAST = 0.05  # the smallest spread on it, as a share of the batch's
_OFFSETS = np.linspace(-3.5, 3.5, 15)  # places of a law's mean, in standard errors of the scores' mean
_ITERATIONS = 100
_FIT_SHAPE, _FIT = 500, 2_000  # prompts that the shape and the frequencies are fitted to, at most
_CHUNK = 1_000  # prompts worked on at a time


def reward_gains(scores: Floats, drawn: Floats, most: int) -> Floats:
    """Expected gain of 1 to ``most`` further candidates.

    Args:
        scores: of all candidates so far [P, N]; NaN = none, or invalid. The best of them is what is to be improved on.
        drawn: of those that further candidates are like (the greedy one is not) [P, N], NaN elsewhere.
        most: largest number of further candidates.

    Returns:
        [P, most], in the scores' unit; 0 for prompts without a score, and for all where no prompt's scores differ.
    """
    gains = np.zeros((len(scores), most))
    scores = np.where(np.isfinite(scores), scores, np.nan)
    data = _Scores(np.where(np.isfinite(drawn), drawn, np.nan))
    pooled = data.variance[data.count > 1]
    if not most or not len(pooled) or not pooled.any():
        return gains
    typical = float(np.sqrt(pooled.mean()))
    grid = np.geomspace(_LEAST * typical, max(3 * typical, 2 * float(np.sqrt(pooled.max()))), _SPREADS)
    shape, prior = _fit(data, grid)
    known = np.flatnonzero(data.count > 0)
    for start in range(0, len(known), _CHUNK):
        rows = known[start : start + _CHUNK]
        gains[rows] = _expected(data.take(rows), np.nanmax(scores[rows], axis=1), shape, grid, prior, most)
    return gains


class _Scores:
    """Each row's valid numbers: how many, their mean and unbiased variance (0 where there are too few)."""

    def __init__(self, drawn: Floats) -> None:
        self.drawn = drawn
        self.valid = np.isfinite(drawn)
        self.count: Ints = self.valid.sum(axis=1)
        self.mean: Floats = np.where(self.valid, drawn, 0.0).sum(axis=1) / np.maximum(self.count, 1)
        self.apart: Floats = np.where(self.valid, drawn - self.mean[:, None], 0.0)
        self.variance: Floats = (self.apart**2).sum(axis=1) / np.maximum(self.count - 1, 1)

    def take(self, rows: Ints) -> _Scores:
        return _Scores(self.drawn[rows])

    def laws(self, shape: Shape, grid: Floats) -> Iterator[tuple[int, Floats]]:
        """(spread, log likelihood [P, offsets]) of the laws of every spread, up to a constant a row."""
        places = _OFFSETS / np.sqrt(np.maximum(self.count, 1))[:, None]
        for g, spread in enumerate(grid):
            each = shape.log_density(self.apart[:, None, :] / spread - places[:, :, None])
            yield (
                g,
                np.where(self.valid[:, None, :], each, 0.0).sum(axis=2) - ((self.count - 1) * np.log(spread))[:, None],
            )


def _some(rows: Ints, most: int) -> Ints:
    """At most so many of them, evenly spread."""
    return rows[:: max(-(-len(rows) // most), 1)]


def _fit(data: _Scores, grid: Floats) -> tuple[Shape, Floats]:
    """The shape, and the frequencies [G] of the spreads, that make the batch most likely."""
    several = np.flatnonzero(data.count > 1)
    few = data.take(_some(several, _FIT_SHAPE))
    shape = max(SHAPES, key=lambda each: _frequencies(few, each, grid)[0])
    return shape, _frequencies(data.take(_some(several, _FIT)), shape, grid)[1]


def _frequencies(data: _Scores, shape: Shape, grid: Floats) -> tuple[float, Floats]:
    """(log likelihood of the batch, frequencies [G] of the spreads that make it largest)."""
    log = np.empty((len(data.count), len(grid)))
    for g, each in data.laws(shape, grid):
        log[:, g] = np.logaddexp.reduce(each, axis=1)
    top = log.max(axis=1, keepdims=True)
    likelihood, prior = np.exp(log - top), np.full(len(grid), 1 / len(grid))
    for _ in range(_ITERATIONS):
        joint = likelihood * prior
        prior = (joint / joint.sum(axis=1, keepdims=True)).mean(axis=0)
    return float((np.log(likelihood @ prior) + top[:, 0]).sum()), prior


def _expected(data: _Scores, best: Floats, shape: Shape, grid: Floats, prior: Floats, most: int) -> Floats:
    """Expected gains [P, most] over the posterior of each row's law."""
    log_prior = np.log(np.maximum(prior, 1e-300))
    log = np.empty((len(best), len(grid), len(_OFFSETS)))
    for g, each in data.laws(shape, grid):
        log[:, g] = each + log_prior[g]
    posterior = np.exp(log - log.max(axis=(1, 2), keepdims=True))
    posterior /= posterior.sum(axis=(1, 2), keepdims=True)
    gains, places = np.zeros((len(best), most)), _OFFSETS / np.sqrt(data.count)[:, None]
    for g, spread in enumerate(grid):
        if posterior[:, g].max() < 1e-5:
            continue
        distance = ((best - data.mean) / spread)[:, None] - places
        each = shape.gains(distance.ravel(), most).reshape(*distance.shape, most)
        gains += spread * np.einsum("ph,phm->pm", posterior[:, g], each)
    return cast(Floats, gains)
