"""Everything that a run (or an outside table of games) says in numbers: computed once, stored, and read by all others.

``winrate`` reads the run's last table once (:func:`compute`) and stores what it found (:func:`store`): every table of
:data:`TABLES` as Parquet and CSV, and ``results.json``, which also says what the numbers were computed with. Whoever
shows a number takes it from there (:func:`results_of`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from itertools import combinations
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config.config import Config, to_dict
from pipeline.config.sections import WinrateConfig
from pipeline.core.errors import InputError
from pipeline.core.folder import RunFolder
from pipeline.core.hashing import digest
from pipeline.stats.audit import Audit, audit_rows
from pipeline.stats.bradley_terry import Strength, bradley_terry
from pipeline.stats.clusters import Bootstrap
from pipeline.stats.contests import Contest, contests
from pipeline.stats.costs import StageCost, StageCosts, engines_of
from pipeline.stats.counts import Agreement, Choices, Overview, OverviewBuilder, SelectorCounts
from pipeline.stats.facts import Facts, facts_of
from pipeline.stats.failures import Causes, Failure, failures
from pipeline.stats.games import Games, PromptKey, load_table_games, state_of
from pipeline.stats.length_control import LengthControlled, length_controlled
from pipeline.stats.picks import Pick, Picker
from pipeline.stats.pools import Quality, QualityBuilder
from pipeline.stats.quality import (
    Curve,
    HopeRisk,
    Score,
    ScoreDifference,
    curves,
    hopes_and_risks,
    score_differences,
    scores,
)
from pipeline.stats.reading import read_batches, results_table, rows_of
from pipeline.stats.run_games import AUDIT, GamesReader
from pipeline.stats.system_costs import SystemCost, SystemCosts, gains
from pipeline.stats.tables import csv_text, objects_of, table_of
from pipeline.stats.task_scores import TaskScores, task_scores
from pipeline.stats.winrate import KEPT, MOST_SYSTEMS, WINRATES, Difference, WinRate, differences, win_rates
from pipeline.stats.winrate import contests as contests_of

_STORED = "results.json"
_SECTIONS = ("seed", "engines", "sampling", "plans", "tasks", "policy", "selectors", "answers", "judge", "winrate")

TABLES: dict[str, type[Any]] = {
    "judge_rates": WinRate,
    "differences": Difference,
    "bradley_terry": Strength,
    "length_controlled": LengthControlled,
    "audit": Audit,
    "scores": Score,
    "score_differences": ScoreDifference,
    "curves": Curve,
    "hope_risk": HopeRisk,
    "choices": SelectorCounts,
    "agreement": Agreement,
    "failures": Failure,
    "stages": StageCost,
    "system_costs": SystemCost,
}
"""The tables that there may be, and what a row of each is; ``winrates`` is some columns of ``judge_rates``."""


@dataclass(frozen=True)
class Basis:
    """What results depend on besides the run's tables: enough to compute them again."""

    settings: WinrateConfig
    facts: Facts

    @classmethod
    def of(cls, config: Config) -> Basis:
        """A config's."""
        return cls(config.winrate, facts_of(config))

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Basis:
        """What ``asdict`` gave."""
        return cls(WinrateConfig(**data["settings"]), Facts.from_json(data["facts"]))

    @property
    def bootstrap(self) -> Bootstrap:
        return Bootstrap(self.settings.draws, self.settings.confidence, self.settings.seed)


