"""A sweep's curves and choices, against numbers worked out by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from pipeline.core.errors import InputError
from pipeline.stats.clusters import Bootstrap
from pipeline.stats.pools import PoolValues, Quality, TaskQuality, split_clusters
from pipeline.stats.sweep import Sweep, sweep_choices, sweep_points
from tests.stats.tables import rows_of as rows

GRID = {"cool": (0.3, 0.0), "base": (0.7, 0.0), "hot": (1.0, 0.1)}
SWEEP = Sweep(GRID, "base", "mbr")
METRICS = {"translation": ("chrf",)}
FAST = Bootstrap(draws=200)


def quality(
    selected: dict[str, list[float]],
    languages: list[str] | None = None,
    clusters: list[str] | None = None,
    pools: dict[str, list[list[float]]] | None = None,
    greedy: list[float] | None = None,
) -> Quality:
    """One task of P prompts: per setting the selector's quality [P] and the candidates' [P][N]; the greedy one's."""
    n = len(next(iter(selected.values())))
    names, language = np.unique(languages or ["es"] * n, return_inverse=True)
    ids, cluster = np.unique(clusters or [f"c{i:03}" for i in range(n)], return_inverse=True)
    zero = np.array(greedy if greedy is not None else [0.5] * n)
    values = pools or {name: [[v, v] for v in numbers] for name, numbers in selected.items()}
    task = TaskQuality(
        task="translation",
        clusters=ids.tolist(),
        languages=names.tolist(),
        prompt_language=language,
        prompt_cluster=cluster,
        pools={
            ("chrf", name): PoolValues(
                [np.array(v) for v in numbers], zero, np.array([max(v) for v in numbers]), [None] * len(numbers)
            )
            for name, numbers in values.items()
        },
        systems={("chrf", f"{name}/mbr"): np.array(numbers) for name, numbers in selected.items()},
        missing={},
        plans=GRID,
    )
    return Quality({"translation": task})


def test_curves_equal_an_enumeration_of_subsets() -> None:
    rng = np.random.default_rng(1)
    pool, greedy = rng.random((12, 4)), rng.random(12)
    languages = ["es", "es", "ja"] * 4
    values = {"cool": pool.tolist(), "base": (pool / 2).tolist(), "hot": pool.tolist()}
    found = quality({name: [0.25] * 12 for name in GRID}, languages, pools=values, greedy=greedy.tolist())
    table = rows(sweep_points(found, SWEEP, FAST), "setting", "language", "n")
    assert {k[2] for k in table} == {1, 2, 3, 4} and {k[1] for k in table} == {"es", "ja", "all", "macro"}
    es = np.array([language == "es" for language in languages])
    for n in (1, 2, 4):
        subsets = [list(s) for s in itertools.combinations(range(4), n)]
        best = np.mean([pool[:, s].max(axis=1) for s in subsets], axis=0)
        worst = np.mean([pool[:, s].min(axis=1) for s in subsets], axis=0)
        row = table["cool", "es", n]
        assert (row["best"], row["worst"]) == (pytest.approx(best[es].mean()), pytest.approx(worst[es].mean()))
        assert row["hope_absolute"] == pytest.approx((best - greedy)[es].mean())
        assert row["risk"] == pytest.approx((worst - greedy)[es].mean() / greedy[es].mean())
        assert row["hope_low"] < row["hope_absolute"] < row["hope_high"]
        mean = table["cool", "macro", n]
        assert mean["best"] == pytest.approx((best[es].mean() + best[~es].mean()) / 2)
        assert row["mean"] == pytest.approx(pool[es].mean()) and row["n_prompts"] == 8
    assert table["base", "all", 4]["mean"] == pytest.approx(pool.mean() / 2)
    assert table["hot", "all", 4]["selected"] == 0.25 and table["hot", "all", 3]["selected"] is None
    assert (table["hot", "all", 4]["temperature"], table["hot", "all", 4]["min_p"]) == (1.0, 0.1)


def test_without_a_greedy_answer_there_is_no_hope() -> None:
    found = quality({name: [0.25] * 3 for name in GRID}, greedy=[float("nan")] * 3)
    row = rows(sweep_points(found, SWEEP, FAST), "setting", "language", "n")["hot", "all", 2]
    assert (row["greedy"], row["hope"], row["risk_absolute"], row["mean"]) == (None, None, None, 0.25)


def split(n: int) -> np.ndarray:
    """Which of n clusters are for development."""
    empty = quality({"base": [0.0] * n})
    development, _ = split_clusters(empty, 0.5, 1)
    return np.array([f"c{i:03}" in development for i in range(n)])


def test_the_best_on_development_clusters_is_scored_on_the_others() -> None:
    """cool is best where the choice is made and worse elsewhere: its own data would have praised it."""
    n = 40
    development = split(n)
    rng = np.random.default_rng(0)
    base = 0.5 + rng.normal(0, 0.01, n)
    cool = base + np.where(development, 0.3, -0.1) + rng.normal(0, 0.01, n)
    hot = base + np.where(development, 0.1, 0.3)
    found = quality({"cool": cool.tolist(), "base": base.tolist(), "hot": hot.tolist()})
    row = rows(sweep_choices(found, SWEEP, METRICS, FAST), "language")["all"]
    assert development.sum() == 20 and (row["n_development"], row["n_held_out"], row["n_clusters"]) == (20, 20, 20)
    assert row["best"] == "cool" and row["temperature"] == 0.3
    assert row["development"] == pytest.approx(cool[development].mean())
    assert row["held_out"] == pytest.approx(cool[~development].mean())
    assert row["difference"] == pytest.approx((cool - base)[~development].mean())
    assert row["ci_high"] < 0 and not row["resolved"] and row["recommended"] == "base"
    assert row["note"] == "worse than the base"


