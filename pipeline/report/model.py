"""What the report shows, as plain dataclasses. Rates and metrics are in 0..1; ``None`` is a number that does not exist.

``low`` and ``high`` are the ends of an interval.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pipeline.config.config import Config
from pipeline.core.row import Candidate, Game, Row, Selection
from pipeline.core.safety import isolated
from pipeline.report.sides import side
from pipeline.report.task_model import TaskScores
from pipeline.stats.choices import SelectorRow


@dataclass(frozen=True)
class WinRate:
    """One system against the contest's opponent in one language (or ``all``, ``macro``); ``None`` = does not exist.

    Attributes:
        n_clusters, effective: clusters with a valid score, and how many equal ones say as much.
        lost_low, won_high: lower end of the interval if all unreadable verdicts were lost, upper end if all were won.
    """

    language: str
    n_prompts: int
    n_games: int
    n_invalid: int
    win_rate: float | None
    low: float | None
    high: float | None
    flip_rate: float | None
    tie_rate: float | None
    mean_mass: float | None
    if_lost: float | None
    if_won: float | None
    signature: str
    n_clusters: int
    effective: float
    lost_low: float | None
    won_high: float | None

    @property
    def side(self) -> str:
        """Where the interval lies: ``above`` or ``below`` an even match, ``even`` around it, ``none`` without one.

        Above and below only if the unreadable verdicts cannot change it.
        """
        return side(self.low, self.high, self.effective, unreadable=(self.lost_low, self.won_high))


@dataclass(frozen=True)
class Standing:
    """One system in a contest.

    Attributes:
        pooled, macro: over all prompts; mean of the languages.
        languages: per language, sorted by name.
        joint_low, joint_high: interval that holds for all of the run's systems together.
        joint_lost_low, joint_won_high: ends of such intervals if all unreadable verdicts were lost, or won.
        self_judged: the win-rate judge also selected this system's answers.
        role: ``oracle`` (an upper bound), ``outside`` (answers that were brought along), or empty.
        readable: win-rate over the prompts on which its selector did not fall back; ``None`` when that leaves out
            none of them, or all.
        always_fell_back: no game is left without the prompts on which its selector fell back.
    """

    system: str
    pooled: WinRate
    macro: WinRate
    languages: list[WinRate]
    joint_low: float | None
    joint_high: float | None
    joint_lost_low: float | None
    joint_won_high: float | None
    joint_signature: str
    self_judged: bool
    role: str = ""
    readable: WinRate | None = None
    always_fell_back: bool = False

    @property
    def no_readable(self) -> str:
        """Why there is no win-rate without fallbacks."""
        return "its selector fell back on every prompt" if self.always_fell_back else "no fallback, nothing left out"

    @property
    def side(self) -> str:
        """Where the simultaneous interval lies (the system's own where there is no simultaneous one)."""
        if self.joint_low is None:
            return self.pooled.side
        unreadable = (self.joint_lost_low, self.joint_won_high)
        return side(self.joint_low, self.joint_high, self.pooled.effective, unreadable=unreadable)

    @property
    def hidden(self) -> bool:
        """Whether the readable verdicts alone tell it from the opponent, and the unreadable ones could change that."""
        readable = side(self.joint_low, self.joint_high, self.pooled.effective)
        return self.side == "even" and readable in ("above", "below")


@dataclass(frozen=True)
class Contest:
    """The games of some systems against one opponent, by one judge and template; best system first.

    Attributes:
        behind: the systems that the best one beats in paired comparison (simultaneous intervals); ``None`` when they
            were not compared (several templates, or too many pairs).
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


@dataclass(frozen=True)
class Load:
    """How full a pass's engines were (:meth:`pipeline.execution.load.Timeline.to_json`): sequences that run, per bin.

    Attributes:
        full: share of the engines' time in which they were full.
        capacity: sequences that an engine works on at once.
        width: seconds of a bin.
        mean, low, high: per engine; ``None`` in a bin without a sample.
    """

    full: float
    capacity: int
    width: float
    mean: list[float | None]
    low: list[int | None]
    high: list[int | None]


@dataclass(frozen=True)
class Spent:
    """What a pass or a stage cost in all; ``load`` is a pass's only."""

    name: str
    requests: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    model: str = ""
    seconds: float | None = None
    rows: int | None = None
    failed: int | None = None
    load: Load | None = None

    @property
    def full(self) -> float | None:
        """Share of the engines' time in which they were full; ``None`` where there was none, or it was not recorded."""
        return self.load.full if self.load else None

    @property
    def cached_share(self) -> float | None:
        """Share of the prompt tokens that came out of the prefix cache."""
        return self.cached_tokens / self.prompt_tokens if self.prompt_tokens else None


@dataclass(frozen=True)
class Failure:
    """One cause of failure, how often it occurred, and an example of its message."""

    where: str
    cause: str
    count: int
    example: str = ""


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
class SamplePrompt:
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


@dataclass(frozen=True)
class Audit:
    """One row of the judge's audit (``pipeline.stats.audit.AUDIT_SCHEMA``): a version in a language, and its grade."""

    judge: str
    template: str
    version: str
    language: str
    n_prompts: int
    n_invalid: int
    n_clusters: int
    effective_clusters: float
    sensitivity: float | None
    se: float | None
    ci_low: float | None
    ci_high: float | None
    first_share: float | None
    first_se: float | None
    first_low: float | None
    first_high: float | None
    grade: str
    signature: str


@dataclass(frozen=True)
class SystemCost:
    """What one answer of a system costs, per prompt, and what it gains.

    Attributes:
        generated: new tokens of the candidates that it needs.
        selecting: tokens that its selector's requests read and wrote.
        calls: requests that its selector made to a model.
        gain: over the base in points (1/100): of win-rate above an even match, or of the task's main metric.
        gain_low, gain_high: its interval.
        unit: what the points are of.
        tokens_per_point, calls_per_point: more than the base's, per point gained; ``None`` unless a gain is certain.
    """

    system: str
    n_prompts: int
    generated: float | None
    selecting: float
    calls: float
    gain: float | None = None
    gain_low: float | None = None
    gain_high: float | None = None
    unit: str = ""
    is_base: bool = False
    tokens_per_point: float | None = None
    calls_per_point: float | None = None

    @property
    def tokens(self) -> float | None:
        """Tokens generated and spent on selecting."""
        return None if self.generated is None else self.generated + self.selecting


@dataclass
class Report:
    """The content of the page.

    Attributes:
        languages: language -> prompts.
        contests: primary one (the config's opponent and judge) first; empty without games.
        n_games, n_invalid_games: between systems; those of single candidates and of the audit apart.
        main_metrics: task -> its main metric.
        tables: names of the result tables that lie beside the report, as ``.csv`` and ``.parquet``.
        left_out: result table -> why it was not computed.
        agreement: (system, system) -> share of the prompts answered by both with the same text.
        judge_selects: selectors that used the win-rate judge's engine or model.
        judge_generates: plans whose generator is the win-rate judge.
    """

    config: Config
    n_prompts: int = 0
    n_clusters: int = 0
    languages: dict[str, int] = field(default_factory=dict)
    n_candidates: int = 0
    n_truncated: int = 0
    n_games: int = 0
    n_invalid_games: int = 0
    n_candidate_games: int = 0
    n_audit_games: int = 0
    n_failed_rows: int = 0
    contests: list[Contest] = field(default_factory=list)
    tasks: list[TaskScores] = field(default_factory=list)
    main_metrics: dict[str, str] = field(default_factory=dict)
    audit: list[Audit] = field(default_factory=list)
    curves: list[dict[str, Any]] = field(default_factory=list)
    hope_risk: list[dict[str, Any]] = field(default_factory=list)
    costs: list[SystemCost] = field(default_factory=list)
    tables: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    selectors: list[SelectorRow] = field(default_factory=list)
    agreement: dict[tuple[str, str], float | None] = field(default_factory=dict)
    passes: list[Spent] = field(default_factory=list)
    stages: list[Spent] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    sample: list[SamplePrompt] = field(default_factory=list)
    models: list[str] = field(default_factory=list)
    manifest: dict[str, Any] = field(default_factory=dict)
    judge_selects: list[str] = field(default_factory=list)
    judge_generates: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._short: dict[str, str] = {}

    def short(self, system: str) -> str:
        """How a system is called on the page: ``plan/method``, or just the method when all share one plan.

        For showing only: a name from right to left is isolated, so that the numbers beside it keep their places.
        """
        return isolated(self._short.get(system, system))

    def short_all(self, systems: list[str]) -> list[str]:
        """:meth:`short` of each."""
        return [self.short(s) for s in systems]

    def name_systems(self, systems: set[str]) -> None:
        """Decide on the short names."""
        plans = {s.split("/", 1)[0] for s in systems if "/" in s}
        short = {s: s.split("/", 1)[1] for s in systems if "/" in s} if len(plans) == 1 else {}
        outside = {s for s in systems if "/" not in s}
        self._short = {s: name for s, name in short.items() if name not in outside}
