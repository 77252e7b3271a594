"""The worker: hosts one engine inside a Ray actor and keeps it full.

Ray calls it with whole blocks from several threads at once (``max_concurrent_calls_per_actor`` with true
multi-threading). Every row becomes a coroutine on the worker's own event loop, so blocks overlap and the engine
never drains between them. With Ray's defaults (one call at a time, or an async UDF on Ray's own loop) the same
work ran 7 times slower.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from pipeline.engines.base import EngineConfig
from pipeline.engines.meter import Meter
from pipeline.errors import EngineDead
from pipeline.execution.progress import Progress, Reporter
from pipeline.records import Row, RowError, Usage, column_values, row_from_dict
from pipeline.schema import COLUMNS, with_columns
from pipeline.stage import Stage

logger = logging.getLogger(__name__)

_MESSAGE_LIMIT = 2000


class Worker:
    """Callable class for ``Dataset.map_batches``: a block in, the same rows with more columns out.

    Args:
        engine: config of the engine to host; ``None`` for stages that need none.
        stages: run in this order on every row.
        job: recorded in ``usage`` and ``errors``.
        progress: where to report counts; ``None`` reports nothing.
        metadata: schema metadata of the output (provenance).
    """

    def __init__(
        self,
        engine: EngineConfig | None,
        stages: Sequence[Stage],
        job: str,
        progress: Progress | None = None,
        metadata: dict[bytes, bytes] | None = None,
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
        self._reporter = Reporter(progress)
        self._engine = None
        if engine is not None:
            self._engine = engine.create()
            asyncio.run_coroutine_threadsafe(self._engine.start(), self._loop).result()
        asyncio.run_coroutine_threadsafe(self._reporter.run(), self._loop)

    def __call__(self, table: pa.Table) -> pa.Table:
        """Process one block; called from several threads at once."""
        rows = [row_from_dict(d) for d in table.select([n for n in self._reads if n in table.column_names]).to_pylist()]
        done = asyncio.run_coroutine_threadsafe(self._block(rows), self._loop).result()
        return self._append(table, done)

    async def _block(self, rows: list[Row]) -> list[Row]:
        return list(await asyncio.gather(*(self._row(row) for row in rows)))

    async def _row(self, row: Row) -> Row:
        self._reporter.enter()
        started = time.monotonic()
        known_errors = len(row.errors)
        for stage in self._stages:
            row = await self._stage(stage, row)
        self._reporter.leave(
            failed=len(row.errors) > known_errors,
            tokens=sum(u.completion_tokens for u in row.usage if u.job == self._job),
            seconds=time.monotonic() - started,
        )
        return row

    async def _stage(self, stage: Stage, row: Row) -> Row:
        meter = Meter(self._engine) if self._engine is not None else None
        try:
            row = await stage(row, meter)
        except EngineDead as error:
            logger.error("engine died, replacing its worker: %s", error)
            # The process must go, so that Ray restarts the actor and retries its rows: an exception would be retried
            # on the same broken engine, and ray.actor.exit_actor() is not retried at all
            # (https://github.com/ray-project/ray/issues/59522).
            os._exit(1)
        except Exception as error:
            logger.warning("row %s: %s failed: %s", row.prompt_id, stage.name, error)
            row.errors.append(RowError(self._job, stage.name, type(error).__name__, str(error)[:_MESSAGE_LIMIT]))
        if meter is not None and meter.total.requests:
            t = meter.total
            row.usage.append(Usage(self._job, stage.name, meter.model, t.requests, t.prompt, t.cached, t.completion))
        return row

    def _append(self, table: pa.Table, rows: list[Row]) -> pa.Table:
        """The input table with the written columns replaced or appended; all other columns stay as they are."""
        schema = with_columns(table.schema, self._writes)
        columns: list[Any] = []
        for field in schema:
            if field.name in self._writes:
                columns.append(_array([column_values(row, field.name) for row in rows], field.type))
            else:
                columns.append(table.column(field.name))
        return pa.Table.from_arrays(columns, schema=schema.with_metadata(self._metadata or schema.metadata))


def _array(values: list[Any], dtype: pa.DataType) -> pa.Array:
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
