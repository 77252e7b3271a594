"""Means over dependent prompts: clustered standard errors and cluster intervals.

An estimate is a mean of *parts*; a part is a ratio of cluster sums (total of a group / its number of prompts). A
win-rate in one language has one part; the macro average has one part a language. Everything is computed from the
cluster sums, so K estimates with the same clusters cost one matrix product and share their bootstrap draws:
differences are paired.

The interval that :func:`mean_intervals` chooses (statistics.md, "Clusters"):

* fewer than 2 clusters: none.
* ``exact``: all clusters agree, so resampling shows no spread. If a share p of the clusters scored otherwise, G
  clusters would miss them with probability (1-p)^G; p is at most 1-q with q = (alpha/2)^(1/G) (Clopper-Pearson's bound
  for 0 of G), so the mean lies in [s*q + low*(1-q), s*q + high*(1-q)]. Never [1, 1].
* ``t``: fewer than 50 clusters: Student's t with G-1 degrees of freedom, cut to the range of the scores.
* ``boot``: percentile bootstrap of whole clusters.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.errors import ConfigError
from pipeline.stats.arrays import Floats, Ints

FEW_CLUSTERS = 50
"""Below this the percentile bootstrap is too narrow (it covers 92% at 8-14 clusters)."""

CLUSTERS_TO_CLAIM = 6
"""With fewer independent clusters no difference is claimed: from 5 not even a sign test reaches 5%, and a t-interval
from 2 can be arbitrarily short when their means happen to agree."""

_CHUNK_CELLS = 1 << 22  # weights held at a time: 32 MiB
_SAME = 1e-9  # spreads below this are rounding, not spread
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
class Estimate:
    """A mean with its uncertainty; ``None`` where it does not exist.

    Attributes:
        value: the mean; ``None`` when a part is empty.
        se: analytic clustered standard error (ddof=1).
        low, high: the interval.
        n_clusters: clusters behind it; for several parts the smallest part's, which limits the degrees of freedom.
        method: ``boot``, ``t``, ``exact`` or ``none``.
    """

    value: float | None
    se: float | None
    low: float | None
    high: float | None
    n_clusters: int
    method: str


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


def mean_intervals(
    sums: ClusterSums,
    parts: Sequence[Sequence[int]],
    bootstrap: Bootstrap,
    low: float = 0.0,
    high: float = 1.0,
) -> list[Estimate]:
    """Estimate M means and their intervals.

    Args:
        sums: cluster sums of K groups.
        parts: M lists of group indices; each estimate is the plain mean of its groups' means.
        low, high: range of the values; infinite when it is not known (then there is no ``exact`` interval).

    Cost: O(draws * C * K) once for all M, O(draws * K) memory; nothing is drawn when no estimate needs it.
    """
    value, se, size, _ = linearised(sums, parts)
    tail = (1 - bootstrap.confidence) / 2
    usable = np.isfinite(value) & (size >= 2)
    spread = usable & (se > _SAME)
    bounds = np.full((len(parts), 2), np.nan)
    method = np.full(len(parts), "none", dtype=object)

    exact = usable & ~spread & np.isfinite([low, high]).all()
    q = tail ** (1 / np.maximum(size[exact], 1))
    bounds[exact] = (value[exact] * q)[:, None] + np.outer(1 - q, [low, high])
    method[exact] = "exact"

    few = spread & (size < FEW_CLUSTERS)
    if few.any():
        bounds[few] = _student(value[few], se[few], size[few], tail, low, high)
        method[few] = "t"

    many = np.flatnonzero(spread & ~few)
    if len(many):
        draws = bootstrap_means(sums, [parts[m] for m in many], bootstrap)
        bounds[many] = np.quantile(draws, [tail, 1 - tail], axis=0, overwrite_input=True).T
        method[many] = "boot"
    return [
        Estimate(_number(v), _number(s), _number(b[0]), _number(b[1]), int(g), m)
        for v, s, b, g, m in zip(value, se, bounds, size, method, strict=True)
    ]


def simultaneous_intervals(
    sums: ClusterSums,
    parts: Sequence[Sequence[int]],
    bootstrap: Bootstrap,
    low: float = 0.0,
    high: float = 1.0,
) -> list[Estimate]:
    """Intervals that hold all M together with the given confidence, by the bootstrap's max-T.

    Each is value +- c * se, c the quantile over draws of the largest |draw - value| / se. With fewer than 50 clusters
    c is Bonferroni's t; an estimate without spread gets its exact bound at Bonferroni's level.
    Arguments as :func:`mean_intervals`.
    """
    from scipy.stats import t

    value, se, size, _ = linearised(sums, parts)
    usable = np.isfinite(value) & (size >= 2)
    alpha = 1 - bootstrap.confidence
    tail = alpha / 2 / max(int(usable.sum()), 1)
    spread = np.flatnonzero(usable & (se > _SAME))
    critical = 0.0
    method = "t"
    if len(spread):
        smallest = int(size[spread].min())
        if smallest < FEW_CLUSTERS:
            critical = float(t.ppf(1 - tail, smallest - 1))
        else:
            draws = bootstrap_means(sums, [parts[m] for m in spread], bootstrap)
            largest = (np.abs(draws - value[spread]) / se[spread]).max(axis=1)
            critical, method = float(np.quantile(largest, 1 - alpha)), "boot"
    estimates = []
    for v, s, g, ok in zip(value, se, size, usable, strict=True):
        if not ok:
            estimates.append(Estimate(_number(v), None, None, None, int(g), "none"))
        elif s > _SAME:
            ends = max(low, v - critical * s), min(high, v + critical * s)
            estimates.append(Estimate(float(v), float(s), float(ends[0]), float(ends[1]), int(g), method))
        else:
            q = tail ** (1 / g)
            ends = v * q + low * (1 - q), v * q + high * (1 - q)
            estimates.append(Estimate(float(v), float(s), float(ends[0]), float(ends[1]), int(g), "exact"))
    return estimates


def linearised(sums: ClusterSums, parts: Sequence[Sequence[int]]) -> tuple[Floats, Floats, Ints, Floats]:
    """Values, clustered standard errors, cluster numbers [M] and influences [C, M] of M means.

    The standard error of a ratio of cluster sums is sqrt(G/(G-1) * sum over clusters of (total - mean * count)^2) / n
    (linearisation; with one prompt a cluster this is the sample standard deviation over sqrt(n)). Parts add up inside a
    cluster before squaring, so clusters that cross languages keep their covariance.
    NaN where there is no value (or fewer than 2 clusters, for the standard error).
    """
    n = sums.counts.sum(axis=0)
    size = (sums.counts > 0).sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = sums.totals.sum(axis=0) / n
        influence = (sums.totals - mean * sums.counts) / n * np.sqrt(size / (size - 1.0))
    value = np.array([mean[list(p)].mean() if len(p) else np.nan for p in parts])
    smallest = np.array([size[list(p)].min() if len(p) else 0 for p in parts], dtype=np.int64)
    combined = np.stack([influence[:, list(p)].sum(axis=1) / max(len(p), 1) for p in parts], axis=1)
    se = np.where(smallest >= 2, np.sqrt((combined**2).sum(axis=0)), np.nan)
    return value, se, smallest, combined


def bootstrap_means(sums: ClusterSums, parts: Sequence[Sequence[int]], bootstrap: Bootstrap) -> Floats:
    """Bootstrap draws [draws, M] of M means; all of them from the same resampled clusters."""
    used = sorted({k for part in parts for k in part})
    position = {k: i for i, k in enumerate(used)}
    totals, counts, strata = sums.totals[:, used], sums.counts[:, used], sums.strata
    weight = np.ones(len(strata), dtype=np.int64)
    if len(strata) > _POOL_ABOVE:
        # equal clusters are interchangeable: drawing how often one of them comes up is the same distribution
        rows = np.column_stack([strata, totals, counts])
        rows, weight = np.unique(rows, axis=0, return_counts=True)
        strata, totals, counts = rows[:, 0].astype(np.int64), rows[:, 1 : 1 + len(used)], rows[:, 1 + len(used) :]
    result = np.empty((bootstrap.draws, len(parts)))
    start = 0
    for weights in cluster_weights(strata, bootstrap.draws, bootstrap.seed, weight):
        with np.errstate(invalid="ignore", divide="ignore"):
            ratios = (weights @ totals) / (weights @ counts)
        for m, part in enumerate(parts):
            columns = [position[k] for k in part]
            result[start : start + len(weights), m] = (
                ratios[:, columns[0]] if len(columns) == 1 else ratios[:, columns].mean(axis=1)
            )
        start += len(weights)
    return result


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


def mean_interval(
    values: Floats, clusters: Ints, bootstrap: Bootstrap | None = None, low: float = 0.0, high: float = 1.0
) -> Estimate:
    """Mean of one set of prompt values [P] with its cluster interval; NaN values are left out."""
    valid = ~np.isnan(values)
    return mean_intervals(cluster_sums(values[valid], clusters[valid]), [[0]], bootstrap or Bootstrap(), low, high)[0]


def _student(value: Floats, se: Floats, size: Ints, tail: float, low: float, high: float) -> Floats:
    from scipy.stats import t

    half = t.ppf(1 - tail, size - 1) * se
    return np.stack([np.maximum(value - half, low), np.minimum(value + half, high)], axis=1)


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
