"""The interval rules and the cluster bootstrap's machinery."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.stats import intervals
from pipeline.stats.intervals import Bootstrap, bootstrap_means, cluster_sums, cluster_weights, mean_interval


def test_se_of_unequal_clusters_is_the_linearised_ratio() -> None:
    values, clusters = np.array([1.0, 0.0, 1.0, 0.5, 0.5, 1.0]), np.array([0, 0, 0, 1, 1, 2])
    mean = values.mean()
    sums = [sum(v - mean for v, c in zip(values, clusters, strict=True) if c == g) for g in range(3)]
    expected = np.sqrt(3 / 2 * sum(s**2 for s in sums)) / 6
    assert mean_interval(values, clusters).se == pytest.approx(expected)


def test_few_clusters_use_t_and_many_the_bootstrap() -> None:
    rng = np.random.default_rng(0)
    few, many = rng.random(49), rng.random(50)
    a, b = mean_interval(few, np.arange(49)), mean_interval(many, np.arange(50))
    assert (a.method, b.method) == ("t", "boot")
    assert a.se is not None and a.low == pytest.approx(few.mean() - 2.010635 * a.se)
    assert b.se is not None and b.low == pytest.approx(many.mean() - 1.96 * b.se, abs=0.1 * b.se)


def test_t_interval_stays_in_range() -> None:
    estimate = mean_interval(np.array([1.0, 1.0, 0.0]), np.arange(3))
    assert (estimate.low, estimate.high) == (0.0, 1.0)


def test_no_values_and_missing_values() -> None:
    assert mean_interval(np.array([]), np.array([], dtype=int)).value is None
    assert mean_interval(np.array([np.nan, 0.5]), np.arange(2)).value == 0.5


def test_unknown_range_gives_no_exact_interval() -> None:
    estimate = mean_interval(np.ones(5), np.arange(5), low=-np.inf, high=np.inf)
    assert (estimate.value, estimate.low, estimate.method) == (1.0, None, "none")


def test_weights_keep_every_stratum_and_do_not_depend_on_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    strata = np.array([0, 0, 0, 1, 1])
    whole = np.concatenate(list(cluster_weights(strata[:3] * 0, 50, 1)))
    weights = np.concatenate(list(cluster_weights(strata, 50, 1)))
    assert (weights[:, :3].sum(axis=1) == 3).all() and (weights[:, 3:].sum(axis=1) == 2).all()
    monkeypatch.setattr(intervals, "_CHUNK_CELLS", 20)
    assert (np.concatenate(list(cluster_weights(strata[:3] * 0, 50, 1))) == whole).all()


def test_drawing_equal_clusters_together_is_the_same_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    sums = cluster_sums(np.random.default_rng(0).choice([0, 0.5, 1], 400), np.arange(400))
    apart = bootstrap_means(sums, [[0]], Bootstrap(draws=20_000))
    monkeypatch.setattr(intervals, "_POOL_ABOVE", 10)
    together = bootstrap_means(sums, [[0]], Bootstrap(draws=20_000))
    assert together.mean() == pytest.approx(apart.mean(), abs=0.001)
    assert together.std() == pytest.approx(apart.std(), rel=0.03)
