"""A sweep's curves by sampling setting and number of candidates, and which setting to use, per task and language.

The best of several settings looks better than it is on the data that chose it, so a setting is chosen on the
development clusters and compared with the base on the held-out ones. What cannot be resolved there is not recommended.
Definitions: statistics.md, "Hope and risk" (arXiv 2506.20544). All numbers are in 0..1.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pipeline.core.columns import Bools, Floats
from pipeline.core.errors import InputError
from pipeline.stats.clusters import Bootstrap
from pipeline.stats.intervals import (
    CLUSTERS_TO_CLAIM,
    NOTHING,
    POOLED,
    Estimate,
    estimate,
    mean_intervals,
    numbers,
    quantity,
)
from pipeline.stats.pool_curves import pool_curves
from pipeline.stats.pools import Quality, TaskQuality, split_clusters
from pipeline.stats.quality import WholePools, whole_pools
from pipeline.stats.signature import signature

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


@dataclass(frozen=True)
class SweepPoint:
    """One setting with ``n`` candidates, per task, metric and language (``all`` and ``macro`` too).

    Attributes:
        mean: what one sample gives.
        best, worst: expected extremes of n, in closed form.
        hope, risk: these against greedy, relative to its mean; the ``_absolute`` ones in the metric's unit.
        selected: the selector's quality, measured at N only.
    """

    task: str
    language: str
    metric: str
    setting: str
    temperature: float
    min_p: float
    n: int
    n_prompts: int
    n_clusters: int
    mean: float | None
    mean_low: float | None
    mean_high: float | None
    best: float | None
    worst: float | None
    greedy: float | None
    hope: float | None
    hope_absolute: float | None
    hope_low: float | None
    hope_high: float | None
    risk: float | None
    risk_absolute: float | None
    risk_low: float | None
    risk_high: float | None
    selector: str | None
    selected: float | None
    selected_low: float | None
    selected_high: float | None
    signature: str


def sweep_points(quality: Quality, sweep: Sweep, bootstrap: Bootstrap) -> Iterator[SweepPoint]:
    """Quality, hope and risk of every setting, for every n up to N; prompts with fewer than N are left out."""
    for pools in whole_pools(quality):
        if pools.plan in sweep.settings:
            yield from _points(pools, sweep, bootstrap)


def _points(pools: WholePools, sweep: Sweep, bootstrap: Bootstrap) -> Iterator[SweepPoint]:
    task, metric, plan = pools.task, pools.metric, pools.plan
    size = pools.values.shape[1]
    found = pool_curves(pools.values, pools.orders)
    values, best, worst = (_spread(pools, v) for v in (pools.values, found.best, found.worst))
    whole = ~np.isnan(values).any(axis=1)
    greedy = np.where(whole, task.pools[metric, plan].greedy, np.nan)
    selected = task.systems.get((metric, f"{plan}/{sweep.selector}"), np.full(len(greedy), np.nan))
    levels = [quantity(task, v) for v in (values.mean(axis=1), selected, greedy, *best.T, *worst.T)]
    gaps = [quantity(task, v) for v in (*(best - greedy[:, None]).T, *(worst - greedy[:, None]).T)]
    of_levels = estimate(task, levels, bootstrap, 0.0, 1.0, mean_intervals)
    of_gaps = estimate(task, gaps, bootstrap, -1.0, 1.0, mean_intervals)
    for language, mean in of_levels[0].items():
        if mean.value is None:
            continue
        mine = whole & task.of_language(language)
        base = of_levels[2].get(language, NOTHING)
        for n in range(1, size + 1):
            chosen = of_levels[1].get(language) if n == size else None
            hope, risk = (of_gaps[i].get(language, NOTHING) for i in (n - 1, size + n - 1))
            choices = {**pools.choices(), "selector": sweep.selector}
            yield SweepPoint(
                task=task.task,
                language=language,
                metric=metric,
                setting=plan,
                temperature=sweep.settings[plan][0],
                min_p=sweep.settings[plan][1],
                n=n,
                n_prompts=int(mine.sum()),
                n_clusters=len(np.unique(task.prompt_cluster[mine])),
                **numbers(mean, "mean", "", "mean_low", "mean_high"),
                best=of_levels[2 + n][language].value,
                worst=of_levels[2 + size + n][language].value,
                greedy=base.value,
                hope=_ratio(hope, base),
                **numbers(hope, "hope_absolute", "", "hope_low", "hope_high"),
                risk=_ratio(risk, base),
                **numbers(risk, "risk_absolute", "", "risk_low", "risk_high"),
                selector=sweep.selector if chosen else None,
                **numbers(chosen, "selected", "", "selected_low", "selected_high"),
                signature=signature("sweep", choices, bootstrap, mean.method),
            )


def _spread(pools: WholePools, values: Floats) -> Floats:
    """Rows of NaN for the task's other prompts."""
    spread = np.full((len(pools.task.prompt_language), values.shape[1]), np.nan)
    spread[pools.prompts] = values
    return spread


