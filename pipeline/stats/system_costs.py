"""What a system's answer costs, and a point of what it gains.

Per prompt, attributed row by row (the report repeats this in words): a system is charged with the new tokens of the
candidates that its selector looks at (a selector that takes one candidate unseen, with that one's only), with its
evidence, and with all requests of its selector. Reading the prompts for generation is shared by all systems, and
judging the games is the evaluation's cost: neither is charged.

Per accepted answer, the run's bill is divided, so reading prompts counts: sampling the set, its evidence, and the
selector's requests. A selector that takes one candidate unseen pays for one prompt read and a mean candidate's tokens.

A selector that worked on several sets is charged an equal share for each.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from pipeline.config.config import Config
from pipeline.core.row import Candidate, Row, Selection
from pipeline.sampling.plans import PlanConfig
from pipeline.selection.base import SELECTABLE, TAKES_ONE
from pipeline.stats.audit import Audit
from pipeline.stats.contests import Contest
from pipeline.stats.costs import StageCost, priced, total_of
from pipeline.stats.counts import SelectorCounts
from pipeline.stats.task_scores import TaskScores


@dataclass(frozen=True)
class SystemCost:
    """What one system costs and gains.

    Attributes:
        n_prompts: that it had to answer; ``accepted`` those with an answer of its own: neither none nor a fallback.
        generated: new tokens of the candidates that it needs, per prompt; ``None`` where they were not counted.
        selecting, calls: tokens that its selector's requests read and wrote, and those requests, per prompt.
        accepted_tokens, accepted_money: the bill per accepted answer; ``None`` without one, and money without a price.
        gain: over the base in points (1/100): of win-rate above an even match, or of the task's main metric; with its
            interval.
        unit: what the points are of; empty for a system that was not compared.
        tokens_per_point, calls_per_point: more than the base's, per point gained; ``None`` unless a gain is certain;
            ``money_per_point`` the same of the bill.
    """

    system: str
    n_prompts: int
    accepted: int = 0
    generated: float | None = None
    selecting: float = 0.0
    calls: float = 0.0
    accepted_tokens: float | None = None
    accepted_money: float | None = None
    gain: float | None = None
    gain_low: float | None = None
    gain_high: float | None = None
    unit: str = ""
    is_base: bool = False
    tokens_per_point: float | None = None
    calls_per_point: float | None = None
    money_per_point: float | None = None

    @property
    def tokens(self) -> float | None:
        """Tokens generated and spent on selecting, per prompt."""
        return None if self.generated is None else self.generated + self.selecting


@dataclass(frozen=True)
class Gain:
    """What a system gains over a base (which may be itself), in points of a unit.

    Attributes:
        is_sure: the difference may be claimed.
    """

    base: str
    unit: str
    points: float = 0.0
    low: float | None = None
    high: float | None = None
    is_sure: bool = False


def gains(contests: Sequence[Contest], tasks: Sequence[TaskScores], audit: Sequence[Audit]) -> dict[str, Gain]:
    """What systems gain: in games, if any were judged (by a judge who failed the audit only without scores), else in
    the first task's main metric.
    """
    trusted = bool(contests) and contests[0].failed_audit(audit) is None
    if contests and (trusted or not tasks):
        contest, found = contests[0], {}
        for s in contest.standings:
            rate = s.pooled
            if rate.win_rate is not None:
                low, high = (None if end is None else 100 * (end - 0.5) for end in (rate.ci_low, rate.ci_high))
                sure = s.side == "above" and trusted
                found[s.system] = Gain(contest.opponent, "win-rate", 100 * (rate.win_rate - 0.5), low, high, sure)
        return found | {contest.opponent: Gain(contest.opponent, "win-rate")}
    found = {}
    for task in tasks[:1]:
        for system in task.systems:
            score = task.get(system)
            if score is not None and score.base == system:
                found[system] = Gain(system, task.main)
            elif score is not None and score.base is not None and score.difference is not None:
                ends = (score.difference_low, score.difference_high)
                low, high = (None if end is None else 100 * end for end in ends)
                sure = task.side(system) == "above"
                found[system] = Gain(score.base, task.main, 100 * score.difference, low, high, sure)
    return found


class SystemCosts:
    """Charges every system with what it needed, row by row.

    Args:
        config: says which candidates a selector looks at.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._prompts: Counter[str] = Counter()
        self._generated: dict[str, float] = defaultdict(float)
        self._unknown: set[str] = set()
        self._selecting: dict[str, float] = defaultdict(float)
        self._calls: dict[str, float] = defaultdict(float)

    def add(self, row: Row) -> None:
        """Charge a row."""
        sets = Counter(chosen.method for chosen in row.selections)
        for chosen in row.selections:
            system = chosen.system
            self._prompts[system] += 1
            tokens = [c.num_tokens for c in self._needed(row, chosen)]
            if tokens and not any(n is not None for n in tokens):
                self._unknown.add(system)
            self._generated[system] += sum(filter(None, tokens))
            for used in row.usage:
                mine = used.stage == f"select:{chosen.method}"
                if mine or self._is_between(used.stage, chosen):
                    share = sets[chosen.method] if mine else 1
                    self._calls[system] += (used.requests or 0) / share
                    self._selecting[system] += ((used.prompt_tokens or 0) + (used.completion_tokens or 0)) / share

    def _takes_one(self, method: str) -> bool:
        selector = self._config.selectors.get(method)
        return (selector.kind if selector else method) in TAKES_ONE

    def _is_between(self, stage: str, chosen: Selection) -> bool:
        """Whether it scored the set between two rounds of its plan, for a selector that looks at the set."""
        return stage.startswith(f"score:{chosen.plan}:") and not self._takes_one(chosen.method)

    def _needed(self, row: Row, chosen: Selection) -> list[Candidate]:
        """The candidates that a selection needed."""
        selector = self._config.selectors.get(chosen.method)
        pool = row.plan(chosen.plan)
        if self._takes_one(chosen.method):
            found = pool[chosen.index : chosen.index + 1] if chosen.index is not None and chosen.index >= 0 else []
        else:
            origins = (selector.origins if selector else None) or SELECTABLE
            found = [c for c in pool if c.origin in origins]
        evidence = selector.evidence_plan() if selector else None
        return found + [c for c in row.candidates if c.origin == "evidence" and c.plan == evidence]

    def finish(
        self,
        stages: Sequence[StageCost],
        choices: Iterable[SelectorCounts],
        gains: Mapping[str, Gain],
        bounds: set[str],
    ) -> list[SystemCost]:
        """Every system's cost: those that were compared first, the cheapest first.

        Args:
            stages: what the run has spent.
            choices: what the selectors chose.
            gains: system -> what it gains.
            bounds: systems that are upper bounds or outside answers: no point of theirs is bought.
        """
        bills = {row.system: self._bill(stages, row) for row in choices}
        found = {row.system: self._cost(row, bills[row.system]) for row in choices}
        for system in found.keys() & gains.keys():
            gain = gains[system]
            base = found.get(gain.base) if gain.is_sure and system not in bounds else None
            found[system] = _with_gain(found[system], gain, base, bills)
        return sorted(found.values(), key=lambda c: (c.unit == "", c.tokens is None, c.tokens or 0, c.system))

    def _cost(self, row: SelectorCounts, bill: StageCost | None) -> SystemCost:
        n, accepted = self._prompts[row.system], row.n - row.fallbacks
        money = None if bill is None or bill.money is None or accepted <= 0 else bill.money / accepted
        return SystemCost(
            row.system,
            n_prompts=n,
            accepted=accepted,
            generated=None if row.system in self._unknown else self._generated[row.system] / n,
            selecting=self._selecting[row.system] / n,
            calls=self._calls[row.system] / n,
            accepted_tokens=None if bill is None or accepted <= 0 else bill.tokens / accepted,
            accepted_money=money,
        )

    def _bill(self, stages: Sequence[StageCost], row: SelectorCounts) -> StageCost | None:
        """All that one configured system has cost."""
        config, name, method = self._config, row.plan, row.method
        if method not in config.selectors or name not in config.sets_of(method):
            return None
        plans = {key: plan for key, plan in config.all_plans().items() if (plan.candidate_set or key) == name}
        sampled = [s for s in stages if s.stage in {f"generate:{key}" for key in plans}]
        rounds = (f"score:{name}:", *(f"generate:{key}:" for key in plans))  # of adaptive plans
        further = [s for s in stages if s.stage.startswith(rounds)]
        if self._takes_one(method):
            sampled, further = [self._one_candidate(stage, plans, row.n + row.missing) for stage in sampled], []
        evidence = f"generate:{config.selectors[method].evidence_plan()}"
        shares = [
            _scaled(config, stage, 1 / len(config.sets_of(method)))
            for stage in stages
            if stage.stage == f"select:{method}"
        ]
        return total_of([*sampled, *further, *(s for s in stages if s.stage == evidence), *shares])

    def _one_candidate(self, stage: StageCost, plans: Mapping[str, PlanConfig], rows: int) -> StageCost:
        """The share of one candidate in a stage that samples a set (or a part of one)."""
        candidates = sum(plan.n if plan.adaptive.by is None else plan.adaptive.first for plan in plans.values())
        reads = rows / stage.requests / len(plans) if stage.requests else 0.0
        return _scaled(self._config, stage, reads, 1 / candidates)


