"""Intervals of means over dependent prompts: which rule holds where.

The rule that :func:`mean_intervals` chooses (statistics.md, "Clusters" and "Few or unequal clusters"), G* being the
effective number of clusters with a value; ``docs/intervals.md`` has the coverage of every rule by simulation:

* ``none``: G* below 2.
* ``exact``: all clusters agree, so resampling shows no spread. If a share p of the clusters scored otherwise, G
  clusters would miss them with probability (1-p)^G; p is at most 1-q with q = (alpha/2)^(1/G*) (Clopper-Pearson's bound
  for 0 of G*), so the mean lies in [s*q + low*(1-q), s*q + high*(1-q)]. Also near the ends of the range, where the mean
  of so many clusters is still skewed: Clopper-Pearson's interval for value * G* of G* (:func:`_exact`). Never [1, 1].
* ``t``: G* below 100: Student's t with G*-1 degrees of freedom on the jackknife's error, cut to the range.
* ``boot``: percentile bootstrap of whole clusters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.core.columns import Bools, Floats, Ints
from pipeline.stats.clusters import (
    SAME,
    Bootstrap,
    ClusterSums,
    Jackknife,
    bootstrap_largest,
    bootstrap_means,
    cluster_sums,
    jackknife,
)

POOLED, MACRO = "all", "macro"
"""Rows over several languages: over all prompts, and the mean of the languages."""

FEW_CLUSTERS = 100
"""Below so many effective clusters Student's t is used: the percentile bootstrap is too narrow."""

CLUSTERS_TO_CLAIM = 6
"""With fewer effective clusters no difference is claimed: from 5 not even a sign test reaches 5%, and a t-interval
from 2 can be arbitrarily short when their means happen to agree."""

POWER = 0.8
"""Probability with which a difference of the minimum detectable size is found."""

_NEAR = 0.2  # a rate below this, or above 1 minus this, has an exact interval ...
_SKEWED = 0.25  # ... where the skewness of the mean is above this
_RARE = 20  # clusters behind a standard error below which drawing them anew does not show how it varies


@dataclass(frozen=True)
class Estimate:
    """A mean with its uncertainty; ``None`` where it does not exist.

    Attributes:
        value: the mean; ``None`` when a part is empty.
        se: jackknife standard error over clusters (ddof=1).
        low, high: the interval.
        n_clusters: clusters with a value; for several parts the smallest part's.
        effective: effective clusters (:func:`~pipeline.stats.clusters.effective_clusters`).
        detectable: minimum detectable difference: a true value this far from 0 has an interval without 0 in 80% of
            samples, at the level of this interval.
        method: ``boot``, ``t``, ``exact`` or ``none``.
    """

    value: float | None
    se: float | None = None
    low: float | None = None
    high: float | None = None
    n_clusters: int = 0
    effective: float = 0.0
    detectable: float | None = None
    method: str = "none"


NOTHING = Estimate(None)


Rule = Callable[[ClusterSums, Sequence[Sequence[int]], Bootstrap, float, float], list[Estimate]]
"""How intervals are made: :func:`mean_intervals`, each by itself, or :func:`simultaneous_intervals`."""


@dataclass(frozen=True)
class Frame:
    """P prompts in C clusters and L languages.

    Attributes:
        languages: names [L], sorted.
        prompt_language, prompt_cluster: codes [P].
    """

    languages: list[str]
    prompt_language: Ints
    prompt_cluster: Ints

    @property
    def n_clusters(self) -> int:
        """C."""
        return int(self.prompt_cluster.max(initial=-1)) + 1

    def of_language(self, name: str) -> Bools:
        """The prompts [P] in one language; all of them for ``all`` and ``macro``."""
        if name in (POOLED, MACRO):
            return np.ones(len(self.prompt_language), dtype=bool)
        return np.asarray(self.prompt_language == self.languages.index(name))


@dataclass(frozen=True)
class Quantity:
    """The valid values of what is to be estimated (a comparison's score, or a difference).

    Attributes:
        prompt: codes [V].
        value: [V].
        languages: codes of the languages it was asked in, valid values or not.
    """

    prompt: Ints
    value: Floats
    languages: Ints


