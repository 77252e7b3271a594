"""The worker: hosts one engine inside a Ray actor and keeps it full.

Ray calls it with whole blocks from several threads at once (``max_concurrent_calls_per_actor`` with true
multi-threading). Every row becomes a coroutine on the worker's own event loop, so blocks overlap and the engine
never drains between them. With Ray's defaults (one call at a time, or an async UDF on Ray's own loop) the same
work ran 7 times slower.

A block is worked on in slices: only as many rows as keep the engine full exist as Python objects, the others are Arrow
tables, before and after. So memory depends on the engine, not on the size of blocks.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa

from pipeline.core.errors import EngineDead, PoisonRow, UnreadableJudge
from pipeline.core.row import Row, RowError, Usage, column_values, row_from_dict
from pipeline.core.safety import redact
from pipeline.core.schema import COLUMNS, with_columns
from pipeline.engines.base import Engine, EngineConfig
from pipeline.engines.meter import InFlight, Meter, Refusal
from pipeline.engines.stage import Stage
from pipeline.execution.gate import UNLIMITED, Gate, Intake
from pipeline.execution.journal import JournalClient
from pipeline.execution.progress import Progress, Reporter
from pipeline.execution.suspects import Suspicion
from pipeline.judging.templates import framed

logger = logging.getLogger(__name__)

FILL = 1.5
"""Sequences at an engine, as a multiple of what it works on at once, below which further rows begin."""
_MESSAGE_LIMIT = 2000
_SLICE = 64  # rows; smaller ones cost more calls to the journal
UNSTORABLE = (pa.ArrowException, TypeError, ValueError, OverflowError)
"""What Arrow says of values that do not fit a column."""


@dataclass
class _Block:
    """Attributes: begun: whether any of its rows has."""

    begun: bool = False


class Worker:
    """Callable class for ``Dataset.map_batches``: a block in, the same rows with more columns out.

    Args:
        engine: config of the engine to host; ``None`` for stages that need none.
        stages: run in this order on every row.
        job: recorded in ``usage`` and ``errors``.
        progress: where to report counts; ``None`` reports nothing.
        metadata: schema metadata of the output (provenance).
        labels: tags of the Ray metrics; ``None`` makes none.
        journal: where to ask before rows begin; ``None`` asks nobody.
        attempts: deaths of the engine with a row alone in flight after which the row is set aside.
        row_seconds: longest time for one stage on one row; ``None`` = for ever.
    """

    def __init__(
        self,
        engine: EngineConfig | None,
        stages: Sequence[Stage],
        job: str,
        progress: Progress | None = None,
        metadata: dict[bytes, bytes] | None = None,
        labels: dict[str, str] | None = None,
        journal: Any | None = None,
        attempts: int = 2,
        row_seconds: float | None = None,
    ) -> None:
        self._stages = list(stages)
        self._job = job
        self._metadata = metadata
        touched = {name for stage in stages for name in stage.writes} | {"usage", "errors"}
        self._writes = [name for name in COLUMNS if name in touched]
        needed = {name for stage in stages for name in stage.reads} | touched | {"row_id", "prompt_id"}
        self._reads = [name for name in (*COLUMNS, "source") if name in needed]
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="lemonpress-engine", daemon=True).start()
        self._gate = Gate()
        self._turn = asyncio.Lock()
        self._queue = threading.Lock()
        self._open_block: dict[int, _Block] = {}
        self._dying = False
        self._attempts = attempts
        self._row_seconds = row_seconds
        self._journal = JournalClient(journal)
        self._suspects = self._journal.start()
        self._engine: Engine | None = None
        self._in_flight: InFlight | None = None
        self._intake: Intake | None = None
        load = None
        if engine is not None:
            self._engine = engine.create()
            self._in_flight = InFlight(self._engine)
            self._intake = Intake(self._in_flight, FILL * engine.max_requests())
            load = partial(_load, self._in_flight, engine.max_requests())
            asyncio.run_coroutine_threadsafe(self._engine.start(), self._loop).result()
        # What is loaded by now stays: without it in every full collection, a row costs a quarter less.
        gc.collect()
        gc.freeze()
        self._reporter = Reporter(progress, self._journal.flush, labels, load)
        self._journal.ready()
        following = [self._intake.follow()] if self._intake is not None else []
        for task in (self._reporter.run(), self._journal.follow(), *following):
            asyncio.run_coroutine_threadsafe(task, self._loop)

    def __call__(self, table: pa.Table) -> pa.Table:
        """Process one block; called from several threads at once."""
        suspect = np.isin(table.column("row_id").to_numpy(), list(self._suspects))
        order = np.argsort(~suspect, kind="stable")  # suspects first: before others have spent anything
        table = table.take(order) if suspect.any() else table
        ids = table.column("row_id").to_pylist()
        self._open_block.update(dict.fromkeys(ids, _Block()))
        starts = range(0, max(1, len(table)), _SLICE)
        with self._queue:  # one block's slices after another's: what has begun must not wait for what has not
            slices = [self._slice(table.slice(start, _SLICE)) for start in starts]
            done = [asyncio.run_coroutine_threadsafe(each, self._loop) for each in slices]
        out = pa.concat_tables([each.result() for each in done])
        for row_id in ids:
            del self._open_block[row_id]
        return out.take(np.argsort(order)) if suspect.any() else out

    async def _slice(self, table: pa.Table) -> pa.Table:
        if self._intake is None:  # stages without an engine have nothing to wait for
            async with self._turn:
                return await self._done(table)
        ids = table.column("row_id").to_pylist()
        await self._intake.enter(ids)
        try:
            return await self._done(table)
        finally:
            for row_id in ids:  # also of rows that an error kept from asking
                self._intake.arrived(row_id)

    async def _done(self, table: pa.Table) -> pa.Table:
        rows = await asyncio.to_thread(self._rows, table)
        rows = await self._block(rows)
        self._reporter.rest()
        return await asyncio.to_thread(self._stored, table, rows)

    def _rows(self, table: pa.Table) -> list[Row]:
        known = table.select([n for n in self._reads if n in table.column_names])
        return [row_from_dict(d) for d in known.to_pylist()]

    def _stored(self, table: pa.Table, rows: list[Row]) -> pa.Table:
        try:
            return self._append(table, rows)
        except UNSTORABLE:  # one row's odd value must not take the whole job down: find it
            befores = self._rows(table)
            return self._append(table, [self._storable(row, b) for row, b in zip(rows, befores, strict=True)])

    def _storable(self, row: Row, before: Row) -> Row:
        """The row, or, when its values do not fit the table's columns, the row as it was with an error more."""
        try:
            for name in self._writes:
                to_array([column_values(row, name)], COLUMNS[name])
        except UNSTORABLE as error:
            before.usage = row.usage
            last = self._stages[-1]
            before.errors = [*row.errors, unstorable(self._job_of(last), last, error)]
            return before
        return row

    async def _block(self, rows: list[Row]) -> list[Row]:
        """Process rows; suspects apart from the others, and before them."""
        suspects = [row for row in rows if row.row_id in self._suspects]
        others = [row for row in rows if row.row_id not in self._suspects]
        groups = [self._group([row], self._suspects[row.row_id].width) for row in suspects]
        if others:
            groups.append(self._group(others, UNLIMITED))
        done = {row.row_id: row for group in await asyncio.gather(*groups) for row in group}
        return [done[row.row_id] for row in rows]

    async def _group(self, rows: list[Row], width: int) -> list[Row]:
        async with self._gate.enter(width, len(rows)):
            ids, block = [row.row_id for row in rows], self._open_block[rows[0].row_id]
            news = await self._journal.begin(ids, known=width != UNLIMITED, begun=block.begun)
            if not news:
                block.begun = True
                return list(await asyncio.gather(*(self._row(row) for row in rows)))
        self._suspects.update(news)  # another worker died over them
        return await self._block(rows)

    async def _row(self, row: Row) -> Row:
        self._reporter.enter()
        started = time.monotonic()
        known_errors, known_usage = len(row.errors), len(row.usage)
        suspicion = self._suspects.get(row.row_id)
        for stage in self._stages:
            if suspicion is not None:
                await self._journal.enter(row.row_id, stage.name)
            if suspicion is not None and suspicion.alone.get(stage.name, 0) >= self._attempts:
                row = await self._without(stage, row, suspicion)
            else:
                row = await self._stage(stage, row, self._engine)
            self._after(stage, row)
        self._journal.end(row.row_id)
        self._arrived(row.row_id)
        seconds = time.monotonic() - started
        self._reporter.leave(row, row.errors[known_errors:], row.usage[known_usage:], seconds)
        return row

    def _arrived(self, row_id: int) -> None:
        """A row has made a request, or has ended without one."""
        if self._intake is not None:
            self._intake.arrived(row_id)

    def _job_of(self, stage: Stage) -> str:
        return self._job

    def _after(self, stage: Stage, row: Row) -> None:
        """A stage is done with a row."""

    async def _without(self, stage: Stage, row: Row, suspicion: Suspicion) -> Row:
        """Set a row aside in the stage in which it killed its engine: its requests are refused."""
        deaths = suspicion.alone[stage.name]
        error = PoisonRow(
            f"the worker died {suspicion.deaths} times with this row in flight, {deaths} of them with no other row; "
            f"the last time: {suspicion.words}"[:_MESSAGE_LIMIT]
        )
        before = list(row.errors)
        if self._engine is not None and deaths == self._attempts:
            row = await self._stage(stage, row, Refusal(self._engine, error))
        # else: not a request kills it but the stage itself, which is left out
        row.errors = [*before, RowError(self._job_of(stage), stage.name, type(error).__name__, str(error))]
        return row

    async def _stage(self, stage: Stage, row: Row, engine: Engine | None) -> Row:
        meter: Meter | None = engine if isinstance(engine, Refusal) else None
        if engine is not None and meter is None:
            meter = Meter(engine, self._in_flight, partial(self._arrived, row.row_id))
        try:
            async with asyncio.timeout(self._row_seconds) as limit:
                with framed(stage.run_seed, row.prompt_id):
                    row = await stage(row, meter)
        except EngineDead as error:
            await self._die(str(error))
        except UnreadableJudge as error:
            self._reporter.stop(str(error))
            raise  # of all rows, not of this one
        except Exception as error:
            message = redact(str(error), _MESSAGE_LIMIT)
            if isinstance(error, TimeoutError) and limit.expired():
                message = f"not done within {self._row_seconds:g} s (execution.row_seconds)"
            logger.warning("row %s: %s failed: %s", row.prompt_id, stage.name, message)
            row.errors.append(RowError(self._job_of(stage), stage.name, type(error).__name__, message))
        if meter is not None and meter.total.requests:
            t, job = meter.total, self._job_of(stage)
            row.usage.append(Usage(job, stage.name, meter.model, t.requests, t.prompt, t.cached, t.completion))
        return row

    async def _die(self, words: str) -> NoReturn:
        """End this process after its engine's death, which all rows in flight notice at once."""
        if self._dying:
            await asyncio.Event().wait()  # the first one to notice ends the process
        self._dying = True
        words = redact(words, _MESSAGE_LIMIT)
        logger.error("engine died, replacing its worker: %s", words)
        await self._journal.last_words(words)
        # The process must go, so that Ray restarts the actor and retries its rows: an exception would be retried
        # on the same broken engine, and ray.actor.exit_actor() is not retried at all
        # (https://github.com/ray-project/ray/issues/59522).
        os._exit(1)

    def _append(self, table: pa.Table, rows: list[Row]) -> pa.Table:
        """The input table with the written columns replaced or appended; all other columns stay as they are."""
        schema = with_columns(table.schema, self._writes)
        columns: list[Any] = []
        for field in schema:
            if field.name in self._writes:
                columns.append(to_array([column_values(row, field.name) for row in rows], field.type))
            else:
                columns.append(table.column(field.name))
        return pa.Table.from_arrays(columns, schema=schema.with_metadata(self._metadata or schema.metadata))


def _load(in_flight: InFlight, capacity: int) -> tuple[int, int]:
    return in_flight.now(), capacity


def unstorable(job: str, stage: Stage, error: Exception) -> RowError:
    """The error of a row whose values do not fit the table's columns; ``stage`` is the last that may have made them."""
    return RowError(job, stage.name, "UnstorableValue", f"{type(error).__name__}: {error}"[:_MESSAGE_LIMIT])


def to_array(values: list[Any], dtype: pa.DataType) -> pa.Array:
    """An Arrow array; lone surrogates are replaced."""
    try:
        return pa.array(values, dtype)
    except UnicodeEncodeError:
        # A lone surrogate cannot be stored as UTF-8; it must not take the whole block down.
        return pa.array(_replace_surrogates(values), dtype)


def _replace_surrogates(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, list):
        return [_replace_surrogates(v) for v in value]
    if isinstance(value, dict):
        return {k: _replace_surrogates(v) for k, v in value.items()}
    return value
