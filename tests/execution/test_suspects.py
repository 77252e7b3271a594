"""Who is blamed for a worker's death, and how rows are let in afterwards. No Ray."""

from __future__ import annotations

import asyncio
import json
import math

import pytest

from pipeline.core.errors import WorkerLost
from pipeline.execution.gate import UNLIMITED, Gate
from pipeline.execution.suspects import Suspects

STAGE = "generate:hedged"


def book(**options: int) -> Suspects:
    made = Suspects([STAGE], options.get("attempts", 2), options.get("max_restarts", 30))
    made.start("w", "p0", "n")
    made.ready("w")
    return made


def crash(found: Suspects, **options: bool) -> None:
    found.start("w", "next", "n", **options)
    found.ready("w")


def test_only_rows_in_flight_on_the_dead_worker_are_suspects() -> None:
    found = book()
    found.start("other", "q", "n")
    found.ready("other")
    found.begin("w", range(100))
    found.begin("other", [500, 501])
    found.end("w", range(64))
    crash(found)
    assert sorted(found.rows) == list(range(64, 100))
    assert {known.width for known in found.rows.values()} == {math.isqrt(36)}


def test_a_poison_row_is_alone_after_two_deaths_and_set_aside_after_two_more() -> None:
    found = book()
    found.begin("w", range(10))
    crash(found)
    for row in range(3):
        found.begin("w", [row], known=True)
    found.end("w", [0])
    crash(found)
    assert 0 not in found.rows
    assert {row: (k.deaths, k.width) for row, k in found.rows.items() if k.deaths > 1} == {1: (2, 1), 2: (2, 1)}
    for _ in range(2):
        assert found.poisoned == 0
        found.begin("w", [1], known=True)
        found.enter("w", 1, STAGE)
        found.last_words("w", "it hurts")
        crash(found)
    assert found.poisoned == 1
    assert (found.rows[1].alone, found.rows[1].words) == ({STAGE: 2}, "it hurts")
    found.end("w", [1, 2])
    assert 1 in found.rows  # a set-aside row stays so
    assert 2 not in found.rows
    assert found.restarts == 4


def test_a_lost_node_and_a_lost_driver_blame_nobody() -> None:
    found = book()
    found.begin("w", [1, 2])
    crash(found, node_lost=True)
    assert (found.rows, found.restarts) == ({}, 1)
    found.begin("w", [3])
    crash(found)
    found.begin("w", [4, 5])
    later = Suspects([STAGE], 2, 30, json.loads(json.dumps(found.to_json())))  # the driver dies here
    assert (list(later.rows), later.rows[3].alone, later.restarts) == ([3], {STAGE: 1}, 2)


def test_a_row_that_is_new_to_a_worker_does_not_begin_unseen() -> None:
    found = book()
    found.begin("w", [7])
    crash(found)
    assert list(found.begin("w", [6, 7, 8])) == [7]
    assert found.in_flight == 0
    assert found.begin("w", [7], known=True) == {}
    assert found.in_flight == 1


def test_restarts_without_a_finished_row_between_are_bounded() -> None:
    found = book(max_restarts=5)
    for row in range(4):
        found.begin("w", [row])
        crash(found)
    found.begin("w", [90])
    found.end("w", [90])  # progress
    for row in range(4):
        found.begin("w", [row], known=True)
        crash(found)
    found.begin("w", [0], known=True)
    found.end("w", [0])  # set aside by now, and no progress
    found.begin("w", [91])
    with pytest.raises(WorkerLost, match=r"5 times in a row without finishing a row.*execution.max_restarts=5"):
        crash(found)


def test_an_engine_that_dies_while_loading_is_not_loaded_for_ever() -> None:
    found = Suspects([STAGE], 2, 30)
    for process in ("p0", "p1", "p2"):
        found.start("w", process, "n")
    with pytest.raises(WorkerLost, match="died 3 times while its engine was loading"):
        found.start("w", "p3", "n")


def test_the_gate_lets_the_narrowest_in_first_and_never_too_many() -> None:
    gate = Gate()
    inside: list[int] = []
    order: list[int] = []

    async def run(width: int, rows: int = 1) -> None:
        async with gate.enter(width, rows):
            inside.extend([width] * rows)
            order.append(width)
            assert len(inside) <= min(inside)
            await asyncio.sleep(0.001)
            for _ in range(rows):
                inside.remove(width)

    async def everything() -> None:
        calls = [(UNLIMITED, 50), (UNLIMITED, 20), (4, 1), (4, 1), (4, 1), (4, 1), (4, 1), (1, 1), (1, 1)]
        await asyncio.wait_for(asyncio.gather(*(run(*call) for call in calls)), timeout=5)

    asyncio.run(everything())
    assert order == [UNLIMITED, UNLIMITED, 1, 1, 4, 4, 4, 4, 4]
