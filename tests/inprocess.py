"""Passes without Ray: the same pass, pools and workers, with this process in the place of Ray Data and its actors.

What is replaced is Ray's own part only: the plan that carries numbers of shards, the cluster and its actors. Engines
and stages go through pickle, as they do on their way to an actor. Limits are looked at after each shard, and end the
pass there. A test that kills a process, or is about actors or the journal, belongs on the real Ray (fixture
``ray_cluster``).
"""

from __future__ import annotations

import pickle
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import pyarrow as pa
import pytest
import ray
import ray.cloudpickle

from pipeline.config.sections import NodeGroup
from pipeline.execution import cluster, passes, pool, progress
from pipeline.execution.journal import JournalState

AfterShard = Callable[[int], None]
"""Called with the number of shards stored so far; raise in it to end a pass as a crash would."""


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

    def __init__(self, shards: Sequence[int], after_shard: AfterShard) -> None:
        self._shards, self._after_shard = list(shards), after_shard
        self._workers: list[Callable[[], Any]] = []

    def map_batches(self, worker: type, *, fn_constructor_kwargs: dict[str, Any], **_: Any) -> Plan:
        shipped = {k: v for k, v in fn_constructor_kwargs.items() if k not in ("progress", "journal", "labels")}
        packed = ray.cloudpickle.dumps(shipped)
        here = {k: fn_constructor_kwargs[k] for k in ("progress", "journal")}
        self._workers.append(lambda: worker(**pickle.loads(packed), **here, labels=None))
        return self

    def materialize(self) -> None:
        workers = [make() for make in self._workers] if self._shards else []
        try:
            for number, shard in enumerate(self._shards):
                for worker in workers:
                    worker(pa.table({"shard": [shard]}))
                self._after_shard(number + 1)
        finally:
            for worker in workers:
                worker._reporter._send()
                worker._loop.call_soon_threadsafe(worker._loop.stop)


class _Watch:
    """Stands for the thread that stops a pass and keeps the account of what it spends."""

    def __init__(self, control: Any, pools: Sequence[pool.Pool], ledger: Any, *_: Any) -> None:
        self._control, self._pools, self._ledger = control, pools, ledger

    def start(self) -> None:
        pass

    def look(self) -> None:
        """After a shard: raise when a limit is reached."""
        self._account()
        self._control.check_spent(*self._ledger.total())
        self._control.check_time()
        self._control.check()

    def finish(self) -> None:
        self._account()
        self._ledger.save()

    def _account(self) -> None:
        for each in self._pools:
            counts = each.progress.read.remote()
            self._ledger.update(each.name, counts.prompt_tokens, counts.cached_tokens, counts.tokens)


def _get(result: Any, timeout: float | None = None) -> Any:
    return result


@contextmanager
def without_ray(after_shard: AfterShard = lambda stored: None) -> Iterator[None]:
    """Whatever runs a pass in this block runs it here."""
    actor = progress.ProgressActor.__ray_metadata__.modified_class  # type: ignore[attr-defined]
    here = types.SimpleNamespace(get=_get, kill=lambda handle: None, exceptions=ray.exceptions)
    watches: list[_Watch] = []

    def watch(*given: Any) -> _Watch:
        watches.append(_Watch(*given))
        return watches[-1]

    def stored(shards: int) -> None:
        after_shard(shards)
        watches[-1].look()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(passes, "_numbers", lambda shards, tasks: Plan(shards, stored))
        patch.setattr(passes, "Watch", watch)
        patch.setattr(pool, "ray", here)
        patch.setattr(progress, "ray", here)
        patch.setattr(pool, "ProgressActor", _Call(lambda: _Local(actor())))
        patch.setattr(pool, "start_journal", lambda *_: None)
        patch.setattr(pool.Pool, "faults", lambda self: JournalState())
        patch.setattr(pool, "cluster_processors", lambda: (2.0, 8.0))
        patch.setattr(pool, "nodes_up", lambda: [NodeGroup(1, 0.0, 8.0)])
        patch.setattr(cluster, "cluster", lambda config: nullcontext())
        yield
