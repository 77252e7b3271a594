"""What a pass is to do, and what it did."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.core.folder import RunFolder
from pipeline.engines.base import EngineConfig
from pipeline.engines.stage import Stage
from pipeline.execution.extend import Extension


@dataclass
class PassSpec:
    """What one pass does.

    Attributes:
        name: unique in the run, e.g. ``select-reward``.
        job: recorded in ``usage`` and ``errors``.
        reads, writes: table folders below the run's root.
        stages: run in this order on every row.
        engine: the engine that the pool hosts; ``None`` for CPU-only stages.
        requests_per_row: engine requests that one row has in flight at once, about: those of the stage with the fewest
            (a row runs its stages one after the other).
        fingerprint: the config that the result depends on; a resume with another one is refused.
        extension: what is there already, when the job's table is extended.
        earlier: names of the job's passes before this one.
        record: goes into the table's marker besides what the pass itself knows.
        counts: names of the stages whose usage and errors are this pass's; default: of ``stages``.
        skip: nothing is to be done; there is only a summary of what was done before.
        force: go on with another config's unfinished work, and record it.
        wanted: ``engine`` as the config has it, once it has been placed: the cluster may hold it in another form only.
        parts: the passes that run in this one, on one engine (:mod:`pipeline.execution.shared`).
        pools: the passes that run in this one, each on an engine of its own (:mod:`pipeline.execution.beside`).
        prepare: makes ``stages`` anew, under the same names, when the input (its name) is finished: what was decided
            over its rows.
        engine_name: under which the config has ``engine``: what the pass is charged to.
    """

    name: str
    job: str
    reads: str
    writes: str
    stages: Sequence[Stage]
    engine: EngineConfig | None = None
    requests_per_row: int = 1
    fingerprint: dict[str, Any] = field(default_factory=dict)
    extension: Extension | None = None
    earlier: Sequence[str] = ()
    record: dict[str, Any] = field(default_factory=dict)
    counts: Sequence[str] = ()
    skip: bool = False
    force: bool = False
    wanted: EngineConfig | None = None
    parts: Sequence[PassSpec] = ()
    pools: Sequence[PassSpec] = ()
    prepare: Callable[[RunFolder, str], list[Stage]] | None = None
    engine_name: str = ""

    @property
    def hosted(self) -> Sequence[PassSpec]:
        """The passes with a pool each: this one, unless it is several side by side."""
        return self.pools or (self,)

    @property
    def extends(self) -> bool:
        """Whether the pass writes the next version of a finished table."""
        return self.extension is not None and self.extension.table == self.writes

    @property
    def is_between(self) -> bool:
        """Whether its table is only there for the job's next pass."""
        return self.writes.startswith("work/")


def joined(specs: Sequence[PassSpec], writes: str = "", **options: Any) -> PassSpec:
    """One pass that does what ``specs`` do one after the other.

    Args:
        writes: its table; empty = one of its own under ``work/``.
        options: the other fields of :class:`PassSpec`.
    """
    name = "+".join(spec.name for spec in specs)
    return PassSpec(
        name=name,
        reads=specs[0].reads,
        writes=writes or f"work/{name}/table",
        stages=[stage for spec in specs for stage in spec.stages],
        fingerprint={spec.name: spec.fingerprint for spec in specs},
        **options,
    )


@dataclass
class PassSummary:
    """What one finished pass did; stored in its completion marker.

    Attributes:
        engine: the engine's name in the config; empty without one.
        rows, failed: rows of the table, and those with an error of this pass.
        requests, prompt_tokens, cached_tokens, completion_tokens: spent by this pass on all rows, over all attempts.
        seconds: wall time, summed over attempts.
        resumed: rows that an earlier attempt had finished.
        mean_in_flight: mean rows in flight per busy actor, in the last attempt.
        busy_seconds: time with rows in flight, summed over actors, in the last attempt.
        span_seconds: from the first row's beginning to the last one's end, in the last attempt: the engines' start-up
            and the last block's write are not in it.
        workers: actors that had any, in the last attempt.
        row_seconds: p50, p90 and p99 of the seconds that a row was in flight, over all attempts that ended in order.
        row_tokens: p50, p90 and p99 of the completion tokens that a row cost.
        load: how full the engines were over time, in the last attempt
            (:meth:`pipeline.execution.load.Timeline.to_json`).
        restarts: worker processes that died and were replaced, over all attempts.
        poisoned: rows set aside because they kill their engine.
        shared: the pass that it ran in together with others; the time is the first one's.
        beside: the pass in which its pool worked side by side with others; the time is that of all of them.
        stages: names of the stages whose usage and errors it counts.
        skipped: the pass had been finished before and nothing was run (not stored).
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
    stages: list[str] = field(default_factory=list)
    skipped: bool = False


def summaries(marker: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Name -> summary of the passes that made a finished table."""
    found: dict[str, dict[str, Any]] = marker.get("passes", {})
    return found
