"""Task scores with cluster intervals, pool curves, hope and risk: from a run's metrics to rows of results.

Definitions: statistics.md, "Baselines" and "Hope and risk" (arXiv 2506.20544). All numbers are in 0..1.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.core.columns import Floats, Ints
from pipeline.stats.clusters import Bootstrap
from pipeline.stats.facts import Facts
from pipeline.stats.intervals import (
    MACRO,
    POOLED,
    Estimate,
    estimate,
    finite,
    mean_intervals,
    numbers,
    quantity,
    simultaneous_intervals,
)
from pipeline.stats.pool_curves import hope_and_risk, pool_curves, recovered_share
from pipeline.stats.pools import Quality, TaskQuality
from pipeline.stats.signature import of_metric, signature
from pipeline.tasks.measure import LANGUAGE, WIN


@dataclass(frozen=True)
class Score:
    """A system's mean by one metric of a task in one language (or ``all``, ``macro``).

    Attributes:
        main: the metric is the task's main one.
        n_missing: prompts without the system's text, which score 0 (``language`` leaves them out, and the ``n_untold``
            texts whose language cannot be told).
        base: the base of its candidate set; of an outside system that of the set that was sampled for the most prompts.
        difference: paired, to the base.
        joint_low, joint_high: interval of that difference which holds for all of the task's systems that may win;
            by the main metric and over all prompts only.
        recovered: share of the oracle's gain over the base; null for ``macro``, and where that gain cannot be told from
            0.
        n_clusters, effective_clusters: of the difference, or of the mean where there is none.
    """

    system: str
    task: str
    language: str
    metric: str
    main: bool
    n_prompts: int
    n_missing: int
    n_untold: int
    mean: float | None
    se: float | None
    ci_low: float | None
    ci_high: float | None
    base: str | None
    difference: float | None
    difference_se: float | None
    difference_low: float | None
    difference_high: float | None
    joint_low: float | None
    joint_high: float | None
    recovered: float | None
    recovered_low: float | None
    recovered_high: float | None
    n_clusters: int
    effective_clusters: float
    signature: str


def scores(quality: Quality, base: str, bootstrap: Bootstrap, facts: Facts | None = None) -> Iterator[Score]:
    """Every system's mean by every metric, per language, pooled and ``macro``.

    Args:
        base: the selector that the others are compared with.
        facts: which systems may win.
    """
    for task in quality.tasks.values():
        metrics = sorted({metric for metric, _ in task.systems} - {WIN})  # win-rates have tables of their own
        main = min(metrics, key=lambda metric: (metric == LANGUAGE, metric != task.main), default=LANGUAGE)
        for metric in metrics:
            is_main = metric == main != LANGUAGE
            yield from _scores(task, metric, is_main, base, bootstrap, facts or Facts())


def _scores(
    task: TaskQuality, metric: str, main: bool, base: str, bootstrap: Bootstrap, facts: Facts
) -> Iterator[Score]:
    systems = [system for name, system in task.systems if name == metric]
    sets = [s.rpartition("/")[0] for s in systems if s.endswith(f"/{base}")]
    sets.sort(key=lambda name: -int((~np.isnan(task.systems[metric, f"{name}/{base}"])).sum()))
    bases = {s: _base_of(s, base, sets) for s in systems}
    values = {s: task.systems[metric, s] for s in systems}
    differences = {s: values[s] - values[b] for s, b in bases.items() if b in values and b != s}
    found = estimate(task, [quantity(task, v) for v in values.values()], bootstrap, 0.0, 1.0, mean_intervals)
    gaps = {s: quantity(task, v) for s, v in differences.items()}
    against = estimate(task, list(gaps.values()), bootstrap, -1.0, 1.0, mean_intervals)
    gains = dict(zip(differences, against, strict=True))
    rivals = [s for s in gaps if main and not facts.role(s) and gains[s][POOLED].value is not None]
    together = estimate(task, [gaps[s] for s in rivals], bootstrap, -1.0, 1.0, simultaneous_intervals, POOLED)
    joint = {(s, POOLED): each[POOLED] for s, each in zip(rivals, together, strict=True)}
    for system, estimates in zip(systems, found, strict=True):
        missing, untold = task.missing[metric, system], task.untold.get(system)
        for language, mean in estimates.items():
            mine = task.of_language(language)
            gap = gains.get(system, {}).get(language)
            share = _recovered(task, metric, system, bases[system], language, bootstrap) if gap else None
            choices = {"metric": metric, "task": task.task, "base": bases[system]}
            yield Score(
                system=system,
                task=task.task,
                language=language,
                metric=metric,
                main=main,
                n_prompts=int((mine & ~np.isnan(values[system])).sum()),
                n_missing=int((mine & missing).sum()),
                n_untold=int((mine & untold).sum()) if untold is not None and metric == LANGUAGE else 0,
                **numbers(mean, "mean", "se", "ci_low", "ci_high"),
                base=bases[system],
                **numbers(gap, "difference", "difference_se", "difference_low", "difference_high"),
                **numbers(joint.get((system, language)), "", "", "joint_low", "joint_high"),
                **numbers(share, "recovered", "", "recovered_low", "recovered_high"),
                n_clusters=(gap or mean).n_clusters,
                effective_clusters=(gap or mean).effective,
                signature=signature("score", choices, bootstrap, mean.method, of_metric(metric)),
            )


def _base_of(system: str, base: str, sets: list[str]) -> str | None:
    name = system.rpartition("/")[0]
    if name in sets:
        return f"{name}/{base}"
    return f"{sets[0]}/{base}" if sets and "/" not in system else None


def _recovered(
    task: TaskQuality, metric: str, system: str, base: str | None, language: str, bootstrap: Bootstrap
) -> Estimate | None:
    pool = task.pools.get((metric, (base or "").rpartition("/")[0]))
    if pool is None or language == MACRO or metric == LANGUAGE or "/" not in system:
        return None
    mine = task.of_language(language)
    chosen, start = task.systems[metric, system][mine], task.systems[metric, str(base)][mine]
    return recovered_share(chosen, start, pool.oracle[mine], task.prompt_cluster[mine], bootstrap)


@dataclass(frozen=True)
class ScoreDifference:
    """One system's mean minus another's by a task's main metric, paired, over all languages.

    Attributes:
        ci_low, ci_high: hold for all pairs of the task together (bootstrap max-T; statistics.md, "Resolution").
    """

    task: str
    metric: str
    system_a: str
    system_b: str
    n_prompts: int
    difference: float | None
    se: float | None
    ci_low: float | None
    ci_high: float | None
    minimum_detectable: float | None
    effective_clusters: float
    signature: str


def score_differences(
    task: TaskQuality, metric: str, pairs: Sequence[tuple[str, str]], bootstrap: Bootstrap
) -> Iterator[ScoreDifference]:
    """Paired differences of systems over the prompts on which both were measured.

    Args:
        pairs: (system, other), each with this metric.
    """
    gaps = [quantity(task, task.systems[metric, a] - task.systems[metric, b]) for a, b in pairs]
    found = estimate(task, gaps, bootstrap, -1.0, 1.0, simultaneous_intervals, POOLED)
    choices = {"metric": metric, "task": task.task}
    for (a, b), gap, each in zip(pairs, gaps, found, strict=True):
        one = each[POOLED]
        yield ScoreDifference(
            *(task.task, metric, a, b),
            n_prompts=len(gap.prompt),
            **numbers(one, "difference", "se", "ci_low", "ci_high"),
            minimum_detectable=one.detectable,
            effective_clusters=one.effective,
            signature=signature("score-difference", choices, bootstrap, one.method, f"simultaneous:{len(pairs)}"),
        )


@dataclass(frozen=True)
class Curve:
    """Expected best, mean and worst of ``m`` of a set's stochastic candidates, in closed form.

    Prompts with fewer than N valid candidates are left out, N being the set's most common number. ``macro`` is the mean
    of the languages.
    """

    plan: str
    temperature: float | None
    min_p: float | None
    task: str
    language: str
    metric: str
    m: int
    n_prompts: int
    best: float
    mean: float
    worst: float
    signature: str


def curves(quality: Quality) -> Iterator[Curve]:
    """The curves of every set, for every m up to N."""
    for pools in whole_pools(quality):
        task, whole = pools.task, pools.prompts
        found = pool_curves(pools.values, pools.orders)
        language = task.prompt_language[whole]
        groups = {name: np.flatnonzero(language == i) for i, name in enumerate(task.languages)}
        groups = {name: at for name, at in groups.items() if len(at)}
        means = {
            name: [c[at].mean(axis=0) for c in (found.best, found.mean, found.worst)]
            for name, at in {**groups, POOLED: np.arange(len(whole))}.items()
        }
        means[MACRO] = [np.mean([means[name][k] for name in groups], axis=0) for k in range(3)]
        recipe = signature("curve", pools.choices())
        for name, lines in means.items():
            for m, values in enumerate(zip(*lines, strict=True), 1):
                best, mean, worst = map(float, values)
                n_prompts = len(groups.get(name, whole))
                yield Curve(
                    **pools.place(name), m=m, n_prompts=n_prompts, best=best, mean=mean, worst=worst, signature=recipe
                )


@dataclass(frozen=True)
class HopeRisk:
    """Hope and risk of a set's N stochastic candidates against the greedy answer, per language and pooled.

    Attributes:
        n_left_out: prompts that lack a greedy value or some of the N candidates.
        hope, risk: relative to the mean greedy value; the ``_absolute`` ones in the metric's unit, with intervals.
    """

    plan: str
    temperature: float | None
    min_p: float | None
    task: str
    language: str
    metric: str
    n: int
    n_prompts: int
    n_left_out: int
    greedy: float
    hope: float | None
    risk: float | None
    hope_absolute: float | None
    hope_low: float | None
    hope_high: float | None
    risk_absolute: float | None
    risk_low: float | None
    risk_high: float | None
    signature: str


def hopes_and_risks(quality: Quality, bootstrap: Bootstrap) -> Iterator[HopeRisk]:
    """Hope and risk of every set."""
    for pools in whole_pools(quality):
        task, whole, values = pools.task, pools.prompts, pools.values
        pool = task.pools[pools.metric, pools.plan]
        has_greedy = ~np.isnan(pool.greedy[whole])
        sampled = np.array([v is not None for v in pool.values])
        for name in [*task.languages, POOLED]:
            mine = task.of_language(name)
            use = has_greedy & mine[whole]
            if not use.any():
                continue
            at = whole[use]
            orders = None if pools.orders is None else pools.orders[use]
            found = hope_and_risk(values[use], pool.greedy[at], task.prompt_cluster[at], bootstrap, orders)
            yield HopeRisk(
                **pools.place(name),
                n=values.shape[1],
                n_prompts=len(at),
                n_left_out=int((mine & sampled).sum()) - len(at),
                greedy=float(pool.greedy[at].mean()),
                hope=found.hope,
                risk=found.risk,
                **numbers(found.hope_absolute, "hope_absolute", "", "hope_low", "hope_high"),
                **numbers(found.risk_absolute, "risk_absolute", "", "risk_low", "risk_high"),
                signature=signature("hope-risk", pools.choices(), bootstrap, found.hope_absolute.method),
            )


@dataclass(frozen=True)
class WholePools:
    """One set's prompts with all N valid candidates, by one metric.

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

    def place(self, language: str) -> dict[str, Any]:
        """The first fields of its results."""
        temperature, min_p = self.task.plans.get(self.plan, (float("nan"), float("nan")))
        setting = {"plan": self.plan, "temperature": finite(temperature), "min_p": finite(min_p)}
        return setting | {"task": self.task.task, "language": language, "metric": self.metric}


def whole_pools(quality: Quality) -> Iterator[WholePools]:
    """Every set's pools by every metric, N being the set's most common number of candidates."""
    for task in quality.tasks.values():
        for (metric, name), pool in task.pools.items():
            if metric == LANGUAGE:
                continue
            valid = {i: v for i, v in enumerate(pool.values) if v is not None and len(v) and not np.isnan(v).any()}
            sizes = Counter(map(len, valid.values()))
            if not sizes:
                continue
            n = max(sizes, key=lambda size: (sizes[size], size))
            whole = {i: v for i, v in valid.items() if len(v) == n}
            known = [
                o for i in whole if (o := pool.orders[i]) is not None and o.shape == (2, n) and not np.isnan(o).any()
            ]
            crossed = np.stack(known) if len(known) == len(whole) else None
            yield WholePools(task, metric, name, np.array([*whole]), np.stack([*whole.values()]), crossed)
