"""How full engines are: the record of it, and the admission of blocks that keeps them so."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.bounds import check_values
from pipeline.core.errors import ConfigError
from pipeline.engines.base import Engine, SamplingParams
from pipeline.engines.dummy import DummyEngine, DummyEngineConfig
from pipeline.engines.meter import InFlight, Meter
from pipeline.execution import gate
from pipeline.execution.gate import Intake
from pipeline.execution.load import Sample, Timeline
from pipeline.sampling.plans import SingleTemperature
from pipeline.sampling.stage import GenerateStage
from tests.conftest import run_with_prompts
from tests.execution.test_worker import made, shards, worker_of

START = 1_700_000_000.0


def timeline(values: list[int], seconds: float = 0.5, capacity: int = 4) -> dict[str, Any]:
    found = Timeline()
    for i, value in enumerate(values):
        found.add(Sample(START + i * seconds, seconds, value, capacity))
    return found.to_json()


def test_idle_time_counts_between_work_and_not_around_it() -> None:
    found = timeline([0, 0, 4, 9, 0, 2, 0, 0])
    assert found == {
        "full": 0.5,
        "capacity": 4,
        "width": 0.5,
        "mean": [4.0, 4.0, 0.0, 2.0],
        "low": [4, 4, 0, 2],
        "high": [4, 4, 0, 2],
    }
    assert timeline([0, 0]) == {} == Timeline().to_json()


def test_an_engine_that_waits_while_another_one_works_is_not_full() -> None:
    found = Timeline()
    for i in range(10):
        found.add(Sample(START + i / 2, 0.5, 4, 4))
        found.add(Sample(START + i / 2, 0.5, 0, 4))
    told = found.to_json()
    assert told["full"] == pytest.approx(0.5, abs=0.03)  # the last idle sample is not known to lie within the work
    assert told["mean"][3] == 2.0 and (told["low"][3], told["high"][3]) == (0, 4)


@given(st.lists(st.integers(0, 8), min_size=1, max_size=60), st.sampled_from([1, 7, 40]))
def test_the_record_is_bounded_and_widening_loses_nothing(values: list[int], times: int) -> None:
    values = [1, *values * times, 1]
    found = timeline(values)
    assert len(found["mean"]) == len(found["low"]) == len(found["high"]) <= 240
    assert found["width"] * 240 >= len(values) * 0.5 > (found["width"] / 2 - 0.5) * 120
    assert found["full"] == pytest.approx(sum(v >= 4 for v in values) / len(values), abs=1e-4)
    assert max(found["high"]) == min(4, max(values))


def test_a_meter_counts_what_is_in_flight_unless_the_engine_knows() -> None:
    class Deaf(Engine):
        model, revision, capabilities, verdict_tokens = "m", None, frozenset[str](), 32

        def __init__(self) -> None: ...

        async def generate(self, prompt: Any, params: SamplingParams) -> Any:
            seen.append(flight.now())
            raise RuntimeError

    seen: list[int] = []
    engine: Any = Deaf()
    flight = InFlight(engine)
    with pytest.raises(RuntimeError):
        asyncio.run(Meter(engine, flight).generate("x", SamplingParams(n=5)))
    assert (seen, flight.now()) == ([5], 0)
    knows = InFlight(DummyEngine(DummyEngineConfig()))
    knows.asked = 7
    assert knows.now() == 0


def test_slots_bound_what_the_dummy_works_on_and_its_tail_keeps_the_mean() -> None:
    engine = DummyEngine(DummyEngineConfig(latency=0.02, slots=4))

    async def ask() -> float:
        started = time.monotonic()
        await asyncio.gather(*(engine.generate(f"p{i}", SamplingParams(n=8)) for i in range(4)))
        return time.monotonic() - started

    assert asyncio.run(ask()) > 0.6 * 32 * 0.02 / 4
    heavy = DummyEngine(DummyEngineConfig(latency=0.02, tail=1.0))
    rng = random.Random(1)
    drawn = [heavy._latency(rng) for _ in range(20_000)]
    assert sum(drawn) / len(drawn) == pytest.approx(0.02, rel=0.1) and max(drawn) > 0.2
    for wrong in ({"slots": 0}, {"tail": -1.0}):
        with pytest.raises(ConfigError):
            check_values(DummyEngineConfig(**wrong), "engines.x")  # type: ignore[arg-type]


def test_slices_begin_one_by_one_until_the_engine_has_enough() -> None:
    class Count:
        asked, at_engine = 0, 0

        def now(self) -> int:
            return self.at_engine

        def on_end(self) -> None: ...

    async def play() -> list[list[str]]:
        flight: Any = Count()
        intake = Intake(flight, limit=6)
        begun: list[str] = []
        states = []

        async def block(name: str, rows: list[int]) -> None:
            await intake.enter(rows)
            begun.append(name)

        tasks = [asyncio.create_task(block(name, rows)) for name, rows in (("a", [1, 2]), ("b", [3, 4]), ("c", [5]))]
        for step in ("", "first row asks", "second row asks", "row 3 asks", "row 4 ends", "others end"):
            match step:
                case "first row asks" | "second row asks":
                    flight.asked = flight.at_engine = flight.at_engine + 3
                    intake.arrived(1 if step.startswith("first") else 2)
                case "row 3 asks":
                    flight.asked = flight.at_engine = 5
                    flight.on_end()
                    await asyncio.sleep(0)
                    flight.at_engine = 8
                    intake.arrived(3)
                case "row 4 ends":
                    intake.arrived(4)
                case "others end":  # the engine has not noticed yet: nothing is asked any more, so something may begin
                    flight.asked = 0
                    flight.on_end()
            await asyncio.sleep(0.01)
            states.append(list(begun))
        await asyncio.gather(*tasks)
        return states

    assert asyncio.run(play()) == [["a"], ["a"], ["a"], ["a", "b"], ["a", "b"], ["a", "b", "c"]]


def test_slices_also_begin_while_no_request_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last candidate of a request may run long after the others; a worker looks for that."""

    class Count:
        asked, left = 64, 64

        def now(self) -> int:
            return self.left

    async def play() -> bool:
        flight: Any = Count()
        intake = Intake(flight, limit=6)
        waits = asyncio.create_task(intake.enter([1]))
        follows = asyncio.create_task(intake.follow())
        await asyncio.sleep(0.01)
        assert not waits.done()
        flight.left = 1
        await asyncio.wait_for(waits, 10)
        return follows.cancel()

    monkeypatch.setattr(gate, "_LOOK_SECONDS", 0.01)
    assert asyncio.run(play())

    started = threading.Event()

    async def follow(_: Intake) -> None:
        started.set()

    monkeypatch.setattr(Intake, "follow", follow)
    worker_of(run_with_prompts(tmp_path, 4), GenerateStage("single", SingleTemperature(n=1), 1), DummyEngineConfig())
    assert started.wait(10)


