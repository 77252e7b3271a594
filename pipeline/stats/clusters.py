"""Sums over clusters, and what resampling whole clusters says of their means: the jackknife and the bootstrap.

An estimate is a mean of *parts*; a part is a ratio of cluster sums (total of a group / its number of prompts). A
win-rate in one language has one part; the macro average has one part a language. Everything is computed from the
cluster sums, so K estimates with the same clusters cost one matrix product and share their bootstrap draws:
differences are paired.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.core.columns import Floats, Ints
from pipeline.core.errors import ConfigError

SAME = 1e-9
"""Spreads below this are rounding, not spread."""

_CHUNK_CELLS = 1 << 22  # weights held at a time: 32 MiB
_POOL_ABOVE = 10_000  # clusters from which equal ones are drawn together


@dataclass(frozen=True)
class Bootstrap:
    """How intervals are drawn: ``draws`` resamples, ``confidence`` in (0, 1), ``seed``."""

    draws: int = 10_000
    confidence: float = 0.95
    seed: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.confidence < 1:
            raise ConfigError(f"confidence must be between 0 and 1, not {self.confidence}")
        if self.draws < 1:
            raise ConfigError(f"draws must be at least 1, not {self.draws}")


@dataclass(frozen=True)
class ClusterSums:
    """Sums of K groups in C clusters.

    Attributes:
        totals: [C, K], sum of the values.
        counts: [C, K], number of values (prompts).
        strata: [C], clusters are resampled within their stratum.
    """

    totals: Floats
    counts: Floats
    strata: Ints


@dataclass(frozen=True)
class Jackknife:
    """M means of parts, and what leaving out one cluster at a time does to them.

    Attributes:
        value: [M], NaN where a part is empty.
        se: [M], jackknife standard error; NaN with fewer than 2 effective clusters. With equal clusters it is the
            linearised one, with one prompt a cluster the sample standard deviation over the root of n.
        clusters: [M], clusters with a value; of several parts the smallest part's.
        effective: [M], effective clusters (:func:`effective_clusters`).
        up, down: [M], means of the clusters' positive and negative totals: value = up - down.
        differing: [M], share of the prompts in clusters whose total is not 0.
        behind: [M], clusters that the standard error rests on: (sum of d^2)^2 / sum of d^4 of the changes d. Few where
            hardly any cluster differs from the rest.
    """

    value: Floats
    se: Floats
    clusters: Ints
    effective: Floats
    up: Floats
    down: Floats
    differing: Floats
    behind: Floats


def jackknife(sums: ClusterSums, parts: Sequence[Sequence[int]]) -> Jackknife:
    """Values and jackknife standard errors. O(C * K + C * parts).

    Without cluster c a ratio changes by (total_c - mean * count_c) / (n - count_c); the variance is (G-1)/G times the
    sum of the squared changes. Parts add up inside a cluster before squaring, so clusters that cross languages keep
    their covariance.
    """
    n = sums.counts.sum(axis=0)
    size = (sums.counts > 0).sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = sums.totals.sum(axis=0) / n
        change = (sums.totals - mean * sums.counts) / (n - sums.counts) * np.sqrt((size - 1.0) / size)
        up = np.maximum(sums.totals, 0).sum(axis=0) / n
        down = np.maximum(-sums.totals, 0).sum(axis=0) / n
        differing = np.where(np.abs(sums.totals) > SAME, sums.counts, 0).sum(axis=0) / n

    def means(numbers: Floats) -> Floats:
        return np.array([numbers[p[0]] if len(p) == 1 else numbers[list(p)].mean() if p else np.nan for p in parts])

    each = _effective_of_groups(sums.counts)
    squares, fourths = (change**2).sum(axis=0), (change**4).sum(axis=0)
    smallest, effective = np.zeros(len(parts), dtype=np.int64), np.zeros(len(parts))
    square, fourth = np.zeros(len(parts)), np.zeros(len(parts))
    for m, part in enumerate(parts):
        if len(part) == 1:
            k = part[0]
            smallest[m], effective[m], square[m], fourth[m] = size[k], each[k], squares[k], fourths[k]
        elif part:
            together = change[:, list(part)].mean(axis=1)
            smallest[m], effective[m] = size[list(part)].min(), effective_clusters(sums.counts[:, list(part)])
            square[m], fourth[m] = (together**2).sum(), (together**4).sum()
    with np.errstate(invalid="ignore", divide="ignore"):
        behind = np.where(fourth > 0, square**2 / fourth, 0.0)
    se = np.where(effective >= 2, np.sqrt(square), np.nan)
    return Jackknife(means(mean), se, smallest, effective, means(up), means(down), means(differing), behind)


def effective_clusters(counts: Floats) -> float:
    """How many equally large clusters say as much: (sum of n)^2 / sum of n^2 (Carter, Schnepel and Steigerwald 2017).

    Args:
        counts: [C], or [C, L] for a mean of L parts. Then n is a cluster's weight in that mean, and the number is not
            above 1 + Welch's and Satterthwaite's degrees of freedom for parts of equal spread: a part of two clusters
            limits the mean. Below 2 where a part is.
    """
    table = counts[:, None] if counts.ndim == 1 else counts
    each = _effective_of_groups(table)
    if not len(each) or each.min() < 2 or len(each) == 1:
        return float(each.min(initial=np.inf if len(each) else 0.0))
    weight = (table / table.sum(axis=0)).mean(axis=1)
    spread = 1 / each
    welch = spread.sum() ** 2 / (spread**2 / (each - 1)).sum()
    return float(_whole(np.array(min(1 / (weight**2).sum(), 1 + welch))))


def _effective_of_groups(counts: Floats) -> Floats:
    """Effective clusters [K] of every group's counts [C, K]."""
    squares = (counts.astype(np.float64) ** 2).sum(axis=0)
    return _whole(np.divide(counts.sum(axis=0) ** 2.0, squares, out=np.zeros(len(squares)), where=squares > 0))


