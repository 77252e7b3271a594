"""Answers that exist already become candidates: a column of the source, files with one answer per prompt, or sources
with one row per answer, whose rows with one id become one prompt."""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.core.columns import Ints
from pipeline.core.errors import ConfigError, InputError, nearest
from pipeline.core.row import Candidate
from pipeline.core.schema import COLUMNS
from pipeline.prompts.columns import Layout, as_text, clean, map_columns
from pipeline.prompts.files import local_file, open_file
from pipeline.prompts.formats import from_json
from pipeline.prompts.piece import Chunk, Piece, Record, chunk_of
from pipeline.prompts.report import ReadReport
from pipeline.prompts.scan import Batch, Hashes, Prompt, hash64, repeats
from pipeline.prompts.sources import FileSource, Given, SourceConfig

ROWS = "lemonpress_rows"
"""Field of ``source`` where rows were grouped: list<int64>, their positions in the files, in reading order."""

_BATCH = 1000
_LARGEST = 2.0**63  # num_tokens is an int64; no answer's log-probability comes near it either
_TEXTS = ("text", "model", "finish_reason", "reasoning", "language")
_OF_CANDIDATES = {"model": str, "finish_reason": str, "reasoning": str, "logprob": float, "num_tokens": int}


def given_files(source: SourceConfig, base: Path) -> dict[str, Path]:
    """Model -> file of its answers.

    Raises:
        ConfigError: there is no such file, or the name of the set would break the names of systems.
    """
    if "/" in source.given.name or not source.given.name:
        raise ConfigError(f"prompts.given.name: must be a name without '/', not {source.given.name!r}")
    named = source.given.files.items()
    return {model: local_file(base, name, f"prompts.given.files.{model}") for model, name in named}


class GivenSets:
    """The given candidates of every prompt; counts what did not fit together.

    Args:
        source: its ``given`` says where the answers are.
        files: as :func:`given_files` returns them; each is gone over once, for the rows that its ids are in.
        layout: the source's columns.

    Raises:
        ConfigError: there is no id to join the files on.
        InputError: a file cannot be read, repeats an id, or lacks an answer's path somewhere.
    """

    def __init__(self, source: SourceConfig, files: dict[str, Path], layout: Layout) -> None:
        self._given = source.given
        self._column = layout.mapped.get("given")
        self._in_struct = ["text"] if files else source.given.text.split(".")
        self._bad = self._rows = 0
        if files and "id" not in layout.mapped:
            raise ConfigError(
                "prompts.given.files: answers are joined on the prompts' ids, but the source has no 'prompt_id' "
                "column; set prompts.columns.id"
            )
        self._files = {
            model: AnswerFile(
                path, source.given, source.given.id or layout.mapped["id"], f"prompts.given.files.{model}"
            )
            for model, path in files.items()
        }

    def column(self, batch: Batch, offsets: list[int], prompts: Sequence[Prompt]) -> pa.Array:
        """The ``candidates`` column for some rows of a batch: the files' answers, then the column's."""
        sets: list[list[Candidate]] = [[] for _ in prompts]
        ids = [prompt.prompt_id for prompt in prompts]
        for model, file in self._files.items():
            for candidates, prompt, text in zip(sets, prompts, file.take(ids), strict=True):
                error = f"no answer in {file.path.name}" if text is None else None
                candidates.append(self._candidate(text=text, model=model, language=prompt.language, error=error))
        if self._column:
            for candidates, prompt, offset in zip(sets, prompts, offsets, strict=True):
                value = batch.items[offset].get(self._column)
                candidates += self._in_column(self._column, value, prompt.language)
        for name in self._given.columns:
            for candidates, prompt, offset in zip(sets, prompts, offsets, strict=True):
                answer = {"text": batch.items[offset].get(name), "model": name}
                candidates += self._in_column(name, [answer], prompt.language)
        self._rows += len(prompts)
        return pa.array([[vars(c) for c in candidates] for candidates in sets], COLUMNS["candidates"])

    def count(self, report: ReadReport) -> None:
        """Put into the report what did not fit, once all rows are written."""
        unmatched = {str(f.path): f.answers - f.matched for f in self._files.values()}
        unanswered = {str(f.path): self._rows - f.found for f in self._files.values()}
        report.unmatched = {name: n for name, n in unmatched.items() if n}
        report.unanswered = {name: n for name, n in unanswered.items() if n}
        report.bad_answers = self._bad

    def _candidate(self, **fields: Any) -> Candidate:
        return Candidate(plan=self._given.name, origin="given", **fields)

    def _in_column(self, column: str, value: Any, language: str | None) -> Iterator[Candidate]:
        if value is None or value == "":
            return
        answers = from_json(value)
        if not isinstance(answers, list):
            answers, problem = [None], f"{column} is neither a list of answers nor its JSON text"
        else:
            problem = f"no answer in {column}"
        for i, answer in enumerate(answers):
            fields = {"text": answer}
            if isinstance(answer, dict):  # those of a column of its own have their text in place already
                path = ["text"] if column in self._given.columns else self._in_struct
                fields = answer if path == ["text"] else {**answer, "text": at_path(answer, path)}
            try:
                if fields.get("text") is None:
                    raise ValueError(problem)
                known = _fields(fields, f"{column}[{i}]")
                yield self._candidate(**{"language": language, **known})
            except ValueError as error:
                self._bad += 1
                yield self._candidate(language=language, error=str(error))


