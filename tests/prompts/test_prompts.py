"""Reading prompts: every rule of ``read_prompts``, on small files (and on shared data where it is)."""

from __future__ import annotations

import datetime
import json
import os
import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config.load import load_config
from pipeline.core.errors import ConfigError, InputError, ResumeError
from pipeline.core.folder import RunFolder
from pipeline.core.hashing import digest
from pipeline.core.row import row_from_dict
from pipeline.core.schema import PROMPT_COLUMNS, prompts_schema, read_provenance
from pipeline.jobs.generate import task_warnings
from pipeline.prompts import files, formats
from pipeline.prompts.sources import (
    Columns,
    ExampleSource,
    FileSource,
    HubSource,
    SentenceSource,
    SourceConfig,
    read_prompts,
)
from tests.conftest import DATA, jsonl

SHARED = DATA
PAPER_LANGUAGES = ["en", "de", "es", "fr", "ja", "ru", "zh"]
HIGH, LOW = "\\ud83d", "\\ude00"  # the two halves of an emoji, as JSON escapes


pytestmark = pytest.mark.usefixtures("own_datasets_cache")


def rows_of(run: RunFolder) -> list[dict[str, Any]]:
    data = run.dataset("prompts")
    return data.to_table().to_pylist()


def read(run: RunFolder, path: str, **options: Any) -> list[dict[str, Any]]:
    read_prompts(FileSource(path=path, **options), run)
    return rows_of(run)


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text, "name": None, "tool_calls": None}


def no_error(rows: list[dict[str, Any]]) -> bool:
    return all(row["errors"] == [] for row in rows)


# ------------------------------------------------------------------------------------------------ the example source


def test_example_source_is_eight_questions_in_seven_languages(run: RunFolder) -> None:
    report = read_prompts(ExampleSource(), run)
    rows = rows_of(run)
    assert (report.rows, report.clusters, report.bad_rows, report.n_duplicates) == (56, 8, 0, 0)
    assert report.languages == dict.fromkeys(sorted(PAPER_LANGUAGES), 8)
    assert [row["language"] for row in rows] == PAPER_LANGUAGES * 8
    assert all(row["prompt_id"] == f"{row['cluster_id']}-{row['language']}" for row in rows)
    assert {row["task"] for row in rows} == {"open"}
    assert [row["row_id"] for row in rows] == list(range(56))
    assert all(len(row["messages"][0]["content"]) < 120 for row in rows)


def test_sentence_source_is_sixteen_sentences_in_eight_languages(run: RunFolder) -> None:
    report = read_prompts(SentenceSource(), run)
    rows = rows_of(run)
    assert (report.rows, report.clusters, report.bad_rows, report.n_duplicates) == (128, 16, 0, 0)
    assert report.languages == dict.fromkeys(("ca", "de", "es", "id", "ja", "ru", "sw", "zh"), 16)
    assert {row["task"] for row in rows} == {"translation"}
    assert len({(row["cluster_id"], row["reference"]) for row in rows}) == 16


