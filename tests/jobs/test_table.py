"""``open_run`` and ``lemonpress table``: a run's tables for Python and for other tools."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import datasets
import pyarrow.parquet as pq
import pytest

from pipeline import open_run
from pipeline.cli import main
from pipeline.core.errors import ConfigError, InputError
from pipeline.core.folder import RunFolder
from tests.tables import write_table

pytestmark = pytest.mark.usefixtures("own_datasets_cache")


def test_a_run_is_read_as_whole_rows(finished: Path) -> None:
    run = open_run(str(finished))
    assert run.tables == ["prompts", "candidates", "selections", "games"]
    rows = list(run.rows("games"))
    assert [row["row_id"] for row in rows] == list(range(16))
    assert all(len(row["candidates"]) == 11 and row["selections"] and row["games"] and row["messages"] for row in rows)
    some = list(run.batches("selections", ["prompt_id", "selections"]))
    assert [batch.schema.names for batch in some] == [["prompt_id", "selections"]]
    assert "games" not in run.columns("selections").names
    for name, error, says in (
        ("game", ConfigError, "did you mean 'games'"),
        ("selections", ConfigError, "'selection'"),
    ):
        with pytest.raises(error, match=says):
            run.batches(name, ["selection"])
    with pytest.raises(InputError, match="no results 'winrate'"):
        run.results("winrate")
    with pytest.raises(InputError, match="no run's folder"):
        open_run(str(finished / "nowhere"))


@pytest.mark.parametrize("ending", ["parquet", "jsonl", "csv"])
def test_a_table_is_one_file(ending: str, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / f"out.{ending}")
    words = ["table", str(finished), "selections", out, "columns=prompt_id,language,selections"]
    assert main(words) == 0
    assert "16 rows of selections" in capsys.readouterr().out
    wanted = list(open_run(str(finished)).rows("selections", ["prompt_id", "language", "selections"]))
    match ending:
        case "parquet":
            assert pq.read_table(out).to_pylist() == wanted
        case "jsonl":
            assert [json.loads(line) for line in Path(out).read_text().splitlines()] == wanted
        case "csv":
            with open(out, newline="") as file:
                rows = list(csv.DictReader(file))
            assert [row | {"selections": json.loads(row["selections"])} for row in rows] == wanted
    loaded = datasets.load_dataset("json" if ending == "jsonl" else ending, data_files=out, split="train")
    assert loaded["prompt_id"] == [row["prompt_id"] for row in wanted]
    assert main(words) == 2 and "is there already" in capsys.readouterr().err


def test_no_cell_is_a_formula(run: RunFolder, tmp_path: Path) -> None:
    write_table(run, "prompts", [{"reference": "=cmd()", "language": "en"}, {"reference": "-5", "language": "en"}])
    assert main(["table", run.name, "prompts", str(tmp_path / "out.csv"), "columns=reference"]) == 0
    assert (tmp_path / "out.csv").read_text().splitlines() == ['"reference"', '"\'=cmd()"', '"-5"']


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["selections", "out.xlsx"], "the ending says the format"),
        (["selection", "out.csv"], "did you mean 'selections'"),
        (["selections", "out.csv", "columns=text"], "has no column 'text'"),
        (["selections", "out.csv", "column=text"], "takes columns=a,b"),
        (["selections"], "table takes RUN TABLE FILE"),
    ],
)
def test_what_is_refused(
    words: list[str],
    says: str,
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["table", str(finished), *words]) == 2
    assert says in capsys.readouterr().err and not list(tmp_path.glob("out.*"))
