"""``generate``: prompts -> candidates."""

from __future__ import annotations

from pipeline.commands.chain import Step, chain
from pipeline.commands.context import job, run_passes
from pipeline.config import Config, to_dict
from pipeline.prompts import read_prompts
from pipeline.sampling.stage import GenerateStage


def run(config: Config) -> None:
    """Read the prompts (once) and sample every plan's candidates.

    Raises:
        ConfigError, InputError: before any model loads.
        LemonpressError: a pass failed.
    """
    plans = config.all_plans()
    for name, plan in plans.items():
        key = "sampling.engine" if name == config.sampling.kind else f"plans.{name}.engine"
        config.engine(plan.engine, key, frozenset({"generate"}))
    with job("generate", config) as current:
        report = read_prompts(config.prompts, current.run)
        for line in report.lines():
            print(line)
        steps = [
            Step(plan.engine, GenerateStage(name, plan, config.seed), {"plan": to_dict(plan)}, plan.n)
            for name, plan in plans.items()
        ]
        specs = chain("generate", config, steps, "prompts", "candidates", {"seed": config.seed})
        run_passes(current, specs)
