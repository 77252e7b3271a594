"""More prompts: a source that holds what was read before, and more, adds shards to the finished ``prompts/`` table."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.core.columns import Ints
from pipeline.core.hashing import digest
from pipeline.core.reading import Table
from pipeline.prompts.scan import Hashes, hash64


@dataclass
class _Content:
    """A table's rows as 24 bytes each: ``row_ids`` int64 [n], hashes of ``prompt_ids`` and ``contents`` uint64 [n]."""

    row_ids: Ints
    prompt_ids: Hashes
    contents: Hashes


def new_row_ids(old: Table, read: Table) -> Ints | None:
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


def _contents(data: Table) -> _Content:
    ids, prompts, contents = array("q"), array("Q"), array("Q")
    for row in data.rows():
        ids.append(row.pop("row_id"))
        prompts.append(hash64(row["prompt_id"]))
        contents.append(int(digest(row, size=8), 16))
    return _Content(np.frombuffer(ids, np.int64), np.frombuffer(prompts, np.uint64), np.frombuffer(contents, np.uint64))


def new_rows(read: Table, ids: Ints, first: int) -> Iterator[pa.Table]:
    """The rows of ``read`` whose new id is ``first`` or more, under these ids: ascending, as new rows are numbered in
    reading order.
    """
    done = 0
    for batch in read.batches():
        mine = ids[done : done + len(batch)]
        done += len(batch)
        at = batch.schema.get_field_index("row_id")
        table = pa.Table.from_batches([batch]).set_column(at, batch.schema.field(at), pa.array(mine))
        if len(table := table.filter(pa.array(mine >= first))):
            yield table
