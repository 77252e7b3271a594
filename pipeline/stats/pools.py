"""A run's metrics as arrays of numbers, task by task: what task scores and pool curves are computed from."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from pipeline.core.columns import Bools, Floats
from pipeline.core.folder import RunFolder
from pipeline.core.hashing import derive_seed
from pipeline.core.row import Candidate, Game, Row
from pipeline.core.units import CANDIDATE
from pipeline.judging.names import is_candidate
from pipeline.stats.facts import Facts
from pipeline.stats.intervals import Frame
from pipeline.stats.reading import read_rows
from pipeline.tasks.measure import ANSWER, LANGUAGE, METRIC, WIN, is_own_text

_NAN = float("nan")
_COLUMNS = ("candidates", "scores", "selections", "answers", "games")
Values = Mapping[str, list[float | None]]
"""A metric's numbers: ``Score.plan`` -> one per candidate, or per text."""


@dataclass(frozen=True)
class PoolValues:
    """One candidate set by one metric.

    Attributes:
        values: per prompt of the task [P]: the stochastic candidates' numbers; ``None`` where the set was not sampled.
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
class TaskQuality(Frame):
    """The P prompts of one task.

    Attributes:
        task: its name.
        clusters: cluster ids [C], sorted.
        pools: (metric, candidate set) -> values.
        systems: (metric, system) -> [P], 0 where the text is missing although the metric exists for the prompt, NaN
            where there is nothing to say (no reference, the plan was not for this prompt).
        missing: (metric, system) -> [P], where the text is missing.
        plans: candidate set -> (temperature, min_p) of its stochastic candidates; NaN where they differ or are not
            known.
        main: the metric that the task measures first.
        untold: system -> [P], where its text's language cannot be told.
    """

    task: str
    clusters: list[str]
    pools: dict[tuple[str, str], PoolValues]
    systems: dict[tuple[str, str], Floats]
    missing: dict[tuple[str, str], Bools]
    plans: dict[str, tuple[float, float]]
    main: str = ""
    untold: dict[str, Bools] = field(default_factory=dict)

    def keep(self, clusters: Collection[str]) -> TaskQuality:
        """The prompts of some clusters only."""
        kept = np.isin(self.clusters, list(clusters))
        mine = kept[self.prompt_cluster]
        codes, language = np.unique(self.prompt_language[mine], return_inverse=True)
        rows = np.flatnonzero(mine)
        return replace(
            self,
            clusters=[name for name, known in zip(self.clusters, kept, strict=True) if known],
            languages=[self.languages[code] for code in codes],
            prompt_language=language,
            prompt_cluster=(np.cumsum(kept) - 1)[self.prompt_cluster[mine]],
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
        return Quality({name: task for name, task in kept.items() if task.clusters})

    def clusters(self) -> list[str]:
        """Ids of all clusters, sorted."""
        return sorted({name for task in self.tasks.values() for name in task.clusters})


def split_clusters(quality: Quality, share: float, seed: int) -> tuple[set[str], set[str]]:
    """(development, held-out) cluster ids: whole clusters, by hash, ``share`` of them (rounded) for development."""
    ranked = sorted(quality.clusters(), key=lambda name: (derive_seed("split", seed, name), name))
    n = round(share * len(ranked))
    return set(ranked[:n]), set(ranked[n:])


def load_quality(run: RunFolder, table: str, facts: Facts | None = None) -> Quality:
    """Stream a finished table and keep its metrics' numbers: about 100 bytes per candidate and metric.

    Of several opponents, judges or templates in candidate games, the first in sorted order counts.

    Raises:
        UnfinishedTableError: the table is not finished.
    """
    builder = QualityBuilder(facts)
    for row in read_rows(run, table, *_COLUMNS):
        builder.add(row)
    return builder.finish()


class QualityBuilder:
    """Collects rows, whose texts do not matter: only whether there is one."""

    def __init__(self, facts: Facts | None = None) -> None:
        self._facts = facts or Facts()
        self._tasks: dict[str, _Task] = {}

    def add(self, row: Row) -> None:
        """Collect one row, :func:`~pipeline.stats.reading.filled`."""
        self._tasks.setdefault(row.task, _Task(self._facts)).add(row)

    def main(self, task: str) -> str:
        """The metric that a task measured first, in the rows so far."""
        return self._tasks[task].main

    def finish(self) -> Quality:
        """All tasks."""
        return Quality({name: task.finish(name) for name, task in sorted(self._tasks.items())})


@dataclass
class _Pool:
    """One prompt's candidates by one metric, as in :class:`PoolValues`."""

    stochastic: Floats
    greedy: float
    oracle: float
    orders: Floats | None = None


