"""Who stands where against whom: stored win-rates put together, contest by contest."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipeline.config.config import Config
from pipeline.stats.audit import ABLE, ALTERED, Audit
from pipeline.stats.facts import Facts
from pipeline.stats.intervals import CLUSTERS_TO_CLAIM, MACRO, POOLED, side
from pipeline.stats.quality import ScoreDifference
from pipeline.stats.winrate import LEFT_OUT, Difference, WinRate


@dataclass(frozen=True)
class Standing:
    """One system in a contest.

    Attributes:
        pooled, macro: over all prompts; mean of the languages.
        languages: per language, sorted by name.
        without_fallbacks: over the prompts on which its selector did not fall back; ``None`` where it never did.
        self_judged: the win-rate judge also selected this system's answers.
        role: ``oracle`` (an upper bound), ``outside`` (answers that were brought along), or empty.
    """

    system: str
    pooled: WinRate
    macro: WinRate
    languages: list[WinRate]
    without_fallbacks: WinRate | None
    self_judged: bool
    role: str

    @property
    def readable(self) -> WinRate | None:
        """The win-rate without fallbacks, where these leave out some games and not all."""
        found = self.without_fallbacks
        # outside games need not hold the prompts on which it fell back
        return found if found and 0 < found.n_games < self.pooled.n_games else None

    @property
    def always_fell_back(self) -> bool:
        """No game is left without the prompts on which its selector fell back."""
        return self.without_fallbacks is not None and not self.without_fallbacks.n_games

    @property
    def no_readable(self) -> str:
        """Why there is no win-rate without fallbacks."""
        return "its selector fell back on every prompt" if self.always_fell_back else "no fallback, nothing left out"

    @property
    def side(self) -> str:
        """Where the simultaneous interval lies (the system's own where there is no simultaneous one)."""
        return self.pooled.joint_side

    @property
    def hidden(self) -> bool:
        """Whether the readable verdicts alone tell it from the opponent, and the unreadable ones could change that."""
        rate = self.pooled
        readable = side(rate.joint_low, rate.joint_high, rate.effective_clusters)
        return self.side == "even" and readable in ("above", "below")


@dataclass(frozen=True)
class Contest:
    """The games of some systems against one opponent, by one judge and template; best system first.

    Attributes:
        behind: the systems that the best one beats in paired comparison (simultaneous intervals, the unreadable
            verdicts lost); ``None`` where they were not compared.
    """

    opponent: str
    judge: str
    template: str
    standings: list[Standing]
    behind: frozenset[str] | None

    @property
    def best(self) -> Standing | None:
        """The best system that may win: an oracle is an upper bound, and no system to ship."""
        return next((s for s in self.standings if s.role != "oracle" and s.pooled.win_rate is not None), None)

    def failed_audit(self, audit: Iterable[Audit]) -> Audit | None:
        """The audit's row over all altered versions and languages, unless it says that the contest's judge is able."""
        key = (self.judge, self.template, ALTERED, POOLED)
        found = (a for a in audit if (a.judge, a.template, a.version, a.language) == key)
        return next((a for a in found if a.grade != ABLE), None)


def contests(
    rates: Iterable[WinRate], differences: Sequence[Difference], config: Config, facts: Facts
) -> list[Contest]:
    """All contests, that of the config's opponent and judge first."""
    groups: dict[tuple[str, str, str], dict[str, list[WinRate]]] = defaultdict(lambda: defaultdict(list))
    for rate in rates:
        groups[rate.opponent, rate.judge, rate.template][rate.system].append(rate)
    judge_selects = config.judge_conflicts()[0]
    found = []
    for (opponent, judge, template), systems in groups.items():
        standings = [_standing(system, mine, judge_selects, facts) for system, mine in systems.items()]
        standings.sort(key=lambda s: (s.pooled.win_rate is None, -(s.pooled.win_rate or 0.0), s.system))
        contest = Contest(opponent, judge, template, standings, None)
        paired = [d for d in differences if (d.opponent, d.judge, d.template) == (opponent, judge, template)]
        best = contest.best.system if contest.best else None
        found.append(Contest(opponent, judge, template, standings, behind(best, paired)))
    engine = config.engines.get(config.judge.engine or "")
    wanted = config.judge.opponent

    def priority(c: Contest) -> tuple[bool, bool, int]:
        mine = wanted in (c.opponent, c.opponent.split("/", 1)[-1])
        return not mine, engine is None or c.judge not in (engine.model, engine.kind), -len(c.standings)

    return sorted(found, key=priority)


def _standing(system: str, rates: list[WinRate], judge_selects: list[str], facts: Facts) -> Standing:
    kept = {rate.language: rate for rate in rates if rate.fallbacks != LEFT_OUT}
    return Standing(
        system=system,
        pooled=kept.pop(POOLED),
        macro=kept.pop(MACRO),
        languages=list(kept.values()),
        without_fallbacks=next((rate for rate in rates if rate.fallbacks == LEFT_OUT), None),
        self_judged="/" in system and system.split("/", 1)[-1] in judge_selects,
        role=facts.role(system),
    )


def behind(best: str | None, paired: Sequence[Difference] | Sequence[ScoreDifference]) -> frozenset[str] | None:
    """The systems that the best one beats, also if its unreadable verdicts were lost and theirs won.

    Returns:
        ``None`` where there is no paired comparison.
    """
    if best is None or not paired:
        return None
    found = set()
    for row in paired:
        ends = [(row.ci_low, row.ci_high)]
        if isinstance(row, Difference):
            ends.append((row.lost_low, row.won_high))
        if row.effective_clusters < CLUSTERS_TO_CLAIM:
            continue
        if row.system_a == best and all(low is not None and low > 0 for low, _ in ends):
            found.add(row.system_b)
        if row.system_b == best and all(high is not None and high < 0 for _, high in ends):
            found.add(row.system_a)
    return frozenset(found)
