"""Counts from the workers to the driver: rows done and failed, tokens, rows in flight; and the line with an ETA."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import ray
from tqdm import tqdm

from pipeline.core.row import Row, RowError, Usage
from pipeline.execution.load import Sample, Timeline
from pipeline.execution.observe import Histogram, RayMetrics

logger = logging.getLogger(__name__)

_INTERVAL = 0.5
_MAX_EVENTS = 1000  # kept at once; a run whose every row fails must not fill the actor's memory
_MESSAGE = 500  # characters of an error in the log
_TOLD = 5


_TOTALS = (
    *("rows", "failed", "stored", "tokens", "prompt_tokens", "cached_tokens"),
    *("row_seconds", "busy_seconds"),
)


@dataclass
class Counts:
    """Totals of a pass so far.

    Attributes:
        rows, failed: rows finished by this attempt's workers, and those of them with a new error.
        stored: rows whose files were written.
        tokens, prompt_tokens, cached_tokens: completion tokens; prompt tokens, and those that the prefix cache had.
        row_seconds: integral of the rows in flight over time, summed over actors.
        busy_seconds: time with at least one row in flight, summed over actors.
        began, ended: when the first row began and the last one ended, in seconds since the epoch.
        latency: seconds that each row was in flight.
        workers: actors (restarts included) that reported.
        load: how full the engines were (:meth:`Timeline.to_json`); the counting actor's only.
        stopped: why a worker stops the whole pass: Ray passes on an exception's words, not the exception.
    """

    rows: int = 0
    failed: int = 0
    stored: int = 0
    tokens: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    row_seconds: float = 0.0
    busy_seconds: float = 0.0
    began: float | None = None
    ended: float | None = None
    latency: Histogram = field(default_factory=Histogram)
    workers: set[str] = field(default_factory=set)
    load: dict[str, Any] = field(default_factory=dict)
    stopped: str = ""

    @property
    def mean_in_flight(self) -> float:
        """Mean rows in flight per actor while it was busy."""
        return self.row_seconds / self.busy_seconds if self.busy_seconds else 0.0

    @property
    def span_seconds(self) -> float:
        """Seconds between the first row's beginning and the last one's end."""
        return 0.0 if self.began is None or self.ended is None else max(0.0, self.ended - self.began)

    def add(self, other: Counts) -> None:
        """Add another one's counts."""
        self.began = min((t for t in (self.began, other.began) if t is not None), default=None)
        self.ended = max((t for t in (self.ended, other.ended) if t is not None), default=None)
        for name in _TOTALS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.stopped = self.stopped or other.stopped
        self.latency.merge(other.latency)
        self.workers |= other.workers


class Progress(Protocol):
    """Handle of the counting actor, as the workers see it."""

    add: Any


Event = dict[str, Any]
"""What a worker wants in the run's log: ``row_id``, ``prompt_id``, ``stage``, ``kind`` and ``error`` of a failure."""


@ray.remote(num_cpus=0)
class ProgressActor:
    """Adds up the workers' counts, and keeps their events until the driver fetches them."""

    def __init__(self) -> None:
        self._counts = Counts()
        self._events: deque[Event] = deque(maxlen=_MAX_EVENTS)
        self._dropped = 0
        self._timeline = Timeline()

    def add(self, counts: Counts, events: list[Event], sample: Sample | None = None) -> None:
        """Count what one worker did since its last report."""
        self._counts.add(counts)
        if sample is not None:
            self._timeline.add(sample)
        self._dropped += max(0, len(self._events) + len(events) - _MAX_EVENTS)
        self._events.extend(events)

    def read(self) -> Counts:
        """The totals so far, without the engines' load."""
        return self._counts

    def final(self) -> Counts:
        """The totals, with the engines' load."""
        return replace(self._counts, load=self._timeline.to_json())

    def drain(self) -> tuple[list[Event], int]:
        """The events since the last call, and how many more there were; all of them are in the rows' ``errors``."""
        events, dropped = list(self._events), self._dropped
        self._events.clear()
        self._dropped = 0
        return events, dropped


