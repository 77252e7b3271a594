"""Counts from the workers to the driver: rows done and failed, tokens, rows in flight; and the line with an ETA."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import Any, Protocol

import ray
from tqdm import tqdm

_INTERVAL = 0.5


@dataclass
class Counts:
    """Totals of a pass so far.

    Attributes:
        rows, failed: rows finished by this attempt's workers, and those of them with a new error.
        tokens: completion tokens.
        row_seconds: integral of the rows in flight over time, summed over actors.
        busy_seconds: time with at least one row in flight, summed over actors.
        workers: actors (restarts included) that reported.
    """

    rows: int = 0
    failed: int = 0
    tokens: int = 0
    row_seconds: float = 0.0
    busy_seconds: float = 0.0
    workers: set[str] = field(default_factory=set)

    @property
    def mean_in_flight(self) -> float:
        """Mean rows in flight per actor while it was busy."""
        return self.row_seconds / self.busy_seconds if self.busy_seconds else 0.0


class Progress(Protocol):
    """Handle of the counting actor, as the workers see it."""

    add: Any


@ray.remote(num_cpus=0, max_concurrency=8)
class ProgressActor:
    """Adds up the workers' counts."""

    def __init__(self) -> None:
        self._counts = Counts()

    def add(self, worker: str, rows: int, failed: int, tokens: int, row_seconds: float, busy_seconds: float) -> None:
        """Count what one worker did since its last report."""
        c = self._counts
        c.rows += rows
        c.failed += failed
        c.tokens += tokens
        c.row_seconds += row_seconds
        c.busy_seconds += busy_seconds
        c.workers.add(worker)

    def read(self) -> Counts:
        """The totals so far."""
        return self._counts


class Reporter:
    """A worker's own counts, sent every half second. All calls come from the worker's event loop."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._worker = f"{time.time_ns():x}"
        self._in_flight = 0
        self._since = time.monotonic()
        self._reset()

    def _reset(self) -> None:
        self._rows = self._failed = self._tokens = 0
        self._row_seconds = self._busy_seconds = 0.0

    def _tick(self) -> None:
        now = time.monotonic()
        self._row_seconds += self._in_flight * (now - self._since)
        self._busy_seconds += (now - self._since) if self._in_flight else 0.0
        self._since = now

    def enter(self) -> None:
        """A row begins."""
        self._tick()
        self._in_flight += 1

    def leave(self, failed: bool, tokens: int, seconds: float) -> None:
        """A row ends."""
        self._tick()
        self._in_flight -= 1
        self._rows += 1
        self._failed += int(failed)
        self._tokens += tokens

    async def run(self) -> None:
        """Send what was counted, every half second, for ever."""
        while True:
            await asyncio.sleep(_INTERVAL)
            self._tick()
            if self._progress is not None and (self._rows or self._busy_seconds):
                self._progress.add.remote(
                    self._worker, self._rows, self._failed, self._tokens, self._row_seconds, self._busy_seconds
                )
                self._reset()


class ProgressLine(threading.Thread):
    """Shows rows done, rate, tokens/s and ETA on standard error while a pass runs.

    Args:
        actor: the counting actor.
        name: of the pass.
        done: rows that were durable before this attempt.
        total: rows of the pass.
        show: ``False`` counts without printing.
    """

    def __init__(self, actor: Any, name: str, done: int, total: int, show: bool) -> None:
        super().__init__(daemon=True, name="lemonpress-progress")
        self._actor = actor
        self._halt = threading.Event()
        self._offset = done
        self._bar = tqdm(
            total=total,
            initial=done,
            desc=name,
            unit="row",
            disable=not show,
            dynamic_ncols=True,
        )
        self._interval = 1.0 if sys.stderr.isatty() else 15.0
        self._begun = time.monotonic()

    def run(self) -> None:
        while not self._halt.wait(self._interval):
            self._show()

    def _show(self) -> None:
        try:
            counts: Counts = ray.get(self._actor.read.remote(), timeout=5)
        except Exception:  # the cluster is going away; the pass itself reports why
            return
        rate = counts.tokens / max(time.monotonic() - self._begun, 1e-9)
        self._bar.set_postfix_str(f"failed={counts.failed} {rate:.0f} tok/s", refresh=False)
        self._bar.n = min(self._offset + counts.rows, self._bar.total)
        self._bar.refresh()

    def finish(self, complete: bool) -> Counts:
        """Stop the line and return the totals; the actors' last half second may be missing from them."""
        self._halt.set()
        self.join(timeout=10)
        self._show()
        if complete:
            self._bar.n = self._bar.total
        self._bar.close()
        try:
            return ray.get(self._actor.read.remote(), timeout=5)  # type: ignore[no-any-return]
        except Exception:
            return Counts()
