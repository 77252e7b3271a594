"""How full the engines of a pass are over time: samples from its workers, kept in a bounded number of bins."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

_BINS = 240  # half a bin is a few seconds of a pass of half an hour
_PENDING = 1000


@dataclass(frozen=True)
class Sample:
    """What one engine works on at one moment.

    Attributes:
        at: when, in seconds since the epoch.
        seconds: since the worker's sample before: what this one stands for.
        unfinished: sequences that are generated or wait for it; a request for n candidates is n of them.
        capacity: sequences that it works on at once.
    """

    at: float
    seconds: float
    unfinished: int
    capacity: int

    @property
    def running(self) -> int:
        """Sequences that it works on."""
        return min(self.unfinished, self.capacity)


@dataclass
class _Bin:
    seconds: float = 0.0
    running: float = 0.0  # integral over the seconds
    low: int = 1 << 31
    high: int = 0

    def merge(self, other: _Bin) -> None:
        self.seconds += other.seconds
        self.running += other.running
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)


@dataclass
class Timeline:
    """Running sequences per engine over time, between the first moment at which any engine has work and the last.

    An engine that is idle while another one works counts as idle. When there are too many bins, their width doubles.
    """

    _width: float = 0.5  # powers of two, so that a bin of twice the width begins where one of the width does
    _bins: dict[int, _Bin] = field(default_factory=dict)
    _pending: list[Sample] = field(default_factory=list)
    _seconds: float = 0.0
    _full: float = 0.0
    _capacity: int = 0

    def add(self, sample: Sample) -> None:
        """Count one sample; those of idle engines wait until it is clear that work goes on."""
        if sample.unfinished or len(self._pending) >= _PENDING:
            for each in (*self._pending, sample):
                self._count(each)
            self._pending.clear()
        elif self._bins:
            self._pending.append(sample)

    def _count(self, sample: Sample) -> None:
        self._seconds += sample.seconds
        self._full += sample.seconds * (sample.unfinished >= sample.capacity)
        self._capacity = max(self._capacity, sample.capacity)
        new = _Bin(sample.seconds, sample.seconds * sample.running, sample.running, sample.running)
        self._bins.setdefault(int(sample.at / self._width), _Bin()).merge(new)
        while max(self._bins) - min(self._bins) >= _BINS:
            self._widen()

    def _widen(self) -> None:
        before, self._bins = self._bins, {}
        self._width *= 2
        for index, each in before.items():
            self._bins.setdefault(index // 2, _Bin()).merge(each)

    def to_json(self) -> dict[str, Any]:
        """For the pass's summary; empty when there was no sample.

        ``full``: share of the engines' time in which they were full. ``width`` (seconds), then per bin from the first
        to the last: ``mean`` (sequences that run per engine; ``None`` in a bin without a sample), ``low`` and
        ``high`` (of the samples in it). ``capacity``: of the largest engine.
        """
        if not self._seconds:
            return {}
        bins = [self._bins.get(i) for i in range(min(self._bins), max(self._bins) + 1)]
        return {
            "full": round(self._full / self._seconds, 4),
            "capacity": self._capacity,
            "width": self._width,
            "mean": [round(b.running / b.seconds, 1) if b and b.seconds else None for b in bins],
            "low": [b.low if b else None for b in bins],
            "high": [b.high if b else None for b in bins],
        }
