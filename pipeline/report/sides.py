"""On which side of an even match an interval lies, and what the rows over several languages are called."""

from __future__ import annotations

from pipeline.stats.intervals import CLUSTERS_TO_CLAIM

POOLED, MACRO = "all", "macro"


def side(low: float | None, high: float | None, n_clusters: int, even: float = 0.5) -> str:
    """``above``, ``below`` or ``even`` (an interval against ``even``), ``none`` without an interval.

    Always ``even`` with fewer than ``CLUSTERS_TO_CLAIM`` clusters.
    """
    if low is None or high is None:
        return "none"
    if n_clusters < CLUSTERS_TO_CLAIM:
        return "even"
    return "above" if low > even else "below" if high < even else "even"
