"""A run's metrics as arrays of numbers, task by task: what task scores and pool curves are computed from."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.core.columns import Bools, Floats, Ints, column, nested
from pipeline.core.folder import RunFolder
from pipeline.core.hashing import derive_seed
from pipeline.core.units import CANDIDATE
from pipeline.judging.names import is_candidate
from pipeline.stats.facts import SetFacts, same_source
from pipeline.stats.games import UNDETERMINED
from pipeline.tasks.measure import ANSWER, LANGUAGE, METRIC, WIN, is_own_text

_LEAVES = {
    "candidates": {"plan", "origin", "temperature", "min_p", "error"},
    "scores": None,  # whole: lists of numbers
    "selections": {"plan", "method", "index", "text"},
    "answers": {"system", "text"},
    "games": {"system", "opponent", "judge", "template", "order", "score"},
}
_PLAIN = ("prompt_id", "cluster_id", "task", "language")


@dataclass(frozen=True)
class PoolValues:
    """One plan's candidates by one metric.

    Attributes:
        values: per prompt of the task [P]: the stochastic candidates' numbers; ``None`` where the plan was not sampled.
            Of a set whose size was decided by scores only the first round's. 0 = no text; NaN = an invalid judgment.
        greedy: [P], the same engine's; NaN = there is none.
        oracle: [P], the best of all that may be chosen.
        orders: per prompt the same candidates' numbers by order [2, N], where both were judged: choosing on one and
            scoring on the other has no winner's curse.
    """

    values: list[Floats | None]
    greedy: Floats
    oracle: Floats
    orders: list[Floats | None]


@dataclass(frozen=True)
class TaskQuality:
    """The P prompts of one task.

    Attributes:
        task: its name.
        clusters: cluster ids [C], sorted.
        languages, prompt_language, prompt_cluster, n_clusters: as in :class:`~pipeline.stats.grouped.Frame`.
        pools: (metric, plan) -> values.
        systems: (metric, system) -> [P], 0 where the text is missing although the metric exists for the prompt, NaN
            where there is nothing to say (no reference, the plan was not for this prompt).
        missing: (metric, system) -> [P], where the text is missing.
        plans: plan -> (temperature, min_p) of its stochastic candidates; NaN where they differ or are not known.
        untold: system -> [P], where its text's language cannot be told.
    """

    task: str
    clusters: list[str]
    languages: list[str]
    prompt_language: Ints
    prompt_cluster: Ints
    pools: dict[tuple[str, str], PoolValues]
    systems: dict[tuple[str, str], Floats]
    missing: dict[tuple[str, str], Bools]
    plans: dict[str, tuple[float, float]]
    untold: dict[str, Bools] = field(default_factory=dict)

    @property
    def n_clusters(self) -> int:
        return len(self.clusters)

    def keep(self, clusters: Collection[str]) -> TaskQuality:
        """The prompts of some clusters only."""
        names = set(clusters)
        kept = np.array([name in names for name in self.clusters], dtype=bool)
        mine = kept[self.prompt_cluster]
        rank = np.cumsum(kept) - 1
        codes, language = np.unique(self.prompt_language[mine], return_inverse=True)
        rows = np.flatnonzero(mine)
        return replace(
            self,
            clusters=[name for name in self.clusters if name in names],
            languages=[self.languages[code] for code in codes],
            prompt_language=language,
            prompt_cluster=rank[self.prompt_cluster[mine]],
            pools={
                key: PoolValues(
                    [p.values[i] for i in rows], p.greedy[mine], p.oracle[mine], [p.orders[i] for i in rows]
                )
                for key, p in self.pools.items()
            },
            systems={key: values[mine] for key, values in self.systems.items()},
            missing={key: values[mine] for key, values in self.missing.items()},
            untold={key: values[mine] for key, values in self.untold.items()},
        )


@dataclass(frozen=True)
class Quality:
    """All tasks of a run, by name."""

    tasks: dict[str, TaskQuality] = field(default_factory=dict)

    def keep(self, clusters: Collection[str]) -> Quality:
        """The prompts of some clusters only; tasks that lose all of theirs are left out."""
        kept = {name: task.keep(clusters) for name, task in self.tasks.items()}
        return Quality({name: task for name, task in kept.items() if task.n_clusters})

    def clusters(self) -> list[str]:
        """Ids of all clusters, sorted."""
        return sorted({name for task in self.tasks.values() for name in task.clusters})


def split_clusters(quality: Quality, share: float, seed: int) -> tuple[set[str], set[str]]:
    """(development, held-out) cluster ids: whole clusters, by hash, ``share`` of them (rounded) for development."""
    ranked = sorted(quality.clusters(), key=lambda name: (derive_seed("split", seed, name), name))
    n = round(share * len(ranked))
    return set(ranked[:n]), set(ranked[n:])


def load_quality(run: RunFolder, facts: Mapping[str, SetFacts] | None = None) -> Quality:
    """Stream the run's last finished table (``games``, else ``selections``) and keep its metrics' numbers.

    Texts never become Python objects: only whether there is one. About 100 bytes per candidate and metric. Of several
    opponents, judges or templates in candidate games, the first in sorted order counts.

    Args:
        facts: of the run's candidate sets (:func:`~pipeline.stats.facts.set_facts`).

    Raises:
        UnfinishedTableError: neither table is finished.
    """
    table = "games" if run.marker("games") is not None else "selections"
    builders: dict[str, Builder] = {}
    for batch in run.leaves(table, _wanted):
        for row in _rows(batch):
            builders.setdefault(row["task"], Builder(facts)).add(row)
    return Quality({name: builder.finish(name) for name, builder in sorted(builders.items())})


def _wanted(top: str, leaf: str) -> bool:
    if top in _PLAIN:
        return not leaf
    fields = _LEAVES.get(top, set())
    return fields is None or leaf in fields


def _rows(batch: pa.RecordBatch) -> Iterator[dict[str, Any]]:
    pools = nested(batch, "candidates", "plan", "origin", "temperature", "min_p", "error")
    scores = nested(batch, "scores", "scorer", "plan", "values")
    chosen = nested(batch, "selections", "plan", "method", "index", "text", lengths=("text",))
    answers = nested(batch, "answers", "system", "text", lengths=("text",))
    games = nested(batch, "games", "system", "opponent", "judge", "template", "order", "score")
    plain = zip(*(column(batch, name) for name in _PLAIN), strict=True)
    for (prompt_id, cluster, task, language), *rest in zip(plain, pools, scores, chosen, answers, games, strict=True):
        names = ("candidates", "scores", "selections", "answers", "games")
        yield {
            "cluster": cluster or prompt_id,
            "task": task or "open",
            "language": language or UNDETERMINED,
            **dict(zip(names, rest, strict=True)),
        }


class Builder:
    """Collects one task's rows: tuples of numbers, as :func:`load_quality` reads them."""

    def __init__(self, facts: Mapping[str, SetFacts] | None = None) -> None:
        self.facts = facts or {}
        self.clusters: list[str] = []
        self.languages: list[str] = []
        self.pools: dict[tuple[str, str], dict[int, _Pool]] = defaultdict(dict)
        self.systems: dict[tuple[str, str], dict[int, tuple[float, bool]]] = defaultdict(dict)
        self.untold: dict[str, list[int]] = defaultdict(list)
        self.settings: dict[str, Counter[tuple[float, float]]] = defaultdict(Counter)

    def add(self, row: dict[str, Any]) -> None:
        at = len(self.clusters)
        self.clusters.append(row["cluster"])
        self.languages.append(row["language"])
        origins: dict[str, list[str]] = defaultdict(list)
        missing: dict[str, list[bool]] = defaultdict(list)
        for plan, origin, temperature, min_p, error in row["candidates"]:
            origins[plan].append(origin)
            missing[plan].append(error is not None)
            if origin == "sample":
                self.settings[plan][_nan(temperature), _nan(min_p)] += 1
        metrics: dict[str, dict[str, list[float | None]]] = defaultdict(dict)
        for scorer, plan, values in row["scores"]:
            if scorer.startswith(METRIC):
                metrics[scorer.removeprefix(METRIC)][plan] = values
        for metric, by_target in metrics.items():
            known = any(v is not None for values in by_target.values() for v in values)
            if metric != LANGUAGE:
                lost = {plan: _lost(by_target[plan], gone) for plan, gone in missing.items() if plan in by_target}
                by_target = by_target | lost
            if known or metric == LANGUAGE:
                self._metric(at, row, metric, by_target, origins, known)
        won, by_order = _wins(row["games"], origins)
        if won:
            lost = {plan: _lost(values, missing[plan]) for plan, values in won.items()}
            self._metric(at, row, WIN, lost, origins)
            self._orders(at, by_order, origins, missing)

    def _metric(
        self,
        at: int,
        row: dict[str, Any],
        metric: str,
        by_target: dict[str, list[float | None]],
        origins: dict[str, list[str]],
        known: bool = True,
    ) -> None:
        for plan, kinds in origins.items():
            if plan in by_target and known:
                self._pool(at, metric, plan, by_target[plan], kinds)
        for plan, method, index, chars in row["selections"]:
            value: float | None = None
            if method == "sample" and chars is not None and "sample" in origins[plan]:
                pool = self.pools.get((metric, plan), {}).get(at)
                value = None if pool is None else _mean(pool.stochastic)
            elif chars is not None:
                target, place = (f"{ANSWER}{plan}/{method}", 0) if is_own_text(plan, index) else (plan, index)
                value = _item(by_target.get(target), place)
            self._system(at, metric, f"{plan}/{method}", value, chars is None)
        for system, chars in row["answers"]:
            self._system(at, metric, system, _item(by_target.get(ANSWER + system), 0), chars is None)

    def _pool(self, at: int, metric: str, plan: str, values: list[float | None], origins: list[str]) -> None:
        numbers = [_nan(v) for v in values]
        pairs = list(zip(numbers, origins, strict=False))
        one_engine = len(self._of(plan).engines) <= 1
        greedy = next((v for v, origin in pairs if origin == "greedy" and one_engine), float("nan"))
        valid = [v for v, origin in pairs if origin != "evidence" and v == v]
        stochastic = np.array([numbers[i] for i in self._first(plan, origins)])
        self.pools[metric, plan][at] = _Pool(stochastic, greedy, max(valid, default=float("nan")))

    def _of(self, plan: str) -> SetFacts:
        return self.facts.get(plan, SetFacts())

    def _first(self, plan: str, origins: list[str]) -> list[int]:
        """Places of the stochastic candidates whose number no score has decided."""
        first = origins[: self._of(plan).first]
        return [i for i, origin in enumerate(first) if origin in ("sample", "given")]

    def _orders(
        self,
        at: int,
        by_order: dict[str, dict[str, list[float | None]]],
        origins: dict[str, list[str]],
        missing: dict[str, list[bool]],
    ) -> None:
        for plan, found in by_order.items():
            if at in self.pools[WIN, plan] and len(found) == 2:
                lines = [_lost(found[order], missing[plan]) for order in sorted(found)]
                places = self._first(plan, origins[plan])
                self.pools[WIN, plan][at].orders = np.array([[_nan(line[i]) for i in places] for line in lines])

    def _system(self, at: int, metric: str, system: str, value: float | None, missing: bool) -> None:
        if missing and metric != LANGUAGE:
            value = 0.0  # a missing answer loses
        if metric == LANGUAGE and value is None and not missing:
            self.untold[system].append(at)
        if value is not None:
            self.systems[metric, system][at] = (value, missing)

    def finish(self, task: str) -> TaskQuality:
        n = len(self.clusters)
        clusters, cluster = np.unique(np.array(self.clusters), return_inverse=True)
        languages, language = np.unique(np.array(self.languages), return_inverse=True)
        pools = {}
        for key, found in sorted(self.pools.items()):
            greedy, oracle = np.full(n, np.nan), np.full(n, np.nan)
            values: list[Floats | None] = [None] * n
            orders: list[Floats | None] = [None] * n
            for at, pool in found.items():
                values[at], greedy[at], oracle[at] = pool.stochastic, pool.greedy, pool.oracle
                orders[at] = pool.orders
            pools[key] = PoolValues(values, greedy, oracle, orders)
        own = {key: pool.greedy.copy() for key, pool in pools.items()}
        for (metric, plan), values_of in pools.items():  # a plan without a greedy candidate takes its engine's
            for (other_metric, other), greedy in own.items():
                if other_metric == metric and other != plan and same_source(self.facts, plan, other):
                    values_of.greedy[:] = np.where(np.isnan(values_of.greedy), greedy, values_of.greedy)
        systems, missing = {}, {}
        for key, entries in sorted(self.systems.items()):
            systems[key], missing[key] = np.full(n, np.nan), np.zeros(n, dtype=bool)
            for at, (value, gone) in entries.items():
                systems[key][at], missing[key][at] = value, gone
        plans = {
            plan: next(iter(seen)) if len(seen) == 1 else (float("nan"), float("nan"))
            for plan, seen in self.settings.items()
        }
        return TaskQuality(
            task,
            clusters.tolist(),
            languages.tolist(),
            language.astype(np.int64),
            cluster.astype(np.int64),
            pools,
            systems,
            missing,
            plans,
            {system: np.isin(np.arange(n), places) for system, places in self.untold.items()},
        )


