"""Numbers that were stored between two rounds are not asked for again."""

from __future__ import annotations

from pipeline.core.row import Row

SCORER = "adaptive:"
"""Begins ``Score.scorer`` where the numbers were made between two rounds, as in ``adaptive:best_of_n``."""


def known_values(row: Row, set_name: str, method: str) -> dict[str, float]:
    """Text -> the number that the selector ``method`` gave it between two rounds."""
    found = [s.values for s in row.scores if (s.scorer, s.plan) == (SCORER + method, set_name)]
    pairs = zip(row.plan(set_name), found[0], strict=False) if found else ()
    return {c.text: v for c, v in pairs if c.text is not None and v is not None}
