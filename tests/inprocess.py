"""Passes without Ray: the same pass, hosts and workers, with this process in the place of Ray Data and its actors.

What is replaced is Ray's own part only: the plan (read, repartition, map, write with a checkpoint), the cluster and its
actors. Engines and stages go through pickle, as they do on their way to an actor. Limits are looked at after each
block, and end the pass there. A test that kills a process, or is about actors or the journal, belongs on the real Ray
(fixture ``ray_cluster``).
"""

from __future__ import annotations

import pickle
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest
import ray
import ray.cloudpickle
from ray.data import DataContext

from pipeline.config.sections import NodeGroup
from pipeline.core.folder import RunFolder
from pipeline.execution import cluster, hosting, passes, placing, progress
from pipeline.execution.journal import JournalState

AfterBlock = Callable[[int], None]
"""Called with the number of blocks stored so far; raise in it to end a pass as a crash would."""


class _Call:
    """A method of an actor that lives here."""

    def __init__(self, method: Callable[..., Any]) -> None:
        self.remote = method


class _Local:
    """Stands for the handle of an actor."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def __getattr__(self, name: str) -> _Call:
        return _Call(getattr(self._actor, name))


class Plan:
    """Stands for a ``ray.data.Dataset`` of the one shape that a pass has."""

    def __init__(self, files: Sequence[str], run: RunFolder, after_block: AfterBlock) -> None:
        self._files, self._run, self._after_block = list(files), run, after_block
        self._rows = 1
        self._workers: list[Callable[[], Any]] = []

    def repartition(self, target_num_rows_per_block: int) -> Plan:
        self._rows = target_num_rows_per_block
        return self

    def map_batches(self, worker: type, *, fn_constructor_kwargs: dict[str, Any], **_: Any) -> Plan:
        shipped = {k: v for k, v in fn_constructor_kwargs.items() if k not in ("progress", "journal", "labels")}
        packed = ray.cloudpickle.dumps(shipped)
        here = {k: fn_constructor_kwargs[k] for k in ("progress", "journal")}
        self._workers.append(lambda: worker(**pickle.loads(packed), **here, labels=None))
        return self

    def write_parquet(self, folder: str, *, filesystem: Any, compression: str) -> None:
        config = DataContext.get_current().checkpoint_config
        assert config is not None
        checkpoint = config.checkpoint_path
        table = pads.dataset(self._files, filesystem=filesystem, format="parquet").to_table()
        done: set[int] = set()
        if known := self._run.parquet_files("work", Path(checkpoint).parent.name, "checkpoint"):
            done = set(pads.dataset(known, filesystem=filesystem).to_table(["row_id"])["row_id"].to_pylist())
        table = table.filter(pa.array([i not in done for i in table["row_id"].to_pylist()], pa.bool_()))
        workers = [make() for make in self._workers] if len(table) else []
        try:
            for number, start in enumerate(range(0, len(table), self._rows)):
                block = table.slice(start, self._rows).combine_chunks()
                for worker in workers:
                    block = worker(block)
                name = f"{len(done)}_{number:06}.parquet"
                pq.write_table(block, f"{folder}/{name}", filesystem=filesystem, compression=compression)
                pq.write_table(block.select(["row_id"]), f"{checkpoint}/{name}", filesystem=filesystem)
                self._after_block(number + 1)
        finally:
            for worker in workers:
                worker._reporter._send()
                worker._loop.call_soon_threadsafe(worker._loop.stop)


class _Watch:
    """Stands for the thread that stops a pass and keeps the account of what it spends."""

    def __init__(self, control: Any, hosts: Sequence[hosting.Host], ledger: Any, *_: Any) -> None:
        self._control, self._hosts, self._ledger = control, hosts, ledger

    def start(self) -> None:
        pass

    def look(self) -> None:
        """After a block: raise when a limit is reached."""
        self._account()
        self._control.check_spent(*self._ledger.total())
        self._control.check_time()
        self._control.check()

    def finish(self) -> None:
        self._account()
        self._ledger.save()

    def _account(self) -> None:
        for host in self._hosts:
            counts = host.progress.read.remote()
            self._ledger.update(host.name, counts.prompt_tokens, counts.cached_tokens, counts.tokens)


def _get(result: Any, timeout: float | None = None) -> Any:
    return result


@contextmanager
def without_ray(after_block: AfterBlock = lambda stored: None) -> Iterator[None]:
    """Whatever runs a pass in this block runs it here."""
    actor = progress.ProgressActor.__ray_metadata__.modified_class  # type: ignore[attr-defined]
    here = types.SimpleNamespace(get=_get, kill=lambda handle: None, exceptions=ray.exceptions)
    watches: list[_Watch] = []

    def watch(*given: Any) -> _Watch:
        watches.append(_Watch(*given))
        return watches[-1]

    def stored(blocks: int) -> None:
        after_block(blocks)
        watches[-1].look()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(passes, "read_table", lambda run, table: Plan(run.data_files(table), run, stored))
        patch.setattr(passes, "Watch", watch)
        patch.setattr(hosting, "ray", here)
        patch.setattr(progress, "ray", here)
        patch.setattr(hosting, "ProgressActor", _Call(lambda: _Local(actor())))
        patch.setattr(hosting, "start_journal", lambda *_: None)
        patch.setattr(hosting.Host, "faults", lambda self: JournalState())
        patch.setattr(hosting, "cluster_processors", lambda: (2.0, 8.0))
        patch.setattr(placing, "nodes_up", lambda: [NodeGroup(1, 0.0, 8.0)])
        patch.setattr(cluster, "cluster", lambda config: nullcontext())
        yield
