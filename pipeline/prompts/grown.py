"""More prompts: a source that holds what was read before, and more, extends the finished ``prompts/`` table."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.dataset as pads

from pipeline.core.columns import Ints
from pipeline.core.folder import RunFolder
from pipeline.core.hashing import digest
from pipeline.prompts.scan import Hashes, hash64
from pipeline.prompts.write import write_shards

_BATCH = 1000


@dataclass
class _Content:
    """A table's rows as 24 bytes each: ``row_ids`` int64 [n], hashes of ``prompt_ids`` and ``contents`` uint64 [n]."""

    row_ids: Ints
    prompt_ids: Hashes
    contents: Hashes


def new_row_ids(old: pads.Dataset, read: pads.Dataset) -> Ints | None:
    """Row ids under which the rows of ``read`` extend ``old``: the rows that ``old`` has keep theirs, by prompt_id; the
    others take the numbers after them, in reading order.

    Returns:
        int64 [rows of ``read``], or ``None`` when a row of ``old`` is missing in ``read``, or is another one there.
    """
    before, now = _contents(old), _contents(read)
    order = np.argsort(now.prompt_ids)
    place = np.searchsorted(now.prompt_ids[order], before.prompt_ids)
    at = order[np.minimum(place, len(order) - 1)]
    same = (now.prompt_ids[at] == before.prompt_ids) & (now.contents[at] == before.contents)
    if not same.all() or len(np.unique(at)) != len(at):
        return None
    ids: npt.NDArray[np.int64] = np.full(len(order), -1, np.int64)
    ids[at] = before.row_ids
    fresh = np.flatnonzero(ids < 0)
    ids[fresh] = np.arange(len(at), len(ids))
    return ids


def _contents(data: pads.Dataset) -> _Content:
    ids, prompts, contents = array("q"), array("Q"), array("Q")
    for batch in _batches(data):
        for row in batch.to_pylist():
            ids.append(row.pop("row_id"))
            prompts.append(hash64(row["prompt_id"]))
            contents.append(int(digest(row, size=8), 16))
    return _Content(np.frombuffer(ids, np.int64), np.frombuffer(prompts, np.uint64), np.frombuffer(contents, np.uint64))


def _batches(data: pads.Dataset) -> Iterator[pa.RecordBatch]:
    """The rows in the order of the files, a few at a time."""
    yield from data.to_batches(batch_size=_BATCH, batch_readahead=1, fragment_readahead=1)


def write_grown(read: pads.Dataset, ids: Ints, run: RunFolder, folder: str) -> None:
    """Write the rows of ``read`` under their new ids, as files of ``folder`` below ``prompts/``."""

    def tables() -> Iterator[pa.Table]:
        done = 0
        at = read.schema.get_field_index("row_id")
        for batch in _batches(read):
            column = pa.array(ids[done : done + batch.num_rows])
            yield pa.Table.from_batches([batch]).set_column(at, read.schema.field(at), column)
            done += batch.num_rows

    write_shards(run, read.schema, tables(), f"prompts/{folder}")
