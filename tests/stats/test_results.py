"""Every table of a run: games between systems apart from candidates' and the audit's, lengths, what is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

from pipeline.config.config import Config
from pipeline.config.load import load_config
from pipeline.core.errors import InputError, UnfinishedTableError
from pipeline.core.folder import RunFolder
from pipeline.jobs import winrate
from pipeline.stats.results import compute, results_of
from pipeline.stats.run_games import AUDIT, CANDIDATES
from tests.stats.tables import both_orders, flat, rows_of, run_games, winrates
from tests.tables import write_table

LANGUAGES = ("es", "fr", "ja")


def game(system: str, opponent: str, order: str, score: float | None) -> dict[str, Any]:
    verdict = "invalid" if score is None else {1.0: "win", 0.5: "tie", 0.0: "loss"}[score]
    names = {"system": system, "opponent": opponent, "judge": "j", "template": "t"}
    return {**names, "order": order, "score": score, "mass": 0.9, "verdict": verdict}


def both(system: str, opponent: str, score: float) -> list[dict[str, Any]]:
    return [game(system, opponent, order, score) for order in ("ab", "ba")]


def row(i: int, rng: np.random.Generator) -> dict[str, Any]:
    """One translated question: a hedged set, two selectors, an outside system, games of all kinds, a metric."""
    won = [float(rng.integers(0, 3)) / 2 for _ in range(3)]
    games = [*both("h/mbr", "h/sample", won[0]), *both("gpt", "h/sample", won[1])]
    games += [g for k in range(3) for g in both(f"h#{k}", "h/sample", float(rng.integers(0, 3)) / 2)]
    games += [*both("audit:original", "audit:truncated", 1.0), *both("audit:original", "audit:identical", 0.5)]
    metric = [float(v) for v in rng.uniform(0.2, 0.9, 3)]
    return {
        "row_id": i,
        "prompt_id": f"p{i}",
        "cluster_id": f"c{i // len(LANGUAGES)}",
        "task": "translation",
        "language": LANGUAGES[i % len(LANGUAGES)],
        "reference": "reference",
        "candidates": [
            {
                "plan": "h",
                "origin": "greedy" if k == 0 else "sample",
                "text": "x" * (k + 1),
                "temperature": 0.7 * (k > 0),
            }
            for k in range(3)
        ],
        "scores": [
            {"scorer": "metric:chrf", "plan": "h", "values": metric},
            {"scorer": "metric:chrf", "plan": "answer:gpt", "values": [0.5]},
        ],
        "selections": [
            {"plan": "h", "method": "mbr", "index": 2, "text": "xxx"},
            {"plan": "h", "method": "sample", "index": 1, "text": "xx"},
        ],
        "answers": [{"system": "gpt", "text": "y" * (10 + i) if i else None}],
        "games": games,
    }


def write(tmp_path: Path, rows: list[dict[str, Any]], table: str = "games") -> RunFolder:
    return write_table(RunFolder(str(tmp_path / "run")), table, rows)


@pytest.fixture
def whole(tmp_path: Path) -> RunFolder:
    rng = np.random.default_rng(3)
    return write(tmp_path, [row(i, rng) for i in range(36)])


def config(folder: str | Path, *words: str) -> Config:
    return load_config(["dummy", f"out={folder}", "winrate.draws=100", *words])


def test_games_of_each_kind_stay_apart(whole: RunFolder) -> None:
    kinds = {kind: run_games(whole, kind) for kind in ("systems", CANDIDATES, AUDIT)}
    named = {kind: sorted({c.system for c in found.comparisons}) for kind, found in kinds.items() if found}
    assert named["systems"] == ["gpt", "h/mbr"] and named[CANDIDATES] == ["h#0", "h#1", "h#2"]
    audit = kinds[AUDIT]
    assert named[AUDIT] == ["audit:original"] and audit is not None and not audit.unjudged.any()


def test_rows_with_other_games_only_are_unjudged(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    rows = [row(i, rng) for i in range(7)]
    rows[1]["games"] = [g for g in rows[1]["games"] if g["system"].startswith("audit")]
    rows[2]["games"] = None
    games = run_games(write(tmp_path, rows))
    assert games is not None and games.unjudged.sum() == 2
    assert rows_of(winrates(games), "system", "language")["gpt", "all"]["n_invalid"] == 2
    rows = [{**r, "games": [g for g in r["games"] or [] if "#" in g["system"]]} for r in rows]
    assert run_games(write(tmp_path, rows)) is run_games(write(tmp_path, rows), AUDIT) is None


def test_lengths_are_those_of_the_texts_that_played(whole: RunFolder) -> None:
    games = run_games(whole)
    assert games is not None
    named = [games.comparisons[k].system for k in games.comparison]
    ids = [games.prompt_id[p].as_py() for p in games.prompt]
    for system, prompt_id, difference in zip(named, ids, games.length_difference, strict=True):
        i = int(prompt_id[1:])
        expected = 1.0 if system == "h/mbr" else 8.0 + i if i else np.nan  # gpt has no answer to prompt 0
        assert difference == pytest.approx(expected, nan_ok=True)


def test_a_run_gives_every_table(whole: RunFolder) -> None:
    results = compute(whole, config(whole.root))
    assert set(results.tables()) == {
        *("winrates", "judge_rates", "differences", "length_controlled", "audit", "scores", "curves", "hope_risk"),
        *("score_differences", "choices", "agreement", "system_costs"),
    }
    (pair,) = results.differences
    assert (pair.system_a, pair.system_b, pair.n_prompts) == ("gpt", "h/mbr", 36)
    audit = rows_of(results.audit, "version", "language")
    assert audit["altered", "all"]["sensitivity"] == 1.0 and audit["altered", "all"]["grade"] == "able"
    assert {c.metric for c in results.curves} == {"chrf", "win"}
    assert {s.system for s in results.scores} == {"gpt", "h/mbr", "h/sample"}


def test_several_opponents_get_strengths_and_what_cannot_be_had_is_said(tmp_path: Path) -> None:
    rows = [*both_orders({"en": [1.0, 0.5, 0.0] * 4}), *both_orders({"en": [0.0, 0.5, 1.0] * 4}, opponent="p")]
    path = tmp_path / "games.parquet"
    pq.write_table(flat(rows), path)
    run, settings = RunFolder(str(tmp_path / "o")), config(tmp_path / "o", f"winrate.games={path}")
    results = compute(run, settings)
    assert rows_of(results.bradley_terry, "system")["o"]["strength"] == 0.0  # the first opponent is the anchor
    assert results.left_out == {"length_controlled": "length control needs the columns length and opponent_length"}
    pq.write_table(flat([*rows[:24], *both_orders({"en": [1.0] * 4}, opponent="p")]), path)
    assert "bradley_terry" in compute(run, settings).left_out


def test_what_is_stored_is_what_was_computed_until_something_changes(whole: RunFolder) -> None:
    """Whoever shows a number reads it; a stale one is nobody's."""
    settings = config(whole.root)
    computed = results_of(whole, settings)
    assert not computed.is_stored and not whole.exists("results.json")
    winrate.run(settings)
    stored = results_of(whole, settings)
    assert stored.is_stored and vars(stored) == {**vars(computed), "is_stored": True}
    assert stored.contests(settings) == computed.contests(settings) and stored.tasks() == computed.tasks()
    assert not results_of(whole, config(whole.root, "winrate.draws=50")).is_stored
    whole.complete("games", {**(whole.marker("games") or {}), "fingerprint_hash": "another"})
    assert not results_of(whole, settings).is_stored
    winrate.run(config(whole.root, "judge.engine=null"))  # its games are there all the same
    assert results_of(whole, config(whole.root, "judge.engine=null")).is_stored


