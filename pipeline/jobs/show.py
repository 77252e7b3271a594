"""``show``: everything known about one prompt, from finished tables and from what a running pass has written."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from pipeline.core import tables
from pipeline.core.errors import InputError, nearest
from pipeline.core.folder import TABLES, RunFolder
from pipeline.core.row import Row, Score, row_from_dict
from pipeline.core.safety import json_text, line, visible
from pipeline.core.schema import COLUMNS

_JOBS = ("read", "generate", "select", "judge")  # the job that ends in each of TABLES
_FEW = 5_000  # ids kept for the nearest one's name


@dataclass
class Found:
    """A prompt's row in one table: ``table`` (finished or not) and the columns by name."""

    table: str
    finished: bool
    row: dict[str, Any]


def run(folder: str, prompt_id: str) -> None:
    """Print one prompt with its candidates, scores, selections, games, cost and errors.

    Args:
        folder: the run's folder (path or URI).
        prompt_id: of the prompt.

    Raises:
        InputError: there is no such run, or no such prompt in it; the message names the nearest id.
    """
    for told in describe(RunFolder(folder), prompt_id):
        print(told)  # safe by :func:`describe`


def describe(run: RunFolder, prompt_id: str) -> Iterator[str]:
    """The lines that :func:`run` prints; control characters of texts are signs in them.

    Raises:
        InputError: as :func:`run`.
    """
    found = find(run, prompt_id)
    row = _merge(found)
    state = ", ".join(f.table + ("" if f.finished else " (its pass has not finished)") for f in found)
    yield line("prompt {} (row {}, cluster {})", row.prompt_id, row.row_id, row.cluster_id)
    yield line("language {}, task {}; found in {}", row.language or "-", row.task, state)
    for message in row.messages:
        yield from _text(line("[{}]", message.get("role")), message.get("content") or message.get("tool_calls"))
    if row.reference is not None:
        yield from _text("reference", row.reference)
    for plan in dict.fromkeys(c.plan for c in row.candidates):
        yield from _candidates(row, plan)
    for selection in row.selections:
        chosen = "nothing" if selection.index is None else f"candidate {selection.index}"
        text = selection.text if selection.index == -1 else None
        what = "a new text" if selection.index == -1 else chosen
        yield from _text(line("selection {}: {}, score {}", selection.system, what, _number(selection.score)), text)
        if selection.detail:
            yield line("    {}", selection.detail)
    for answer in row.answers:
        yield from _text(line("answer of {}", answer.system), answer.text)
    for game in row.games:
        names = (game.system, game.opponent, game.order, game.judge, game.template)
        said = (game.verdict, _number(game.score), _number(game.mass))
        shown = line("game {} against {} ({}), judge {}, {}: {}, score {}, label mass {}", *names, *said)
        yield line("{}; {}", shown, game.reason) if game.reason else shown
    for u in row.usage:
        tokens = (u.requests, u.prompt_tokens, u.cached_tokens, u.completion_tokens)
        form = "cost of {}/{} on {}: {} requests, {} prompt tokens ({} cached), {} new"
        yield line(form, u.job, u.stage, u.model, *tokens)
    for e in row.errors:
        yield line("error in {}/{}: {}: {}", e.job, e.stage, e.kind, e.message)


def find(run: RunFolder, prompt_id: str) -> list[Found]:
    """The prompt's row in every table that has it, in the order in which the tables are made.

    A finished table is read through its marker; of an unfinished one, every block that is complete on the disk.

    Raises:
        InputError: there is no such run or prompt.
    """
    tables = _tables(run)
    if not tables:
        raise InputError(f"{run.name}: no run's folder: it holds no table")
    seen: set[str] = set()
    found = []
    for table in tables:
        row = _row(run, table, prompt_id, seen)
        if row is not None:
            found.append(Found(table, run.marker(table) is not None, row))
    if not found:
        raise InputError(f"{run.name}: no prompt has the id {prompt_id!r}{nearest(prompt_id, seen)}")
    return found


def _tables(run: RunFolder) -> list[str]:
    """Every table with a block on the disk: those between the passes of a job before the job's own."""
    infos = run.fs.get_file_info(pafs.FileSelector(run.path("work"), allow_not_found=True))
    between = [i for i in infos if i.type == pafs.FileType.Directory and run.exists("work", i.base_name, "table")]
    between.sort(key=lambda i: run.fs.get_file_info(run.path("work", i.base_name, "table")).mtime_ns or 0)
    ordered = []
    for job, table in zip(_JOBS, TABLES, strict=True):
        ordered += [f"work/{i.base_name}/table" for i in between if i.base_name.startswith(f"{job}-")]
        ordered.append(table)
    return [table for table in ordered if run.data_files(table)]


def _row(run: RunFolder, table: str, prompt_id: str, seen: set[str]) -> dict[str, Any] | None:
    """The prompt's row of one table. Ids are looked through first, file by file, so that memory stays flat."""
    for path in run.data_files(table):
        try:
            with tables.open_file(path, run.fs) as file:
                found = _in_file(file, prompt_id, seen)
        except (InputError, FileNotFoundError):
            if run.marker(table) is not None:  # else it is being written, or taken away, at this very moment
                raise
        else:
            if found is not None:
                return found
    return None


def _in_file(file: pq.ParquetFile, prompt_id: str, seen: set[str]) -> dict[str, Any] | None:
    for group in range(file.num_row_groups):
        ids = file.read_row_group(group, columns=["prompt_id"])["prompt_id"]
        if len(seen) < _FEW:
            seen.update(ids.to_pylist())
        place = pc.index(ids, pa.scalar(prompt_id, ids.type)).as_py()
        if place >= 0:
            names = [n for n in file.schema_arrow.names if n in COLUMNS]
            row: dict[str, Any] = file.read_row_group(group, columns=names).slice(place, 1).to_pylist()[0]
            return row
    return None


def _merge(found: list[Found]) -> Row:
    """One row of them all: of every column the last table's that has it."""
    merged: dict[str, Any] = {}
    for item in found:
        merged |= item.row
    return row_from_dict(merged)


def _candidates(row: Row, plan: str) -> Iterator[str]:
    scores = [s for s in row.scores if s.plan == plan]
    chosen = [s for s in row.selections if s.plan == plan]
    for i, c in enumerate(row.plan(plan)):
        facts = [c.origin, c.model, c.language, c.finish_reason]
        facts += [None if c.temperature is None else f"temperature {c.temperature:g}"]
        facts += [None if c.seed is None else f"seed {c.seed}", f"{c.num_tokens} tokens" if c.num_tokens else None]
        facts += [None if c.logprob is None else f"logprob {c.logprob:.4g}"]
        facts += [f"{s.scorer} {_number(_value(s, i))}" for s in scores]
        told = [line("{}", f) for f in facts if f]
        title = line("candidate {} of {}: ", i, plan) + ", ".join(told)
        by = ", ".join(line("{}", s.method) for s in chosen if s.index == i)
        yield from _text(title + (f"; chosen by {by}" if by else ""), c.text)
        if c.reasoning:
            yield from _text("    reasoning", c.reasoning)
        if c.error:
            yield line("    error: {}", c.error)


def _value(score: Score, i: int) -> float | None:
    return score.values[i] if i < len(score.values) else None


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _text(title: str, text: Any) -> Iterator[str]:
    """A safe title, and the text indented below it: no text can pass for a line of ours."""
    yield title
    if text is not None:
        shown = text if isinstance(text, str) else json_text(text, indent=None)
        yield from ("    | " + line for line in visible(shown).split("\n"))