def _ratio(gap: Estimate, base: Estimate) -> float | None:
    return None if gap.value is None or base.value is None or base.value <= 0 else gap.value / base.value


@dataclass(frozen=True)
class SweepChoice:
    """The best setting of a task in one language (``all``: one setting for all): chosen on some clusters, scored on
    others.

    Attributes:
        n_enough: from the development clusters: the smallest number of candidates with which the expected best reaches
            ``enough`` of its gain over one sample; it says nothing about a selector's gain.
        n_clusters: held-out ones.
        development, held_out: the chosen setting's mean on these clusters, ``_base`` the base's.
        difference: paired, on the held-out clusters; the intervals of the single languages hold together (Bonferroni
            over the languages in which another setting than the base is best).
        resolved: the interval lies above 0, with at least 6 effective clusters: only then it is recommended.
    """

    task: str
    language: str
    metric: str | None = None
    selector: str = ""
    base: str = ""
    best: str | None = None
    temperature: float | None = None
    min_p: float | None = None
    n: int | None = None
    n_enough: int | None = None
    n_development: int | None = None
    n_held_out: int | None = None
    n_clusters: int | None = None
    development: float | None = None
    development_base: float | None = None
    held_out: float | None = None
    held_out_base: float | None = None
    difference: float | None = None
    se: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    minimum_detectable: float | None = None
    resolved: bool = False
    recommended: str = ""
    note: str = ""
    signature: str | None = None


def sweep_choices(
    quality: Quality, sweep: Sweep, metrics: Mapping[str, Sequence[str]], bootstrap: Bootstrap
) -> Iterator[SweepChoice]:
    """The best setting per task and language.

    Args:
        quality: of the sweep's run.
        metrics: task -> metrics to choose by, the first that the run has counts. A task with none of them has one row,
            without numbers, that keeps the base.

    Raises:
        InputError: the selector has no numbers at some setting.
    """
    development, _ = split_clusters(quality, sweep.development, sweep.seed)
    for task in quality.tasks.values():
        metric = next((m for m in metrics[task.task] if any(known == m for known, _ in task.pools)), None)
        kept = SweepChoice(
            task.task, POOLED, selector=sweep.selector, base=sweep.base, recommended=sweep.base, metric=metric
        )
        if metric is None:
            why = f"it has no {' or '.join(metrics[task.task])}: it needs references, or judge.candidates=true"
            yield replace(kept, note=why)
        else:
            yield from _Chooser(task, metric, sweep, development).choices(kept, bootstrap)


