"""Says where a job's engines go, and refuses what the cluster cannot hold, before a model loads."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from pipeline.config.config import Config
from pipeline.config.sections import NodeGroup
from pipeline.core.folder import RunFolder
from pipeline.core.safety import say
from pipeline.engines.base import EngineConfig
from pipeline.execution.placement import Place, fit_at_once, plan, spell

if TYPE_CHECKING:
    from pipeline.execution.spec import PassSpec

logger = logging.getLogger(__name__)


def place_run(config: Config) -> None:
    """Print the plan of all jobs of a run that have still to work; call it on the joined cluster.

    Raises:
        ConfigError: the cluster cannot hold an engine.
    """
    run = RunFolder(config.out)
    names: list[str | None] = []
    if run.marker("candidates") is None:
        names += [p.engine for p in config.all_plans().values()]
    if run.marker("selections") is None:
        names += [s.engine for s in config.selectors.values()]
    if run.marker("games") is None:
        names += [*(a.engine for a in config.answers.values()), config.judge.engine]
    _announce(plan({n: config.engines[n] for n in names if n in config.engines}, _nodes(config)), "run")


def place_passes(config: Config, run: RunFolder, job: str, specs: Sequence[PassSpec]) -> list[PassSpec]:
    """The passes with their engines as the cluster can hold them.

    Engines larger than a node are spread over several, and pools grow no further than there is room beside reading and
    writing. With ``execution.side_by_side``, neighbours become one pass where the cluster holds their pools at once.

    Raises:
        ConfigError: the cluster cannot hold an engine of a pass that is not finished.
    """
    names = {id(engine): name for name, engine in config.engines.items()}
    waiting = {
        names.get(id(s.engine), s.name): s.engine
        for s in specs
        if s.engine is not None and not s.skip and (s.extends or run.marker(s.writes) is None)
    }
    if not waiting:  # then there may be no cluster to ask
        return list(specs)
    nodes = _nodes(config)
    places = {p.name: p for p in plan(waiting, nodes)}
    placed = {id(engine): _as_placed(engine, places[name]) for name, engine in waiting.items()}
    found = [replace(s, engine=placed.get(id(s.engine), s.engine), wanted=s.engine) for s in specs]
    if config.execution.side_by_side:
        from pipeline.execution.beside import side_by_side

        found = side_by_side(found, run, lambda some: fit_at_once([s.engine for s in some if s.engine], nodes))
    later = [each.engine for spec in found for each in spec.pools[1:]]
    beside = [name for name, engine in waiting.items() if any(placed[id(engine)] is each for each in later)]
    _announce(list(places.values()), job, beside)
    return found


def _as_placed(engine: EngineConfig, place: Place) -> EngineConfig:
    if place.limit is not None:
        engine = replace(engine, pool=replace(engine.pool, max_size=place.limit))
    return engine.spread() if place.spread else engine


def _nodes(config: Config) -> Sequence[NodeGroup]:
    from pipeline.execution.placing import nodes_up

    return config.ray.nodes or nodes_up()


def _announce(places: Sequence[Place], job: str, beside: Sequence[str] = ()) -> None:
    if places:
        say(f"placement ({job}): {spell(places, beside)}", flush=True)
    for place in places:
        if place.advice:
            logger.warning(place.advice)
