"""Offline labelling: real answers of three models to real prompts, in every layout, in one command each."""

from __future__ import annotations

import datetime
import decimal
import itertools
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.cli import main
from pipeline.config.load import load_config
from pipeline.core.errors import ConfigError, InputError
from pipeline.core.folder import RunFolder
from pipeline.core.schema import read_provenance
from pipeline.jobs.label.labels import NO_ROW, Label, Labels
from pipeline.prompts.sources import FileSource, Given, read_prompts
from pipeline.tasks.utilities import chrf_matrix
from tests.conftest import DATA, jsonl, rows_of
from tests.jobs import test_retry as tables

ARENA = DATA / "arena-hard-v0.1"
MODELS = ("gpt-4-0314", "gpt-4-0613", "gpt-3.5-turbo-0125")
FEW = 60
"""Questions of the 500: it is the layout that is tested."""
LABELS = [f"lemonpress_{name}" for name in ("index", "method", "scores", "answer", "error")]
LONG_LABELS = [f"lemonpress_{name}" for name in ("score", "selected", "rank", "error")]

needs_arena = pytest.mark.skipif(not ARENA.is_dir(), reason="the arena-hard-v0.1 answers are not beside the checkout")
here = pytest.mark.usefixtures("no_ray", "own_datasets_cache")


def arena(n: int) -> list[dict[str, Any]]:
    """The first ``n`` of 500 questions, each with its ``answers`` in the order of ``MODELS``."""

    def lines(path: Path) -> list[dict[str, Any]]:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]

    answers = [
        {a["uid"]: a["messages"][1]["content"]["answer"] for a in lines(ARENA / "model_answer" / f"{m}.jsonl")}
        for m in MODELS
    ]
    return [q | {"answers": [found[q["uid"]] for found in answers]} for q in lines(ARENA / "question.jsonl")[:n]]


def labelled(folder: Path) -> pa.Table:
    return pq.read_table(folder / "labels" / "part-00000.parquet")


def keeps(result: pa.Table, before: pa.Table, new: list[str]) -> bool:
    """Whether the input's columns are there with names, order, types and values, then the new ones."""
    return bool(
        result.column_names == [*before.column_names, *new]
        and result.schema.types[: before.num_columns] == before.schema.types
        and result.select(before.column_names).equals(before)
    )


@here
@needs_arena
@pytest.mark.parametrize("count", [FEW, pytest.param(500, marks=pytest.mark.slow)])
def test_prompts_with_a_list_of_answers(tmp_path: Path, count: int) -> None:
    before = pa.Table.from_pylist(arena(count))
    pq.write_table(before, tmp_path / "q.parquet")
    words = [f"out={tmp_path / 'run'}", f"prompts.path={tmp_path / 'q.parquet'}", "prompts.given.column=answers"]
    assert main(["label", *words, "prompts.columns.id=uid", "execution.progress=false"]) == 0
    result = labelled(tmp_path / "run")
    assert result.num_rows == count and keeps(result, before, LABELS)
    for row in result.to_pylist():
        assert row["lemonpress_answer"] == row["answers"][row["lemonpress_index"]]
        assert row["lemonpress_scores"][row["lemonpress_index"]] == max(row["lemonpress_scores"])
        assert (row["lemonpress_method"], row["lemonpress_error"]) == ("mbr", None)
    for row in result.slice(0, 10).to_pylist():
        matrix = chrf_matrix(row["answers"], row["answers"])
        assert row["lemonpress_scores"] == pytest.approx([(sum(r) - r[i]) / 2 for i, r in enumerate(matrix)])
    assert read_provenance(result.schema, "labels")["selector"]["utility"] == "chrf"
    assert main(["label", f"out={tmp_path / 'run'}", "execution.progress=false", "label.prefix=again"]) == 0
    assert labelled(tmp_path / "run").column_names[-1] == "again_error"


