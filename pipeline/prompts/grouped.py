"""Sources with one row per answer: rows that share an id become one prompt with its candidates."""

from __future__ import annotations

import bisect
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.core.errors import ConfigError, InputError
from pipeline.prompts.columns import map_columns
from pipeline.prompts.files import Piece, Record
from pipeline.prompts.given import at_path
from pipeline.prompts.rows import Indices
from pipeline.prompts.scan import hash64
from pipeline.prompts.sources import FileSource, SourceConfig
from pipeline.prompts.types import json_types
from pipeline.prompts.values import as_text

ROWS = "lemonpress_rows"
"""Field of ``source`` in such tables: list<int64>, the candidates' positions in the files, in reading order."""

_BATCH = 1000
_OF_CANDIDATES = {"model": str, "finish_reason": str, "reasoning": str, "logprob": float, "num_tokens": int}


@dataclass
class GroupedPiece(Piece):
    """All pieces of a source as one, in which a row is a group of their rows; nothing but positions is in memory.

    Attributes:
        pieces, starts: the pieces, and the position of the first row of each.
        mapped: as in :class:`~pipeline.prompts.columns.Layout`; ``given`` is the column of the answers.
        path: where in an answer's struct its text is.
        order, ends: row positions sorted by group, and where each group ends [groups].
    """

    pieces: Sequence[Piece] = ()
    starts: Sequence[int] = ()
    mapped: dict[str, str] | None = None
    path: Sequence[str] = ("text",)
    order: Indices | None = None
    ends: Indices | None = None

    @property
    def schema(self) -> pa.Schema:
        names = dict.fromkeys((self.mapped or {}).values())
        return pa.schema([*((name, pa.null()) for name in names), (ROWS, pa.list_(pa.int64()))])

    def tables(self) -> Iterator[pa.Table]:
        """The groups in batches: the positions of their rows."""
        assert self.order is not None and self.ends is not None
        for first in range(0, len(self.ends), _BATCH):
            ends = self.ends[first : first + _BATCH]
            start = int(self.ends[first - 1]) if first else 0
            offsets = np.concatenate([[start], ends]) - start
            rows = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(self.order[start : int(ends[-1])]))
            yield pa.table({ROWS: rows})

    def records(
        self, table: pa.Table, names: Iterable[str], before: int = 0
    ) -> Iterator[tuple[int, Record, str | None]]:
        """Each group's prompt, from its first row, with the list of its answers.

        Raises:
            InputError: a group's rows hold different prompts.
        """
        mapped = self.mapped or {}
        groups: list[list[int]] = table[ROWS].to_pylist()
        wanted = [*dict.fromkeys(mapped.values()), *_OF_CANDIDATES]
        found = iter(self._take([row for rows in groups for row in rows], wanted))
        prompt = mapped.get("messages") or mapped["prompt"]
        for i, rows in enumerate(groups):
            items = [next(found) for _ in rows]
            for row, item in zip(rows, items, strict=True):
                if item.get(prompt) != items[0].get(prompt):
                    raise InputError(
                        f"{self.name}: rows {rows[0]} and {row} have one id {items[0].get(mapped['id'])!r:.80} in "
                        f"{mapped['id']!r}, but differ in {prompt!r} (prompts.given.group)"
                    )
            answers = [self._answer(item, mapped) for item in items]
            yield before + i, {**{n: items[0].get(n) for n in mapped.values()}, mapped["given"]: answers}, None

    def _answer(self, item: Record, mapped: dict[str, str]) -> Record:
        own = {
            name: item[name]
            for name, kind in _OF_CANDIDATES.items()
            if name not in mapped.values() and type(item.get(name)) is kind
        }
        value = item.get(mapped["given"])
        return own | ({**value, "text": at_path(value, self.path)} if isinstance(value, dict) else {"text": value})

    def _take(self, rows: Sequence[int], names: Sequence[str]) -> list[Record]:
        """Items of rows by position in the whole source."""
        by_piece: dict[int, list[int]] = {}
        for row in rows:
            by_piece.setdefault(bisect.bisect_right(self.starts, row) - 1, []).append(row)
        items: dict[int, Record] = {}
        for number, mine in by_piece.items():
            local = [row - self.starts[number] for row in mine]
            items.update(zip(mine, self.pieces[number].take(local, names), strict=True))
        return [items[row] for row in rows]


def group_rows(source: SourceConfig, pieces: Sequence[Piece]) -> tuple[SourceConfig, list[Piece]]:
    """The source as one whose rows are the groups, in the order of their first rows; 16 bytes of memory a row.

    Raises:
        ConfigError: a setting does not go with ``prompts.given.group``, or a column does not exist.
    """
    given = source.given
    if given.column is None or given.columns or given.files:
        raise ConfigError("prompts.given.group: needs prompts.given.column, the column with each row's answer, alone")
    if source.columns.id not in (None, given.group):
        raise ConfigError("prompts.columns.id: prompts.given.group is the id already")
    if isinstance(source, FileSource) and source.paths:
        raise ConfigError("prompts.given.group: cannot be used with prompts.paths; set prompts.columns.language")
    names = list(dict.fromkeys([*json_types(pieces), *(n for p in pieces if not p.lines for n in p.schema.names)]))
    mapped = map_columns(source, names)
    hashes, rows, starts, seen = array("Q"), array("q"), [], 0
    for piece in pieces:
        starts.append(seen)
        before = 0
        for table in piece.tables():
            for row, item, _ in piece.records(table, [mapped["id"]], before):
                id_ = as_text(item.get(mapped["id"]))
                hashes.append(hash64(f"\0{seen + row}" if id_ is None else id_))  # without an id: alone
                rows.append(seen + row)
            before += table.num_rows
        seen += before
    positions: Indices = np.frombuffer(rows, np.int64)
    _, first, which = np.unique(np.frombuffer(hashes, np.uint64), return_index=True, return_inverse=True)
    rank = first[which]  # groups are told by where they begin
    order = np.argsort(rank, kind="stable")
    ends: Any = np.append(np.flatnonzero(np.diff(rank[order])) + 1, len(order))
    piece = GroupedPiece(
        name=pieces[0].name if len(pieces) == 1 else f"{pieces[0].name} and {len(pieces) - 1} more",
        opened=None,
        features=pieces[0].features,
        size=sum(piece.size for piece in pieces),
        language=pieces[0].language,
        pieces=pieces,
        starts=starts,
        mapped=mapped,
        path=given.text.split("."),
        order=positions[order],
        ends=ends,
    )
    columns = replace(source.columns, id=given.group)
    return replace(source, columns=columns, given=replace(given, group=None, text="text")), [piece]
