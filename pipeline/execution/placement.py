"""Where a run's engine pools go: arithmetic on GPUs and CPUs, done before a model loads. Needs neither Ray nor a GPU.

Pools of different engines run one after the other, so each may take the whole cluster; side by side where they are
asked to, and the cluster holds them at once. An engine's GPUs lie on one node where a node has enough of them;
otherwise its processes are spread over several nodes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.config.sections import NodeGroup
from pipeline.core.errors import ConfigError
from pipeline.engines.base import EngineConfig

_SPARE_CPUS = 2
"""Ray's own tasks run beside a pool; with no CPU left for them a pass hangs for ever."""


@dataclass(frozen=True)
class Place:
    """One engine's pool on a cluster.

    Attributes:
        name: under ``engines``.
        model: the model that it serves.
        actors: its actors, or for an autoscaling pool how few there may be.
        limit: for an autoscaling pool, how many there may be and the cluster holds.
        gpus: of one actor.
        tensor, pipeline: its tensor and pipeline parallel sizes.
        spread: one actor's GPUs lie on several nodes.
        advice: a better layout, where there is one.
    """

    name: str
    model: str
    actors: int
    limit: int | None
    gpus: float
    tensor: int
    pipeline: int
    spread: bool = False
    advice: str = ""

    def __str__(self) -> str:
        """E.g. ``4 x CohereLabs/c4ai-command-a-03-2025 TP=4 on 16 GPUs``."""
        count = str(self.actors) if self.limit is None else f"{self.actors} to {self.limit}"
        shape = "".join(f" {k}={n}" for k, n in (("TP", self.tensor), ("PP", self.pipeline)) if n > 1)
        most = (self.limit or self.actors) * self.gpus
        where = f"{'up to ' if self.limit else ''}{most:g} GPU{'' if most == 1 else 's'}" if self.gpus else "CPUs"
        return f"{count} x {self.model or self.name}{shape} on {where}{', each over several nodes' * self.spread}"


def plan(engines: Mapping[str, EngineConfig], nodes: Sequence[NodeGroup]) -> list[Place]:
    """Place every engine's pool, each alone on the cluster.

    Args:
        engines: name -> engine, in the order in which they run.
        nodes: the cluster's.

    Raises:
        ConfigError: the cluster cannot hold a pool; the message names the engine's key, what one actor needs, what
            there is, and what would fit.
    """
    return [_place(name, engine, nodes) for name, engine in engines.items()]


def gpus_each(engine: EngineConfig) -> float:
    """GPUs of one actor: what the pool says, or else what the engine needs."""
    return engine.gpus() if engine.pool.num_gpus is None else engine.pool.num_gpus


def fit_at_once(engines: Sequence[EngineConfig], nodes: Sequence[NodeGroup]) -> bool:
    """Whether the cluster holds all pools (of autoscaling ones: the fewest actors) beside reading and writing.

    Engines that are spread over nodes never fit: their placement is not known before they run.
    """
    free = [_Free([1.0] * math.floor(node.gpus), node.cpus) for node in nodes for _ in range(node.count)]
    wanted = []
    for engine in engines:
        if engine.is_spread():
            return False
        wanted += [(gpus_each(engine), engine.pool.num_cpus)] * engine.pool.bounds()[0]
    largest_first = sorted(wanted, reverse=True)
    return all(any(node.take(*each) for node in free) for each in largest_first) and (
        sum(node.cpus for node in free) + 1e-9 >= _SPARE_CPUS
    )


@dataclass
class _Free:
    """What is left of a node: the free share of each of its GPUs, and its CPUs."""

    gpus: list[float]
    cpus: float

    def take(self, gpus: float, cpus: float) -> bool:
        """Place one actor, if there is room: whole GPUs, or a share of a single one."""
        usable = [i for i, share in enumerate(self.gpus) if share + 1e-9 >= min(gpus, 1.0)] if gpus else []
        number = math.ceil(gpus)
        if len(usable) < number or self.cpus + 1e-9 < cpus:
            return False
        for i in usable[:number]:
            self.gpus[i] -= min(gpus, 1.0)
        self.cpus -= cpus
        return True


def spell(places: Sequence[Place], beside: Sequence[str] = ()) -> str:
    """The plan in words, in the order of the passes.

    Args:
        beside: names of places whose pools work beside the one before.
    """
    words = [(" beside " if p.name in beside else ", then ") + str(p) for p in places]
    return "".join(words).removeprefix(", then ")


