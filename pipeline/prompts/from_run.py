"""Another run's finished table becomes this run's prompts: a streaming copy that keeps every column."""

from __future__ import annotations

from array import array
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

from pipeline.core.columns import Ints
from pipeline.core.errors import ConfigError, InputError, nearest
from pipeline.core.folder import MARKER, RunFolder
from pipeline.core.languages import RESERVED, is_among
from pipeline.core.layers import TABLES
from pipeline.core.reading import Table
from pipeline.core.remote import is_uri
from pipeline.core.schema import with_provenance
from pipeline.prompts.columns import NOTHING
from pipeline.prompts.report import ReadReport
from pipeline.prompts.scan import hash64, nested, reserved
from pipeline.prompts.sources import RunSource, SourceConfig
from pipeline.prompts.write import some_rows, write_shards

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

    def _made_of(self) -> dict[str, Any]:
        record = self._run.marker(self._source.table) or {}
        return {"table": self._path, "fingerprint_hash": record.get("fingerprint_hash")}

    def candidate_sets(self) -> list[str]:
        """Names of the table's candidate sets, evidence apart; reads two small columns."""
        names: dict[str, None] = {}
        if "candidates" not in self._data.schema.names:
            return []
        for batch in self._data.batches(None, lambda top, leaf: top == "candidates" and leaf in ("plan", "origin")):
            candidates = pc.list_flatten(batch.column("candidates"))
            kept = pc.not_equal(pc.struct_field(candidates, "origin"), "evidence")
            names.update(dict.fromkeys(pc.struct_field(candidates, "plan").filter(kept).unique().to_pylist()))
        return list(names)

    def copy(self, run: RunFolder, provenance: dict[str, Any]) -> tuple[ReadReport, list[int]]:
        """Write the ``prompts/`` table of ``run``, without its record; returns the sizes of its shards, too.

        Raises:
            InputError: the filters leave no row.
        """
        kept, report = _keep(self._source, self._data)
        report.files = [self._path]
        schema = with_provenance(self._data.schema, {**provenance, "upstream": self._made_of()})
        return report, write_shards(run, schema, some_rows(self._data, kept), self._source.shard_rows)


def _keep(source: RunSource, data: Table) -> tuple[Ints, ReadReport]:
    """The row_ids that the filters keep, ascending: a resumed pass writes its files in any order."""
    ids, clusters, kinds, bad = array("q"), array("Q"), array("q"), bytearray()
    codes: dict[tuple[str, str | None], int] = {}  # task and language
    for batch in data.batches(["row_id", "cluster_id", "task", "language", "errors"]):
        ids.extend(batch.column("row_id").to_pylist())
        clusters.extend(hash64(cluster) for cluster in batch.column("cluster_id").to_pylist())
        pairs = zip(batch.column("task").to_pylist(), batch.column("language").to_pylist(), strict=True)
        kinds.extend(codes.setdefault(pair, len(codes)) for pair in pairs)
        bad.extend(any(e["job"] == "prompts" for e in errors or ()) for errors in batch.column("errors").to_pylist())
    row_id, cluster = np.frombuffer(ids, np.int64), np.frombuffer(clusters, np.uint64)
    kind = np.frombuffer(kinds, np.int64)
    rows = np.argsort(row_id)
    if source.languages is not None:
        wanted = [code for (_, language), code in codes.items() if is_among(language, source.languages)]
        rows = rows[np.isin(kind[rows], wanted)]
    if source.limit_clusters is not None:
        _, first, which = np.unique(cluster[rows], return_index=True, return_inverse=True)
        rows = rows[np.argsort(np.argsort(first))[which] < source.limit_clusters]
    rows = rows[: source.limit]
    if not len(rows):
        found = ", ".join(sorted({language or "und" for _, language in codes}))
        raise InputError(f"{NOTHING} that the config keeps" + (f"; languages found: {found}" if found else ""))
    counts: Counter[tuple[str, str]] = Counter()
    for (task, language), n in zip(codes, np.bincount(kind[rows], minlength=len(codes)).tolist(), strict=True):
        counts[task or "open", language or "und"] += n
    n_bad = int(np.frombuffer(bad, np.uint8)[rows].sum())
    report = ReadReport(len(rows), len(np.unique(cluster[rows])), nested(+counts), n_bad)
    for name in set(report.languages) & set(RESERVED):
        raise InputError(reserved(name, f"prompts.path: {source.path}"))
    return row_id[rows], report
