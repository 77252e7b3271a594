"""What became of every row."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Counts:
    """Rows in = exported + dropped.

    Attributes:
        rows: rows of the run's table.
        exported: (split, language) -> rows that gave at least one record.
        records: (split, language) -> records in the files; more than rows only in KTO.
        dropped: reason -> rows.
        models: (model, revision) of the exported answers -> answers; ``None`` for new texts (fusion).
    """

    rows: int = 0
    exported: Counter[tuple[str, str]] = field(default_factory=Counter)
    records: Counter[tuple[str, str]] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    models: Counter[tuple[str | None, str | None]] = field(default_factory=Counter)

    def per_split(self, counted: Counter[tuple[str, str]]) -> dict[str, int]:
        """Split -> sum over languages."""
        sums: Counter[str] = Counter()
        for (split, _), n in counted.items():
            sums[split] += n
        return dict(sums)

    def languages(self) -> list[str]:
        """Languages with an exported row, sorted."""
        return sorted({language for _, language in self.exported})

    def reasons(self) -> list[tuple[str, int]]:
        """(reason, rows), the most frequent first."""
        return sorted(self.dropped.items(), key=lambda item: (-item[1], item[0]))
