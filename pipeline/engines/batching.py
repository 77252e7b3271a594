"""Base of engines whose model is one blocking function: the requests of many rows are gathered into batches."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

from pipeline.core.errors import EngineDead, EngineRequestError
from pipeline.engines.base import Engine, EngineConfig, Scored

Q = TypeVar("Q")


class BatchedEngine(Engine, Generic[Q]):
    """One thread owns the model, so the event loop never waits; what waits is gathered, one batch at a time.

    Args:
        size: requests a batch.
    """

    def __init__(self, config: EngineConfig, size: int) -> None:
        super().__init__(config)
        self._name = config.kind
        self._size = size
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=self._name)
        self._queue: asyncio.Queue[tuple[Q, asyncio.Future[Scored]]] = asyncio.Queue()
        self._server: asyncio.Task[None] | None = None
        self._dead: EngineDead | None = None

    def _load(self) -> None:
        """Load the model, in its thread."""
        raise NotImplementedError

    def _score(self, requests: list[Q]) -> Sequence[Scored | EngineRequestError]:
        """For every request, in order, its result or its own error; in the model's thread.

        What it raises ends the engine: everyone who waits, now or later, gets :class:`EngineDead`.
        """
        raise NotImplementedError

    async def start(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._load)
        self._server = asyncio.create_task(self._serve())

    async def stop(self) -> None:
        if self._server is not None:
            self._server.cancel()
            await asyncio.wait([self._server])
        await asyncio.to_thread(self._thread.shutdown)

    async def _ask(self, request: Q) -> Scored:
        if self._dead is not None:
            raise self._dead
        future: asyncio.Future[Scored] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait((request, future))
        return await future

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        batch: list[tuple[Q, asyncio.Future[Scored]]] = []
        try:
            while True:
                batch = [await self._queue.get()]
                while len(batch) < self._size and not self._queue.empty():
                    batch.append(self._queue.get_nowait())
                results = await loop.run_in_executor(self._thread, self._score, [request for request, _ in batch])
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
