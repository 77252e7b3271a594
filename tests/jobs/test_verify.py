"""A run is verified: its tables fit together, and its prompts give the same answers again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.cli import main
from pipeline.core.folder import RunFolder
from pipeline.jobs.verify.sampling import common_prefix
from tests.conftest import RealRun

Rows = list[dict[str, Any]]


@pytest.fixture
def run(finished_run: RunFolder, no_ray: None) -> RunFolder:
    return finished_run


def tamper(run: RunFolder, table: str, change: Callable[[Rows], None]) -> None:
    """Change rows of a table's first file that has any, and have the marker say that the file is as it was written."""
    for path in run.data_files(table):
        found = pq.read_table(path)
        rows = found.to_pylist()
        if rows:
            change(rows)
            pq.write_table(pa.Table.from_pylist(rows, schema=found.schema), path)
            run.complete(table, run.marker(table) or {})
            return


def verify(run: RunFolder, *words: str) -> tuple[int, dict[str, Any]]:
    code = main(["verify", run.name, "execution.progress=false", *words])
    return code, json.loads(Path(run.name, "verify.json").read_text())


def test_every_text_of_the_dummy_engine_is_the_same_again(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = verify(run, "verify.rows=10")
    assert (code, found["rows"], found["problems"], found["mismatches"]) == (0, 10, [], [])
    assert [(m["plan"], m["n"], m["same"], m["min_match"]) for m in found["matches"]] == [
        ("hedged", 60, 60, 1.0),
        ("warm", 50, 50, 1.0),
    ]
    assert "0 checks failed" in capsys.readouterr().out
    assert not run.exists("work", "verify") and run.exists("manifest.json")


def change_text(prompt_id: str, index: int, everywhere: bool) -> Callable[[Rows], None]:
    """Change the text of a hedged candidate, and ``everywhere``: of the selections that chose it."""

    def change(rows: Rows) -> None:
        for row in rows:
            if row["prompt_id"] == prompt_id:
                row["candidates"][index]["text"] += "!"
                for selection in row.get("selections", ()) if everywhere else ():
                    if (selection["plan"], selection["index"]) == ("hedged", index):
                        selection["text"] += "!"

    return change


def test_a_text_that_was_changed_everywhere_is_found_by_sampling_again(
    run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    prompt_id = run.table("candidates", ["row_id", "prompt_id"])["prompt_id"][3].as_py()
    for table in ("candidates", "selections", "games"):
        tamper(run, table, change_text(prompt_id, 4, everywhere=True))
    code, found = verify(run, "verify.rows=null")
    assert (code, found["problems"]) == (3, [])
    assert [(m["prompt_id"], m["plan"], m["index"]) for m in found["mismatches"]] == [(prompt_id, "hedged", 4)]
    assert found["mismatches"][0]["prefix"] > 0.9 and found["matches"][0]["rate"] < 1
    assert f"prompt {prompt_id}, candidate 4 of hedged" in capsys.readouterr().out
    assert verify(run, "verify.rows=null", "verify.min_match=0.9")[0] == 0


def test_tables_that_do_not_fit_together_are_found_without_sampling(
    run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = run.table("candidates", ["row_id", "prompt_id"])["prompt_id"].to_pylist()

    def select_wrongly(rows: Rows) -> None:
        by_id = {row["prompt_id"]: row for row in rows}
        by_id[ids[1]]["selections"][0]["index"] = 99
        by_id[ids[2]]["messages"][-1]["content"] = "another question"
        by_id[ids[3]]["scores"][0]["values"].pop()

    tamper(run, "candidates", change_text(ids[0], 0, everywhere=False))
    tamper(run, "selections", select_wrongly)
    code, found = verify(run, "verify.rows=1")
    assert code == 3
    problems = {(p["check"], p["prompt_id"]): p["message"] for p in found["problems"]}
    expected = {("candidates", ids[0]), ("index", ids[1]), ("prompt", ids[2]), ("scores", ids[3])}
    assert set(problems) == expected | {("selections", ids[1])}  # the games' table has what was chosen before
    assert "99 of 6" in problems["index", ids[1]]
    assert f"prompt {ids[0]}" in capsys.readouterr().out


def test_provenance_that_is_not_the_tables(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    text = Path(run.name, "config.yaml").read_text()
    Path(run.name, "config.yaml").write_text(text.replace("temperature: 0.7", "temperature: 0.8", 1))
    manifest = run.read_json("manifest.json")
    manifest["templates"]["judge"] = {name: "other" for name in manifest["templates"]["judge"]}
    run.write_json(manifest, "manifest.json")
    code, found = verify(run, "verify.rows=2", f"verify.folder={run.name}")
    assert code == 3
    assert {p["check"] for p in found["problems"]} == {"config", "template"}
    assert any("temperature" in p["message"] for p in found["problems"])
    assert found["matches"][0]["rate"] < 1


def win_all(rows: Rows) -> None:
    for row in rows:
        for game in row["games"]:
            game.update(score=1.0, verdict="win")


def win_in_words(rows: Rows) -> None:
    game = next(g for row in rows for g in row["games"] if g["verdict"] == "loss" and g["score"] < 0.5)
    game["verdict"] = "win"


def lose_games(rows: Rows) -> None:
    for row in rows[:3]:
        row["games"] = []


def better_score(rows: Rows) -> None:
    selection = next(s for s in rows[0]["selections"] if s["method"] == "best_of_n")
    selection["score"] += 1


def choose_twice(rows: Rows) -> None:
    rows[0]["selections"].append({**rows[0]["selections"][0], "index": 1})


def choose_otherwise(rows: Rows) -> None:
    rows[0]["selections"][0]["detail"] = "another"


def double(rows: Rows) -> None:
    rows.append(rows[0])


EDITS = {
    "games set to win": ("games", win_all, {"results"}),
    "a verdict set to win": ("games", win_in_words, {"games"}),
    "games deleted": ("games", lose_games, {"results"}),
    "a score changed": ("games", better_score, {"scores", "selections"}),
    "a system that chose twice": ("games", choose_twice, {"selections"}),
    "selections that differ between tables": ("games", choose_otherwise, {"selections"}),
    "a row that is there twice": ("games", double, {"rows", "results"}),
}


@pytest.mark.parametrize("edit", EDITS)
def test_what_was_edited_is_found(edit: str, run: RunFolder) -> None:
    """By the files' digests; and by what contradicts it, where the marker was made to fit."""
    assert main(["winrate", f"out={run.name}"]) == 0
    table, change, checks = EDITS[edit]
    marker = run.read_json(table, "_complete.json")
    tamper(run, table, change)
    resealed = run.marker(table)
    run.write_json(marker, table, "_complete.json")
    code, found = verify(run, "verify.rows=1")
    assert code == 3 and ("files", table) in {(p["check"], p["table"]) for p in found["problems"]}
    run.write_json(resealed, table, "_complete.json")
    code, found = verify(run, "verify.rows=1")
    assert code == 3 and {p["check"] for p in found["problems"]} >= checks, found["problems"]


def test_a_sound_run_passes_and_a_removed_marker_is_found(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["winrate", f"out={run.name}"]) == 0
    assert verify(run, "verify.rows=1")[1]["problems"] == []
    run.remove_file("candidates", "_complete.json")
    code, found = verify(run, "verify.rows=1")
    assert code == 3 and ("marker", "candidates") in {(p["check"], p["table"]) for p in found["problems"]}


@pytest.mark.parametrize("name", ["winrates", "judge_rates", "differences"])
def test_edited_results_are_found(name: str, run: RunFolder) -> None:
    assert main(["winrate", f"out={run.name}"]) == 0
    path = run.path(f"{name}.parquet")
    table = pq.read_table(path)
    at = next(i for i, field in enumerate(table.schema) if pa.types.is_floating(field.type))
    column = pa.array(
        [0.9 if v is not None else None for v in table.column(at).to_pylist()], table.schema.field(at).type
    )
    pq.write_table(table.set_column(at, table.schema.field(at), column), path)
    code, found = verify(run, "verify.rows=1")
    places = {p["table"] for p in found["problems"] if p["check"] == "results"}
    assert code == 3 and places == {f"{name}.parquet", f"{name}.csv"}


def test_a_file_that_cannot_be_read_is_one_of_the_problems(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    Path(run.data_files("selections")[0]).write_bytes(b"PAR1 is how it begins")
    code, found = verify(run, "verify.rows=1")
    assert code == 3 and ("files", "selections") in {(p["check"], p["table"]) for p in found["problems"]}
    assert "Traceback" not in capsys.readouterr().err


def test_what_verify_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify"]) == 2
    assert main(["verify", str(tmp_path / "none")]) == 2
    assert "no such run folder" in capsys.readouterr().err
    assert main(["generate", "dummy", "verify.min_match=2", f"out={tmp_path}"]) == 2
    assert "verify.min_match: must be at least 0 and at most 1" in capsys.readouterr().err


def test_common_prefix() -> None:
    assert common_prefix("abcd", "abxd") == 0.5
    assert (common_prefix("", ""), common_prefix("a", None), common_prefix(None, None)) == (1.0, 0.0, 1.0)
    assert common_prefix("abc", "abcdef") == 1.0


@pytest.mark.engine
@pytest.mark.ray
@pytest.mark.timeout(900)
def test_a_real_engine_gives_its_answers_again(real_run: RealRun, tmp_path: Path) -> None:
    shutil.copytree(real_run.folder.name, tmp_path / "run")
    code, found = verify(RunFolder(str(tmp_path / "run")), "verify.rows=2", "verify.min_match=0.5")
    (match,) = found["matches"]
    assert (code, found["problems"], match["n"]) == (0, [], 6)
    assert match["prefix"] > 0.5
    print(f"same text: {match['rate']:.0%}, common prefix {match['prefix']:.0%}")
