"""The thread that stops a pass: drains it when there is a reason to, and keeps the account of what it spends."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Sequence

import ray

from pipeline.config.sections import ExecutionConfig
from pipeline.core.errors import WorkerLost
from pipeline.core.safety import say
from pipeline.execution.control import Control, Ledger
from pipeline.execution.journal import JournalState
from pipeline.execution.pool import Pool
from pipeline.execution.progress import Counts

logger = logging.getLogger(__name__)

_INTERVAL = 0.5
_SAVE = 10.0  # seconds between writes of the ledger, and looks at the cluster's nodes
_SETTLE = 10.0  # seconds without a newly stored row after which nothing more is expected
_PATIENCE = 3.0  # seconds for the plan to end by itself once its workers refuse to go on


class Watch(threading.Thread):
    """Watches one pass.

    Args:
        control: the command's reasons to stop.
        pools: the pass's, in the order in which a shard goes through them.
        ledger: what the run has spent.
        config: how long rows in flight get to finish in, and lost workers to come back.
    """

    def __init__(
        self,
        control: Control,
        pools: Sequence[Pool],
        ledger: Ledger,
        config: ExecutionConfig,
    ) -> None:
        super().__init__(daemon=True, name="lemonpress-watch")
        self._control = control
        self._pools = pools
        self._ledger = ledger
        self._grace = config.drain_seconds
        self._replace = config.replace_seconds
        self._whole = time.monotonic()
        self._halt = threading.Event()

    def run(self) -> None:
        saved = time.monotonic()
        try:
            while not self._halt.wait(_INTERVAL):
                try:
                    self._account()
                    if time.monotonic() - saved > _SAVE:
                        saved = time.monotonic()
                        self._ledger.save()
                        self._check_nodes()
                except ray.exceptions.GetTimeoutError as error:  # a busy cluster; limits hold all the same
                    logger.info("watch goes on: %s", error)
                self._control.check_time()
                if self._control.reason is not None:
                    self._stop_pass()
                    return
        except ray.exceptions.RayError as error:  # the cluster is going away; the pass itself reports why
            logger.info("watch ends: %s", error)
            if self._control.reason is not None:
                self._control.interrupt_main()  # the pass may not have noticed, and wait for ever
        finally:
            self._control.draining = False  # from here on a signal is not left to this thread

    def finish(self) -> None:
        """End the thread and store what was spent."""
        self._halt.set()
        self.join(timeout=10)
        try:
            self._account()
        except ray.exceptions.RayError as error:
            logger.info("the last half second is not in the account: %s", error)
        self._ledger.save()

    def _account(self) -> None:
        for pool in self._pools:
            counts = self._counts(pool)
            self._ledger.update(pool.name, counts.prompt_tokens, counts.cached_tokens, counts.tokens)
        self._control.check_spent(*self._ledger.total())

    def _counts(self, pool: Pool) -> Counts:
        counts: Counts = ray.get(pool.progress.read.remote(), timeout=30)
        return counts

    def _in_flight(self) -> int:
        states: list[JournalState] = ray.get([pool.journal.state.remote() for pool in self._pools], timeout=30)
        return sum(state.in_flight for state in states)

    def _check_nodes(self) -> None:
        """Ray keeps a lost worker's blocks for its replacement, which a smaller cluster may never have room for."""
        lost = sum(ray.get([pool.journal.lost.remote() for pool in self._pools], timeout=30))
        if not lost:
            self._whole = time.monotonic()
        elif time.monotonic() - self._whole > self._replace and self._control.reason is None:
            self._control.reason = WorkerLost(
                f"{lost} workers were lost with their machine, and for {self._replace:g} s no other had room for them "
                "(execution.replace_seconds); the same command resumes with what is left"
            )

    def _stop_pass(self) -> None:
        say(
            f"lemonpress: {self._control.reason}: finishing the rows in flight (at most {self._grace:g} s)",
            file=sys.stderr,
        )
        deadline = time.monotonic() + self._grace
        try:
            ray.get([pool.journal.drain.remote() for pool in self._pools], timeout=30)
            while time.monotonic() < deadline and self._in_flight() and not self._halt.wait(0.2):
                pass
            self._wait_for_writes(deadline)
        except (ray.exceptions.GetTimeoutError, OSError) as error:  # of the cluster, or of the storage
            logger.warning("cannot see whether the rows in flight are done, and waits no longer for them: %s", error)
        why = str(self._control.reason)
        ray.get([pool.journal.refuse.remote(why) for pool in self._pools], timeout=30)
        if not self._halt.wait(_PATIENCE):
            self._control.interrupt_main()  # e.g. while a model loads, nobody asks the journal

    def _wait_for_writes(self, deadline: float) -> None:
        """Until every row that has ended is durable; rows never get there when others of their shard did not begin."""
        before, since = -1, time.monotonic()
        while time.monotonic() < min(deadline, since + _SETTLE) and not self._halt.wait(0.5):
            counts = [self._counts(pool) for pool in self._pools]
            stored = sum(each.stored for each in counts)
            if stored != before or self._in_flight():
                before, since = stored, time.monotonic()
            elif stored >= sum(each.rows for each in counts):  # workers have reported, twice a second
                return
