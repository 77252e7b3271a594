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
from pipeline.core.folder import MARKER, RunFolder
from pipeline.core.layers import FILES
from pipeline.jobs.verify.sampling import common_prefix
from tests.conftest import RealRun
from tests.tables import reseal

Rows = list[dict[str, Any]]


@pytest.fixture
def run(finished_run: RunFolder, no_ray: None) -> RunFolder:
    return finished_run


def tamper(run: RunFolder, table: str, change: Callable[[Rows], None], column: str | None = None) -> None:
    """Change rows of a table's files, and have the records say that they are as they were written.

    Args:
        column: only the first file with items in this column is changed.
    """
    for path in run.files(table):
        found = pq.read_table(path)
        rows = found.to_pylist()
        if column is None or (column in rows[0] and rows[0][column]):
            change(rows)
            pq.write_table(pa.Table.from_pylist(rows, schema=found.schema), path)
            if column is not None:
                break
    reseal(run, table)


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
                for candidate in [c for c in row.get("candidates", ()) if c["plan"] == "hedged"][index : index + 1]:
                    candidate["text"] += "!"
                for selection in row.get("selections", ()) if everywhere else ():
                    if (selection["plan"], selection["index"]) == ("hedged", index):
                        selection["text"] += "!"

    return change


def test_a_text_that_was_changed_everywhere_is_found_by_sampling_again(
    run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    prompt_id = run.table("candidates", ["row_id", "prompt_id"])["prompt_id"][3].as_py()
    for table in ("candidates", "selections"):
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

    def choose_another(rows: Rows) -> None:
        rows[1]["selections"][0]["index"] = 99

    def lose_a_number(rows: Rows) -> None:
        rows[3]["scores"][0]["values"].pop()

    tamper(run, "candidates", change_text(ids[0], 0, everywhere=False))
    tamper(run, "selections", choose_another, "selections")
    tamper(run, "selections", lose_a_number, "scores")
    code, found = verify(run, "verify.rows=1")
    assert code == 3
    problems = {(p["check"], p["prompt_id"]): p["message"] for p in found["problems"]}
    assert set(problems) == {("text", ids[0]), ("index", ids[1]), ("scores", ids[3])}
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


@pytest.fixture
def small(whole: Path, tmp_path: Path, no_ray: None) -> RunFolder:
    """A copy of the small run, with its results."""
    return RunFolder(str(shutil.copytree(whole, tmp_path / "small")))


def win_in_words(rows: Rows) -> None:
    game = next(g for row in rows for g in row["games"] if g["verdict"] == "loss" and g["score"] < 0.5)
    game["verdict"] = "win"


def better_score(rows: Rows) -> None:
    next(s for s in rows[0]["selections"] if s["score"] is not None)["score"] += 1


def choose_another(rows: Rows) -> None:
    first = rows[1]["selections"][0]
    first["index"] = (first["index"] + 1) % 3


def test_what_was_edited_is_found(small: RunFolder) -> None:
    """By the files' digests; and by what contradicts it, where the records were made to fit."""
    records = [small.path(table, name, FILES) for table in ("selections", "games") for name in small.subfolders(table)]
    sealed = {path: Path(path).read_text() for path in records}
    tamper(small, "games", win_in_words, "games")
    tamper(small, "selections", better_score, "scores")
    tamper(small, "selections", choose_another, "selections")
    resealed = {path: Path(path).read_text() for path in records}
    for path, text in sealed.items():
        Path(path).write_text(text)
    code, found = verify(small, "verify.rows=1")
    assert code == 3 and {p["table"] for p in found["problems"] if p["check"] == "files"} >= {"selections", "games"}
    for path, text in resealed.items():
        Path(path).write_text(text)
    code, found = verify(small, "verify.rows=1")
    first, second = small.table("prompts", ["row_id", "prompt_id"])["prompt_id"].to_pylist()
    said = [(p["check"], p["prompt_id"], p["message"]) for p in found["problems"]]
    assert code == 3
    for check, prompt_id, words in (
        ("games", first, "win with the score 0."),
        ("scores", first, "has the score"),
        ("text", second, "is not the text of candidate"),
    ):
        assert any(c == check and i == prompt_id and words in message for c, i, message in said), (words, said)


def test_a_row_that_is_there_twice_is_refused(small: RunFolder) -> None:
    tamper(small, "games", lambda rows: rows.append(rows[0]), "games")
    code, found = verify(small, "verify.rows=1")
    assert code == 3 and any("are not those of the shard, each once" in p["message"] for p in found["problems"])


def win_all(rows: Rows) -> None:
    for row in rows:
        for game in row["games"]:
            game.update(score=1.0, verdict="win")


def lose_games(rows: Rows) -> None:
    rows[0]["games"] = []


@pytest.mark.parametrize("change", [win_all, pytest.param(lose_games, marks=pytest.mark.slow)])
def test_games_that_no_longer_give_the_results_are_found(change: Callable[[Rows], None], small: RunFolder) -> None:
    tamper(small, "games", change)
    code, found = verify(small, "verify.rows=1")
    assert code == 3 and {p["check"] for p in found["problems"]} == {"results"}


def test_a_sound_run_passes_and_a_removed_marker_is_found(small: RunFolder) -> None:
    assert verify(small, "verify.rows=1")[1]["problems"] == []
    small.remove_file("candidates", MARKER)
    code, found = verify(small, "verify.rows=1")
    assert code == 3 and ("marker", "candidates") in {(p["check"], p["table"]) for p in found["problems"]}


def test_edited_results_are_found(small: RunFolder) -> None:
    names = ("winrates", "judge_rates", "differences")
    for name in names:
        path = small.path(f"{name}.parquet")
        table = pq.read_table(path)
        at = next(i for i, field in enumerate(table.schema) if pa.types.is_floating(field.type))
        column = pa.array(
            [0.9 if v is not None else None for v in table.column(at).to_pylist()], table.schema.field(at).type
        )
        pq.write_table(table.set_column(at, table.schema.field(at), column), path)
    code, found = verify(small, "verify.rows=1")
    places = {p["table"] for p in found["problems"] if p["check"] == "results"}
    assert code == 3 and places == {f"{name}.{ending}" for name in names for ending in ("parquet", "csv")}


def test_a_file_that_cannot_be_read_is_one_of_the_problems(
    small: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(small.files("selections")[0]).write_bytes(b"PAR1 is how it begins")
    code, found = verify(small, "verify.rows=1")
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


@pytest.mark.slow  # that seeds bring texts back is known of the real engine (tests/engines/test_vllm.py)
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