@dataclass
class Results:
    """What was computed: the tables (:data:`TABLES`) by their names, as lists of their rows.

    Attributes:
        overview: what the run's table holds; ``None`` for an outside table of games alone.
        picks: prompts to read.
        left_out: table -> why it was not computed, where that is worth knowing.
        is_stored: they were read from the run's folder, or written to it.
    """

    basis: Basis
    overview: Overview | None = None
    picks: list[Pick] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    is_stored: bool = False
    judge_rates: list[WinRate] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)
    bradley_terry: list[Strength] = field(default_factory=list)
    length_controlled: list[LengthControlled] = field(default_factory=list)
    audit: list[Audit] = field(default_factory=list)
    scores: list[Score] = field(default_factory=list)
    score_differences: list[ScoreDifference] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)
    hope_risk: list[HopeRisk] = field(default_factory=list)
    choices: list[SelectorCounts] = field(default_factory=list)
    agreement: list[Agreement] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    stages: list[StageCost] = field(default_factory=list)
    system_costs: list[SystemCost] = field(default_factory=list)

    @property
    def has_numbers(self) -> bool:
        """Whether there were games or metrics to compute anything from."""
        return bool(self.judge_rates or self.audit or self.scores or self.curves)

    def tables(self) -> dict[str, pa.Table]:
        """Name -> table, of those with a row; ``winrates`` first."""
        found = {name: table_of(kind, rows) for name, kind in TABLES.items() if (rows := getattr(self, name))}
        if self.judge_rates:
            kept = (rate for rate in self.judge_rates if rate.fallbacks == KEPT)
            found = {"winrates": table_of(WinRate, kept).select(WINRATES), **found}
        return found

    def contests(self, config: Config) -> list[Contest]:
        """Who stands where against whom."""
        return contests(self.judge_rates, self.differences, config, self.basis.facts)

    def tasks(self) -> list[TaskScores]:
        """The task scores, task by task."""
        return task_scores(self.scores, self.score_differences, self.basis.facts, self.basis.settings.base)

    def attempt(self, name: str, make: Callable[[], Iterable[Any]]) -> None:
        """Compute one table; what the data does not allow is noted."""
        try:
            setattr(self, name, list(make()))
        except InputError as error:
            self.left_out[name] = str(error)


def results_of(run: RunFolder, config: Config) -> Results:
    """What ``winrate`` stored; computed where it has not run since the config or the run's tables changed.

    Raises:
        UnfinishedTableError, InputError: as :func:`compute`.
    """
    stored = run.read_json(_STORED)
    if not isinstance(stored, dict) or stored.get("key") != _key(run, config):
        return compute(run, config)
    overview = None if stored["overview"] is None else Overview(**stored["overview"])
    picks = [(row_id, why) for row_id, why in stored["picks"]]
    results = Results(Basis.of(config), overview, picks, stored["left_out"], is_stored=True)
    for name, kind in TABLES.items():
        if (table := run.read_table(f"{name}.parquet")) is not None:
            setattr(results, name, objects_of(kind, table, run.path(f"{name}.parquet")))
    return results


def store(run: RunFolder, config: Config, results: Results) -> None:
    """Write results into the run's folder; tables of earlier ones that are no more go."""
    tables = results.tables()
    run.remove_file(_STORED)  # until the tables are whole, none of them counts
    for name in ("winrates", *TABLES):
        if name in tables:
            store_table(run, name, tables[name])
        else:
            run.remove_file(f"{name}.parquet")
            run.remove_file(f"{name}.csv")
    overview = None if results.overview is None else asdict(results.overview)
    kept = {"overview": overview, "picks": results.picks, "left_out": results.left_out}
    run.write_json({"key": _key(run, config), "basis": asdict(results.basis), **kept}, _STORED)
    results.is_stored = True


def stored_basis(run: RunFolder) -> Basis | None:
    """What the stored results were computed with; ``None`` where that is missing or damaged."""
    try:
        return Basis.from_json((run.read_json(_STORED) or {})["basis"])
    except (InputError, KeyError, TypeError, ValueError, AttributeError):
        return None


def store_table(run: RunFolder, name: str, table: pa.Table) -> None:
    """Write a table of results into the run's folder, as ``.parquet`` and ``.csv``."""
    run.make()
    with run.whole(f"{name}.parquet") as path, run.fs.open_output_stream(path) as stream:
        pq.write_table(table, stream)
    run.write_text(csv_text(table), f"{name}.csv")


