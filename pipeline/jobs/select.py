"""``select``: candidates -> scores and selections."""

from __future__ import annotations

import logging
from typing import Any

from pipeline.config.config import Config, to_dict
from pipeline.core.errors import ConfigError
from pipeline.core.folder import RunFolder
from pipeline.core.policy import Policy
from pipeline.core.safety import say
from pipeline.core.units import Made
from pipeline.engines.base import spell_needs
from pipeline.execution.schedule import Step
from pipeline.jobs.adaptive import numbers_hold
from pipeline.jobs.job import console, job
from pipeline.jobs.steps import made_so_far, measure_steps, run_steps
from pipeline.judging.verdicts import FirstVerdicts
from pipeline.prompts.sources import read_prompts
from pipeline.selection.base import SELECTORS
from pipeline.selection.policy_stage import PolicyStage
from pipeline.selection.stage import SelectStage
from pipeline.stats.counts import count_choices

logger = logging.getLogger(__name__)


def run(config: Config) -> None:
    """Run every configured selector on every candidate set, and show what they chose.

    Candidates that the prompts brought are selected from directly when nothing is sampled.

    Raises:
        ConfigError: no selector is configured.
        UnfinishedTableError: ``generate`` has not finished.
    """
    if not config.selectors:
        raise ConfigError("selectors: none is configured; e.g. selectors.mbr.kind=mbr")
    try:
        with job("select", config) as current:
            if not config.all_plans():
                for line in read_prompts(config.prompts, current.run).lines():
                    say(line)
            reads = "candidates" if config.all_plans() else "prompts"
            run_steps(current, steps(config, made_so_far(current.run, reads)), reads)
    finally:
        print_choices(RunFolder(config.out))  # a finished table shows which selectors fell back


def steps(config: Config, made: Made) -> list[Step]:
    """The job's steps: one a selector, the policy's answer, and what measures them all.

    Args:
        made: the candidate sets that there will be; the selections are added.
    """
    policy = Policy(config.policy) if config.policy else None
    bars = (config.selection.bar_truncated, config.selection.bar_wrong_language)
    common = {"seed": config.seed, "tasks": to_dict(config.tasks), "policy": to_dict(config.policy), "bars": bars}
    only = config.only_languages()
    drawn = frozenset(stage for stage in made.units if stage.startswith(("generate:", "score:")))
    found: list[Step] = []
    for name, chosen in config.selectors.items():
        plans = tuple(config.sets_of(name))
        fixed = {k: v for k, v in to_dict(chosen).items() if k != "plans"} | {"templates": chosen.templates()}
        fixed |= {**common, "engine": config.engines[chosen.engine].identity() if chosen.engine else None}
        units = {p: made.ids(p, *filter(None, [chosen.evidence_plan()])) for p in plans}
        known = frozenset(p for p in plans if numbers_hold(config, name, made, p))
        early = FirstVerdicts(config.judge.max_invalid, f"engines.{chosen.engine}")
        stage = SelectStage(name, chosen, plans, config.seed, config.tasks, policy, only, *bars, known, early)
        found.append(Step("select", "selections", chosen.engine, stage, fixed, units, 4, drawn))
    chosen_stages = frozenset(step.stage.name for step in found)
    for step in found:
        made.add(step.made())
    if policy is not None:
        units = {"": made.ids(*(f"{p}/{name}" for name in config.selectors for p in config.sets_of(name)))}
        more: dict[str, Any] = {"after": chosen_stages, "phase": 1}
        found.append(Step("select", "selections", None, PolicyStage(policy), common, units, **more))
        made.add(found[-1].made())
    after = drawn | chosen_stages | {step.stage.name for step in found}
    return [*found, *measure_steps(config, "select", "selections", made, after, common)]


def print_choices(run: RunFolder) -> None:
    """The table of what each selector chose; nothing while no selections are finished."""
    from rich.table import Table

    if run.marker("selections") is None:
        return
    table = Table(title="choices", title_justify="left")
    table.add_column("candidate set")
    table.add_column("method")
    rows = count_choices(run)
    has_parts = any(row.evidence is not None or row.without for row in rows)
    names = ["answers", "greedy", "verdicts", "unreadable", "failed requests", "fallbacks", "bars lifted"]
    for name in [*names, *(("|Z|", "without a part") if has_parts else ())]:
        table.add_column(name, justify="right")
    for row in rows:
        greedy = row.share(row.greedy)
        numbers = (row.invalid, row.failed, row.fallbacks, row.lifted)
        evidence = row.share(row.evidence)
        table.add_row(
            row.plan,
            row.method,
            f"{row.n:,}",
            "-" if greedy is None else f"{greedy:.0%}",
            "-" if row.verdicts is None else f"{row.verdicts:,}",
            *(f"{n:,}" for n in numbers),
            *(("-" if evidence is None else f"{evidence:.1f}", f"{row.without:,}") if has_parts else ()),
        )
    console(table)
    for row in rows:
        if row.incomplete:
            logger.warning(
                "%s: %s, on every prompt: it is another method than its name says", row.system, row.incomplete
            )


def show() -> None:
    """Print every selector with its cost in engine calls, what it needs and where it comes from."""
    from rich.table import Table

    table = Table(title="selectors (N candidates, M pieces of evidence)", title_justify="left")
    for column in ("kind", "calls per prompt", "needs", "source", "what it is"):
        table.add_column(column, overflow="fold")
    for kind, cls in SELECTORS.items():
        what = (cls.__doc__ or "").strip().split("\n\n")[0].replace("\n", " ")
        needs = spell_needs(cls.needs) or "-"
        table.add_row(kind, cls.cost, needs, cls.source, " ".join(what.split()))
    console(table)