class _Task:
    """One task's rows."""

    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        self.main = ""
        self.clusters: list[str] = []
        self.languages: list[str] = []
        self.pools: dict[tuple[str, str], dict[int, _Pool]] = defaultdict(dict)
        self.systems: dict[tuple[str, str], dict[int, tuple[float, bool]]] = defaultdict(dict)
        self.untold: dict[str, list[int]] = defaultdict(list)
        self.settings: dict[str, Counter[tuple[float, float]]] = defaultdict(Counter)

    def add(self, row: Row) -> None:
        at = len(self.clusters)
        self.clusters.append(row.cluster_id)
        self.languages.append(str(row.language))
        sets: dict[str, list[Candidate]] = defaultdict(list)
        for c in row.candidates:
            sets[c.plan].append(c)
            if c.origin == "sample":
                self.settings[c.plan][_nan(c.temperature), _nan(c.min_p)] += 1
        metrics: dict[str, dict[str, list[float | None]]] = defaultdict(dict)
        for score in row.scores:
            if score.scorer.startswith(METRIC):
                metrics[score.scorer.removeprefix(METRIC)][score.plan] = score.values
        self.main = self.main or next((name for name in metrics if name != LANGUAGE), "")
        for metric, values in metrics.items():
            known = any(v is not None for one in values.values() for v in one)
            if metric != LANGUAGE:
                values |= {name: _lost(values[name], pool) for name, pool in sets.items() if name in values}
            if known or metric == LANGUAGE:
                self._metric(at, row, metric, values, sets if known else {})
        won, by_order = _wins(row.games, sets)
        if won:
            self._metric(at, row, WIN, {name: _lost(values, sets[name]) for name, values in won.items()}, sets)
            for name, orders in by_order.items():
                if len(orders) == 2:
                    lines = [_lost(orders[order], sets[name]) for order in sorted(orders)]
                    places = self._first(name, sets[name])
                    self.pools[WIN, name][at].orders = np.array([[_nan(line[i]) for i in places] for line in lines])

    def _metric(self, at: int, row: Row, metric: str, values: Values, sets: Mapping[str, list[Candidate]]) -> None:
        for name, pool in sets.items():
            if name in values:
                self.pools[metric, name][at] = self._pool(name, [_nan(v) for v in values[name]], pool)
        for chosen in row.selections:
            value: float | None = None
            if chosen.method == "sample" and any(c.origin == "sample" for c in row.plan(chosen.plan)):
                found = self.pools.get((metric, chosen.plan), {}).get(at)
                value = None if found is None else _mean(found.stochastic)
            elif is_own_text(chosen.plan, chosen.index):
                value = _item(values.get(ANSWER + chosen.system), 0)
            else:
                value = _item(values.get(chosen.plan), chosen.index)
            self._system(at, metric, chosen.system, value, chosen.text is None)
        for answer in row.answers:
            self._system(at, metric, answer.system, _item(values.get(ANSWER + answer.system), 0), answer.text is None)

    def _pool(self, name: str, numbers: list[float], pool: list[Candidate]) -> _Pool:
        pairs = list(zip(numbers, pool, strict=False))
        one_engine = len(self.facts.of(name).engines) <= 1
        greedy = next((v for v, c in pairs if c.origin == "greedy" and one_engine), _NAN)
        valid = [v for v, c in pairs if c.origin != "evidence" and v == v]
        return _Pool(np.array([numbers[i] for i in self._first(name, pool)]), greedy, max(valid, default=_NAN))

    def _first(self, name: str, pool: list[Candidate]) -> list[int]:
        """Places of the stochastic candidates whose number no score has decided."""
        return [i for i, c in enumerate(pool[: self.facts.of(name).first]) if c.origin in ("sample", "given")]

    def _system(self, at: int, metric: str, system: str, value: float | None, missing: bool) -> None:
        if missing:
            value = None if metric == LANGUAGE else 0.0  # a missing answer loses
        elif metric == LANGUAGE and value is None:
            self.untold[system].append(at)
        if value is not None:
            self.systems[metric, system][at] = (value, missing)

    def finish(self, task: str) -> TaskQuality:
        n = len(self.clusters)
        clusters, cluster = np.unique(np.array(self.clusters), return_inverse=True)
        languages, language = np.unique(np.array(self.languages), return_inverse=True)
        systems, missing = {}, {}
        for key, entries in sorted(self.systems.items()):
            systems[key], missing[key] = np.full(n, _NAN), np.zeros(n, dtype=bool)
            for at, (value, gone) in entries.items():
                systems[key][at], missing[key][at] = value, gone
        return TaskQuality(
            languages=languages.tolist(),
            prompt_language=language.astype(np.int64),
            prompt_cluster=cluster.astype(np.int64),
            task=task,
            clusters=clusters.tolist(),
            pools=self._pools(n),
            systems=systems,
            missing=missing,
            plans={name: next(iter(seen)) if len(seen) == 1 else (_NAN, _NAN) for name, seen in self.settings.items()},
            main=self.main,
            untold={system: np.isin(np.arange(n), places) for system, places in self.untold.items()},
        )

    def _pools(self, n: int) -> dict[tuple[str, str], PoolValues]:
        pools = {}
        for key, found in sorted(self.pools.items()):
            pool = PoolValues([None] * n, np.full(n, _NAN), np.full(n, _NAN), [None] * n)
            for at, one in found.items():
                pool.values[at], pool.greedy[at], pool.oracle[at] = one.stochastic, one.greedy, one.oracle
                pool.orders[at] = one.orders
            pools[key] = pool
        own = {key: pool.greedy.copy() for key, pool in pools.items()}
        for (metric, name), pool in pools.items():  # a set without a greedy candidate takes its engine's
            for (other_metric, other), greedy in own.items():
                if other_metric == metric and other != name and self.facts.same_source(name, other):
                    pool.greedy[:] = np.where(np.isnan(pool.greedy), greedy, pool.greedy)
        return pools


