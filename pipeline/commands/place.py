"""Says where a job's engines go, and refuses what the cluster cannot hold, before a model loads."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from pipeline.config import Config
from pipeline.engines.base import EngineConfig
from pipeline.placement import Place, plan, spell
from pipeline.storage import RunFolder

if TYPE_CHECKING:
    from pipeline.commands.context import Job
    from pipeline.execution.passes import PassSpec

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
    _announce(config, {n: config.engines[n] for n in names if n in config.engines}, "run")


def place_passes(current: Job, specs: Sequence[PassSpec]) -> list[PassSpec]:
    """The passes with their engines as the cluster can hold them: those larger than a node are spread over several.

    Raises:
        ConfigError: the cluster cannot hold an engine of a pass that is not finished.
    """
    config = current.config
    names = {id(engine): name for name, engine in config.engines.items()}
    waiting = {id(s.engine): s.engine for s in specs if s.engine and current.run.marker(s.writes) is None}
    engines = {names.get(key, engine.model): engine for key, engine in waiting.items()}
    places = {p.name: p for p in _announce(config, engines, current.name)}
    spread = {key: e.spread() for key, e in waiting.items() if places[names.get(key, e.model)].spread}
    return [replace(s, engine=spread.get(id(s.engine), s.engine)) for s in specs]


def _announce(config: Config, engines: dict[str, EngineConfig], job: str) -> list[Place]:
    from pipeline.execution.placing import nodes_up

    places = plan(engines, config.ray.nodes or nodes_up())
    if places:
        print(f"placement ({job}): {spell(places)}", flush=True)
    for place in places:
        if place.advice:
            logger.warning(place.advice)
    return places