@here
@needs_arena
def test_one_row_for_each_answer(tmp_path: Path) -> None:
    questions = arena(FEW)
    rows = [  # model by model, as such files come
        {"question": q["uid"], "prompt": q["prompt"], "cluster": q["cluster"], "model": m, "answer": q["answers"][i]}
        for i, m in enumerate(MODELS)
        for q in questions
    ]
    before = pa.Table.from_pylist(rows).append_column("label", pa.array([r["model"] for r in rows]).dictionary_encode())
    pq.write_table(before, tmp_path / "long.parquet")
    given = "prompts.given={column: answer, group: question}"
    words = [f"out={tmp_path / 'run'}", f"prompts.path={tmp_path / 'long.parquet'}", given]
    assert main(["label", *words, "execution.progress=false"]) == 0
    result = labelled(tmp_path / "run")
    assert result.num_rows == 3 * FEW and keeps(result, before, LONG_LABELS)
    by_question: dict[str, list[dict[str, Any]]] = {}
    for row in result.to_pylist():
        by_question.setdefault(row["question"], []).append(row)
        assert row["lemonpress_error"] is None
    run = RunFolder(str(tmp_path / "run"))
    chosen = {r["prompt_id"]: r for r in rows_of(run, "selections", "prompt_id", "candidates", "selections")}
    assert len(by_question) == len(chosen) == FEW
    for name, three in by_question.items():
        assert sorted(r["lemonpress_rank"] for r in three) == [1, 2, 3]
        (best,) = [r for r in three if r["lemonpress_selected"]]
        (mbr,) = [s for s in chosen[name]["selections"] if s["method"] == "mbr"]
        assert (best["lemonpress_rank"], best["answer"]) == (1, mbr["text"])
        assert best["lemonpress_score"] == mbr["score"] == max(r["lemonpress_score"] for r in three)
        assert [c["model"] for c in chosen[name]["candidates"]] == list(MODELS)


@here
@needs_arena
def test_a_file_of_answers_for_each_model(tmp_path: Path) -> None:
    with (ARENA / "question.jsonl").open(encoding="utf-8") as lines:
        questions = jsonl(tmp_path / "questions.jsonl", *(line.rstrip("\n") for line in itertools.islice(lines, FEW)))
    files = ", ".join(f"{m}: {ARENA / 'model_answer' / f'{m}.jsonl'}" for m in MODELS)
    words = [
        f"out={tmp_path / 'run'}",
        f"prompts.path={questions}",
        "prompts.columns={id: uid, cluster: uid}",
        f"prompts.given={{files: {{{files}}}, id: uid, text: messages.1.content.answer}}",
    ]
    assert main(["label", *words, "execution.progress=false"]) == 0
    result = labelled(tmp_path / "run")
    asked = arena(FEW)
    assert result.select(["uid", "prompt"]).to_pylist() == [{"uid": q["uid"], "prompt": q["prompt"]} for q in asked]
    for row, question in zip(result.to_pylist(), asked, strict=True):
        assert row["lemonpress_answer"] == question["answers"][row["lemonpress_index"]]
    rows = rows_of(RunFolder(str(tmp_path / "run")), "selections", "candidates", "selections", "source", "errors")
    for row in rows:
        assert [(c["model"], c["origin"]) for c in row["candidates"]] == [(m, "given") for m in MODELS]
        assert {s["method"] for s in row["selections"]} == {"longest", "mbr"} and row["errors"] == []


def odd_table() -> pa.Table:
    """Columns of types that are easily lost, with nulls, and rows that cannot be labelled."""
    n = 4
    moment = datetime.datetime(2020, 2, 29, 12, 30, 1, 5)
    return pa.table(
        {
            "prompt": pa.array(["one", None, "three", "four"], pa.large_string()),
            "a": ["x y", "x", "long answer here", None],
            "b": ["x y z", "x", None, None],
            "c": ["x y z w", "x", "long answer", None],
            "money": pa.array([decimal.Decimal("1.50"), None, None, decimal.Decimal("-2.25")], pa.decimal128(9, 2)),
            "when": pa.array([moment, None, moment, None], pa.timestamp("us", tz="Europe/Berlin")),
            "day": pa.array([moment.date()] * n, pa.date32()),
            "nothing": pa.nulls(n),
            "small": pa.array([1, 2, None, 4], pa.uint8()),
            "blob": pa.array([b"\0\xff", None, b"", b"x"]),
            "kind": pa.array(["u", None, "v", "u"]).dictionary_encode(),
            "deep": [{"a": [{"b": 1, "c": [None, 2.5]}]}, None, {"a": None}, {"a": []}],
        }
    )


