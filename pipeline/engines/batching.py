"""Gathers the requests of many rows into batches for a model that is one blocking function."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, TypeVar

from pipeline.core.errors import EngineDead, EngineRequestError

Q = TypeVar("Q")
R = TypeVar("R")
T = TypeVar("T")


class Batcher(Generic[Q, R]):
    """One thread owns the model, so the event loop never waits; what waits is gathered, one batch at a time.

    Args:
        name: the engine's, for messages.
        size: requests a batch.
        work: the blocking call: a batch -> for every request its result or its own error, in order. What it raises
            ends the engine: everyone who waits, now or later, gets :class:`EngineDead`.
    """

    def __init__(self, name: str, size: int, work: Callable[[list[Q]], Sequence[R | EngineRequestError]]) -> None:
        self._name = name
        self._size = size
        self._work = work
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._queue: asyncio.Queue[tuple[Q, asyncio.Future[R]]] = asyncio.Queue()
        self._server: asyncio.Task[None] | None = None
        self._dead: EngineDead | None = None

    async def call(self, function: Callable[..., T], *args: Any) -> T:
        """Run a function in the model's thread, after the batch that is there now."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *args)

    def start(self) -> None:
        """Begin to serve; the model is loaded."""
        self._server = asyncio.create_task(self._serve())

    async def stop(self) -> None:
        """End the thread; requests that wait get :class:`EngineDead`."""
        if self._server is not None:
            self._server.cancel()
            await asyncio.wait([self._server])
        await asyncio.to_thread(self._thread.shutdown)

    async def ask(self, request: Q) -> R:
        """The result of one request.

        Raises:
            EngineRequestError: this request failed.
            EngineDead: the model is gone.
        """
        if self._dead is not None:
            raise self._dead
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait((request, future))
        return await future

    async def _serve(self) -> None:
        batch: list[tuple[Q, asyncio.Future[R]]] = []
        try:
            while True:
                batch = [await self._queue.get()]
                while len(batch) < self._size and not self._queue.empty():
                    batch.append(self._queue.get_nowait())
                results = await self.call(self._work, [request for request, _ in batch])
                for (_, future), result in zip(batch, results, strict=True):
                    if future.done():  # its caller gave up
                        continue
                    if isinstance(result, EngineRequestError):
                        future.set_exception(result)
                    else:
                        future.set_result(result)
        except BaseException as error:  # a broken device, or stop(): either way nobody may wait for ever
            self._dead = EngineDead(f"the {self._name} engine ended: {error!r}")
            while not self._queue.empty():
                batch.append(self._queue.get_nowait())
            for _, future in batch:
                if not future.done():
                    future.set_exception(self._dead)
