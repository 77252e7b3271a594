"""Which rows may have killed their worker: what is in flight where, and how often it was there when one died.

Plain Python, no Ray: :mod:`pipeline.execution.journal` keeps one such book in an actor.

A worker that dies while ``n`` rows are in flight makes them suspects. They run again at most ``sqrt(n)`` at a time;
after a second death, alone. So an ordinary one-off crash costs a redo in small groups, and a row that really kills
its engine stands alone after two. A row that was alone in flight at ``attempts`` deaths is set aside.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from pipeline.core.errors import WorkerLost

SILENT = "its process ended without a word: killed, out of memory, or a crash in native code"
_LOADS = 3  # deaths in a row while loading, after which the model is called unloadable


@dataclass
class Suspicion:
    """What is held against one row.

    Attributes:
        deaths: workers that died while it was in flight.
        width: rows that may be in flight beside it, itself included.
        alone: stage -> deaths while it was alone in flight in that stage.
        words: the last dead worker's last words.
    """

    deaths: int = 0
    width: int = 1
    alone: dict[str, int] = field(default_factory=dict)
    words: str = SILENT


@dataclass
class Incarnation:
    """One process of a worker: which one, where, and what it has in flight.

    Attributes:
        process, node: Ray's ids.
        ready: its engine has loaded.
        rows: in flight -> the stage that is running, where known.
        words: why it is about to die, where it could say.
    """

    process: str
    node: str
    ready: bool = False
    rows: dict[int, str] = field(default_factory=dict)
    words: str | None = None


class Suspects:
    """The book of one pass.

    Args:
        stages: the pass's stages.
        attempts: deaths alone after which a row is set aside.
        max_restarts: deaths in a row, without one finished row between, that end the pass.
        saved: what :meth:`to_json` gave in an earlier attempt.
    """

    def __init__(
        self, stages: Sequence[str], attempts: int, max_restarts: int, saved: dict[str, Any] | None = None
    ) -> None:
        self._stages = list(stages)
        self._attempts = attempts
        self._max_restarts = max_restarts
        self._workers: dict[str, Incarnation] = {}
        self._loads: dict[str, int] = {}
        self._barren = 0
        saved = saved or {}
        self.restarts = int(saved.get("restarts", 0))
        self.rows = {int(row): Suspicion(**known) for row, known in saved.get("rows", {}).items()}

    def to_json(self) -> dict[str, Any]:
        """What is worth keeping beyond this driver. The rows in flight at a driver's own end are under no suspicion."""
        return {"restarts": self.restarts, "rows": {str(row): asdict(known) for row, known in self.rows.items()}}

    @property
    def poisoned(self) -> int:
        """Rows that are set aside in at least one stage."""
        return sum(self._is_poison(row) for row in self.rows)

    @property
    def in_flight(self) -> int:
        """Rows in flight on all workers."""
        return sum(len(worker.rows) for worker in self._workers.values())

    def busy_nodes(self) -> list[str]:
        """Where each worker with rows in flight was seen last (one that a shrinking pool let go has none)."""
        return [worker.node for worker in self._workers.values() if worker.rows]

    def previous(self, worker: str) -> Incarnation | None:
        """The worker's process before the one that starts now."""
        return self._workers.get(worker)

    def start(self, worker: str, process: str, node: str, node_lost: bool = False) -> bool:
        """A worker's process begins, the first one or a replacement.

        Args:
            node_lost: the previous one went with its whole machine: nobody's fault.

        Returns:
            Whether suspicions changed.

        Raises:
            WorkerLost: replacing it once more would lead nowhere.
        """
        before, self._workers[worker] = self._workers.get(worker), Incarnation(process, node)
        if before is None:
            return False
        self.restarts += 1
        if node_lost:
            return False
        words = before.words or f"{SILENT} (its log: worker-{before.process}*.err in Ray's session folder)"
        if not before.ready:
            self._loads[worker] = self._loads.get(worker, 0) + 1
            if self._loads[worker] >= _LOADS:
                raise WorkerLost(f"the worker died {_LOADS} times while its engine was loading: {words}")
            return False
        if not before.rows:
            return False
        self._blame(before.rows, words)
        self._barren += 1
        if self._barren >= self._max_restarts:
            raise WorkerLost(
                f"the engine died {self._barren} times in a row without finishing a row between "
                f"(execution.max_restarts={self._max_restarts}); its last words: {words}"
            )
        return True

    def _blame(self, rows: dict[int, str], words: str) -> None:
        for row, stage in rows.items():
            known = self.rows.setdefault(row, Suspicion())
            known.deaths += 1
            known.words = words
            known.width = math.isqrt(len(rows)) if known.deaths == 1 else 1
            if len(rows) == 1:
                stage = stage or (self._stages[0] if len(self._stages) == 1 else "")
                if stage:
                    known.alone[stage] = known.alone.get(stage, 0) + 1

    def ready(self, worker: str) -> None:
        """The worker's engine has loaded."""
        self._workers[worker].ready = True
        self._loads.pop(worker, None)

    def begin(self, worker: str, rows: Sequence[int], known: bool = False) -> dict[int, Suspicion]:
        """Rows want to begin on a worker.

        Args:
            known: the worker has looked at their suspicions already.

        Returns:
            What is held against some of them; when that is something new to the worker, none of them has begun.
        """
        found = {} if known else {row: self.rows[row] for row in rows if row in self.rows}
        if not found:
            self._workers[worker].rows.update(dict.fromkeys(rows, ""))
        return found

    def enter(self, worker: str, row: int, stage: str) -> None:
        """A suspect begins a stage."""
        self._workers[worker].rows[row] = stage

    def end(self, worker: str, rows: Iterable[int]) -> None:
        """Rows ended on a worker that is alive: cleared, unless they are set aside."""
        for row in rows:
            self._workers[worker].rows.pop(row, None)
            if not self._is_poison(row):
                self.rows.pop(row, None)
                self._barren = 0

    def last_words(self, worker: str, words: str) -> None:
        """A worker is about to die."""
        self._workers[worker].words = words

    def _is_poison(self, row: int) -> bool:
        known = self.rows.get(row)
        return known is not None and max(known.alone.values(), default=0) >= self._attempts
