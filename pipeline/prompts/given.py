"""Answers that exist already: a column of the source and files with one answer per prompt become candidates."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.core.errors import ConfigError, InputError, nearest
from pipeline.core.row import Candidate
from pipeline.core.schema import COLUMNS
from pipeline.prompts.columns import Layout
from pipeline.prompts.files import Record, local_file, open_answers
from pipeline.prompts.rows import Batch, Prompt
from pipeline.prompts.scan import Hashes, hash64, repeats
from pipeline.prompts.sources import Given, ReadReport, SourceConfig
from pipeline.prompts.values import as_text, clean, from_json

_LARGEST = 2.0**63  # num_tokens is an int64; no answer's log-probability comes near it either

_TEXTS = ("text", "model", "finish_reason", "reasoning", "language")


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
        self._id = id_
        self._text = given.text.split(".")
        self._piece = open_answers(path, key)
        hashes, rows = array("Q"), array("q")
        for row, item in self._records():
            hashes.append(hash64(self._id_of(row, item)))
            rows.append(row)
            self._text_of(row, item)  # a mistake is found before anything is written
        self.answers = len(rows)
        found: Hashes = np.frombuffer(hashes, np.uint64)
        self._rows = np.frombuffer(rows, np.int64)
        self._refuse_repeats(found)
        order = np.argsort(found)
        self._hashes, self._rows = found[order], self._rows[order]

    def take(self, ids: Sequence[str | None]) -> list[str | None]:
        """The answers to some prompts, ``None`` where there is none."""
        texts: list[str | None] = [None] * len(ids)
        piece = self._piece
        if piece is None or not self.answers:
            return texts
        asked = [i for i, id_ in enumerate(ids) if id_ is not None]
        wanted = np.array([hash64(ids[i] or "") for i in asked], np.uint64)
        places = np.minimum(np.searchsorted(self._hashes, wanted), self.answers - 1)
        hits = np.flatnonzero(self._hashes[places] == wanted)
        if len(hits):
            rows = [int(row) for row in self._rows[places[hits]]]
            for hit, row, item in zip(hits, rows, piece.take(rows, self._names()), strict=True):
                texts[asked[hit]] = self._text_of(row, item)
        self.matched += len(hits)
        self.found += sum(text is not None for text in texts)
        return texts

    def pairs(self) -> Iterator[tuple[str, str | None]]:
        """(id, answer) of every row, in the file's order."""
        for row, item in self._records():
            yield self._id_of(row, item), self._text_of(row, item)

    def _names(self) -> tuple[str, str]:
        return self._id, self._text[0]

    def _records(self) -> Iterator[tuple[int, Record]]:
        piece, before = self._piece, 0
        if piece is None:
            return
        for table in piece.tables():
            for row, item, _ in piece.records(table, self._names(), before):
                yield row, item
            before += table.num_rows

    def _where(self, row: int) -> str:
        """A row as the user counts: lines from 1, rows of other formats from 0."""
        return f"line {row + 1}" if self._piece and self._piece.lines else f"row {row}"

    def _id_of(self, row: int, item: Record) -> str:
        found = as_text(item.get(self._id))
        if found is None:
            names = [name for name, value in item.items() if value is not None]
            raise InputError(
                f"{self.path}, {self._where(row)}: there is no id {self._id!r} (prompts.given.id)"
                f"{nearest(self._id, names)}"
            )
        return found

    def _text_of(self, row: int, item: Record) -> str | None:
        """The answer's text; ``None`` where the path ends in null."""
        value: Any = item
        for i, part in enumerate(self._text):
            if isinstance(value, dict) and part in value:
                value = value[part]
            elif isinstance(value, list) and part.isdecimal() and int(part) < len(value):
                value = value[int(part)]
            elif value is None:
                return None
            else:
                path, missing = ".".join(self._text), ".".join(self._text[: i + 1])
                raise InputError(
                    f"{self.path}, {self._where(row)}: there is no {missing!r}, so no answer at {path!r} "
                    "(prompts.given.text)"
                )
        if value is not None and not isinstance(value, str):
            raise InputError(
                f"{self.path}, {self._where(row)}: {'.'.join(self._text)!r} is {type(value).__name__}, not text "
                "(prompts.given.text)"
            )
        return clean(value, "", [])

    def _refuse_repeats(self, hashes: Hashes) -> None:
        found = repeats(hashes)
        if not len(found.entry):
            return
        rows = zip(self._rows[found.first[:5]].tolist(), self._rows[found.entry[:5]].tolist(), strict=True)
        pairs = list(rows)
        shown = ", ".join(f"{self._where(a)} and {self._where(b)}" for a, b in pairs)
        raise InputError(
            f"{self.path}: ids in {self._id!r} must be unique, but {len(found.entry)} repeat: {shown}"
            f"{', ...' if len(found.entry) > len(pairs) else ''} (prompts.given.id)"
        )
