"""What passes did towards a table: counted from its layers' files once they are all there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow.compute as pc

from pipeline import __version__
from pipeline.core import digests, tables
from pipeline.core.columns import Bools
from pipeline.core.errors import LemonpressError
from pipeline.core.folder import RunFolder
from pipeline.core.hashing import digest
from pipeline.core.layers import FILES, TABLES, Layer, lay, read_layers
from pipeline.core.reading import shard_name, shards_in
from pipeline.execution.observe import Histogram
from pipeline.execution.passes import STATE
from pipeline.execution.spec import PassSummary, summaries

_SPENT = ("requests", "prompt_tokens", "cached_tokens", "completion_tokens")


def finish_table(run: RunFolder, table: str, sizes: Sequence[int], engines: dict[str, str]) -> list[PassSummary]:
    """Write the record of a table whose layers are there; returns what its passes did.

    Args:
        sizes: rows of the shards that it has.
        engines: layer -> name of its engine in the config.

    Raises:
        LemonpressError: a row is missing in a layer, or there twice.
    """
    upto = TABLES[1 : TABLES.index(table) + 1]
    layers = [layer for layer in read_layers(run) if layer.table in upto]
    before = run.marker(table)
    passes = summaries(before)
    redone = {layer.name: _redone(run, layer, layers, sum(sizes)) for layer in layers if layer.table == table}
    done = []
    for layer in (each for each in layers if each.table == table):
        known, files = run.read_json(table, layer.name, FILES), run.parquet_files(table, layer.name)
        state = run.read_json(table, layer.name, STATE)
        if known is not None and len(known) == len(files) and state is None and redone[layer.name] is None:
            done.append(
                PassSummary(**{**passes.get(layer.name, {"name": layer.name, "rows": sum(sizes)}), "skipped": True})
            )
            continue
        summary = _summarise(run, layer, sizes, redone[layer.name])
        old = passes.get(layer.name, {})
        summary.engine = engines.get(layer.name) or old.get("engine", "")
        _tell_time(summary, state or {}, old)
        run.write_json(digests.record(files, run.fs), table, layer.name, FILES)
        done.append(summary)
    prompts = run.marker(TABLES[0]) or {}
    record = {
        "rows": sum(sizes),
        "sizes": list(sizes),
        "layers": [laid.as_json() for laid in lay(layers)],
        "passes": {each.name: {k: v for k, v in asdict(each).items() if k != "skipped"} for each in done},
        "fingerprint_hash": digest(_identity(layers), list(sizes), prompts.get("fingerprint_hash")),
        "lemonpress": __version__,
    }
    run.complete(table, record)
    for layer in layers:
        if layer.table == table:
            run.remove_file(table, layer.name, STATE)
    return done


def _identity(layers: Sequence[Layer]) -> list[Any]:
    ids = {
        layer.name: sorted((s, n, u.id) for s, units in layer.stages.items() for n, u in units.items())
        for layer in layers
    }
    return [[layer.table, layer.name, layer.number, ids[layer.name]] for layer in layers]


def _redone(run: RunFolder, layer: Layer, layers: Sequence[Layer], rows: int) -> Bools | None:
    """Which rows of a layer a retry has done again; ``None`` = none."""
    later = [
        each for each in layers if each.table == layer.table and each.base is not None and layer.number < each.base
    ]
    if not later:
        return None
    found = np.zeros(rows, bool)
    for each in later:
        for path in run.parquet_files(each.table, each.name):
            with tables.open_file(path, run.fs) as file:
                found[file.read(columns=["row_id"]).column("row_id").to_numpy()] = True
    return found


def _summarise(run: RunFolder, layer: Layer, sizes: Sequence[int], redone: Bools | None) -> PassSummary:
    """Check that rows out = rows in, each once, and add up what the layer cost; reads three columns only."""
    total = sum(sizes)
    summary = PassSummary(layer.name, 0, job=layer.job, stages=sorted(layer.stages))
    seen = np.zeros(total, bool)  # a byte a row
    per_row = Histogram()
    for number in shards_in(run, layer.table, layer.name):
        if number >= len(sizes):
            continue
        path = run.path(layer.table, layer.name, shard_name(number))
        with tables.open_file(path, run.fs) as file:
            rows = file.read(columns=["row_id", "usage", "errors"]).combine_chunks()
        ids = rows.column("row_id").to_numpy()
        summary.rows += len(ids)
        seen[ids] = True
        failed = pc.list_value_length(rows.column("errors")).to_numpy(zero_copy_only=False) > 0
        summary.failed += int((failed if redone is None else failed & ~redone[ids]).sum())
        usage = rows.column("usage").combine_chunks()
        items, parents = pc.list_flatten(usage), pc.list_parent_indices(usage).to_numpy()
        spent = pc.fill_null(pc.struct_field(items, "completion_tokens"), 0).to_numpy(zero_copy_only=False)
        for tokens in np.bincount(parents, weights=spent, minlength=len(ids)):
            per_row.add(tokens)
        for key in _SPENT:
            setattr(summary, key, getattr(summary, key) + (pc.sum(pc.struct_field(items, key)).as_py() or 0))
    summary.row_tokens = per_row.quantiles()
    whole = layer.base is None and len(shards_in(run, layer.table, layer.name)) >= len(sizes)
    if summary.rows != int(seen.sum()) or (whole and not seen.all()):
        raise LemonpressError(
            f"{layer.table}/{layer.name}: {total} rows went in, {summary.rows} came out ({int(seen.sum())} different)"
        )
    return summary


def _tell_time(summary: PassSummary, state: dict[str, Any], before: dict[str, Any]) -> None:
    """What the attempts noted of the time they took, on top of what an earlier record says."""
    summary.seconds = round(before.get("seconds", 0.0) + state.get("seconds", 0.0), 3)
    summary.row_seconds = Histogram.from_json(state.get("latencies")).quantiles() or before.get("row_seconds", {})
    for name in ("resumed", "mean_in_flight", "busy_seconds", "span_seconds", "workers", "load", "shared", "beside"):
        setattr(summary, name, state.get(name, before.get(name, getattr(summary, name))))
    for name in ("restarts", "poisoned"):
        setattr(summary, name, before.get(name, 0) + state.get(name, 0))


__all__ = ["finish_table"]