def _place(name: str, engine: EngineConfig, nodes: Sequence[NodeGroup]) -> Place:
    pool, key = engine.pool, f"engines.{name}"
    tensor, pipeline = engine.parallel()
    gpus = gpus_each(engine)
    actors, limit = pool.bounds()
    _check_shape(key, gpus, tensor * pipeline, pool.num_gpus is not None)
    place = Place(name, engine.model, actors, limit, gpus, tensor, pipeline)
    fits = sum(node.count * _actors_on(node, gpus, pool.num_cpus) for node in nodes)
    if fits == 0 and gpus > 1:
        fits, place = _spread(key, engine, place, nodes)
    wants = f"{actors} x {_needs(gpus, pool.num_cpus)}"
    if fits < actors:
        raise ConfigError(
            f"{key}.pool: {wants} do not fit on {_spell_nodes(nodes)}: "
            + (f"{fits} would; set {key}.pool.size={fits}" if fits else "not even one would")
            + _or_grow(gpus)
        )
    cpus = sum(node.count * node.cpus for node in nodes)
    if cpus - actors * pool.num_cpus < _SPARE_CPUS:
        raise ConfigError(
            f"{key}.pool: {wants} leave {max(0.0, cpus - actors * pool.num_cpus):g} of the {cpus:g} CPUs, and Ray's "
            f"own work needs {_SPARE_CPUS} beside the pool; set a smaller {key}.pool.size or num_cpus"
        )
    room = math.floor((cpus - _SPARE_CPUS) / pool.num_cpus) if pool.num_cpus else fits
    return place if limit is None else _replace(place, limit=min(limit, fits, room))


def _check_shape(key: str, gpus: float, processes: int, explicit: bool) -> None:
    if gpus < 0 or (gpus > 1 and gpus != int(gpus)):
        raise ConfigError(f"{key}.pool.num_gpus={gpus:g}: a share of one GPU, or a whole number of GPUs")
    if explicit and processes > 1 and gpus not in (0, processes):
        raise ConfigError(
            f"{key}.pool.num_gpus={gpus:g}: tensor_parallel_size x pipeline_parallel_size is {processes}, so one actor "
            f"needs {processes} GPUs; leave num_gpus out"
        )


def _actors_on(node: NodeGroup, gpus: float, cpus: float) -> int:
    """Actors that one node holds. Ray never splits a share of a GPU over two of them."""
    by_cpus = math.floor(node.cpus / cpus + 1e-9) if cpus else 10**9
    if not gpus:
        return by_cpus
    per = math.floor(node.gpus) * math.floor(1 / gpus + 1e-9) if gpus < 1 else math.floor(node.gpus / gpus)
    return min(per, by_cpus)


def _spread(key: str, engine: EngineConfig, place: Place, nodes: Sequence[NodeGroup]) -> tuple[int, Place]:
    """(actors that fit, place) of an engine that is larger than every node."""
    largest = max((math.floor(n.gpus) for n in nodes), default=0)
    total = sum(n.count * math.floor(n.gpus) for n in nodes)
    if largest >= place.gpus or not total:  # it is the CPUs that are too few, or there are no GPUs at all
        return 0, place
    if not engine.can_spread():
        raise ConfigError(
            f"{key}: one actor needs {place.gpus:g} GPUs and the largest node has {largest}; an engine of kind "
            f"{engine.kind} cannot span nodes"
        )
    advice = ""
    if place.tensor > largest:
        layers = math.ceil(place.gpus / largest)
        advice = (
            f"{key}: tensor parallelism over the network (TP={place.tensor} on nodes of {largest} GPUs) is slow; "
            f"tensor_parallel_size={largest} with pipeline_parallel_size={layers} keeps it inside a node"
        )
    heads = sum(n.count * _actors_on(NodeGroup(1, 0, n.cpus), 0, engine.pool.num_cpus) for n in nodes if n.gpus)
    return min(math.floor(total / place.gpus), heads), _replace(place, spread=True, advice=advice)


def _replace(place: Place, **changes: object) -> Place:
    return Place(**{**vars(place), **changes})  # type: ignore[arg-type]


def _needs(gpus: float, cpus: float) -> str:
    what = f"{gpus:g} GPU{'' if gpus == 1 else 's'}" if gpus else ""
    return " and ".join(part for part in (what, f"{cpus:g} CPUs" if cpus else "") if part) or "nothing"


def _spell_nodes(nodes: Sequence[NodeGroup]) -> str:
    kinds: dict[tuple[float, float], int] = {}
    for node in nodes:
        kinds[node.gpus, node.cpus] = kinds.get((node.gpus, node.cpus), 0) + node.count
    parts = [
        f"{count} node{'' if count == 1 else 's'} of {gpus:g} GPUs and {cpus:g} CPUs"
        for (gpus, cpus), count in kinds.items()
    ]
    return " + ".join(parts) or "a cluster without nodes"


def _or_grow(gpus: float) -> str:
    return (
        f". Give it more nodes, or smaller engines (quantization, a smaller model){'' if gpus else ' or num_cpus'}; if "
        "the cluster scales up by itself, describe the nodes that it may grow to under ray.nodes"
    )
