"""What an accepted answer of each system costs, and a point of win-rate.

A system (candidate set / selector) is charged with everything that was asked for its sake: sampling the set, its
evidence, and its selector's requests (in equal shares where the selector worked on several sets). A selector that takes
one candidate unseen is charged with one candidate: one prompt read, and a mean candidate's new tokens. The games are
the evaluation's cost and are charged to nobody. A point of win-rate costs what the system costs more than its opponent,
divided by its points above 50%; only where the interval lies above 50%,
also with the unreadable verdicts lost.

The run's bill is divided, so reading prompts counts; the report (:mod:`pipeline.report.costs`) compares
methods prompt by prompt, and leaves out what all of them share.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pipeline.config.config import Config
from pipeline.sampling.plans import PlanConfig
from pipeline.selection.base import TAKES_ONE
from pipeline.stats.choices import SelectorRow
from pipeline.stats.costs import Costs, StageCost, price_of, total_of


@dataclass
class SystemCost:
    """One system's cost.

    Attributes:
        prompts: that it had to answer.
        accepted: prompts to which it gave an answer of its own: neither none nor a fallback.
        tokens, money: per accepted answer; ``None`` without one, and money without a price.
        points: of win-rate above 50%, where that is certain.
        tokens_per_point, money_per_point: per prompt, more than the opponent's.
    """

    system: str
    prompts: int
    accepted: int
    tokens: float | None = None
    money: float | None = None
    points: float | None = None
    tokens_per_point: float | None = None
    money_per_point: float | None = None


def system_costs(
    config: Config, costs: Costs, choices: Sequence[SelectorRow], winrates: Sequence[Mapping[str, Any]] = ()
) -> list[SystemCost]:
    """Every configured system's cost, in the order of ``choices``.

    Args:
        costs: what the run has spent.
        choices: what the selectors chose.
        winrates: rows of the run's ``winrates`` table.
    """
    spent: dict[str, StageCost] = {}
    found: dict[str, SystemCost] = {}
    for row in choices:
        if row.method not in config.selectors or row.plan not in config.sets_of(row.method):
            continue
        total = spent[row.system] = _spent(config, costs, row.plan, row.method)
        prompts, accepted = row.n + row.missing, row.n - row.fallbacks.total()
        tokens = total.tokens / accepted if accepted > 0 else None
        money = total.money / accepted if accepted > 0 and total.money is not None else None
        found[row.system] = SystemCost(row.system, prompts, accepted, tokens, money)
    for rate in winrates:
        system, opponent = rate["system"], rate["opponent"]
        if rate["language"] == "all" and system in found and opponent in spent and _is_ahead(rate):
            found[system] = _with_points(found[system], rate, spent[system], spent[opponent])
    return list(found.values())


def _is_ahead(rate: Mapping[str, Any]) -> bool:
    """Whether the interval lies above 50%, also if all unreadable verdicts were lost."""
    asked = rate["n_prompts"] + rate["n_invalid"]
    return rate["ci_low"] is not None and rate["ci_low"] * rate["n_prompts"] / asked > 0.5


def _with_points(cost: SystemCost, rate: Mapping[str, Any], mine: StageCost, other: StageCost) -> SystemCost:
    points = 100 * (rate["win_rate"] - 0.5)
    each = points * cost.prompts
    known = mine.money is not None and other.money is not None
    money = ((mine.money or 0.0) - (other.money or 0.0)) / each if known else None
    return replace(cost, points=points, tokens_per_point=(mine.tokens - other.tokens) / each, money_per_point=money)


def _spent(config: Config, costs: Costs, name: str, method: str) -> StageCost:
    """All that one system has cost."""
    plans = {key: plan for key, plan in config.all_plans().items() if (plan.candidate_set or key) == name}
    selector = config.selectors[method]
    stages = {s.stage: s for s in costs.stages}
    sampled = [stages[f"generate:{key}"] for key in plans if f"generate:{key}" in stages]
    rounds = [f"score:{name}:", *(f"generate:{key}:" for key in plans)]  # of adaptive plans
    further = [s for s in costs.stages if s.stage.startswith(tuple(rounds))]
    if selector.kind in TAKES_ONE:
        sampled, further = [_one_candidate(config, stage, plans, costs.rows) for stage in sampled], []
    evidence = selector.evidence_plan()
    sampled += [stages[f"generate:{evidence}"]] if f"generate:{evidence}" in stages else []
    choosing = stages.get(f"select:{method}")
    shares = [_scaled(config, choosing, 1 / len(config.sets_of(method)))] if choosing else []
    return total_of([*sampled, *further, *shares])


def _one_candidate(config: Config, stage: StageCost, plans: Mapping[str, PlanConfig], rows: int) -> StageCost:
    """The share of one candidate in a stage that samples a set (or a part of one)."""
    candidates = sum(plan.n if plan.adaptive.by is None else plan.adaptive.first for plan in plans.values())
    reads = rows / stage.requests / len(plans) if stage.requests else 0.0
    return _scaled(config, stage, reads, 1 / candidates)


def _scaled(config: Config, stage: StageCost, prompt: float, completion: float | None = None) -> StageCost:
    share = replace(
        stage,
        requests=stage.requests * prompt,
        prompt_tokens=stage.prompt_tokens * prompt,
        cached_tokens=stage.cached_tokens * prompt,
        completion_tokens=stage.completion_tokens * (prompt if completion is None else completion),
    )
    return replace(share, money=price_of(config, share))