def quantity(frame: Frame, values: Floats) -> Quantity:
    """One number per prompt [P], of which those that are not NaN count."""
    valid = np.flatnonzero(~np.isnan(values))
    return Quantity(valid, values[valid], np.unique(frame.prompt_language[valid]))


def estimate(
    frame: Frame,
    quantities: Sequence[Quantity],
    bootstrap: Bootstrap,
    low: float,
    high: float,
    rule: Rule,
    only: str | None = None,
) -> list[dict[str, Estimate]]:
    """Per quantity: language name (then ``all``, ``macro``) -> estimate; one bootstrap for all of them.

    Args:
        low, high: range of the values.
        only: one of these names; the intervals of all of them otherwise.
    """
    size = (frame.n_clusters, len(frame.languages))
    totals: list[Floats] = []
    counts: list[Floats] = []
    labels: list[tuple[int, str]] = []
    parts: list[list[int]] = []
    first = 0
    for i, one in enumerate(quantities):
        cell = frame.prompt_cluster[one.prompt] * size[1] + frame.prompt_language[one.prompt]
        total = np.bincount(cell, weights=one.value, minlength=size[0] * size[1]).reshape(size)
        count = np.bincount(cell, minlength=size[0] * size[1]).reshape(size).astype(np.float64)
        apart = one.languages[:0] if only == POOLED else one.languages
        for found, sums in ((totals, total), (counts, count)):
            found.append(np.hstack([sums[:, apart], sums[:, one.languages].sum(axis=1, keepdims=True)]))
        columns = list(range(first, first + len(apart)))
        named = [(frame.languages[code], [column]) for code, column in zip(apart, columns, strict=True)]
        for name, part in [*named, (POOLED, [first + len(apart)]), (MACRO, columns)]:
            if only in (None, name):
                labels.append((i, name))
                parts.append(part)
        first += len(apart) + 1
    result: list[dict[str, Estimate]] = [{} for _ in quantities]
    if parts:
        sums_of = ClusterSums(np.hstack(totals), np.hstack(counts), _strata(frame))
        for (i, name), found_one in zip(labels, rule(sums_of, parts, bootstrap, low, high), strict=True):
            result[i][name] = found_one
    return result


def _strata(frame: Frame) -> Ints:
    """Stratum of every cluster: its language, or 0 for all clusters of languages that a cluster crosses."""
    pairs = np.unique(np.stack([frame.prompt_cluster, frame.prompt_language]), axis=1)
    crossing = np.bincount(pairs[0], minlength=frame.n_clusters) > 1
    shared = np.zeros(len(frame.languages), dtype=bool)
    shared[pairs[1][crossing[pairs[0]]]] = True
    strata = np.zeros(frame.n_clusters, dtype=np.int64)
    strata[pairs[0]] = np.where(shared[pairs[1]], 0, 1 + pairs[1])
    return strata


def numbers(found: Estimate | None, value: str, se: str = "", low: str = "", high: str = "") -> dict[str, Any]:
    """An estimate's numbers (or none) under the names of a result's fields; those without a name are left out."""
    of = found or NOTHING
    named = ((value, of.value), (se, of.se), (low, of.low), (high, of.high))
    return {name: number for name, number in named if name}


