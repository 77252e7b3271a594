"""Task scores with cluster intervals, pool curves, hope and risk: from a run's metrics to tables.

Definitions: statistics.md, "Baselines" and "Hope and risk" (arXiv 2506.20544). All numbers are in 0..1.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.core.columns import Bools, Floats, Ints
from pipeline.stats.clusters import Bootstrap
from pipeline.stats.grouped import Sample, estimate
from pipeline.stats.intervals import Estimate, mean_intervals
from pipeline.stats.pool_curves import hope_and_risk, pool_curves, recovered_share
from pipeline.stats.pools import Quality, TaskQuality, load_quality, split_clusters
from pipeline.stats.signature import of_metric, signature
from pipeline.tasks.measure import LANGUAGE, WIN

__all__ = [
    "CURVES_SCHEMA",
    "HOPE_RISK_SCHEMA",
    "SCORES_SCHEMA",
    "Quality",
    "curves_table",
    "hope_risk_table",
    "load_quality",
    "scores_table",
    "split_clusters",
]

POOLED, MACRO = "all", "macro"


SCORES_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("system", "task", "language", "metric")),
        *((name, pa.int64()) for name in ("n_prompts", "n_missing", "n_untold")),
        *((name, pa.float64()) for name in ("mean", "se", "ci_low", "ci_high")),
        ("base", pa.string()),
        *((name, pa.float64()) for name in ("difference", "difference_se", "difference_low", "difference_high")),
        *((name, pa.float64()) for name in ("recovered", "recovered_low", "recovered_high")),
        ("n_clusters", pa.int64()),
        ("effective_clusters", pa.float64()),
        ("signature", pa.string()),
    ]
)
CURVES_SCHEMA = pa.schema(
    [
        ("plan", pa.string()),
        *((name, pa.float64()) for name in ("temperature", "min_p")),
        *((name, pa.string()) for name in ("task", "language", "metric")),
        *((name, pa.int64()) for name in ("m", "n_prompts")),
        *((name, pa.float64()) for name in ("best", "mean", "worst")),
        ("signature", pa.string()),
    ]
)
HOPE_RISK_SCHEMA = pa.schema(
    [
        ("plan", pa.string()),
        *((name, pa.float64()) for name in ("temperature", "min_p")),
        *((name, pa.string()) for name in ("task", "language", "metric")),
        *((name, pa.int64()) for name in ("n", "n_prompts", "n_left_out")),
        *((name, pa.float64()) for name in ("greedy", "hope", "risk")),
        *((name, pa.float64()) for name in ("hope_absolute", "hope_low", "hope_high")),
        *((name, pa.float64()) for name in ("risk_absolute", "risk_low", "risk_high")),
        ("signature", pa.string()),
    ]
)


def scores_table(quality: Quality, base: str = "sample", bootstrap: Bootstrap | None = None) -> pa.Table:
    """Every system's mean by every metric, per language, pooled (``all``) and ``macro``.

    Beside it the paired difference to the base (``PLAN/base``; for systems without a plan that of the plan that was
    sampled for the most prompts) and, where the base's plan has an oracle, the share of the oracle's gain that the
    system recovered.

    Returns:
        ``SCORES_SCHEMA``; ``n_clusters`` and ``effective_clusters`` are the difference's, or the mean's where there is
        none. ``n_missing`` prompts without the system's text, which score 0 (``language`` leaves them out, and the
        ``n_untold`` texts whose language cannot be told). A recovered share is null for ``macro``, and where the
        oracle's gain cannot be told from 0.
    """
    bootstrap = bootstrap or Bootstrap()
    rows: list[dict[str, Any]] = []
    for task in quality.tasks.values():
        for metric in sorted({metric for metric, _ in task.systems} - {WIN}):  # win-rates have tables of their own
            rows += _metric_rows(task, metric, base, bootstrap)
    return pa.Table.from_pylist(rows, schema=SCORES_SCHEMA)


def _metric_rows(task: TaskQuality, metric: str, base: str, bootstrap: Bootstrap) -> Iterator[dict[str, Any]]:
    systems = [system for name, system in task.systems if name == metric]
    plans = [s.rpartition("/")[0] for s in systems if s.endswith(f"/{base}")]
    plans.sort(key=lambda plan: -int((~np.isnan(task.systems[metric, f"{plan}/{base}"])).sum()))
    bases = {s: _base_of(s, base, plans) for s in systems}
    values = {s: task.systems[metric, s] for s in systems}
    differences = {s: values[s] - values[b] for s, b in bases.items() if b in values and b != s}
    samples = [sample_of(task, v) for v in (*values.values(), *differences.values())]
    found = estimate(task, samples[: len(values)], bootstrap, 0.0, 1.0, mean_intervals)
    against = estimate(task, samples[len(values) :], bootstrap, -1.0, 1.0, mean_intervals)
    gains = dict(zip(differences, against, strict=True))
    for system, estimates in zip(systems, found, strict=True):
        missing, untold = task.missing[metric, system], task.untold.get(system)
        for language, mean in estimates.items():
            mine = of_language(task, language)
            gap = gains.get(system, {}).get(language)
            share = _recovered(task, metric, system, bases[system], language, bootstrap) if gap else None
            yield {
                "system": system,
                "task": task.task,
                "language": language,
                "metric": metric,
                "n_prompts": int((mine & ~np.isnan(values[system])).sum()),
                "n_missing": int((mine & missing).sum()),
                "n_untold": int((mine & untold).sum()) if untold is not None and metric == LANGUAGE else 0,
                **_numbers("", mean, "mean", "se", "ci_low", "ci_high"),
                "base": bases[system],
                **_numbers("difference", gap, "", "_se", "_low", "_high"),
                **_numbers("recovered", share, "", None, "_low", "_high"),
                "n_clusters": (gap or mean).n_clusters,
                "effective_clusters": (gap or mean).effective,
                "signature": signature(
                    "score",
                    {"metric": metric, "task": task.task, "base": bases[system]},
                    bootstrap,
                    mean.method,
                    of_metric(metric),
                ),
            }


def _base_of(system: str, base: str, plans: list[str]) -> str | None:
    plan = system.rpartition("/")[0]
    if plan in plans:
        return f"{plan}/{base}"
    return f"{plans[0]}/{base}" if plans and "/" not in system else None


def sample_of(task: TaskQuality, values: Floats) -> Sample:
    """One number per prompt of the task [P], of which those that are not NaN count."""
    valid = np.flatnonzero(~np.isnan(values))
    return Sample(valid, values[valid], np.unique(task.prompt_language[valid]))


def of_language(task: TaskQuality, language: str) -> Bools:
    """The task's prompts [P] in one language; all of them for ``all`` and ``macro``."""
    if language in (POOLED, MACRO):
        return np.ones(len(task.prompt_language), dtype=bool)
    return np.asarray(task.prompt_language == task.languages.index(language))