class _Chooser:
    """Chooses for one task."""

    def __init__(self, task: TaskQuality, metric: str, sweep: Sweep, development: set[str]) -> None:
        self.task, self.metric, self.sweep = task, metric, sweep
        self.development: Bools = np.isin(task.clusters, list(development))[task.prompt_cluster]
        systems = {name: task.systems.get((metric, f"{name}/{sweep.selector}")) for name in sweep.settings}
        missing = [name for name, values in systems.items() if values is None]
        if missing:
            raise InputError(
                f"sweep: task {task.task!r} has no {metric} of {sweep.selector!r} for {', '.join(missing)}: choose a "
                "selector that picks a candidate"
            )
        self.values = {name: values for name, values in systems.items() if values is not None}
        self.complete = np.asarray(~np.isnan(np.column_stack(list(self.values.values()))).any(axis=1))
        sizes = [len(v) for name in sweep.settings for v in task.pools[metric, name].values if v is not None]
        self.size = max(sizes, default=0)

    def choices(self, kept: SweepChoice, bootstrap: Bootstrap) -> Iterator[SweepChoice]:
        best = {language: self._best(language) for language in [POOLED, *self.task.languages]}
        tests = sum(best[name] not in (None, self.sweep.base) for name in self.task.languages)
        strict = replace(bootstrap, confidence=1 - (1 - bootstrap.confidence) / max(tests, 1))
        for language, name in best.items():
            mine = replace(kept, language=language, best=name)
            yield self._choice(mine, bootstrap if language == POOLED else strict)

    def _best(self, language: str) -> str | None:
        """The best setting on development prompts; the base where it is as good; ``None`` without such prompts."""
        mine = self.development & self.complete & self.task.of_language(language)
        if not mine.any():
            return None
        means = {name: float(values[mine].mean()) for name, values in self.values.items()}
        top = max(means.values())
        return min(means, key=lambda name: (means[name] < top - 1e-12, name != self.sweep.base))

    def _choice(self, kept: SweepChoice, bootstrap: Bootstrap) -> SweepChoice:
        task, sweep, best = self.task, self.sweep, kept.best
        mine = self.complete & task.of_language(kept.language)
        development, held_out = mine & self.development, mine & ~self.development
        values, base = self.values[best or sweep.base], self.values[sweep.base]
        found = None
        if best not in (None, sweep.base) and held_out.any():
            gap = quantity(task, np.where(held_out, values - base, np.nan))
            found = estimate(task, [gap], bootstrap, -1.0, 1.0, mean_intervals, kept.language)[0][kept.language]
        resolved = found is not None and found.low is not None and found.low > 0
        resolved = resolved and found is not None and found.effective >= CLUSTERS_TO_CLAIM
        recommended = (best or sweep.base) if resolved else sweep.base
        choices = {"metric": self.metric, "task": task.task, "selector": sweep.selector}
        split = f"split:{sweep.development:g},cluster,seed:{sweep.seed}"
        temperature, min_p = sweep.settings[best] if best else (None, None)
        return replace(
            kept,
            temperature=temperature,
            min_p=min_p,
            n=self.size,
            n_enough=self._enough(recommended, development),
            n_development=int(development.sum()),
            n_held_out=int(held_out.sum()),
            n_clusters=len(np.unique(task.prompt_cluster[held_out])),
            development=_mean(values[development]) if best else None,
            development_base=_mean(base[development]),
            held_out=_mean(values[held_out]) if best else None,
            held_out_base=_mean(base[held_out]),
            **numbers(found, "difference", "se", "ci_low", "ci_high"),
            minimum_detectable=found.detectable if found else None,
            resolved=resolved,
            recommended=recommended,
            note=_note(best, sweep.base, found, resolved),
            signature=signature("choice", choices, bootstrap, found.method if found else "none", split),
        )

    def _enough(self, setting: str, mine: Bools) -> int | None:
        pool = self.task.pools[self.metric, setting]
        whole = {
            i: v
            for i in np.flatnonzero(mine)
            if (v := pool.values[i]) is not None and len(v) == self.size and not np.isnan(v).any()
        }
        if not whole:
            return None
        orders = [o for i in whole if (o := pool.orders[i]) is not None]
        crossed = np.stack(orders) if len(orders) == len(whole) else None
        best = pool_curves(np.stack([*whole.values()]), crossed).best.mean(axis=0)
        return 1 + int(np.argmax(best >= best[0] + self.sweep.enough * (best[-1] - best[0]) - 1e-12))


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
