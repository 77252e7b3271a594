"""The rows of a source as prompts, and the first look at them: which are kept and which repeat, a few numbers a row."""

from __future__ import annotations

import hashlib
import json
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.core.columns import Ints
from pipeline.core.errors import InputError, first_line
from pipeline.core.hashing import digest
from pipeline.core.languages import RESERVED, is_among
from pipeline.core.row import Message
from pipeline.core.tables import give_back
from pipeline.prompts.columns import NOTHING, Layout, as_text, clean, conversation
from pipeline.prompts.piece import Chunk, Piece, Record
from pipeline.prompts.sources import SourceConfig

_SHOWN = 10  # duplicates in the report
_EXPLICIT, _BAD = 1, 2  # flags of a row

Hashes = npt.NDArray[np.uint64]


@dataclass
class Batch:
    """Some neighbouring rows of a piece; ``start`` is the first one's position, ``items`` are their mapped columns."""

    piece: Piece
    start: int
    chunk: Chunk
    items: list[Record]


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
            start = 0
            for chunk in piece.chunks():
                yield Batch(piece, start, chunk, chunk.records(self._layout.mapped.values()))
                start += len(chunk.table)

    def kept(self, positions: Ints) -> Iterator[tuple[Batch, list[int]]]:
        """The batches that hold rows at these (ascending) positions, each with their offsets in it."""
        done = seen = 0
        for batch in self.batches():
            if done == len(positions):
                return
            end = done + int(np.searchsorted(positions[done:], seen + len(batch.items)))
            if end > done:
                yield batch, [int(p) - seen for p in positions[done:end]]
            done, seen = end, seen + len(batch.items)

    def text(self, batch: Batch, offset: int, role: str, problems: list[str] | None = None) -> str | None:
        """One mapped column as text, or ``None`` where there is none."""
        column = self._layout.mapped.get(role)
        value = as_text(batch.items[offset].get(column)) if column else None
        return clean(value, column or "", [] if problems is None else problems)

    def language(self, batch: Batch, offset: int, problems: list[str] | None = None) -> str | None:
        """The row's language."""
        found = (self.text(batch, offset, "language", problems) or "").strip()
        return found or batch.piece.language or self._source.language

    def prompt(self, batch: Batch, offset: int) -> Prompt:
        """The whole prompt."""
        problems = ["lone surrogates were replaced by U+FFFD"] if offset in batch.chunk.lines else []
        messages = self._messages(batch.items[offset], problems)
        system = self._source.system
        if system and messages and not any(turn["role"] in ("system", "developer") for turn in messages):
            messages.insert(0, {"role": "system", "content": system})
        by_row = self._source.columns.cluster == "@row"
        return Prompt(
            messages=messages,
            language=self.language(batch, offset, problems),
            task=self.text(batch, offset, "task", problems) or self._source.task,
            reference=self.text(batch, offset, "reference", problems),
            prompt_id=self.text(batch, offset, "id", problems),
            cluster=str(batch.start + offset) if by_row else self.text(batch, offset, "cluster", problems),
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

    def original(self, batch: Batch, offset: int) -> str:
        """What the mapped columns of a row held, as JSON text; the whole line where surrogates were replaced."""
        return batch.chunk.lines.get(offset) or json.dumps(batch.items[offset], ensure_ascii=False, default=str)

    def source_array(self, batch: Batch, offsets: list[int]) -> pa.StructArray:
        """The ``source`` struct of some rows of a batch.

        Raises:
            InputError: a value does not fit the column's type.
        """
        fields, taken = list(self._layout.source), pa.array(offsets, pa.int64())
        if not self._layout.others:
            return pa.StructArray.from_arrays([pa.array([batch.start + i for i in offsets], pa.int64())], fields=fields)
        try:
            columns = [batch.chunk.column(f.name, f.type, f.name in self._layout.as_json).take(taken) for f in fields]
        except (pa.ArrowException, OverflowError) as error:
            raise InputError(f"{batch.piece.name}: a column does not keep to one type: {first_line(error)}") from error
        return pa.StructArray.from_arrays(columns, fields=fields)


@dataclass
class Repeats:
    """Entries that repeat an earlier one: int64 [number of them] each, ascending by ``entry``.

    Attributes:
        entry: their indices.
        first: index of the first equal entry.
        before: how many equal entries come before.
    """

    entry: Ints
    first: Ints
    before: Ints

    def among(self, start: int, end: int) -> dict[int, int]:
        """Entry -> how many equal ones come before it, for the repeats among the entries [start, end)."""
        low, high = np.searchsorted(self.entry, [start, end])
        return dict(zip(self.entry[low:high].tolist(), self.before[low:high].tolist(), strict=True))


@dataclass
class Scan:
    """What the first look at the rows found, a few numbers per kept row.

    Attributes:
        positions: int64 [n], ascending: which rows are kept.
        again: kept rows without an explicit id whose messages, language and task came before among those.
        clusters: number of different clusters.
        bad: number of rows with an error.
        tasks: task -> language -> rows.
        duplicates: (row, first row) of the first repeats; ``n_duplicates`` counts all.
    """

    positions: Ints
    again: Repeats
    clusters: int
    bad: int
    tasks: dict[str, dict[str, int]]
    duplicates: list[tuple[int, int]]
    n_duplicates: int


@dataclass
class _Kept:
    """The numbers that the scan collects, one entry a kept row."""

    positions: array[int] = field(default_factory=lambda: array("q"))
    content: array[int] = field(default_factory=lambda: array("Q"))
    ids: array[int] = field(default_factory=lambda: array("Q"))
    clusters: array[int] = field(default_factory=lambda: array("Q"))
    flags: bytearray = field(default_factory=bytearray)
    tasks: Counter[tuple[str, str]] = field(default_factory=Counter)


class _ClusterLimit:
    """Lets the rows of the first so many clusters pass; a row without cluster and id is a cluster of its own."""

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._seen: set[int] = set()

    def admits(self, key: str | None) -> bool:
        if self._limit is None:
            return True
        hashed = -1 - len(self._seen) if key is None else hash64(key)
        if hashed not in self._seen and len(self._seen) >= self._limit:
            return False
        self._seen.add(hashed)
        return True


def scan(source: SourceConfig, rows: Rows) -> Scan:
    """Go over the rows once: which are kept, which repeat.

    Raises:
        InputError: an explicit id repeats, or no row is left.
    """
    kept, other_languages = _collect(source, rows)
    n = len(kept.positions)
    if not n:
        found = f"; languages found: {', '.join(sorted(other_languages))}" if other_languages else ""
        raise InputError(f"{NOTHING} that the config keeps{found}")
    positions = np.frombuffer(kept.positions, np.int64)
    flags = np.frombuffer(kept.flags, np.uint8)
    content = np.frombuffer(kept.content, np.uint64)
    explicit = (flags & _EXPLICIT) > 0
    _refuse_repeats(rows, positions, np.flatnonzero(explicit), np.frombuffer(kept.ids, np.uint64))
    derived = np.flatnonzero(~explicit)
    again = repeats(content[derived])
    again.entry, again.first = derived[again.entry], derived[again.first]
    clusters = len(np.unique(np.frombuffer(kept.clusters, np.uint64)))
    good = np.flatnonzero((flags & _BAD) == 0)
    repeated = repeats(content[good])
    give_back()
    shown = zip(good[repeated.entry[:_SHOWN]].tolist(), good[repeated.first[:_SHOWN]].tolist(), strict=True)
    return Scan(
        positions=positions,
        again=again,
        clusters=clusters,
        bad=n - len(good),
        tasks=nested(kept.tasks),
        duplicates=list(shown),
        n_duplicates=len(repeated.entry),
    )


def _collect(source: SourceConfig, rows: Rows) -> tuple[_Kept, set[str]]:
    """The numbers of every kept row, and the languages of the rows that ``languages`` leaves out."""
    kept, others = _Kept(), set()
    limit = _ClusterLimit(source.limit_clusters)
    pairs = ((batch, offset) for batch in rows.batches() for offset in range(len(batch.items)))
    for position, (batch, offset) in enumerate(pairs):
        if source.limit is not None and len(kept.positions) >= source.limit:
            break
        language = rows.language(batch, offset)
        if language in RESERVED:
            raise InputError(reserved(language, f"{batch.piece.name}, row {batch.start + offset} (from 0)"))
        if not is_among(language, source.languages):
            others.add(language or "und")
            continue
        prompt = rows.prompt(batch, offset)
        if limit.admits(prompt.cluster_key() or prompt.prompt_id):
            kept.positions.append(position)
            _note(kept, prompt)
    return kept, others


def reserved(language: str, where: str) -> str:
    """Why this language is refused."""
    return f"{where}: the language {language!r}: results call the rows over all languages so; map or rename it"


def _note(kept: _Kept, prompt: Prompt) -> None:
    content = int(prompt.derived_id()[:16], 16)
    id_hash = content if prompt.prompt_id is None else hash64(prompt.prompt_id)
    kept.content.append(content)
    kept.ids.append(id_hash)
    kept.clusters.append(hash64(prompt.cluster_key() or f"row {len(kept.positions)}"))
    flags = (_EXPLICIT, prompt.prompt_id is not None), (_BAD, bool(prompt.problems))
    kept.flags.append(sum(flag for flag, is_set in flags if is_set))
    kept.tasks[prompt.task, prompt.language or "und"] += 1


def nested(rows: Counter[tuple[str, str]]) -> dict[str, dict[str, int]]:
    """Task -> language -> rows, both sorted."""
    found: dict[str, dict[str, int]] = {}
    for (task, language), count in sorted(rows.items()):
        found.setdefault(task, {})[language] = count
    return found


def hash64(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).digest())


