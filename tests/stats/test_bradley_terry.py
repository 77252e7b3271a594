"""Bradley-Terry against an independent implementation, and its refusals."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import t

from pipeline.core.errors import InputError
from pipeline.stats.bradley_terry import bradley_terry, fit_strengths
from pipeline.stats.clusters import Bootstrap
from pipeline.stats.games import Games, games_from_table
from tests.stats.tables import both_orders, flat, rows_of


def tournament(prompts: int = 40) -> Games:
    rng = np.random.default_rng(0)
    rows = []
    for a, b, p in (("a", "b", 0.6), ("a", "c", 0.8), ("b", "c", 0.7), ("c", "d", 0.4), ("d", "a", 0.3)):
        scores = rng.choice([1.0, 0.5, 0.0], prompts, p=[p * 0.8, 0.2, (1 - p) * 0.8])
        rows += both_orders({"en": list(scores)}, system=a, opponent=b)
    return games_from_table(flat(rows))


def test_equals_choix() -> None:
    choix = pytest.importorskip("choix")
    games = tournament()
    names = "abcd"
    pairs = []  # a win counts as two pairs, a tie as one each way
    for code, kind in enumerate(games.comparisons):
        i, j = names.index(kind.system), names.index(kind.opponent)
        for score in games.score[(games.comparison == code) & (games.order == 0)]:
            pairs += [(i, j)] * int(2 * score) + [(j, i)] * int(2 - 2 * score)
    expected = choix.ilsr_pairwise(4, pairs, max_iter=10_000, tol=1e-12)
    found = rows_of(bradley_terry(games, "b", Bootstrap(50)), "system")
    for i, name in enumerate(names):
        assert found[name]["strength"] == pytest.approx(expected[i] - expected[1], abs=1e-6)
    assert found["b"]["ci_low"] == found["b"]["ci_high"] == 0
    assert found["a"]["ci_low"] < found["a"]["strength"] < found["a"]["ci_high"]
    assert found["a"]["signature"].startswith("bradley-terry|")


def test_equals_a_binomial_regression() -> None:
    sm = pytest.importorskip("statsmodels.api")
    wins = np.array([[0, 12.5, 20], [7.5, 0, 9], [4, 11, 0]])
    pairs = [(0, 1), (0, 2), (1, 2)]
    x = np.array([[(k == i) - (k == j) for k in (1, 2)] for i, j in pairs], dtype=float)
    y = np.array([[wins[i, j], wins[j, i]] for i, j in pairs])
    expected = sm.GLM(y, x, family=sm.families.Binomial()).fit(tol=1e-12).params
    theta = fit_strengths(wins[None])[0]
    assert theta[1:] - theta[0] == pytest.approx(expected, abs=1e-6)


def test_one_opponent_is_the_logit_of_the_win_rate() -> None:
    games = games_from_table(flat(both_orders({"en": [1.0, 1.0, 1.0, 0.5, 0.0]})))
    assert rows_of(bradley_terry(games, "o", Bootstrap(20)), "system")["s"]["strength"] == pytest.approx(
        np.log(0.7 / 0.3)
    )


def test_unconnected_graph_is_an_error_or_a_signed_ridge() -> None:
    games = games_from_table(flat(both_orders({"en": [1.0, 1.0]})))
    with pytest.raises(InputError, match="not strongly connected"):
        bradley_terry(games, "o", Bootstrap())
    row = rows_of(bradley_terry(games, "o", Bootstrap(20), ridge=1.0), "system")["s"]
    # by hand: strengths +-t/2, and 2 * (1 - sigma(t)) = t / 2 at the optimum
    assert 2 / (1 + np.exp(row["strength"])) == pytest.approx(row["strength"] / 2)
    assert "|ridge:1|" in row["signature"]


def test_no_interval_when_draws_have_no_solution() -> None:
    scores: list[float | None] = [1.0] * 120 + [0.0]
    row = bradley_terry(games_from_table(flat(both_orders({"en": scores}))), "o", Bootstrap(100))[0]
    assert row.strength == pytest.approx(np.log(120)) and row.ci_low is None


def test_few_clusters_use_the_jackknife_and_t() -> None:
    """One opponent: the strength is logit(win-rate), whose delta-method error is known."""
    scores: list[float | None] = [1.0] * 6 + [0.0] * 4
    row = bradley_terry(games_from_table(flat(both_orders({"en": scores}))), "o", Bootstrap())[0]
    se = np.std(scores, ddof=1) / np.sqrt(10) / (0.6 * 0.4)  # type: ignore[arg-type]
    assert row.ci_high is not None and row.ci_high - row.strength == pytest.approx(t.ppf(0.975, 9) * se, rel=0.01)
    assert "|interval:t|" in row.signature
    alone = flat(both_orders({"en": scores}), cluster_id=["q"] * 20)
    assert bradley_terry(games_from_table(alone), "o", Bootstrap())[0].ci_low is None


@pytest.mark.parametrize("clusters", [3, pytest.param(10, marks=pytest.mark.slow)])
def test_strengths_of_few_clusters_cover(clusters: int) -> None:
    """Three systems that answer every question; the percentile bootstrap covers 75% at 3 clusters and 89% at 10."""
    rng = np.random.default_rng(clusters)
    truth = 1 / (1 + np.exp(-np.array([0.5, 1.0, 0.5])))  # a over b, a over c, b over c
    held = tried = 0
    for _ in range(400):
        drawn = rng.binomial(30, truth, size=(clusters, 3)) / 30
        rows = [
            (f"q{i}", "en", *pair, order, score)
            for i, line in enumerate(drawn)
            for pair, score in zip((("a", "b"), ("a", "c"), ("b", "c")), line, strict=True)
            for order in ("ab", "ba")
        ]
        row = rows_of(bradley_terry(games_from_table(flat(rows)), "b", Bootstrap()), "system")["a"]
        tried += row["ci_low"] is not None
        held += row["ci_low"] is not None and row["ci_low"] <= 0.5 <= row["ci_high"]
    assert tried == 400 and 0.92 <= held / tried <= 0.98


def test_ties_only_and_null_scores() -> None:
    rows = both_orders({"en": [0.5, 0.5, None]})
    row = rows_of(bradley_terry(games_from_table(flat(rows)), "o", Bootstrap(10)), "system")["s"]
    assert row["strength"] == pytest.approx(0) and row["ci_low"] is None  # no spread, and nothing that bounds it
    with pytest.raises(InputError, match="no prompt has a valid score"):
        bradley_terry(games_from_table(flat(both_orders({"en": [None]}))), "o", Bootstrap())


def test_unknown_names_and_mixed_judges_are_refused() -> None:
    rows = both_orders({"en": [1.0, 0.0]})
    with pytest.raises(InputError, match="anchor 'x'"):
        bradley_terry(games_from_table(flat(rows)), "x", Bootstrap())
    mixed = games_from_table(flat(rows + rows, judge=["j"] * 4 + ["k"] * 4))
    with pytest.raises(InputError, match="one judge and template"):
        bradley_terry(mixed, "o", Bootstrap())
    with pytest.raises(InputError, match="no games of judge 'l'"):
        bradley_terry(mixed, "o", Bootstrap(), judge="l")
    assert len(bradley_terry(mixed, "o", Bootstrap(5), judge="k")) == 2
