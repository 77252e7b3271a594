"""A pass: Ray carries numbers of shards to an engine pool, whose workers read and write the shards themselves.

``from_items(numbers).map_batches(Worker)``: several pools side by side are several ``map_batches`` in one plan. A shard
whose file is there is done, so the same command resumes an interrupted pass, and a task that Ray repeats does nothing
twice.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Sequence
from typing import Any

import ray
import ray.data
from ray.data import DataContext

from pipeline.config.sections import ExecutionConfig
from pipeline.core.errors import STORAGE_ERRORS, LemonpressError, StorageError, UnreadableJudge
from pipeline.core.folder import RunFolder
from pipeline.core.layers import LAYER
from pipeline.core.reading import shards_in
from pipeline.engines.base import PriceConfig
from pipeline.execution.control import Control, Ledger
from pipeline.execution.observe import Histogram
from pipeline.execution.pool import Outcome, Pool
from pipeline.execution.spec import LayerSpec, PassSpec
from pipeline.execution.watch import Watch
from pipeline.judging.verdicts import FIRST

logger = logging.getLogger(__name__)

STATE = "_state.json"
"""What the attempts at a layer have taken so far, until its table is finished."""


def run_passes(specs: Sequence[PassSpec], run: RunFolder, config: ExecutionConfig, control: Control) -> None:
    """Run a pass, or several whose pools work side by side, or go on with them.

    Args:
        specs: a shard goes through them in order.
        run: the run's folder.
        config: progress, and how to deal with faults.
        control: what may stop it before its end.

    Raises:
        LimitReached, Interrupted: stopped; what is done is stored.
        StorageError: the run's storage is full or read-only.
        UnreadableJudge: most of the first verdicts cannot be read.
        LemonpressError: rows were lost, or Ray failed for good.
    """
    control.check()
    shards = sorted({number for spec in specs for number in spec.shards})
    layers = [spec for each in specs for spec in each.specs]
    fresh = [spec for spec in layers if not shards_in(run, spec.layer.table, spec.layer.name)]
    for spec in layers:
        run.make(spec.layer.table, spec.layer.name)
        if not run.exists(spec.layer.table, spec.layer.name, LAYER):
            run.write_json(spec.layer.as_json(), spec.layer.table, spec.layer.name, LAYER)
    started = time.monotonic()
    outcomes: list[Outcome] = []
    try:
        outcomes = _execute(specs, run, config, control, shards)
    except UnreadableJudge:
        _forget_first_verdicts(specs, fresh, run)
        raise
    finally:
        for i, each in enumerate(specs):
            _note(each, specs, run, time.monotonic() - started, outcomes[i] if outcomes else None)
    for spec in layers:
        if lost := spec.shards - set(shards_in(run, spec.layer.table, spec.layer.name)):
            raise LemonpressError(f"{spec.place}: {len(lost)} shards are missing; run the same command again")
    for each in specs:
        run.remove("work", each.name)


def _forget_first_verdicts(specs: Sequence[PassSpec], fresh: Sequence[LayerSpec], run: RunFolder) -> None:
    """Where all that a stopped pass has stored are its workers' first rows, their verdicts are asked for again, by
    another judge if need be.
    """
    most = FIRST * sum(spec.engine.pool.most() for spec in specs if spec.engine)
    for spec in fresh:
        there = shards_in(run, spec.layer.table, spec.layer.name)
        judged = any(getattr(stage, "early", None) is not None for stage in spec.stages)
        if judged and sum(specs[0].sizes[number] for number in there) <= most:
            run.remove(spec.layer.table, spec.layer.name)


def _note(spec: PassSpec, beside: Sequence[PassSpec], run: RunFolder, seconds: float, outcome: Outcome | None) -> None:
    """Keep what an attempt has taken beside its layers; the time is told by the first one with an engine."""
    teller = next((i for i, layer in enumerate(spec.specs) if layer.engine_name), 0)
    for i, layer in enumerate(spec.specs):
        place = (layer.layer.table, layer.layer.name, STATE)
        if not run.exists(*place[:2]):
            continue
        state: dict[str, Any] = run.read_json(*place) or {"attempts": 0, "seconds": 0.0, "latencies": None}
        state["attempts"] += 1
        state["resumed"] = sum(spec.sizes) - sum(spec.sizes[n] for n in layer.shards) if layer.rows is None else 0
        state["shared"] = "" if i == teller else spec.name
        state["beside"] = "+".join(each.name for each in beside) if len(beside) > 1 else ""
        if i == teller:
            state["seconds"] = round(state["seconds"] + seconds, 3)
        if i == teller and outcome is not None:
            counts, faults = outcome.counts, outcome.faults
            latency = Histogram.from_json(state["latencies"])
            latency.merge(counts.latency)
            state["latencies"] = latency.to_json()
            state |= {"mean_in_flight": round(counts.mean_in_flight, 2), "busy_seconds": round(counts.busy_seconds, 3)}
            state |= {"span_seconds": round(counts.span_seconds, 3), "workers": len(counts.workers)}
            state |= {"load": counts.load, "restarts": faults.restarts, "poisoned": faults.poisoned}
        run.write_json(state, *place)


def _execute(
    specs: Sequence[PassSpec], run: RunFolder, config: ExecutionConfig, control: Control, shards: list[int]
) -> list[Outcome]:
    """Build the Ray Data plan and run it to its end."""
    ledger = Ledger(run, {spec.name: _price(spec) for spec in specs})
    control.check_spent(*ledger.total())
    control.check()
    pools = [Pool(spec, run, config, shards, alone=len(specs) == 1) for spec in specs]
    watch = Watch(control, pools, ledger, config)
    context = DataContext.get_current()
    saved, context.enable_progress_bars = context.enable_progress_bars, False
    watch.start()
    complete = False
    try:
        control.begin_pass()
        data = _numbers(shards, max(pool.tasks for pool in pools))
        for pool in pools:
            data = pool.onto(data)
        data.materialize()
        complete = True
        faults = [pool.faults() for pool in pools]
    except (ray.exceptions.RayError, OSError) as error:
        control.check()  # a pass that is told to stop ends with an error; the reason says more
        for pool in pools:
            pool.check_stopped()
        raise _failure(specs[0], run, error) from error
    finally:
        control.draining = False
        watch.finish()
        counts = [pool.finish(complete) for pool in pools]
        context.enable_progress_bars = saved
    return [Outcome(*each) for each in zip(counts, faults, strict=True)]


def _numbers(shards: Sequence[int], tasks: int) -> ray.data.Dataset:
    return ray.data.from_items([{"shard": number} for number in shards], override_num_blocks=tasks)


def _price(spec: PassSpec) -> tuple[PriceConfig, int]:
    """Price of the pass's engine, and actors that are paid by the hour."""
    return (spec.engine.price, spec.engine.pool.most()) if spec.engine else (PriceConfig(), 1)


def _failure(spec: PassSpec, run: RunFolder, error: Exception) -> LemonpressError:
    """What a person can act on, from Ray's error."""
    again = "run the same command again to resume"
    cause = error.cause if isinstance(error, ray.exceptions.RayTaskError) else error
    if isinstance(cause, OSError) and cause.errno in STORAGE_ERRORS:
        return StorageError(f"pass {spec.name}: cannot write to {run.root}: {cause.strerror or cause}; {again}")
    return LemonpressError(f"pass {spec.name}: {_cause(error)}; {again}")


def _cause(error: BaseException) -> str:
    """One line that says what went wrong inside a Ray worker: the last exception named in Ray's message."""
    named = re.findall(r"^[\w.]*(?:Error|Exception|Exit)\b: .+$", str(error), flags=re.MULTILINE)
    return named[-1].strip() if named else f"{type(error).__name__}: {error}"
