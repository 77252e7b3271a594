"""Selectors side by side on the same candidates: mean quality, and the paired difference to single-sample decoding."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from pipeline.config.config import Config
from pipeline.core.row import Row
from pipeline.jobs.replay.players import Player, choose, sizes
from pipeline.jobs.replay.table import Pools
from pipeline.stats.clusters import Bootstrap
from pipeline.stats.facts import set_facts
from pipeline.stats.games import UNDETERMINED
from pipeline.stats.grouped import estimate
from pipeline.stats.intervals import simultaneous_intervals
from pipeline.stats.pools import Builder, Quality, TaskQuality, split_clusters
from pipeline.stats.quality import sample_of
from pipeline.stats.signature import signature
from pipeline.tasks import task_for, task_named
from pipeline.tasks.measure import ANSWER, METRIC, WIN

SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("plan", "selector")),
        ("n", pa.int64()),
        *((name, pa.string()) for name in ("task", "metric", "part")),
        ("n_prompts", pa.int64()),
        *((name, pa.float64()) for name in ("mean", "ci_low", "ci_high")),
        *((name, pa.float64()) for name in ("difference", "difference_low", "difference_high")),
        *((name, pa.float64()) for name in ("sampling_tokens", "selector_tokens", "agreement")),
        ("signature", pa.string()),
    ]
)
"""One line per set, selector, number of candidates, task, metric and part; rates in 0..1, tokens per prompt.

``part``: ``all``, or with ``replay.split`` the ``development`` and the ``held_out`` clusters. The intervals of a task,
metric and part hold together: ``ci_low`` to ``ci_high`` those of all means, ``difference_low`` to ``difference_high``
those of all differences.
``sampling_tokens``: generated tokens of the first n candidates. ``selector_tokens``: what the selector's engine read
and wrote when the run was made, for whole sets; in proportion for the first n; 0 for selectors on the CPU.
``agreement``: share of the prompts on which the choice in the whole set is the run's own; null for new selectors.
"""

T = TypeVar("T")

BASE = "sample"
ALL, DEVELOPMENT, HELD_OUT = "all", "development", "held_out"
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
        builders: task -> its rows, for the statistics.
        tallies: (plan, selector, n) -> counts.
        largest: plan -> the size of its largest set.
    """

    builders: dict[str, Builder] = field(default_factory=lambda: defaultdict(Builder))
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
    found = Replay(defaultdict(partial(Builder, set_facts(config))))
    for pools in table:
        row = pools.row
        selections: list[tuple[str, str, int | None, int | None]] = []
        scores = [(s.scorer, s.plan, s.values) for s in row.scores]
        plans = dict.fromkeys(plan for player in chosen for plan in player.plans)
        present = sizes(row, list(plans))
        for plan, size in present.items():
            found.largest[plan] = max(found.largest[plan], size)
            base = next((i for i, c in enumerate(row.plan(plan)) if c.text is not None and c.origin != "greedy"), None)
            chars = None if base is None else len(row.plan(plan)[base].text or "")
            selections.append((plan, BASE, base, chars))
        for player in chosen:
            for plan in filter(present.__contains__, player.plans):
                for n in sorted({*(n for n in ns if n < present[plan]), present[plan]}):
                    index, text = await choose(player, pools, plan, n, config)
                    if index is None and n < present[plan]:
                        continue  # the first n hold none that it may choose: too few for it, not a bad answer
                    name = f"{player.name}{_AT}{n}"
                    selections.append((plan, name, index, None if text is None else len(text)))
                    if index == -1 and text is not None:
                        scores += _measured(row, text, f"{ANSWER}{plan}/{name}", config)
                    _count(found.tallies[plan, player.name, n], player, row, plan, n, index, text)
        found.builders[row.task].add(
            {
                "cluster": row.cluster_id or row.prompt_id,
                "language": row.language or UNDETERMINED,
                "candidates": [(c.plan, c.origin, c.temperature, c.min_p, c.error) for c in row.candidates],
                "scores": scores,
                "selections": selections,
                "answers": [],
                "games": [(g.system, g.opponent, g.judge, g.template, g.order, g.score) for g in row.games],
            }
        )
    return found


