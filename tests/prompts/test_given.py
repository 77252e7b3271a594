"""Answers that exist already (``prompts.given``), and another run's table as prompts (``prompts.kind=run``)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config.config import to_dict
from pipeline.config.load import build_config
from pipeline.core.errors import ConfigError, InputError, ResumeError, UnfinishedTableError
from pipeline.core.folder import MARKER, RunFolder
from pipeline.core.row import Candidate, row_from_dict
from pipeline.core.schema import METADATA_KEY, prompts_schema, read_provenance, with_columns, with_provenance
from pipeline.prompts import formats
from pipeline.prompts.sources import Columns, FileSource, Given, RunSource, read_prompts
from tests.conftest import DATA, jsonl
from tests.tables import write_table

ARENA = DATA / "arena-hard-v0.1"
MODELS = ("gpt-3.5-turbo-0125", "gpt-4-0314", "gpt-4-0613")


pytestmark = pytest.mark.usefixtures("own_datasets_cache")


def candidates_of(run: RunFolder) -> list[list[Candidate]]:
    rows = run.table("prompts", ["row_id", "prompt_id", "candidates"]).to_pylist()
    return [row_from_dict(row).candidates for row in rows]


def texts_of(run: RunFolder) -> list[list[str | None]]:
    return [[c.text for c in candidates] for candidates in candidates_of(run)]


PROMPTS = [{"uid": name, "prompt": f"ask {name}", "language": "de"} for name in ("a", "b", "c")]


@pytest.fixture
def prompts(tmp_path: Path) -> str:
    return jsonl(tmp_path / "p.jsonl", *PROMPTS)


def with_files(prompts: str, given: dict[str, str], **options: Any) -> FileSource:
    return FileSource(path=prompts, columns=Columns(id="uid"), given=Given(files=given, **options))


# ------------------------------------------------------------------------------------------------- a source's column


def test_column_of_texts_and_of_structs(run: RunFolder, tmp_path: Path) -> None:
    full = {"text": "A", "model": "m", "logprob": -2, "num_tokens": 3.0, "finish_reason": "stop", "reasoning": "hm"}
    path = jsonl(
        tmp_path / "p.jsonl",
        {"prompt": "1", "answers": ["x", "", "x"], "language": "de"},
        {"prompt": "2", "answers": [full, {"text": "B", "language": "fr", "other": 1}], "language": "de"},
        {"prompt": "3", "answers": None},
        {"prompt": "4", "answers": '["y"]', "kept": 1},
    )
    source = FileSource(path=path, given=Given(column="answers", name="old"))
    report = read_prompts(source, run)
    found = candidates_of(run)
    assert [[c.text for c in cs] for cs in found] == [["x", "", "x"], ["A", "B"], [], ["y"]]
    assert {(c.plan, c.origin, c.error) for cs in found for c in cs} == {("old", "given", None)}
    expected = Candidate(**{**full, "num_tokens": 3, "logprob": -2.0, "language": "de"}, plan="old", origin="given")
    assert found[1] == [expected, Candidate(text="B", language="fr", plan="old", origin="given")]
    assert report.bad_answers == 0
    source_type = run.dataset("prompts").schema.field("source").type
    assert run.dataset("prompts").schema.remove_metadata() == prompts_schema(source_type, "candidates")
    assert [f.name for f in source_type] == ["kept"]
    assert source.given_sets() == ["old"]


def test_column_of_a_parquet_file(run: RunFolder, tmp_path: Path) -> None:
    answers = [[{"text": "x", "logprob": -1.5}, {"text": None, "logprob": float("nan")}], []]
    pq.write_table(pa.table({"prompt": ["1", "2"], "answers": answers}), tmp_path / "p.parquet")
    read_prompts(FileSource(path=str(tmp_path / "p.parquet"), given=Given(column="answers")), run)
    assert [[(c.text, c.logprob, c.error) for c in cs] for cs in candidates_of(run)] == [
        [("x", -1.5, None), (None, None, "no answer in answers")],
        [],
    ]


def test_unusable_answers_are_counted_and_do_not_fail_their_row(run: RunFolder, tmp_path: Path) -> None:
    values: list[Any] = ["text", [3], [{"content": "x"}], [{"text": "x", "logprob": "low"}, "good"], [{"text": "x\0"}]]
    values.append([{"text": "x", "num_tokens": 1.5}])
    path = jsonl(tmp_path / "p.jsonl", *({"prompt": str(i), "answers": v} for i, v in enumerate(values)))
    report = read_prompts(FileSource(path=path, given=Given(column="answers")), run)
    assert [[c.error or c.text for c in cs] for cs in candidates_of(run)] == [
        ["answers is neither a list of answers nor its JSON text"],
        ["answers[0].text is int, not text"],
        ["no answer in answers"],
        ["answers[0].logprob is 'low', not a number", "good"],
        ["x\ufffd"],
        ["answers[0].num_tokens is 1.5, not a whole number"],
    ]
    assert (report.bad_rows, report.bad_answers) == (0, 5)
    assert "given answers: 5 in the column cannot be used and carry an error" in report.lines()
    assert all(row["errors"] == [] for row in run.iter_rows("prompts", ["errors"]))


# --------------------------------------------------------------------------------------------- files joined on an id


def test_files_are_joined_in_the_order_of_the_map(
    run: RunFolder, tmp_path: Path, prompts: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "_BATCH", 2)
    one = jsonl(tmp_path / "one.jsonl", *({"uid": x, "text": f"1{x}"} for x in "cab"), "")
    pq.write_table(pa.table({"uid": ["b", "c", "a"], "text": ["2b", "2c", "2a"]}), tmp_path / "two.parquet")
    (tmp_path / "three.csv").write_text("uid,text,x\na,3a,0\nb,,0\nc,3c,0\n")
    files = {"z": one, "a": str(tmp_path / "two.parquet"), "csv": str(tmp_path / "three.csv")}
    report = read_prompts(with_files(prompts, files), run)
    found = candidates_of(run)
    assert texts_of(run) == [["1a", "2a", "3a"], ["1b", "2b", ""], ["1c", "2c", "3c"]]
    assert [c.model for c in found[0]] == ["z", "a", "csv"]
    assert {(c.plan, c.origin, c.language, c.error) for cs in found for c in cs} == {("given", "given", "de", None)}
    assert (report.unmatched, report.unanswered) == ({}, {})


def test_missing_answers_keep_their_position_and_strangers_are_counted(
    run: RunFolder, tmp_path: Path, prompts: str
) -> None:
    one = jsonl(
        tmp_path / "one.jsonl", "", {"uid": "b", "text": "1b"}, {"uid": "x", "text": "1x"}, {"uid": 7, "text": ""}
    )
    two = jsonl(tmp_path / "two.jsonl", *({"uid": x, "text": None if x == "a" else f"2{x}"} for x in "abc"))
    (tmp_path / "empty.jsonl").write_text("")
    files = {"one": one, "two": two, "empty": str(tmp_path / "empty.jsonl")}
    report = read_prompts(with_files(prompts, files), run)
    assert texts_of(run) == [[None, None, None], ["1b", "2b", None], [None, "2c", None]]
    assert [c.error for c in candidates_of(run)[0]] == [f"no answer in {name}.jsonl" for name in files]
    assert report.unmatched == {one: 2}
    assert report.unanswered == {one: 2, two: 1, files["empty"]: 3}
    assert f"given answers: 2 ids in {one} belong to no prompt that is kept" in report.lines()
    assert f"given answers: {two} has none to 1 prompts; those candidates carry an error" in report.lines()
    again = read_prompts(with_files(prompts, files), run)
    assert again.skipped and again.lines()[1:] == report.lines()[1:]


def test_files_come_before_the_column(run: RunFolder, tmp_path: Path) -> None:
    path = jsonl(tmp_path / "p.jsonl", {"prompt_id": 1, "prompt": "p", "own": ["x", "y"]})
    one = jsonl(tmp_path / "one.jsonl", {"prompt_id": "1", "text": "f"})
    read_prompts(FileSource(path=path, given=Given(column="own", files={"m": one})), run)
    assert texts_of(run) == [["f", "x", "y"]]


def test_path_to_the_text_and_another_id_column(run: RunFolder, tmp_path: Path, prompts: str) -> None:
    def item(name: str, content: Any) -> dict[str, Any]:
        return {"question": name, "messages": [{"content": "q"}, {"content": content}]}

    one = jsonl(tmp_path / "one.jsonl", item("a", {"answer": "1a"}), item("b", {"answer": None}), item("c", None))
    read_prompts(with_files(prompts, {"m": one}, id="question", text="messages.1.content.answer"), run)
    assert texts_of(run) == [["1a"], [None], [None]]


def test_only_kept_prompts_get_answers(run: RunFolder, tmp_path: Path, prompts: str) -> None:
    one = jsonl(tmp_path / "one.jsonl", *({"uid": x, "text": f"1{x}"} for x in "cba"))
    source = with_files(prompts, {"m": one})
    source.limit = 2
    assert read_prompts(source, run).unmatched == {one: 1}
    assert texts_of(run) == [["1a"], ["1b"]]


def test_prompt_without_an_id_has_no_answer(run: RunFolder, tmp_path: Path) -> None:
    path = jsonl(tmp_path / "p.jsonl", {"uid": None, "prompt": "p"}, {"uid": "a", "prompt": "p"})
    one = jsonl(tmp_path / "one.jsonl", {"uid": "a", "text": "1a"})
    read_prompts(with_files(path, {"m": one}), run)
    assert texts_of(run) == [[None], ["1a"]]


@pytest.mark.parametrize(
    ("lines", "options", "message"),
    [
        (
            [{"uid": "a", "text": "x"}, {"uid": "b", "text": "x"}, "", {"uid": "a", "text": "y"}],
            {},
            r"one\.jsonl: ids in 'uid' must be unique, but 1 repeat: line 1 and line 4",
        ),
        (
            [{"uid": "a", "txt": "x"}, {"uid": "b"}],
            {},
            r"one\.jsonl: no row has the text 'text' \(prompts\.given\.text\); did you mean 'txt'",
        ),
        (
            [{"uid": "a", "messages": [{"content": "x"}]}],
            {"text": "messages.1.content"},
            r"one\.jsonl, line 1: there is no 'messages\.1', so no answer at 'messages\.1\.content'",
        ),
        ([{"uid": "a", "text": ["x"]}], {}, r"one\.jsonl, line 1: 'text' is list, not text"),
        ([{"uid": "a", "text": "x"}], {"id": "uit"}, r"one\.jsonl: no row has the id 'uit'.*did you mean 'uid'"),
        (["{"], {}, r"one\.jsonl, line 1: not valid JSON"),
    ],
)
def test_wrong_answer_file_is_named_with_its_line(
    run: RunFolder, tmp_path: Path, prompts: str, lines: list[Any], options: dict[str, str], message: str
) -> None:
    source = with_files(prompts, {"m": jsonl(tmp_path / "one.jsonl", *lines)}, **options)
    with pytest.raises(InputError, match=message):
        read_prompts(source, run)
    assert run.marker("prompts") is None and not run.exists("prompts")


def test_rows_of_a_parquet_file_are_named(run: RunFolder, tmp_path: Path, prompts: str) -> None:
    pq.write_table(pa.table({"uid": ["a", "b", "b"], "text": ["x", "y", "z"]}), tmp_path / "one.parquet")
    with pytest.raises(InputError, match=r"one\.parquet: ids .* 1 repeat: row 1 and row 2"):
        read_prompts(with_files(prompts, {"m": str(tmp_path / "one.parquet")}), run)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            FileSource(path="p.jsonl", given=Given(column="answer")),
            r"prompts\.given\.column: no column.*'answer'",
        ),
        (FileSource(path="p.jsonl", given=Given(files={"m": "none.jsonl"})), r"prompts\.given\.files\.m: no such file"),
        (FileSource(path="p.jsonl", given=Given(files={"m": "p.jsonl"})), r"set prompts\.columns\.id"),
        (FileSource(path="p.jsonl", given=Given(files={}, name="a/b")), r"prompts\.given\.name"),
        (with_files("p.jsonl", {"m": "p.txt"}), r"prompts\.given\.files\.m: cannot tell the format"),
    ],
)
def test_wrong_config(run: RunFolder, tmp_path: Path, prompts: str, source: FileSource, message: str) -> None:
    (tmp_path / "p.txt").write_text("x")
    with pytest.raises(ConfigError, match=message):
        read_prompts(source, run, base=tmp_path)


def test_changed_answers_are_refused_on_resume(run: RunFolder, tmp_path: Path, prompts: str) -> None:
    one = jsonl(tmp_path / "one.jsonl", {"uid": "a", "text": "x"})
    read_prompts(with_files(prompts, {"m": one}), run)
    jsonl(tmp_path / "one.jsonl", {"uid": "a", "text": "other"})
    with pytest.raises(ResumeError, match=r"changed: one\.jsonl"):
        read_prompts(with_files(prompts, {"m": one}), run)


@pytest.mark.skipif(not ARENA.is_dir(), reason="the shared Arena-Hard v0.1 files are not there")
def test_arena_hard_answers_of_three_models(run: RunFolder) -> None:
    config = build_config(
        {
            "prompts": {
                "kind": "file",
                "path": str(ARENA / "question.jsonl"),
                "columns": {"id": "uid", "cluster": "uid"},
                "language": "en",
                "given": {
                    "files": {model: str(ARENA / "model_answer" / f"{model}.jsonl") for model in MODELS},
                    "id": "uid",
                    "text": "messages.1.content.answer",
                },
            },
            "selectors": {"longest": {}, "mbr": {"utility": "chrf"}},
        }
    )
    assert config.systems() == ["given/longest", "given/mbr"]
    report = read_prompts(config.prompts, run)
    assert (report.rows, report.clusters, report.unmatched, report.unanswered) == (500, 500, {}, {})
    found = candidates_of(run)
    assert [[c.model for c in cs] for cs in found] == [list(MODELS)] * 500
    assert all(c.text and c.error is None and c.language == "en" for cs in found for c in cs)
    lines = (ARENA / "model_answer" / "gpt-4-0314.jsonl").read_text(encoding="utf-8").splitlines()
    answers = {item["uid"]: item["messages"][1]["content"]["answer"] for item in map(json.loads, lines)}
    ids = run.table("prompts", ["row_id", "prompt_id"])["prompt_id"].to_pylist()
    assert [cs[1].text for cs in found] == [answers[id_] for id_ in ids]


# ---------------------------------------------------------------------------------------------- another run's table


@pytest.fixture
def old(tmp_path: Path) -> RunFolder:
    """A finished ``candidates/`` table of 12 rows in 4 clusters, in three files that are out of order."""
    run = RunFolder(str(tmp_path / "old"))
    run.make("candidates")
    schema = with_columns(prompts_schema(pa.struct([("n", pa.int64())])), ["candidates"])
    schema = with_provenance(schema, {"pass": "generate-x", "fingerprint": {"seed": 5}})
    rows = [
        {
            "row_id": i,
            "prompt_id": f"p{i}",
            "cluster_id": f"c{i // 3}",
            "task": "open",
            "language": ("en", "de", None)[i % 3],
            "messages": [{"role": "user", "content": f"ask {i}"}],
            "source": {"n": i},
            "candidates": [
                vars(Candidate(text=f"answer {i}", plan="hot")),
                vars(Candidate(text=f"Beleg {i}", plan="proof", origin="evidence")),
                vars(Candidate(error="none", plan="greedy", origin="greedy")),
            ],
            "usage": [{"job": "generate", "stage": "generate:hot", "model": "m", "requests": 1}],
            "errors": [{"job": "prompts", "stage": "read", "kind": "BadPrompt", "message": "x"}] if i == 4 else [],
        }
        for i in range(12)
    ]
    return write_table(run, "candidates", rows, schema.field("source").type)


def copied(run: RunFolder, source: RunSource) -> list[dict[str, Any]]:
    read_prompts(source, run)
    return run.table("prompts", run.dataset("prompts").schema.names).to_pylist()


def test_run_source_keeps_every_column_and_the_provenance(old: RunFolder, run: RunFolder) -> None:
    source = RunSource(path=old.root)
    assert source.given_sets() == []
    report = read_prompts(source, run)
    before, after = old.dataset("candidates"), run.dataset("prompts")
    assert after.schema.equals(before.schema)
    assert after.to_table().sort_by("row_id").to_pylist() == before.to_table().sort_by("row_id").to_pylist()
    assert (report.rows, report.clusters, report.bad_rows) == (12, 4, 1)
    assert report.tasks == {"open": {"de": 4, "en": 4, "und": 4}} and report.languages == report.tasks["open"]
    assert METADATA_KEY in after.schema.metadata
    stored = read_provenance(after.schema, "prompts")
    assert stored["upstream"] == {"table": old.path("candidates"), "fingerprint_hash": "test"}
    assert read_prompts(source, run).skipped
    source.find_sets()
    assert source.given_sets() == ["hot", "greedy"]
    assert read_prompts(source, run).skipped  # finding the sets changes nothing that was read


def test_run_source_filters_in_row_order_and_renumbers(old: RunFolder, tmp_path: Path) -> None:
    def kept(name: str, **options: Any) -> list[str]:
        rows = copied(RunFolder(str(tmp_path / name)), RunSource(path=old.root, **options))
        assert [row["row_id"] for row in rows] == list(range(len(rows)))
        assert all(row["candidates"][0]["text"] == f"answer {row['source']['n']}" for row in rows)
        return [row["prompt_id"] for row in rows]

    assert kept("languages", languages=["de"]) == ["p1", "p4", "p7", "p10"]
    assert kept("limit", limit=5) == ["p0", "p1", "p2", "p3", "p4"]
    assert kept("clusters", limit_clusters=2, languages=["en", "de"]) == ["p0", "p1", "p3", "p4"]
    assert kept("both", limit_clusters=2, limit=3) == ["p0", "p1", "p2"]
    with pytest.raises(InputError, match=r"no prompt.*languages found: de, en, und"):
        kept("none", languages=["fr"])


def test_run_source_refuses_what_cannot_be_read(old: RunFolder, run: RunFolder) -> None:
    for source, error, message in [
        (RunSource(), ConfigError, r"prompts\.path: missing"),
        (RunSource(path=old.root, table="candidate"), ConfigError, r"prompts\.table.*did you mean 'candidates'"),
        (RunSource(path=old.root, system="Be kind."), ConfigError, r"prompts\.system: cannot be set"),
        (RunSource(path=old.root, table="selections"), UnfinishedTableError, "does not exist"),
    ]:
        with pytest.raises(error, match=message):
            read_prompts(source, run)
    old.fs.delete_file(old.path("candidates", MARKER))
    with pytest.raises(UnfinishedTableError, match="is not finished"):
        read_prompts(RunSource(path=old.root), run)


def test_changed_upstream_is_refused_on_resume(old: RunFolder, run: RunFolder) -> None:
    read_prompts(RunSource(path=old.root), run)
    old.complete("candidates", {**(old.marker("candidates") or {}), "fingerprint_hash": "other"})
    with pytest.raises(ResumeError, match=r"changed: candidates/_complete\.json"):
        read_prompts(RunSource(path=old.root), run)


def test_sets_of_a_run_are_known_to_the_config_and_stored_with_it(old: RunFolder) -> None:
    data = {"prompts": {"kind": "run", "path": old.root}, "selectors": {"longest": {}}}
    config = build_config(data)
    assert config.systems() == ["hot/longest", "greedy/longest"]
    with pytest.raises(ConfigError, match=r"selectors\.longest\.plans: no candidate set is called 'proof'"):
        build_config({**data, "selectors": {"longest": {"plans": ["proof"]}}})
    stored = to_dict(config)
    old.remove("candidates")
    assert build_config(stored).systems() == config.systems()
