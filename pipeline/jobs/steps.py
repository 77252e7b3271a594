"""What jobs have in common: from steps to finished tables, and the steps that measure."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.config.config import Config
from pipeline.core.columns import Ints
from pipeline.core.errors import ResumeError
from pipeline.core.folder import RunFolder
from pipeline.core.layers import TABLES, made_by, read_layers
from pipeline.core.safety import say
from pipeline.core.units import Made
from pipeline.execution.schedule import Plan, Planned, Step
from pipeline.jobs.job import Job, stored_config
from pipeline.tasks.measure import MeasureStage, QualityStage

logger = logging.getLogger(__name__)

RETRY = ("work", "retry.parquet")
"""The rows of a retry that has begun: it goes on with these, and nothing else before it has ended."""


@dataclass(frozen=True)
class Retried:
    """What a retry does again.

    Attributes:
        rows: job -> ``row_id`` of its rows, ascending; a later job's hold those of the jobs before.
        base: the first number of its layers.
    """

    rows: Mapping[str, Ints]
    base: int


def run_steps(current: Job, steps: Sequence[Step], reads: str, retried: Retried | None = None) -> None:
    """Make what the run lacks of some steps, pass by pass, and finish their tables.

    Args:
        steps: in an order in which they could run.
        reads: the table whose rows they are for.
        retried: what is done again; nothing else is.

    Raises:
        ResumeError: the config would mix with what the folder holds, which stays the folder's.
        ConfigError: the cluster cannot hold an engine, or an engine is not ready.
        LemonpressError: a pass failed.
    """
    from pipeline.execution.cluster import cluster, ship_modules
    from pipeline.execution.passes import run_passes
    from pipeline.execution.planning import place_passes
    from pipeline.execution.summary import finish_table

    config, run = current.config, current.run
    if retried is None and run.exists(*RETRY):
        raise ResumeError(f"{run.name}: a retry is half done; finish it first: lemonpress retry {run.name}")
    run.dataset(reads)  # finished, and as it was left
    sizes = list((run.marker(reads) or {})["sizes"])
    ship_modules(config.modules)
    plan = Plan(run, steps, config.engines, sizes, config.resume == "anew")
    if retried is not None:
        if half := [one.spec.place for one in plan.layers if one.spec.shards]:
            raise ResumeError(f"{run.name}: {', '.join(half)} is half done; finish it first, it resumes")
        plan.again(retried.rows, retried.base)
    groups = list(plan.passes())
    for name in dict.fromkeys(one.spec.engine_name for group in groups for one in group if one.spec.engine_name):
        config.engines[name].ready(f"engines.{name}")
    tables = [table for table in TABLES if any(step.table == table for step in steps)]
    engines = {one.spec.layer.name: one.spec.engine_name for one in plan.layers}

    def finish() -> None:
        while tables and plan.is_complete(tables[0]):
            current.passes += finish_table(run, tables.pop(0), sizes, engines)

    if not groups:
        finish()
        return
    with stored_config(current), cluster(config.ray):
        _announce(plan, groups)
        for side in place_passes(config, groups, current.name):
            for one in (each for group in side for each in group):
                _decide(one, plan)
            specs = [plan.spec_of(group) for group in side]
            for spec in specs:
                logger.info("pass %s", spec.name, extra={"fields": {"pass": spec.name}})
            run_passes(specs, run, config.execution, current.control)
            for group in side:
                plan.finish(group)
            finish()
    for summary in current.passes:
        logger.info("layer %s", summary.name, extra={"fields": {"pass": summary.name, **asdict(summary)}})


def _decide(planned: Planned, plan: Plan) -> None:
    """Make the stages that are decided over all rows, now that these are there."""
    layer = planned.spec.layer
    for i, step in enumerate(planned.steps):
        if step.decide is not None:
            ids = planned.spec.rows if planned.spec.rows is not None else plan.rows_of(planned.spec.shards)
            planned.spec.stages[i] = step.decide(plan.table(layer.number), layer.name, ids)


def _announce(plan: Plan, groups: Sequence[Sequence[Planned]]) -> None:
    """Say what will be done, before anything loads."""
    every = sum(plan.sizes)
    for i, group in enumerate(groups, 1):
        engine = next((one.spec.engine_name for one in group if one.spec.engine_name), "") or "no engine"
        spec = plan.spec_of(group)
        todo = spec.rows_of(spec.shards)
        done = f", {every - todo:,} are there" if 0 < todo < every and spec.specs[0].rows is None else ""
        say(f"pass {i} of {len(groups)}: {spec.name} ({engine}): {todo:,} rows{done}", flush=True)


def made_so_far(run: RunFolder, table: str) -> Made:
    """What a finished table, and those before it, hold."""
    names = {laid.name for laid in run.layers(table)}
    return made_by(layer for layer in read_layers(run) if layer.name in names)


def measure_steps(
    config: Config, job: str, table: str, made: Made, after: frozenset[str], settings: Mapping[str, Any] | None = None
) -> Iterator[Step]:
    """The steps that measure every text that has no number yet: by its task, then by the metrics of engines.

    Args:
        made: whose texts there will be.
        after: the stages that make them.
        settings: that the numbers depend on.
    """
    texts = made.texts()
    last: dict[str, Any] = {"after": after, "phase": 1}
    yield Step(job, table, None, MeasureStage(config.tasks), dict(settings or {}), {job: texts}, **last)
    for name, metric in config.metrics.items():
        stage = QualityStage(name, tuple(metric.tasks), job)
        requests = sum(plan.n for plan in config.all_plans().values()) or 4
        own = {"tasks": metric.tasks, "engine": config.engines[metric.engine].identity()}
        yield Step(job, table, metric.engine, stage, own, {job: texts}, requests, **last)
