"""The second look at the rows: writes the ``prompts/`` table."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.core.columns import Ints
from pipeline.core.errors import InputError
from pipeline.core.folder import RunFolder
from pipeline.core.reading import Table, shard_name
from pipeline.core.schema import prompts_schema, with_provenance
from pipeline.prompts.columns import NOTHING, clean, find_layout
from pipeline.prompts.given import GivenSets, group_rows
from pipeline.prompts.piece import Piece
from pipeline.prompts.report import ReadReport
from pipeline.prompts.scan import Batch, Prompt, Rows, Scan, scan
from pipeline.prompts.sources import SourceConfig

_LARGEST = 5_000  # rows of a shard
_LANGUAGE_LIKE = re.compile(
    r"(.*[_-])?(lang|langs|language|locale|iso(639)?)([_-]?(code|id|tag|name|\d))?", re.IGNORECASE
)


def write_table(
    source: SourceConfig, pieces: Sequence[Piece], answers: dict[str, Path], run: RunFolder, provenance: dict[str, Any]
) -> tuple[ReadReport, list[int]]:
    """Write the ``prompts/`` table of a run, without its record; returns the sizes of its shards, too.

    Args:
        source: what is mapped and kept.
        pieces: its opened files.
        answers: model -> file of given answers.
        run: the run's folder.
        provenance: stored in the files' metadata.

    Raises:
        ConfigError: the columns do not fit.
        InputError: the source cannot be used.
    """
    if not pieces:
        raise InputError(NOTHING + ": its files are empty")
    if source.given.group is not None:
        source, pieces = group_rows(source, pieces)
    layout = find_layout(source, pieces)
    given = GivenSets(source, answers, layout) if source.given_sets() else None
    rows = Rows(source, pieces, layout)
    found = scan(source, rows)
    source_type = layout.with_original() if found.bad else layout.source
    schema = with_provenance(prompts_schema(source_type, *(["candidates"] if given else [])), provenance)
    sizes = write_shards(run, schema, _prompt_tables(rows, found, schema, given), source.shard_rows)
    report = ReadReport(
        rows=len(found.positions),
        clusters=found.clusters,
        tasks=found.tasks,
        bad_rows=found.bad,
        duplicates=found.duplicates,
        n_duplicates=found.n_duplicates,
        files=[piece.name for piece in pieces],
    )
    if set(report.languages) == {"und"}:
        report.language_like = [f.name for f in layout.source if _LANGUAGE_LIKE.fullmatch(f.name)]
    if given:
        given.count(report)
    return report, sizes


def _prompt_tables(rows: Rows, found: Scan, schema: pa.Schema, given: GivenSets | None) -> Iterator[pa.Table]:
    row_id = 0
    for batch, offsets in rows.kept(found.positions):
        prompts = [rows.prompt(batch, offset) for offset in offsets]
        times = found.again.among(row_id, row_id + len(prompts))
        ids = [prompt_id(prompt, times.get(row, 0)) for row, prompt in enumerate(prompts, row_id)]
        columns: dict[str, Any] = {
            "row_id": range(row_id, row_id + len(prompts)),
            "prompt_id": ids,
            "cluster_id": [p.cluster_key() or id_ for p, id_ in zip(prompts, ids, strict=True)],
            "task": [p.task for p in prompts],
            "language": [p.language for p in prompts],
            "messages": [p.messages for p in prompts],
            "reference": [p.reference for p in prompts],
            "usage": [[] for _ in prompts],
            "errors": [_errors(p) for p in prompts],
        }
        arrays = {name: pa.array(values, schema.field(name).type) for name, values in columns.items()}
        arrays["source"] = _source(rows, batch, offsets, prompts, schema.field("source").type)
        if given:
            arrays["candidates"] = given.column(batch, offsets, prompts)
        yield pa.Table.from_arrays([arrays[name] for name in schema.names], schema=schema)
        row_id += len(prompts)


def prompt_id(prompt: Prompt, before: int) -> str:
    """The explicit id, or that of the content with the number of its occurrence."""
    if prompt.prompt_id is not None:
        return prompt.prompt_id
    return prompt.derived_id() + (f"-{before + 1}" if before else "")


def _source(
    rows: Rows, batch: Batch, offsets: list[int], prompts: Sequence[Prompt], type_: pa.StructType
) -> pa.StructArray:
    """The ``source`` struct; where the table has unreadable rows, with what these rows held in the mapped columns."""
    array = rows.source_array(batch, offsets)
    if array.type == type_:
        return array
    held = [rows.original(batch, o) if p.problems else None for o, p in zip(offsets, prompts, strict=True)]
    # A line with surrogates in it is ASCII (escapes); other values may hold characters that cannot be stored.
    columns = [*array.flatten(), pa.array([clean(text, "", []) for text in held], pa.string())]
    return pa.StructArray.from_arrays(columns, fields=list(type_))


def _errors(prompt: Prompt) -> list[dict[str, str]]:
    if not prompt.problems:
        return []
    message = "; ".join(dict.fromkeys(prompt.problems))
    return [{"job": "prompts", "stage": "read", "kind": "BadPrompt", "message": message}]


def write_shards(
    run: RunFolder,
    schema: pa.Schema,
    rows: Iterable[pa.Table],
    shard_rows: int | None = None,
    sizes: Sequence[int] = (),
) -> list[int]:
    """Write prompts as shards of the run, behind those that it has.

    Args:
        rows: in tables of any size.
        shard_rows: of a shard; ``None`` follows the number of rows before (:func:`shard_size`), so that how many there
            will be need not be known.
        sizes: of the shards that are there.

    Returns:
        The sizes of all shards.
    """
    run.make("prompts")
    found, first = list(sizes), sum(sizes)
    for table in in_portions(rows, shard_rows or (lambda before: shard_size(first + before))):
        with run.whole("prompts", shard_name(len(found))) as path:
            pq.write_table(
                pa.Table.from_arrays(table.columns, schema=schema), path, filesystem=run.fs, compression="zstd"
            )
        found.append(len(table))
    return found


def shard_size(before: int) -> int:
    """Rows of the shard behind so many rows.

    A shard is what a crash costs at most, and one file a layer. 16 rows at first, so that a small input keeps many
    actors busy; 50 up to 200,000 rows; then a four-thousandth of what lies before: a million rows are some 10,000
    shards, a hundred million some 40,000.
    """
    return max(min(50, max(16, before // 16)), min(_LARGEST, before // 4000))


def in_portions(tables: Iterable[pa.Table], size: int | Callable[[int], int]) -> Iterator[pa.Table]:
    """The same rows in tables of so many rows; the last may be smaller.

    Args:
        size: rows, or what gives them from the number of rows before.
    """
    waiting: list[pa.Table] = []
    before, source = 0, iter(tables)
    while True:
        rows = size if isinstance(size, int) else size(before)
        while sum(map(len, waiting)) < rows and (table := next(source, None)) is not None:
            waiting.append(table)
        if not any(map(len, waiting)):
            return
        whole = pa.concat_tables(waiting)
        yield whole.slice(0, rows).combine_chunks()
        waiting, before = [whole.slice(rows)], before + min(rows, len(whole))


def some_rows(data: Table, ids: Ints) -> Iterator[pa.Table]:
    """Some rows of a table, ``row_id`` being their place among ``ids`` (ascending)."""
    for batch in data.batches():
        mine = batch.column("row_id").to_numpy()
        mask = np.isin(mine, ids)
        if mask.any():
            table = pa.Table.from_batches([batch]).filter(pa.array(mask))
            at = table.schema.get_field_index("row_id")
            places = pa.array(np.searchsorted(ids, mine[mask]), pa.int64())
            yield table.set_column(at, table.schema.field(at), places)


def write_some(run: RunFolder, target: RunFolder, ids: Ints) -> None:
    """Some prompts of a run as those of another: numbered anew, as if its config had named these."""
    data, record = run.dataset("prompts"), run.marker("prompts") or {}
    sizes = write_shards(target, data.schema, some_rows(data, ids))
    report = {**record.get("report", {}), "rows": len(ids)}
    target.complete("prompts", {**record, "rows": len(ids), "sizes": sizes, "report": report})
