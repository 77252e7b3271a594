"""Length control against the likelihood written out and maximised by scipy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import minimize

from pipeline.core.errors import InputError
from pipeline.stats.games import games_from_table
from pipeline.stats.length_control import length_controlled
from tests.stats.tables import both_orders, flat, rows_of


def table_of(scores: dict[str, list[float]], lengths: list[float]) -> object:
    both = [length for length in lengths for _ in range(2)]
    return games_from_table(flat(both_orders(dict(scores)), length=both, opponent_length=[100.0] * len(both)))


def test_equals_a_logistic_regression() -> None:
    rng = np.random.default_rng(1)
    language = np.repeat([0, 1], [60, 90])
    delta = rng.normal(20, [[40], [90]], size=(2, 150))[language, np.arange(150)].round()
    x = np.empty(150)
    for code in (0, 1):
        x[language == code] = np.tanh(delta[language == code] / delta[language == code].std(ddof=1))
    p = 1 / (1 + np.exp(-(np.array([0.5, -0.3])[language] + 1.2 * x)))
    score = (rng.random((150, 2)) < p[:, None]).mean(axis=1)

    def loss(beta: np.ndarray) -> float:
        eta = beta[language] + beta[2] * x
        return float(np.sum(np.logaddexp(0, eta) - score * eta))

    best = minimize(loss, np.zeros(3), method="BFGS", options={"gtol": 1e-9}).x
    games = table_of({"de": list(score[:60]), "en": list(score[60:])}, list(delta + 100))
    found = rows_of(length_controlled(games), "language")  # type: ignore[arg-type]
    de, en = 1 / (1 + np.exp(-best[:2]))
    expected = {"de": de, "en": en, "all": (60 * de + 90 * en) / 150, "macro": (de + en) / 2}
    for name, value in expected.items():
        assert found[name]["length_controlled_win_rate"] == pytest.approx(value, abs=1e-6)
        assert found[name]["phi"] == pytest.approx(best[2], abs=1e-5)
        assert found[name]["ci_low"] < value < found[name]["ci_high"]


def test_sandwich_equals_statsmodels() -> None:
    sm = pytest.importorskip("statsmodels.api")
    rng = np.random.default_rng(2)
    delta = rng.normal(size=200).round(3)
    score = rng.choice([0.0, 0.5, 1.0], 200)
    row = vars(next(length_controlled(table_of({"en": list(score)}, list(delta + 100)))))  # type: ignore[arg-type]
    design = np.column_stack([np.ones(200), np.tanh(delta / delta.std(ddof=1))])
    fit = sm.GLM(score, design, family=sm.families.Binomial()).fit(cov_type="HC0", tol=1e-12)
    rate = 1 / (1 + np.exp(-fit.params[0]))
    assert row["se"] == pytest.approx(fit.bse[0] * rate * (1 - rate) * np.sqrt(200 / 199), rel=1e-6)


def test_equal_lengths_leave_the_win_rate() -> None:
    rows = rows_of(length_controlled(table_of({"en": [1.0, 0.0, 0.5, 1.0]}, [100] * 4)), "language")  # type: ignore[arg-type]
    assert rows["en"]["length_controlled_win_rate"] == pytest.approx(0.625) and rows["en"]["phi"] is None


def test_a_language_that_always_wins_keeps_its_rate() -> None:
    games = table_of({"de": [1.0, 1.0], "en": [1.0, 0.0, 0.5, 1.0]}, [120, 130, 90, 110, 105, 130])
    rows = rows_of(length_controlled(games), "language")  # type: ignore[arg-type]
    alone = vars(next(length_controlled(table_of({"en": [1.0, 0.0, 0.5, 1.0]}, [90, 110, 105, 130]))))  # type: ignore[arg-type]
    assert rows["de"]["length_controlled_win_rate"] == 1.0 and rows["de"]["ci_low"] is None
    assert rows["en"]["length_controlled_win_rate"] == pytest.approx(alone["length_controlled_win_rate"])


def test_separation_by_length_is_null_and_one_prompt_has_no_interval() -> None:
    separated = vars(next(length_controlled(table_of({"en": [0.0, 0.0, 1.0, 1.0]}, [50, 60, 150, 160]))))  # type: ignore[arg-type]
    assert separated["length_controlled_win_rate"] is None and separated["phi"] is None
    one = vars(next(length_controlled(table_of({"en": [0.5]}, [120]))))  # type: ignore[arg-type]
    assert (one["length_controlled_win_rate"], one["se"]) == (pytest.approx(0.5), None)


def test_lengths_are_needed() -> None:
    with pytest.raises(InputError, match="opponent_length"):
        list(length_controlled(games_from_table(flat(both_orders({"en": [1.0]})))))


def test_a_missing_answer_loses_at_any_length() -> None:
    """Prompts without an answer were left out, so a system that seldom answers looked as good."""
    rng = np.random.default_rng(0)
    scores = rng.choice([0.0, 0.5, 1.0], 60)
    rows = both_orders({"en": list(scores)})
    length = [float(x) for x in np.repeat(rng.normal(100, 20, 60), 2)]
    whole = games_from_table(flat(rows, length=length, opponent_length=[100.0] * 120))
    rate = vars(next(length_controlled(whole)))["length_controlled_win_rate"]
    gone = np.isin(whole.prompt, np.arange(20))
    lost = replace(
        whole,
        forfeit=gone,
        score=np.where(gone, 0.0, whole.score),
        length_difference=np.where(gone, np.nan, whole.length_difference),
    )
    left_out = replace(whole, score=lost.score, length_difference=lost.length_difference)
    row, without = (vars(next(length_controlled(g))) for g in (lost, left_out))
    assert (row["n_prompts"], without["n_prompts"]) == (60, 40)
    assert row["length_controlled_win_rate"] == pytest.approx(without["length_controlled_win_rate"] * 40 / 60)
    assert row["ci_low"] < row["length_controlled_win_rate"] < row["ci_high"] and rate is not None


def test_unequal_clusters_have_their_degrees_of_freedom() -> None:
    scores = np.random.default_rng(1).choice([0.0, 0.5, 1.0], 40)
    clusters = [f"q{max(0, i - 30)}" for i in range(40) for _ in range(2)]  # one of 31 prompts, 9 of one
    lengths = {"length": [100.0] * 80, "opponent_length": [100.0] * 80}
    table = games_from_table(flat(both_orders({"en": list(scores)}), cluster_id=clusters, **lengths))
    assert vars(next(length_controlled(table)))["ci_low"] is None  # fewer than 2 effective clusters