def _measured(row: Row, text: str, target: str, config: Config) -> Iterator[tuple[str, str, list[float | None]]]:
    """The metrics of a new text."""
    for metric, values in task_for(row, config.tasks).measure([text], row).items():
        yield METRIC + metric, target, values


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


def scores(found: Replay, metrics: Sequence[str] | None, config: Config, bootstrap: Bootstrap) -> pa.Table:
    """The comparison as a table.

    Returns:
        ``SCHEMA``; empty where no answer can be scored.
    """
    rows: list[dict[str, Any]] = []
    quality = Quality({name: builder.finish(name) for name, builder in sorted(found.builders.items())})
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
                    rows += _rows(task, metric, part, found, bootstrap, config)
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def best_on_development(result: pa.Table, oracles: Collection[str]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Per task and metric the line with the largest gain on the development clusters, and on the held-out ones.

    Args:
        oracles: selectors that know the reference.
    """
    lines: dict[tuple[str, str], dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for row in result.to_pylist():
        if row["n"] is not None and row["difference"] is not None and row["selector"] not in oracles:
            lines[row["task"], row["metric"]][row["part"]].append(row)
    for parts in lines.values():
        if parts[DEVELOPMENT]:
            best = max(parts[DEVELOPMENT], key=lambda row: (row["difference"], -row["n"]))
            mine = [row for row in parts[HELD_OUT] if all(row[k] == best[k] for k in ("plan", "selector", "n"))]
            yield from ((best, row) for row in mine)


def _rows(
    task: TaskQuality, metric: str, part: str, found: Replay, bootstrap: Bootstrap, config: Config
) -> Iterator[dict[str, Any]]:
    values = {system: v for (name, system), v in task.systems.items() if name == metric and not np.isnan(v).all()}
    systems = sorted(values)
    bases = {s: f"{s.rpartition('/')[0]}/{BASE}" for s in systems}
    samples = [sample_of(task, values[s]) for s in systems]
    means = estimate(task, samples, bootstrap, 0.0, 1.0, simultaneous_intervals, ALL)
    paired = [s for s in systems if bases[s] in values and bases[s] != s]
    gaps = [sample_of(task, values[s] - values[bases[s]]) for s in paired]
    against = dict(zip(paired, estimate(task, gaps, bootstrap, -1.0, 1.0, simultaneous_intervals, ALL), strict=True))
    split = "none" if config.replay.split is None else f"{config.replay.split:g},cluster,seed:{config.seed}"
    for system, found_mean in zip(systems, means, strict=True):
        plan, _, name = system.rpartition("/")
        selector, _, number = name.partition(_AT)
        mean, gap = found_mean[ALL], against.get(system, {}).get(ALL)
        tally = found.tallies.get((plan, selector, int(number)), Tally()) if number else Tally()
        per = max(tally.prompts, 1)
        choices = {"metric": metric, "task": task.task, "base": bases[system], "part": part, "split": split}
        together = f"simultaneous:{len(paired) if gap else len(systems)}"
        yield {
            "plan": plan,
            "selector": selector,
            "n": int(number) if number else None,
            "task": task.task,
            "metric": metric,
            "part": part,
            "n_prompts": int((values[system] == values[system]).sum()),
            "mean": mean.value,
            "ci_low": mean.low,
            "ci_high": mean.high,
            "difference": gap.value if gap else None,
            "difference_low": gap.low if gap else None,
            "difference_high": gap.high if gap else None,
            "sampling_tokens": tally.sampling / per if number else None,
            "selector_tokens": tally.selecting / per if number else None,
            "agreement": tally.same / tally.compared if tally.compared else None,
            "signature": signature("replay", choices, bootstrap, (gap or mean).method, together),
        }