def _scaled(config: Config, stage: StageCost, prompt: float, completion: float | None = None) -> StageCost:
    share = replace(
        stage,
        requests=stage.requests * prompt,
        prompt_tokens=stage.prompt_tokens * prompt,
        cached_tokens=stage.cached_tokens * prompt,
        completion_tokens=stage.completion_tokens * (prompt if completion is None else completion),
    )
    return priced(config, share)


def _with_gain(
    cost: SystemCost, gain: Gain, base: SystemCost | None, bills: Mapping[str, StageCost | None]
) -> SystemCost:
    """With the gain, and where it is certain (there is a ``base``) what a point of it costs."""
    is_base = gain.base == cost.system
    more = replace(cost, gain=gain.points, gain_low=gain.low, gain_high=gain.high, unit=gain.unit, is_base=is_base)
    if base is None:
        return more
    mine, theirs = (
        None if (bill := bills[each.system]) is None or bill.money is None else bill.money / each.n_prompts
        for each in (cost, base)
    )
    return replace(
        more,
        calls_per_point=(cost.calls - base.calls) / gain.points,
        tokens_per_point=_more(cost.tokens, base.tokens, gain),
        money_per_point=_more(mine, theirs, gain),
    )


def _more(mine: float | None, theirs: float | None, gain: Gain) -> float | None:
    return None if mine is None or theirs is None else (mine - theirs) / gain.points
