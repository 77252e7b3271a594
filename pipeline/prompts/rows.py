"""The rows of a source, read as prompts in batches."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.core.errors import InputError
from pipeline.core.hashing import digest
from pipeline.core.row import Message
from pipeline.prompts.columns import Layout
from pipeline.prompts.files import Piece, Record, cause
from pipeline.prompts.sources import SourceConfig
from pipeline.prompts.values import as_text, clean, conversation

Indices = npt.NDArray[np.int64]


@dataclass
class Batch:
    """Some neighbouring rows of a piece.

    Attributes:
        start: position of the first in its piece (blank lines do not count).
        items: each row's mapped columns (or all of them) as Python values.
        replaced: the lines of the rows in which lone surrogates were replaced.
        table: the rows as Arrow, unless they are JSON Lines.
    """

    piece: Piece
    start: int
    items: list[Record]
    replaced: list[str | None]
    table: pa.Table | None = None


@dataclass
class Prompt:
    """One row as read; ``problems`` says what is wrong with it."""

    messages: list[Message]
    language: str | None
    task: str
    reference: str | None
    prompt_id: str | None
    cluster: str | None
    problems: list[str]

    def derived_id(self) -> str:
        return digest(self.messages, self.language, self.task)

    def cluster_key(self) -> str | None:
        """What makes prompts dependent: the source's word for it, else their messages; ``None`` without either."""
        return self.cluster or (digest(self.messages) if self.messages else None)


class Rows:
    """The rows of a source, read as prompts.

    Args:
        source: what is mapped and kept.
        pieces: the opened files.
        layout: which column is what.
    """

    def __init__(self, source: SourceConfig, pieces: Sequence[Piece], layout: Layout) -> None:
        self._source = source
        self._pieces = pieces
        self._layout = layout

    def batches(self) -> Iterator[Batch]:
        """All rows in reading order."""
        for piece in self._pieces:
            start = before = 0
            for table in piece.tables():
                found = list(piece.records(table, self._layout.mapped.values(), before))
                items, replaced = [item for _, item, _ in found], [line for _, _, line in found]
                yield Batch(piece, start, items, replaced, None if piece.lines else table)
                before += table.num_rows
                start += len(found)

    def text(self, batch: Batch, offset: int, role: str, problems: list[str] | None = None) -> str | None:
        """One mapped column as text, or ``None`` where there is none."""
        column = self._layout.mapped.get(role)
        value = as_text(batch.items[offset].get(column)) if column else None
        return clean(value, column or "", [] if problems is None else problems)

    def language(self, batch: Batch, offset: int, problems: list[str] | None = None) -> str | None:
        """The row's language."""
        found = (self.text(batch, offset, "language", problems) or "").strip()
        return found or batch.piece.language or self._source.language

    def cluster(self, batch: Batch, offset: int, problems: list[str] | None = None) -> str | None:
        """The row's explicit cluster."""
        if self._source.columns.cluster == "@row":
            return str(batch.start + offset)
        return self.text(batch, offset, "cluster", problems)

    def prompt(self, batch: Batch, offset: int) -> Prompt:
        """The whole prompt."""
        problems = ["lone surrogates were replaced by U+FFFD"] if batch.replaced[offset] else []
        messages = self._messages(batch.items[offset], problems)
        system = self._source.system
        if system and messages and not any(turn["role"] in ("system", "developer") for turn in messages):
            messages.insert(0, {"role": "system", "content": system})
        return Prompt(
            messages=messages,
            language=self.language(batch, offset, problems),
            task=self.text(batch, offset, "task", problems) or self._source.task,
            reference=self.text(batch, offset, "reference", problems),
            prompt_id=self.text(batch, offset, "id", problems),
            cluster=self.cluster(batch, offset, problems),
            problems=problems,
        )

    def _messages(self, item: Record, problems: list[str]) -> list[Message]:
        if "messages" in self._layout.mapped:
            return conversation(item.get(self._layout.mapped["messages"]), problems)
        value = item.get(self._layout.mapped["prompt"])
        if not isinstance(value, str):
            problems.append(f"the prompt is {'null' if value is None else type(value).__name__ + ', not text'}")
            return []
        return conversation([{"role": "user", "content": value}], problems)

    def kept(self, positions: Indices) -> Iterator[tuple[Batch, list[int]]]:
        """The batches that hold rows at these (ascending) positions, each with their offsets in it."""
        done = seen = 0
        for batch in self.batches():
            if done == len(positions):
                return
            end = done + int(np.searchsorted(positions[done:], seen + len(batch.items)))
            if end > done:
                yield batch, [int(p) - seen for p in positions[done:end]]
            done, seen = end, seen + len(batch.items)

    def original(self, batch: Batch, offset: int) -> str:
        """What the mapped columns of a row held, as JSON text; the whole line where surrogates were replaced."""
        item, names = batch.items[offset], dict.fromkeys(self._layout.mapped.values())
        held = {name: item[name] for name in names if name in item}
        return batch.replaced[offset] or json.dumps(held, ensure_ascii=False, default=str)

    def source_array(self, batch: Batch, offsets: list[int]) -> pa.StructArray:
        """The ``source`` struct of some rows of a batch.

        Raises:
            InputError: a value does not fit the column's type.
        """
        fields = list(self._layout.source)
        try:
            if not self._layout.others:
                columns = [pa.array([batch.start + i for i in offsets], pa.int64())]
            elif batch.table is None:
                columns = [self._json_column(batch, offsets, f) for f in fields]
            else:
                taken = batch.table.take(pa.array(offsets, pa.int64()))
                columns = [_arrow_column(taken, f) for f in fields]
        except (pa.ArrowException, OverflowError) as error:
            raise InputError(f"{batch.piece.name}: a column does not keep to one type: {cause(error)}") from error
        return pa.StructArray.from_arrays(columns, fields=fields)

    def _json_column(self, batch: Batch, offsets: list[int], wanted: pa.Field) -> pa.Array:
        values = [batch.items[i].get(wanted.name) for i in offsets]
        if wanted.name in self._layout.as_json:
            values = [None if v is None else json.dumps(v, ensure_ascii=False) for v in values]
        return pa.array(values, wanted.type)


def _arrow_column(table: pa.Table, wanted: pa.Field) -> pa.Array:
    if wanted.name not in table.column_names:
        return pa.nulls(table.num_rows, wanted.type)
    return table[wanted.name].cast(wanted.type).combine_chunks()