def at_path(value: Any, path: Sequence[str]) -> Any:
    """What a path of names and list positions leads to in nested values; ``None`` where it leads nowhere."""
    for part in path:
        if isinstance(value, list) and part.isdecimal():
            value = value[int(part)] if int(part) < len(value) else None
        else:
            value = value.get(part) if isinstance(value, dict) else None
    return value


def _fields(item: Record, where: str) -> dict[str, Any]:
    """The fields of a candidate that an answer has; ``ValueError`` says which has the wrong type."""
    found: dict[str, Any] = {}
    for name in _TEXTS:
        value = item.get(name)
        if value is not None and not isinstance(value, str):
            raise ValueError(f"{where}.{name} is {type(value).__name__}, not text")
        if value is not None:
            found[name] = clean(value, where, [])
    for name in ("logprob", "num_tokens"):
        value = item.get(name)
        if value is None or (isinstance(value, float) and math.isnan(value)):
            continue
        whole = name == "num_tokens"
        usable = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _LARGEST
        if not usable or (whole and value != int(value)):
            raise ValueError(f"{where}.{name} is {value!r:.40}, not a {'whole ' if whole else ''}number")
        found[name] = int(value) if whole else float(value)
    return found


class AnswerFile:
    """One file of answers: 16 bytes of memory an answer, the texts stay on disk.

    Args:
        given: its ``text`` says where in a row the answer is.
        id_: the column with the prompt's id.
        key: the config's key that names the file, for messages.

    Attributes:
        answers: ids in the file; ``matched``: those that were asked for; ``found``: those with an answer.
    """

    def __init__(self, path: Path, given: Given, id_: str, key: str) -> None:
        self.path = path
        self.matched = self.found = 0
        self._id, self._text = id_, given.text.split(".")
        self._piece = open_file(path, None, FileSource(), key)
        for what, name in (("id", id_), ("text", self._text[0])):
            if self._piece.size and name not in self._piece.types:
                hint = nearest(name, self._piece.types)
                raise InputError(f"{path}: no row has the {what} {name!r} (prompts.given.{what}){hint}")
        # A mistake is found before anything is written.
        hashes = np.fromiter((hash64(id_) for id_, _ in self.pairs()), np.uint64)
        self.answers = len(hashes)
        self._refuse_repeats(hashes)
        self._rows = np.argsort(hashes)
        self._hashes = hashes[self._rows]

    def take(self, ids: Sequence[str | None]) -> list[str | None]:
        """The answers to some prompts, ``None`` where there is none."""
        texts: list[str | None] = [None] * len(ids)
        if not self.answers:
            return texts
        asked = [i for i, id_ in enumerate(ids) if id_ is not None]
        wanted = np.array([hash64(ids[i] or "") for i in asked], np.uint64)
        places = np.minimum(np.searchsorted(self._hashes, wanted), self.answers - 1)
        hits = np.flatnonzero(self._hashes[places] == wanted)
        rows = self._rows[places[hits]].tolist()
        for hit, row, item in zip(hits, rows, self._piece.take(rows, [self._text[0]]), strict=True):
            texts[asked[hit]] = self._text_of(row, item)
        self.matched += len(hits)
        self.found += sum(text is not None for text in texts)
        return texts

    def pairs(self) -> Iterator[tuple[str, str | None]]:
        """(id, answer) of every row, in the file's order."""
        items = (item for chunk in self._piece.chunks() for item in chunk.records((self._id, self._text[0])))
        for row, item in enumerate(items):
            id_ = as_text(item.get(self._id))
            if id_ is None:
                raise self._error(row, f"there is no id {self._id!r}", "id")
            yield id_, self._text_of(row, item)

    def _text_of(self, row: int, item: Record) -> str | None:
        """The answer's text; ``None`` where the path ends in null."""
        value: Any = item.get(self._text[0])
        for i, part in enumerate(self._text[1:], 2):
            if isinstance(value, dict) and part in value:
                value = value[part]
            elif isinstance(value, list) and part.isdecimal() and int(part) < len(value):
                value = value[int(part)]
            elif value is not None:
                path, missing = ".".join(self._text), ".".join(self._text[:i])
                raise self._error(row, f"there is no {missing!r}, so no answer at {path!r}", "text")
        if value is not None and not isinstance(value, str):
            raise self._error(row, f"{'.'.join(self._text)!r} is {type(value).__name__}, not text", "text")
        return clean(value, "", [])

    def _error(self, row: int, what: str, key: str) -> InputError:
        return InputError(f"{self.path}, {self._piece.where(row)}: {what} (prompts.given.{key})")

    def _refuse_repeats(self, hashes: Hashes) -> None:
        found = repeats(hashes)
        if not len(found.entry):
            return
        where = self._piece.where
        pairs = zip(found.first[:5].tolist(), found.entry[:5].tolist(), strict=True)
        shown = ", ".join(f"{where(a)} and {where(b)}" for a, b in pairs) + (", ..." if len(found.entry) > 5 else "")
        what = f"ids in {self._id!r} must be unique, but {len(found.entry)} repeat: {shown}"
        raise InputError(f"{self.path}: {what} (prompts.given.id)")


