"""Selectors side by side on the same candidates: mean quality, and the paired difference to single-sample decoding."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np

from pipeline.config.config import Config
from pipeline.core.row import Row, Score, Selection
from pipeline.jobs.replay.players import Player, choose, sizes
from pipeline.jobs.replay.table import Pools
from pipeline.stats.clusters import Bootstrap
from pipeline.stats.facts import facts_of
from pipeline.stats.intervals import POOLED, estimate, numbers, quantity, simultaneous_intervals
from pipeline.stats.pools import QualityBuilder, TaskQuality, split_clusters
from pipeline.stats.reading import filled
from pipeline.stats.signature import signature
from pipeline.tasks import task_for, task_named
from pipeline.tasks.measure import ANSWER, METRIC, WIN


@dataclass(frozen=True)
class ReplayScore:
    """One set, selector, number of candidates, task, metric and part; rates in 0..1, tokens per prompt.

    Attributes:
        n: the first so many candidates; ``None`` for single-sample decoding, the mean of all samples.
        part: ``all``, or with ``replay.split`` the ``development`` and the ``held_out`` clusters.
        ci_low, ci_high: hold for all means of the task, metric and part together; ``difference_low`` and
            ``difference_high`` for all differences.
        sampling_tokens: generated tokens of the first n candidates.
        selector_tokens: what the selector's engine read and wrote when the run was made, for whole sets; in proportion
            for the first n; 0 for selectors on the CPU.
        agreement: share of the prompts on which the choice in the whole set is the run's own; null for new selectors.
    """

    plan: str
    selector: str
    n: int | None
    task: str
    metric: str
    part: str
    n_prompts: int
    mean: float | None
    ci_low: float | None
    ci_high: float | None
    difference: float | None
    difference_low: float | None
    difference_high: float | None
    sampling_tokens: float | None
    selector_tokens: float | None
    agreement: float | None
    signature: str


T = TypeVar("T")

BASE = "sample"
ALL, DEVELOPMENT, HELD_OUT = POOLED, "development", "held_out"
_AT = "@"


@dataclass
class Tally:
    """Counts of one selector on the first n candidates of a set."""

    prompts: int = 0
    sampling: int = 0
    selecting: float = 0.0
    compared: int = 0
    same: int = 0


@dataclass
class Replay:
    """What was chosen.

    Attributes:
        quality: the rows, for the statistics.
        tallies: (plan, selector, n) -> counts.
        largest: plan -> the size of its largest set.
    """

    quality: QualityBuilder
    tallies: dict[tuple[str, str, int], Tally] = field(default_factory=lambda: defaultdict(Tally))
    largest: Counter[str] = field(default_factory=Counter)


class _Inline(ThreadPoolExecutor):
    """Runs what selectors put on a thread at once: here nothing else waits, and switching threads costs the most."""

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        future: Future[T] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


async def replay(table: Iterable[Pools], chosen: Sequence[Player], ns: Sequence[int], config: Config) -> Replay:
    """Let every selector choose among the first n candidates of each set, for every n and for the whole set.

    Cost: O(prompts x selectors x sizes) choices, no request; memory holds some numbers a choice.
    """
    asyncio.get_running_loop().set_default_executor(_Inline())
    found = Replay(QualityBuilder(facts_of(config)))
    for pools in table:
        row = pools.row
        selections, scores = [], list(row.scores)
        plans = dict.fromkeys(plan for player in chosen for plan in player.plans)
        present = sizes(row, list(plans))
        for plan, size in present.items():
            found.largest[plan] = max(found.largest[plan], size)
            pool = row.plan(plan)
            base = next((i for i, c in enumerate(pool) if c.text is not None and c.origin != "greedy"), None)
            selections.append(Selection(plan, BASE, base, None if base is None else pool[base].text))
        for player in chosen:
            for plan in filter(present.__contains__, player.plans):
                for n in sorted({*(n for n in ns if n < present[plan]), present[plan]}):
                    index, text = await choose(player, pools, plan, n, config)
                    if index is None and n < present[plan]:
                        continue  # the first n hold none that it may choose: too few for it, not a bad answer
                    name = f"{player.name}{_AT}{n}"
                    selections.append(Selection(plan, name, index, text))
                    if index == -1 and text is not None:
                        scores += _measured(row, text, f"{ANSWER}{plan}/{name}", config)
                    _count(found.tallies[plan, player.name, n], player, row, plan, n, index, text)
        found.quality.add(filled(replace(row, scores=scores, selections=selections, answers=[])))
    return found


def _measured(row: Row, text: str, target: str, config: Config) -> Iterator[Score]:
    """The metrics of a new text."""
    for metric, values in task_for(row, config.tasks).measure([text], row).items():
        yield Score(METRIC + metric, target, values)


def _count(tally: Tally, player: Player, row: Row, plan: str, n: int, index: int | None, text: str | None) -> None:
    pool = row.plan(plan)
    tally.prompts += 1
    tally.sampling += sum(c.num_tokens or 0 for c in pool[:n])
    if player.costs:
        used = [u for u in row.usage if u.stage == f"select:{player.name}"]
        sets = max(len(sizes(row, player.plans)), 1)
        tally.selecting += sum(u.prompt_tokens + u.completion_tokens for u in used) / sets * n / len(pool)
    if player.own and n == len(pool):
        for before in row.selections:
            if (before.plan, before.method) == (plan, player.name):
                tally.compared += 1
                tally.same += (before.index, before.text) == (index, text)


def replay_scores(
    found: Replay, metrics: Sequence[str] | None, config: Config, bootstrap: Bootstrap
) -> Iterator[ReplayScore]:
    """The comparison; nothing where no answer can be scored."""
    quality = found.quality.finish()
    parts = {ALL: quality}
    if (share := config.replay.split) is not None:
        development, held_out = split_clusters(quality, share, config.seed)
        parts = {DEVELOPMENT: quality.keep(development), HELD_OUT: quality.keep(held_out)}
    for part, tasks in parts.items():
        for name, task in tasks.tasks.items():
            known = dict.fromkeys(metric for metric, _ in task.systems)
            main = task_named(name, config.tasks).metrics()[:1]
            wanted = [*main, WIN] if metrics is None else metrics
            for metric in wanted:
                if metric in known:
                    yield from _rows(task, metric, part, found, bootstrap, config)


def best_on_development(
    result: Iterable[ReplayScore], oracles: Collection[str]
) -> Iterator[tuple[ReplayScore, ReplayScore]]:
    """Per task and metric the line with the largest gain on the development clusters, and on the held-out ones.

    Args:
        oracles: selectors that know the reference.
    """
    lines: dict[tuple[str, str], dict[str, list[ReplayScore]]] = defaultdict(lambda: defaultdict(list))
    for row in result:
        if row.n is not None and row.difference is not None and row.selector not in oracles:
            lines[row.task, row.metric][row.part].append(row)
    for parts in lines.values():
        if parts[DEVELOPMENT]:
            best = max(parts[DEVELOPMENT], key=lambda row: (row.difference or 0.0, -(row.n or 0)))
            key = (best.plan, best.selector, best.n)
            yield from ((best, row) for row in parts[HELD_OUT] if (row.plan, row.selector, row.n) == key)


def _rows(
    task: TaskQuality, metric: str, part: str, found: Replay, bootstrap: Bootstrap, config: Config
) -> Iterator[ReplayScore]:
    values = {system: v for (name, system), v in task.systems.items() if name == metric and not np.isnan(v).all()}
    systems = sorted(values)
    bases = {s: f"{s.rpartition('/')[0]}/{BASE}" for s in systems}
    levels = [quantity(task, values[s]) for s in systems]
    means = estimate(task, levels, bootstrap, 0.0, 1.0, simultaneous_intervals, POOLED)
    paired = [s for s in systems if bases[s] in values and bases[s] != s]
    gaps = [quantity(task, values[s] - values[bases[s]]) for s in paired]
    against = dict(zip(paired, estimate(task, gaps, bootstrap, -1.0, 1.0, simultaneous_intervals, POOLED), strict=True))
    split = "none" if config.replay.split is None else f"{config.replay.split:g},cluster,seed:{config.seed}"
    for system, found_mean in zip(systems, means, strict=True):
        plan, _, name = system.rpartition("/")
        selector, _, number = name.partition(_AT)
        mean, gap = found_mean[POOLED], against.get(system, {}).get(POOLED)
        tally = found.tallies.get((plan, selector, int(number)), Tally()) if number else Tally()
        per = max(tally.prompts, 1)
        choices = {"metric": metric, "task": task.task, "base": bases[system], "part": part, "split": split}
        together = f"simultaneous:{len(paired) if gap else len(systems)}"
        yield ReplayScore(
            plan=plan,
            selector=selector,
            n=int(number) if number else None,
            task=task.task,
            metric=metric,
            part=part,
            n_prompts=int((~np.isnan(values[system])).sum()),
            **numbers(mean, "mean", "", "ci_low", "ci_high"),
            **numbers(gap, "difference", "", "difference_low", "difference_high"),
            sampling_tokens=tally.sampling / per if number else None,
            selector_tokens=tally.selecting / per if number else None,
            agreement=tally.same / tally.compared if tally.compared else None,
            signature=signature("replay", choices, bootstrap, (gap or mean).method, together),
        )
