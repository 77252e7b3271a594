"""More prompts: a source that grew extends the finished ``prompts/`` table, or is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.core.errors import InputError, ResumeError
from pipeline.core.folder import RunFolder
from pipeline.prompts.sources import ExampleSource, FileSource, read_prompts
from tests.conftest import jsonl, rows_of

pytestmark = pytest.mark.usefixtures("own_datasets_cache")


def item(name: str, **more: Any) -> dict[str, Any]:
    return {"prompt": f"What is {name}?", "language": "en", "mine": len(name), **more}


def ids(run: RunFolder) -> dict[str, int]:
    """The question -> its row_id."""
    return {r["messages"][0]["content"]: r["row_id"] for r in rows_of(run, "prompts", "messages")}


def test_prompts_are_added_wherever_they_stand_in_the_source(run: RunFolder, tmp_path: Path) -> None:
    """Old rows keep their row_ids; new ones take the next, also from another file and from between the old ones."""
    folder = tmp_path / "in"
    folder.mkdir()
    jsonl(folder / "b.jsonl", item("one"), item("two"), item("one"))
    source = FileSource(path=str(folder))
    read_prompts(source, run)
    before, marker = rows_of(run, "prompts", "prompt_id", "source"), run.marker("prompts")
    jsonl(folder / "a.jsonl", item("zero"))
    jsonl(folder / "b.jsonl", item("one"), item("between"), item("two"), item("one"), item("one"))

    report = read_prompts(source, run)

    assert (report.rows, report.n_duplicates, report.skipped) == (6, 2, False)
    assert report.duplicates == [(2, 0), (5, 0)]
    assert rows_of(run, "prompts", "prompt_id", "source")[:3] == before
    assert ids(run) | {"What is one?": 0} == {
        "What is one?": 0,
        "What is two?": 1,
        "What is zero?": 3,
        "What is between?": 4,
    }
    now = run.marker("prompts")
    assert marker and now
    assert (marker["sizes"], now["sizes"], now["grown"]) == ([3], [3, 3], True)  # the first shard is as it was
    assert not run.exists("work", "read")
    assert read_prompts(source, run).skipped
    jsonl(folder / "c.jsonl", item("three"))
    read_prompts(source, run)
    assert ids(run)["What is three?"] == 6


def test_more_of_the_same_source_is_added(run: RunFolder) -> None:
    read_prompts(ExampleSource(limit_clusters=1), run)
    first = rows_of(run, "prompts", "prompt_id")
    read_prompts(ExampleSource(limit_clusters=3), run)
    assert rows_of(run, "prompts", "prompt_id")[:7] == first
    assert len(rows_of(run, "prompts")) == 21


def test_a_file_that_only_looks_changed_changes_nothing(run: RunFolder, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    jsonl(path, item("one"))
    read_prompts(FileSource(path=str(path)), run)
    before = run.marker("prompts")
    jsonl(path, item("one"), "")
    assert read_prompts(FileSource(path=str(path)), run).skipped
    after = run.marker("prompts")
    assert before and after
    assert after["fingerprint"] != before["fingerprint"]
    assert after["sizes"] == before["sizes"] and not after["grown"]


@pytest.mark.parametrize(
    "now",
    [
        [item("two"), item("three")],
        [item("one"), {**item("two"), "language": "de"}, item("three")],
        [item("one"), {**item("two"), "mine": 0}, item("three")],
        [item("one"), item("two", reference="2"), item("three")],
    ],
    ids=["missing", "language", "own column", "reference"],
)
def test_prompts_that_changed_are_refused(run: RunFolder, tmp_path: Path, now: list[dict[str, Any]]) -> None:
    path = tmp_path / "a.jsonl"
    jsonl(path, item("one"), item("two"))
    read_prompts(FileSource(path=str(path)), run)
    before = run.dataset("prompts").to_table()
    jsonl(path, *now)
    with pytest.raises(ResumeError, match=r"changed: a\.jsonl.*out=.*must stay as they were"):
        read_prompts(FileSource(path=str(path)), run)
    jsonl(path, item("one"), '{"prompt": ')
    with pytest.raises(InputError, match=r"a\.jsonl"):
        read_prompts(FileSource(path=str(path)), run)
    assert run.dataset("prompts").to_table().equals(before)
    assert len(run.parquet_files("prompts")) == 1