class Reporter:
    """A worker's own counts, sent every half second and when it runs dry. All calls come from its event loop.

    Args:
        progress: where to send them; ``None`` sends nothing.
        flush: called every half second, too.
        labels: tags of the Ray metrics (``run``, ``pass``); ``None`` makes none.
        load: (unfinished, capacity) of the worker's engine, asked every half second; ``None`` without an engine.
    """

    def __init__(
        self,
        progress: Progress | None,
        flush: Callable[[], None],
        labels: Mapping[str, str] | None = None,
        load: Callable[[], tuple[int, int]] | None = None,
    ) -> None:
        self._progress = progress
        self._flush = flush
        self._load = load
        self._sampled = time.time()
        self._worker = f"{time.time_ns():x}"
        self._metrics = RayMetrics({**labels, "worker": self._worker}) if labels is not None else None
        self._in_flight = 0
        self._since = time.monotonic()
        self._reset()

    def _reset(self) -> None:
        self._counts = Counts(workers={self._worker})
        self._events: list[Event] = []

    def _tick(self) -> None:
        now = time.monotonic()
        self._counts.row_seconds += self._in_flight * (now - self._since)
        self._counts.busy_seconds += (now - self._since) if self._in_flight else 0.0
        self._since = now

    def enter(self) -> None:
        """A row begins."""
        self._tick()
        self._in_flight += 1
        if self._counts.began is None:
            self._counts.began = time.time()

    def leave(self, row: Row, errors: Sequence[RowError], usage: Sequence[Usage], seconds: float) -> None:
        """A row ends, with its new errors and what it spent."""
        self._tick()
        self._in_flight -= 1
        c = self._counts
        c.ended = time.time()
        c.rows += 1
        c.failed += bool(errors)
        for u in usage:
            c.tokens += u.completion_tokens
            c.prompt_tokens += u.prompt_tokens
            c.cached_tokens += u.cached_tokens
        c.latency.add(seconds)
        for e in errors[: _MAX_EVENTS - len(self._events)]:
            ids = {"row_id": row.row_id, "prompt_id": row.prompt_id}
            self._events.append({**ids, "stage": e.stage, "kind": e.kind, "error": e.message[:_MESSAGE]})

    def stored(self, rows: int) -> None:
        """A shard's files are written."""
        self._counts.stored += rows
        if not self._in_flight:
            self._send()

    def stop(self, why: str) -> None:
        """The pass must end."""
        self._counts.stopped = why
        self._send()

    def rest(self) -> None:
        """Some rows are done: where no other is in flight the actor may be about to go, so what is known is sent."""
        if not self._in_flight:
            self._flush()
            self._send()

    async def run(self) -> None:
        """Send what was counted, every half second, for ever."""
        while True:
            await asyncio.sleep(_INTERVAL)
            self._flush()
            self._tick()
            self._send(self._sample())

    def _sample(self) -> Sample | None:
        if self._load is None:
            return None
        before, self._sampled = self._sampled, time.time()
        return Sample(self._sampled, self._sampled - before, *self._load())

    def _send(self, sample: Sample | None = None) -> None:
        c = self._counts
        if self._metrics is not None:
            ok, tokens = c.rows - c.failed, (c.prompt_tokens, c.cached_tokens, c.tokens)
            self._metrics.report(ok, c.failed, *tokens, self._in_flight)
        if self._progress is not None and (c.rows or c.stored or c.busy_seconds or c.stopped or sample is not None):
            self._progress.add.remote(c, self._events, *([sample] if sample is not None else []))
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
        self._name = name
        self._interval = 1.0 if sys.stderr.isatty() else 15.0
        self._begun = time.monotonic()
        self._told = 0

    def run(self) -> None:
        shown = time.monotonic()
        while not self._halt.wait(1.0):
            self._log()
            if time.monotonic() - shown >= self._interval:
                shown = time.monotonic()
                self._show()

    def _log(self) -> None:
        """Rows that failed go into the run's log, the first few of a pass to a person's eyes, too."""
        try:
            events, dropped = ray.get(self._actor.drain.remote(), timeout=5)
        except Exception:  # as in _show
            return
        if not events:
            return
        with tqdm.external_write_mode():
            for event in events:
                level = logging.WARNING if self._told < _TOLD else logging.INFO
                self._told += 1
                text = f"{self._name}: row {event['prompt_id']}: {event['stage']} failed: {event['error']}"
                logger.log(level, "%s", text, extra={"fields": {"pass": self._name, **event}})
                if self._told == _TOLD:
                    logger.warning("%s: further failed rows are only in the run's logs and errors", self._name)
            if dropped:
                logger.info("%s: %d more errors are only in the rows", self._name, dropped)

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
        self._log()
        self._show()
        if complete:
            self._bar.n = self._bar.total
        self._bar.close()
        try:
            return ray.get(self._actor.final.remote(), timeout=5)  # type: ignore[no-any-return]
        except Exception:
            return Counts()
