"""One engine pool at work: its workers, where they stand, the journal of their rows, and the counts that they send."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Any

import ray
import ray.data
from ray.data import ActorPoolStrategy
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from pipeline.config.sections import ExecutionConfig, NodeGroup
from pipeline.core.errors import UnreadableJudge
from pipeline.core.folder import RunFolder
from pipeline.engines.base import EngineConfig, PoolConfig
from pipeline.execution.journal import JournalState, start_journal
from pipeline.execution.placement import gpus_each
from pipeline.execution.progress import Counts, ProgressActor, ProgressLine
from pipeline.execution.spec import PassSpec
from pipeline.execution.worker import Worker

# How many shards Ray gets at a time: each of its tasks costs it some 0.1 s of processor time, and an actor that is done
# waits for the others at the end of a pass.
_TASKS_PER_ACTOR = 16
_TASKS_PER_ENGINE = 48
_AHEAD = 4  # tasks beyond those that an actor works on: it need not wait for Ray after each
# Tasks that an actor works on at once; each is a thread of it. A task stays open until its slowest row ends: with few
# of them an engine stands idle beside the tails of all that are open (2 left it full for 20% of the time, log-normal
# lengths of sigma 1.5). They are read, and their rows begin, only when the engine needs them (the worker's ``Intake``).
_CALLS_PER_ENGINE = (16, 64)
_CALLS_WITHOUT = 2
_FILL = 8  # rows at hand x requests per row, as a multiple of what the engine works on at once
_SHARDS_PER_ACTOR = 16  # fewer would hardly pay for the start of an actor without an engine
_SPARE_CPUS = 2  # for Ray's own work, without which nothing moves


@dataclass
class Outcome:
    """What a pool has done in this attempt."""

    counts: Counts
    faults: JournalState


class Pool:
    """The actors of a pass.

    Args:
        spec: the pass.
        run: the run's folder.
        config: progress, and how to deal with faults.
        shards: that it gets.
        alone: whether it has the cluster for itself.

    Attributes:
        name: of ``spec``.
        journal, progress: the actors.
    """

    def __init__(
        self, spec: PassSpec, run: RunFolder, config: ExecutionConfig, shards: list[int], alone: bool = True
    ) -> None:
        self._spec, self._run, self._config = spec, run, config
        self.name = spec.name
        if spec.engine is not None:
            self._pool = spec.engine.pool
        else:  # side by side with others there is no room that is known to be free
            self._pool = cpu_pool(len(shards), *cluster_processors(), config) if alone else PoolConfig()
        each = _TASKS_PER_ENGINE if spec.engine is not None else _TASKS_PER_ACTOR
        self.tasks = min(len(shards), each * self._pool.most())
        self._rows = spec.rows_of(shards) / max(1, self.tasks)
        self._placing = Placing(spec.engine, self._pool)
        self.progress = ProgressActor.remote()  # type: ignore[attr-defined]
        names = [stage.name for stage in spec.stages]
        self.journal = start_journal(run, spec.name, names, config.poison_attempts, config.max_restarts)
        total = spec.rows_of(range(len(spec.sizes)))
        self._line = ProgressLine(self.progress, spec.name, total - spec.rows_of(shards), total, config.progress)
        self._line.start()

    def onto(self, data: ray.data.Dataset) -> ray.data.Dataset:
        """The numbers of shards in ``data`` after this pool's stages."""
        spec, config = self._spec, self._config
        # The first actor to come up must not take everything.
        share = max(1, math.ceil(self.tasks / self._pool.most()))
        calls = min(share, calls_per_actor(self._rows, spec.requests_per_row, spec.engine))
        return data.map_batches(
            Worker,
            batch_size=None,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(
                **_pool_size(self._pool),
                max_concurrent_calls_per_actor=calls,
                max_tasks_in_flight_per_actor=min(share, calls + _AHEAD),
                enable_true_multi_threading=True,
            ),
            **self._placing.resources(),
            udf_modifying_row_count=False,
            fn_constructor_kwargs={
                "spec": spec,
                "run": self._run,
                "progress": self.progress,
                "labels": {"run": self._run.manifest().get("run_id", ""), "pass": spec.name},
                "journal": self.journal,
                "attempts": config.poison_attempts,
                "row_seconds": config.row_seconds,
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


def calls_per_actor(rows: float, requests_per_row: int, engine: EngineConfig | None) -> int:
    """Tasks that one actor works on at once, so that rows at hand are 8 times the engine's appetite, within bounds.

    Args:
        rows: of one task.
        requests_per_row: that a row has in flight at once.
    """
    if engine is None:
        return _CALLS_WITHOUT
    low, high = _CALLS_PER_ENGINE
    return max(low, min(high, math.ceil(_FILL * engine.max_requests() / (max(1.0, rows) * max(1, requests_per_row)))))


def cpu_pool(shards: int, processors: float, cpus: float, config: ExecutionConfig) -> PoolConfig:
    """The pool of a pass without an engine: one actor, and more where there are shards and processors for them.

    Args:
        shards: that are left to do.
        processors: of the cluster's machines. Half of them are left to Ray and to writing.
        cpus: logical CPUs that Ray gives out.
        config: may say the size.
    """
    most = config.cpu_workers or min(shards // _SHARDS_PER_ACTOR, int(processors / 2))
    return PoolConfig(size=max(1, min(most, int(cpus) - _SPARE_CPUS)), num_cpus=1.0 if most > 1 else 0.5)


def nodes_up() -> list[NodeGroup]:
    """The nodes of the cluster that this process has joined."""
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [NodeGroup(1, float(r.get("GPU", 0)), float(r.get("CPU", 0))) for r in alive]


def cluster_processors() -> tuple[float, float]:
    """(processors of the cluster's machines, CPUs that its Ray gives out, which may be more on a single machine)."""
    nodes = nodes_up()
    cpus = sum(node.cpus for node in nodes)
    return (cpus if len(nodes) > 1 else min(cpus, len(os.sched_getaffinity(0)))), cpus


class Placing:
    """What one pass asks of the cluster for its pool.

    An engine over several nodes gets a placement group per actor, as ``ray.data.llm`` makes it
    (``ray/llm/_internal/batch/stages/vllm_engine_stage.py``, Ray 2.60): one bundle a GPU, packed on as few nodes as
    possible. The actor takes the first bundle's CPUs and no GPU; vLLM's Ray executor finds the group and puts one
    worker into each bundle.

    Args:
        engine: the engine that the pool hosts; ``None`` for stages on the CPU.
        pool: its size.
    """

    def __init__(self, engine: EngineConfig | None, pool: PoolConfig) -> None:
        self._engine = engine
        self._pool = pool
        self._groups: list[PlacementGroup] = []

    def resources(self) -> dict[str, Any]:
        """Arguments of ``map_batches`` that give every actor its CPUs and GPUs."""
        engine, pool = self._engine, self._pool
        if engine is None or not engine.is_spread():
            return {"num_cpus": pool.num_cpus, "num_gpus": (gpus_each(engine) if engine else 0.0) or None}
        # Deprecated, and to go with Ray 2.64, but ray.data.llm needs it too and nothing replaces it yet: one fixed
        # `scheduling_strategy` would put all actors of the pool into one group.
        return {"num_cpus": pool.num_cpus, "num_gpus": 0, "ray_remote_args_fn": self._group}

    def _group(self) -> dict[str, Any]:
        """Called by Ray Data on the driver, once for every actor that it makes."""
        assert self._engine is not None
        tensor, pipeline = self._engine.parallel()
        bundles: list[dict[str, float]] = [{"GPU": 1} for _ in range(tensor * pipeline)]
        bundles[0]["CPU"] = self._pool.num_cpus
        self._groups.append(ray.util.placement_group(bundles, strategy="PACK"))
        strategy = PlacementGroupSchedulingStrategy(self._groups[-1], placement_group_capture_child_tasks=True)
        return {"scheduling_strategy": strategy}

    def release(self) -> None:
        """Give the placement groups' GPUs back; otherwise they would be kept until the job's end."""
        for group in self._groups:
            ray.util.remove_placement_group(group)
        self._groups.clear()
