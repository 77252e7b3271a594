"""What must hold inside a run's tables, whatever the engine: no model is needed to find what was tampered with."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.core.columns import Ints
from pipeline.core.errors import InputError
from pipeline.core.folder import TABLES, RunFolder
from pipeline.core.hashing import digest
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
        if "files" not in marker:
            yield Problem("files", "the completion marker does not say what the table's files are", table=table)
        for line in run.changes(table, thorough=True):
            yield Problem("files", line, table=table)


def check_tables(run: RunFolder) -> Iterator[Problem]:
    """Go over every finished table once, in batches; memory holds some 32 bytes a row and table.

    A table holds all rows of the one before it, each once, with the same prompts, candidates and selections; a
    selection's text is that of the candidate it names, and its score that candidate's; a scorer has one number for
    each candidate; a game's verdict goes with its score.
    """
    earlier: _Prints | None = None
    for table in TABLES:
        marker = run.marker(table)
        if marker is None:
            continue
        seen = _Prints(table)
        try:
            for item in run.iter_rows(table, _COLUMNS, batch_size=256):
                row = row_from_dict({k: v for k, v in item.items() if v is not None})
                seen.add(row)
                if earlier is not None:
                    yield from seen.changed(row, earlier)
                yield from _check_row(row, table)
        except InputError as error:
            yield Problem("files", str(error), table=table)
            continue
        if len(seen.ids) != marker["rows"]:
            yield Problem("rows", f"the marker says {marker['rows']} rows, the files hold {len(seen.ids)}", table=table)
        if doubled := len(seen.ids) - len(np.unique(np.frombuffer(seen.ids, np.int64))):
            yield Problem("rows", f"{doubled} rows are there more than once", table=table)
        earlier = seen


class _Prints:
    """A table's rows as 32 bytes each: their ids, and hashes of their prompts, candidates and selections."""

    def __init__(self, table: str) -> None:
        self.table = table
        self.ids, self.prompts, self.pools, self.chosen = array("q"), array("Q"), array("Q"), array("Q")
        self._places: dict[str, Any] = {}

    def add(self, row: Row) -> None:
        self.ids.append(row.row_id)
        self.prompts.append(int(digest(row.prompt_id, row.messages, size=8), 16))
        self.pools.append(int(digest([vars(c) for c in row.candidates], size=8), 16))
        self.chosen.append(int(digest([vars(s) for s in row.selections], size=8), 16))

    def changed(self, row: Row, earlier: _Prints) -> Iterator[Problem]:
        """What of the row that was added last is not as in the table before."""
        at = earlier.place(row.row_id)
        if at is None:
            yield Problem("rows", f"{earlier.table}/ has no such row", row.prompt_id, self.table)
            return
        if earlier.prompts[at] != self.prompts[-1]:
            yield Problem("prompt", f"the prompt differs from that in {earlier.table}/", row.prompt_id, self.table)
        sampled = self.table == "candidates"  # where candidates are added
        if earlier.pools[at] != self.pools[-1] and not sampled:
            yield Problem("candidates", f"candidates differ from those in {earlier.table}/", row.prompt_id, self.table)
        if earlier.chosen[at] != self.chosen[-1] and self.table == "games":
            yield Problem("selections", f"selections differ from those in {earlier.table}/", row.prompt_id, self.table)

    def place(self, row_id: int) -> int | None:
        """Where a row is, once all are added."""
        if not self._places:
            ids: Ints = np.frombuffer(self.ids, np.int64)
            order = np.argsort(ids)
            self._places = {"order": order, "ids": ids[order]}
        at = int(np.searchsorted(self._places["ids"], row_id))
        return int(self._places["order"][at]) if at < len(self.ids) and self._places["ids"][at] == row_id else None


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
