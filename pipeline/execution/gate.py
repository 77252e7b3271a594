"""Admission to an engine: suspects before everybody else, among few others or alone; others when it needs them."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import sys
from collections import Counter, deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from pipeline.engines.meter import InFlight

_LOOK_SECONDS = 0.25
_LINE = 8  # slices that stand ready
UNLIMITED = sys.maxsize
"""Width of rows that are under no suspicion."""


class Gate:
    """Lets rows in as long as everybody inside tolerates the number of rows beside them.

    The narrowest go first: what may kill the engine does so before others have spent anything, and a row that waits
    for an empty engine cannot be overtaken for ever. All calls come from one event loop.
    """

    def __init__(self) -> None:
        self._inside: Counter[int] = Counter()  # width -> rows
        self._waiting: list[tuple[int, int, int, asyncio.Future[None]]] = []
        self._tickets = itertools.count()

    @asynccontextmanager
    async def enter(self, width: int, rows: int = 1) -> AsyncIterator[None]:
        """Wait until ``rows`` more rows fit, and hold their places for the block.

        Args:
            width: rows that may be inside at once, these included; :data:`UNLIMITED`, or at least 1 with one row.
            rows: how many enter together.
        """
        if self._waiting or not self._fits(width, rows):
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            heapq.heappush(self._waiting, (width, next(self._tickets), rows, turn))
            self._admit()
            await turn
        else:
            self._inside[width] += rows
        try:
            yield
        finally:
            self._inside[width] -= rows
            self._inside += Counter()  # drops widths that nobody has any more
            self._admit()

    def _fits(self, width: int, rows: int) -> bool:
        return self._inside.total() + rows <= min([width, *self._inside])

    def _admit(self) -> None:
        while self._waiting and self._fits(self._waiting[0][0], self._waiting[0][2]):
            width, _, rows, turn = heapq.heappop(self._waiting)
            self._inside[width] += rows
            turn.set_result(None)


class Intake:
    """Lets slices of shards begin only when the engine is about to run out of work, first come, first served.

    A shard stays open until its slowest row has ended. Where lengths are unequal, shards whose sequences would fill the
    engine by number leave it half empty most of the time; so more are at hand, but their rows begin only when they are
    needed: what has begun takes memory, must be finished when a pass is told to stop, and is suspect when the
    worker dies.

    Args:
        in_flight: the engine's sequences.
        limit: of those; with fewer, a further slice begins.
    """

    def __init__(self, in_flight: InFlight, limit: float) -> None:
        self._in_flight = in_flight
        self._limit = limit
        self._waiting: deque[tuple[Sequence[int], asyncio.Future[None]]] = deque()
        self._fresh: set[int] = set()  # rows of a slice that has begun, which have asked the engine for nothing yet
        self._shorter = asyncio.Event()
        in_flight.on_end = self._look

    async def near(self) -> None:
        """Wait until few slices stand in line: then there is something to do for whoever makes further ones."""
        while len(self._waiting) >= _LINE:
            self._shorter.clear()
            await self._shorter.wait()

    async def enter(self, rows: Sequence[int]) -> None:
        """Wait for a slice's turn.

        Args:
            rows: ids of its rows; :meth:`arrived` is to be called for each.
        """
        if not self._waiting and self._has_room():
            self._fresh.update(rows)
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((rows, turn))
        await turn

    def arrived(self, row: int) -> None:
        """A row asks the engine for something, or has ended; may be called more than once."""
        self._fresh.discard(row)
        self._look()

    async def follow(self) -> None:
        """Look for room also while no request ends: of many candidates, the last may run long after the others."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            self._look()

    def _look(self) -> None:
        if self._waiting and self._has_room():
            rows, turn = self._waiting.popleft()
            self._shorter.set()
            self._fresh.update(rows)
            turn.set_result(None)

    def _has_room(self) -> bool:
        """One slice after the other: how much the engine has to do shows when all its rows have asked."""
        return not self._fresh and (not self._in_flight.asked or self._in_flight.now() < self._limit)


__all__ = ["UNLIMITED", "Gate", "Intake"]
