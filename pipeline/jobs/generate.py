"""``generate``: prompts -> candidates."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipeline.config.config import Config, to_dict
from pipeline.core.errors import ConfigError
from pipeline.core.folder import RunFolder
from pipeline.core.policy import Policy
from pipeline.core.safety import say
from pipeline.jobs import adaptive
from pipeline.jobs.job import Plan, job, run_passes
from pipeline.jobs.steps import Step, chain
from pipeline.prompts.sources import read_prompts
from pipeline.sampling.stage import GenerateStage
from pipeline.tasks import task_named

if TYPE_CHECKING:
    from pipeline.execution.spec import PassSpec

logger = logging.getLogger(__name__)


def run(config: Config, later: Sequence[Plan] = ()) -> None:
    """Read the prompts (once) and sample every plan's candidates.

    Args:
        later: passes of the jobs after this one, which may share its last pass.

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
        for line in task_warnings(config, current.run):
            logger.warning("%s", line)
        run_passes(current, passes(config), later)
        adaptive.report_account(current)


def task_warnings(config: Config, run: RunFolder) -> list[str]:
    """What the tasks have to say about the languages of a run's prompts."""
    rows: Counter[tuple[str, str | None]] = Counter()
    for batch in run.dataset("prompts").to_batches(columns=["task", "language"]):
        rows.update(zip(batch.column("task").to_pylist(), batch.column("language").to_pylist(), strict=True))
    found = []
    for (name, language), count in sorted(rows.items(), key=str):
        said = task_named(name or "open", config.tasks).warning(language)
        if said:
            found.append(f"{count:,} {name} prompts in {language or 'no known language'}: {said}")
    return found


def passes(config: Config) -> list[PassSpec]:
    """The job's passes: one a generator."""
    policy = Policy(config.policy) if config.policy else None
    common = {"seed": config.seed, "tasks": to_dict(config.tasks), "policy": to_dict(config.policy)}
    steps: list[Step] = []
    for name, plan in config.all_plans().items():
        settings = adaptive.plan_settings(plan)
        stage = GenerateStage(name, plan, config.seed, config.tasks, policy)
        if plan.adaptive.by is not None:
            steps += adaptive.steps(config, stage)
            continue
        fixed = {k: v for k, v in settings.items() if k != "n"}  # a larger n extends the set
        units = {stage.set_name: {"n": plan.n}}
        steps.append(Step(plan.engine, stage, {"plan": settings}, plan.n, settings={"plan": fixed}, units=units))
    return chain("generate", config, steps, "prompts", "candidates", common)
