"""Everything that the report shows, as plain dataclasses; the run's tables are streamed once."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from pipeline.config import Config
from pipeline.records import Candidate, Game, Row, Selection, row_from_dict
from pipeline.stats.choices import Choices, SelectorRow, column, nested
from pipeline.stats.games import UNDETERMINED, Comparison, Games, PromptKey, leave_out, load_table_games
from pipeline.stats.intervals import CLUSTERS_TO_CLAIM
from pipeline.stats.prompt_scores import judge_rates
from pipeline.stats.run_games import load_run_games
from pipeline.stats.winrate import simultaneous_differences, simultaneous_winrates, winrate_bounds, winrates
from pipeline.storage import TABLES, RunFolder

POOLED, MACRO = "all", "macro"
TABLE = "games"
"""The last table: its rows carry every column."""

_STREAMED = ("row_id", "prompt_id", "cluster_id", "language", "candidates", "selections", "games", "usage", "errors")
_SHOWN = ("task", "messages", "reference", "scores", "answers", *_STREAMED)
_SPENT = ("requests", "prompt_tokens", "cached_tokens", "completion_tokens")
_BATCH = 256  # rows: a batch of long candidate sets still fits into little memory


@dataclass(frozen=True)
class WinRate:
    """One system against the contest's opponent in one language (or ``all``, ``macro``); ``None`` = does not exist."""

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

    @property
    def side(self) -> str:
        """Where the interval lies: ``above`` or ``below`` an even match, ``even`` around it, ``none`` without one."""
        return side(self.low, self.high, self.n_clusters)


