"""The interval rules and the cluster bootstrap's machinery."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import beta, t

from pipeline.stats import clusters as clusters_module
from pipeline.stats.clusters import (
    Bootstrap,
    ClusterSums,
    bootstrap_means,
    cluster_sums,
    cluster_weights,
    effective_clusters,
)
from pipeline.stats.intervals import mean_interval, mean_intervals, simultaneous_intervals


def test_se_of_unequal_clusters_is_the_jackknife_of_the_ratio() -> None:
    values, clusters = np.array([1.0, 0.0, 1.0, 0.5, 0.5, 1.0]), np.array([0, 0, 0, 1, 1, 2])
    without = [values[clusters != c].mean() for c in range(3)]
    expected = np.sqrt(2 / 3 * sum((w - values.mean()) ** 2 for w in without))
    assert mean_interval(values, clusters).se == pytest.approx(expected)


def test_few_clusters_use_t_and_many_the_bootstrap() -> None:
    rng = np.random.default_rng(0)
    few, many = rng.random(99), rng.random(100)
    a, b = mean_interval(few, np.arange(99)), mean_interval(many, np.arange(100))
    assert (a.method, b.method) == ("t", "boot")
    assert a.se == pytest.approx(few.std(ddof=1) / np.sqrt(99))
    assert a.low == pytest.approx(few.mean() - t.ppf(0.975, 98) * a.se)
    assert b.se is not None and b.low == pytest.approx(many.mean() - 1.96 * b.se, abs=0.1 * b.se)


def test_unequal_clusters_count_as_fewer_equal_ones() -> None:
    sizes = np.maximum(np.round(80 / np.arange(1, 81)), 1).astype(int)  # 80, 40, 27 ... 1
    assert effective_clusters(sizes) == pytest.approx(sizes.sum() ** 2 / (sizes**2).sum()) and len(sizes) == 80
    values = np.random.default_rng(0).random(sizes.sum())
    found = mean_interval(values, np.repeat(np.arange(80), sizes))
    assert found.method == "t" and found.n_clusters == 80 and 14 < found.effective < 16
    assert found.se is not None and found.low == pytest.approx(
        found.value - t.ppf(0.975, found.effective - 1) * found.se
    )


def test_one_giant_cluster_has_no_interval() -> None:
    clusters = np.concatenate([np.zeros(100, dtype=int), np.arange(1, 11)])
    found = mean_interval(np.random.default_rng(0).random(110), clusters)
    assert found.effective < 2 and (found.se, found.low, found.high, found.method) == (None, None, None, "none")


def test_a_part_of_few_clusters_limits_the_mean_of_parts() -> None:
    equal = np.zeros((40, 2))
    equal[:20, 0] = equal[20:, 1] = 1  # two languages without a common cluster
    assert effective_clusters(equal) == pytest.approx(39)
    assert effective_clusters(np.ones((20, 2))) == 20  # every cluster in both
    uneven = np.zeros((102, 2))
    uneven[:2, 0] = uneven[2:, 1] = 1
    assert 2 < effective_clusters(uneven) < 2.2
    assert effective_clusters(uneven[1:]) == 1


def test_rates_near_the_ends_have_exact_bounds() -> None:
    values = np.array([1.0] * 59 + [0.0])
    found = mean_interval(values, np.arange(60))
    assert found.method == "exact"
    assert (found.low, found.high) == pytest.approx((beta.ppf(0.025, 59, 2), beta.ppf(0.975, 60, 1)))
    lost = mean_interval(1 - values, np.arange(60))
    assert (lost.low, lost.high) == pytest.approx((1 - found.high, 1 - found.low))
    sure = mean_interval(np.ones(60), np.arange(60))
    assert (sure.low, sure.high) == pytest.approx((0.025 ** (1 / 60), 1.0)) and found.low < sure.low
    gap = mean_interval(np.array([1.0, 1.0] + [0.0] * 398), np.arange(400), low=-1.0)
    assert gap.method == "exact" and gap.low is not None and gap.high is not None
    assert gap.low < 0 < gap.high and gap.high > 2 / 400 + 1.96 * np.sqrt(2) / 400  # further than a normal one


def test_what_can_be_detected_follows_the_degrees_of_freedom_and_the_level() -> None:
    values = np.random.default_rng(0).normal(0, 0.2, 6)
    found = mean_interval(values, np.arange(6), low=-1.0)
    assert found.se is not None
    assert found.detectable == pytest.approx((t.ppf(0.975, 5) + t.ppf(0.8, 5)) * found.se)  # 3.49, not 2.8
    sums = cluster_sums(np.random.default_rng(1).normal(0, 0.2, (6, 10)), np.arange(6))
    together = simultaneous_intervals(sums, [[k] for k in range(10)], Bootstrap(), -1.0, 1.0)[0]
    assert together.detectable == pytest.approx((t.ppf(1 - 0.0025, 5) + t.ppf(0.8, 5)) * together.se)


def test_the_detectable_difference_is_found_in_eighty_percent_of_samples() -> None:
    """A normal sample of 6 whose true mean is the detectable difference at the true standard error."""
    rng = np.random.default_rng(0)
    se = 0.1 / np.sqrt(6)
    shift = (t.ppf(0.975, 5) + t.ppf(0.8, 5)) * se
    sums = cluster_sums(rng.normal(shift, 0.1, (6, 4000)), np.arange(6))
    found = mean_intervals(sums, [[k] for k in range(4000)], Bootstrap(), -1.0, 1.0)
    assert 0.78 < np.mean([e.low is not None and e.low > 0 for e in found]) < 0.85


def test_a_nearly_equal_pair_does_not_widen_the_others() -> None:
    """Two systems that differ on one prompt: a draw without it has no spread, so max-T cannot speak of it."""
    rng = np.random.default_rng(0)
    rare = np.zeros(300)
    rare[0] = 1.0
    sums = cluster_sums(np.column_stack([rng.choice([-1, 0, 1], 300), rare]), np.arange(300))
    wide, narrow = simultaneous_intervals(sums, [[0], [1]], Bootstrap(2000), -1.0, 1.0)
    assert (wide.method, narrow.method) == ("boot", "exact")
    assert wide.high is not None and wide.value is not None and wide.se is not None
    assert 2.0 < (wide.high - wide.value) / wide.se < 2.5


def test_t_interval_stays_in_range() -> None:
    estimate = mean_interval(np.array([1.0, 0.5, 0.0]), np.arange(3))
    assert (estimate.low, estimate.high, estimate.method) == (0.0, 1.0, "t")


def test_clusters_that_cross_parts_keep_their_covariance_in_every_draw() -> None:
    """Two languages that always agree are as uncertain as one of them."""
    values = np.random.default_rng(0).choice([0.0, 0.5, 1.0], 200)
    sums = ClusterSums(np.column_stack([values, values]), np.ones((200, 2)), np.zeros(200, dtype=np.int64))
    one, both = simultaneous_intervals(sums, [[0], [0, 1]], Bootstrap(2000))
    assert one.method == "boot" and (one.se, one.low, one.high) == pytest.approx((both.se, both.low, both.high))


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
    monkeypatch.setattr(clusters_module, "_CHUNK_CELLS", 20)
    assert (np.concatenate(list(cluster_weights(strata[:3] * 0, 50, 1))) == whole).all()


def test_drawing_equal_clusters_together_is_the_same_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    sums = cluster_sums(np.random.default_rng(0).choice([0, 0.5, 1], 400), np.arange(400))
    apart = bootstrap_means(sums, [[0]], Bootstrap(draws=20_000))
    monkeypatch.setattr(clusters_module, "_POOL_ABOVE", 10)
    together = bootstrap_means(sums, [[0]], Bootstrap(draws=20_000))
    assert together.mean() == pytest.approx(apart.mean(), abs=0.001)
    assert together.std() == pytest.approx(apart.std(), rel=0.03)
