"""The worker by itself, without Ray and without a journal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.core.folder import RunFolder
from pipeline.core.row import Answer, Row
from pipeline.engines.base import Engine, EngineConfig
from pipeline.engines.dummy import DummyEngineConfig
from pipeline.engines.stage import Stage
from pipeline.execution.suspects import Suspicion
from pipeline.execution.worker import Worker
from pipeline.sampling.plans import Hedged, SingleTemperature
from pipeline.sampling.stage import GenerateStage
from tests.conftest import run_with_prompts
from tests.execution.harness import make_plan


@dataclass
class Odd(Stage):
    """Gives one row a value that its column cannot hold."""

    reads: ClassVar[tuple[str, ...]] = ("prompt_id",)
    writes: ClassVar[tuple[str, ...]] = ("answers",)

    @property
    def name(self) -> str:
        return "odd"

    async def __call__(self, row: Row, engine: Engine | None) -> Row:
        row.answers = [Answer("s", {"no": "text"} if row.row_id == 1 else "text")]  # type: ignore[arg-type]
        return row


def worker_of(run: RunFolder, stage: Stage, engine: EngineConfig | None, **options: Any) -> Worker:
    """A worker whose pass makes one layer; its folder is there."""
    plan = make_plan(run, [stage], engine)
    (group,) = plan.passes()
    run.make("candidates", group[0].spec.layer.name)
    return Worker(plan.spec_of(group), run, **options)


def made(run: RunFolder) -> list[dict[str, Any]]:
    """What the layer's files hold."""
    (name,) = run.subfolders("candidates")
    return [row for path in run.parquet_files("candidates", name) for row in pq.read_table(path).to_pylist()]


def shards(*numbers: int) -> pa.Table:
    return pa.table({"shard": list(numbers)})


def test_a_value_that_its_column_cannot_hold_fails_its_row_only(tmp_path: Path) -> None:
    run = run_with_prompts(tmp_path, 3)
    assert worker_of(run, Odd(), None)(shards(0)).to_pylist() == [{"shard": 0, "rows": 3}]
    rows = made(run)
    assert [len(r["answers"]) for r in rows] == [1, 0, 1]
    assert [[(e["stage"], e["kind"]) for e in r["errors"]] for r in rows] == [[], [("odd", "UnstorableValue")], []]


def test_an_engine_that_never_answers_gives_error_rows(tmp_path: Path) -> None:
    run = run_with_prompts(tmp_path, 3)
    worker_of(run, GenerateStage("hedged", Hedged(), 1), DummyEngineConfig(latency=1e6), row_seconds=0.2)(shards(0))
    rows = made(run)
    assert [r["errors"][0]["kind"] for r in rows] == ["TimeoutError"] * 3
    assert rows[0]["errors"][0]["message"] == "not done within 0.2 s (execution.row_seconds)"


def test_the_journal_is_told_which_rows_belong_to_a_shard_that_has_begun(tmp_path: Path) -> None:
    run = run_with_prompts(tmp_path, 300, shard_rows=150)
    worker = worker_of(run, GenerateStage("hedged", Hedged(), 1), DummyEngineConfig())
    begin, told = worker._journal.begin, []

    async def watched(rows: Sequence[int], **known: bool) -> dict[int, Suspicion]:
        told.append((len(rows), known["begun"]))
        return await begin(rows, **known)

    worker._journal.begin = watched  # type: ignore[method-assign]
    for number in range(2):
        told.clear()
        assert worker(shards(number)).to_pylist() == [{"shard": number, "rows": 150}]
        assert told == [(64, False), (64, True), (22, True)]
    assert [row["row_id"] for row in made(run)] == list(range(300))


def test_a_shard_that_is_there_is_not_made_again(tmp_path: Path) -> None:
    run, log = run_with_prompts(tmp_path / "run", 40), tmp_path / "log"
    worker = worker_of(run, GenerateStage("hedged", Hedged(), 1), DummyEngineConfig(log=str(log)))
    worker(shards(0, 1))
    asked = log.read_text()
    assert worker(shards(1, 0)).column("rows").to_pylist() == [0, 0] and log.read_text() == asked
    assert worker(shards(2)).to_pylist() == [{"shard": 2, "rows": 8}]


def test_a_dead_engine_ends_its_process_which_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its rows are no error rows: another process does them."""
    said: list[object] = []

    def leave(code: int) -> None:
        said.append(code)
        raise RuntimeError("gone")

    async def last_words(words: str) -> None:
        said.append(words)

    run = run_with_prompts(tmp_path, 3, text="q{i}")
    worker = worker_of(run, GenerateStage("single", SingleTemperature(n=1), 1), DummyEngineConfig(dead="q1"))
    monkeypatch.setattr(worker._journal, "last_words", last_words)
    monkeypatch.setattr("pipeline.execution.worker.os", SimpleNamespace(_exit=leave))
    with pytest.raises(RuntimeError, match="gone"):
        worker(shards(0))
    assert said == ["the dummy engine was told to die", 1]
