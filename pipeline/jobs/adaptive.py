"""The steps of a plan with adaptive N, and the account of what it has spent."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from pipeline.config.config import Config, to_dict
from pipeline.core.columns import Ints
from pipeline.core.folder import RunFolder
from pipeline.core.reading import Table as Rows
from pipeline.core.safety import say
from pipeline.core.units import Made
from pipeline.execution.schedule import Step
from pipeline.jobs.job import Job, console, update_manifest
from pipeline.judging.verdicts import FirstVerdicts
from pipeline.sampling.plans import PlanConfig
from pipeline.sampling.stage import GenerateStage
from pipeline.selection.base import Selector

logger = logging.getLogger("lemonpress")

if TYPE_CHECKING:
    from pipeline.sampling.adaptive.accounts import LanguageAccount
    from pipeline.sampling.plans import Adaptive


BY_REFERENCE = (
    "its number of candidates was decided by the oracle, which knows the references: every number of this set depends "
    "on what nobody knows when a system is used"
)


def plan_settings(plan: PlanConfig) -> dict[str, Any]:
    """What a plan's candidates depend on; nothing about rounds where there are none."""
    settings: dict[str, Any] = to_dict(plan)
    del settings["apart"]
    if plan.adaptive.by is None:
        del settings["adaptive"]
    return settings


def steps(config: Config, base: GenerateStage, common: Mapping[str, Any]) -> Iterator[Step]:
    """The rounds of one plan: draw, score, draw what was decided ..., each a layer of its own.

    A finished set is not extended, so everything belongs to the settings.
    """
    from pipeline.sampling.adaptive.stages import ExtendStage, ScoreStage

    plan, name, set_name = base.config, base.plan, base.set_name
    by = str(plan.adaptive.by)
    selector, numbers = config.selectors[by], _numbers(config, by)
    settings = {**common, "plan": plan_settings(plan), "scored": numbers["scored"]}
    units: Mapping[str, Any] = {set_name: {"rounds": plan.adaptive.rounds}}
    first = replace(base, config=replace(plan, n=plan.adaptive.first))
    further = max(1, round((plan.n - plan.adaptive.first) / plan.adaptive.rounds))
    place = ("generate", "candidates")
    yield Step(*place, plan.engine, first, settings, units, plan.adaptive.first)
    before = first.name
    for number in range(2, plan.adaptive.rounds + 1):
        early = FirstVerdicts(config.judge.max_invalid, f"engines.{selector.engine}")
        score = ScoreStage(name, set_name, number - 1, by, selector, config.seed, config.tasks, early)
        scoring = {**settings, "by": numbers["by"]}
        more: dict[str, Any] = {"after": frozenset({before}), "phase": 2 * number - 3}
        yield Step(*place, selector.engine, score, scoring, units, plan.adaptive.first, **more)
        extend = ExtendStage(base, number)
        more = {"after": frozenset({score.name}), "phase": 2 * number - 2}
        more["decide"] = _decide(config, base, number, selector, extend)
        yield Step(*place, plan.engine, extend, scoring, units, further, **more)
        before = extend.name


def _numbers(config: Config, name: str) -> dict[str, Any]:
    """What a selector's numbers depend on: its settings, and its engine."""
    selector = config.selectors[name]
    scored = {k: v for k, v in to_dict(selector).items() if k != "plans"} | {"templates": selector.templates()}
    return {"scored": scored, "by": config.engines[selector.engine].identity() if selector.engine else None}


def numbers_hold(config: Config, name: str, made: Made, set_name: str) -> bool:
    """Whether what a selector said of a set between two rounds, if it did, is what it would say now.

    Args:
        made: what the finished table holds; nothing while it is not finished: then this config is what it is made by.
    """
    now = json.loads(json.dumps(_numbers(config, name)))
    found = (units[set_name].settings for units in made.units.values() if set_name in units)
    return all({key: old[key] for key in now} == now for old in found if now.keys() <= old.keys())


def _decide(config: Config, base: GenerateStage, number: int, by: Selector, stage: Any) -> Any:
    """What makes the stage of one round when the round before is finished."""

    def decide(before: Rows, layer: str, ids: Ints) -> Any:
        from pipeline.sampling.adaptive.rounds import Round, decided

        plan = base.config
        this = Round(base.plan, base.set_name, plan.adaptive, plan.n, by.kind, number, by.highest())
        return replace(stage, more=decided(RunFolder(config.out), before, this, layer, ids))

    return decide


def _by_language(name: str, languages: Mapping[str, LanguageAccount], settings: Adaptive) -> Any:
    from rich.table import Table

    dealt = "within each language" if settings.fair else "by gain per token, whatever the language"
    table = Table(title=f"{name}: dealt out {dealt}", title_justify="left")
    for column in ("language", "prompts", "candidates", "a prompt", "tokens", "expected gain a prompt"):
        table.add_column(column, justify="left" if column == "language" else "right")
    for language, its in languages.items():
        means = (its.candidates / max(its.prompts, 1), its.gain / max(its.prompts, 1))
        numbers = (f"{its.prompts:,}", f"{its.candidates:,}", f"{means[0]:.1f}", f"{its.tokens:,}", f"{means[1]:.3g}")
        table.add_row(language or "-", *numbers)
    return table


def report_account(current: Job) -> None:
    """Print what every adaptive plan has drawn and spent, and keep it in the manifest."""
    plans = {name: plan for name, plan in current.config.all_plans().items() if plan.adaptive.by is not None}
    if not plans or current.run.marker("candidates") is None:
        return
    from rich.table import Table

    from pipeline.sampling.adaptive.accounts import account

    for name, plan in plans.items():
        found = account(current.run, name, plan.candidate_set or name, plan.adaptive)
        table = Table(title=f"{name}: drawn in rounds, by {plan.adaptive.by}", title_justify="left")
        for column in ("round", "prompts", "candidates", "tokens", "expected"):
            table.add_column(column, justify="right")
        for number, one in enumerate(found.rounds, 1):
            expected = "-" if one.expected is None else f"{one.expected:,.0f}"
            table.add_row(str(number), f"{one.prompts:,}", f"{one.candidates:,}", f"{one.tokens:,}", expected)
        console(table)
        if len(found.languages) > 1:
            console(_by_language(name, found.languages, plan.adaptive))
        sizes = found.sizes
        prompts, candidates = sum(sizes.values()), sum(size * number for size, number in sizes.items())
        say(
            f"{found.spent:,} of {found.budget:,.0f} tokens spent; {min(sizes, default=0)} to {max(sizes, default=0)} "
            f"candidates a prompt, {candidates / max(prompts, 1):.1f} on average"
            + (f"; {found.lost:,} tokens went into rows that failed half-way" if found.lost else "")
            + ("" if found.adds_up else "; the rounds and the candidates DO NOT ADD UP: please report this")
        )
        if current.config.selectors[str(plan.adaptive.by)].kind == "oracle":
            logger.warning("%s: %s", name, BY_REFERENCE)
        kept = {**asdict(found), "spent": found.spent, "adds_up": found.adds_up}
        update_manifest(current.run, {"adaptive": {name: kept}})