@here
def test_types_and_failed_rows(tmp_path: Path) -> None:
    before = odd_table()
    pq.write_table(before, tmp_path / "q.parquet")
    before = pq.read_table(tmp_path / "q.parquet")
    output = tmp_path / "out" / "labelled.parquet"
    words = [f"out={tmp_path / 'run'}", f"prompts.path={tmp_path / 'q.parquet'}", "prompts.given.columns=[a, b, c]"]
    words += [f"label.output={output}", "label.prefix=best", "execution={progress: false, max_failed_rows: 1.0}"]
    assert main(["label", *words, "selectors.longest=null"]) == 0
    result = pq.read_table(output)
    assert keeps(result, before, [name.replace("lemonpress", "best") for name in LABELS])
    first, second, third, last = result.to_pylist()
    assert (first["best_answer"], first["best_error"]) == (first["abc"[first["best_index"]]], None)
    assert first["best_scores"][first["best_index"]] == max(first["best_scores"])
    assert (second["best_index"], second["best_scores"], second["best_answer"]) == (None, None, None)
    assert second["best_error"] == "BadPrompt: the prompt is null"
    assert third["best_scores"][1] is None and third["best_error"] is None
    assert (last["best_index"], last["best_error"]) == (None, "no answer could be chosen")
    assert not (tmp_path / "run" / "labels").exists()


@here
def test_structs_several_files_blank_lines_and_prompts_added_later(tmp_path: Path) -> None:
    def item(i: int) -> dict[str, Any]:
        texts = [f"answer {i}", f"an answer {i}", "other"]
        return {"prompt": f"q{i}", "pool": [{"message": {"content": t}} for t in texts], "n": i}

    folder = tmp_path / "in"
    folder.mkdir()
    jsonl(folder / "1.jsonl", item(0), "", item(1))
    jsonl(folder / "2.jsonl", item(2))
    words = [f"out={tmp_path / 'run'}", f"prompts.path={folder}", "execution.progress=false"]
    words += ["prompts.given={column: pool, text: message.content}"]

    def labels() -> list[list[tuple[int, str]]]:
        assert main(["label", *words]) == 0
        parts = sorted((tmp_path / "run" / "labels").glob("*.parquet"))
        return [[(r["n"], r["lemonpress_answer"]) for r in pq.read_table(p).to_pylist()] for p in parts]

    def expected(*numbers: int) -> list[tuple[int, str]]:
        return [(n, f"answer {n}") for n in numbers]

    assert [[n for n, _ in part] for part in labels()] == [[0, 1], [2]]
    jsonl(folder / "1.jsonl", item(9), "", item(0), item(1))  # the new prompt comes first, and has the last row_id
    found = labels()
    assert [[n for n, _ in part] for part in found] == [[9, 0, 1], [2]]
    assert all(answer in (f"answer {n}", f"an answer {n}") for part in found for n, answer in part)


@here
def test_a_limit_labels_the_first_prompts_and_keeps_every_row(tmp_path: Path) -> None:
    rows = [{"q": f"q{i % 3}", "prompt": f"Q{i % 3}?", "text": f"t{i}"} for i in range(7)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "long.parquet")
    given = "prompts.given={column: text, group: q}"
    words = [f"out={tmp_path / 'run'}", f"prompts.path={tmp_path / 'long.parquet'}", given, "prompts.limit=2"]
    assert main(["label", *words, "execution.progress=false"]) == 0
    found = labelled(tmp_path / "run").to_pylist()
    assert [r["text"] for r in found] == [f"t{i}" for i in range(7)]
    assert [r["lemonpress_error"] for r in found] == [NO_ROW if i % 3 == 2 else None for i in range(7)]
    assert sum(bool(r["lemonpress_selected"]) for r in found) == 2