def repeats(hashes: Hashes) -> Repeats:
    """The repeats among some hashes; needs 17 bytes an entry, and more only for those that repeat."""
    order = np.argsort(hashes, kind="stable")
    ordered = hashes[order]
    places = np.flatnonzero(ordered[1:] == ordered[:-1]) + 1
    starts = np.searchsorted(ordered, ordered[places])
    entry, first, before = order[places], order[starts], places - starts
    ascending = np.argsort(entry)
    return Repeats(entry[ascending], first[ascending], before[ascending])


def _refuse_repeats(rows: Rows, positions: Ints, explicit: Ints, ids: Hashes) -> None:
    found = repeats(ids[explicit])
    if not len(found.entry):
        return
    pairs = [(int(explicit[a]), int(explicit[b])) for a, b in zip(found.first[:5], found.entry[:5], strict=True)]
    batch, offsets = next(rows.kept(positions[pairs[0][1] :][:1]))
    name = rows.text(batch, offsets[0], "id")
    shown = ", ".join(f"{a} and {b}" for a, b in pairs) + (", ..." if len(found.entry) > len(pairs) else "")
    raise InputError(
        f"prompts.columns.id: prompt ids must be unique, but {len(found.entry)} repeat: rows {shown} (first: {name!r}; "
        "rows count from 0); where translations share an id, map that column as prompts.columns.cluster instead"
    )
