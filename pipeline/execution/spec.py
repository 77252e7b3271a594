"""What a pass is to do, and what it did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.core.columns import Ints
from pipeline.core.layers import Laid, Layer
from pipeline.core.schema import COLUMNS
from pipeline.engines.base import EngineConfig
from pipeline.engines.stage import Stage


@dataclass
class LayerSpec:
    """A layer that a pass is to make, or to go on with.

    Attributes:
        layer: what it holds.
        stages: run in this order on every row.
        rest: stage -> what runs in its place on the shards of which a layer that this one builds on has a file.
        engine_name: under which the config has the engine; empty without one.
        engine: the engine; ``None`` for stages on the CPU.
        requests_per_row: engine requests that one row has in flight at once, about: those of the stage with the fewest.
        rows: ``row_id`` of the only rows that are done, ascending; ``None`` = all.
        shards: those that have no file yet.
    """

    layer: Layer
    stages: list[Stage]
    rest: Mapping[str, Stage] = field(default_factory=dict)
    engine_name: str = ""
    engine: EngineConfig | None = None
    requests_per_row: int = 1
    rows: Ints | None = None
    shards: frozenset[int] = frozenset()

    @property
    def columns(self) -> list[str]:
        """The nested columns of its files."""
        touched = {name for stage in self.stages for name in stage.writes} | {"usage", "errors"}
        return [name for name in COLUMNS if name in touched]

    @property
    def place(self) -> str:
        """``TABLE/NAME``."""
        return f"{self.layer.table}/{self.layer.name}"


@dataclass
class PassSpec:
    """What one pool does: some layers, one after the other on every row.

    Attributes:
        specs: the layers, from the first to the last.
        sources: layers that are read: those before, and the pass's own.
        held: ``(TABLE, NAME)`` of the layers before -> the shards that they have files of.
        sizes: rows of every shard of the prompts.
    """

    specs: Sequence[LayerSpec]
    sources: Sequence[Laid]
    held: Mapping[tuple[str, str], frozenset[int]]
    sizes: Sequence[int]

    @property
    def name(self) -> str:
        """Its layers' names."""
        return "+".join(spec.layer.name for spec in self.specs)

    @property
    def engine_name(self) -> str:
        """Under which the config has the engine."""
        return next((spec.engine_name for spec in self.specs if spec.engine_name), "")

    @property
    def engine(self) -> EngineConfig | None:
        """The engine that the pool hosts."""
        return next((spec.engine for spec in self.specs if spec.engine is not None), None)

    @property
    def stages(self) -> list[Stage]:
        """Of all layers."""
        return [stage for spec in self.specs for stage in spec.stages]

    @property
    def requests_per_row(self) -> int:
        """Engine requests that one row has in flight at once, about."""
        return min((spec.requests_per_row for spec in self.specs if spec.engine_name), default=1)

    @property
    def shards(self) -> list[int]:
        """Those that lack any of the layers."""
        return sorted({number for spec in self.specs for number in spec.shards})

    def rows_of(self, shards: Sequence[int]) -> int:
        """Rows that are done of some shards."""
        if all(spec.rows is not None for spec in self.specs):
            return len(max((spec.rows for spec in self.specs if spec.rows is not None), key=len))
        return sum(self.sizes[number] for number in shards)


@dataclass
class PassSummary:
    """What was done towards one layer; stored in the record of its table.

    Attributes:
        name: the layer's.
        rows, failed: rows of the layer, and those with an error of it.
        requests, prompt_tokens, cached_tokens, completion_tokens: spent by this layer on all rows, over all attempts.
        seconds: wall time, summed over attempts; of a pass with several layers it is the first one's with an engine.
        resumed: rows that an earlier attempt had finished.
        mean_in_flight: mean rows in flight per busy actor, in the last attempt.
        busy_seconds: time with rows in flight, summed over actors, in the last attempt.
        span_seconds: from the first row's beginning to the last one's end, in the last attempt: the engines' start-up
            is not in it.
        workers: actors that had any, in the last attempt.
        row_seconds: p50, p90 and p99 of the seconds that a row was in flight, over all attempts that ended in order.
        row_tokens: p50, p90 and p99 of the completion tokens that a row cost.
        load: how full the engines were over time, in the last attempt
            (:meth:`pipeline.execution.load.Timeline.to_json`).
        restarts: worker processes that died and were replaced, over all attempts.
        poisoned: rows set aside because they kill their engine.
        shared: the pass that made it together with others, where its time is told by another of them.
        beside: the passes whose pools worked side by side; the time is that of all of them.
        engine: the engine's name in the config; empty without one.
        job, stages: names of the job, and of the stages whose usage and errors it counts.
        skipped: it was there before, and nothing was run (not stored).
    """

    name: str
    rows: int
    failed: int = 0
    requests: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    resumed: int = 0
    mean_in_flight: float = 0.0
    busy_seconds: float = 0.0
    span_seconds: float = 0.0
    workers: int = 0
    row_seconds: dict[str, float] = field(default_factory=dict)
    row_tokens: dict[str, float] = field(default_factory=dict)
    load: dict[str, Any] = field(default_factory=dict)
    restarts: int = 0
    poisoned: int = 0
    shared: str = ""
    beside: str = ""
    engine: str = ""
    job: str = ""
    stages: list[str] = field(default_factory=list)
    skipped: bool = False


def summaries(record: Mapping[str, Any] | None) -> dict[str, dict[str, Any]]:
    """Name -> summary of the layers of a finished table."""
    found: dict[str, dict[str, Any]] = (record or {}).get("passes", {})
    return found