def test_a_resolved_gain_is_recommended_and_noise_is_not() -> None:
    rng = np.random.default_rng(0)
    base = rng.uniform(0.4, 0.6, 40)
    cool = base + rng.normal(0.1, 0.02, 40)
    sure = sweep_choices(
        quality({"cool": cool.tolist(), "base": base.tolist(), "hot": base.tolist()}), SWEEP, METRICS, FAST
    )
    row = rows(sure, "language")["all"]
    assert row["resolved"] and row["recommended"] == "cool" and row["ci_low"] > 0
    noise = base + rng.normal(0.02, 0.1, 40)
    loud = sweep_choices(
        quality({"cool": noise.tolist(), "base": base.tolist(), "hot": (noise - 0.3).tolist()}), SWEEP, METRICS, FAST
    )
    row = rows(loud, "language")["all"]
    assert not row["resolved"] and row["recommended"] == "base"
    assert row["best"] == "cool" and "cannot be told from the base" in row["note"]
    assert row["minimum_detectable"] == pytest.approx((2.0930 + 0.8610) * row["se"], rel=1e-4)


def test_each_language_has_its_choice_and_its_intervals_hold_together() -> None:
    rng = np.random.default_rng(3)
    n = 80
    languages = ["es", "ja"] * (n // 2)
    clusters = [f"c{i // 2:03}" for i in range(n)]
    base = rng.uniform(0.4, 0.6, n)
    es = np.array([language == "es" for language in languages])
    cool = base + np.where(es, 0.1, -0.1) + rng.normal(0, 0.05, n)
    hot = base + np.where(es, -0.1, 0.1) + rng.normal(0, 0.05, n)
    found = quality({"cool": cool.tolist(), "base": base.tolist(), "hot": hot.tolist()}, languages, clusters)
    table = rows(sweep_choices(found, SWEEP, METRICS, FAST), "language")
    assert (table["es"]["recommended"], table["ja"]["recommended"]) == ("cool", "hot")
    assert table["es"]["n_clusters"] == 20 and table["es"]["n_held_out"] == 20
    assert "confidence:0.975" in table["es"]["signature"] and "confidence:" not in table["all"]["signature"]


def test_a_base_that_is_as_good_is_kept() -> None:
    same = [0.5, 0.6, 0.7, 0.2]
    row = rows(sweep_choices(quality({name: same for name in GRID}), SWEEP, METRICS, FAST), "language")["all"]
    assert (row["best"], row["recommended"], row["difference"]) == ("base", "base", None)
    assert row["note"] == "the base is best on the development clusters"


def test_one_cluster_decides_nothing() -> None:
    found = quality({"cool": [0.9] * 4, "base": [0.1] * 4, "hot": [0.1] * 4}, clusters=["only"] * 4)
    row = rows(sweep_choices(found, SWEEP, METRICS, FAST), "language")["all"]
    assert (row["best"], row["n_development"], row["n_held_out"], row["recommended"]) == (None, 0, 4, "base")
    assert row["note"] == "no development clusters to choose on" and row["n_enough"] is None
    every = Sweep(GRID, "base", "mbr", development=0.9)
    row = rows(sweep_choices(found, every, METRICS, FAST), "language")["all"]
    assert (row["best"], row["n_held_out"], row["held_out"], row["recommended"]) == ("cool", 0, None, "base")
    assert row["note"] == "no held-out clusters to check the choice on"


def test_few_clusters_and_a_language_with_none_of_its_own_on_one_side() -> None:
    development = split(8)
    languages = ["es" if d else "ja" for d in development]
    found = quality({"cool": [0.9, 0.8] * 4, "base": [0.1] * 8, "hot": [0.1] * 8}, languages)
    table = rows(sweep_choices(found, SWEEP, METRICS, FAST), "language")
    assert table["all"]["difference"] > 0.6 and not table["all"]["resolved"]
    assert table["all"]["note"] == "4 held-out clusters: from fewer than 6 nothing is claimed"
    assert (table["es"]["n_held_out"], table["es"]["recommended"]) == (0, "base")
    assert (table["ja"]["best"], table["ja"]["recommended"]) == (None, "base")


def test_how_many_candidates_are_enough() -> None:
    pool = [[0.0, 0.0, 0.0, 1.0]] * 6  # expected best of n: 1/4, 2/4, 3/4, 1
    found = quality({name: [0.5] * 6 for name in GRID}, pools={name: pool for name in GRID})
    for share, enough in ((0.3, 2), (0.66, 3), (0.9, 4)):
        table = sweep_choices(found, Sweep(GRID, "base", "mbr", enough=share), METRICS, FAST)
        assert rows(table, "language")["all"]["n_enough"] == enough


def test_what_cannot_be_compared_is_named() -> None:
    found = quality({name: [0.5] * 6 for name in GRID})
    (row,) = sweep_choices(found, SWEEP, {"translation": ("win",)}, FAST)
    assert (row.metric, row.best, row.recommended, row.resolved) == (None, None, "base", False)
    assert row.note == "it has no win: it needs references, or judge.candidates=true"
    with pytest.raises(InputError, match="no chrf of 'fusion' for cool, base, hot"):
        list(sweep_choices(found, Sweep(GRID, "base", "fusion"), METRICS, FAST))
    assert not [*sweep_points(Quality(), SWEEP, FAST), *sweep_choices(Quality(), SWEEP, METRICS, FAST)]
