"""Task scores, pool curves, hope and risk from a run's table, against numbers worked out by hand or by brute force."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.config.load import build_config
from pipeline.core.folder import RunFolder
from pipeline.stats.clusters import Bootstrap
from pipeline.stats.facts import Facts, SetFacts, facts_of
from pipeline.stats.pools import Quality, load_quality, split_clusters
from pipeline.stats.quality import curves, hopes_and_risks, score_differences, scores
from tests.stats.tables import dicts, run_games
from tests.tables import write_table


def candidate(plan: str, origin: str, text: str | None = "t", temperature: float | None = 0.7) -> dict[str, Any]:
    temperature = None if origin == "given" else 0.0 if origin == "greedy" else temperature
    return {"plan": plan, "origin": origin, "text": text, "temperature": temperature, "min_p": 0.0}


def score(metric: str, plan: str, values: list[float | None]) -> dict[str, Any]:
    return {"scorer": metric, "plan": plan, "values": values}


def choice(plan: str, method: str, index: int | None, text: str | None = "t") -> dict[str, Any]:
    return {"plan": plan, "method": method, "index": index, "text": text}


def write(tmp_path: Path, rows: list[dict[str, Any]], table: str = "games") -> RunFolder:
    full = [{"task": "translation", "language": "es", **row} for row in rows]
    return write_table(RunFolder(str(tmp_path / "run")), table, full)


def hedged(values: list[float | None], **more: Any) -> dict[str, Any]:
    """A row with a greedy candidate and samples: values[0] is the greedy one's."""
    return {
        "candidates": [candidate("hedged", "greedy")] + [candidate("hedged", "sample")] * (len(values) - 1),
        "scores": [score("metric:chrf", "hedged", values), score("mbr", "hedged", [1.0] * len(values))],
        "selections": [choice("hedged", "sample", 1), choice("hedged", "mbr", 2), choice("hedged", "greedy", 0)],
        **more,
    }


Rows = list[dict[str, Any]]


def scores_table(quality: Quality) -> Rows:
    return dicts(scores(quality, "sample", Bootstrap()))


def curves_table(quality: Quality) -> Rows:
    return dicts(curves(quality))


def hope_risk_table(quality: Quality) -> Rows:
    return dicts(hopes_and_risks(quality, Bootstrap()))


def only(table: Rows, **wanted: Any) -> dict[str, Any]:
    rows = [r for r in table if all(r[k] == v for k, v in wanted.items())]
    assert len(rows) == 1, rows
    return rows[0]


def test_scores_by_hand(tmp_path: Path) -> None:
    rows = [
        hedged([0.5, 0.2, 0.6, 0.4], language="es", cluster_id="a"),
        hedged([0.3, 0.1, 0.7, 0.4], language="fr", cluster_id="a"),
        hedged([0.9, 0.5, 0.5, 0.5], language="es", cluster_id="b"),
    ]
    table = scores_table(load_quality(write(tmp_path, rows), "games"))
    pooled = only(table, system="hedged/mbr", language="all")
    assert pooled["mean"] == pytest.approx((0.6 + 0.7 + 0.5) / 3)
    # the base is the mean over the stochastic candidates, not the first of them
    base = [(0.2 + 0.6 + 0.4) / 3, (0.1 + 0.7 + 0.4) / 3, 0.5]
    assert only(table, system="hedged/sample", language="all")["mean"] == pytest.approx(np.mean(base))
    assert pooled["difference"] == pytest.approx(0.6 - np.mean(base))
    assert pooled["base"] == "hedged/sample" and pooled["n_prompts"] == 3 and pooled["n_missing"] == 0
    assert pooled["n_clusters"] == 2 and pooled["effective_clusters"] == pytest.approx(1.8)
    assert pooled["difference_low"] is None  # fewer than 2 effective clusters
    macro = only(table, system="hedged/mbr", language="macro")
    assert macro["mean"] == pytest.approx(((0.6 + 0.5) / 2 + 0.7) / 2) and macro["recovered"] is None
    assert only(table, system="hedged/mbr", language="fr")["ci_low"] is None  # one cluster
    assert "metric:chrf" in pooled["signature"] and "chrF2" in pooled["signature"]


