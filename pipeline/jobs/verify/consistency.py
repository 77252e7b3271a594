"""What must hold inside a run's tables, whatever the engine: no model is needed to find what was tampered with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pipeline.core.errors import InputError
from pipeline.core.folder import RunFolder
from pipeline.core.layers import TABLES
from pipeline.core.policy import NAME as POLICY
from pipeline.core.row import Row, row_from_dict

_COLUMNS = ["row_id", "prompt_id", "messages", "candidates", "scores", "selections", "games"]


@dataclass
class Problem:
    """Something that does not fit together.

    Attributes:
        check: which check it failed.
        message: what is wrong.
        prompt_id: of the row, where it is one row's.
        table: where it was found.
    """

    check: str
    message: str
    prompt_id: str | None = None
    table: str | None = None


def check_files(run: RunFolder) -> Iterator[Problem]:
    """Every byte of every finished table is as its job left it, and no table is there without its marker."""
    listed = run.manifest().get("tables", {})
    later = False
    for table in reversed(TABLES):
        marker = run.marker(table)
        if marker is None:
            there = bool(run.parquet_files(table)) or bool(run.subfolders(table))
            if table in listed or (there and later):
                yield Problem("marker", "was finished, and its completion marker is gone", table=table)
            continue
        later = True
        for line in run.changes(table, thorough=True):
            yield Problem("files", line, table=table)


def check_tables(run: RunFolder) -> Iterator[Problem]:
    """Go over the last finished table once, in batches: it holds what all layers before it do.

    Every row is there once; a selection's text is that of the candidate it names, and its score that candidate's; a
    scorer has one number for each candidate; a game's verdict goes with its score.
    """
    table = next((name for name in reversed(TABLES) if run.marker(name) is not None), None)
    if table is None:
        return
    expected = 0
    try:
        for item in run.iter_rows(table, _COLUMNS, batch_size=256):
            row = row_from_dict({k: v for k, v in item.items() if v is not None})
            if row.row_id != expected:
                yield Problem("rows", f"row {row.row_id} stands where row {expected} belongs", row.prompt_id, table)
            expected += 1
            yield from _check_row(row, table)
    except InputError as error:
        yield Problem("files", str(error), table=table)
        return
    rows = (run.marker(table) or {})["rows"]
    if expected != rows:
        yield Problem("rows", f"the record says {rows} rows, the files hold {expected}", table=table)


def _check_row(row: Row, table: str) -> Iterator[Problem]:
    yield from _check_games(row, table)
    scores = {(score.plan, score.scorer): score.values for score in row.scores}
    for name, times in Counter(selection.system for selection in row.selections).items():
        if times > 1:
            yield Problem("selections", f"{name} has chosen {times} times", row.prompt_id, table)
    for selection in row.selections:
        if selection.plan == POLICY:
            yield from _check_policy(row, selection.text, selection.method, table)
            continue
        pool, index = row.plan(selection.plan), selection.index
        where = f"selection {selection.system}"
        if index is None or index == -1:
            if index is None and selection.text is not None:
                yield Problem("index", f"{where} has a text, but chose nothing", row.prompt_id, table)
        elif not 0 <= index < len(pool):
            yield Problem("index", f"{where} chose {index} of {len(pool)} candidates", row.prompt_id, table)
        elif selection.text != pool[index].text:
            yield Problem("text", f"{where} is not the text of candidate {index}", row.prompt_id, table)
        else:
            values = scores.get((selection.plan, selection.method), ())
            if selection.score is not None and index < len(values) and values[index] != selection.score:
                message = f"{where} has the score {selection.score}, its candidate {values[index]}"
                yield Problem("scores", message, row.prompt_id, table)
    for score in row.scores:
        size = len(row.plan(score.plan))
        if size and len(score.values) != size:
            message = f"{score.scorer} has {len(score.values)} numbers for {size} candidates of {score.plan}"
            yield Problem("scores", message, row.prompt_id, table)


def _check_games(row: Row, table: str) -> Iterator[Problem]:
    """Each game once, with a score in 0..1 that its verdict does not contradict."""
    keys = Counter((g.system, g.opponent, g.judge, g.template, g.order) for g in row.games)
    for (system, opponent, _, _, order), times in keys.items():
        if times > 1:
            message = f"{system} against {opponent} ({order}) is there {times} times"
            yield Problem("games", message, row.prompt_id, table)
    for game in row.games:
        bounds = _SCORES.get(game.verdict or "", (0.0, 1.0))
        fits = game.score is None if bounds is None else game.score is not None and bounds[0] <= game.score <= bounds[1]
        if not fits:
            message = (
                f"{game.system} against {game.opponent} ({game.order}): {game.verdict} with the score {game.score}"
            )
            yield Problem("games", message, row.prompt_id, table)


_SCORES: dict[str, tuple[float, float] | None] = {"win": (0.5, 1.0), "loss": (0.0, 0.5), "invalid": None}
"""Verdict -> the scores that go with it: probabilities of the labels under which it is the most probable one."""


def _check_policy(row: Row, text: str | None, method: str, table: str) -> Iterator[Problem]:
    """The policy's answer, and its baselines', is that of some selector of the row."""
    known: list[Any] = [s.text for s in row.selections if s.plan != POLICY]
    if text is not None and text not in known:
        yield Problem("text", f"selection {POLICY}/{method} is no selector's text", row.prompt_id, table)