def test_example_limited_by_language_and_cluster(run: RunFolder) -> None:
    report = read_prompts(ExampleSource(languages=["ja", "en"], limit_clusters=3), run)
    assert (report.rows, report.clusters, report.languages) == (6, 3, {"en": 3, "ja": 3})
    assert [row["cluster_id"] for row in rows_of(run)] == ["tea", "tea", "sky", "sky", "dog", "dog"]


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        (("lang", "level"), r"\(lang may hold it\): prompts\.columns\.language=lang maps"),
        (("target_language", "level"), r"\(target_language may hold it\)"),
        (("locale",), "locale"),
        (("language_code",), "language_code"),
        (("level", "slang"), r"no prompt has one: prompts\.columns\.language=COLUMN maps"),
    ],
)
def test_a_run_without_languages_is_said(columns: tuple[str, ...], said: str, run: RunFolder, tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", {"prompt": "Hi", **dict.fromkeys(columns, "de")})
    (line,) = [text for text in read_prompts(FileSource(path=path), run).lines() if text.startswith("languages:")]
    assert re.search(said, line)
    assert line in read_prompts(FileSource(path=path), run).lines()  # a resumed run says it, too


# --------------------------------------------------------------------------------------------------------- the table


def test_table_has_the_schema_provenance_and_marker(run: RunFolder, tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", {"prompt": "Hi", "level": 3}, {"prompt": "Ho", "level": None})
    read_prompts(FileSource(path=path), run)
    schema = run.dataset("prompts").schema
    assert schema.remove_metadata() == prompts_schema(pa.struct([("level", pa.int64())]))
    assert read_provenance(schema, "prompts")["fingerprint"]["source"]["path"] == path
    marker = run.marker("prompts")
    assert marker is not None
    assert marker["rows"] == 2
    assert marker["fingerprint_hash"] == digest(marker["fingerprint"])
    assert row_from_dict({k: v for k, v in rows_of(run)[0].items() if k != "source"}).messages == [
        {"role": "user", "content": "Hi"}
    ]


def test_large_input_becomes_shards_in_order(run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "_BATCH", 7)
    rows = read(run, jsonl(tmp_path / "a.jsonl", *({"prompt": f"p{i}", "n": i} for i in range(101))))
    assert [row["row_id"] for row in rows] == [row["source"]["n"] for row in rows] == list(range(101))
    files = [pq.ParquetFile(path) for path in run.files("prompts")]
    assert [f.metadata.num_rows for f in files] == [16] * 6 + [5]
    assert files[0].metadata.row_group(0).column(0).compression == "ZSTD"


# --------------------------------------------------------------------------------------------------------- resuming


def test_finished_table_is_not_read_again(run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = FileSource(path=jsonl(tmp_path / "a.jsonl", *[{"prompt": "Hi"}] * 3))
    first = read_prompts(source, run)
    monkeypatch.setattr(files, "open_source", lambda *_: pytest.fail("the source was opened again"))
    again = read_prompts(source, run)
    assert again.skipped and not first.skipped
    assert {**asdict(again), "skipped": False} == asdict(first)
    assert again.duplicates == [(1, 0), (2, 0)]


def test_other_config_or_changed_file_is_refused(run: RunFolder, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    jsonl(path, {"prompt": "Hi"}, {"prompt": "Ho"})
    read_prompts(FileSource(path=str(path)), run)
    with pytest.raises(ResumeError, match=r"prompts\.limit was None, now 1.*out="):
        read_prompts(FileSource(path=str(path), limit=1), run)
    jsonl(path, {"prompt": "Hi!"}, {"prompt": "Ho"})
    with pytest.raises(ResumeError, match=r"changed: a\.jsonl.*out="):
        read_prompts(FileSource(path=str(path)), run)
    assert len(rows_of(run)) == 2


def test_half_written_table_is_done_again(run: RunFolder, tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", {"prompt": "Hi"})
    run.write_text("half", "prompts", "00007.parquet")
    assert len(read(run, path)) == 1
    assert [Path(f).name for f in run.files("prompts")] == ["00000.parquet"]


@pytest.mark.parametrize("same_time", [False, True])
def test_changed_file_is_read_afresh_into_a_new_run(tmp_path: Path, same_time: bool) -> None:
    path = tmp_path / "a.jsonl"
    jsonl(path, {"prompt": "old"})
    stat = path.stat()
    assert read(RunFolder(str(tmp_path / "one")), str(path))[0]["messages"] == [user("old")]
    jsonl(path, {"prompt": "newer"})
    if same_time:
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert read(RunFolder(str(tmp_path / "two")), str(path))[0]["messages"] == [user("newer")]


# ---------------------------------------------------------------------------------------------------- conversations


def test_messages_as_list_or_json_text_with_tool_calls(run: RunFolder, tmp_path: Path) -> None:
    call = [{"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}]
    turns = [
        {"role": "user", "content": "Hi", "name": "Ann"},
        {"role": "assistant", "content": None, "tool_calls": call},
        {"role": "tool", "content": "1"},
    ]
    path = jsonl(tmp_path / "a.jsonl", {"messages": turns}, {"messages": json.dumps(turns)})
    rows = read(run, path)
    assert no_error(rows)
    assert rows[0]["messages"] == rows[1]["messages"]
    assert rows[0]["messages"][0] == {**user("Hi"), "name": "Ann"}
    assert rows[0]["messages"][1]["content"] is None
    assert json.loads(rows[0]["messages"][1]["tool_calls"]) == call


def test_system_is_prepended_only_where_there_is_none(run: RunFolder, tmp_path: Path) -> None:
    own = [{"role": "system", "content": "own"}, {"role": "user", "content": "Hi"}]
    path = jsonl(tmp_path / "a.jsonl", {"messages": own}, {"messages": own[1:]})
    rows = read(run, path, system="ours")
    assert [row["messages"][0]["content"] for row in rows] == ["own", "ours"]
    assert [len(row["messages"]) for row in rows] == [2, 2]


def test_messages_column_wins_unless_only_prompt_is_asked_for(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", {"prompt": "p", "messages": [{"role": "user", "content": "m"}], "q": "q"})
    both = read(RunFolder(str(tmp_path / "one")), path)[0]
    assert (both["messages"], both["source"]) == ([user("m")], {"prompt": "p", "q": "q"})
    asked = read(RunFolder(str(tmp_path / "two")), path, columns=Columns(prompt="q"))[0]
    assert asked["messages"] == [user("q")]
    assert asked["source"]["prompt"] == "p"


@pytest.mark.parametrize(
    ("item", "message", "kept"),
    [
        ({"prompt": None}, "the prompt is null", []),
        ({"prompt": 3}, "the prompt is int, not text", []),
        ({"prompt": " \n"}, "the prompt is empty", [" \n"]),
        ({"messages": []}, "no user turn", []),
        ({"messages": [{"role": "assistant", "content": "A"}]}, "no user turn", ["A"]),
        ({"messages": "[not json"}, "neither a list of turns nor its JSON text", []),
        ({"messages": None}, "messages is null", []),
        ({"messages": [{"role": "user", "content": "Q"}, "x"]}, "messages[1] is no object with a role", ["Q"]),
        ({"messages": [{"role": "user", "content": "Q"}, {"content": "x"}]}, "messages[1] is no object", ["Q"]),
        (
            {"messages": [{"role": "user", "content": "Q"}, {"role": "user", "content": 5}]},
            "messages[1].content is not text",
            ["Q", None],
        ),
        (
            {"messages": [{"role": "user", "content": "Q", "tool_calls": "{"}]},
            "messages[0].tool_calls is not valid JSON",
            ["Q"],
        ),
    ],
)
def test_bad_row_is_kept_with_what_could_be_read(
    run: RunFolder, tmp_path: Path, item: dict[str, Any], message: str, kept: list[str | None]
) -> None:
    good: dict[str, Any] = {"prompt": "Hi"} if "prompt" in item else {"messages": [{"role": "user", "content": "Hi"}]}
    path = jsonl(tmp_path / "a.jsonl", good, {**item, "reference": "R"}, {**good, "task": "t"})
    report = read_prompts(FileSource(path=path), run)
    rows = rows_of(run)
    assert [len(row["errors"]) for row in rows] == [0, 1, 0]
    error = rows[1]["errors"][0]
    assert (error["job"], error["stage"], error["kind"]) == ("prompts", "read", "BadPrompt")
    assert message in error["message"]
    assert [turn["content"] for turn in rows[1]["messages"]] == kept
    assert rows[1]["reference"] == "R"
    assert (report.rows, report.bad_rows) == (3, 1)
    assert any("1 rows carry an error" in line for line in report.lines())


def test_lone_surrogates_and_nul_are_replaced_and_noted(run: RunFolder, tmp_path: Path) -> None:
    path = jsonl(
        tmp_path / "a.jsonl",
        f'{{"prompt": "a{HIGH}b", "x": "1"}}',
        '{"prompt": "a\\u0000b", "x": "2"}',
        f'{{"prompt": "whole {HIGH}{LOW}", "x": "{LOW}", "reference": "r"}}',
        f'{{"prompt": "whole {HIGH}{LOW}", "x": "3"}}',
    )
    rows = read(run, path)
    texts = [row["messages"][0]["content"] for row in rows]
    assert texts == ["a\ufffdb", "a\ufffdb", "whole \U0001f600", "whole \U0001f600"]
    assert [row["source"]["x"] for row in rows] == ["1", "2", "\ufffd", "3"]
    assert ["U+FFFD" in str(row["errors"]) for row in rows] == [True, True, True, False]


# --------------------------------------------------------------------------------------- ids, clusters, duplicates


def test_derived_ids_come_from_the_content_and_repeats_are_numbered(run: RunFolder, tmp_path: Path) -> None:
    hi = {"prompt": "Hi", "language": "en"}
    path = jsonl(tmp_path / "a.jsonl", hi, {"prompt": "Ho"}, hi, {**hi, "language": "de"}, hi, {**hi, "task": "t"})
    report = read_prompts(FileSource(path=path), run)
    rows = rows_of(run)
    expected = digest([{"role": "user", "content": "Hi"}], "en", "open")
    ids = [row["prompt_id"] for row in rows]
    assert [ids[0], ids[2], ids[4]] == [expected, expected + "-2", expected + "-3"]
    assert len(set(ids)) == 6
    same = digest([{"role": "user", "content": "Hi"}])  # copies of one prompt are not independent
    assert [row["cluster_id"] for row in rows] == [same, rows[1]["cluster_id"], same, same, same, same]
    assert report.clusters == 2
    assert (report.duplicates, report.n_duplicates) == ([(2, 0), (4, 0)], 2)
    assert any("row 2 = row 0, row 4 = row 0" in line for line in report.lines())


def test_only_ten_duplicates_are_listed_but_all_are_counted(run: RunFolder, tmp_path: Path) -> None:
    report = read_prompts(FileSource(path=jsonl(tmp_path / "a.jsonl", *[{"prompt": "Hi"}] * 15)), run)
    assert (report.n_duplicates, report.duplicates) == (14, [(i, 0) for i in range(1, 11)])
    assert report.lines()[-1].endswith("row 10 = row 0, ...")


def test_bad_rows_get_different_ids_but_are_no_duplicates(run: RunFolder, tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", {"prompt": None}, {"prompt": None}, {"prompt": "Hi"})
    report = read_prompts(FileSource(path=path), run)
    assert (report.bad_rows, report.n_duplicates) == (2, 0)
    assert len({row["prompt_id"] for row in rows_of(run)}) == 3


def test_explicit_ids_are_kept_as_text_and_same_content_is_a_duplicate(run: RunFolder, tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", {"prompt": "Hi", "qid": 7}, {"prompt": "Hi", "qid": 8.0})
    report = read_prompts(FileSource(path=path, columns=Columns(id="qid")), run)
    assert [row["prompt_id"] for row in rows_of(run)] == ["7", "8"]
    assert report.duplicates == [(1, 0)]


def test_repeated_explicit_ids_are_refused_with_their_rows(run: RunFolder, tmp_path: Path) -> None:
    items = [{"prompt": f"p{i}", "prompt_id": name} for i, name in enumerate(["a", "b", "a", "c", "b"])]
    with pytest.raises(InputError, match=r"prompts\.columns\.id.*2 repeat: rows 0 and 2, 1 and 4 \(first: 'a'"):
        read_prompts(FileSource(path=jsonl(tmp_path / "a.jsonl", *items)), run)
    assert run.marker("prompts") is None


def test_cluster_column_and_rows_without_one(run: RunFolder, tmp_path: Path) -> None:
    path = jsonl(
        tmp_path / "a.jsonl",
        {"prompt": "a", "prompt_id": "x", "group": 5},
        {"prompt": "b", "prompt_id": "y", "group": 5},
        {"prompt": "c", "prompt_id": "z", "group": None},
    )
    report = read_prompts(FileSource(path=path, columns=Columns(cluster="group")), run)
    assert [row["cluster_id"] for row in rows_of(run)] == ["5", "5", digest([{"role": "user", "content": "c"}])]
    assert report.clusters == 2


def test_copies_of_a_prompt_are_one_cluster_whatever_their_ids(run: RunFolder, tmp_path: Path) -> None:
    """30 questions of 10 copies each counted as 300 clusters, and their intervals covered 76%."""
    items = [{"prompt": f"question {i % 30}", "prompt_id": f"p{i}"} for i in range(300)]
    report = read_prompts(FileSource(path=jsonl(tmp_path / "a.jsonl", *items)), run)
    assert (report.rows, report.clusters) == (300, 30)
    assert len({row["cluster_id"] for row in rows_of(run)}) == 30


def test_a_column_that_is_named_for_one_role_is_no_others_default(run: RunFolder, tmp_path: Path) -> None:
    """Translations that share a ``prompt_id``: what the message about repeated ids tells to write."""
    rows = [{"prompt_id": "q1", "prompt": "tea?", "language": "en"}, {"prompt_id": "q1", "prompt": "Tee?"}]
    path = jsonl(tmp_path / "p.jsonl", *rows)
    with pytest.raises(InputError, match=r"map that column as prompts.columns.cluster"):
        read_prompts(FileSource(path=path), run)
    report = read_prompts(FileSource(path=path, columns=Columns(cluster="prompt_id")), run)
    assert (report.rows, report.clusters) == (2, 1)
    assert [row["cluster_id"] for row in rows_of(run)] == ["q1", "q1"]
    assert len({row["prompt_id"] for row in rows_of(run)}) == 2


def test_what_tasks_say_of_languages_follows_from_the_report(run: RunFolder, tmp_path: Path) -> None:
    kinds = [("math", "fi"), ("math", "fi"), ("math", "en"), ("math", None), ("open", "fi")]
    rows = [{"prompt": f"{i}?", "task": task, "language": language} for i, (task, language) in enumerate(kinds)]
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    report = read_prompts(FileSource(path=str(path)), run)
    assert report.tasks == {"math": {"en": 1, "fi": 2, "und": 1}, "open": {"fi": 1}}
    finnish, unknown = task_warnings(load_config(["dummy"]), report)
    assert finnish.startswith("2 math prompts in fi: the instruction is in English")
    assert unknown.startswith("1 math prompts in no known language: ")


def test_parallel_files_cluster_by_row_and_give_the_language(run: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "es.tsv").write_text('Uno "dos\t1\n"Tres"\t2.0\nCuatro"\t1,000\n', encoding="utf-8")
    (tmp_path / "de.tsv").write_text("Eins\t1\n\nDrei\t007\nVier\tNA\n", encoding="utf-8")
    source = FileSource(
        paths={"es": "es.tsv", "de": "de.tsv"},
        format="tsv",
        header=["question", "answer"],
        columns=Columns(prompt="question", reference="answer", cluster="@row"),
        task="math",
    )
    report = read_prompts(source, run, base=tmp_path)
    rows = rows_of(run)
    assert (report.rows, report.clusters, report.languages) == (6, 3, {"de": 3, "es": 3})
    assert [row["cluster_id"] for row in rows] == ["0", "1", "2"] * 2
    assert [row["language"] for row in rows] == ["es"] * 3 + ["de"] * 3
    assert [row["messages"][0]["content"] for row in rows][:3] == ['Uno "dos', '"Tres"', 'Cuatro"']
    assert [row["reference"] for row in rows] == ["1", "2.0", "1,000", "1", "007", "NA"]
    assert {row["task"] for row in rows} == {"math"}
    assert [row["source"] for row in rows] == [{"row": 0}, {"row": 1}, {"row": 2}] * 2


def test_limit_and_limit_clusters_follow_the_language_filter(tmp_path: Path) -> None:
    items = [{"prompt": f"{c}{x}", "cluster_id": c, "language": x} for x in ("en", "de", "fr") for c in "abcd"]
    path = jsonl(tmp_path / "a.jsonl", *items)

    def kept(name: str, **options: Any) -> list[str]:
        rows = read(RunFolder(str(tmp_path / name)), path, languages=["de", "fr"], **options)
        assert [row["row_id"] for row in rows] == list(range(len(rows)))
        return [row["messages"][0]["content"] for row in rows]

    assert kept("limit", limit=3) == ["ade", "bde", "cde"]
    assert kept("clusters", limit_clusters=2) == ["ade", "bde", "afr", "bfr"]
    assert kept("both", limit_clusters=2, limit=3) == ["ade", "bde", "afr"]


def test_limit_clusters_counts_copies_once(run: RunFolder, tmp_path: Path) -> None:
    items = [{"prompt": "x"}, {"prompt": "x"}, {"prompt": "y"}, {"prompt": "z"}]
    report = read_prompts(FileSource(path=jsonl(tmp_path / "a.jsonl", *items), limit_clusters=2), run)
    assert (report.rows, report.clusters) == (3, 2)


def test_language_comes_from_column_then_paths_then_config(run: RunFolder, tmp_path: Path) -> None:
    one = jsonl(tmp_path / "1.jsonl", {"prompt": "a", "lang": "fr"}, {"prompt": "b", "lang": None})
    source = FileSource(paths={"es": one}, language="de", columns=Columns(language="lang"))
    read_prompts(source, run)
    assert [row["language"] for row in rows_of(run)] == ["fr", "es"]
    other = RunFolder(run.root + "2")
    assert [row["language"] for row in read(other, one, language="de")] == ["de", "de"]
    third = RunFolder(run.root + "3")
    assert read_prompts(FileSource(path=one), third).languages == {"und": 2}
    assert rows_of(third)[0]["language"] is None


# ----------------------------------------------------------------------------------------------- reference and source


def test_reference_is_text_or_null(run: RunFolder, tmp_path: Path) -> None:
    values = ["x", 18, 18.0, 2.5, None, True, ["a", 1], "", "2024-01-01"]
    rows = read(run, jsonl(tmp_path / "a.jsonl", *({"prompt": "p", "reference": v} for v in values)))
    expected = ["x", "18", "18", "2.5", None, "true", '["a", 1]', None, "2024-01-01"]
    assert [row["reference"] for row in rows] == expected


def test_parquet_source_columns_keep_their_types_and_values(run: RunFolder, tmp_path: Path) -> None:
    others = {
        "when": pa.array([datetime.datetime(2024, 1, 2), None], pa.timestamp("us")),
        "small": pa.array([1, 2], pa.int8()),
        "tags": pa.array([["a"], []], pa.list_(pa.string())),
        "meta": pa.array([{"k": 1.5}, None], pa.struct([("k", pa.float32())])),
        "raw": pa.array([b"\x00", b"x"], pa.binary()),
    }
    table = pa.table({"question": ["q1", "q2"], "answer": [18.0, None], **others})
    pq.write_table(table, tmp_path / "a.parquet")
    rows = read(run, str(tmp_path / "a.parquet"), columns=Columns(prompt="question", reference="answer"))
    kept = run.dataset("prompts").schema.field("source").type
    assert kept == pa.struct([(name, array.type) for name, array in others.items()])
    assert [row["source"] for row in rows] == table.select(list(others)).to_pylist()
    assert [row["reference"] for row in rows] == ["18", None]


def test_parquet_messages_and_files_with_different_columns(run: RunFolder, tmp_path: Path) -> None:
    turn = {"role": "user", "content": "Hi", "name": None}
    pq.write_table(pa.table({"messages": [[turn]], "a": pa.array([1], pa.int32())}), tmp_path / "1.parquet")
    pq.write_table(pa.table({"messages": [[turn]], "a": pa.array([2], pa.int64()), "b": ["x"]}), tmp_path / "2.parquet")
    pq.write_table(pa.table({"messages": pa.array([], pa.list_(pa.string()))}), tmp_path / "3.parquet")
    rows = read(run, str(tmp_path))
    assert [row["messages"] for row in rows] == [[user("Hi")]] * 2
    assert [row["source"] for row in rows] == [{"a": 1, "b": None}, {"a": 2, "b": "x"}]
    assert no_error(rows)


def test_json_source_values_come_back_unchanged(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "_BATCH", 2)  # types are found batch by batch
    items: list[dict[str, Any]] = [
        {"date": "2024-01-01", "n": None, "same": {"k": [1]}, "keys": {"a": 1}, "mix": 3, "e": {}, "more": {"a": 1}},
        {"date": "2024-01-01", "n": None, "same": {"k": []}, "keys": {"b": 1}, "mix": "3", "e": {}, "more": {"a": 2}},
        {"date": None, "n": 1, "same": None, "keys": None, "mix": [1], "e": {}, "more": {"a": 1, "b": 1}},
        {"date": "x", "n": 1.5, "same": {"k": [2]}, "keys": None, "mix": None, "e": {}, "more": None, "late": True},
    ]
    items = [{"prompt": "p", **item} for item in items]
    rows = read(run, jsonl(tmp_path / "a.jsonl", *items))
    types = {f.name: f.type for f in run.dataset("prompts").schema.field("source").type}
    text, number = pa.string(), pa.float64()
    assert types == {
        "date": text,
        "n": number,
        "same": pa.struct([("k", pa.list_(pa.int64()))]),
        "keys": text,
        "mix": text,
        "e": text,
        "more": text,
        "late": pa.bool_(),
    }
    assert [row["source"]["date"] for row in rows] == ["2024-01-01", "2024-01-01", None, "x"]
    assert [row["source"]["n"] for row in rows] == [None, None, 1.0, 1.5]
    assert [row["source"]["same"] for row in rows] == [{"k": [1]}, {"k": []}, None, {"k": [2]}]
    assert [row["source"]["keys"] for row in rows] == ['{"a": 1}', '{"b": 1}', None, None]
    assert [row["source"]["more"] for row in rows] == ['{"a": 1}', '{"a": 2}', '{"a": 1, "b": 1}', None]
    assert [row["source"]["mix"] for row in rows] == ["3", '"3"', "[1]", None]
    assert [row["source"]["late"] for row in rows] == [None, None, None, True]


@pytest.mark.parametrize(
    ("name", "text"), [("a.jsonl", '{"prompt": "p"}\n'), ("a.csv", "prompt\np\n"), ("a.tsv", "prompt\r\np\r\n")]
)
def test_byte_order_mark_and_carriage_returns_are_no_content(
    run: RunFolder, tmp_path: Path, name: str, text: str
) -> None:
    (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert read(run, str(tmp_path / name))[0]["messages"] == [user("p")]


def test_csv_values_stay_text(run: RunFolder, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('prompt,reference,zip\n"a, ""b""\nc",007,01\nNA,,null\n', encoding="utf-8")
    rows = read(run, str(path))
    assert [row["messages"][0]["content"] for row in rows] == ['a, "b"\nc', "NA"]
    assert [row["reference"] for row in rows] == ["007", None]
    assert [row["source"] for row in rows] == [{"zip": "01"}, {"zip": "null"}]


# ------------------------------------------------------------------------------------------------------- many files


def test_folder_and_glob_read_sorted_files_and_skip_empty_ones(tmp_path: Path) -> None:
    folder = tmp_path / "in[1]"  # brackets are no pattern here
    folder.mkdir()
    jsonl(folder / "b.jsonl", {"prompt": "b"})
    jsonl(folder / "a.jsonl", {"prompt": "a"}, "", {"prompt": "a2"})
    (folder / "c.jsonl").write_text("")
    (folder / "notes.txt").write_text("no prompts")
    run = RunFolder(str(tmp_path / "one"))
    report = read_prompts(FileSource(path="in[1]", columns=Columns(cluster="@row")), run, base=tmp_path)
    assert [row["messages"][0]["content"] for row in rows_of(run)] == ["a", "a2", "b"]
    assert [row["cluster_id"] for row in rows_of(run)] == ["0", "1", "0"]
    assert [Path(name).name for name in report.files] == ["a.jsonl", "b.jsonl"]
    jsonl(tmp_path / "x1.jsonl", {"prompt": "x1"})
    jsonl(tmp_path / "x2.jsonl", {"prompt": "x2"})
    assert len(read(RunFolder(str(tmp_path / "two")), str(tmp_path / "x*.jsonl"))) == 2


# ---------------------------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize("role", ["messages", "prompt", "id", "cluster", "language", "task", "reference"])
def test_mapped_column_that_does_not_exist(run: RunFolder, tmp_path: Path, role: str) -> None:
    path = jsonl(tmp_path / "a.jsonl", {"prompt": "p", "question": "q"})
    with pytest.raises(ConfigError, match=rf"prompts\.columns\.{role}.*'questoin'; did you mean 'question'"):
        read_prompts(FileSource(path=path, columns=Columns(**{role: "questoin"})), run)


def test_no_prompt_column_lists_the_columns(run: RunFolder, tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", {"question": "q", "answer": "a"})
    with pytest.raises(ConfigError, match=r"set prompts\.columns\.prompt.*question, answer"):
        read_prompts(FileSource(path=path), run)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (FileSource(), r"prompts\.path: set either path"),
        (FileSource(path="a.jsonl", paths={"es": "b.jsonl"}), r"prompts\.path: set either path"),
        (FileSource(path="missing.jsonl"), r"prompts\.path: no such file: .*missing\.jsonl"),
        (FileSource(path="*.csv"), r"prompts\.path: no such file"),
        (FileSource(path="empty"), r"prompts\.path: no .*jsonl.* file in .*empty"),
        (FileSource(paths={"es": "missing.tsv"}), r"prompts\.paths\.es: no such file"),
        (FileSource(path="a.txt"), r"prompts\.format: cannot tell the format of .*a\.txt"),
        (FileSource(path="a.jsonl", format="json"), r"prompts\.format: unknown format 'json'; did you mean 'jsonl'"),
        (FileSource(path="a.jsonl", header=["x"]), r"prompts\.header: only for CSV and TSV"),
        (FileSource(path="a.tsv", header=["x"]), r"prompts\.header: names 1 columns, but .*a\.tsv has 2"),
        (HubSource(), r"prompts\.dataset: missing"),
        (SourceConfig(), r"prompts\.kind"),
    ],
)
def test_wrong_config(run: RunFolder, tmp_path: Path, source: SourceConfig, message: str) -> None:
    jsonl(tmp_path / "a.jsonl", {"prompt": "p"})
    (tmp_path / "a.txt").write_text("p")
    (tmp_path / "a.tsv").write_text("p\t1\n")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=message):
        read_prompts(source, run, base=tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.parquet", b"PAR1 this is no parquet", r"a\.parquet: cannot be read"),
        ("a.jsonl", b'{"prompt": "p"}\n\n{"prompt": \n', r"a\.jsonl, line 3: not valid JSON"),
        ("a.jsonl", b'{"prompt": "p"}\n["p"]\n', r"a\.jsonl, line 2: must be a JSON object, not list"),
        ("a.jsonl", b'{"prompt": "p"}\n{"prompt": "\xff"}\n', r"a\.jsonl, line 2: is no UTF-8 text"),
        ("a.csv", b"prompt,x\na,1\nb,2,3\n", r"a\.csv, line 3: 3 fields, but there are 2 columns"),
        ("a.csv", b"prompt,x\na,1,2\nb,2,3\n", r"a\.csv, line 2: 3 fields, but there are 2 columns$"),
        ("a.csv", b'prompt,x\n"a,1\nb,2\n', r"a\.csv, line 2: 1 fields, .*is a quote not closed"),
        ("a.jsonl", b"", "no prompt"),
        ("a.jsonl", b"\n", "no prompt"),
        ("a.csv", b"prompt,x\n", "no prompt"),
    ],
)
def test_unreadable_or_empty_file_is_named(
    run: RunFolder, tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_prompts(FileSource(path=str(tmp_path / name)), run)
    assert run.marker("prompts") is None


def test_parquet_with_damaged_pages_is_named(run: RunFolder, tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"prompt": [f"text {i}" for i in range(500)]}), path, compression="gzip")
    data = bytearray(path.read_bytes())
    data[10:400] = bytes(390)
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"a\.parquet: cannot be read"):
        read_prompts(FileSource(path=str(path)), run)


def test_no_prompt_in_the_wanted_languages(run: RunFolder, tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", {"prompt": "p", "language": "en"})
    with pytest.raises(InputError, match=r"no prompt.*languages found: en"):
        read_prompts(FileSource(path=path, languages=["de"]), run)


def test_columns_whose_types_do_not_fit_across_files(run: RunFolder, tmp_path: Path) -> None:
    pq.write_table(pa.table({"prompt": ["p"], "x": [1]}), tmp_path / "1.parquet")
    pq.write_table(pa.table({"prompt": ["p"], "x": [[1]]}), tmp_path / "2.parquet")
    with pytest.raises(InputError, match="types that do not fit"):
        read_prompts(FileSource(path=str(tmp_path)), run)


# --------------------------------------------------------------------------------------------------------------- hub


@pytest.fixture
def hub_set(tmp_path: Path) -> Path:
    """A data set repository on disk: one configuration per language, JSON values of mixed types."""
    folder = tmp_path / "set"
    configs = []
    for name in ("en", "pt-BR", "main"):
        (folder / name).mkdir(parents=True)
        turns = [{"role": "user", "content": f"Hi {name}"}, {"role": "user", "content": ["part"]}]
        jsonl(
            folder / name / "test.jsonl", {"messages": turns[:1], "meta": {"a": 1}}, {"messages": turns[1:], "meta": 2}
        )
        configs.append(f"- config_name: {name}\n  data_files:\n  - split: test\n    path: {name}/test.jsonl\n")
    (folder / "README.md").write_text("---\nconfigs:\n" + "".join(configs) + "---\n")
    return folder


def test_hub_configurations_give_language_and_decoded_messages(run: RunFolder, hub_set: Path) -> None:
    source = HubSource(dataset=str(hub_set), names=["en", "pt-BR", "main"], columns=Columns(cluster="@row"))
    report = read_prompts(source, run)
    rows = rows_of(run)
    assert [row["language"] for row in rows] == ["en", "en", "pt-BR", "pt-BR", None, None]
    assert [row["messages"][0]["content"] for row in rows][::2] == ["Hi en", "Hi pt-BR", "Hi main"]
    assert [len(row["errors"]) for row in rows] == [0, 1] * 3
    assert [row["source"]["meta"] for row in rows][:2] == ['{"a": 1}', "2"]
    text = pa.string()
    assert run.dataset("prompts").schema.field("source").type == pa.struct([("meta", text), ("_original", text)])
    assert report.clusters == 2
    assert report.files == [f"{hub_set}/{name}" for name in source.names]


def test_hub_passes_split_and_revision_and_never_trusts_code(
    run: RunFolder, hub_set: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    original: Callable[..., Any] = datasets.load_dataset

    def spy(*args: Any, **kwargs: Any) -> Any:
        calls.append((args, kwargs))
        return original(str(hub_set), "en", split="test")

    monkeypatch.setattr(datasets, "load_dataset", spy)
    read_prompts(HubSource(dataset="org/set", split="dev", revision="abc", language="fr", names=["en"]), run)
    assert calls == [(("org/set", "en"), {"split": "dev", "revision": "abc"})]
    assert {row["language"] for row in rows_of(run)} == {"fr"}


@pytest.mark.parametrize(("names", "split"), [(["xx"], "test"), (["en"], "tset")])
def test_hub_mistakes_name_the_data_set(run: RunFolder, hub_set: Path, names: list[str], split: str) -> None:
    with pytest.raises(ConfigError, match=r"prompts\.dataset: cannot load .*/set/.*(xx|tset)"):
        read_prompts(HubSource(dataset=str(hub_set), names=names, split=split), run)


# ----------------------------------------------------------------------------------------------------------- quietly


def test_reading_prints_nothing_and_sends_no_use_count(
    run: RunFolder, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    monkeypatch.setattr(datasets.load, "get_session", lambda: pytest.fail("a request was sent"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    datasets.enable_progress_bars()
    before = (datasets.utils.logging.get_verbosity(), datasets.config.HF_UPDATE_DOWNLOAD_COUNTS)
    read_prompts(FileSource(path=jsonl(tmp_path / "a.jsonl", {"prompt": "p"})), run)
    (tmp_path / "bad.csv").write_text("prompt\na\nb,2\n")
    with pytest.raises(InputError):
        read_prompts(FileSource(path=str(tmp_path / "bad.csv")), RunFolder(run.root + "2"))
    assert capfd.readouterr() == ("", "")
    assert (datasets.utils.logging.get_verbosity(), datasets.config.HF_UPDATE_DOWNLOAD_COUNTS) == before
    assert not datasets.are_progress_bars_disabled()


# ------------------------------------------------------------------------------------------------------- shared data


@pytest.mark.skipif(not (SHARED / "mgsm").is_dir(), reason="the shared MGSM files are not there")
def test_mgsm_has_250_questions_in_each_language(run: RunFolder) -> None:
    source = FileSource(
        paths={x: f"mgsm_{x}.tsv" for x in PAPER_LANGUAGES},
        format="tsv",
        header=["question", "answer"],
        columns=Columns(prompt="question", reference="answer", cluster="@row"),
        task="math",
    )
    report = read_prompts(source, run, base=SHARED / "mgsm")
    assert (report.rows, report.clusters, report.bad_rows) == (1750, 250, 0)
    assert report.languages == dict.fromkeys(sorted(PAPER_LANGUAGES), 250)
    table = run.table("prompts", PROMPT_COLUMNS)
    answers: dict[str, set[str]] = {}
    for row in table.select(["cluster_id", "reference"]).to_pylist():
        answers.setdefault(row["cluster_id"], set()).add(row["reference"].replace(",", ""))
    assert answers["0"] == {"18"}
    assert sum(len(found) == 1 for found in answers.values()) > 240


@pytest.mark.skipif(not (SHARED / "arena-hard-v2.0").is_dir(), reason="the shared Arena-Hard files are not there")
def test_arena_hard_reads_with_its_ids(run: RunFolder) -> None:
    source = FileSource(path=str(SHARED / "arena-hard-v2.0" / "question.jsonl"), columns=Columns(id="uid"))
    report = read_prompts(source, run)
    rows = rows_of(run)
    assert (report.rows, report.clusters, report.bad_rows) == (750, 750, 0)
    assert rows[0]["prompt_id"] == "2edbb5f36f5b42be"
    assert rows[0]["source"] == {"category": "hard_prompt", "subcategory": "coding"}