def side(
    low: float | None,
    high: float | None,
    clusters: float,
    even: float = 0.5,
    unreadable: tuple[float | None, float | None] | None = None,
) -> str:
    """``above``, ``below`` or ``even`` (an interval against ``even``), ``none`` without an interval.

    Args:
        clusters: effective ones with a valid score; always ``even`` with fewer than ``CLUSTERS_TO_CLAIM``.
        unreadable: lower end if all unreadable verdicts were lost, upper end if all were won: these have to lie on the
            same side, too.
    """
    if low is None or high is None:
        return "none"
    if clusters < CLUSTERS_TO_CLAIM:
        return "even"
    worst, best = (low, high) if unreadable is None else unreadable
    if low > even and worst is not None and worst > even:
        return "above"
    return "below" if high < even and best is not None and best < even else "even"


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
        low, high: range of the values: 0..1 or -1..1, or infinite when it is not known (then nothing is ``exact``).

    Cost: O(draws * C * K) once for all M, O(draws * K) memory; nothing is drawn when no estimate needs it.
    """
    found = jackknife(sums, parts)
    tail = (1 - bootstrap.confidence) / 2
    rules = _Rules(found, low, high)
    bounds = np.full((len(parts), 2), np.nan)
    half = _student(found, tail) * found.se
    rules.exact_bounds(bounds, rules.even | rules.skewed, tail)
    few = rules.normal & (found.effective < FEW_CLUSTERS)
    bounds[few] = np.column_stack([found.value - half, found.value + half])[few]
    many = np.flatnonzero(rules.normal & ~few)
    if len(many):
        draws = bootstrap_means(sums, [parts[m] for m in many], bootstrap)
        bounds[many] = np.quantile(draws, [tail, 1 - tail], axis=0, overwrite_input=True).T
    method = np.full(len(parts), "none", dtype=object)
    for name, where in (("exact", rules.even | rules.skewed), ("t", few), ("boot", many)):
        method[where] = name
    return _estimates(found, rules, bounds, half, method)


def simultaneous_intervals(
    sums: ClusterSums,
    parts: Sequence[Sequence[int]],
    bootstrap: Bootstrap,
    low: float = 0.0,
    high: float = 1.0,
) -> list[Estimate]:
    """Intervals that hold all M together with the given confidence, by the bootstrap's studentised max-T.

    Each is value +- c * se, c the quantile over draws of the largest |draw - value| in standard errors of that draw.
    Estimates of fewer than 100 effective clusters get Bonferroni's t, those without spread, skewed ones, and those
    whose error rests on few clusters (a draw may hold none of them) the exact bound at Bonferroni's level; max-T then
    has the share of the error probability that is left. Arguments as :func:`mean_intervals`.
    """
    found = jackknife(sums, parts)
    rules = _Rules(found, low, high)
    usable = rules.even | rules.skewed | rules.normal
    alpha = 1 - bootstrap.confidence
    tail = alpha / 2 / max(int(usable.sum()), 1)
    few = rules.normal & (found.effective < FEW_CLUSTERS)
    rare = rules.normal & ~few & (found.behind < _RARE) & np.isfinite(low)
    exact = rules.even | rules.skewed | rare
    many = np.flatnonzero(rules.normal & ~few & ~rare)
    critical = _student(found, tail)
    if len(many):
        largest = bootstrap_largest(sums, [parts[m] for m in many], found.value[many], bootstrap)
        critical[many] = np.quantile(largest, 1 - alpha * len(many) / usable.sum())
    half = critical * found.se
    bounds = np.column_stack([found.value - half, found.value + half])
    rules.exact_bounds(bounds, exact, tail)
    bounds[~usable] = np.nan
    method = np.full(len(parts), "none", dtype=object)
    for name, where in (("exact", exact), ("t", few), ("boot", many)):
        method[where] = name
    return _estimates(found, rules, bounds, half, method)


def mean_interval(
    values: Floats, clusters: Ints, bootstrap: Bootstrap | None = None, low: float = 0.0, high: float = 1.0
) -> Estimate:
    """Mean of one set of prompt values [P] with its cluster interval; NaN values are left out."""
    valid = ~np.isnan(values)
    return mean_intervals(cluster_sums(values[valid], clusters[valid]), [[0]], bootstrap or Bootstrap(), low, high)[0]


class _Rules:
    """Which of M estimates have no spread (``even``), are too skewed for symmetric rules, or are neither [M]."""

    def __init__(self, found: Jackknife, low: float, high: float) -> None:
        self.found, self.low, self.high = found, low, high
        usable = np.isfinite(found.value) & (found.effective >= 2)
        spread: Bools = usable & (found.se > SAME)
        bounded = bool(np.isfinite([low, high]).all())
        self.even: Bools = usable & ~spread & bounded
        self.skewed: Bools = spread & bounded & self._near_an_end()
        self.normal: Bools = spread & ~self.skewed

    def _near_an_end(self) -> Bools:
        """Which means [M] are near an end of the range (or of few clusters that differ) and still skewed.

        The skewness is that of clusters won or lost whole, with the spread that they have. How large clusters spread
        is hardly seen in small ones: the more unequal they are, the more of a rate's spread is taken from G* such
        clusters.
        """
        found = self.found
        up, down = found.up, found.down
        with np.errstate(invalid="ignore", divide="ignore"):
            if self.low < 0:
                gap = np.abs(up - down)
                rare = (found.differing < _NEAR) & (gap * found.se / (up + down) ** 2 > _SKEWED)
                sure = (gap > 1 - _NEAR) & ((2 * gap - 1) * found.se / (gap * (1 - gap)) > _SKEWED)
                return np.asarray(rare | sure)
            edge = np.minimum(up, 1 - up)
            unequal = np.clip(1 - found.effective / found.clusters, 0, 1)
            se = np.sqrt(np.maximum(found.se**2, unequal * up * (1 - up) / found.effective))
            return np.asarray((edge < _NEAR) & ((1 - 2 * edge) * se / (up * (1 - up)) > _SKEWED))

    def exact_bounds(self, bounds: Floats, where: Bools, tail: float) -> None:
        """Fill in the exact bounds [M, 2] of some estimates."""
        value, size = self.found.value, self.found.effective
        even = where & self.even
        q = tail ** (1 / np.maximum(size[even], 1))
        bounds[even] = (value[even] * q)[:, None] + np.outer(1 - q, [self.low, self.high])
        rest = where & ~self.even
        bounds[rest] = _exact(self.found.up[rest], self.found.down[rest], size[rest], tail, signed=self.low < 0)


def _exact(up: Floats, down: Floats, size: Floats, tail: float, signed: bool) -> Floats:
    """Clopper-Pearson's interval [M, 2] of a rate; of two rates' difference by Newcombe's square-and-add of theirs.

    The trials are the effective clusters: whole clusters won or lost spread the most, so it is conservative.
    """
    low, high = _clopper_pearson(up, size, tail)
    if not signed:
        return np.column_stack([low, high])
    less, more = _clopper_pearson(down, size, tail)
    gap = up - down
    return np.column_stack([gap - np.hypot(up - low, more - down), gap + np.hypot(high - up, down - less)])


def _clopper_pearson(rate: Floats, trials: Floats, tail: float) -> tuple[Floats, Floats]:
    from scipy.special import betaincinv  # scipy.stats has the same, takes seconds to import and is slow to call

    won = np.clip(rate, 0, 1) * trials
    low = np.where(won > 0, betaincinv(np.maximum(won, SAME), trials - won + 1, tail), 0.0)
    high = np.where(won < trials, betaincinv(won + 1, np.maximum(trials - won, SAME), 1 - tail), 1.0)
    return low, high


def _student(found: Jackknife, tail: float) -> Floats:
    """Student's t [M] at one tail, with one degree of freedom less than there are effective clusters."""
    from scipy.special import stdtrit

    return np.asarray(stdtrit(np.maximum(found.effective - 1, 1), 1 - tail), dtype=np.float64)


def _estimates(found: Jackknife, rules: _Rules, bounds: Floats, half: Floats, method: Floats) -> list[Estimate]:
    bounds = np.clip(bounds, rules.low, rules.high)
    # an exact interval is wider than its standard error says
    reach = np.where(method == "exact", np.fmax(half, (bounds[:, 1] - bounds[:, 0]) / 2), half)
    detectable = np.where(found.se > SAME, reach + _student(found, 1 - POWER) * found.se, np.nan)
    columns = zip(found.value, found.se, bounds, found.clusters, found.effective, detectable, method, strict=True)
    return [
        Estimate(finite(v), finite(s), finite(b[0]), finite(b[1]), int(n), float(g), finite(d), m)
        for v, s, b, n, g, d, m in columns
    ]


def finite(value: float) -> float | None:
    """A number, or ``None`` for NaN: it does not exist."""
    return None if np.isnan(value) else float(value)