def test_ranks_put_the_chosen_first_among_equals() -> None:
    label = Label(2, [1.0, None, 3.0, 3.0], "c", None, [None] * 4)
    assert label.ranks() == [3, None, 1, 2]
    assert Label(0, None, "a", None, [None] * 2).ranks() == [None, None]


def test_what_a_selector_fell_back_to_is_no_label(run: RunFolder) -> None:
    details = [None, '{"invalid": 1}', '{"fallback": "no valid verdict"}']
    answers = [{"text": text, "plan": "given", "error": None} for text in "ab"]
    chosen = {"plan": "given", "method": "judge", "index": 1, "text": "b", "score": 0.5}
    rows = [
        tables.row(i, candidates=answers, selections=[chosen | {"detail": detail}]) for i, detail in enumerate(details)
    ]
    tables.write(run, "selections", rows)
    found = Labels(run, "given", "judge").of(np.arange(3))
    assert [(found[i].index, found[i].answer) for i in range(3)] == [(1, "b"), (1, "b"), (None, None)]
    assert [found[i].error for i in range(3)] == [None, None, "fell back: no valid verdict"]


def test_rows_of_one_group_must_ask_the_same(run: RunFolder, tmp_path: Path, own_datasets_cache: None) -> None:
    path = jsonl(
        tmp_path / "l.jsonl",
        {"q": 1, "prompt": "A", "t": "x"},
        {"q": 2, "prompt": "B", "t": "x"},
        "",
        {"q": 1, "t": ""},
    )
    with pytest.raises(InputError, match=r"rows 0 and 2 have one id 1 in 'q', but differ in 'prompt'"):
        read_prompts(FileSource(path=path, given=Given(column="t", group="q")), run)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["prompts.given.column=answers"], r"label\.prefix: .* has a column 'lemonpress_error' already"),
        (["prompts.given.column=answers", "label.prefix=l", "label.method=mbrr"], r"label\.method: .*mean 'mbr'"),
        (["prompts.given.column=answers", "label.method=null"], r"label\.method: which .* longest, mbr"),
        (["prompts.given.column=answers", "prompts.languages=[de]"], r"prompts\.languages: cannot be used with label"),
        (["prompts.given={column: answers, group: g}", "label.prefix=l"], r"prompts\.given\.group: no column .*'g'"),
        (
            ["prompts.given={columns: [answer], group: prompt}", "label.prefix=l"],
            "group: needs prompts",
        ),
        ([], r"prompts\.given: which answers"),
        (["prompts.given.column=answers", "label.prefix=l", "label.output=IN"], r"label\.output: .* is an input"),
        (["prompts.given.column=answers", "label.outputs=x"], r"unknown config key 'label\.outputs'"),
        (["prompts.given.column=answers", "sampling.kind=greedy", "engines.generator.kind=dummy"], "samples nothing"),
    ],
)
def test_mistakes_end_before_anything_runs(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], own_datasets_cache: None
) -> None:
    path = tmp_path / "q.parquet"
    pq.write_table(pa.table({"prompt": ["Q"], "answers": [["a"]], "lemonpress_error": ["mine"]}), path)
    words = [word.replace("=IN", f"={path}") for word in words]
    assert main(["label", f"out={tmp_path / 'run'}", f"prompts.path={path}", *words]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "run" / "selections").exists()


def test_the_recipe_says_what_is_missing() -> None:
    with pytest.raises(ConfigError, match=r"prompts\.path"):
        load_config(["label"])


def test_nothing_is_sampled_where_candidates_are_given(tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text(json.dumps({"prompt": "Q?", "answers": ["a", "b"]}) + "\n")
    config = load_config(["label", f"prompts.path={tmp_path / 'q.jsonl'}", "prompts.given.column=answers"])
    assert config.sampling is None
    assert config.sets() == ["given"]
    sampled = load_config(
        ["label", "prompts.path=x", "prompts.given.column=a", "sampling.kind=greedy", "engines.generator.kind=dummy"]
    )
    assert sampled.sets() == ["given", "greedy"]
