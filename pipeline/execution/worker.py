"""The worker: hosts one engine inside a Ray actor and keeps it full.

Ray calls it with numbers of shards, from several threads at once (``max_concurrent_calls_per_actor`` with true
multi-threading). It reads the columns that its stages need, runs every row as a coroutine on its own event loop, so
that shards overlap and the engine never drains between them, writes the shard's files and returns counts. With Ray's
defaults (one call at a time, or an async UDF on Ray's own loop) the same work ran 7 times slower.

A shard is worked on in slices: only as many rows as keep the engine full exist as Python objects. So memory depends on
the engine, not on the size of shards.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import threading
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import __version__
from pipeline.core.columns import Ints
from pipeline.core.errors import EngineDead, PoisonRow, UnreadableJudge
from pipeline.core.folder import RunFolder
from pipeline.core.nested import UNSTORABLE, to_array
from pipeline.core.reading import Table, shard_name
from pipeline.core.row import NESTED, Row, RowError, Usage, row_from_dict
from pipeline.core.safety import redact
from pipeline.core.schema import COLUMNS, with_provenance
from pipeline.engines.base import Engine
from pipeline.engines.meter import InFlight, Meter, Refusal
from pipeline.engines.stage import Stage
from pipeline.execution.gate import UNLIMITED, Gate, Intake
from pipeline.execution.journal import JournalClient
from pipeline.execution.progress import Progress, Reporter
from pipeline.execution.spec import LayerSpec, PassSpec
from pipeline.execution.suspects import Suspicion
from pipeline.judging.templates import framed

logger = logging.getLogger(__name__)

FILL = 1.5
"""Sequences at an engine, as a multiple of what it works on at once, below which further rows begin."""
_MESSAGE_LIMIT = 2000
_SLICE = 64  # rows; smaller ones cost more calls to the journal
_READERS = 4  # shards that are read at once: on an object store each takes a while


@dataclass
class _Shard:
    """One shard at work.

    Attributes:
        number: which.
        specs: the layers that lack it.
        stages: of these, in order: (position of the layer, stage).
        begun: whether any of its rows has.
        made: per layer, what each row got, by ``row_id``.
    """

    number: int
    specs: list[LayerSpec]
    stages: list[tuple[int, Stage]]
    begun: bool = False
    made: list[dict[int, Items]] = field(default_factory=list)


Items = dict[str, list[Any]]
"""Nested column -> the items that a layer adds to a row."""


class Worker:
    """Callable class for ``Dataset.map_batches``: numbers of shards in, numbers and rows out.

    Args:
        spec: the pass.
        run: the run's folder.
        progress: where to report counts; ``None`` reports nothing.
        labels: tags of the Ray metrics; ``None`` makes none.
        journal: where to ask before rows begin; ``None`` asks nobody.
        attempts: deaths of the engine with a row alone in flight after which the row is set aside.
        row_seconds: longest time for one stage on one row; ``None`` = for ever.
    """

    def __init__(
        self,
        spec: PassSpec,
        run: RunFolder,
        progress: Progress | None = None,
        labels: dict[str, str] | None = None,
        journal: Any | None = None,
        attempts: int = 2,
        row_seconds: float | None = None,
    ) -> None:
        self._spec = spec
        self._run = run
        self._table = Table(run, spec.sizes, spec.sources, run.name)
        engine = spec.engine
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="lemonpress-engine", daemon=True).start()
        self._gate = Gate()
        self._reading, self._few = asyncio.Semaphore(_READERS), asyncio.Semaphore(2)
        self._alone = asyncio.Lock()
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

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Make what lacks of some shards; called from several threads at once."""
        numbers: list[int] = batch.column("shard").to_pylist()
        done = [asyncio.run_coroutine_threadsafe(self._make(number), self._loop) for number in numbers]
        return pa.table({"shard": numbers, "rows": pa.array([each.result() for each in done], pa.int64())})

    async def _make(self, number: int) -> int:
        """Make what lacks of a shard, and write it; returns the rows that were done."""
        async with AsyncExitStack() as places:
            async with self._reading:
                if self._intake is not None:
                    await self._intake.near()  # no more shards are read than the engine will soon need
                else:
                    await places.enter_async_context(self._few)
                shard, table = await asyncio.to_thread(self._read, number)
                if not shard.specs:
                    return 0
                ids: Ints = table.column("row_id").to_numpy()
                suspect = np.isin(ids, list(self._suspects))
                if suspect.any():
                    table = table.take(np.argsort(~suspect, kind="stable"))
                starts = range(0, len(table), _SLICE)
                slices = [asyncio.ensure_future(self._slice(table.slice(start, _SLICE), shard)) for start in starts]
                await asyncio.sleep(0)  # they stand in line now, in their order
            await asyncio.gather(*slices)
            await asyncio.to_thread(self._write, shard, table, ids)
        self._reporter.stored(len(ids))
        return len(ids)

    def _read(self, number: int) -> tuple[_Shard, pa.Table]:
        """What lacks of a shard, and its rows with the columns that this needs."""
        own = [(spec.layer.table, spec.layer.name) for spec in self._spec.specs]
        there = {place for place in own if self._run.exists(*place, shard_name(number))}
        there |= {place for place, shards in self._spec.held.items() if number in shards}
        specs = [spec for spec, place in zip(self._spec.specs, own, strict=True) if place not in there]
        specs = [spec for spec in specs if number in spec.shards]
        stages = []
        for i, spec in enumerate(specs):
            builds = any((spec.layer.table, name) in there for name in spec.layer.builds_on)
            stages += [(i, spec.rest.get(stage.name, stage) if builds else stage) for stage in spec.stages]
        shard = _Shard(number, specs, stages, made=[{} for _ in specs])
        if not specs:
            return shard, pa.table({"row_id": pa.array([], pa.int64())})
        needed = {name for _, stage in stages for name in (*stage.reads, *stage.writes)}
        reads = [
            name for name in (*COLUMNS, "source") if name in {*needed, "row_id", "prompt_id", "errors"} - {"usage"}
        ]
        laid = {(s.table, s.name): s for s in self._spec.sources}
        redone = [(laid[s.layer.table, s.layer.name], s.rows) for s in specs if s.rows is not None]
        here = [s for place, s in laid.items() if place in there]
        table = self._table.shard(number, reads, layers=here, redone=redone)
        only = [spec.rows for spec in specs if spec.rows is not None]
        if only:
            table = table.filter(pa.array(np.isin(table.column("row_id").to_numpy(), np.concatenate(only))))
        return shard, table.combine_chunks()

    async def _slice(self, table: pa.Table, shard: _Shard) -> None:
        if self._intake is None:  # stages without an engine have nothing to wait for
            async with self._alone:
                await self._done(table, shard)
            return
        ids = table.column("row_id").to_pylist()
        await self._intake.enter(ids)
        try:
            await self._done(table, shard)
        finally:
            for row_id in ids:  # also of rows that an error kept from asking
                self._intake.arrived(row_id)

    async def _done(self, table: pa.Table, shard: _Shard) -> None:
        await self._block([row_from_dict(item) for item in table.to_pylist()], shard)
        self._reporter.rest()

    def _write(self, shard: _Shard, table: pa.Table, ids: Ints) -> None:
        """Write the shard's file of every layer, in order."""
        names = dict(zip(table.column("row_id").to_pylist(), table.column("prompt_id").to_pylist(), strict=True))
        for spec, made in zip(shard.specs, shard.made, strict=True):
            mine = ids.tolist() if spec.rows is None else ids[np.isin(ids, spec.rows)].tolist()
            self._write_file(spec, shard.number, mine, [names[i] for i in mine], [made[i] for i in mine])

    def _write_file(self, spec: LayerSpec, number: int, ids: list[int], names: list[str], made: list[Items]) -> None:
        columns = {"row_id": pa.array(ids, pa.int64()), "prompt_id": pa.array(names, pa.string())}
        for name in spec.columns:
            try:
                columns[name] = to_array([items[name] for items in made], name)
            except UNSTORABLE:  # one row's odd value must not take the whole job down: find it
                made = [self._storable(spec, items) for items in made]
                columns = {n: to_array([i[n] for i in made], n) if n in NESTED else columns[n] for n in columns}
                columns[name] = to_array([items[name] for items in made], name)
        table = pa.table(columns)
        schema = with_provenance(table.schema, {"lemonpress": __version__, "layer": spec.place})
        with self._run.whole(spec.layer.table, spec.layer.name, shard_name(number)) as path:
            pq.write_table(
                table.replace_schema_metadata(schema.metadata), path, filesystem=self._run.fs, compression="zstd"
            )

    def _storable(self, spec: LayerSpec, items: Items) -> Items:
        """What a row got, or, when it does not fit the columns, only an error and what was spent."""
        try:
            for name in spec.columns:
                to_array([items[name]], name)
        except UNSTORABLE as error:
            failure = unstorable(spec.layer.job, spec.stages[-1], error)
            nothing: Items = {name: [] for name in spec.columns}
            return {**nothing, "usage": items["usage"], "errors": [*items["errors"], failure]}
        return items

    async def _block(self, rows: list[Row], shard: _Shard) -> None:
        """Process rows; suspects apart from the others, and before them."""
        suspects = [row for row in rows if row.row_id in self._suspects]
        others = [row for row in rows if row.row_id not in self._suspects]
        groups = [self._group([row], self._suspects[row.row_id].width, shard) for row in suspects]
        if others:
            groups.append(self._group(others, UNLIMITED, shard))
        await asyncio.gather(*groups)

    async def _group(self, rows: list[Row], width: int, shard: _Shard) -> None:
        async with self._gate.enter(width, len(rows)):
            ids = [row.row_id for row in rows]
            news = await self._journal.begin(ids, known=width != UNLIMITED, begun=shard.begun)
            if not news:
                shard.begun = True
                await asyncio.gather(*(self._row(row, shard) for row in rows))
                return
        self._suspects.update(news)  # another worker died over them
        await self._block(rows, shard)

    async def _row(self, row: Row, shard: _Shard) -> None:
        self._reporter.enter()
        started = time.monotonic()
        known_errors, known_usage = len(row.errors), len(row.usage)
        suspicion = self._suspects.get(row.row_id)
        for i, spec in enumerate(shard.specs):
            before = _Before(row, spec)
            for layer, stage in shard.stages:
                if layer == i and (spec.rows is None or _has(spec.rows, row.row_id)):
                    row = await self._stage_of(spec.layer.job, stage, row, suspicion)
            shard.made[i][row.row_id] = before.new(row)
        self._journal.end(row.row_id)
        self._arrived(row.row_id)
        seconds = time.monotonic() - started
        self._reporter.leave(row, row.errors[known_errors:], row.usage[known_usage:], seconds)

    async def _stage_of(self, job: str, stage: Stage, row: Row, suspicion: Suspicion | None) -> Row:
        if suspicion is None:
            return await self._stage(job, stage, row, self._engine)
        await self._journal.enter(row.row_id, stage.name)
        if suspicion.alone.get(stage.name, 0) >= self._attempts:
            return await self._without(job, stage, row, suspicion)
        return await self._stage(job, stage, row, self._engine)

    def _arrived(self, row_id: int) -> None:
        """A row has made a request, or has ended without one."""
        if self._intake is not None:
            self._intake.arrived(row_id)

    async def _without(self, job: str, stage: Stage, row: Row, suspicion: Suspicion) -> Row:
        """Set a row aside in the stage in which it killed its engine: its requests are refused."""
        deaths = suspicion.alone[stage.name]
        error = PoisonRow(
            f"the worker died {suspicion.deaths} times with this row in flight, {deaths} of them with no other row; "
            f"the last time: {suspicion.words}"[:_MESSAGE_LIMIT]
        )
        before = list(row.errors)
        if self._engine is not None and deaths == self._attempts:
            row = await self._stage(job, stage, row, Refusal(self._engine, error))
        # else: not a request kills it but the stage itself, which is left out
        row.errors = [*before, RowError(job, stage.name, type(error).__name__, str(error))]
        return row

    async def _stage(self, job: str, stage: Stage, row: Row, engine: Engine | None) -> Row:
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
            row.errors.append(RowError(job, stage.name, type(error).__name__, message))
        if meter is not None and meter.total.requests:
            t = meter.total
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


class _Before:
    """What a row holds before a layer's stages."""

    def __init__(self, row: Row, spec: LayerSpec) -> None:
        self._lists: Items = {name: list(getattr(row, name)) for name in spec.columns}

    def new(self, row: Row) -> Items:
        """The items that it has got since, in their order."""
        found: Items = {}
        for name, before in self._lists.items():
            after = getattr(row, name)
            known = {id(item) for item in before}
            found[name] = [item for item in after if id(item) not in known] if known else list(after)
        return found


def _has(rows: Ints, row_id: int) -> bool:
    at = int(np.searchsorted(rows, row_id))
    return at < len(rows) and int(rows[at]) == row_id


def _load(in_flight: InFlight, capacity: int) -> tuple[int, int]:
    return in_flight.now(), capacity


def unstorable(job: str, stage: Stage, error: Exception) -> RowError:
    """The error of a row whose values do not fit the table's columns; ``stage`` is the last that may have made them."""
    return RowError(job, stage.name, "UnstorableValue", f"{type(error).__name__}: {error}"[:_MESSAGE_LIMIT])
