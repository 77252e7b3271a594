"""What a pool of N values per prompt holds: expected best, worst and mean of m, hope and risk, recovered share."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from pipeline.core.columns import Bools, Floats, Ints
from pipeline.core.errors import InputError
from pipeline.stats.clusters import Bootstrap, bootstrap_means, cluster_sums
from pipeline.stats.intervals import Estimate, mean_interval

_UNBOUNDED = float("inf")


@dataclass(frozen=True)
class PoolCurves:
    """Per prompt and subset size: arrays [P, N], column m-1 for subsets of m values."""

    best: Floats
    worst: Floats
    mean: Floats


@dataclass(frozen=True)
class HopeRisk:
    """How much better a pool's best, and worse its worst value is than the greedy answer's.

    Attributes:
        hope, risk: relative to the mean greedy value (risk is negative when the worst is worse); ``None`` unless that
            mean is above 0.
        hope_absolute, risk_absolute: mean differences with clustered standard errors and intervals.
    """

    hope: float | None
    risk: float | None
    hope_absolute: Estimate
    risk_absolute: Estimate


def pool_curves(values: Floats, orders: Floats | None = None) -> PoolCurves:
    """Closed-form expectations over all subsets of each size, drawn without replacement.

    With v_(1) <= ... <= v_(N): E[best of m] = sum over i of v_(i) * C(i-1, m-1) / C(N, m) (order statistics; the same
    sum from the other end gives the worst). No sampling, O(P * N * log N + P * N^2).

    Args:
        values: [P, N], every prompt with the same N; the metric's unit.
        orders: [P, 2, N], the same by each of two judgments: the best and the worst are chosen by one and scored by the
            other, and the other way round, averaged; equals are chosen with equal probability. A judge that guesses
            then gives its mean, not the best of its guesses.

    Raises:
        InputError: N is 0, or a value is missing (names the prompt's row, counted from 0).
    """
    values = _pool(values)
    size = values.shape[1]
    m = np.arange(1, size + 1)
    # C(i, m-1) / C(N, m) by its recurrence in i from the top, where it is m/N: no large binomials
    weights = np.zeros((size, size))
    weights[size - 1] = m / size
    for i in range(size - 2, -1, -1):
        weights[i] = weights[i + 1] * np.maximum(i + 1 - (m - 1), 0) / (i + 1)
    if orders is None:
        ordered = [np.sort(values, axis=1)]
    else:
        first, second = (_pool(orders[:, k]) for k in range(2))
        ordered = [_by_rank(first, second), _by_rank(second, first)]
    best = np.mean([line @ weights for line in ordered], axis=0)
    worst = np.mean([line[:, ::-1] @ weights for line in ordered], axis=0)
    return PoolCurves(best, worst, np.repeat(values.mean(axis=1, keepdims=True), size, axis=1))


def _by_rank(chosen_by: Floats, scored_by: Floats) -> Floats:
    """``scored_by`` [P, N] in ascending order of ``chosen_by``; equals there share their mean."""
    n_prompts, size = chosen_by.shape
    rank = np.argsort(chosen_by, axis=1, kind="stable")
    key, score = np.take_along_axis(chosen_by, rank, 1), np.take_along_axis(scored_by, rank, 1)
    new = np.ones((n_prompts, size), dtype=bool)
    new[:, 1:] = key[:, 1:] != key[:, :-1]
    group = np.cumsum(new.ravel()) - 1
    return np.asarray((np.bincount(group, weights=score.ravel()) / np.bincount(group))[group].reshape(n_prompts, size))


def hope_and_risk(
    values: Floats,
    greedy: Floats,
    clusters: Ints,
    bootstrap: Bootstrap | None = None,
    orders: Floats | None = None,
) -> HopeRisk:
    """Hope and risk of pools against their greedy answers (arXiv 2506.20544; exact form ours, statistics.md).

    A noisy judge's best value suffers the winner's curse: choose on one judgment, score on another (``orders``).

    Args:
        values: [P, N], the stochastic candidates only, N fixed.
        greedy: [P], the greedy answers' values in the same unit.
        clusters: [P].
        orders: [P, 2, N], as in :func:`pool_curves`.

    Raises:
        InputError: no prompt, or a value is missing (names the prompt's row, counted from 0).
    """
    values = _pool(values)
    if not len(values):
        raise InputError("hope and risk: no prompt")
    _complete(np.isnan(greedy), "the greedy value")
    base = float(greedy.mean())
    curves = pool_curves(values, orders)
    up, down = curves.best[:, -1] - greedy, curves.worst[:, -1] - greedy
    shares = min(values.min(), greedy.min()) >= 0 and max(values.max(), greedy.max()) <= 1
    reach = 1.0 if shares else _UNBOUNDED
    absolute = [mean_interval(x, clusters, bootstrap, -reach, reach) for x in (up, down)]
    positive = base > 0
    return HopeRisk(
        hope=float(up.mean()) / base if positive else None,
        risk=float(down.mean()) / base if positive else None,
        hope_absolute=absolute[0],
        risk_absolute=absolute[1],
    )


def recovered_share(
    selector: Floats, base: Floats, oracle: Floats, clusters: Ints, bootstrap: Bootstrap | None = None
) -> Estimate:
    """Share of the way from a base to the oracle that a selector goes: (selector - base) / (oracle - base).

    Args:
        selector, base, oracle: [P], values in one unit; prompts on which one is NaN are left out of all three.
        clusters: [P].

    Returns:
        Without a value where the denominator's interval holds 0, and where it is the same on every prompt: the metric's
        range is not known here, so nothing bounds the interval.
    """
    bootstrap = bootstrap or Bootstrap()
    known = ~np.isnan(selector + base + oracle)
    gain, room, cluster = (selector - base)[known], (oracle - base)[known], clusters[known]
    headroom = mean_interval(room, cluster, bootstrap, -_UNBOUNDED, _UNBOUNDED)
    if headroom.low is None or headroom.high is None or headroom.low <= 0 <= headroom.high:
        return Estimate(None, n_clusters=headroom.n_clusters, effective=headroom.effective)
    share = float(gain.mean() / room.mean())
    # the ratio's influence: the error of the line through 0, in units of the headroom
    error = mean_interval((gain - share * room) / room.mean(), cluster, bootstrap, -_UNBOUNDED, _UNBOUNDED)
    if error.method != "boot":
        ends = [None if e is None else share + e for e in (error.low, error.high)]
        return replace(error, value=share, low=ends[0], high=ends[1])
    draws = bootstrap_means(cluster_sums(np.column_stack([gain, room]), cluster), [[0], [1]], bootstrap)
    tail = (1 - bootstrap.confidence) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = draws[:, 0] / draws[:, 1]
        # where few prompts have headroom, some draws have none: their share may be anything, so they count at both ends
        low = np.quantile(np.where(np.isfinite(shares), shares, -np.inf), tail)
        high = np.quantile(np.where(np.isfinite(shares), shares, np.inf), 1 - tail)
    low, high = (float(end) if np.isfinite(end) else None for end in (low, high))
    return replace(error, value=share, low=low, high=high)


def _pool(values: Floats) -> Floats:
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 2 or values.shape[1] == 0:
        raise InputError(f"a pool needs an array [prompts, N] with N >= 1, not {values.shape}")
    _complete(np.asarray(np.isnan(values).any(axis=1)), "a value of the pool")
    return values


def _complete(missing: Bools, what: str) -> None:
    if missing.any():
        raise InputError(f"prompt row {int(np.argmax(missing))}: {what} is missing")
