"""``run``: the whole path, from prompts to the report. Finished passes are skipped, so it resumes by itself."""

from __future__ import annotations

from pipeline.commands import generate, judge, report, select, winrate
from pipeline.commands.context import session
from pipeline.commands.place import place_run
from pipeline.config import Config
from pipeline.prompts import read_prompts
from pipeline.storage import RunFolder


def run(config: Config) -> None:
    """Check everything that the jobs need, then run them on one cluster.

    Raises:
        ConfigError, InputError: before any model loads.
    """
    from pipeline.execution.cluster import cluster

    check(config)
    folder = RunFolder(config.out)
    with session(config, folder):
        read_prompts(config.prompts, folder)  # a bad input file shows before Ray starts
        with cluster(config.ray):
            place_run(config)  # no model loads when the cluster cannot hold a later one
            for job in (generate, select, judge, winrate, report):
                if job is judge and not config.judges():
                    continue
                if job is generate and not config.all_plans():
                    continue
                job.run(config)


def check(config: Config) -> None:
    """Raise ConfigError for anything that a later job would trip over, before the first one starts."""
    for name, plan in config.all_plans().items():
        config.engine(plan.engine, config.plan_key(name, "engine"), frozenset({"generate"}))
    if config.judges():
        judge.check(config)
    for name, engine in config.engines.items():
        engine.ready(f"engines.{name}")
