"""Which sampling setting to use, per task and language: chosen on some clusters, scored on others.

The best of several settings looks better than it is on the data that chose it, so a setting is chosen on the
development clusters and compared with the base on the held-out ones. What cannot be resolved there is not recommended.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.core.columns import Bools, Floats
from pipeline.core.errors import InputError
from pipeline.stats.clusters import Bootstrap
from pipeline.stats.grouped import estimate
from pipeline.stats.intervals import CLUSTERS_TO_CLAIM, Estimate, mean_intervals
from pipeline.stats.pool_curves import pool_curves
from pipeline.stats.pools import Quality, TaskQuality, split_clusters
from pipeline.stats.quality import POOLED, of_language, sample_of
from pipeline.stats.signature import signature
from pipeline.stats.sweep import KEYS, Sweep

CHOICES_SCHEMA = pa.schema(
    [
        *KEYS,
        *((name, pa.string()) for name in ("selector", "base", "best")),
        *((name, pa.float64()) for name in ("temperature", "min_p")),
        *((name, pa.int64()) for name in ("n", "n_enough", "n_development", "n_held_out", "n_clusters")),
        *((name, pa.float64()) for name in ("development", "development_base", "held_out", "held_out_base")),
        *((name, pa.float64()) for name in ("difference", "se", "ci_low", "ci_high", "minimum_detectable")),
        ("resolved", pa.bool_()),
        *((name, pa.string()) for name in ("recommended", "note", "signature")),
    ]
)


def choices_table(
    quality: Quality, sweep: Sweep, metrics: Mapping[str, Sequence[str]], bootstrap: Bootstrap | None = None
) -> pa.Table:
    """The best setting per task and language: chosen on development clusters, scored on held-out ones.

    A setting is recommended instead of the base only when its paired difference to the base on the held-out clusters,
    of which there are at least 6, has an interval above 0. ``all`` is one setting for all languages; the intervals of
    the single languages hold together (Bonferroni over the languages in which another setting than the base is best).

    Args:
        quality: of the sweep's run.
        metrics: task -> metrics to choose by, the first that the run has counts.

    Returns:
        ``CHOICES_SCHEMA``. ``n_enough`` is from the development clusters: the smallest number of candidates with which
        the expected best reaches ``enough`` of its gain over one sample; it says nothing about a selector's gain. A
        task with none of its metrics has one row, without numbers, that keeps the base.

    Raises:
        InputError: the selector has no numbers at some setting.
    """
    bootstrap = bootstrap or Bootstrap()
    development, _ = split_clusters(quality, sweep.development, sweep.seed)
    rows: list[dict[str, Any]] = []
    for task in quality.tasks.values():
        metric = next((m for m in metrics[task.task] if any(known == m for known, _ in task.pools)), None)
        if metric is None:
            why = f"it has no {' or '.join(metrics[task.task])}: it needs references, or judge.candidates=true"
            kept = {"selector": sweep.selector, "base": sweep.base, "recommended": sweep.base}
            rows.append({"task": task.task, "language": POOLED, **kept, "resolved": False, "note": why})
        else:
            rows += _Chooser(task, metric, sweep, development).rows(bootstrap)
    return pa.Table.from_pylist(rows, schema=CHOICES_SCHEMA)


class _Chooser:
    """Chooses for one task."""

    def __init__(self, task: TaskQuality, metric: str, sweep: Sweep, development: set[str]) -> None:
        self.task, self.metric, self.sweep = task, metric, sweep
        in_development = np.array([name in development for name in task.clusters], dtype=bool)
        self.development: Bools = in_development[task.prompt_cluster]
        systems = {name: task.systems.get((metric, f"{name}/{sweep.selector}")) for name in sweep.settings}
        missing = [name for name, values in systems.items() if values is None]
        if missing:
            raise InputError(
                f"sweep: task {task.task!r} has no {metric} of {sweep.selector!r} for {', '.join(missing)}: choose a "
                "selector that picks a candidate"
            )
        self.values = {name: values for name, values in systems.items() if values is not None}
        self.complete = np.asarray(~np.isnan(np.column_stack(list(self.values.values()))).any(axis=1))

    def rows(self, bootstrap: Bootstrap) -> list[dict[str, Any]]:
        best = {language: self._best(language) for language in [POOLED, *self.task.languages]}
        tests = sum(best[name] not in (None, self.sweep.base) for name in self.task.languages)
        level = 1 - (1 - bootstrap.confidence) / max(tests, 1)
        strict = Bootstrap(bootstrap.draws, level, bootstrap.seed)
        return [
            self._row(language, name, bootstrap if language == POOLED else strict) for language, name in best.items()
        ]

    def _best(self, language: str) -> str | None:
        """The best setting on development prompts; the base where it is as good; ``None`` without such prompts."""
        mine = self.development & self.complete & of_language(self.task, language)
        if not mine.any():
            return None
        means = {name: float(values[mine].mean()) for name, values in self.values.items()}
        top = max(means.values())
        return min(means, key=lambda name: (means[name] < top - 1e-12, name != self.sweep.base))

    def _row(self, language: str, best: str | None, bootstrap: Bootstrap) -> dict[str, Any]:
        task, sweep = self.task, self.sweep
        mine = self.complete & of_language(task, language)
        chosen = best or sweep.base
        development, held_out = mine & self.development, mine & ~self.development
        values, base = self.values[chosen], self.values[sweep.base]
        gap = np.where(held_out, values - base, np.nan)
        found = None
        if chosen != sweep.base and held_out.any():
            (estimates,) = estimate(task, [sample_of(task, gap)], bootstrap, -1.0, 1.0, mean_intervals, language)
            found = estimates[language]
        resolved = found is not None and found.low is not None and found.low > 0
        resolved = resolved and found is not None and found.effective >= CLUSTERS_TO_CLAIM
        recommended = chosen if resolved else sweep.base
        split = f"split:{sweep.development:g},cluster,seed:{sweep.seed}"
        return {
            "task": task.task,
            "language": language,
            "metric": self.metric,
            "selector": sweep.selector,
            "base": sweep.base,
            "best": best,
            "temperature": sweep.settings[best][0] if best else None,
            "min_p": sweep.settings[best][1] if best else None,
            "n": self._size(),
            "n_enough": self._enough(recommended, development),
            "n_development": int(development.sum()),
            "n_held_out": int(held_out.sum()),
            "n_clusters": len(np.unique(task.prompt_cluster[held_out])),
            "development": _mean(values[development]) if best else None,
            "development_base": _mean(base[development]),
            "held_out": _mean(values[held_out]) if best else None,
            "held_out_base": _mean(base[held_out]),
            "difference": found.value if found else None,
            "se": found.se if found else None,
            "ci_low": found.low if found else None,
            "ci_high": found.high if found else None,
            "minimum_detectable": found.detectable if found else None,
            "resolved": resolved,
            "recommended": recommended,
            "note": _note(best, sweep.base, found, resolved),
            "signature": signature(
                "choice",
                {"metric": self.metric, "task": task.task, "selector": sweep.selector},
                bootstrap,
                found.method if found else "none",
                split,
            ),
        }

    def _size(self) -> int:
        sizes = [len(v) for name in self.values for v in self.task.pools[self.metric, name].values if v is not None]
        return max(sizes, default=0)

    def _enough(self, setting: str, mine: Bools) -> int | None:
        pool = self.task.pools[self.metric, setting]
        at = [i for i in np.flatnonzero(mine) if _is_whole(pool.values[i], self._size())]
        if not at:
            return None
        orders = [pool.orders[i] for i in at]
        crossed = np.stack([o for o in orders if o is not None]) if all(o is not None for o in orders) else None
        best = pool_curves(np.stack([pool.values[i] for i in at]), crossed).best.mean(axis=0)  # type: ignore[misc]
        return 1 + int(np.argmax(best >= best[0] + self.sweep.enough * (best[-1] - best[0]) - 1e-12))


def _is_whole(values: Floats | None, size: int) -> bool:
    return values is not None and len(values) == size and not np.isnan(values).any()


def _mean(values: Floats) -> float | None:
    return float(values.mean()) if len(values) else None


def _note(best: str | None, base: str, found: Estimate | None, resolved: bool) -> str:
    if best is None:
        return "no development clusters to choose on"
    if best == base:
        return "the base is best on the development clusters"
    if found is None:
        return "no held-out clusters to check the choice on"
    if found.effective < CLUSTERS_TO_CLAIM:
        said = f"{found.effective:g}" if found.effective % 1 == 0 else f"{found.effective:.1f} effective"
        return f"{said} held-out clusters: from fewer than {CLUSTERS_TO_CLAIM} nothing is claimed"
    if resolved:
        return "better than the base"
    if found.high is not None and found.high < 0:
        return "worse than the base"
    least = "" if found.detectable is None else f" (a difference of {100 * found.detectable:.1f} points could be)"
    return f"cannot be told from the base{least}"
