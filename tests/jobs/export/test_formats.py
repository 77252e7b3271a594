"""What the four formats hold, as Arrow and as ``datasets`` read them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.cli import main
from pipeline.core.errors import ConfigError
from pipeline.core.folder import RunFolder
from tests.conftest import rows_of
from tests.jobs.export import data

TURNS = [{"role": "user", "content": "What is question 0 about?"}]
BEST = [{"role": "assistant", "content": "The best answer to question 0 is this one."}]
WORST = [{"role": "assistant", "content": "It may be a worse answer to question 0."}]
PAIR = {"prompt": TURNS, "chosen": BEST, "rejected": WORST, "score_chosen": 3.0, "score_rejected": 1.0}


@pytest.mark.parametrize(
    ("format", "expected"),
    [
        ("sft", [{"messages": TURNS + BEST}]),
        ("dpo", [PAIR]),
        ("reward", [PAIR | {"margin": 2.0}]),
        (
            "kto",
            [
                {"prompt": TURNS, "completion": BEST, "label": True},
                {"prompt": TURNS, "completion": WORST, "label": False},
            ],
        ),
    ],
)
def test_each_format_has_its_columns(tmp_path: Path, format: str, expected: list[dict[str, Any]]) -> None:
    done = data.export(data.write(tmp_path, data.plain_rows(1)), format=format)
    assert done.folder == tmp_path / "export" / format
    assert data.records(done) == expected


@pytest.mark.parametrize("format", ["sft", "dpo", "reward", "kto"])
def test_datasets_loads_the_folder_offline_with_the_documented_features(
    tmp_path: Path, format: str, own_datasets_cache: None
) -> None:
    from datasets import List, Value, load_dataset

    done = data.export(data.write(tmp_path, data.plain_rows(60)), format=format, rows_per_shard=20)
    loaded = load_dataset(str(done.folder))
    assert {name: len(split) for name, split in loaded.items()} == done.counts.per_split(done.counts.records)
    assert done.shards["train"] > 1
    turns = List({"role": Value("string"), "content": Value("string")})
    number = Value("float64")
    pair = {"prompt": turns, "chosen": turns, "rejected": turns, "score_chosen": number, "score_rejected": number}
    features = {
        "sft": {"messages": turns},
        "dpo": pair,
        "reward": pair | {"margin": number},
        "kto": {"prompt": turns, "completion": turns, "label": Value("bool")},
    }
    assert dict(loaded["train"].features) == features[format]


def test_datasets_never_gives_back_another_export_from_its_cache(tmp_path: Path, own_datasets_cache: None) -> None:
    """It caches by the folder's last name and the card's patterns: neither path nor time of change counts."""
    from datasets import load_dataset

    def loaded(name: str, n: int) -> Any:
        data.write(tmp_path / name, data.plain_rows(n))
        return load_dataset(str(data.export(RunFolder(str(tmp_path / name)), splits={"train": 1.0}).folder))["train"]

    assert [len(loaded(*export)) for export in (("one", 3), ("two", 5), ("one", 4))] == [3, 5, 4]


@pytest.mark.parametrize("format", ["sft", "dpo", "kto"])
def test_system_turns_names_and_tool_calls_are_kept(tmp_path: Path, format: str, own_datasets_cache: None) -> None:
    from datasets import load_dataset

    rows = [data.row(0, ["It is three.", "It is four, I say."], [1.0, 0.0], messages=data.TOOL_TURNS)]
    done = data.export(data.write(tmp_path, rows), format=format, splits={"train": 1.0})
    record = load_dataset(str(done.folder))["train"][0]
    turns = record["messages" if format == "sft" else "prompt"]
    assert [t["role"] for t in turns[:4]] == ["system", "user", "assistant", "tool"]
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": [2]}}}
    assert turns[2]["tool_calls"] == [call] and turns[3]["name"] == "add"
    if format == "sft":
        assert turns[4]["content"] == "It is three."


ADD = {"type": "function", "function": {"name": "add", "parameters": {"properties": {"a": {"type": "number"}}}}}
SAY = {"type": "function", "function": {"name": "say", "parameters": {"properties": {"b": {"default": None}}}}}


@pytest.mark.parametrize("format", ["sft", "dpo", "reward", "kto"])
def test_tool_definitions_become_trls_column(tmp_path: Path, format: str, own_datasets_cache: None) -> None:
    from datasets import load_dataset

    texts = [json.dumps([ADD, SAY]), None, "[]"]
    rows = [row | {"source": {"tools": text}} for row, text in zip(data.plain_rows(3), texts, strict=True)]
    done = data.export(data.write(tmp_path, rows, source={"tools": pa.string()}), format=format, splits={"train": 1.0})
    first, *others = load_dataset(str(done.folder))["train"]["tools"][:: 2 if format == "kto" else 1]
    assert json.loads(first) == [ADD, SAY] and others == [None, None]


def test_tool_definitions_in_arrow_lose_the_keys_that_arrow_fills_in(tmp_path: Path) -> None:
    tools = pa.array([[ADD, SAY]])
    assert "b" in tools.to_pylist()[0][0]["function"]["parameters"]["properties"]
    rows = [data.plain_rows(1)[0] | {"source": {"functions": tools.to_pylist()[0]}}]
    run = data.write(tmp_path, rows, source={"functions": tools.type})
    say = {"type": "function", "function": {"name": "say", "parameters": {"properties": {"b": {}}}}}
    assert json.loads(data.records(data.export(run, tools="functions"))[0]["tools"]) == [ADD, say]
    assert list(data.records(data.export(run))[0]) == ["messages"]


def test_tool_definitions_of_another_kind_are_refused_or_switched_off(tmp_path: Path) -> None:
    rows = [row | {"source": {"tools": text}} for row, text in zip(data.plain_rows(2), ["hammer", "[]"], strict=True)]
    run = data.write(tmp_path, rows, source={"tools": pa.string()})
    assert data.export(run).counts.dropped == {"tool definitions cannot be read": 1}
    assert not data.export(run, tools=None).counts.dropped
    with pytest.raises(ConfigError, match=r"export\.tools: the source has no column 'tool'; did you mean 'tools'"):
        data.export(run, tools="tool")


def test_tool_calls_that_cannot_be_read_drop_their_row(tmp_path: Path) -> None:
    turns = [*data.TOOL_TURNS[:2], {"role": "assistant", "tool_calls": "[1]"}, {"role": "user", "content": "So?"}]
    done = data.export(data.write(tmp_path, [*data.plain_rows(1), data.row(1, ["a", "b"], [1, 0], messages=turns)]))
    assert done.counts.dropped == {"tool calls cannot be read": 1}


@pytest.mark.parametrize(
    ("keys", "content"), [({}, "Four."), ({"reasoning": "keep"}, "<think>\n2+2\n</think>\n\nFour.")]
)
def test_reasoning_is_stripped_or_kept(tmp_path: Path, keys: dict[str, Any], content: str) -> None:
    row = data.row(0, ["Four.", "Five."], [1.0, 0.0])
    row["candidates"][0]["reasoning"] = "2+2"
    assert data.records(data.export(data.write(tmp_path, [row]), **keys))[0]["messages"][-1]["content"] == content


def test_a_new_text_is_exported_without_a_candidate(tmp_path: Path) -> None:
    row = data.row(0, ["One of them.", "Another one."], [1.0, 0.0])
    row["selections"][0] |= {"index": -1, "text": "A fusion of both."}
    record = data.records(data.export(data.write(tmp_path, [row]), format="dpo"))[0]
    assert record["chosen"][0]["content"] == "A fusion of both." and record["score_chosen"] is None
    assert record["rejected"][0]["content"] == "Another one."


def test_a_finished_runs_answers_are_exported(finished_run: RunFolder) -> None:
    """The other runs here are written by hand; this one was made by the jobs."""
    words = ["export.plan=warm", "export.method=best_of_n", "export.format=dpo", "export.language=false"]
    assert main(["export", f"out={finished_run.name}", *words, "export.truncated=false"]) == 0
    rows = rows_of(finished_run, "selections", "prompt_id", "messages", "candidates", "scores", "selections")
    wanted = []
    for row in rows:
        (chosen,) = [s for s in row["selections"] if (s["plan"], s["method"]) == ("warm", "best_of_n")]
        (scores,) = [s["values"] for s in row["scores"] if (s["plan"], s["scorer"]) == ("warm", "best_of_n")]
        wanted.append((row["messages"][0]["content"], chosen["text"], max(scores), min(scores)))
    files = finished_run.parquet_files("export", "dpo", "data")
    records = [r for file in files for r in pq.read_table(file).to_pylist()]
    exported = [
        (r["prompt"][0]["content"], r["chosen"][0]["content"], r["score_chosen"], r["score_rejected"]) for r in records
    ]
    assert sorted(exported) == sorted(wanted)
