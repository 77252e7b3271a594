"""The worker by itself, without Ray and without a journal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import ClassVar

import pyarrow as pa
import pytest

from pipeline.core.row import Answer, Row
from pipeline.core.schema import prompts_schema
from pipeline.engines.base import Engine
from pipeline.engines.dummy import DummyEngineConfig
from pipeline.engines.stage import Stage
from pipeline.execution.suspects import Suspicion
from pipeline.execution.worker import Worker
from pipeline.sampling.plans import Hedged, SingleTemperature
from pipeline.sampling.stage import GenerateStage


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


def test_a_value_that_its_column_cannot_hold_fails_its_row_only() -> None:
    items = [{"row_id": i, "prompt_id": f"p{i}", "usage": [], "errors": []} for i in range(3)]
    table = pa.Table.from_pylist(items, schema=prompts_schema(pa.struct([("row", pa.int64())])))
    rows = Worker(None, [Odd()], "job")(table).to_pylist()
    assert [len(r["answers"]) for r in rows] == [1, 0, 1]
    assert [[(e["stage"], e["kind"]) for e in r["errors"]] for r in rows] == [[], [("odd", "UnstorableValue")], []]


def test_an_engine_that_never_answers_gives_error_rows() -> None:
    items = [{"row_id": i, "prompt_id": f"p{i}", "messages": [], "usage": [], "errors": []} for i in range(3)]
    table = pa.Table.from_pylist(items, schema=prompts_schema(pa.struct([("row", pa.int64())])))
    stage = GenerateStage("hedged", Hedged(), 1)
    rows = Worker(DummyEngineConfig(latency=1e6), [stage], "job", row_seconds=0.2)(table).to_pylist()
    assert [r["errors"][0]["kind"] for r in rows] == ["TimeoutError"] * 3
    assert rows[0]["errors"][0]["message"] == "not done within 0.2 s (execution.row_seconds)"


def test_the_journal_is_told_which_rows_belong_to_a_block_that_has_begun() -> None:
    items = [{"row_id": i, "prompt_id": f"p{i}", "messages": [], "usage": [], "errors": []} for i in range(150)]
    table = pa.Table.from_pylist(items, schema=prompts_schema(pa.struct([("row", pa.int64())])))
    worker = Worker(DummyEngineConfig(), [GenerateStage("hedged", Hedged(), 1)], "job")
    begin, told = worker._journal.begin, []

    async def watched(rows: Sequence[int], **known: bool) -> dict[int, Suspicion]:
        told.append((len(rows), known["begun"]))
        return await begin(rows, **known)

    worker._journal.begin = watched  # type: ignore[method-assign]
    for _ in range(2):
        told.clear()
        assert worker(table).column("row_id").to_pylist() == list(range(150))
        assert told == [(64, False), (64, True), (22, True)]


def test_a_dead_engine_ends_its_process_which_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its rows are no error rows: another process does them."""
    said: list[object] = []

    def leave(code: int) -> None:
        said.append(code)
        raise RuntimeError("gone")

    async def last_words(words: str) -> None:
        said.append(words)

    items = [
        {
            "row_id": i,
            "prompt_id": f"p{i}",
            "messages": [{"role": "user", "content": f"q{i}"}],
            "usage": [],
            "errors": [],
        }
        for i in range(3)
    ]
    table = pa.Table.from_pylist(items, schema=prompts_schema(pa.struct([("row", pa.int64())])))
    worker = Worker(DummyEngineConfig(dead="q1"), [GenerateStage("single", SingleTemperature(n=1), 1)], "job")
    monkeypatch.setattr(worker._journal, "last_words", last_words)
    monkeypatch.setattr("pipeline.execution.worker.os", SimpleNamespace(_exit=leave))
    with pytest.raises(RuntimeError, match="gone"):
        worker(table)
    assert said == ["the dummy engine was told to die", 1]
