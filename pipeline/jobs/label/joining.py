"""Which row of the run belongs to which row of the input."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc

from pipeline.core.columns import Ints
from pipeline.core.folder import RunFolder
from pipeline.prompts.columns import find_layout
from pipeline.prompts.given import ROWS
from pipeline.prompts.piece import Piece
from pipeline.prompts.scan import Rows, hash64, scan
from pipeline.prompts.sources import SourceConfig
from pipeline.prompts.write import prompt_id


@dataclass
class Join:
    """Per row of the input, by position in the whole input.

    Attributes:
        row_ids: the run's row, -1 = none; ``None`` = the position itself, as far as the run goes.
        rows: of the run.
        places: position among the prompt's answers; ``None`` where a row is a prompt.
    """

    row_ids: Ints | None
    rows: int
    places: Ints | None = None

    def of(self, positions: Ints) -> Ints:
        """The run's rows of some positions, -1 = none."""
        if self.row_ids is None:
            return np.where(positions < self.rows, positions, -1)
        return self.row_ids[positions]


def join_rows(source: SourceConfig, pieces: Sequence[Piece], run: RunFolder) -> Join:
    """Join the input's rows to the run's; blank lines of JSON Lines are no rows."""
    marker = run.marker("prompts") or {}
    if source.given.group is not None:
        return _grouped(run, sum(piece.size for piece in pieces))
    if not marker.get("grown"):
        return Join(None, marker["rows"])
    return Join(_by_id(source, pieces, run), marker["rows"])  # rows that were added later have later ids


def _grouped(run: RunFolder, size: int) -> Join:
    ids, places = np.full(size, -1, np.int64), np.full(size, -1, np.int64)
    rows = 0
    for batch in run.dataset("prompts").batches(["row_id", "source"]):
        lists = pc.struct_field(batch.column("source"), ROWS)
        parents, positions = pc.list_parent_indices(lists).to_numpy(), pc.list_flatten(lists).to_numpy()
        ids[positions] = batch.column("row_id").to_numpy()[parents]
        starts = np.searchsorted(parents, parents)
        places[positions] = np.arange(len(parents)) - starts
        rows += len(batch)
    return Join(ids, rows, places)


def _by_id(source: SourceConfig, pieces: Sequence[Piece], run: RunFolder) -> Ints:
    rows = Rows(source, pieces, find_layout(source, pieces))
    found = scan(source, rows)
    hashes, seen = array("Q"), 0
    for batch, offsets in rows.kept(found.positions):
        times = found.again.among(seen, seen + len(offsets))
        for row, offset in enumerate(offsets, seen):
            hashes.append(hash64(prompt_id(rows.prompt(batch, offset), times.get(row, 0))))
        seen += len(offsets)
    known = run.table("prompts", ["row_id", "prompt_id"])
    theirs = np.array([hash64(name) for name in known["prompt_id"].to_pylist()], np.uint64)
    order = np.argsort(theirs)
    mine = np.frombuffer(hashes, np.uint64)
    at = order[np.minimum(np.searchsorted(theirs[order], mine), len(order) - 1)]
    return np.where(theirs[at] == mine, known["row_id"].to_numpy()[at], -1)
