"""The journal of rows in flight: one actor a pass, beside the driver, which outlives every worker.

A worker asks it before rows begin (one call a slice of a block) and tells it afterwards. When the worker's process is
replaced, the rows that it had in flight become suspects (:mod:`pipeline.execution.suspects`); what is held against
them is kept in ``work/PASS/suspects.json``, so that it outlives the driver too. The journal is also where a pass is
drained: rows that ask to begin then are kept waiting, unless their block has begun.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.core.errors import WorkerLost
from pipeline.core.folder import RunFolder
from pipeline.execution.suspects import Suspects, Suspicion

_FILE = "suspects.json"
_FOLLOW = 5.0  # seconds between a worker's looks at whether its pass is still there


@dataclass
class JournalState:
    """What the driver asks the journal.

    Attributes:
        restarts: worker processes that were replaced, over all attempts.
        poisoned: rows set aside.
        in_flight: rows in flight now.
    """

    restarts: int = 0
    poisoned: int = 0
    in_flight: int = 0


@ray.remote(num_cpus=0)
class JournalActor:
    """See the module; all methods are coroutines, so that a drained pass can keep its workers waiting."""

    def __init__(self, run: RunFolder, name: str, stages: Sequence[str], attempts: int, max_restarts: int) -> None:
        self._run = run
        self._path = ("work", name, _FILE)
        self._book = Suspects(stages, attempts, max_restarts, run.read_json(*self._path))
        self._open = asyncio.Event()
        self._open.set()
        self._refusal: str | None = None

    async def start(self, worker: str, process: str, node: str) -> dict[int, Suspicion]:
        """A worker's process begins; returns all suspicions. Raises as :meth:`Suspects.start`."""
        before = self._book.previous(worker)
        lost = before is not None and before.node not in _alive_nodes()
        try:
            changed = self._book.start(worker, process, node, lost)
        except WorkerLost:
            self._save()
            raise
        if changed:
            self._save()
        return self._book.rows

    async def ready(self, worker: str) -> None:
        """Its engine has loaded."""
        self._book.ready(worker)

    async def begin(
        self, worker: str, rows: Sequence[int], ended: Sequence[int], known: bool = False, begun: bool = False
    ) -> dict[int, Suspicion]:
        """Rows want to begin, others have ended; waits while the pass is drained. See :meth:`Suspects.begin`.

        Args:
            begun: others of their block have begun. These do not wait: a block is stored as a whole, or not at all.

        Raises:
            WorkerLost: the pass was stopped meanwhile.
        """
        self._book.end(worker, ended)
        if not begun:
            await self._open.wait()
        if self._refusal is not None:
            raise WorkerLost(self._refusal)
        return self._book.begin(worker, rows, known)

    async def enter(self, worker: str, row: int, stage: str) -> None:
        """A suspect begins a stage."""
        self._book.enter(worker, row, stage)

    async def end(self, worker: str, rows: Sequence[int]) -> None:
        """Rows have ended."""
        self._book.end(worker, rows)

    async def last_words(self, worker: str, words: str) -> None:
        """A worker is about to die of this."""
        self._book.last_words(worker, words)

    async def drain(self) -> None:
        """Let no further row begin."""
        self._open.clear()

    async def refuse(self, why: str) -> None:
        """End the pass: whoever waits to begin gets an error."""
        self._refusal = why
        self._open.set()

    async def state(self) -> JournalState:
        """Counts."""
        return JournalState(self._book.restarts, self._book.poisoned, self._book.in_flight)

    async def lost(self) -> int:
        """Workers with rows in flight whose machine is gone, and which have not come up on another one."""
        alive = _alive_nodes()
        return sum(node not in alive for node in self._book.busy_nodes())

    def _save(self) -> None:
        self._run.write_json(self._book.to_json(), *self._path)


def start_journal(run: RunFolder, name: str, stages: Sequence[str], attempts: int, max_restarts: int) -> Any:
    """The journal of a pass, as an actor on the driver's own machine: it must not go with a lost node."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor = JournalActor.options(scheduling_strategy=here)  # type: ignore[attr-defined]
    return actor.remote(run, name, list(stages), attempts, max_restarts)


class JournalClient:
    """A worker's side of the journal. ``None`` as the actor keeps no journal (a worker outside a pass)."""

    def __init__(self, actor: Any | None) -> None:
        self._actor = actor
        self._ended: list[int] = []
        if actor is not None:
            context = ray.get_runtime_context()
            self._worker = context.get_actor_id() or context.get_worker_id()
            self._ids = (context.get_worker_id(), context.get_node_id())

    def start(self) -> dict[int, Suspicion]:
        """This process begins; returns all suspicions. Blocks. Raises what the journal raises."""
        return {} if self._actor is None else ray.get(self._actor.start.remote(self._worker, *self._ids))

    def ready(self) -> None:
        """The engine has loaded. Blocks."""
        if self._actor is not None:
            ray.get(self._actor.ready.remote(self._worker))

    async def begin(self, rows: Sequence[int], known: bool = False, begun: bool = False) -> dict[int, Suspicion]:
        """As :meth:`JournalActor.begin`."""
        if self._actor is None:
            return {}
        ended, self._ended = self._ended, []
        found: dict[int, Suspicion] = await self._actor.begin.remote(self._worker, list(rows), ended, known, begun)
        return found

    async def enter(self, row: int, stage: str) -> None:
        """As :meth:`JournalActor.enter`."""
        if self._actor is not None:
            await self._actor.enter.remote(self._worker, row, stage)

    def end(self, row: int) -> None:
        """A row has ended; sent with the next :meth:`begin` or :meth:`flush`."""
        self._ended.append(row)

    def flush(self) -> None:
        """Send the rows that have ended."""
        if self._actor is not None and self._ended:
            self._actor.end.remote(self._worker, self._ended)
        self._ended = []

    async def follow(self) -> None:
        """End this process when the journal, and so the pass, is gone.

        Ray ends a failed plan's actors once nothing holds their handles, and in a notebook a kept exception does.
        """
        while self._actor is not None:
            await asyncio.sleep(_FOLLOW)
            try:
                await self._actor.state.remote()
            except ray.exceptions.ActorDiedError:
                os._exit(1)

    async def last_words(self, words: str) -> None:
        """Say why this process is about to die; waits a few seconds at most for the journal."""
        if self._actor is not None:
            sent = self._actor.last_words.remote(self._worker, words)
            await asyncio.wait([asyncio.wrap_future(sent.future())], timeout=5)


def _alive_nodes() -> set[str]:
    return {str(node["NodeID"]) for node in ray.nodes() if node["Alive"]}


__all__ = ["JournalActor", "JournalClient", "JournalState", "start_journal"]