@dataclass(frozen=True)
class Standing:
    """One system in a contest.

    Attributes:
        pooled, macro: over all prompts; mean of the languages.
        languages: per language, sorted by name.
        joint_low, joint_high: interval that holds for all of the run's systems together.
        self_judged: the win-rate judge also selected this system's answers.
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
    joint_signature: str
    self_judged: bool
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
        return side(self.joint_low, self.joint_high, self.pooled.n_clusters)


@dataclass(frozen=True)
class Contest:
    """The games of some systems against one opponent, by one judge and template; best system first.

    Attributes:
        behind: the systems that the best one beats in paired comparison (simultaneous intervals).
    """

    opponent: str
    judge: str
    template: str
    n_clusters: int
    standings: list[Standing]
    behind: frozenset[str]


@dataclass(frozen=True)
class Spent:
    """What a pass or a stage cost in all."""

    name: str
    requests: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    model: str = ""
    seconds: float | None = None
    rows: int | None = None
    failed: int | None = None

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
    """One prompt, to be read: candidates, choices, games."""

    row: Row
    candidates: list[CandidateView]
    new_texts: list[Selection]
    without_choice: list[str]
    matches: list[Match]


@dataclass
class Report:
    """The content of the page.

    Attributes:
        languages: language -> prompts.
        contests: primary one (the config's opponent and judge) first; empty without games.
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
    n_failed_rows: int = 0
    contests: list[Contest] = field(default_factory=list)
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
        """How a system is called on the page: ``plan/method``, or just the method when all share one plan."""
        return self._short.get(system, system)

    def short_all(self, systems: list[str]) -> list[str]:
        """:meth:`short` of each."""
        return [self.short(s) for s in systems]

    def name_systems(self, systems: set[str]) -> None:
        """Decide on the short names."""
        plans = {s.split("/", 1)[0] for s in systems if "/" in s}
        short = {s: s.split("/", 1)[1] for s in systems if "/" in s} if len(plans) == 1 else {}
        outside = {s for s in systems if "/" not in s}
        self._short = {s: name for s, name in short.items() if name not in outside}


def side(low: float | None, high: float | None, n_clusters: int) -> str:
    """``above``, ``below`` or ``even`` (an interval against 1/2), ``none`` without an interval.

    Always ``even`` with fewer than ``CLUSTERS_TO_CLAIM`` clusters.
    """
    if low is None or high is None:
        return "none"
    if n_clusters < CLUSTERS_TO_CLAIM:
        return "even"
    return "above" if low > 0.5 else "below" if high < 0.5 else "even"


def collect(run: RunFolder, config: Config) -> Report:
    """Read a finished run.

    Streams the games table once for counts and texts' lengths, once more (four columns) for the statistics, and
    reads the sampled prompts whole.

    Raises:
        UnfinishedTableError: ``judge`` has not finished.
        InputError: a table cannot be used.
    """
    report = Report(config, manifest=run.read_json("manifest.json") or {})
    report.judge_selects, report.judge_generates = config.judge_conflicts()
    ids = _stream(run, report)
    if config.winrate.games or report.n_games:
        games = load_table_games(config.winrate.games) if config.winrate.games else load_run_games(run)
        fell_back = {s.system: s.fell_back for s in report.selectors if s.fell_back}
        report.contests = _contests(games, config, report.judge_selects, fell_back)
    report.name_systems(
        {s.system for s in report.selectors}
        | {c.opponent for c in report.contests}
        | {s.system for c in report.contests for s in c.standings}
    )
    place = {s.system: i for c in reversed(report.contests) for i, s in enumerate(c.standings)}
    report.selectors.sort(key=lambda s: (place.get(s.system, len(place)), s.system))
    report.passes = _passes(run, report.manifest)
    report.sample = _sample(run, ids)
    return report


def _stream(run: RunFolder, report: Report) -> list[int]:
    """Fill in the counts; returns the ids of the rows to show."""
    data = run.dataset(TABLE)
    columns = [c for c in _STREAMED if c in data.schema.names]
    clusters: set[str] = set()
    languages: Counter[str] = Counter()
    choices = Choices()
    same: Counter[tuple[str, str]] = Counter()
    both: Counter[tuple[str, str]] = Counter()
    usage: dict[tuple[str, str, str], list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    failures: dict[tuple[str, str], list[Any]] = {}
    models: set[str] = set()
    first: dict[str, list[int]] = defaultdict(list)

    def failed(where: str, cause: str, count: int = 1, example: str | None = None) -> None:
        known = failures.setdefault((where, cause), [0, example or ""])
        known[0] += count

    scanner = data.scanner(columns=columns, batch_size=_BATCH, batch_readahead=2, fragment_readahead=2)
    for batch in scanner.to_batches():
        names = column(batch, "language")
        row_ids = column(batch, "row_id")
        prompt_ids = column(batch, "prompt_id")
        report.n_prompts += len(batch)
        clusters.update(c or p for c, p in zip(column(batch, "cluster_id"), prompt_ids, strict=True))
        for row_id, name in zip(row_ids, names, strict=True):
            languages[name or UNDETERMINED] += 1
            _keep_smallest(first[name or UNDETERMINED], row_id, report.config.report.samples)
        _count_games(batch, report, failed)
        choices.add(batch)
        for pool in nested(batch, "candidates", "plan", "finish_reason", "error", "model", "revision"):
            for plan, finish, error, model, revision in pool:
                report.n_candidates += 1
                report.n_truncated += finish == "length"
                models.add(f"{model}@{revision}" if revision else model or "")
                if error:
                    failed(f"generate:{plan}", "candidate without a text", example=error)
        for selections in nested(batch, "selections", "plan", "method", "text"):
            texts = {f"{plan}/{method}": text for plan, method, text in selections if text is not None}
            for pair in combinations(sorted(texts), 2):
                both[pair] += 1
                same[pair] += texts[pair[0]] == texts[pair[1]]
        for items in nested(batch, "usage", "job", "stage", "model", *_SPENT):
            for job, stage, model, *numbers in items:
                total = usage[job, stage, model or ""]
                total[:] = [a + (b or 0) for a, b in zip(total, numbers, strict=True)]
        for errors in nested(batch, "errors", "stage", "kind", "message"):
            report.n_failed_rows += bool(errors)
            for stage, kind, message in errors:
                failed(stage, kind, example=message)

    report.n_clusters = len(clusters)
    report.languages = dict(sorted(languages.items()))
    report.models = sorted(models - {""})
    report.selectors = list(choices.rows.values())
    report.agreement = {pair: same[pair] / n for pair, n in both.items()}
    report.agreement |= {(b, a): share for (a, b), share in report.agreement.items()}
    report.stages = [_spent(stage, numbers, model=model) for (_, stage, model), numbers in usage.items()]
    for entry in report.selectors:
        if entry.missing:
            failed(f"select:{entry.method}", "no answer could be selected", entry.missing)
        for reason, count in entry.fallbacks.items():
            failed(f"select:{entry.method}", f"fell back: {reason}", count)
    report.failures = [Failure(*key, count, example) for key, (count, example) in failures.items()]
    report.failures.sort(key=lambda f: (-f.count, f.where, f.cause))
    return _spread(first, report.config.report.samples)


def _count_games(batch: pa.RecordBatch, report: Report, failed: Any) -> None:
    if "games" not in batch.schema.names:
        return
    items = pc.list_flatten(batch.column("games"))
    report.n_games += len(items)
    invalid = items.filter(pc.is_null(pc.struct_field(items, "score")))
    report.n_invalid_games += len(invalid)
    reasons = Counter(pc.struct_field(invalid, "reason").to_pylist())
    for reason, count in reasons.items():
        cause = "invalid verdict: the judge's call failed" if reason else "invalid verdict: unreadable"
        failed("judge", cause, count, reason)


def _win_rates(games: Games, options: dict[str, Any]) -> list[dict[str, WinRate]]:
    """Per comparison: language (then ``all``, ``macro``) -> win-rate."""
    rates = {_key(r): r for r in judge_rates(games).to_pylist()}
    bounds = {_key(r): r for r in winrate_bounds(games).to_pylist()}
    # the table of win-rates names neither judge nor template: its rows follow the comparisons, each ending in macro
    per: list[dict[str, WinRate]] = [{} for _ in games.comparisons]
    k = 0
    for row in winrates(games, **options).to_pylist():
        c = games.comparisons[k]
        assert (row["system"], row["opponent"]) == (c.system, c.opponent)
        key = (c.system, c.opponent, c.judge, c.template, row["language"])
        rate, bound = rates.get(key, {}), bounds.get(key, {})
        per[k][row["language"]] = WinRate(
            language=row["language"],
            n_prompts=row["n_prompts"],
            n_games=row["n_games"],
            n_invalid=row["n_invalid"],
            win_rate=row["win_rate"],
            low=row["ci_low"],
            high=row["ci_high"],
            flip_rate=rate.get("flip_rate"),
            tie_rate=rate.get("tie_rate"),
            mean_mass=rate.get("mean_mass"),
            if_lost=bound.get("if_lost"),
            if_won=bound.get("if_won"),
            signature=row["signature"],
            n_clusters=games.n_clusters,
        )
        k += row["language"] == MACRO
    return per


def _readable(games: Games, options: dict[str, Any], fell_back: dict[str, set[PromptKey]]) -> dict[Comparison, WinRate]:
    """Pooled win-rates of the systems with fallbacks, without the prompts on which they fell back."""
    if not fell_back:
        return {}
    rest = leave_out(games, fell_back)
    found = {c: rates[POOLED] for c, rates in zip(rest.comparisons, _win_rates(rest, options), strict=True)}
    return {c: replace(rate, signature=_say(rate.signature, "fallbacks:left_out")) for c, rate in found.items()}


def _say(signature: str, choice: str) -> str:
    """The recipe with one more choice, before its version."""
    head, _, version = signature.rpartition("|")
    return f"{head}|{choice}|{version}"


def _contests(
    games: Games, config: Config, judge_selects: list[str], fell_back: dict[str, set[PromptKey]]
) -> list[Contest]:
    settings = config.winrate
    options: dict[str, Any] = {"draws": settings.draws, "confidence": settings.confidence, "seed": settings.seed}
    joint = simultaneous_winrates(games, **options).to_pylist()
    per = _win_rates(games, options)
    readable = _readable(games, options, fell_back)
    groups: dict[tuple[str, str, str], list[Standing]] = defaultdict(list)
    for c, rows, together in zip(games.comparisons, per, joint, strict=True):
        method = c.system.split("/", 1)[-1]
        rest = readable.get(c)
        groups[c.opponent, c.judge, c.template].append(
            Standing(
                system=c.system,
                pooled=rows[POOLED],
                macro=rows[MACRO],
                languages=[r for name, r in rows.items() if name not in (POOLED, MACRO)],
                joint_low=together["ci_low"],
                joint_high=together["ci_high"],
                joint_signature=together["signature"],
                self_judged="/" in c.system and method in judge_selects,
                # outside games need not hold the prompts on which it fell back
                readable=rest if rest and rest.n_games < rows[POOLED].n_games else None,
                always_fell_back=c.system in fell_back and rest is None,
            )
        )
    contests = []
    for (opponent, judge, template), standings in groups.items():
        standings.sort(key=lambda s: (-1.0 if s.pooled.win_rate is None else -s.pooled.win_rate, s.system))
        standings.sort(key=lambda s: s.pooled.win_rate is None)
        contests.append(Contest(opponent, judge, template, games.n_clusters, standings, frozenset()))
    contests = [_with_behind(c, games, options) for c in contests]
    engine = config.engines.get(config.judge.engine or "")
    wanted = config.judge.opponent

    def priority(c: Contest) -> tuple[bool, bool, int]:
        mine = wanted in (c.opponent, c.opponent.split("/", 1)[-1])
        return not mine, engine is None or c.judge not in (engine.model, engine.kind), -len(c.standings)

    return sorted(contests, key=priority)


def _with_behind(contest: Contest, games: Games, options: dict[str, Any]) -> Contest:
    """Add which systems the best one beats when the two are compared on the same prompts."""
    names = [s.system for s in contest.standings if s.pooled.win_rate is not None]
    alone = sum(c.opponent == contest.opponent and c.judge == contest.judge for c in games.comparisons)
    # several templates cannot be told apart by the paired comparison's arguments; then nothing is claimed
    if len(names) < 2 or alone != len(contest.standings) or games.n_clusters < CLUSTERS_TO_CLAIM:
        return contest
    table = simultaneous_differences(games, names, contest.opponent, contest.judge, **options)
    behind = set()
    for row in table.to_pylist():
        if row["ci_low"] is None:
            continue
        if row["system_a"] == names[0] and row["ci_low"] > 0:
            behind.add(row["system_b"])
        if row["system_b"] == names[0] and row["ci_high"] < 0:
            behind.add(row["system_a"])
    return Contest(**{**vars(contest), "behind": frozenset(behind)})


def _key(row: dict[str, Any]) -> tuple[str, str, str, str, str]:
    return (row["system"], row["opponent"], row["judge"], row["template"], row["language"])


def _passes(run: RunFolder, manifest: dict[str, Any]) -> list[Spent]:
    """Costs of the passes; a pass that the manifest missed (its job was killed at its end) is in its table's marker."""
    found: dict[str, dict[str, Any]] = dict(manifest.get("passes") or {})
    for table in TABLES:
        summary = (run.marker(table) or {}).get("summary")
        if isinstance(summary, dict) and "name" in summary:
            found.setdefault(summary["name"], summary)
    return [
        _spent(
            name,
            [int(s.get(key) or 0) for key in _SPENT],
            seconds=s.get("seconds"),
            rows=s.get("rows"),
            failed=s.get("failed"),
        )
        for name, s in found.items()
    ]


def _spent(name: str, numbers: list[int], **more: Any) -> Spent:
    values: dict[str, Any] = dict(zip(_SPENT, numbers, strict=True)) | more
    return Spent(name, **values)


def _sample(run: RunFolder, ids: list[int]) -> list[SamplePrompt]:
    """The rows to show, whole, in the order of ``ids``."""
    if not ids:
        return []
    data = run.dataset(TABLE)
    columns = [c for c in _SHOWN if c in data.schema.names]
    table = data.to_table(columns=columns, filter=pads.field("row_id").isin(ids), batch_size=_BATCH)
    rows = {row["row_id"]: _view(row_from_dict(row)) for row in table.to_pylist()}
    return [rows[i] for i in ids]


def _view(row: Row) -> SamplePrompt:
    candidates = []
    counts: Counter[str] = Counter()
    for candidate in row.candidates:
        index, plan = counts[candidate.plan], candidate.plan
        counts[plan] += 1
        chosen = [s.system for s in row.selections if s.plan == plan and s.index == index]
        scores = [(s.scorer, s.values[index]) for s in row.scores if s.plan == plan and index < len(s.values or [])]
        candidates.append(CandidateView(index, candidate, chosen, scores))
    games: dict[tuple[str, str, str, str], dict[str, Game]] = defaultdict(dict)
    for game in row.games:
        games[game.system, game.opponent, game.judge, game.template][game.order] = game
    matches = []
    for (system, opponent, _, _), orders in games.items():
        scores_of = [g.score for g in orders.values()]
        valid = [s for s in scores_of if s is not None]
        mean = sum(valid) / len(valid) if valid and len(valid) == len(scores_of) else None
        matches.append(Match(system, opponent, orders.get("ab"), orders.get("ba"), mean))
    return SamplePrompt(
        row=row,
        candidates=candidates,
        new_texts=[s for s in row.selections if s.index == -1 and s.text is not None],
        without_choice=[s.system for s in row.selections if s.text is None],
        matches=matches,
    )


def _spread(first: dict[str, list[int]], n: int) -> list[int]:
    """``n`` row ids, taken from the languages in turn, each language's lowest first: nobody picked them by hand."""
    queues = [sorted(first[name]) for name in sorted(first)]
    ranked = [(rank, lane, row_id) for lane, queue in enumerate(queues) for rank, row_id in enumerate(queue)]
    return [row_id for _, _, row_id in sorted(ranked)[:n]]


def _keep_smallest(kept: list[int], value: int, n: int) -> None:
    if len(kept) < n:
        kept.append(value)
    elif n and value < max(kept):
        kept[kept.index(max(kept))] = value