def _recovered(
    task: TaskQuality, metric: str, system: str, base: str | None, language: str, bootstrap: Bootstrap
) -> Estimate | None:
    pool = task.pools.get((metric, (base or "").rpartition("/")[0]))
    if pool is None or language == MACRO or metric == "language" or "/" not in system:
        return None
    mine = of_language(task, language)
    chosen, start = task.systems[metric, system][mine], task.systems[metric, str(base)][mine]
    return recovered_share(chosen, start, pool.oracle[mine], task.prompt_cluster[mine], str(base), bootstrap).share


def _numbers(prefix: str, found: Estimate | None, *names: str | None) -> dict[str, float | None]:
    values = (None,) * 4 if found is None else (found.value, found.se, found.low, found.high)
    return {prefix + name: value for name, value in zip(names, values, strict=True) if name is not None}


def curves_table(quality: Quality) -> pa.Table:
    """Expected best, mean and worst of m stochastic candidates, for every m up to N, in closed form.

    Returns:
        ``CURVES_SCHEMA``; ``macro`` is the mean of the languages. Prompts with fewer than N valid candidates are left
        out, N being the plan's most common number.
    """
    rows = []
    for pools in whole_pools(quality):
        task, metric, plan, whole, values = pools.task, pools.metric, pools.plan, pools.prompts, pools.values
        curves = pool_curves(values, pools.orders)
        language = task.prompt_language[whole]
        groups = {name: np.flatnonzero(language == i) for i, name in enumerate(task.languages)}
        groups = {name: at for name, at in groups.items() if len(at)}
        means = {
            name: [c[at].mean(axis=0) for c in (curves.best, curves.mean, curves.worst)]
            for name, at in {**groups, POOLED: np.arange(len(whole))}.items()
        }
        means[MACRO] = [np.mean([means[name][k] for name in groups], axis=0) for k in range(3)]
        for name, (best, mean, worst) in means.items():
            for m in range(values.shape[1]):
                rows.append(
                    {
                        **_plan(task, plan),
                        "task": task.task,
                        "language": name,
                        "metric": metric,
                        "m": m + 1,
                        "n_prompts": len(groups.get(name, whole)),
                        "best": best[m],
                        "mean": mean[m],
                        "worst": worst[m],
                        "signature": signature("curve", pools.choices()),
                    }
                )
    return pa.Table.from_pylist(rows, schema=CURVES_SCHEMA)


