"""What the report shows: the stored results, put together for a page. Rates and metrics are in 0..1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.config.config import Config
from pipeline.core.row import Candidate, Game, Row, Selection
from pipeline.core.safety import isolated
from pipeline.stats.audit import Audit
from pipeline.stats.contests import Contest
from pipeline.stats.costs import PassCost
from pipeline.stats.counts import Overview, SelectorCounts
from pipeline.stats.results import Results
from pipeline.stats.task_scores import TaskScores


@dataclass(frozen=True)
class CandidateView:
    """A candidate with what the selectors thought of it; ``index`` counts within its plan."""

    index: int
    candidate: Candidate
    chosen_by: list[str]
    scores: list[tuple[str, float | None]]


@dataclass(frozen=True)
class Match:
    """A system's two games on one prompt; ``score`` is the prompt's."""

    system: str
    opponent: str
    ab: Game | None
    ba: Game | None
    score: float | None


@dataclass(frozen=True)
class PromptView:
    """One prompt, to be read: candidates, choices, games.

    Attributes:
        why: it was picked; empty when by position.
        text_scores: system -> (scorer, value) of its new text or outside answer.
    """

    why: str
    row: Row
    candidates: list[CandidateView]
    new_texts: list[Selection]
    text_scores: dict[str, list[tuple[str, float | None]]]
    without_choice: list[str]
    matches: list[Match]


@dataclass(kw_only=True)
class Report(Overview):
    """The content of the page.

    Attributes:
        contests: primary one (the config's opponent and judge) first; empty without games.
        tasks: the largest first.
        selectors: in the order in which the page ranks systems.
        agreement: (system, system) -> share of the prompts answered by both with the same text.
        tables: names of the result tables that lie beside the report, as ``.csv`` and ``.parquet``.
        judge_selects: selectors that used the win-rate judge's engine or model.
        judge_generates: plans whose generator is the win-rate judge.
    """

    config: Config
    results: Results
    contests: list[Contest]
    tasks: list[TaskScores]
    selectors: list[SelectorCounts]
    agreement: Mapping[tuple[str, str], float]
    passes: list[PassCost]
    prompts: list[PromptView]
    manifest: dict[str, Any]
    tables: list[str] = field(default_factory=list)
    judge_selects: list[str] = field(default_factory=list)
    judge_generates: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        systems = {s.system for s in self.selectors} | {c.opponent for c in self.contests} | set(self.ranked)
        plans = {s.split("/", 1)[0] for s in systems if "/" in s}
        short = {s: s.split("/", 1)[1] for s in systems if "/" in s} if len(plans) == 1 else {}
        self._short = {s: name for s, name in short.items() if name not in systems}
        place = {system: i for i, system in reversed(list(enumerate(self.ranked)))}
        self.selectors = sorted(self.selectors, key=lambda s: (place.get(s.system, len(place)), s.system))

    @property
    def ranked(self) -> list[str]:
        """All systems with numbers, the best first, contest by contest and task by task."""
        return [s.system for c in self.contests for s in c.standings] + [s for t in self.tasks for s in t.systems]

    def role(self, system: str) -> str:
        """``oracle``, ``outside`` or empty (:meth:`pipeline.stats.facts.Facts.role`)."""
        return self.results.basis.facts.role(system)

    def failed_audit(self, contest: Contest) -> Audit | None:
        """The audit's verdict on the contest's judge, unless it is able."""
        return contest.failed_audit(self.results.audit)

    def circular(self, task: TaskScores) -> dict[str, list[str]]:
        """Metric -> the systems whose selector maximises that metric's agreement among the candidates (MBR)."""
        found: dict[str, list[str]] = {}
        for system in task.systems:
            selector = self.config.selectors.get(system.rpartition("/")[2]) if "/" in system else None
            utility = getattr(selector, "utility", None)  # of MBR and its relatives, a user's own among them
            if utility in task.metrics:
                found.setdefault(str(utility), []).append(system)
        return found

    def short(self, system: str) -> str:
        """How a system is called on the page: ``plan/method``, or just the method when all share one plan.

        For showing only: a name from right to left is isolated, so that the numbers beside it keep their places.
        """
        return isolated(self._short.get(system, system))

    def short_all(self, systems: Sequence[str]) -> list[str]:
        """:meth:`short` of each."""
        return [self.short(s) for s in systems]