def _lost(values: list[float | None], pool: list[Candidate]) -> list[float | None]:
    """A set's numbers in which missing answers lose."""
    return [0.0 if c.error is not None else _item(values, i) for i, c in enumerate(pool)]


def _wins(
    games: list[Game], sets: Mapping[str, list[Candidate]]
) -> tuple[dict[str, list[float | None]], dict[str, dict[str, list[float | None]]]]:
    """Set -> the candidates' prompt scores from their games; set -> order -> their scores in that order."""
    found: dict[tuple[str, str, str], dict[str, dict[str, float | None]]] = defaultdict(lambda: defaultdict(dict))
    for game in games:
        if is_candidate(game.system):
            found[game.opponent, game.judge, game.template][game.system][game.order] = game.score
    won: dict[str, list[float | None]] = {}
    by_order: dict[str, dict[str, list[float | None]]] = defaultdict(dict)
    for system, scores in found[min(found)].items() if found else ():
        name, _, index = system.rpartition(CANDIDATE)
        place, size = int(index), len(sets.get(name, ()))
        if place < size:
            known = [score for score in scores.values() if score is not None]
            mean = sum(known) / len(known) if len(known) == len(scores) else None
            won.setdefault(name, [None] * size)[place] = mean
            for order, score in scores.items():
                by_order[name].setdefault(order, [None] * size)[place] = score
    return won, by_order


def _item(values: list[float | None] | None, place: int | None) -> float | None:
    return values[place] if values and place is not None and 0 <= place < len(values) else None


def _nan(value: float | None) -> float:
    return _NAN if value is None else float(value)


def _mean(values: Floats) -> float | None:
    valid = values[~np.isnan(values)]
    return float(valid.mean()) if len(valid) else None
