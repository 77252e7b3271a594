"""What every system's answer costs, attributed prompt by prompt, and what a point of gain costs.

The attribution, which the page repeats in words (``HOW``): a system is charged with the new tokens of the candidates
that its selector looks at (a selector that takes one candidate unseen, with that one's only), with its evidence, and
with all requests of its selector. Reading the prompts for generation is shared by all systems, and judging the games is
the evaluation's cost: neither is charged.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import replace

import pyarrow as pa

from pipeline.config.config import Config
from pipeline.core.columns import nested
from pipeline.report.headline import failed_audit
from pipeline.report.model import Report, SystemCost
from pipeline.report.standings import role
from pipeline.selection.base import SELECTABLE, TAKES_ONE

HOW = (
    "Generated: new tokens of the candidates that the system’s selector looks at; a system that takes one candidate "
    "unseen (sample, greedy, random) is charged with that one only. Selecting: tokens that its selector’s requests to "
    "a reward model or judge read and wrote; a selector that worked on several candidate sets of a prompt is "
    "charged an equal share for each; with what was scored between the rounds of an adaptive plan. Reading the "
    "prompts for generation is shared by all systems and not charged, nor is judging the games: that is the cost of "
    "the evaluation. Per point: what the system costs more than what it is compared with, divided by the points "
    "gained; only where a gain is certain, and never for an upper bound."
)


class CostTally:
    """Sums of costs over batches.

    Args:
        config: says which candidates a selector looks at.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._prompts: Counter[str] = Counter()
        self._generated: Counter[str] = Counter()
        self._unknown: set[str] = set()
        self._selecting: dict[str, float] = defaultdict(float)
        self._calls: dict[str, float] = defaultdict(float)

    def add(self, batch: pa.RecordBatch) -> None:
        """Count a batch."""
        pools = nested(batch, "candidates", "plan", "origin", "num_tokens")
        chosen = nested(batch, "selections", "plan", "method", "index")
        used = nested(batch, "usage", "stage", "requests", "prompt_tokens", "completion_tokens")
        for pool, selections, usage in zip(pools, chosen, used, strict=True):
            shares = Counter(method for _, method, _ in selections)
            for plan, method, index in selections:
                system = f"{plan}/{method}"
                self._prompts[system] += 1
                tokens = self._needed(pool, plan, method, index)
                if tokens is None:
                    self._unknown.add(system)
                self._generated[system] += tokens or 0
                for stage, requests, read, written in usage:
                    mine = stage == f"select:{method}"
                    if mine or self._is_between(stage, plan, method):
                        share = shares[method] if mine else 1
                        self._calls[system] += (requests or 0) / share
                        self._selecting[system] += ((read or 0) + (written or 0)) / share

    def _is_between(self, stage: str, plan: str, method: str) -> bool:
        """Whether it scored the set between two rounds of its plan, for a selector that looks at the set."""
        selector = self._config.selectors.get(method)
        return stage.startswith(f"score:{plan}:") and (selector.kind if selector else method) not in TAKES_ONE

    def _needed(
        self, pool: list[tuple[str, str | None, int | None]], plan: str, method: str, index: int | None
    ) -> int | None:
        """New tokens of the candidates that a selection needed; ``None`` where they were not counted."""
        selector = self._config.selectors.get(method)
        mine = [(origin, tokens) for name, origin, tokens in pool if name == plan]
        if (selector.kind if selector else method) in TAKES_ONE:
            counted = [mine[index][1]] if index is not None and 0 <= index < len(mine) else []
        else:
            origins = (selector.origins if selector else None) or SELECTABLE
            counted = [tokens for origin, tokens in mine if origin in origins]
        evidence = selector.evidence_plan() if selector else None
        counted += [tokens for name, origin, tokens in pool if origin == "evidence" and name == evidence]
        known = [tokens for tokens in counted if tokens is not None]
        return None if counted and not known else sum(known)

    def costs(self, report: Report) -> list[SystemCost]:
        """Every system's cost per prompt and its gain over what it is compared with, the dearest gain last."""
        found = {
            system: SystemCost(
                system=system,
                n_prompts=n,
                generated=None if system in self._unknown else self._generated[system] / n,
                selecting=self._selecting[system] / n,
                calls=self._calls[system] / n,
            )
            for system, n in self._prompts.items()
        }
        with_gains = _game_gains(found, report) if judged(report) else _score_gains(found, report)
        return sorted(with_gains.values(), key=lambda c: (c.unit == "", c.tokens is None, c.tokens or 0, c.system))


def judged(report: Report) -> bool:
    """Whether gains are counted in win-rates: there are games, and a judge who failed the audit only without scores."""
    return bool(report.contests) and (not report.tasks or failed_audit(report, report.contests[0]) is None)


def _game_gains(costs: dict[str, SystemCost], report: Report) -> dict[str, SystemCost]:
    contest = report.contests[0]
    trusted = failed_audit(report, contest) is None
    found = dict(costs)
    for s in contest.standings:
        rate = s.pooled
        if s.system in costs and rate.win_rate is not None:
            ends = [None if end is None else 100 * (end - 0.5) for end in (rate.low, rate.high)]
            gained = (100 * (rate.win_rate - 0.5), ends[0], ends[1])
            sure = s.side == "above" and trusted
            found[s.system] = _gain(
                costs[s.system], costs.get(contest.opponent), gained, "win-rate", sure, report.config
            )
    if contest.opponent in costs:
        found[contest.opponent] = replace(costs[contest.opponent], gain=0.0, unit="win-rate", is_base=True)
    return found


def _score_gains(costs: dict[str, SystemCost], report: Report) -> dict[str, SystemCost]:
    found = dict(costs)
    if not report.tasks:
        return found
    task = report.tasks[0]
    for system, cost in costs.items():
        score = task.get(system)
        if score is None:
            continue
        if score.base == system:
            found[system] = replace(cost, gain=0.0, unit=task.main, is_base=True)
        elif score.difference is not None:
            ends = [None if end is None else 100 * end for end in (score.difference_low, score.difference_high)]
            gained = (100 * score.difference, ends[0], ends[1])
            base = costs.get(score.base or "")
            found[system] = _gain(cost, base, gained, task.main, task.side(system) == "above", report.config)
    return found


def _gain(
    cost: SystemCost,
    base: SystemCost | None,
    gained: tuple[float, float | None, float | None],
    unit: str,
    sure: bool,
    config: Config,
) -> SystemCost:
    gain, low, high = gained
    sure = sure and not role(cost.system, config)
    more = replace(cost, gain=gain, gain_low=low, gain_high=high, unit=unit)
    if not sure or base is None:
        return more
    calls = (cost.calls - base.calls) / gain
    if cost.tokens is None or base.tokens is None:
        return replace(more, calls_per_point=calls)
    return replace(more, calls_per_point=calls, tokens_per_point=(cost.tokens - base.tokens) / gain)
