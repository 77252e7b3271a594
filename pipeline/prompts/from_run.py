"""Another run's finished table becomes this run's prompts: a streaming copy that keeps every column."""

from __future__ import annotations

import re
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from pipeline.core import tables
from pipeline.core.columns import Ints
from pipeline.core.errors import ConfigError, InputError, nearest
from pipeline.core.folder import MARKER, TABLES, RunFolder
from pipeline.core.languages import RESERVED, is_among
from pipeline.core.remote import is_uri
from pipeline.core.schema import read_provenance, with_provenance
from pipeline.prompts.columns import NOTHING
from pipeline.prompts.scan import hash64, reserved
from pipeline.prompts.sources import ReadReport, RunSource, SourceConfig
from pipeline.prompts.write import write_shards

_BATCH = 1000
_FIXED = ("columns", "system", "task", "language", "given")


class Upstream:
    """The table of another run that is read.

    Args:
        source: which table, and what of it.
        base: folder that a relative path starts from.

    Raises:
        ConfigError: the path is missing, there is no such table, or a setting would change rows that are kept as they
            are.
        UnfinishedTableError: the table is not finished.
    """

    def __init__(self, source: RunSource, base: Path) -> None:
        if not source.path:
            raise ConfigError("prompts.path: missing; name the folder of a run")
        if source.table not in TABLES:
            raise ConfigError(f"prompts.table: no table is called {source.table!r}{nearest(source.table, TABLES)}")
        settings, defaults = asdict(source), asdict(SourceConfig())
        for name in _FIXED:
            if settings[name] != defaults[name]:
                raise ConfigError(f"prompts.{name}: cannot be set with prompts.kind=run, which takes rows as they are")
        self._source = source
        path = source.path if is_uri(source.path) else str(base / Path(source.path).expanduser())
        self._run = RunFolder(path, "prompts.path")
        self._path = self._run.path(source.table)
        self._data = self._run.dataset(source.table)

    def state(self) -> list[str | int]:
        """``[marker, hash of its config, time of change]``: what a resume compares.

        The config alone would not do: samples differ from one run to the next.
        """
        marker = self._run.marker(self._source.table) or {}
        time = self._run.fs.get_file_info(f"{self._path}/{MARKER}").mtime_ns
        return [f"{self._source.table}/{MARKER}", str(marker.get("fingerprint_hash")), int(time or 0)]

    def candidate_sets(self) -> list[str]:
        """Names of the table's candidate sets, evidence apart; reads two small columns."""
        names: dict[str, None] = {}
        for path in self._run.data_files(self._source.table):
            with tables.open_file(path, self._run.fs) as file:
                paths = [file.schema.column(i).path for i in range(len(file.schema))]
                wanted = [p for p in paths if re.fullmatch(r"candidates\..*\.(plan|origin)", p)]
                for batch in file.iter_batches(columns=wanted) if wanted else ():
                    candidates = pc.list_flatten(batch.column("candidates"))
                    kept = pc.not_equal(pc.struct_field(candidates, "origin"), "evidence")
                    plans = pc.struct_field(candidates, "plan").filter(kept)
                    names.update(dict.fromkeys(plans.unique().to_pylist()))
        return list(names)

    def copy(self, run: RunFolder, provenance: dict[str, Any]) -> ReadReport:
        """Write the ``prompts/`` table of ``run``, without its completion marker.

        Raises:
            InputError: the filters leave no row.
        """
        kept, report = _keep(self._source, self._data)
        report.files = [self._path]
        before = read_provenance(self._data.schema, self._path)
        schema = with_provenance(self._data.schema, {**provenance, "upstream": {"table": self._path, **before}})
        write_shards(run, schema, _copied(self._data, kept))
        return report


def _keep(source: RunSource, data: pads.Dataset) -> tuple[Ints, ReadReport]:
    """The row_ids that the filters keep, ascending: a resumed pass writes its files in any order."""
    ids, clusters, tongues, bad = array("q"), array("Q"), array("q"), bytearray()
    codes: dict[str | None, int] = {}
    for batch in data.to_batches(columns=["row_id", "cluster_id", "language", "errors"]):
        ids.extend(batch.column("row_id").to_pylist())
        clusters.extend(hash64(cluster) for cluster in batch.column("cluster_id").to_pylist())
        tongues.extend(codes.setdefault(x, len(codes)) for x in batch.column("language").to_pylist())
        bad.extend(any(e["job"] == "prompts" for e in errors or ()) for errors in batch.column("errors").to_pylist())
    row_id, cluster = np.frombuffer(ids, np.int64), np.frombuffer(clusters, np.uint64)
    language = np.frombuffer(tongues, np.int64)
    rows = np.argsort(row_id)
    if source.languages is not None:
        wanted = [code for name, code in codes.items() if is_among(name, source.languages)]
        rows = rows[np.isin(language[rows], wanted)]
    if source.limit_clusters is not None:
        _, first, which = np.unique(cluster[rows], return_index=True, return_inverse=True)
        rows = rows[np.argsort(np.argsort(first))[which] < source.limit_clusters]
    rows = rows[: source.limit]
    if not len(rows):
        found = ", ".join(sorted(name or "und" for name in codes))
        raise InputError(f"{NOTHING} that the config keeps" + (f"; languages found: {found}" if found else ""))
    names = list(codes)
    counts = Counter({names[code] or "und": int(n) for code, n in enumerate(np.bincount(language[rows])) if n})
    n_bad = int(np.frombuffer(bad, np.uint8)[rows].sum())
    for name in set(counts) & set(RESERVED):
        raise InputError(reserved(name, f"prompts.path: {source.path}"))
    report = ReadReport(len(rows), len(np.unique(cluster[rows])), dict(sorted(counts.items())), n_bad)
    return row_id[rows], report


def _copied(data: pads.Dataset, kept: Ints) -> Iterator[pa.Table]:
    """The kept rows in the order of the files; numbered anew when some are left out."""
    renumber = len(kept) < data.count_rows()
    for batch in data.to_batches(batch_size=_BATCH, batch_readahead=1, fragment_readahead=1):
        ids = batch.column("row_id").to_numpy()
        places = np.minimum(np.searchsorted(kept, ids), len(kept) - 1)
        mask = kept[places] == ids
        table = pa.Table.from_batches([batch]).filter(pa.array(mask))
        if renumber:
            at = table.schema.get_field_index("row_id")
            table = table.set_column(at, table.schema.field(at), pa.array(places[mask], pa.int64()))
        if table.num_rows:
            yield table