@dataclass
class _Pool:
    """One prompt's candidates by one metric, as in :class:`PoolValues`."""

    stochastic: Floats
    greedy: float
    oracle: float
    orders: Floats | None = None


def _lost(values: list[float | None], missing: list[bool]) -> list[float | None]:
    """A set's numbers in which missing answers lose."""
    return [0.0 if gone else _item(values, i) for i, gone in enumerate(missing)]


def _wins(
    games: list[tuple[Any, ...]], origins: dict[str, list[str]]
) -> tuple[dict[str, list[float | None]], dict[str, dict[str, list[float | None]]]]:
    """Plan -> the candidates' prompt scores from their games; plan -> order -> their scores in that order."""
    found: dict[tuple[str, str, str], dict[str, dict[str, float | None]]] = defaultdict(lambda: defaultdict(dict))
    for system, opponent, judge, template, order, score in games:
        if is_candidate(system):
            found[opponent, judge, template][system][order] = score
    if not found:
        return {}, {}
    won: dict[str, list[float | None]] = {}
    by_order: dict[str, dict[str, list[float | None]]] = defaultdict(dict)
    for system, scores in found[min(found)].items():
        plan, _, index = system.rpartition(CANDIDATE)
        place, size = int(index), len(origins.get(plan, ()))
        if place < size:
            known = [score for score in scores.values() if score is not None]
            mean = sum(known) / len(known) if len(known) == len(scores) else None
            won.setdefault(plan, [None] * size)[place] = mean
            for order, score in scores.items():
                by_order[plan].setdefault(order, [None] * size)[place] = score
    return won, by_order


def _item(values: list[float | None] | None, place: int | None) -> float | None:
    return values[place] if values and place is not None and 0 <= place < len(values) else None


def _nan(value: float | None) -> float:
    return float("nan") if value is None else float(value)


def _mean(values: Floats) -> float | None:
    valid = values[~np.isnan(values)]
    return float(valid.mean()) if len(valid) else None
