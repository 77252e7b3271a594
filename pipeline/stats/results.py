"""Every table of results that a run (or an outside table of games) allows, in one call: what ``winrate`` stores."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from pipeline.core.errors import InputError
from pipeline.core.folder import RunFolder
from pipeline.stats.audit import audit_table
from pipeline.stats.bradley_terry import bradley_terry
from pipeline.stats.clusters import Bootstrap
from pipeline.stats.facts import SetFacts
from pipeline.stats.games import Games, load_table_games
from pipeline.stats.length_control import length_controlled
from pipeline.stats.prompt_scores import judge_rates
from pipeline.stats.quality import Quality, curves_table, hope_risk_table, load_quality, scores_table
from pipeline.stats.run_games import AUDIT, NoGames, load_run_games
from pipeline.stats.winrate import simultaneous_differences, winrates

if TYPE_CHECKING:  # statistics read settings, and import no config
    from pipeline.config.sections import WinrateConfig


NAMES = (
    "winrates",
    "judge_rates",
    "differences",
    "bradley_terry",
    "length_controlled",
    "audit",
    "scores",
    "curves",
    "hope_risk",
)
"""The tables that there may be."""

_MADE = b"lemonpress results"
"""Key in the metadata of a stored table: what it was computed with."""

MOST_SYSTEMS = 40
"""Systems against one opponent up to which all pairs are compared: 780 pairs at 40, and each keeps its draws."""


@dataclass
class Results:
    """What was computed.

    Attributes:
        games: the games between systems; ``None`` without any.
        quality: the run's metrics, from which the task scores are computed; ``None`` for an outside table of games.
        tables: name -> table with at least one row: ``winrates``, ``judge_rates`` (flips, ties, invalid verdicts),
            ``differences`` (all pairs of systems against one opponent, simultaneous intervals), ``bradley_terry`` (with
            several opponents), ``length_controlled``, ``audit`` (of the judge), ``scores``, ``curves``, ``hope_risk``
            (metrics of the tasks, and candidates' games).
        left_out: table -> why it was not computed, where that is worth knowing.
    """

    games: Games | None = None
    quality: Quality | None = None
    tables: dict[str, pa.Table] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, make: Callable[[], pa.Table]) -> None:
        """Compute one table; what the data does not allow is noted."""
        try:
            table = make()
        except InputError as error:
            self.left_out[name] = str(error)
            return
        if table.num_rows:
            self.tables[name] = table


def with_settings(
    table: pa.Table, settings: WinrateConfig, opponent: str | None, facts: Mapping[str, SetFacts]
) -> pa.Table:
    """A table of results that says what it was computed with, so that it can be computed again."""
    sets = {name: asdict(each) for name, each in facts.items()}
    made = {"settings": asdict(settings), "opponent": opponent, "sets": sets}
    return table.replace_schema_metadata({**(table.schema.metadata or {}), _MADE: json.dumps(made).encode()})


def settings_of(table: pa.Table) -> dict[str, Any] | None:
    """What :func:`with_settings` wrote: settings, opponent and sets; ``None`` where it is missing or damaged."""
    try:
        made = json.loads((table.schema.metadata or {}).get(_MADE, b"null"))
    except (ValueError, RecursionError):
        return None
    return made if isinstance(made, dict) and isinstance(made.get("settings"), dict) else None


def csv_text(table: pa.Table) -> str:
    """A table as it is stored as CSV.

    A spreadsheet takes a cell for a formula that begins with ``= + - @`` (or white space, control or unseen characters
    before them): a text that does, and is no number, gets a ``'`` before it. Columns of numbers stay as they are.
    """
    for i, name in enumerate(table.schema.names):
        if _holds_texts(table.schema.field(i).type):
            table = table.set_column(i, name, no_formula(table.column(i).cast(pa.large_string())))
    sink = pa.BufferOutputStream()
    pacsv.write_csv(table, sink)
    return str(sink.getvalue().to_pybytes(), "utf-8")


def _holds_texts(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _holds_texts(kind.value_type)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def no_formula(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    """Texts (strings or large strings) that no spreadsheet takes for formulas."""
    # \s is ASCII's here; the last five are drawn as nothing, and Unicode calls them letters or marks
    before = r"[\s\p{Cc}\p{Z}\p{Cf}\x{034F}\x{115F}\x{1160}\x{3164}\x{FFA0}]*"
    acts = pc.match_substring_regex(texts, rf"^{before}[=+\-@\x{{FF1D}}\x{{FF0B}}\x{{FF0D}}\x{{FF20}}]|^[\t\r\n]")
    number = pc.match_substring_regex(texts, r"^[+-]?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?$")
    sign, nothing = (pa.scalar(text, texts.type) for text in ("'", ""))
    return pc.if_else(pc.and_not(acts, number), pc.binary_join_element_wise(sign, texts, nothing), texts)


def run_results(
    run: RunFolder, settings: WinrateConfig, opponent: str | None = None, facts: Mapping[str, SetFacts] | None = None
) -> Results:
    """The results of a run, of which at least ``selections`` is finished.

    Args:
        facts: of its candidate sets.
        opponent: the system that Bradley-Terry strengths are relative to; default: the first opponent by name.

    Raises:
        UnfinishedTableError: neither ``games`` nor ``selections`` is finished.
        InputError: a game is malformed.
    """
    results = Results()
    bootstrap = _bootstrap(settings)
    if run.marker("games") is not None:
        try:
            results.games = load_run_games(run)
        except NoGames:
            pass
        else:
            _game_tables(results, results.games, settings, opponent)
        try:
            audit = load_run_games(run, AUDIT)
        except NoGames:
            pass
        else:
            results.add("audit", lambda: audit_table(audit, bootstrap))
    quality = results.quality = load_quality(run, facts)
    results.add("scores", lambda: scores_table(quality, settings.base, bootstrap))
    results.add("curves", lambda: curves_table(quality))
    results.add("hope_risk", lambda: hope_risk_table(quality, bootstrap))
    return results


def outside_results(path: str, settings: WinrateConfig, opponent: str | None = None) -> Results:
    """The results of a flat table of games that were judged elsewhere.

    Raises:
        InputError: the table cannot be used (:func:`~pipeline.stats.games.load_table_games`).
    """
    results = Results(load_table_games(path))
    assert results.games is not None
    _game_tables(results, results.games, settings, opponent)
    return results


def _bootstrap(settings: WinrateConfig) -> Bootstrap:
    return Bootstrap(settings.draws, settings.confidence, settings.seed)


def _game_tables(results: Results, games: Games, settings: WinrateConfig, opponent: str | None) -> None:
    draws, confidence, seed = settings.draws, settings.confidence, settings.seed
    results.add("winrates", lambda: winrates(games, draws, confidence, seed))
    results.add("judge_rates", lambda: judge_rates(games))
    for theirs, judge in sorted({(c.opponent, c.judge) for c in games.comparisons}):
        part = Results()
        systems = {c.system for c in games.comparisons if (c.opponent, c.judge) == (theirs, judge)}
        if len(systems) > MOST_SYSTEMS:
            part.left_out["differences"] = f"{len(systems)} systems make too many pairs (up to {MOST_SYSTEMS} systems)"
        elif len(systems) > 1:
            part.add(
                "differences",
                lambda o=theirs, j=judge: simultaneous_differences(  # type: ignore[misc]
                    games, None, o, j, draws=draws, confidence=confidence, seed=seed
                ),
            )
        for name, table in part.tables.items():
            known = results.tables.get(name)
            results.tables[name] = table if known is None else pa.concat_tables([known, table])
        results.left_out |= part.left_out
    opponents = {c.opponent for c in games.comparisons}
    if len(opponents) > 1:  # with one opponent it is only logit(win-rate)
        anchor = opponent if opponent in opponents else min(opponents)
        results.add(
            "bradley_terry", lambda: bradley_terry(games, str(anchor), draws=draws, confidence=confidence, seed=seed)
        )
    results.add("length_controlled", lambda: length_controlled(games, confidence))
