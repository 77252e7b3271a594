"""``generate``: prompts -> candidates."""

from __future__ import annotations

import logging

from pipeline.config.config import Config, to_dict
from pipeline.core.errors import ConfigError
from pipeline.core.policy import Policy
from pipeline.core.safety import say
from pipeline.execution.schedule import Step
from pipeline.jobs import adaptive
from pipeline.jobs.job import job
from pipeline.jobs.steps import run_steps
from pipeline.prompts.report import ReadReport
from pipeline.prompts.sources import read_prompts
from pipeline.sampling.stage import GenerateStage
from pipeline.tasks import task_named

logger = logging.getLogger(__name__)


def run(config: Config) -> None:
    """Read the prompts (once) and sample every plan's candidates.

    Raises:
        ConfigError, InputError: before any model loads.
        LemonpressError: a pass failed.
    """
    plans = config.all_plans()
    if not plans:
        raise ConfigError("sampling: no sampling plan is configured; e.g. sampling.kind=hedged")
    for name, plan in plans.items():
        config.engine(plan.engine, config.plan_key(name, "engine"), frozenset({"generate"}))
    with job("generate", config) as current:
        report = read_prompts(config.prompts, current.run)
        say(*report.lines())
        for line in task_warnings(config, report):
            logger.warning("%s", line)
        run_steps(current, steps(config), "prompts")
        adaptive.report_account(current)


def task_warnings(config: Config, report: ReadReport) -> list[str]:
    """What the tasks have to say about the languages of the prompts."""
    found = []
    for name, rows in report.tasks.items():
        for language, count in rows.items():
            known = None if language == "und" else language
            said = task_named(name, config.tasks).warning(known)
            if said:
                found.append(f"{count:,} {name} prompts in {known or 'no known language'}: {said}")
    return found


def steps(config: Config) -> list[Step]:
    """The job's steps: one a plan; one that draws in rounds has several."""
    policy = Policy(config.policy) if config.policy else None
    common = {"seed": config.seed, "tasks": to_dict(config.tasks), "policy": to_dict(config.policy)}
    found: list[Step] = []
    for name, plan in config.all_plans().items():
        settings = adaptive.plan_settings(plan)
        stage = GenerateStage(name, plan, config.seed, config.tasks, policy)
        fixed = {**common, "engine": config.engines[plan.engine].identity()}
        if plan.adaptive.by is not None:
            found += adaptive.steps(config, stage, fixed)
            continue
        fixed["plan"] = {k: v for k, v in settings.items() if k != "n"}  # a larger n extends the set
        units = {stage.set_name: {"n": plan.n}}
        found.append(Step("generate", "candidates", plan.engine, stage, fixed, units, plan.n))
    return found
