"""Estimates from prompts' values by language, pooled (``all``) and ``macro``, with one shared bootstrap."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from pipeline.core.columns import Floats, Ints
from pipeline.stats.clusters import Bootstrap, ClusterSums
from pipeline.stats.intervals import Estimate

Intervals = Callable[[ClusterSums, Sequence[Sequence[int]], Bootstrap, float, float], list[Estimate]]


class Frame(Protocol):
    """P prompts in C clusters and L languages.

    Attributes:
        languages: names [L], sorted.
        n_clusters: C.
        prompt_language, prompt_cluster: codes [P].
    """

    @property
    def languages(self) -> list[str]: ...
    @property
    def n_clusters(self) -> int: ...
    @property
    def prompt_language(self) -> Ints: ...
    @property
    def prompt_cluster(self) -> Ints: ...


@dataclass(frozen=True)
class Sample:
    """The valid values of one quantity (a comparison's score, or a difference).

    Attributes:
        prompt: codes [V].
        value: [V].
        languages: codes of the languages it was asked in, valid values or not.
    """

    prompt: Ints
    value: Floats
    languages: Ints


def strata(frame: Frame) -> Ints:
    """Stratum of every cluster: its language, or 0 for all clusters of languages that a cluster crosses."""
    pairs = np.unique(np.stack([frame.prompt_cluster, frame.prompt_language]), axis=1)
    crossing = np.bincount(pairs[0], minlength=frame.n_clusters) > 1
    shared = np.zeros(len(frame.languages), dtype=bool)
    shared[pairs[1][crossing[pairs[0]]]] = True
    strata = np.zeros(frame.n_clusters, dtype=np.int64)
    strata[pairs[0]] = np.where(shared[pairs[1]], 0, 1 + pairs[1])
    return strata


def estimate(
    frame: Frame,
    samples: Sequence[Sample],
    bootstrap: Bootstrap,
    low: float,
    high: float,
    intervals: Intervals,
    only: str | None = None,
) -> list[dict[str, Estimate]]:
    """Per sample: language name (then ``all``, ``macro``) -> estimate; one bootstrap for all of them."""
    n_languages = len(frame.languages)
    totals: list[Floats] = []
    counts: list[Floats] = []
    labels: list[tuple[int, str]] = []
    parts: list[list[int]] = []
    for i, sample in enumerate(samples):
        cell = frame.prompt_cluster[sample.prompt] * n_languages + frame.prompt_language[sample.prompt]
        size = frame.n_clusters * n_languages
        total = np.bincount(cell, weights=sample.value, minlength=size).reshape(-1, n_languages)[:, sample.languages]
        count = np.bincount(cell, minlength=size).reshape(-1, n_languages)[:, sample.languages]
        first = i + sum(t.shape[1] - 1 for t in totals)
        columns = list(range(first, first + len(sample.languages)))
        totals.append(np.hstack([total, total.sum(axis=1, keepdims=True)]))
        counts.append(np.hstack([count, count.sum(axis=1, keepdims=True)]).astype(np.float64))
        named = [(frame.languages[code], [column]) for code, column in zip(sample.languages, columns, strict=True)]
        for name, part in [*named, ("all", [first + len(columns)]), ("macro", columns)]:
            if only in (None, name):
                labels.append((i, name))
                parts.append(part)
    result: list[dict[str, Estimate]] = [{} for _ in samples]
    if parts:
        sums = ClusterSums(np.hstack(totals), np.hstack(counts), strata(frame))
        for (i, name), estimate in zip(labels, intervals(sums, parts, bootstrap, low, high), strict=True):
            result[i][name] = estimate
    return result