def hope_risk_table(quality: Quality, bootstrap: Bootstrap | None = None) -> pa.Table:
    """Hope and risk of every plan's N stochastic candidates against the greedy answer, per language and pooled.

    Returns:
        ``HOPE_RISK_SCHEMA``; ``hope`` and ``risk`` are relative to the mean greedy value, the ``_absolute`` ones in the
        metric's unit with cluster intervals. ``n_left_out`` prompts lack a greedy value or some of the N candidates.
    """
    rows = []
    for pools in whole_pools(quality):
        task, metric, plan, whole, values = pools.task, pools.metric, pools.plan, pools.prompts, pools.values
        pool = task.pools[metric, plan]
        has_greedy = ~np.isnan(pool.greedy[whole])
        sampled = np.array([v is not None for v in pool.values])
        for name in [*task.languages, POOLED]:
            mine = of_language(task, name)
            use = has_greedy & mine[whole]
            if not use.any():
                continue
            at = whole[use]
            orders = None if pools.orders is None else pools.orders[use]
            found = hope_and_risk(values[use], pool.greedy[at], task.prompt_cluster[at], bootstrap, orders)
            rows.append(
                {
                    **_plan(task, plan),
                    "task": task.task,
                    "language": name,
                    "metric": metric,
                    "n": values.shape[1],
                    "n_prompts": len(at),
                    "n_left_out": int((mine & sampled).sum()) - len(at),
                    "greedy": float(pool.greedy[at].mean()),
                    "hope": found.hope,
                    "risk": found.risk,
                    **_numbers("hope", found.hope_absolute, "_absolute", None, "_low", "_high"),
                    **_numbers("risk", found.risk_absolute, "_absolute", None, "_low", "_high"),
                    "signature": signature(
                        "hope-risk", pools.choices(), bootstrap or Bootstrap(), found.hope_absolute.method
                    ),
                }
            )
    return pa.Table.from_pylist(rows, schema=HOPE_RISK_SCHEMA)


@dataclass(frozen=True)
class WholePools:
    """One plan's prompts with all N valid candidates, by one metric.

    Attributes:
        prompts: indices into the task's prompts [P].
        values: [P, N].
        orders: [P, 2, N], the same by order, where all of them were judged in both.
    """

    task: TaskQuality
    metric: str
    plan: str
    prompts: Ints
    values: Floats
    orders: Floats | None

    def choices(self) -> dict[str, object]:
        """For the signature."""
        best = {} if self.metric != WIN else {"chosen": "same-verdicts" if self.orders is None else "other-order"}
        return {"metric": self.metric, "task": self.task.task, "n": self.values.shape[1], **best}


def whole_pools(quality: Quality) -> Iterator[WholePools]:
    """Every plan's pools by every metric, N being the plan's most common number of candidates."""
    for task in quality.tasks.values():
        for (metric, plan), pool in task.pools.items():
            if metric == LANGUAGE:
                continue
            valid = [None if v is None or not len(v) or np.isnan(v).any() else v for v in pool.values]
            sizes = Counter(len(v) for v in valid if v is not None)
            if not sizes:
                continue
            n = max(sizes, key=lambda size: (sizes[size], size))
            whole = [i for i, v in enumerate(valid) if v is not None and len(v) == n]
            orders = [pool.orders[i] for i in whole]
            known = [o for o in orders if o is not None and o.shape == (2, n) and not np.isnan(o).any()]
            values = np.stack([_array(pool.values[i]) for i in whole])
            crossed = np.stack(known) if len(known) == len(whole) else None
            yield WholePools(task, metric, plan, np.array(whole), values, crossed)


def _array(values: Floats | None) -> Floats:
    return np.empty(0) if values is None else values


def _plan(task: TaskQuality, plan: str) -> dict[str, Any]:
    temperature, min_p = task.plans.get(plan, (float("nan"), float("nan")))
    return {
        "plan": plan,
        "temperature": None if np.isnan(temperature) else temperature,
        "min_p": None if np.isnan(min_p) else min_p,
    }
