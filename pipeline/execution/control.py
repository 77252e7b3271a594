"""What may stop a command before its end: signals, and limits on tokens, money and time. Needs no Ray.

A stop is gentle first: the pass at work is drained (rows in flight finish and are stored), then the command ends with
the reason's exit code, and the same command resumes. A second signal ends the process at once.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from pipeline.config.sections import LimitsConfig
from pipeline.core.errors import Interrupted, LemonpressError, LimitReached
from pipeline.core.folder import RunFolder
from pipeline.engines.base import PriceConfig

logger = logging.getLogger(__name__)

LEDGER = ("work", "spent.json")
"""Where a run keeps what it has spent."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass
class Control:
    """One command's reason to stop, if it has one.

    Attributes:
        limits: of the run (tokens, money) and of this command (seconds).
        started: monotonic time of the command's start.
        reason: why it stops.
        draining: a pass is at work, and looks at ``reason`` by itself.
    """

    limits: LimitsConfig = field(default_factory=LimitsConfig)
    started: float = field(default_factory=time.monotonic)
    reason: LemonpressError | None = None
    draining: bool = False
    _handled: bool = False
    _abort: bool = False

    def check(self) -> None:
        """Raise the reason to stop, or go on."""
        if self.reason is not None:
            raise self.reason

    def check_time(self) -> None:
        """Stop when the command's time is up."""
        seconds = self.limits.seconds
        if seconds is not None and self.reason is None and time.monotonic() - self.started >= seconds:
            self.reason = LimitReached(f"limits.seconds={seconds:g}: time is up; the same command resumes")

    def check_spent(self, tokens: int, money: float) -> None:
        """Stop when the run has used up its tokens or money."""
        if self.reason is not None:
            return
        for name, spent, limit in (("tokens", tokens, self.limits.tokens), ("money", money, self.limits.money)):
            if limit is not None and spent >= limit:
                self.reason = LimitReached(
                    f"limits.{name}={limit:g} is used up: this run has spent {spent:,.6g}; "
                    "a higher limit and the same command resume"
                )
                return

    def interrupt_main(self) -> None:
        """Raise the reason in the main thread, which may be waiting for something that will not come."""
        if self._handled:
            self._abort = True
            main = threading.main_thread().ident
            assert main is not None
            signal.pthread_kill(main, signal.SIGTERM)

    @contextmanager
    def signals(self) -> Iterator[None]:
        """Handle SIGINT and SIGTERM for the block; only a main thread can, others leave signals alone."""
        if self._handled or threading.current_thread() is not threading.main_thread():
            yield
            return
        before = self._listen()
        self._handled = True
        try:
            yield
        finally:
            self._handled = False
            for number, handler in before.items():
                signal.signal(number, handler)

    def begin_pass(self) -> None:
        """A pass starts, with a thread that looks at ``reason`` and drains it."""
        if self._handled:
            self._listen()  # again: ray.init puts a handler of its own on SIGTERM, which aborts the process
        self.draining = True

    def _listen(self) -> dict[signal.Signals, Any]:
        return {number: signal.signal(number, self._on_signal) for number in _SIGNALS}

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._abort and self.reason is not None:
            self._abort = False
            raise self.reason
        if self.reason is not None:
            sys.stderr.write("lemonpress: second signal, ending at once\n")
            sys.stderr.flush()
            os._exit(128 + number)
        name = signal.Signals(number).name
        self.reason = Interrupted(f"stopped by {name}; the same command resumes", number)
        if not self.draining:
            raise self.reason


class Ledger:
    """What a run has spent, over all passes and attempts; stored in ``work/spent.json``.

    Args:
        run: the run.
        prices: name of a pass at work -> price of its engine, and actors that host it, each paid by the hour.
    """

    def __init__(self, run: RunFolder, prices: Mapping[str, tuple[PriceConfig, int]]) -> None:
        self._run = run
        self._prices = prices
        self._before: dict[str, Any] = run.read_json(*LEDGER) or {}
        self._started = time.monotonic()
        self._now = {name: {"tokens": 0, "money": 0.0} for name in prices}

    def update(self, name: str, prompt: int, cached: int, completion: int) -> None:
        """Set what this attempt at a pass has spent so far, in tokens."""
        price, actors = self._prices[name]
        hours = (time.monotonic() - self._started) / 3600
        money = price.of(prompt, cached, completion) + price.hour * actors * hours
        self._now[name] = {"tokens": prompt + completion, "money": money}

    def total(self) -> tuple[int, float]:
        """(tokens, money) of the whole run."""
        entries = [*self._before.values(), *self._now.values()]
        return sum(e["tokens"] for e in entries), sum(e["money"] for e in entries)

    @staticmethod
    def transfer(run: RunFolder, name: str, other: RunFolder) -> None:
        """Enter what another folder's work has cost as ``name``, in place of what that entry said before."""
        entries = (other.read_json(*LEDGER) or {}).values()
        total = {key: sum(e[key] for e in entries) for key in ("tokens", "money")}
        run.write_json({**(run.read_json(*LEDGER) or {}), name: total}, *LEDGER)

    def save(self) -> None:
        """Store it."""
        all_ = dict(self._before)
        for name, now in self._now.items():
            old = all_.get(name, {"tokens": 0, "money": 0.0})
            all_[name] = {key: old[key] + now[key] for key in old}
        try:
            self._run.write_json(all_, *LEDGER)
        except OSError as error:
            logger.warning("cannot store what was spent: %s", error)  # the pass itself will say so, and stop


def hand_over(run: RunFolder, other: RunFolder) -> None:
    """Let another folder go on with the run's account, in place of its own."""
    if (spent := run.read_json(*LEDGER)) is not None:
        other.write_json(spent, *LEDGER)


__all__ = ["LEDGER", "Control", "Ledger", "hand_over"]