def test_tables_that_are_no_more_go(whole: RunFolder, tmp_path: Path) -> None:
    winrate.run(config(whole.root))
    pq.write_table(flat(both_orders({"en": [1.0, 0.5]})), tmp_path / "g.parquet")
    outside = config(whole.root, f"winrate.games={tmp_path / 'g.parquet'}")
    winrate.run(outside)
    assert not whole.exists("scores.parquet") and not whole.exists("scores.csv") and whole.exists("winrates.csv")
    assert pq.read_table(whole.path("winrates.parquet")).column_names == [
        *("system", "opponent", "language", "n_prompts", "n_games", "n_invalid"),
        *("win_rate", "se", "ci_low", "ci_high", "signature"),
    ]


def test_the_job_writes_what_it_computes(whole: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    winrate.run(config(whole.root))
    for name in ("winrates", "differences", "audit", "scores", "curves", "hope_risk", "length_controlled"):
        table = pq.read_table(whole.path(f"{name}.parquet"))
        assert table.num_rows == pacsv.read_csv(whole.path(f"{name}.csv")).num_rows > 0
    printed = capsys.readouterr().out
    assert "audit of the judge" in printed and "able" in printed
    assert "translation: chrf" in printed and "win-rates" in printed


def test_without_a_judge_the_selections_are_scored(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    rows = [{**row(i, rng), "games": None, "answers": None} for i in range(6)]
    settings = config(tmp_path / "run", "judge.engine=null")
    run = write(tmp_path, rows, "selections")
    winrate.run(settings)
    assert pq.read_table(run.path("scores.parquet")).num_rows
    assert not run.exists("winrates.parquet")
    with pytest.raises(UnfinishedTableError):  # a judge that has not finished is not a run without games
        winrate.run(config(tmp_path / "run"))
    write(tmp_path, [{**r, "scores": None} for r in rows], "selections")
    with pytest.raises(InputError, match="neither games nor metrics"):
        winrate.run(settings)
