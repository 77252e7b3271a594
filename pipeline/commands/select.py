"""``select``: candidates -> scores and selections."""

from __future__ import annotations

from pipeline.commands.chain import Step, chain
from pipeline.commands.context import job, run_passes
from pipeline.config import Config, to_dict
from pipeline.errors import ConfigError
from pipeline.selection.stage import SelectStage


def run(config: Config) -> None:
    """Run every configured selector on every plan's candidates.

    Raises:
        ConfigError: no selector is configured.
        UnfinishedTableError: ``generate`` has not finished.
    """
    if not config.selectors:
        raise ConfigError("selectors: none is configured; e.g. selectors.mbr.kind=mbr")
    with job("select", config) as current:
        steps = []
        for name, chosen in config.selectors.items():
            plans = tuple(chosen.plans or config.all_plans())
            settings = to_dict(chosen) | {"plans": list(plans), "templates": chosen.templates()}
            steps.append(Step(chosen.engine, SelectStage(name, chosen, plans, config.seed), settings, 4))
        specs = chain("select", config, steps, "candidates", "selections", {"seed": config.seed})
        run_passes(current, specs)
