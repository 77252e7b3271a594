"""Labelled files: every row of the input in its order, with the label's columns behind its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config.sections import LabelConfig
from pipeline.core.columns import Ints
from pipeline.core.errors import ConfigError, LemonpressError
from pipeline.core.folder import RunFolder
from pipeline.core.schema import with_provenance
from pipeline.jobs.label.columns import label_fields
from pipeline.jobs.label.joining import Join
from pipeline.jobs.label.labels import Label, Labels
from pipeline.jobs.label.original import Part
from pipeline.prompts.write import in_portions

_ROW_GROUP = 5_000


@dataclass
class Written:
    """Rows that were written, those among them without a label, and where they are."""

    rows: int = 0
    unlabelled: int = 0
    path: str = ""


def targets(settings: LabelConfig, run: RunFolder, parts: Sequence[Part]) -> tuple[RunFolder, list[tuple[str, ...]]]:
    """The folder and the path below it of every labelled file.

    Raises:
        ConfigError: ``label.output`` is one file for several, or an input.
    """
    output = settings.output
    names: list[tuple[str, ...]] = [(f"part-{i:05d}.parquet",) for i in range(len(parts))]
    if output is None:
        return run, [("labels", *name) for name in names]
    if output.endswith(".parquet"):
        if len(parts) > 1:
            raise ConfigError(f"label.output: {output} is one file, but the input has {len(parts)}; name a folder")
        folder, _, name = output.rpartition("/")
        names, output = [(name,)], folder or "."
    target = RunFolder(output, "label.output")
    inputs = {str(part.path.resolve()) for part in parts if part.path is not None}
    for each in names:
        if target.is_local and target.path(*each) in inputs:
            raise ConfigError(f"label.output: {target.path(*each)} is an input")
    return target, names


def write_labels(
    parts: Sequence[Part],
    join: Join,
    labels: Labels,
    settings: LabelConfig,
    run: RunFolder,
    method: str,
    provenance: dict[str, Any],
) -> Written:
    """Write one labelled file for each file of the input; memory holds some thousand rows.

    Raises:
        ConfigError: as :func:`targets`.
        LemonpressError: a prompt of the run is in no file.
    """
    folder, names = targets(settings, run, parts)
    if settings.output is None:
        run.remove("labels")
    fields = label_fields(settings.prefix, join.places is not None)
    written = Written(path=folder.path(*names[0]) if len(names) == 1 else folder.path(*names[0][:-1]))
    seen = np.zeros(join.rows, dtype=bool)
    start = 0
    for part, name in zip(parts, names, strict=True):
        schema = with_provenance(pa.schema([*part.schema, *fields], metadata=part.schema.metadata), provenance)

        def labelled(part: Part = part, schema: pa.Schema = schema, start: int = start) -> Iterator[pa.Table]:
            for table in part.tables():
                at = np.arange(start, start + len(table))
                start += len(table)
                ids = join.of(at)
                seen[ids[ids >= 0]] = True
                columns = _columns(at, ids, join, labels, method)
                written.unlabelled += sum(e is not None for e in columns[-1])
                arrays = [pa.array(c, f.type) for c, f in zip(columns, fields, strict=True)]
                written.rows += len(table)
                yield pa.Table.from_arrays([*table.columns, *arrays], schema=schema)

        folder.make(*name[:-1])
        with (
            folder.whole(*name) as path,
            pq.ParquetWriter(path, schema, filesystem=folder.fs, compression="zstd") as file,
        ):
            for table in in_portions(labelled(), _ROW_GROUP):
                file.write_table(table)
        start += part.piece.size
    if not seen.all():
        raise LemonpressError(f"{int((~seen).sum())} prompts of {run.name} are in no file: please report this")
    return written


def _columns(at: Ints, ids: Ints, join: Join, labels: Labels, method: str) -> list[list[Any]]:
    """The values of the label's columns, in the order of their fields; the last one is the error."""
    known = labels.of(np.unique(ids[ids >= 0]))
    found = [known.get(int(id_), Label()) for id_ in ids]
    if join.places is None:
        named = [None if label.error else method for label in found]
        return [
            [label.index for label in found],
            named,
            [label.scores for label in found],
            [label.answer for label in found],
            [label.error for label in found],
        ]
    places = [int(place) for place in join.places[at]]
    ranks = {int(id_): known[int(id_)].ranks() for id_ in np.unique(ids) if int(id_) in known}
    rows: list[tuple[Any, ...]] = []
    for id_, place, label in zip(ids, places, found, strict=True):
        if label.error is not None:
            rows.append((None, None, None, label.error))
            continue
        score = label.score(place)
        rows.append((score, label.index == place, ranks[int(id_)][place], _problem(label, place, score)))
    return [list(column) for column in zip(*rows, strict=True)] if rows else [[], [], [], []]


def _problem(label: Label, place: int, score: float | None) -> str | None:
    if label.problems[place] is not None:
        return label.problems[place]
    if label.scores is not None and score is None:
        return "this answer got no valid score"
    return "the selector wrote a new text, which is no row: see selections/" if label.index == -1 else None
