"""Task scores put together, task by task: the base, who may claim a gain over it, and who leads."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from pipeline.stats.contests import behind
from pipeline.stats.facts import Facts
from pipeline.stats.intervals import MACRO, POOLED, side
from pipeline.stats.quality import Score, ScoreDifference
from pipeline.tasks.measure import LANGUAGE


@dataclass(frozen=True)
class TaskScores:
    """Task scores of all systems in one task.

    Attributes:
        main: the task's main metric.
        metrics: all metrics, the main one first; ``language`` apart.
        systems: best pooled mean of the main metric first; those measured on fewer prompts than the base behind.
        scores: (metric, system, language) -> numbers.
        base: the system that the others are compared with; ``None`` where there is none.
        contenders: the run's systems that were measured on all prompts of the base, best first; never the oracle, the
            base or an outside answer.
        behind: contenders that the leader beats in paired comparison, simultaneous intervals; ``None`` when they were
            too many to compare.
        roles: system -> ``oracle`` (chooses by the reference), ``outside`` (answers that were brought along) or empty.
    """

    task: str
    main: str
    metrics: list[str]
    systems: list[str]
    scores: dict[tuple[str, str, str], Score]
    base: str | None
    contenders: list[str]
    behind: frozenset[str] | None
    roles: dict[str, str]

    def get(self, system: str, language: str = POOLED, metric: str | None = None) -> Score | None:
        """A system's numbers in one language (``all``, ``macro``), by the main metric unless another is named."""
        return self.scores.get((metric or self.main, system, language))

    def languages(self, metric: str | None = None) -> list[str]:
        """The languages with numbers, sorted; without ``all`` and ``macro``."""
        return sorted({name for m, _, name in self.scores if m == (metric or self.main)} - {POOLED, MACRO})

    def side(self, system: str, language: str = POOLED) -> str:
        """Where the difference to the base lies; over all prompts by the simultaneous interval, where there is one."""
        score = self.get(system, language)
        if score is None:
            return "none"
        if self.is_tested(system) and language == POOLED:
            return side(score.joint_low, score.joint_high, score.effective_clusters, even=0.0)
        return side(score.difference_low, score.difference_high, score.effective_clusters, even=0.0)

    def is_tested(self, system: str) -> bool:
        """Whether it is one of the systems whose simultaneous intervals hold together."""
        score = self.get(system)
        return score is not None and score.difference is not None and not self.roles[system]

    @property
    def part(self) -> list[str]:
        """Candidate sets whose systems were measured on fewer prompts than the base."""
        base = self.get(self.base or "")
        found = [(s.rpartition("/")[0], self.get(s)) for s in self.systems]
        fewer = [name for name, score in found if base and score and name and score.n_prompts < base.n_prompts]
        return list(dict.fromkeys(fewer))

    @property
    def far_below(self) -> list[str]:
        """Outside answers so far below the base that a plot of the differences would show nothing else: floors."""
        gaps = {s: score.difference for s in self.systems if (score := self.get(s)) and score.difference is not None}
        widest = max((abs(gap) for s, gap in gaps.items() if self.roles[s] != "outside"), default=0.0)
        return [s for s, gap in gaps.items() if self.roles[s] == "outside" and gap < -1.5 * widest]

    @property
    def leader(self) -> str | None:
        """The best contender that is certainly above the base, else the best one."""
        ahead = [s for s in self.contenders if self.side(s) == "above"]
        return next(iter([*ahead, *self.contenders]), None)


def task_scores(
    scores: Iterable[Score], differences: Sequence[ScoreDifference], facts: Facts, base: str
) -> list[TaskScores]:
    """The scores of every task that has a metric besides the language check; the largest task first.

    Args:
        base: the selector that the others are compared with.
    """
    per_task: dict[str, list[Score]] = defaultdict(list)
    for score in scores:
        per_task[score.task].append(score)
    found = []
    for task, mine in per_task.items():
        metrics = list(dict.fromkeys(s.metric for s in mine if s.metric != LANGUAGE))
        if metrics:
            metrics.sort(key=lambda m: not any(s.main for s in mine if s.metric == m))
            found.append(_task(task, metrics, mine, [d for d in differences if d.task == task], facts, base))
    return sorted(found, key=lambda t: (-max(s.n_prompts for s in t.scores.values()), t.task))


def _task(
    task: str,
    metrics: list[str],
    scores: Sequence[Score],
    differences: Sequence[ScoreDifference],
    facts: Facts,
    base_name: str,
) -> TaskScores:
    pooled = {s.system: s for s in scores if (s.metric, s.language) == (metrics[0], POOLED)}
    systems = sorted(pooled, key=lambda s: (-(pooled[s].mean or 0.0), s))
    roles = {system: facts.role(system) for system in systems}
    base = _main_base(pooled, facts, base_name)
    contenders = []
    if base is not None:  # means over other prompts do not compare
        whole = pooled[base].n_prompts
        fewer = {s: pooled[s].n_prompts < whole for s in systems}
        systems.sort(key=lambda s: (fewer[s], s.rpartition("/")[0] if fewer[s] else ""))
        contenders = [s for s in systems if s != base and not roles[s] and not fewer[s]]
    by_key = {(s.metric, s.system, s.language): s for s in scores}
    found = TaskScores(task, metrics[0], metrics, systems, by_key, base, contenders, None, roles)
    return replace(found, behind=behind(found.leader, differences))


def _main_base(pooled: dict[str, Score], facts: Facts, base: str) -> str | None:
    """The base of the candidate set that covers most prompts; of several, the config's first."""
    names = [*(f"{name}/{base}" for name in facts.sets), *pooled]
    known = [s for s in names if s in pooled and s.rpartition("/")[2] == base]
    return max(known, key=lambda s: pooled[s].n_prompts, default=None)
