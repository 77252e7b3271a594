"""Outside systems' answers: from a column, a file, another run; and what is refused before anything loads."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.config.load import load_config
from pipeline.core.errors import ConfigError, InputError
from pipeline.core.folder import RunFolder
from pipeline.core.row import Answer, Row
from pipeline.jobs.judge import check
from pipeline.judging.answers import (
    AnswersStage,
    ColumnAnswers,
    EngineAnswers,
    FileAnswers,
    Lookup,
    RunAnswers,
    write_lookup,
)
from tests.conftest import jsonl
from tests.selection.test_selectors import Judge
from tests.tables import write_table


def test_a_lookup_finds_every_text_and_nothing_else(run: RunFolder) -> None:
    texts = {f"p{i}": None if i % 7 == 0 else f"text {i} ü" for i in range(2500)}
    count, digest = write_lookup(run, "gpt", texts.items())
    lookup = Lookup(run, "gpt")
    assert count == 2500
    assert {key: lookup.get(key) for key in texts} == texts
    assert [lookup.get(key) for key in ("", "p", "p99999", "zz")] == [None] * 4
    assert write_lookup(run, "gpt", texts.items())[1] == digest
    assert write_lookup(run, "gpt", [*list(texts.items())[:-1], ("p2499", "new")])[1] != digest
    with pytest.raises(InputError, match=r"answers.gpt: there is no answer"):
        write_lookup(run, "gpt", [])


def test_a_file_with_paths_into_its_rows(tmp_path: Path, own_datasets_cache: None) -> None:
    path = jsonl(
        tmp_path / "a.jsonl", {"uid": 1, "turns": [{"content": "one"}]}, {"uid": 2, "turns": [{"content": None}]}
    )
    source = FileAnswers(path, id="uid", text="turns.0.content")
    assert list(source.pairs("answers.gpt")) == [("1", "one"), ("2", None)]
    with pytest.raises(InputError, match="no row has the id 'id'"):
        list(FileAnswers(path, id="id").pairs("answers.gpt"))


def test_a_system_of_another_run(tmp_path: Path) -> None:
    other = RunFolder(str(tmp_path / "other"))
    rows = [
        {"prompt_id": f"p{i}", "selections": [{"plan": "hedged", "method": "mbr", "index": 0, "text": f"t{i}"}]}
        for i in range(3)
    ]
    rows.append({"prompt_id": "p3", "selections": []})
    write_table(other, "selections", rows)
    pairs = list(RunAnswers(other.name, "hedged/mbr").pairs("answers.old"))
    assert pairs == [("p0", "t0"), ("p1", "t1"), ("p2", "t2")]
    with pytest.raises(
        InputError, match=r"answers.old.system: .* has no system 'hedged/mbrr'; did you mean 'hedged/mbr'"
    ):
        list(RunAnswers(other.name, "hedged/mbrr").pairs("answers.old"))


def put(stage: AnswersStage, row: Row, engine: Any = None) -> list[Answer]:
    return asyncio.run(stage(row, engine)).answers


def test_every_row_gets_an_answer_and_a_missing_one_has_no_text(run: RunFolder) -> None:
    write_lookup(run, "gpt", [("p1", "found")])
    stage = AnswersStage("gpt", FileAnswers("x"), run.name)
    assert put(stage, Row(1, "p1")) == [Answer("gpt", "found")]
    assert put(stage, Row(2, "p2", answers=[Answer("old", "o"), Answer("gpt", "stale")])) == [
        Answer("old", "o"),
        Answer("gpt", None),
    ]
    column = AnswersStage("c", ColumnAnswers("mine"))
    assert put(column, Row(1, "p1", source={"mine": "text"})) == [Answer("c", "text")]
    assert put(column, Row(1, "p1", source=None)) == [Answer("c", None)]


def test_a_model_is_asked_for_one_answer(run: RunFolder) -> None:
    engine = Judge(lambda text, labels: [])
    row = Row(1, "p1", messages=[{"role": "user", "content": "Why?"}])
    greedy = put(AnswersStage("m", EngineAnswers("e", max_tokens=9)), row, engine)
    assert greedy[0].text and greedy == put(AnswersStage("m", EngineAnswers("e", max_tokens=9)), row, engine)
    sampled = [put(AnswersStage("m", EngineAnswers("e", temperature=1.0), run_seed=s), row, engine) for s in (1, 1, 2)]
    assert sampled[0] == sampled[1] != sampled[2]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["answers.gpt={kind: file}"], r"answers.gpt.path: missing"),
        (["answers.gpt={kind: engine, engine: none}"], r"answers.gpt.engine: no engine is called 'none'"),
        (["answers.gpt={kind: engine}"], r"answers.gpt.engine: missing"),
        (["answers.gpt={kind: column}"], r"answers.gpt.column: missing"),
        (["answers.gpt={kind: run, path: x}"], r"answers.gpt.system: missing"),
        (["answers.gpt={kind: colum, column: x}"], r"answers.gpt.kind: .*did you mean 'column'"),
        (["answers.mbr={kind: column, column: x}"], r"answers.mbr: a selector has that name already"),
        (["answers.x/y={kind: column, column: x}"], r"an outside system's name may hold no '/'"),
        (["answers.x#1={kind: column, column: x}"], r"an outside system's name may hold no '/'"),
        (["judge.audit=-1"], r"judge.audit: must be at least 0"),
    ],
)
def test_mistakes_are_named_before_anything_loads(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(["dummy", *words])


def test_only_the_judge_reads_the_file() -> None:
    """The report of a finished run has no need of it: the answers are in the run."""
    config = load_config(["dummy", "answers.gpt={kind: file, path: nowhere.jsonl}"])
    with pytest.raises(ConfigError, match=r"answers.gpt.path: no such file: nowhere.jsonl"):
        check(config)


def test_outside_systems_take_part_by_their_names() -> None:
    config = load_config(["dummy", "answers.gpt={kind: column, column: x}", "judge.opponent=gpt"])
    check(config)
    assert config.system("gpt", "k") == "gpt"
    with pytest.raises(ConfigError, match=r"judge.opponent: no system is called 'gtp'; did you mean 'gpt'"):
        check(load_config(["dummy", "answers.gpt={kind: column, column: x}", "judge.opponent=gtp"]))
    with pytest.raises(ConfigError, match=r"judge.engine: no engine, and no outside systems"):
        check(load_config(["dummy", "judge.engine=null"]))
    check(load_config(["dummy", "judge.engine=null", "answers.gpt={kind: column, column: x}"]))


def test_a_column_must_exist_and_hold_text() -> None:
    schema = pa.schema([("source", pa.struct([("mine", pa.string()), ("score", pa.int64())]))])
    ColumnAnswers("mine").check_table(schema, "answers.x")
    with pytest.raises(ConfigError, match=r"answers.x.column: the prompts' source has no column 'mien'; did you mean"):
        ColumnAnswers("mien").check_table(schema, "answers.x")
    with pytest.raises(ConfigError, match=r"answers.x.column: 'score' holds int64, not text"):
        ColumnAnswers("score").check_table(schema, "answers.x")
