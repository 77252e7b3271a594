"""Admission of rows to an engine: a limited number, first come, first served; suspects among few others, or alone."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import sys
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

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


class Room:
    """Rows that are worked on at once: whoever comes first goes first, so that the oldest block is finished first.

    All calls come from one event loop.

    Args:
        rows: how many. The last group to enter may exceed it, so that the room is never half empty for its sake.
    """

    def __init__(self, rows: int) -> None:
        self._free = rows
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def enter(self, rows: int) -> None:
        """Wait until there is room, and take ``rows`` places; each is given back by :meth:`leave`."""
        if self._waiting or self._free <= 0:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append((rows, turn))
            await turn
        else:
            self._free -= rows

    def leave(self) -> None:
        """One row is done."""
        self._free += 1
        while self._waiting and self._free > 0:
            rows, turn = self._waiting.popleft()
            self._free -= rows
            turn.set_result(None)


__all__ = ["UNLIMITED", "Gate", "Room"]
