"""``generate``: prompts -> candidates."""

from __future__ import annotations

from pipeline.commands.chain import Step, chain
from pipeline.commands.context import job, run_passes
from pipeline.config import Config, to_dict
from pipeline.errors import ConfigError
from pipeline.policy import Policy
from pipeline.prompts import read_prompts
from pipeline.sampling.stage import GenerateStage


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
    policy = Policy(config.policy) if config.policy else None
    common = {"seed": config.seed, "tasks": to_dict(config.tasks), "policy": to_dict(config.policy)}
    with job("generate", config) as current:
        report = read_prompts(config.prompts, current.run)
        for line in report.lines():
            print(line)
        steps = []
        for name, plan in plans.items():
            settings = to_dict(plan)
            stage = GenerateStage(name, plan, config.seed, config.tasks, policy)
            fixed = {k: v for k, v in settings.items() if k != "n"}  # a larger n extends the set
            units = {stage.set_name: {"n": plan.n}}
            steps.append(Step(plan.engine, stage, {"plan": settings}, plan.n, settings={"plan": fixed}, units=units))
        run_passes(current, chain("generate", config, steps, "prompts", "candidates", common))
