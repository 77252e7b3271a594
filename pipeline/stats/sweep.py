"""A sweep's curves: quality, hope and risk by sampling setting and number of candidates.

Definitions: statistics.md, "Hope and risk" (arXiv 2506.20544). All numbers are in 0..1.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.core.columns import Floats
from pipeline.stats.clusters import Bootstrap
from pipeline.stats.grouped import estimate
from pipeline.stats.intervals import Estimate, mean_intervals
from pipeline.stats.pool_curves import pool_curves
from pipeline.stats.pools import Quality
from pipeline.stats.quality import WholePools, of_language, sample_of, whole_pools
from pipeline.stats.signature import signature

KEYS = tuple((name, pa.string()) for name in ("task", "language", "metric"))
SWEEP_SCHEMA = pa.schema(
    [
        *KEYS,
        ("setting", pa.string()),
        *((name, pa.float64()) for name in ("temperature", "min_p")),
        *((name, pa.int64()) for name in ("n", "n_prompts", "n_clusters")),
        *((name, pa.float64()) for name in ("mean", "mean_low", "mean_high", "best", "worst", "greedy")),
        *((name, pa.float64()) for name in ("hope", "hope_absolute", "hope_low", "hope_high")),
        *((name, pa.float64()) for name in ("risk", "risk_absolute", "risk_low", "risk_high")),
        ("selector", pa.string()),
        *((name, pa.float64()) for name in ("selected", "selected_low", "selected_high")),
        ("signature", pa.string()),
    ]
)

ENOUGH = 0.9
"""Share of the gain of N candidates that makes fewer of them enough."""


@dataclass(frozen=True)
class Sweep:
    """What was swept.

    Attributes:
        settings: plan name -> (temperature, min-p).
        base: the setting that others must beat.
        selector: whose answers are compared.
        development: share of the clusters to choose on.
        enough: share of the gain of N candidates that makes fewer of them enough.
        seed: of the split.
    """

    settings: Mapping[str, tuple[float, float]]
    base: str
    selector: str
    development: float = 0.5
    enough: float = ENOUGH
    seed: int = 1


def sweep_table(quality: Quality, sweep: Sweep, bootstrap: Bootstrap | None = None) -> pa.Table:
    """Quality, hope and risk of every setting, for every n up to N, per task, metric and language.

    ``mean`` is what one sample gives, ``best`` and ``worst`` are the expected extremes of n in closed form; ``hope``
    and ``risk`` compare these with greedy, relative to its mean (``_absolute``, with intervals: in the metric's unit).
    ``selected`` is the selector's quality, measured at N only. Prompts with fewer than N valid candidates are left out.

    Returns:
        ``SWEEP_SCHEMA``, languages pooled (``all``) and averaged (``macro``) too.
    """
    bootstrap = bootstrap or Bootstrap()
    rows: list[dict[str, Any]] = []
    for pools in whole_pools(quality):
        if pools.plan in sweep.settings:
            rows += _setting_rows(pools, sweep, bootstrap)
    return pa.Table.from_pylist(rows, schema=SWEEP_SCHEMA)


def _spread(pools: WholePools, values: Floats) -> Floats:
    """Rows of NaN for the task's other prompts."""
    spread = np.full((len(pools.task.prompt_language), values.shape[1]), np.nan)
    spread[pools.prompts] = values
    return spread


def _setting_rows(pools: WholePools, sweep: Sweep, bootstrap: Bootstrap) -> Iterator[dict[str, Any]]:
    task, metric, plan = pools.task, pools.metric, pools.plan
    curves = pool_curves(pools.values, pools.orders)
    choices = {**pools.choices(), "selector": sweep.selector}
    values, best, worst = (_spread(pools, v) for v in (pools.values, curves.best, curves.worst))
    whole = ~np.isnan(values).any(axis=1)
    greedy = np.where(whole, task.pools[metric, plan].greedy, np.nan)
    selected = task.systems.get((metric, f"{plan}/{sweep.selector}"), np.full(len(greedy), np.nan))
    levels = [values.mean(axis=1), selected, greedy, *best.T, *worst.T]
    gaps = [*(best - greedy[:, None]).T, *(worst - greedy[:, None]).T]
    found = estimate(task, [sample_of(task, v) for v in levels], bootstrap, 0.0, 1.0, mean_intervals)
    against = estimate(task, [sample_of(task, v) for v in gaps], bootstrap, -1.0, 1.0, mean_intervals)
    size = values.shape[1]
    for language, mean in found[0].items():
        if mean.value is None:
            continue
        mine = whole & of_language(task, language)
        for n in range(1, size + 1):
            chosen = found[1].get(language) if n == size else None
            base = found[2].get(language)
            hope, risk = against[n - 1].get(language), against[size + n - 1].get(language)
            yield {
                "task": task.task,
                "language": language,
                "metric": metric,
                "setting": plan,
                "temperature": sweep.settings[plan][0],
                "min_p": sweep.settings[plan][1],
                "n": n,
                "n_prompts": int(mine.sum()),
                "n_clusters": len(np.unique(task.prompt_cluster[mine])),
                **_numbers("mean", mean),
                "best": found[2 + n][language].value,
                "worst": found[2 + size + n][language].value,
                "greedy": base.value if base else None,
                "hope": _ratio(hope, base),
                "risk": _ratio(risk, base),
                **_numbers("hope_absolute", hope, "hope"),
                **_numbers("risk_absolute", risk, "risk"),
                "selector": sweep.selector if chosen else None,
                **_numbers("selected", chosen),
                "signature": signature("sweep", choices, bootstrap, mean.method),
            }


def _numbers(name: str, found: Estimate | None, short: str | None = None) -> dict[str, float | None]:
    ends = (None, None) if found is None else (found.low, found.high)
    short = short or name
    return {name: found.value if found else None, f"{short}_low": ends[0], f"{short}_high": ends[1]}


def _ratio(gap: Estimate | None, base: Estimate | None) -> float | None:
    if gap is None or base is None or gap.value is None or base.value is None or base.value <= 0:
        return None
    return gap.value / base.value
