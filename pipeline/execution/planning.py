"""Says where a job's engines go, and refuses what the cluster cannot hold, before a model loads."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from pipeline.config.config import Config
from pipeline.config.sections import NodeGroup
from pipeline.core.safety import say
from pipeline.engines.base import EngineConfig
from pipeline.execution.placement import Place, fit_at_once, plan, spell
from pipeline.execution.schedule import Planned

logger = logging.getLogger(__name__)

Group = list[Planned]
"""The layers of one pass."""


def place_passes(config: Config, groups: Sequence[Group], job: str) -> list[list[Group]]:
    """Put the engines where the cluster can hold them; returns the passes, those side by side together.

    Engines larger than a node are spread over several, and pools grow no further than there is room. With
    ``execution.side_by_side``, neighbours work at the same time where the cluster holds their pools at once.

    Raises:
        ConfigError: the cluster cannot hold an engine.
    """
    specs = [one.spec for group in groups for one in group]
    waiting = {spec.engine_name: spec.engine for spec in specs if spec.engine is not None}
    if not waiting:  # then there may be no cluster to ask
        return [[group] for group in groups]
    nodes = _nodes(config)
    places = plan(waiting, nodes)
    placed = {place.name: _as_placed(waiting[place.name], place) for place in places}
    for spec in specs:
        spec.engine = placed.get(spec.engine_name)
    found: list[list[Group]] = []
    for group in groups:
        if found and config.execution.side_by_side and _fit([*found[-1], group], nodes):
            found[-1].append(group)
        else:
            found.append([group])
    beside = [one.spec.engine_name for side in found for group in side[1:] for one in group if one.spec.engine_name]
    say(f"placement ({job}): {spell(places, beside)}", flush=True)
    for place in places:
        if place.advice:
            logger.warning(place.advice)
    return found


def _fit(groups: Sequence[Group], nodes: Sequence[NodeGroup]) -> bool:
    """Whether passes can work at the same time: no layer waits for all rows, and there is room for the pools."""
    engines = [next((one.spec.engine for one in group if one.spec.engine), None) for group in groups]
    waits = any(one.waits for group in groups for one in group)
    return not waits and all(engines) and fit_at_once([engine for engine in engines if engine], nodes)


def _as_placed(engine: EngineConfig, place: Place) -> EngineConfig:
    if place.limit is not None:
        engine = replace(engine, pool=replace(engine.pool, max_size=place.limit))
    return engine.spread() if place.spread else engine


def _nodes(config: Config) -> Sequence[NodeGroup]:
    from pipeline.execution.pool import nodes_up

    return config.ray.nodes or nodes_up()
