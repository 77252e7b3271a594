"""The second look at the rows: writes the ``prompts/`` table."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.core.errors import InputError
from pipeline.core.folder import RunFolder
from pipeline.core.schema import prompts_schema, with_provenance
from pipeline.prompts.columns import NOTHING, clean, find_layout
from pipeline.prompts.given import GivenSets, group_rows
from pipeline.prompts.piece import Piece
from pipeline.prompts.scan import Batch, Prompt, Rows, Scan, scan
from pipeline.prompts.sources import ReadReport, SourceConfig

_ROW_GROUP = 5_000
_SHARD = 50_000


def write_table(
    source: SourceConfig, pieces: Sequence[Piece], answers: dict[str, Path], run: RunFolder, provenance: dict[str, Any]
) -> ReadReport:
    """Write the ``prompts/`` table of a run, without its completion marker.

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
    write_shards(run, schema, _prompt_tables(rows, found, schema, given))
    report = ReadReport(
        rows=len(found.positions),
        clusters=found.clusters,
        languages=found.languages,
        bad_rows=found.bad,
        duplicates=found.duplicates,
        n_duplicates=found.n_duplicates,
        files=[piece.name for piece in pieces],
    )
    if given:
        given.count(report)
    return report


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
    run: RunFolder, schema: pa.Schema, tables: Iterable[pa.Table], folder: str = "prompts", name: str = "part"
) -> None:
    """One Parquet file per ``_SHARD`` rows, in row groups of ``_ROW_GROUP``, in a folder of the run."""
    run.make(folder)
    groups = regroup(tables, _ROW_GROUP)
    for number in itertools.count():
        shard = list(itertools.islice(groups, 1))
        if not shard:
            return
        with pq.ParquetWriter(
            run.path(folder, f"{name}-{number:05d}.parquet"), schema, filesystem=run.fs, compression="zstd"
        ) as writer:
            for group in itertools.chain(shard, itertools.islice(groups, _SHARD // _ROW_GROUP - 1)):
                writer.write_table(group)


def regroup(tables: Iterable[pa.Table], size: int) -> Iterator[pa.Table]:
    """The same rows in tables of ``size`` rows; the last may be smaller."""
    waiting: list[pa.Table] = []
    rows = 0
    for table in tables:
        waiting.append(table)
        rows += table.num_rows
        while rows >= size:
            merged = pa.concat_tables(waiting)
            yield merged.slice(0, size)
            waiting, rows = [merged.slice(size)], rows - size
    if rows:
        yield pa.concat_tables(waiting)
