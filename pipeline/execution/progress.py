"""Counts from the workers to the driver: rows done and failed, tokens, rows in flight; and the line with an ETA."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Protocol

import ray
from tqdm import tqdm

from pipeline.records import Usage

_INTERVAL = 0.5


@dataclass
class Counts:
    """Totals of a pass so far.

    Attributes:
        rows, failed: rows finished by this attempt's workers, and those of them with a new error.
        tokens: completion tokens.
        prompt_tokens, cached_tokens: the requests' prompts, and the part of them that a prefix cache gave.
        row_seconds: integral of the rows in flight over time, summed over actors.
        busy_seconds: time with at least one row in flight, summed over actors.
        workers: actors (restarts included) that reported.
    """

    rows: int = 0
    failed: int = 0
    tokens: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
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


@ray.remote(num_cpus=0)
class ProgressActor:
    """Adds up the workers' counts."""

    def __init__(self) -> None:
        self._counts = Counts()

    def add(self, new: Counts) -> None:
        """Count what one worker did since its last report."""
        for item in fields(Counts):
            old = getattr(self._counts, item.name)
            setattr(
                self._counts, item.name, old | new.workers if item.name == "workers" else old + getattr(new, item.name)
            )

    def read(self) -> Counts:
        """The totals so far."""
        return self._counts


class Reporter:
    """A worker's own counts, sent every half second. All calls come from the worker's event loop.

    Args:
        progress: the counting actor; ``None`` sends nothing.
        flush: called every half second, too.
    """

    def __init__(self, progress: Progress | None, flush: Callable[[], None]) -> None:
        self._progress = progress
        self._flush = flush
        self._worker = f"{time.time_ns():x}"
        self._in_flight = 0
        self._since = time.monotonic()
        self._new = Counts(workers={self._worker})

    def _tick(self) -> None:
        now = time.monotonic()
        self._new.row_seconds += self._in_flight * (now - self._since)
        self._new.busy_seconds += (now - self._since) if self._in_flight else 0.0
        self._since = now

    def enter(self) -> None:
        """A row begins."""
        self._tick()
        self._in_flight += 1

    def leave(self, failed: bool, usage: Sequence[Usage]) -> None:
        """A row ends, having spent ``usage`` here."""
        self._tick()
        self._in_flight -= 1
        self._new.rows += 1
        self._new.failed += int(failed)
        for item in usage:
            self._new.tokens += item.completion_tokens
            self._new.prompt_tokens += item.prompt_tokens
            self._new.cached_tokens += item.cached_tokens

    async def run(self) -> None:
        """Send what was counted, every half second, for ever."""
        while True:
            await asyncio.sleep(_INTERVAL)
            self._flush()
            self._tick()
            if self._progress is not None and (self._new.rows or self._new.busy_seconds):
                self._progress.add.remote(self._new)
                self._new = Counts(workers={self._worker})


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
