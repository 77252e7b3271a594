"""The replay table: one row per prompt with all that selectors choose by, and what the choice is worth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import __version__
from pipeline.config.config import Config, to_yaml
from pipeline.core import tables
from pipeline.core.errors import InputError, UnfinishedTableError
from pipeline.core.folder import RunFolder
from pipeline.core.row import Row, row_from_dict
from pipeline.core.schema import COLUMNS, read_provenance, with_provenance
from pipeline.judging.names import is_candidate
from pipeline.selection.mbr import MBR
from pipeline.tasks.utilities import UTILITIES, Utility

UTILITY = pa.struct([("plan", pa.string()), ("utility", pa.string()), ("matrix", pa.list_(pa.list_(pa.float64())))])
"""u(candidate i, candidate j) of one candidate set as rows i of columns j; null where one of them has no text."""

_PLAIN = ("row_id", "prompt_id", "cluster_id", "task", "language", "messages", "reference")
_NESTED = ("candidates", "scores", "selections", "games", "usage")
SCHEMA = pa.schema([*((name, COLUMNS[name]) for name in (*_PLAIN, *_NESTED)), ("utilities", pa.list_(UTILITY))])
_BATCH = 256


@dataclass
class Pools:
    """One prompt of the table.

    Attributes:
        row: with its candidates, all scores, the run's own selections, and its candidates' games.
        matrices: (plan, utility) -> matrix, as in ``UTILITY``.
    """

    row: Row
    matrices: dict[tuple[str, str], list[list[float | None]]] = field(default_factory=dict)

    def utilities(self, plan: str) -> dict[str, Utility]:
        """Utilities that look up what the table holds, and compute only what is new."""
        texts = [c.text for c in self.row.plan(plan)]
        place = {text: i for i, text in enumerate(texts) if text is not None}
        return {
            name: _looked_up(name, matrix, place) for (where, name), matrix in self.matrices.items() if where == plan
        }


def _looked_up(name: str, matrix: list[list[float | None]], place: dict[str, int]) -> Utility:
    def utility(hypotheses: Sequence[str], references: Sequence[str], language: str | None = None) -> list[list[float]]:
        if any(text not in place for text in (*hypotheses, *references)):
            return UTILITIES[name](hypotheses, references, language)
        columns = [place[text] for text in references]
        return [[float(matrix[place[text]][j] or 0.0) for j in columns] for text in hypotheses]

    return utility


def last_table(run: RunFolder) -> tuple[str, dict[str, Any]]:
    """The run's last table with selections, and what tells one version of it from the next.

    Raises:
        UnfinishedTableError: ``select`` has not finished.
    """
    for table in ("games", "selections"):
        marker = run.marker(table)
        if marker is not None:
            return table, {"table": table, "hash": marker.get("fingerprint_hash")}
    raise UnfinishedTableError(f"{run.path('selections')} is not finished: run select (again), it resumes")


def write_replay(run: RunFolder, config: Config, folder: RunFolder, name: str) -> None:
    """Write the table, streaming; chrF between all candidates of a set is computed once, here."""
    table, state = last_table(run)
    chosen = [s.utility for s in config.selectors.values() if isinstance(s, MBR) and s.utility in UTILITIES]
    names = list(dict.fromkeys(["chrf", *chosen]))
    provenance = {"lemonpress": __version__, "pass": "replay", "source": state, "config": to_yaml(config)}
    schema = with_provenance(SCHEMA, provenance)
    folder.make()
    with folder.whole(name) as path, pq.ParquetWriter(path, schema, filesystem=folder.fs, compression="zstd") as writer:
        items = run.iter_rows(table, (*_PLAIN, *_NESTED), _BATCH)
        while rows := [_portable(item, names) for item in islice(items, _BATCH)]:
            arrays = [pa.array([row[f.name] for row in rows], f.type) for f in schema]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))


def _portable(item: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    row: dict[str, Any] = {name: item.get(name) for name in _PLAIN} | {name: item.get(name) or [] for name in _NESTED}
    row["games"] = [game for game in row["games"] if is_candidate(game["system"])]
    row["usage"] = [used for used in row["usage"] if used["job"] == "select"]
    plans = dict.fromkeys(c["plan"] for c in row["candidates"] if c["origin"] != "evidence")
    row["utilities"] = [
        {"plan": plan, "utility": name, "matrix": _matrix(name, row, plan)} for plan in plans for name in names
    ]
    return row


def _matrix(name: str, row: dict[str, Any], plan: str) -> list[list[float | None]]:
    texts = [c["text"] for c in row["candidates"] if c["plan"] == plan]
    known = [i for i, text in enumerate(texts) if text is not None]
    there = [texts[i] for i in known]
    found: list[list[float | None]] = [[None] * len(texts) for _ in texts]
    for i, line in zip(known, UTILITIES[name](there, there, row["language"]) if there else [], strict=True):
        for j, value in zip(known, line, strict=True):
            found[i][j] = value
    return found


class ReplayTable:
    """A replay table, opened.

    Args:
        folder, name: where it is.

    Attributes:
        config: the run's config, as YAML.
        source: which table of the run it was made from.

    Raises:
        InputError: there is no such file, or it is no replay table.
    """

    def __init__(self, folder: RunFolder, name: str) -> None:
        self._folder, self._name = folder, name
        path = folder.path(name)
        if not folder.exists(name):
            raise InputError(f"{path}: no such replay table")
        with tables.open_file(path, folder.fs) as file:
            provenance = read_provenance(file.schema_arrow, path)
            columns = file.schema_arrow
        if provenance.get("pass") != "replay" or not columns.equals(SCHEMA):
            raise InputError(f"{path}: no replay table; lemonpress replay RUN makes one")
        config, source = provenance.get("config"), provenance.get("source")
        if not isinstance(config, str) or not isinstance(source, dict):
            raise InputError(f"{path}: no replay table: it does not say with which config it was made")
        self.config: str = config
        self.source: dict[str, Any] = source

    def __iter__(self) -> Iterator[Pools]:
        """The prompts, in batches."""
        with tables.open_file(self._folder.path(self._name), self._folder.fs) as file:
            for batch in file.iter_batches(_BATCH):
                for item in batch.to_pylist():
                    found = item.pop("utilities") or []
                    matrices = {(u["plan"], u["utility"]): u["matrix"] for u in found}
                    yield Pools(row_from_dict(item), matrices)


def place_of(path: str) -> tuple[RunFolder, str]:
    """The folder and the name of a table's path or URI."""
    folder, _, name = path.rpartition("/")
    return RunFolder(folder or str(Path()), "replay.table"), name
