"""Task scores as the report shows them, as plain dataclasses. Metrics are in 0..1; ``None`` does not exist."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.report.sides import MACRO, POOLED, side
from pipeline.stats.intervals import Estimate


@dataclass(frozen=True)
class Score:
    """One row of the table of task scores (``pipeline.stats.quality.SCORES_SCHEMA``)."""

    system: str
    task: str
    language: str
    metric: str
    n_prompts: int
    n_missing: int
    n_untold: int
    mean: float | None
    se: float | None
    ci_low: float | None
    ci_high: float | None
    base: str | None
    difference: float | None
    difference_se: float | None
    difference_low: float | None
    difference_high: float | None
    recovered: float | None
    recovered_low: float | None
    recovered_high: float | None
    n_clusters: int
    effective_clusters: float
    signature: str


@dataclass
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
        joint: system -> its paired difference to its base, intervals that hold for all of the run's systems together;
            none for oracles and outside answers.
        behind: contenders that the leader beats in paired comparison, simultaneous intervals; ``None`` when they were
            too many to compare.
        oracles, outside: systems that choose by the reference; answers that were brought along.
        circular: metric -> systems that choose by it.
    """

    task: str
    main: str
    metrics: list[str]
    systems: list[str]
    scores: dict[tuple[str, str, str], Score]
    base: str | None
    contenders: list[str]
    joint: dict[str, Estimate]
    behind: frozenset[str] | None
    oracles: frozenset[str]
    outside: frozenset[str]
    circular: dict[str, list[str]]

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
        if language == POOLED and system in self.joint:
            gap = self.joint[system]
            return side(gap.low, gap.high, gap.effective, even=0.0)
        return side(score.difference_low, score.difference_high, score.effective_clusters, even=0.0)

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
        widest = max((abs(gap) for s, gap in gaps.items() if s not in self.outside), default=0.0)
        return [s for s, gap in gaps.items() if s in self.outside and gap < -1.5 * widest]

    @property
    def leader(self) -> str | None:
        """The best contender that is certainly above the base, else the best one."""
        ahead = [s for s in self.contenders if self.side(s) == "above"]
        return next(iter([*ahead, *self.contenders]), None)
