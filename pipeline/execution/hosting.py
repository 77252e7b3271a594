"""One engine pool at work: its workers, the journal of their rows, and the counts that they send."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pyarrow as pa
import ray
import ray.data
from ray.data import ActorPoolStrategy

from pipeline.config.sections import ExecutionConfig
from pipeline.core.errors import UnreadableJudge
from pipeline.core.folder import RunFolder
from pipeline.core.row import NESTED
from pipeline.core.schema import METADATA_KEY
from pipeline.engines.base import PoolConfig
from pipeline.execution.carry import Carry, ExtendingWorker
from pipeline.execution.journal import JournalState, start_journal
from pipeline.execution.placing import Placing, cluster_processors
from pipeline.execution.progress import Counts, ProgressActor, ProgressLine
from pipeline.execution.sizes import calls_per_actor, cpu_pool
from pipeline.execution.spec import PassSpec
from pipeline.execution.together import SharedWorker, parts
from pipeline.execution.worker import Worker

_AHEAD = 4  # blocks beyond those that an actor may have open: it need not wait for Ray after each


@dataclass
class Outcome:
    """What a pool has done in this attempt."""

    counts: Counts
    faults: JournalState


class Host:
    """The pool of a pass, or one of several that work side by side.

    Args:
        spec: the pass whose stages the pool's workers run.
        owner: name of the pass that is checkpointed: ``spec`` itself, or the one that its pool works in with others.
        run: the run's folder.
        config: progress, and how to deal with faults.
        done, total: rows that are durable already, and of the pass.
        k: rows per block.

    Attributes:
        name: of ``spec``.
        journal, progress: the actors.
    """

    def __init__(
        self, spec: PassSpec, owner: str, run: RunFolder, config: ExecutionConfig, done: int, total: int, k: int
    ) -> None:
        self._spec = spec
        self._run = run
        self._config = config
        self._k = k
        self._blocks = math.ceil((total - done) / k)
        self.name = spec.name
        alone = owner == spec.name  # side by side with others there is no room that is known to be free
        if spec.engine is not None:
            self._pool = spec.engine.pool
        else:
            self._pool = cpu_pool(self._blocks, *cluster_processors(), config) if alone else PoolConfig()
        self._placing = Placing(spec.engine, self._pool)
        self.progress = ProgressActor.remote()  # type: ignore[attr-defined]
        names = [stage.name for stage in spec.stages]
        place = owner if owner == spec.name else f"{owner}/{spec.name}"
        self.journal = start_journal(run, place, names, config.poison_attempts, config.max_restarts)
        self._line = ProgressLine(self.progress, spec.name, done, total, config.progress)
        self._line.start()

    def onto(self, data: ray.data.Dataset, schema: pa.Schema, metadata: bytes) -> ray.data.Dataset:
        """The blocks of ``data`` after this pool's stages.

        Args:
            schema: of the pass's input.
            metadata: provenance for the output's schema.
        """
        spec, config = self._spec, self._config
        # The first actor to come up must not take all blocks.
        share = max(1, math.ceil(self._blocks / self._pool.most()))
        c = min(share, calls_per_actor(self._k, spec.requests_per_row, spec.engine, self._pool))
        extending = {}
        if spec.extension:
            extending = {"extension": spec.extension, "carry": _carry(spec, self._run, schema)}
        return data.map_batches(
            SharedWorker if spec.parts else ExtendingWorker if extending else Worker,
            batch_size=None,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(
                **_pool_size(self._pool),
                max_concurrent_calls_per_actor=c,
                max_tasks_in_flight_per_actor=min(share, c + _AHEAD),
                enable_true_multi_threading=True,
            ),
            **self._placing.resources(),
            udf_modifying_row_count=False,
            fn_constructor_kwargs={
                "engine": spec.engine,
                "stages": list(spec.stages),
                "job": spec.job,
                "progress": self.progress,
                "metadata": {METADATA_KEY: metadata},
                "labels": {"run": self._run.manifest().get("run_id", ""), "pass": spec.name},
                "journal": self.journal,
                "attempts": config.poison_attempts,
                "row_seconds": config.row_seconds,
                **extending,
                **({"parts": parts(spec.parts)} if spec.parts else {}),
            },
        )

    def check_stopped(self) -> None:
        """Raise why a worker stops the whole pass, if one does."""
        why = ray.get(self.progress.read.remote()).stopped
        if why:
            raise UnreadableJudge(why)

    def faults(self) -> JournalState:
        """What the journal says of deaths. Raises Ray's errors."""
        return ray.get(self.journal.state.remote())  # type: ignore[no-any-return]

    def finish(self, complete: bool) -> Counts:
        """End the line, give the pool's place back, and return the totals."""
        counts = self._line.finish(complete)
        self._placing.release()
        ray.kill(self.progress)
        ray.kill(self.journal)
        return counts


def _pool_size(pool: PoolConfig) -> dict[str, int]:
    low, high = pool.bounds()
    return {"size": low} if high is None else {"min_size": low, "max_size": high}


def _carry(spec: PassSpec, run: RunFolder, schema: pa.Schema) -> Carry | None:
    """For the first pass that extends a table: what its version before holds, beyond the input's columns."""
    extension = spec.extension
    if extension is None or spec.earlier:
        return None
    own = [c for c in run.dataset(extension.table).schema.names if c not in schema.names or c in extension.columns]
    return Carry(
        extension,
        run.data_files(extension.table),
        run.fs,
        [c for c in own if c in NESTED and c not in ("usage", "errors")],
    )


__all__ = ["Host", "Outcome"]
