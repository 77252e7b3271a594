"""On which side of an even match an interval lies, and what the rows over several languages are called."""

from __future__ import annotations

from pipeline.stats.intervals import CLUSTERS_TO_CLAIM

POOLED, MACRO = "all", "macro"


def side(
    low: float | None,
    high: float | None,
    clusters: float,
    even: float = 0.5,
    unreadable: tuple[float | None, float | None] | None = None,
) -> str:
    """``above``, ``below`` or ``even`` (an interval against ``even``), ``none`` without an interval.

    Args:
        clusters: effective ones with a valid score; always ``even`` with fewer than ``CLUSTERS_TO_CLAIM``.
        unreadable: lower end if all unreadable verdicts were lost, upper end if all were won: these have to lie on the
            same side, too.
    """
    if low is None or high is None:
        return "none"
    if clusters < CLUSTERS_TO_CLAIM:
        return "even"
    worst, best = (low, high) if unreadable is None else unreadable
    if low > even and worst is not None and worst > even:
        return "above"
    return "below" if high < even and best is not None and best < even else "even"
