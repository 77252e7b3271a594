"""Paired differences of systems by a task's metric, with intervals that hold for all of them together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.stats.clusters import Bootstrap
from pipeline.stats.grouped import Sample, estimate
from pipeline.stats.intervals import Estimate, simultaneous_intervals
from pipeline.stats.pools import TaskQuality


def simultaneous_gaps(
    task: TaskQuality, metric: str, pairs: Sequence[tuple[str, str]], bootstrap: Bootstrap | None = None
) -> list[Estimate]:
    """Mean of the first system minus that of the second, over the prompts on which both were measured.

    Args:
        pairs: (system, other), each with this metric.

    Returns:
        One estimate a pair, over all languages (bootstrap max-T, clusters; statistics.md, "Resolution"). A winner may
        be named where the whole interval lies above 0.
    """
    gaps = [task.systems[metric, a] - task.systems[metric, b] for a, b in pairs]
    samples = []
    for gap in gaps:
        valid = np.flatnonzero(~np.isnan(gap))
        samples.append(Sample(valid, gap[valid], np.unique(task.prompt_language[valid])))
    found = estimate(task, samples, bootstrap or Bootstrap(), -1.0, 1.0, simultaneous_intervals, "all")
    return [named["all"] for named in found]
