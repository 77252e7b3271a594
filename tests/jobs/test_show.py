"""``lemonpress show``: one prompt from finished tables and from the blocks of a pass that is still running."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.cli import main
from pipeline.core.errors import InputError
from pipeline.core.folder import RunFolder
from pipeline.core.layers import LAYER, Layer
from pipeline.core.row import NESTED
from pipeline.core.schema import COLUMNS, with_provenance
from pipeline.jobs.show import describe, find
from tests.conftest import rows_of, run_with_prompts
from tests.report.runs import candidate, game


def append(run: RunFolder, table: str, name: str, rows: list[dict[str, Any]], finished: bool = False) -> None:
    """Write a layer of some rows of the run's one shard."""
    layer = Layer(table, name, len(run.subfolders("candidates") + run.subfolders("selections")), "job", base=0)
    run.make(table, name)
    run.write_json(layer.as_json(), table, name, LAYER)
    named = [{"prompt_id": f"p{row['row_id']}", "usage": [], "errors": [], **row} for row in rows]
    columns = ["row_id", "prompt_id", *(n for n in NESTED if any(n in row for row in named))]
    schema = with_provenance(pa.schema([(n, COLUMNS[n]) for n in columns]), {})
    pq.write_table(pa.Table.from_pylist(named, schema=schema), run.path(table, name, "00000.parquet"))
    if finished:
        run.complete(table, {**(run.marker("prompts") or {}), "layers": []})


EVIL = "fine\x1b[2J\nerror in generate/x: Forged: line\u202e"


@pytest.fixture
def going_on(tmp_path: Path) -> RunFolder:
    """Candidates are finished; select's first pass wrote a block, its second is writing one, judge has not begun."""
    run = run_with_prompts(tmp_path / "run", 6, shard_rows=3)
    texts = [candidate("greedy text", "greedy", "en"), candidate(EVIL, "sample", "en", seed=77)]
    texts.append(candidate(None, "sample", "en", error="timed out\nfor good"))
    append(run, "candidates", "generate-g", [{"row_id": i, "candidates": texts} for i in (1, 2)], finished=True)
    first = [{"plan": "hedged", "method": "mbr", "index": 1, "text": EVIL, "score": 0.5, "detail": '{"k": 1}'}]
    scores = [{"scorer": "mbr", "plan": "hedged", "values": [0.25, 0.5, None]}]
    append(run, "selections", "select-cpu", [{"row_id": 2, "scores": scores, "selections": first}])
    second = [{"plan": "hedged", "method": "fusion", "index": -1, "text": "new", "score": None, "detail": None}]
    errors = [{"job": "select", "stage": "select:x", "kind": "ValueError", "message": "bad\nthing"}]
    usage = [{"job": "select", "stage": "select:x", "model": "m", "requests": 3}]
    usage[0] |= {"prompt_tokens": 300, "cached_tokens": 256, "completion_tokens": 1}
    games = [game("mbr", "ab", "win", reason="clear")]
    more = {"selections": second, "errors": errors, "usage": usage, "games": games}
    append(run, "selections", "select-judge", [{"row_id": 2, **more}])
    Path(run.path("selections", "select-judge"), ".half.tmp").write_bytes(b"PAR1 being written")
    return run


def test_a_prompt_of_a_running_job_shows_all_that_is_known(going_on: RunFolder) -> None:
    text = "\n".join(describe(going_on, "p2"))
    assert "prompt p2 (row 2, cluster c1)" in text and "language en, task open" in text
    assert "found in prompts, candidates, selections (its job has not finished)" in text
    assert "[user]\n    | question 2" in text
    assert "candidate 0 of hedged: greedy, small-writer, en, stop, temperature 0, seed 7, 12 tokens" in text
    assert "mbr 0.25\n    | greedy text" in text
    assert "seed 77" in text and "mbr 0.5; chosen by mbr\n    | fine" in text
    assert "mbr -\n    error: timed out␊for good" in text
    assert "selection hedged/mbr: candidate 1, score 0.5\n" in text
    assert "selection hedged/fusion: a new text, score -\n    | new" in text
    assert "game hedged/mbr against hedged/sample (ab)" in text and "win, score 1, label mass 0.91; clear" in text
    assert "cost of select/select:x on m: 3 requests, 300 prompt tokens (256 cached), 1 new" in text
    assert "error in select/select:x: ValueError: bad␊thing" in text


def test_a_prompt_that_the_running_pass_has_not_reached_is_shown_as_far_as_it_is(going_on: RunFolder) -> None:
    assert find(going_on, "p1")[1] == "prompts, candidates, selections (its job has not finished)"
    row, where = find(going_on, "p5")
    assert (row.prompt_id, row.candidates, where) == ("p5", [], "prompts")


def test_texts_of_models_cannot_pass_for_lines_of_ours(going_on: RunFolder) -> None:
    lines = list(describe(going_on, "p2"))
    assert not [line for line in lines if "\x1b" in line or "\u202e" in line or "\n" in line]
    assert [line for line in lines if "Forged" in line] == ["    | error in generate/x: Forged: line⟦U+202E⟧"]


def test_what_cannot_be_shown(going_on: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", going_on.name, "p2"]) == 0
    assert "prompt p2" in capsys.readouterr().out
    assert main(["show", going_on.name, "p22"]) == 2
    assert "no prompt has the id 'p22'; did you mean 'p2'?" in capsys.readouterr().err
    assert main(["show", str(tmp_path / "nowhere"), "p2"]) == 2
    assert "no run's folder" in capsys.readouterr().err
    assert main(["show", going_on.name]) == 2
    assert "show takes RUN PROMPT_ID, as in: lemonpress show" in capsys.readouterr().err
    Path(going_on.path("candidates", "generate-g", "00000.parquet")).write_bytes(b"PAR1 torn")
    with pytest.raises(InputError, match=r"generate-g/00000\.parquet"):  # a file that is there is whole
        find(going_on, "p2")


def test_a_finished_run_shows_a_prompt_and_no_other(finished: Path) -> None:
    run = RunFolder(str(finished))
    rows = rows_of(run, "games", "prompt_id", "messages", "candidates", "selections", "games")
    row = rows[5]
    lines = list(describe(run, row["prompt_id"]))
    assert lines[0].startswith(f"prompt {row['prompt_id']} (row 5, ")
    assert f"    | {row['messages'][0]['content']}" in lines
    kinds = ("candidate ", "selection ", "game ")
    titles = [sum(line.startswith(kind) for line in lines) for kind in kinds]
    assert titles == [11, len(row["selections"]), len(row["games"])] and min(titles) > 10
    texts = {line for c in row["candidates"] for line in c["text"].split("\n")}
    assert texts <= {line.removeprefix("    | ") for line in lines if line.startswith("    | ")}