def _key(run: RunFolder, config: Config) -> str:
    """What tells results from those of another config, or of other tables."""
    settings = [to_dict(getattr(config, name)) for name in _SECTIONS]
    table, outside = results_table(run, config), config.winrate.games
    made_from = [table, run.marker(table), state_of(outside) if outside else None]
    return str(digest(settings, list(facts_of(config).sets), config.report.samples, made_from))


def compute(run: RunFolder, config: Config, basis: Basis | None = None) -> Results:
    """The results of a run, or of the outside table that ``winrate.games`` names, beside what the run's table holds.

    Args:
        basis: default: the config's.

    Raises:
        UnfinishedTableError: ``judge`` (or without games and outside answers ``select``) has not finished.
        InputError: a table cannot be used, or a game is malformed.
    """
    results = Results(basis or Basis.of(config))
    settings, facts, bootstrap = results.basis.settings, results.basis.facts, results.basis.bootstrap
    table = results_table(run, config)
    if settings.games and run.marker(table) is None:
        _games(results, load_table_games(settings.games), {})
        return results
    games, audit, quality = GamesReader(), GamesReader(AUDIT), QualityBuilder(facts)
    overview, choices, causes, stages, costs = OverviewBuilder(), Choices(), Causes(), StageCosts(), SystemCosts(config)
    picker = Picker(config.report.samples, settings.base, facts)
    for batch in read_batches(run, table):
        games.add(batch)
        audit.add(batch)
        for row in rows_of(batch):
            quality.add(row)
            overview.add(row)
            choices.add(row)
            causes.add(row)
            stages.add(row)
            costs.add(row)
            picker.add(row, quality.main(row.task))
    results.overview, results.picks = overview.finish(), picker.finish()
    results.choices, results.agreement = choices.finish()
    results.failures = failures(causes.found)
    results.stages = stages.finish(config, engines_of(run))
    where = run.path(table)
    if settings.games:
        _games(results, load_table_games(settings.games), choices.fell_back)
    else:
        if (played := games.finish(where)) is not None:
            _games(results, played, choices.fell_back)
        if (audited := audit.finish(where)) is not None:
            results.audit = list(audit_rows(audited, bootstrap))
        _scores(results, quality.finish())
    found = results.contests(config)
    bounds = {row.system for row in results.choices if facts.role(row.system)}
    gained = gains(found, results.tasks(), results.audit)
    results.system_costs = costs.finish(results.stages, results.choices, gained, bounds)
    return results


def _games(results: Results, games: Games, fell_back: dict[str, set[PromptKey]]) -> None:
    settings, bootstrap = results.basis.settings, results.basis.bootstrap
    results.judge_rates = list(win_rates(games, bootstrap, fell_back))
    results.differences = list(differences(games, bootstrap))
    largest = max(map(len, contests_of(games)))
    if largest > MOST_SYSTEMS:
        why = f"{largest} systems make too many pairs (up to {MOST_SYSTEMS} systems)"
        results.left_out["differences"] = why
    opponents = {c.opponent for c in games.comparisons}
    if len(opponents) > 1:  # with one opponent it is only logit(win-rate)
        wanted = results.basis.facts.opponent
        anchor = wanted if wanted in opponents else min(opponents)
        results.attempt("bradley_terry", lambda: bradley_terry(games, str(anchor), bootstrap))
    results.attempt("length_controlled", lambda: length_controlled(games, settings.confidence))


def _scores(results: Results, quality: Quality) -> None:
    settings, facts, bootstrap = results.basis.settings, results.basis.facts, results.basis.bootstrap
    results.scores = list(scores(quality, settings.base, bootstrap, facts))
    for task in results.tasks():
        if 2 <= len(task.contenders) <= MOST_SYSTEMS:
            pairs = list(combinations(task.contenders, 2))
            results.score_differences += score_differences(quality.tasks[task.task], task.main, pairs, bootstrap)
    results.curves = list(curves(quality))
    results.hope_risk = list(hopes_and_risks(quality, bootstrap))