def group_rows(source: SourceConfig, pieces: Sequence[Piece]) -> tuple[SourceConfig, list[Piece]]:
    """The source as one whose rows are the groups, in the order of their first rows; 16 bytes of memory a row.

    Raises:
        ConfigError: a setting does not go with ``prompts.given.group``, or a column does not exist.
        InputError: the rows of a group hold different prompts.
    """
    given = source.given
    if given.column is None or given.columns or given.files:
        raise ConfigError("prompts.given.group: needs prompts.given.column, the column with each row's answer, alone")
    if source.columns.id not in (None, given.group):
        raise ConfigError("prompts.columns.id: prompts.given.group is the id already")
    if isinstance(source, FileSource) and source.paths:
        raise ConfigError("prompts.given.group: cannot be used with prompts.paths; set prompts.columns.language")
    mapped = map_columns(source, list(dict.fromkeys(name for piece in pieces for name in piece.types)))
    items = (item for piece in pieces for chunk in piece.chunks() for item in chunk.records([mapped["id"]]))
    ids = (as_text(item.get(mapped["id"])) for item in items)
    hashes = np.fromiter((hash64(f"\0{row}" if id_ is None else id_) for row, id_ in enumerate(ids)), np.uint64)
    _, first, which = np.unique(hashes, return_index=True, return_inverse=True)
    rank = first[which]  # groups are told by where they begin
    order = np.argsort(rank, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(rank[order])) + 1, len(order))
    name = pieces[0].name if len(pieces) == 1 else f"{pieces[0].name} and {len(pieces) - 1} more"
    groups = Piece(name, _grouped(name, pieces, mapped, given, order, ends), pieces[0].language, guessed=True)
    columns = replace(source.columns, id=given.group)
    return replace(source, columns=columns, given=replace(given, group=None, text="text")), [groups]


def _grouped(
    name: str, pieces: Sequence[Piece], mapped: dict[str, str], given: Given, order: Ints, ends: Ints
) -> Iterator[Chunk]:
    """Each group's prompt, from its first row, with the list of its answers.

    Args:
        order: row positions sorted by group.
        ends: where each group ends among them [groups].
    """
    prompt, answer = mapped.get("messages") or mapped["prompt"], mapped["given"]
    own = {key: kind for key, kind in _OF_CANDIDATES.items() if key not in mapped.values()}
    path = given.text.split(".")
    for first in range(0, len(ends), _BATCH):
        start, some = int(ends[first - 1]) if first else 0, ends[first : first + _BATCH].tolist()
        taken = iter(_take(pieces, order[start : some[-1]].tolist(), [*dict.fromkeys(mapped.values()), *own]))
        groups = []
        for low, high in itertools.pairwise([start, *some]):
            rows = order[low:high].tolist()
            items = list(itertools.islice(taken, len(rows)))
            for row, item in zip(rows, items, strict=True):
                if item.get(prompt) != items[0].get(prompt):
                    raise InputError(
                        f"{name}: rows {rows[0]} and {row} have one id {items[0].get(mapped['id'])!r:.80} in "
                        f"{mapped['id']!r}, but differ in {prompt!r} (prompts.given.group)"
                    )
            answers = []
            for item in items:
                value = item.get(answer)
                fields = {**value, "text": at_path(value, path)} if isinstance(value, dict) else {"text": value}
                answers.append({k: item[k] for k, kind in own.items() if type(item.get(k)) is kind} | fields)
            groups.append({**{n: items[0].get(n) for n in mapped.values()}, answer: answers, ROWS: rows})
        yield chunk_of(groups)


def _take(pieces: Sequence[Piece], rows: Sequence[int], names: Sequence[str]) -> list[Record]:
    """Items of rows by position in the whole source."""
    starts = [0, *itertools.accumulate(piece.size for piece in pieces)]
    items: dict[int, Record] = {}
    for number, some in itertools.groupby(sorted(rows), lambda row: bisect.bisect_right(starts, row) - 1):
        mine = list(some)
        local = [row - starts[number] for row in mine]
        items.update(zip(mine, pieces[number].take(local, names), strict=True))
    return [items[row] for row in rows]
