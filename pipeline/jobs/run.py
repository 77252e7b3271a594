"""``run``: the whole path, from prompts to the report. What is there is not made again, so it resumes by itself."""

from __future__ import annotations

import logging

from pipeline.config.config import Config
from pipeline.core.errors import ConfigError, NothingToCompare
from pipeline.core.folder import RunFolder
from pipeline.core.layers import made_by, read_layers
from pipeline.core.safety import say
from pipeline.execution.schedule import Step
from pipeline.jobs import adaptive, estimate, generate, judge, report, select, spending, winrate
from pipeline.jobs.job import job, session
from pipeline.jobs.steps import run_steps
from pipeline.prompts.sources import read_prompts

logger = logging.getLogger(__name__)


def run(config: Config) -> None:
    """Check everything that the jobs need, then run them on one cluster.

    Raises:
        ConfigError, InputError: before any model loads.
    """
    from pipeline.execution.cluster import cluster

    check(config)
    folder = RunFolder(config.out)
    with session(config, folder):
        read = read_prompts(config.prompts, folder)  # a bad input file shows before Ray starts
        say(*read.lines())
        for line in generate.task_warnings(config, read) if config.all_plans() else ():
            logger.warning("%s", line)
        with cluster(config.ray):
            if config.execution.pilot:
                spending.print_costs(estimate.estimate(config), None)
            make(config)
            try:
                winrate.run(config)
            except NothingToCompare as nothing:  # no failure: the answers were all that was asked for
                say(f"no results are computed: {nothing}")
            spending.report_costs(config)
            report.run(config)


def make(config: Config) -> None:
    """Make everything that has passes, planned once: neighbours on one engine share a pass, whatever their jobs."""
    for line in judge.independence(config) if config.judges() else ():
        logger.warning("%s", line)
    try:
        with job("run", config) as current:
            run_steps(current, steps(config, current.run), "prompts")
            adaptive.report_account(current)
    finally:
        select.print_choices(RunFolder(config.out))  # a finished table shows which selectors fell back


def steps(config: Config, run: RunFolder) -> list[Step]:
    """The steps of all jobs with passes."""
    found = generate.steps(config)
    made = made_by(layer for layer in read_layers(run) if layer.table == "candidates")
    for step in found:
        made.add(step.made())
    found += select.steps(config, made)
    return found + (judge.steps(config, run, made) if config.judges() else [])


def check(config: Config) -> None:
    """Raise ConfigError for anything that a later job would trip over, before the first one starts."""
    if not config.selectors:
        raise ConfigError("selectors: none is configured; e.g. selectors.mbr.kind=mbr")
    for name, plan in config.all_plans().items():
        config.engine(plan.engine, config.plan_key(name, "engine"), frozenset({"generate"}))
    if config.judges():
        judge.check(config)
    for name, engine in config.engines.items():
        engine.ready(f"engines.{name}")
