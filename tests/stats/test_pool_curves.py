"""Closed-form pool curves against every subset; hope, risk and recovered share by hand."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from pipeline.core.errors import InputError
from pipeline.stats.clusters import Bootstrap
from pipeline.stats.pool_curves import hope_and_risk, pool_curves, recovered_share


def test_curves_equal_all_subsets_of_eight() -> None:
    values = np.random.default_rng(0).normal(size=(3, 8))
    values[1, :4] = values[1, 4]  # ties
    curves = pool_curves(values)
    for p in range(3):
        for m in range(1, 9):
            subsets = list(combinations(values[p], m))
            assert curves.best[p, m - 1] == pytest.approx(np.mean([max(s) for s in subsets]))
            assert curves.worst[p, m - 1] == pytest.approx(np.mean([min(s) for s in subsets]))
            assert curves.mean[p, m - 1] == pytest.approx(np.mean([np.mean(s) for s in subsets]))


def test_large_pools_do_not_overflow() -> None:
    curves = pool_curves(np.arange(2000.0)[None])
    assert curves.best[0, 0] == pytest.approx(999.5) and curves.best[0, -1] == 1999
    assert np.isfinite(curves.best).all() and (np.diff(curves.best[0]) >= 0).all()


def test_the_best_is_chosen_on_one_order_and_scored_on_the_other() -> None:
    orders = np.array([[[1.0, 0.0, 0.5], [0.2, 0.4, 0.6]]])
    curves = pool_curves(orders.mean(axis=1), orders)
    # of all three: ab chooses the first, which ba scores 0.2; ba chooses the last, which ab scores 0.5
    assert curves.best[0, 2] == pytest.approx((0.2 + 0.5) / 2) and curves.worst[0, 2] == pytest.approx((0.4 + 1.0) / 2)
    pairs = [(0.2 + 0.0) / 2, (0.2 + 0.5) / 2, (0.6 + 0.5) / 2]  # candidates 1+2, 1+3, 2+3
    assert curves.best[0, 1] == pytest.approx(np.mean(pairs)) and curves.best[0, 0] == pytest.approx(0.45)
    tied = np.array([[[1.0, 1.0, 0.0], [0.2, 0.6, 0.9]]])
    assert pool_curves(tied.mean(axis=1), tied).best[0, 2] == pytest.approx(((0.2 + 0.6) / 2 + 0.0) / 2)
    same = np.random.default_rng(0).random((5, 6))
    twice = pool_curves(same, np.stack([same, same], axis=1))
    assert twice.best == pytest.approx(pool_curves(same).best) and twice.worst == pytest.approx(pool_curves(same).worst)


def test_a_guessing_judge_gives_no_hope() -> None:
    """The best of 8 guesses looked 65% better than the greedy answer."""
    orders = np.random.default_rng(0).choice([0.0, 0.5, 1.0], (2000, 2, 8))
    greedy = np.full(2000, 0.5)
    few = Bootstrap(draws=200)
    cursed = hope_and_risk(orders.mean(axis=1), greedy, np.arange(2000), few)
    honest = hope_and_risk(orders.mean(axis=1), greedy, np.arange(2000), few, orders=orders)
    assert cursed.hope is not None and cursed.hope > 0.6
    assert honest.hope == pytest.approx(0, abs=0.03) and honest.risk == pytest.approx(0, abs=0.03)
    assert honest.hope_absolute.low is not None and honest.hope_absolute.low < 0


def test_hope_and_risk() -> None:
    found = hope_and_risk(np.array([[0.2, 0.8], [0.6, 0.4]]), np.array([0.5, 0.3]), np.arange(2))
    assert (found.hope, found.risk) == (pytest.approx((0.7 - 0.4) / 0.4), pytest.approx((0.3 - 0.4) / 0.4))
    assert found.hope_absolute.value == pytest.approx(0.3) and found.risk_absolute.value == pytest.approx(-0.1)
    assert found.hope_absolute.se == pytest.approx(0, abs=1e-12)  # 0.3 on both prompts


def test_no_ratio_to_a_mean_that_is_not_positive() -> None:
    found = hope_and_risk(np.array([[1.0, 0.0]]), np.array([0.0]), np.arange(1))
    assert (found.hope, found.risk, found.hope_absolute.value, found.hope_absolute.se) == (None, None, 1.0, None)


def test_a_missing_value_names_its_row() -> None:
    with pytest.raises(InputError, match="prompt row 1: a value of the pool"):
        pool_curves(np.array([[0.0], [np.nan]]))
    with pytest.raises(InputError, match="prompt row 0: the greedy value"):
        hope_and_risk(np.array([[0.0]]), np.array([np.nan]), np.arange(1))
    with pytest.raises(InputError, match="N >= 1"):
        pool_curves(np.empty((2, 0)))
    with pytest.raises(InputError, match="no prompt"):
        hope_and_risk(np.empty((0, 2)), np.empty(0), np.empty(0, dtype=int))


@pytest.mark.parametrize("clusters", [20, 200])
def test_recovered_share(clusters: int) -> None:
    rng = np.random.default_rng(0)
    base = rng.random(clusters)
    room = rng.random(clusters)
    found = recovered_share(base + 0.25 * room, base, base + room, np.arange(clusters))
    assert found.value == pytest.approx(0.25)
    noisy = base + 0.25 * room + rng.normal(0, 0.1, clusters)
    share = recovered_share(noisy, base, base + room, np.arange(clusters))
    assert share.method == ("t" if clusters < 50 else "boot")
    assert share.low is not None and share.high is not None and share.value is not None
    assert share.low < share.value < share.high and share.low < 0.25 < share.high


@pytest.mark.filterwarnings("error")
def test_draws_without_any_headroom_make_the_interval_wider_and_not_nan() -> None:
    room = np.zeros(120)
    room[:4] = 1.0  # 1.8% of the draws have none of these
    selector = np.where(np.arange(120) % 2, 0.0, room)
    share = recovered_share(selector, np.zeros(120), room, np.arange(120))
    assert (share.value, share.low, share.high) == (0.5, 0.0, 1.0)


def test_share_is_null_when_the_headroom_may_be_zero() -> None:
    rng = np.random.default_rng(0)
    oracle = rng.normal(0, 1, 100)
    assert recovered_share(np.ones(100), np.zeros(100), oracle, np.arange(100)).value is None
    assert recovered_share(np.zeros(0), np.zeros(0), np.zeros(0), np.zeros(0, dtype=int)).value is None
    assert recovered_share(np.array([1.0, np.nan]), np.zeros(2), np.ones(2), np.arange(2)).n_clusters == 1