def _whole(numbers: Floats) -> Floats:
    """The numbers without what rounding did to whole ones (gates are whole numbers)."""
    return np.where(np.abs(numbers - np.round(numbers)) < 1e-6, np.round(numbers), numbers)


def bootstrap_means(sums: ClusterSums, parts: Sequence[Sequence[int]], bootstrap: Bootstrap) -> Floats:
    """Bootstrap draws [draws, M] of M means; all of them from the same resampled clusters."""
    used, columns = _columns(parts)
    totals, counts, strata, weight = _pooled(sums, used)
    result = np.empty((bootstrap.draws, len(parts)))
    start = 0
    for weights in cluster_weights(strata, bootstrap.draws, bootstrap.seed, weight):
        with np.errstate(invalid="ignore", divide="ignore"):
            ratios = (weights @ totals) / (weights @ counts)
        for m, at in enumerate(columns):
            result[start : start + len(weights), m] = ratios[:, at[0]] if len(at) == 1 else ratios[:, at].mean(axis=1)
        start += len(weights)
    return result


def bootstrap_largest(sums: ClusterSums, parts: Sequence[Sequence[int]], value: Floats, bootstrap: Bootstrap) -> Floats:
    """Per draw [draws] the largest \\|draw - value\\| of M means, each in its own standard error in that draw.

    Args:
        value: [M], the sample's means.
    """
    used, columns = _columns(parts)
    totals, counts, strata, weight = _pooled(sums, used)
    largest = []
    for weights in cluster_weights(strata, bootstrap.draws, bootstrap.seed, weight):
        n = weights @ counts
        drawn = weights @ (counts > 0)
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = (weights @ totals) / n
            scale = np.sqrt(drawn / (drawn - 1)) / n
            squares = weights @ totals**2 - 2 * mean * (weights @ (totals * counts)) + mean**2 * (weights @ counts**2)
        found = np.zeros(len(weights))
        for m, at in enumerate(columns):
            gap = np.abs(mean[:, at].mean(axis=1) - value[m])
            if len(at) == 1:
                variance = squares[:, at[0]] * scale[:, at[0]] ** 2
            else:  # clusters may cross the parts
                change = scale[:, at] @ totals[:, at].T - (scale[:, at] * mean[:, at]) @ counts[:, at].T
                variance = (weights * change**2).sum(axis=1) / len(at) ** 2
            se = np.sqrt(np.maximum(variance, 0))
            with np.errstate(invalid="ignore", divide="ignore"):
                ratio = np.where(gap > SAME, gap / np.where(se > SAME, se, 0), 0.0)
            found = np.fmax(found, ratio)
        largest.append(found)
    return np.concatenate(largest)


def _columns(parts: Sequence[Sequence[int]]) -> tuple[list[int], list[list[int]]]:
    """The groups that are used, and every part's places among them."""
    used = sorted({k for part in parts for k in part})
    position = {k: i for i, k in enumerate(used)}
    return used, [[position[k] for k in part] for part in parts]


def _pooled(sums: ClusterSums, used: list[int]) -> tuple[Floats, Floats, Ints, Ints]:
    """Totals, counts and strata of some groups, and how many equal clusters each row stands for.

    Equal clusters are interchangeable: drawing how often one of them comes up is the same distribution.
    """
    totals, counts, strata = sums.totals[:, used], sums.counts[:, used], sums.strata
    if len(strata) <= _POOL_ABOVE:
        return totals, counts, strata, np.ones(len(strata), dtype=np.int64)
    rows, weight = np.unique(np.column_stack([strata, totals, counts]), axis=0, return_counts=True)
    return rows[:, 1 : 1 + len(used)], rows[:, 1 + len(used) :], rows[:, 0].astype(np.int64), weight


def cluster_weights(strata: Ints, draws: int, seed: int, multiplicity: Ints | None = None) -> Iterator[Floats]:
    """Chunks [b, C] of multinomial weights: how often each cluster is drawn, ``draws`` rows in all.

    Args:
        strata: [C]; every stratum keeps its number of clusters.
        multiplicity: [C], equal clusters that an item stands for (default 1).
    """
    if multiplicity is None:
        multiplicity = np.ones(len(strata), dtype=np.int64)
    rng = np.random.default_rng(seed)
    groups = [np.flatnonzero(strata == s) for s in np.unique(strata)]
    rows = max(1, _CHUNK_CELLS // max(len(strata), 1))
    for start in range(0, draws, rows):
        weights = np.empty((min(rows, draws - start), len(strata)))
        for members in groups:
            size = multiplicity[members].sum()
            weights[:, members] = rng.multinomial(size, multiplicity[members] / size, size=len(weights))
        yield weights


def cluster_sums(values: Floats, clusters: Ints) -> ClusterSums:
    """Unstratified cluster sums of K groups on the same P prompts.

    Args:
        values: [P] or [P, K].
        clusters: [P], any integers.
    """
    columns = values[:, None] if values.ndim == 1 else values
    names, codes = np.unique(clusters, return_inverse=True)
    totals = np.stack([np.bincount(codes, weights=column, minlength=len(names)) for column in columns.T], axis=1)
    counts = np.tile(np.bincount(codes, minlength=len(names)).astype(np.float64)[:, None], totals.shape[1])
    return ClusterSums(np.asarray(totals, dtype=np.float64), counts, np.zeros(len(names), dtype=np.int64))