def test_recovered_share_of_the_oracle(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = [hedged([0.5, 0.2, 0.6, v]) for v in rng.uniform(0.7, 0.9, 8)]
    table = scores_table(load_quality(write(tmp_path, rows), "games"))
    last = [r["scores"][0]["values"][3] for r in rows]
    base = np.mean([(0.2 + 0.6 + v) / 3 for v in last])
    share = only(table, system="hedged/mbr", language="all")["recovered"]
    assert share == pytest.approx((0.6 - base) / (np.mean(last) - base))


def test_missing_text_scores_zero_and_no_reference_is_left_out(tmp_path: Path) -> None:
    gone = hedged([0.5, 0.2, 0.6])
    gone["selections"] = [choice("hedged", "sample", 1), choice("hedged", "mbr", None, None)]
    table = scores_table(
        load_quality(write(tmp_path, [gone, hedged([0.4, 0.2, 0.6]), hedged([None, None, None])]), "games")
    )
    mbr = only(table, system="hedged/mbr", language="all")
    assert (mbr["n_prompts"], mbr["n_missing"], mbr["mean"]) == (2, 1, pytest.approx(0.3))


def test_language_leaves_missing_texts_out(tmp_path: Path) -> None:
    row = hedged([0.5, 0.2, 0.6])
    row["scores"] = [score("metric:language", "hedged", [1.0, None, 0.0])]
    row["selections"] = [choice("hedged", "mbr", None, None), choice("hedged", "greedy", 0)]
    table = scores_table(load_quality(write(tmp_path, [row]), "games"))
    assert {r["system"] for r in table} == {"hedged/greedy"}


def test_texts_whose_language_cannot_be_told_are_counted_beside_the_rate(tmp_path: Path) -> None:
    values = [[1.0, 0.0, 1.0], [1.0, None, None], [None, None, None], [1.0, 1.0, 1.0]]
    rows = [hedged([0.5, 0.2, 0.6]) | {"scores": [score("metric:language", "hedged", v)]} for v in values]
    rows[3]["selections"] = [choice("hedged", "sample", 1), choice("hedged", "mbr", None, None)]
    quality = load_quality(write(tmp_path, rows), "games")
    pooled = {r["system"]: r for r in scores_table(quality) if r["language"] == "all"}
    told = {system: (r["n_prompts"], r["n_untold"], r["mean"]) for system, r in pooled.items()}
    assert told == {"hedged/greedy": (2, 1, 1.0), "hedged/mbr": (1, 2, 1.0), "hedged/sample": (2, 2, 0.75)}
    assert len(quality.tasks["translation"].pools["language", "hedged"].values) == 4
    assert quality.keep(["p0", "p1"]).tasks["translation"].untold["hedged/mbr"].tolist() == [False, True]


def test_new_texts_and_outside_answers(tmp_path: Path) -> None:
    row = hedged([0.5, 0.2, 0.6], answers=[{"system": "copy", "text": "x"}, {"system": "none", "text": None}])
    row["selections"].append(choice("hedged", "fusion", -1, "new"))
    row["scores"] += [
        score("metric:chrf", "answer:hedged/fusion", [0.8]),
        score("metric:chrf", "answer:copy", [0.1]),
        score("metric:chrf", "answer:none", [None]),
    ]
    table = scores_table(load_quality(write(tmp_path, [row]), "games"))
    assert only(table, system="hedged/fusion", language="all")["mean"] == 0.8
    copy = only(table, system="copy", language="all")
    assert (copy["mean"], copy["base"], copy["difference"]) == (0.1, "hedged/sample", pytest.approx(0.1 - 0.4))
    assert only(table, system="none", language="all")["mean"] == 0.0


def test_outside_answers_are_compared_on_the_plan_with_the_most_prompts(tmp_path: Path) -> None:
    """A plan of some languages only ("cool" comes first by name) must not leave the others out."""
    rows = []
    for i, language in enumerate(("es", "fr") * 6):
        row = hedged([0.5, 0.2, 0.6, 0.4], language=language, answers=[{"system": "floor", "text": "t"}])
        row["scores"].append(score("metric:chrf", "answer:floor", [0.1]))
        if language == "es":
            row["candidates"] += [candidate("cool", "sample")] * 2
            row["scores"].append(score("metric:chrf", "cool", [0.3, 0.3]))
            row["selections"].append(choice("cool", "sample", 0))
        rows.append(row | {"cluster_id": f"c{i}"})
    table = scores_table(load_quality(write(tmp_path, rows), "games"))
    floor = only(table, system="floor", language="fr", metric="chrf")
    assert floor["base"] == "hedged/sample" and floor["difference"] == pytest.approx(0.1 - 0.4)
    assert only(table, system="cool/sample", language="es")["mean"] == pytest.approx(0.3)


def test_curves_equal_every_subset_of_eight(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    pools = rng.uniform(size=(3, 8))
    quality = load_quality(write(tmp_path, [hedged([0.5, *pool]) for pool in pools]), "games")
    table = curves_table(quality)
    for m in range(1, 9):
        row = only(table, plan="hedged", language="all", m=m)
        subsets = [[c for c in itertools.combinations(pool, m)] for pool in pools]
        assert row["best"] == pytest.approx(np.mean([np.mean([max(c) for c in s]) for s in subsets]))
        assert row["worst"] == pytest.approx(np.mean([np.mean([min(c) for c in s]) for s in subsets]))
        assert row["mean"] == pytest.approx(pools.mean())
    assert only(table, language="all", m=8)["temperature"] == 0.7


def test_hope_and_risk_borrow_the_greedy_answer_and_leave_short_pools_out(tmp_path: Path) -> None:
    rows = []
    for pool in ([0.2, 0.8], [0.4, 0.6], [0.5, None]):
        row = hedged([0.5, 0.1, 0.1])
        row["candidates"] += [candidate("cool", "sample", temperature=0.3)] * 2
        row["scores"].append(score("metric:chrf", "cool", pool))
        rows.append(row)
    cool = only(hope_risk_table(load_quality(write(tmp_path, rows), "games")), plan="cool", language="all")
    assert (cool["n"], cool["n_prompts"], cool["n_left_out"], cool["greedy"]) == (2, 2, 1, 0.5)
    assert cool["hope"] == pytest.approx((0.7 - 0.5) / 0.5) and cool["risk"] == pytest.approx((0.3 - 0.5) / 0.5)
    assert cool["temperature"] == 0.3


def test_missing_answers_lose_in_hope_risk_curves_and_the_base(tmp_path: Path) -> None:
    row = hedged([0.5, 0.8, None, 0.4])
    row["candidates"][2] = row["candidates"][2] | {"text": None, "error": "refused"}
    quality = load_quality(write(tmp_path, [row, hedged([0.5, 0.8, 0.6, 0.4])]), "games")
    found = only(hope_risk_table(quality), language="all")
    assert (found["n"], found["n_prompts"], found["n_left_out"]) == (3, 2, 0)
    assert found["risk_absolute"] == pytest.approx((0.0 + 0.4) / 2 - 0.5)
    assert only(curves_table(quality), language="all", m=1)["best"] == pytest.approx((1.2 / 3 + 1.8 / 3) / 2)
    base = only(scores_table(quality), system="hedged/sample", language="all")
    assert base["mean"] == pytest.approx((1.2 / 3 + 1.8 / 3) / 2)  # not 0.6: the mean of those that answered
    row["candidates"][0] |= {"text": None, "error": "refused"}
    row["scores"][0]["values"][0] = None
    assert only(hope_risk_table(load_quality(write(tmp_path / "b", [row]), "games")), language="all")["greedy"] == 0.0


def test_hope_is_against_the_same_engines_greedy_answer(tmp_path: Path) -> None:
    row = hedged([0.5, 0.1, 0.1])
    row["candidates"] += [candidate("tuned", "sample")] * 2
    row["scores"].append(score("metric:chrf", "tuned", [0.7, 0.9]))
    run = write(tmp_path, [row])
    one = Facts({"hedged": SetFacts(("base",)), "tuned": SetFacts(("base",))})
    two = Facts({"hedged": SetFacts(("base",)), "tuned": SetFacts(("adapter",))})
    both = Facts({"hedged": SetFacts(("base", "other")), "tuned": SetFacts(("adapter",))})
    assert only(hope_risk_table(load_quality(run, "games", one)), plan="tuned", language="all")["greedy"] == 0.5
    assert {r["plan"] for r in hope_risk_table(load_quality(run, "games", two))} == {"hedged"}
    assert not hope_risk_table(load_quality(run, "games", both))  # greedy of one teacher, samples of several


def test_sets_sized_by_scores_count_with_their_first_round(tmp_path: Path) -> None:
    """More candidates were drawn where the first ones were bad: the largest sets are the hardest prompts."""
    rows = [hedged([0.5, 0.4, 0.6]), hedged([0.5, 0.1, 0.2, 0.9, 0.3]), hedged([0.5, 0.0, 0.3, 0.9, 0.8])]
    quality = load_quality(write(tmp_path, rows), "games", Facts({"hedged": SetFacts(("e",), first=3)}))
    found = only(hope_risk_table(quality), language="all")
    assert (found["n"], found["n_prompts"], found["n_left_out"]) == (2, 3, 0)
    assert found["hope_absolute"] == pytest.approx((0.6 + 0.2 + 0.3) / 3 - 0.5)
    assert max(r["m"] for r in curves_table(quality)) == 2
    base = only(scores_table(quality), system="hedged/sample", language="all")
    assert base["mean"] == pytest.approx((0.5 + 0.15 + 0.15) / 3)


def test_facts_of_the_sets_come_from_the_plans() -> None:
    adaptive = {"by": "vote", "first": 3, "mean_n": 4.0}
    config = build_config(
        {
            "engines": {"a": {"kind": "dummy"}, "b": {"kind": "dummy"}},
            "plans": {
                "cool": {"kind": "single", "engine": "a", "candidate_set": "both"},
                "hot": {"kind": "single", "engine": "b", "candidate_set": "both"},
                "rounds": {"kind": "single", "engine": "a", "n": 8, "adaptive": adaptive},
            },
            "selectors": {"vote": {"kind": "majority_vote"}},
        }
    )
    facts = facts_of(config).sets
    assert facts["both"] == SetFacts(("a", "b")) and facts["rounds"] == SetFacts(("a",), first=3)


def test_every_number_has_a_signature_of_one_build(tmp_path: Path) -> None:
    quality = load_quality(write(tmp_path, [hedged([0.5, 0.2, 0.4]), hedged([0.5, 0.4, 0.6])]), "games")
    tables = (scores_table(quality), curves_table(quality), hope_risk_table(quality))
    for statistic, table in zip(("score", "curve", "hope-risk"), tables, strict=True):
        for recipe in [r["signature"] for r in table]:
            name, *fields, version = recipe.split("|")
            assert name == statistic and fields[0] == "metric:chrf" and version.startswith("v:")
    assert all("chosen" not in r for r in [r["signature"] for r in tables[1]])


def test_candidate_games_become_the_metric_win(tmp_path: Path) -> None:
    row = hedged([None, None, None])
    game = {"opponent": "o", "judge": "j", "template": "t"}
    scores = {"hedged#0": (1, 1), "hedged#1": (1, 0), "hedged#2": (0, 0), "hedged/mbr": (1, 1)}
    row["games"] = [
        {**game, "system": s, "order": o, "score": v}
        for s, vs in scores.items()
        for o, v in zip(("ab", "ba"), vs, strict=True)
    ]
    quality = load_quality(write(tmp_path, [row]), "games")
    found = only(hope_risk_table(quality), metric="win", language="all")
    # by ab the first sample is best, which ba scores 0; by ba both are equal, which ab scores 0.5 on average
    assert (found["greedy"], found["hope_absolute"], found["risk_absolute"]) == (1.0, -0.75, -0.75)
    assert "|chosen:other-order|" in found["signature"]
    assert not scores_table(quality)  # candidates are no systems


def test_splits_keep_clusters_whole_and_do_not_depend_on_order(tmp_path: Path) -> None:
    rows = [hedged([0.5, 0.1 * i, 0.2]) | {"cluster_id": f"c{i // 2}"} for i in range(10)]
    quality = load_quality(write(tmp_path, rows), "games")
    development, held_out = split_clusters(quality, 0.4, seed=1)
    assert (len(development), len(held_out)) == (2, 3) and not development & held_out
    parts = [scores_table(quality.keep(part)) for part in (development, held_out)]
    assert [only(p, system="hedged/mbr", language="all")["n_prompts"] for p in parts] == [4, 6]
    assert split_clusters(quality, 0.4, seed=1) == (development, held_out)
    assert any(split_clusters(quality, 0.4, seed=s)[0] != development for s in range(2, 12))


def test_nothing_measured_gives_empty_tables(tmp_path: Path) -> None:
    quality = load_quality(write(tmp_path, [hedged([0.5, 0.2]) | {"scores": []}], "selections"), "selections")
    assert [scores_table(quality), curves_table(quality), hope_risk_table(quality)] == [[], [], []]


def test_the_policys_answer_has_numbers_of_its_own(tmp_path: Path) -> None:
    """Its index points into the row's own plan, which the statistics do not know."""
    row = hedged([0.5, 0.2, 0.6])
    row["selections"] = [
        choice("hedged", "mbr", 2),
        choice("policy", "policy", 2),
        choice("policy", "sample", None, None),
    ]
    row["scores"] = [*row["scores"], score("metric:chrf", "answer:policy/policy", [0.6])]
    table = scores_table(load_quality(write(tmp_path, [row]), "games"))
    assert only(table, system="policy/policy", language="all")["mean"] == 0.6
    assert only(table, system="policy/sample", language="all")["n_missing"] == 1


def test_candidates_games_score_selectors_and_stay_out_of_task_scores(tmp_path: Path) -> None:
    row = hedged([None, None, None])
    games = [("hedged#0", 0.0), ("hedged#1", 0.5), ("hedged#2", 1.0), ("hedged/mbr", 0.25)]
    names = {
        "opponent": "o",
        "judge": "j",
        "template": "t",
        "mass": None,
        "verdict": "win",
        "reason": None,
    }
    row["games"] = [{"system": system, "score": value, "order": "ab", **names} for system, value in games]
    row["games"].append({"system": "hedged#1", "score": 1.0, "order": "ba", **names})
    quality = load_quality(write(tmp_path, [row]), "games")
    found = quality.tasks["translation"].systems
    assert found["win", "hedged/mbr"].tolist() == [1.0] and found["win", "hedged/sample"].tolist() == [0.875]
    assert not scores_table(quality)


def test_gaps_of_several_systems_hold_together(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    rows = [hedged([0.5, *rng.uniform(0.2, 0.8, 3)]) for _ in range(60)]
    task = load_quality(write(tmp_path, rows), "games").tasks["translation"]
    pairs = [("hedged/mbr", "hedged/sample"), ("hedged/greedy", "hedged/sample"), ("hedged/mbr", "hedged/greedy")]
    found = list(score_differences(task, "chrf", pairs, Bootstrap()))
    (alone,) = score_differences(task, "chrf", pairs[:1], Bootstrap())
    values = [r["scores"][0]["values"] for r in rows]
    assert found[0].difference == pytest.approx(np.mean([v[2] - np.mean(v[1:]) for v in values]))
    assert found[2].difference == pytest.approx(np.mean([v[2] - v[0] for v in values]))
    assert found[0].ci_low is not None and alone.ci_low is not None and found[0].ci_low < alone.ci_low  # three at once
    assert not list(score_differences(task, "chrf", [], Bootstrap()))


def test_games_know_which_answers_are_missing(tmp_path: Path) -> None:
    row = hedged([0.5, 0.2, 0.4])
    row["selections"] = [choice("hedged", "mbr", 2, "four"), choice("hedged", "sample", None, None)]
    names = {"opponent": "hedged/sample", "judge": "j", "template": "t", "order": "ab", "score": 1.0}
    row["games"] = [{"system": "hedged/mbr", **names}]
    other = hedged([0.5, 0.2, 0.4]) | {"games": [{"system": "outside", **names}]}  # of no known length
    found = run_games(write(tmp_path, [row, other]))
    assert found is not None
    assert dict(zip([c.system for c in found.comparisons], found.forfeit, strict=True)) == {
        "hedged/mbr": True,
        "outside": False,
    }
    assert np.isnan(found.length_difference).all()
