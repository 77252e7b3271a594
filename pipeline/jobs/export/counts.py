"""What became of every row."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass
class Counts:
    """Rows in = exported + dropped, in every language.

    Attributes:
        asked: language -> rows of the run's table.
        exported: (split, language) -> rows that gave at least one record.
        records: (split, language) -> records in the files; more than rows only in KTO.
        lost: (reason, language) -> rows that were left out.
        models: (model, revision, temperature) of the exported answers -> answers; all ``None`` for new texts (fusion).
        measured: (task, metric, language) -> the values of the exported answers that have one: their number and sum.
        thresholds: base language -> smallest score, where ``min_score_quantile`` asks for one.
    """

    asked: Counter[str] = field(default_factory=Counter)
    exported: Counter[tuple[str, str]] = field(default_factory=Counter)
    records: Counter[tuple[str, str]] = field(default_factory=Counter)
    lost: Counter[tuple[str, str]] = field(default_factory=Counter)
    models: Counter[tuple[str | None, str | None, float | None]] = field(default_factory=Counter)
    measured: dict[tuple[str, str, str], tuple[int, float]] = field(
        default_factory=lambda: defaultdict(lambda: (0, 0.0))
    )
    thresholds: dict[str | None, float] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """Rows of the run's table."""
        return self.asked.total()

    @property
    def dropped(self) -> Counter[str]:
        """Reason -> rows."""
        return _by_first(self.lost)

    def per_split(self, counted: Counter[tuple[str, str]]) -> dict[str, int]:
        """Split -> sum over languages."""
        return dict(_by_first(counted))

    def languages(self) -> list[str]:
        """Languages with an exported row, sorted."""
        return sorted({language for _, language in self.exported})

    def reasons(self) -> list[tuple[str, int]]:
        """(reason, rows), the most frequent first."""
        return sorted(self.dropped.items(), key=lambda item: (-item[1], item[0]))

    def measure(self, task: str, language: str, metrics: Mapping[str, float]) -> None:
        """Count an exported answer's metrics, under its language and under ``all``."""
        for metric, value in metrics.items():
            for key in ((task, metric, language), (task, metric, "all")):
                n, total = self.measured[key]
                self.measured[key] = (n + 1, total + value)


def _by_first(counted: Counter[tuple[str, str]]) -> Counter[str]:
    sums: Counter[str] = Counter()
    for (first, _), n in counted.items():
        sums[first] += n
    return sums
