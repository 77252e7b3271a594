"""Putting a pool's actors on the cluster: plain resources, or a placement group for an engine over several nodes."""

from __future__ import annotations

import os
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from pipeline.config.sections import NodeGroup
from pipeline.engines.base import EngineConfig, PoolConfig
from pipeline.execution.placement import gpus_each


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
