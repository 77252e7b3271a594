"""A pass that is not finished: where it stands, and whether this config may go on with it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from ray.data.checkpoint.checkpoint_writer import PENDING_CHECKPOINT_SUFFIX

from pipeline.core import tables
from pipeline.core.errors import InputError, ResumeError
from pipeline.core.folder import BLOCKS, RunFolder
from pipeline.execution.extend import ADVICE, difference
from pipeline.execution.spec import PassSpec

logger = logging.getLogger(__name__)

STATE = "state.json"


def fingerprint(spec: PassSpec, source: dict[str, Any]) -> dict[str, Any]:
    """What a pass's unfinished work depends on; ``base`` only where a table is extended."""
    base = {"base": spec.extension.version} if spec.extension else {}
    return {**spec.fingerprint, "input": source.get("fingerprint_hash"), **base}


def is_fresh(spec: PassSpec, run: RunFolder) -> bool:
    """Whether the pass has something to do, all of it: nothing is finished, begun or to be extended."""
    idle = spec.skip or spec.extension is not None
    return not idle and run.marker(spec.writes) is None and run.read_json("work", spec.name, STATE) is None


def check_unfinished(spec: PassSpec, run: RunFolder) -> None:
    """Raise ResumeError when another config has left unfinished work of this pass; nothing is started or changed."""
    state, source = run.read_json("work", spec.name, STATE), run.marker(spec.reads)
    if state is None or source is None or spec.skip or spec.force:
        return
    now = fingerprint(spec, source)
    if state["fingerprint"].get("base") == now.get("base") and not _only_more_rows(state, now, source):
        check_same(state["fingerprint"], now, spec, run)


def open_state(spec: PassSpec, run: RunFolder, now: dict[str, Any], source: dict[str, Any]) -> dict[str, Any]:
    """Where the pass stands; counts this attempt.

    Raises:
        ResumeError: it was left unfinished by another config.
    """
    state: dict[str, Any] | None = run.read_json("work", spec.name, STATE)
    if state is not None and state["fingerprint"].get("base") != now.get("base"):
        run.remove("work", spec.name)  # towards a version that has been finished since, or given up
        state = None
    if state is None:
        version = spec.extension.version + 1 if spec.extends and spec.extension else 1
        state = {"fingerprint": now, "seconds": 0.0, "attempts": 0, "blocks": f"{BLOCKS}{version}"}
        run.remove("work", spec.name, "checkpoint")
        run.remove(spec.writes, state["blocks"])
    state = {"blocks": "", "mixed": [], **state}  # earlier versions put the blocks into the table's own folder
    if not _only_more_rows(state, now, source):
        state["mixed"] += check_same(state["fingerprint"], now, spec, run)
    state["fingerprint"] = now
    state["attempts"] += 1
    run.write_json(state, "work", spec.name, STATE)
    return state


def _only_more_rows(state: dict[str, Any], now: dict[str, Any], source: dict[str, Any]) -> bool:
    """Whether nothing changed but that rows were added to the input."""
    before = state["fingerprint"]
    return before.get("input") in source.get("earlier", ()) and {**before, "input": now["input"]} == now


def checkpoint_files(run: RunFolder, spec: PassSpec) -> tuple[list[str], list[str]]:
    """The files that list committed rows, and those of writes that were under way when an attempt ended."""
    files = run.parquet_files("work", spec.name, "checkpoint")
    pending = [path for path in files if path.endswith(f"{PENDING_CHECKPOINT_SUFFIX}.parquet")]
    return [path for path in files if path not in set(pending)], pending


def mend(run: RunFolder, spec: PassSpec, blocks: str) -> int:
    """Have the rows made again that the checkpoint lists, but no block holds any more: a file was lost or cut off.

    The checkpoint is written anew from the blocks that can be read, and the others are removed. Blocks of writes that
    were under way do not count: Ray removes these itself. Memory holds 16 bytes a row.

    Args:
        blocks: the folder of the table's blocks.

    Returns:
        How many rows are made again.
    """
    committed, pending = checkpoint_files(run, spec)
    if not committed:
        return 0
    under_way = tuple(path.rpartition("/")[2].partition(PENDING_CHECKPOINT_SUFFIX)[0] for path in pending)
    files = [p for p in run.parquet_files(spec.writes, blocks) if not p.rpartition("/")[2].startswith(under_way)]
    here, broken = _row_ids(run, files)
    listed, unreadable = _row_ids(run, committed)
    lost = len(np.setdiff1d(listed, here))
    if not (lost or broken or unreadable):
        return 0
    for path in [*broken, *committed]:
        run.fs.delete_file(path)
    logger.warning("pass %s: %d rows were lost, and are made again (%d files)", spec.name, lost, len(broken))
    with run.fs.open_output_stream(run.path("work", spec.name, "checkpoint", "mended.parquet")) as sink:
        pq.write_table(pa.table({"row_id": pa.array(here, pa.int64())}), sink)
    return lost


def _row_ids(run: RunFolder, files: Sequence[str]) -> tuple[npt.NDArray[np.int64], list[str]]:
    """The ``row_id`` of all rows in some files, and those of the files that cannot be read."""
    found, broken = [np.empty(0, np.int64)], []
    for path in files:
        try:
            with tables.open_file(path, run.fs) as file:
                found.append(file.read(columns=["row_id"]).column("row_id").to_numpy())
        except InputError:
            broken.append(path)
    return np.concatenate(found), broken


class DurableRows:
    """Counts the rows that a pass has made durable since this was made; every file is opened once."""

    def __init__(self, run: RunFolder, spec: PassSpec) -> None:
        self._run = run
        self._spec = spec
        committed, pending = checkpoint_files(run, spec)
        # Ray commits what an earlier attempt left pending, by taking that word out of the name.
        self._known = {*committed, *(path.replace(PENDING_CHECKPOINT_SUFFIX, "") for path in pending)}
        self._rows = 0

    def __call__(self) -> int:
        for path in checkpoint_files(self._run, self._spec)[0]:
            if path not in self._known:
                with self._run.fs.open_input_file(path) as file:
                    self._rows += pq.read_metadata(file).num_rows
                self._known.add(path)
        return self._rows


def check_same(before: dict[str, Any], now: dict[str, Any], spec: PassSpec, run: RunFolder) -> list[str]:
    """Refuse to mix the results of two configs in one table, or return how they differ where that is forced."""
    lines = difference(before, now, spec.name)
    if not lines:
        return []
    if spec.force:
        return [lines]
    raise ResumeError(
        f"{run.path(spec.writes)} holds work of pass {spec.name} that was made with another config:\n{lines}\n{ADVICE}"
        f"; or remove {run.path('work', spec.name)}, which throws the pass's unfinished work away"
    )
