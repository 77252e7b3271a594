"""The pilot: a few prompts, chosen by hash over languages and tasks, that go through the whole path first."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.core.folder import RunFolder
from pipeline.core.hashing import derive_seed
from pipeline.stats.costs import Stratum

FOLDER = ("work", "pilot")


def choose_pilot(rows: Iterable[tuple[str, Stratum]], size: int, seed: int) -> list[int]:
    """Positions of ``size`` rows, every stratum in proportion to its size; ascending.

    Within a stratum the order is that of a seeded hash of the prompt's id. The k-th row of a stratum of m stands at
    (k + u) / m with a hash u of the stratum, and the first ``size`` rows in that order are taken.

    Args:
        rows: (prompt_id, stratum) of every row, in table order.
    """
    members: dict[Stratum, list[tuple[int, int]]] = defaultdict(list)
    for position, (prompt_id, stratum) in enumerate(rows):
        members[stratum].append((derive_seed("pilot", seed, prompt_id), position))
    order = []
    for stratum, found in members.items():
        offset = derive_seed("pilot", seed, *stratum) / 2**31
        order += [((k + offset) / len(found), position) for k, (_, position) in enumerate(sorted(found))]
    return sorted(position for _, position in sorted(order)[:size])


def write_pilot(run: RunFolder, pilot: RunFolder, size: int, seed: int) -> None:
    """Write the pilot's ``prompts/`` table: some of the run's prompts, numbered anew, as if the config had named these.

    Args:
        run: its ``prompts/`` are finished.
        pilot: empty folder.
        size: rows of the pilot, at most.
    """
    table = run.table("prompts", ("row_id", "prompt_id", "language", "task"))
    named: Any = zip(*(table.column(c).to_pylist() for c in ("prompt_id", "language", "task")), strict=True)
    chosen = choose_pilot(((p, (language, task)) for p, language, task in named), size, seed)
    ids = pc.take(table.column("row_id"), pa.array(chosen, pa.int64()))
    data = run.dataset("prompts")
    rows = data.to_table(filter=pc.field("row_id").isin(ids)).sort_by("row_id")
    rows = rows.set_column(rows.schema.get_field_index("row_id"), rows.schema.field("row_id"), _numbers(len(rows)))
    with pq.ParquetWriter(f"{pilot.make('prompts')}/part-00000.parquet", data.schema, filesystem=pilot.fs) as writer:
        writer.write_table(rows)
    marker = run.marker("prompts") or {}
    report = {**marker.get("report", {}), "rows": len(rows)}
    pilot.complete("prompts", {**marker, "rows": len(rows), "report": report, "folder": ""})


def _numbers(n: int) -> pa.Array:
    return pa.array(range(n), pa.int64())
