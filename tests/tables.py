"""Tables of a run, written by hand: all that rows hold lies in the prompts' shards, and no layer is needed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from pipeline.core import digests
from pipeline.core.folder import RunFolder
from pipeline.core.layers import FILES, TABLES
from pipeline.core.schema import COLUMNS, with_provenance
from pipeline.prompts.write import write_shards


def write_table(
    run: RunFolder,
    table: str,
    rows: Sequence[dict[str, Any]],
    source: pa.DataType | None = None,
    finished: bool = True,
    **record: Any,
) -> RunFolder:
    """Have ``table``, and those before it, hold these rows, whose ids count from 0 where they have none.

    Args:
        source: type of the column ``source``.
        record: what the table's record says besides.
    """
    columns = {**COLUMNS, **({"source": source} if source is not None else {})}
    named = [{"row_id": i, "prompt_id": f"p{i}", **row} for i, row in enumerate(rows)]
    schema = with_provenance(pa.schema(list(columns.items())), {"lemonpress": "test"})
    run.remove("prompts")
    sizes = write_shards(run, schema, [pa.Table.from_pylist(named, schema=schema)])
    whole = {"rows": len(rows), "sizes": sizes, "fingerprint_hash": "test"}
    run.complete("prompts", {**whole, "fingerprint": {}, "report": {}})
    for name in TABLES[1 : TABLES.index(table) + 1]:
        if finished or name != table:
            run.complete(name, {**whole, "layers": [], **record})
    return run


def reseal(run: RunFolder, table: str) -> None:
    """Have the records say that a table's files are as they were written, as an attacker would."""
    if table == TABLES[0]:
        run.complete(table, run.marker(table) or {})
        return
    for laid in run.layers(table):
        if laid.table == table:
            run.write_json(digests.record(run.parquet_files(table, laid.name), run.fs), table, laid.name, FILES)
