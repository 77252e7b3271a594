"""``run``: the whole path, from prompts to the report. Finished passes are skipped, so it resumes by itself."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

from pipeline.config.config import Config
from pipeline.core.errors import NothingToCompare
from pipeline.core.folder import RunFolder
from pipeline.core.safety import say
from pipeline.execution.planning import place_run
from pipeline.jobs import estimate, generate, judge, report, select, spending, winrate
from pipeline.jobs.job import session
from pipeline.prompts.sources import read_prompts


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
            if config.execution.pilot:
                spending.print_costs(estimate.estimate(config), None)
            run_jobs(config, jobs(config))
            try:
                winrate.run(config)
            except NothingToCompare as nothing:  # no failure: the answers were all that was asked for
                say(f"no results are computed: {nothing}")
            spending.report_costs(config)
            report.run(config)


def run_jobs(config: Config, todo: Sequence[ModuleType]) -> None:
    """Run jobs with passes in order; neighbours on one engine share a pass."""
    for i, job in enumerate(todo):
        later = [_PLANS[each] for each in todo[i + 1 :]] if config.execution.share_passes else []
        job.run(config, *([later] if later else []))


_PLANS = {generate: generate.passes, select: select.passes, judge: judge.early_passes}


def jobs(config: Config) -> list[ModuleType]:
    """The jobs with passes, in order."""
    idle = [judge] if not config.judges() else []
    idle += [generate] if not config.all_plans() else []
    return [job for job in (generate, select, judge) if job not in idle]


def check(config: Config) -> None:
    """Raise ConfigError for anything that a later job would trip over, before the first one starts."""
    for name, plan in config.all_plans().items():
        config.engine(plan.engine, config.plan_key(name, "engine"), frozenset({"generate"}))
    if config.judges():
        judge.check(config)
    for name, engine in config.engines.items():
        engine.ready(f"engines.{name}")
