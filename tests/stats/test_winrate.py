"""Win-rates, bounds, rates and paired differences: edge cases with numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.core.errors import ConfigError
from pipeline.stats.clusters import Bootstrap
from pipeline.stats.games import games_from_table
from pipeline.stats.prompt_scores import prompt_scores
from pipeline.stats.winrate import differences, win_rates
from tests.stats.tables import both_orders, flat, games, rows_of, winrates

Q = {n: 0.025 ** (1 / n) for n in (2, 3, 4)}


def test_schema_pooled_and_macro() -> None:
    table = winrates(games({"en": [1.0, 1.0, 0.0, 1.0], "de": [0.0, 0.5]}))
    rows = rows_of(table, "language")
    assert list(rows) == ["de", "en", "all", "macro"]
    assert [rows[x]["win_rate"] for x in rows] == pytest.approx([0.25, 0.75, 3.5 / 6, 0.5])
    assert [rows[x]["n_prompts"] for x in rows] == [2, 4, 6, 6]
    assert [rows[x]["n_games"] for x in rows] == [4, 8, 12, 12]
    # prompts of their own: the plain sample standard error; the languages are independent
    en, de = np.std([1, 1, 0, 1], ddof=1) / 2, np.std([0, 0.5], ddof=1) / np.sqrt(2)
    assert rows["en"]["se"] == pytest.approx(en) and rows["de"]["se"] == pytest.approx(de)
    assert rows["macro"]["se"] == pytest.approx(np.hypot(en, de) / 2)


def test_one_prompt_has_no_interval() -> None:
    row = winrates(games({"en": [1.0]}))[0]
    assert (row["win_rate"], row["se"], row["ci_low"], row["ci_high"]) == (1.0, None, None, None)
    assert "|interval:none|" in row["signature"]


def test_one_cluster_has_no_interval() -> None:
    table = flat(both_orders({"en": [1.0, 0.0, 0.5]}), cluster_id=["q"] * 6)
    row = winrates(games_from_table(table))[0]
    assert (row["n_prompts"], row["win_rate"], row["se"], row["ci_low"]) == (3, 0.5, None, None)


@pytest.mark.parametrize("score", [0.0, 0.5, 1.0])
def test_all_the_same_score_is_bounded_and_never_certain(score: float) -> None:
    row = winrates(games({"en": [score] * 4}))[0]
    assert row["win_rate"] == score and row["se"] == 0.0
    assert (row["ci_low"], row["ci_high"]) == pytest.approx((score * Q[4], score * Q[4] + 1 - Q[4]))
    assert row["ci_low"] < row["ci_high"] and "|interval:exact|" in row["signature"]


def test_all_invalid_gives_nulls_and_counts() -> None:
    rows = rows_of(winrates(games({"en": [None, None], "de": [1.0, 0.0]})), "language")
    assert [rows["en"][x] for x in ("n_prompts", "n_games", "n_invalid", "win_rate", "se", "ci_low")] == [
        0, 4, 2, None, None, None]  # fmt: skip
    assert rows["all"]["win_rate"] == 0.5 and rows["all"]["n_invalid"] == 2
    assert rows["macro"]["win_rate"] is None  # a macro without English would be another quantity


def test_an_invalid_order_makes_the_prompt_null_and_bounds_keep_its_half() -> None:
    rows = [("a", "en", "s", "o", "ab", 1.0), ("a", "en", "s", "o", "ba", None), *both_orders({"en": [0.0]})]
    table = games_from_table(flat(rows))
    row = winrates(table)[0]
    assert (row["n_prompts"], row["n_invalid"], row["n_games"], row["win_rate"]) == (1, 1, 4, 0.0)
    bound = rows_of(winrates(table), "language")["all"]
    assert (bound["n_clusters"], bound["if_lost"], bound["if_won"]) == (1, 0.25, 0.5)


def test_unreadable_verdicts_have_intervals_of_their_own() -> None:
    """400 prompts, of which 80% of the lost ones cannot be read."""
    scores: list[float | None] = [1.0] * 200 + [None] * 160 + [0.0] * 40
    table = games({"en": scores})
    found = rows_of(winrates(table, draws=2000), "language")["all"]
    assert found["win_rate"] == pytest.approx(200 / 240) and found["n_clusters"] == 240  # not 400
    assert found["ci_low"] > 0.5 and found["joint_low"] > 0.5
    assert found["if_lost"] == 0.5 and found["lost_low"] < 0.5 and found["joint_lost_low"] < 0.5
    assert found["if_won"] == 0.9 and found["won_high"] > 0.9


def test_a_lead_over_another_system_has_to_outlast_the_unreadable_verdicts() -> None:
    a: list[float | None] = [1.0] * 120 + [None] * 60 + [0.0] * 20
    b: list[float | None] = [1.0] * 100 + [None] * 60 + [0.0] * 40
    c: list[float | None] = [0.0] * 200
    rows = [r for name, s in (("a", a), ("b", b), ("c", c)) for r in both_orders({"en": s}, system=name)]
    table = games_from_table(flat(rows))
    rows = rows_of(differences(table, Bootstrap(1000)), "system_a", "system_b")
    assert rows["a", "b"]["lost_low"] < 0 and rows["a", "c"]["lost_low"] > 0


def test_a_prompt_with_one_of_two_orders_is_invalid_but_one_order_for_all_is_signed() -> None:
    rows = both_orders({"en": [1.0, 0.0]})
    missing = winrates(games_from_table(flat(rows[:-1])))[0]
    assert (missing["n_prompts"], missing["n_invalid"], missing["win_rate"]) == (1, 1, 1.0)
    single = winrates(games_from_table(flat([r for r in rows if r[4] == "ba"])))[0]
    assert (single["n_prompts"], single["n_invalid"], single["win_rate"]) == (2, 0, 0.5)
    assert "|orders:2|" in missing["signature"] and "|orders:1|" in single["signature"]


def test_two_judges_are_two_comparisons() -> None:
    rows = both_orders({"en": [1.0, 0.0]})
    table = flat(rows + both_orders({"en": [1.0, 1.0]}), judge=["j1"] * 4 + ["j2"] * 4)
    found = {r["signature"].split("|")[1]: r["win_rate"] for r in winrates(games_from_table(table))}
    assert found == {"judge:j1": 0.5, "judge:j2": 1.0}


def test_signature_names_choices() -> None:
    row = winrates(games({"en": [0.3, 0.9]}), draws=100, confidence=0.9, seed=7)[0]
    assert row["signature"].startswith(
        "winrate|judge:unspecified|template:unspecified|orders:2|ties:half|scores:soft|boot:100,cluster,seed:7"
        "|confidence:0.9|interval:t|v:"
    )
    for wrong in ({"confidence": 1.0}, {"draws": 0}):
        with pytest.raises(ConfigError):
            winrates(games({"en": [0.3]}), **wrong)  # type: ignore[arg-type]


def test_flip_tie_invalid_and_mass() -> None:
    verdicts = [(1.0, 0.0), (1.0, 0.5), (0.5, 0.5), (1.0, 1.0), (1.0, None)]
    rows = [
        (f"p{i}", "en", "s", "o", o, s) for i, v in enumerate(verdicts) for o, s in zip(("ab", "ba"), v, strict=True)
    ]
    row = winrates(games_from_table(flat(rows, mass=[0.5, None] * 5)))[0]
    assert row["flip_rate"] == 1 / 4  # only win + loss; the prompt with an invalid order cannot show one
    assert (row["tie_rate"], row["invalid_rate"], row["mean_mass"]) == (3 / 9, 1 / 10, 0.5)
    empty = winrates(games({"en": [None]}))[0]
    assert (empty["flip_rate"], empty["tie_rate"], empty["invalid_rate"], empty["mean_mass"]) == (None, None, 1.0, None)


def test_same_games_listed_as_the_other_order_change_no_number() -> None:
    one = [(f"p{i}", "en", "s", "o", "ab", s) for i, s in enumerate(np.random.default_rng(0).choice([0, 0.5, 1], 80))]
    two = one + [(*r[:4], "ba", r[5]) for r in one]
    a, b = (winrates(games_from_table(flat(r)))[0] for r in (one, two))
    assert all(a[x] == pytest.approx(b[x]) for x in ("win_rate", "se", "ci_low", "ci_high"))
    assert a["se"] == pytest.approx(np.std([r[5] for r in one], ddof=1) / np.sqrt(80))


def two_systems() -> list[tuple[object, ...]]:
    a, b = [1.0, 1.0, 0.5, None, 1.0], [0.0, 0.5, 0.5, 1.0, None]
    return both_orders({"en": a}, system="a") + both_orders({"en": b}, system="b")


def test_paired_difference_uses_prompts_valid_for_both() -> None:
    (row,) = rows_of(differences(games_from_table(flat(two_systems())), Bootstrap()), "system_a").values()
    se = np.std([1, 0.5, 0], ddof=1) / np.sqrt(3)
    assert (row["system_a"], row["system_b"], row["n_prompts"], row["difference"]) == ("a", "b", 3, 0.5)
    assert row["se"] == pytest.approx(se) and row["minimum_detectable"] == pytest.approx((4.302653 + 1.060660) * se)
    assert (row["ci_low"], row["ci_high"]) == pytest.approx((max(-1, 0.5 - 4.302653 * se), min(1, 0.5 + 4.302653 * se)))
    assert row["lost_low"] < row["ci_low"]  # where each has one that cannot be read


def test_difference_without_spread_or_common_prompts() -> None:
    same = flat(both_orders({"en": [1.0] * 3}, system="a") + both_orders({"en": [0.0] * 3}, system="b"))
    row = next(differences(games_from_table(same), Bootstrap()))
    assert (row.ci_low, row.ci_high) == pytest.approx((Q[3] - (1 - Q[3]), 1.0))
    apart = flat(both_orders({"en": [1.0]}, system="a") + both_orders({"de": [0.0]}, system="b"))
    row = next(differences(games_from_table(apart), Bootstrap()))
    assert (row.n_prompts, row.difference, row.minimum_detectable) == (0, None, None)


def test_systems_are_compared_within_a_contest() -> None:
    """One opponent, judge and template: no pair mixes two of them."""
    rows = two_systems() + [(*r[:3], "o2", *r[4:]) for r in two_systems()] + both_orders({"en": [1.0]}, "c", "o3")
    judge = ["j1"] * 20 + ["j2"] * 20 + ["j1"] * 2
    found = list(differences(games_from_table(flat(rows, judge=judge)), Bootstrap(100)))
    assert [(d.opponent, d.judge) for d in found] == [("o", "j1"), ("o2", "j2")]
    assert {(d.system_a, d.system_b) for d in found} == {("a", "b")}


def test_simultaneous_intervals_are_wider_and_few_clusters_use_bonferroni() -> None:
    rng = np.random.default_rng(3)
    rows = [r for s in "abcd" for r in both_orders({"en": list(rng.choice([0, 0.5, 1], 120))}, system=s)]
    table = games_from_table(flat(rows))
    rates = winrates(table)
    assert {r["joint_low"] for r in rates if r["language"] != "all"} == {None}
    for row in (r for r in rates if r["language"] == "all"):
        assert "|simultaneous:4|" in row["joint_signature"] and "simultaneous" not in row["signature"]
        half = (row["joint_high"] - row["joint_low"]) / 2
        assert 1.05 < 2 * half / (row["ci_high"] - row["ci_low"]) < 1.5
        assert 2.3 < half / row["se"] < 2.6  # max of four independent t's: 2.49
    assert len(list(differences(table, Bootstrap()))) == 6
    assert "interval:t" in next(differences(games_from_table(flat(two_systems())), Bootstrap())).signature


def test_strata_only_where_no_cluster_crosses_languages() -> None:
    # en always wins, de always loses: resampling within languages keeps the pooled rate fixed
    apart = games({"en": [1.0, 1.0, 0.0] * 20, "de": [0.0] * 60})
    crossing = flat(
        both_orders({"en": [1.0, 1.0, 0.0] * 20, "de": [0.0] * 60}),
        cluster_id=[f"q{i // 2}" for i in range(120)] + [f"q{i // 2}" for i in range(120)],
    )
    a, b = (rows_of(winrates(g), "language")["all"] for g in (apart, games_from_table(crossing)))
    assert a["win_rate"] == b["win_rate"] == pytest.approx(1 / 3)
    assert b["ci_high"] - b["ci_low"] == pytest.approx(3.92 * b["se"], rel=0.06)
    within = 3.92 * np.sqrt(2 / 9 / 60) / 2
    assert a["ci_high"] - a["ci_low"] == pytest.approx(within, rel=0.06)


def test_comparison_blocks_share_their_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(5)
    rows = [r for s in "abc" for r in both_orders({"en": list(rng.choice([0, 0.5, 1], 60))}, system=s)]
    table = games_from_table(flat(rows))
    whole = winrates(table, draws=500)
    monkeypatch.setattr("pipeline.stats.winrate._CELLS", 1)
    assert whole == winrates(table, draws=500)


def test_prompt_scores_mean_of_orders() -> None:
    rows = [("a", "en", "s", "o", "ab", 1.0), ("a", "en", "s", "o", "ba", 0.5)]
    assert prompt_scores(games_from_table(flat(rows))).score.tolist() == [0.75]


def test_leaving_prompts_out_equals_a_table_without_them() -> None:
    scores: dict[str, list[float | None]] = {"en": [1.0, 0.5, 0.0, 1.0], "de": [0.0, 1.0, None, 1.0]}
    named = [both_orders(scores, system=s) for s in ("s", "t", "u")]
    # one id in two languages is two prompts
    rows = [(r[0].replace("de", "en"), *r[1:]) for part in named for r in part]
    gone = {
        "s": {("en0", "de"), ("en3", "en"), ("absent", "en")},
        "t": {(f"en{i}", n) for i in range(4) for n in scores},
    }
    rates = win_rates(games_from_table(flat(rows)), Bootstrap(), gone)
    found = {r.system: r for r in rates if r.fallbacks == "left_out"}
    direct = games_from_table(flat([r for r in rows if r[2] == "s" and (r[0], r[1]) not in gone["s"]]))
    alone = rows_of(winrates(direct), "language")["all"]
    for name in ("n_prompts", "n_games", "n_invalid", "win_rate", "ci_low", "ci_high"):
        assert getattr(found["s"], name) == alone[name]
    assert found["s"].n_prompts == 5 and "|fallbacks:left_out|" in found["s"].signature
    assert (found["t"].n_games, found["t"].win_rate) == (0, None) and "u" not in found