def test_a_worker_keeps_its_engine_full_with_few_rows_begun(tmp_path: Path) -> None:
    slots, k = 8, 4
    run = run_with_prompts(tmp_path, 96, shard_rows=k)
    engine = DummyEngineConfig(latency=0.04, tail=0.8, slots=slots)
    worker = worker_of(run, GenerateStage("single", SingleTemperature(n=4, max_tokens=4), 1), engine)
    samples: list[tuple[int, int]] = []
    done: list[int] = []
    thread = threading.Thread(target=lambda: done.extend(worker(shards(*range(24))).column("rows").to_pylist()))
    thread.start()
    assert worker._in_flight is not None
    while thread.is_alive():
        if len(made(run)) < 48:  # the last shards cannot keep it full
            samples.append((worker._in_flight.now(), worker._reporter._in_flight))
        time.sleep(0.005)
    assert sum(done) == 96
    busy = [sequences for sequences, _ in samples if sequences]
    assert sum(s >= slots for s in busy) / len(busy) > 0.8
    assert max(rows for _, rows in samples) < 16 * k / 2  # all of them would have begun at once


def test_rows_that_ask_nothing_hold_up_nobody(tmp_path: Path) -> None:
    run = run_with_prompts(tmp_path, 12, shard_rows=2)
    stage = GenerateStage("single", SingleTemperature(n=2, max_tokens=4, only_languages=["xx"]), 1)
    worker = worker_of(run, stage, DummyEngineConfig(latency=0.05, slots=1))
    assert worker(shards(*range(6))).column("rows").to_pylist() == [2] * 6


def test_a_panel_bridges_bins_without_samples_and_escapes() -> None:
    from pipeline.report.plots import load_panel
    from pipeline.stats.costs import Load

    drawn = str(load_panel(Load(0.25, 8, 30.0, [8.0, None, 2.0], [8, None, 0], [8, None, 4]), "<b>", "x"))
    assert "<b>" not in drawn and "time (s)" in drawn
    line = drawn.split('<polyline points="')[1].split('"')[0].split()
    assert [p.split(",")[1] for p in line] == ["16.0", "16.0", "91.0", "91.0"]
    long = load_panel(Load(1.0, 8, 512.0, [1.0] * 200, [1] * 200, [1] * 200), "p", "x")
    assert "time (h)" in long and "full (8) 100% of the time" in long
