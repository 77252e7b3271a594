"""An engine on an event loop of its own, as the worker hosts it, and vLLM's own server before such an engine."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from pipeline.core.remote import model_path
from pipeline.engines.base import Engine, EngineConfig

T = TypeVar("T")


class Runner:
    """An engine that runs as long as the block; called with a coroutine it returns its result."""

    def __init__(self, config: EngineConfig) -> None:
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        self.engine: Engine = config.create()

    def __enter__(self) -> Runner:
        self(self.engine.start())
        return self

    def __exit__(self, *_: object) -> None:
        self(self.engine.stop())
        self.loop.call_soon_threadsafe(self.loop.stop)

    def __call__(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(timeout=600)


@contextmanager
def served(runner: Runner, name: str) -> Iterator[str]:
    """Base URL of the server of the installed vLLM (its routes, its parsing, its answers) before a running engine."""
    import uvicorn
    from vllm.entrypoints.launchers.api_server.app_state import init_app_state
    from vllm.entrypoints.launchers.app import build_app
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    llm: Any = runner.engine._llm  # type: ignore[attr-defined]
    words = ["--model", model_path(runner.engine.model), "--served-model-name", name]
    words += ["--generation-config", "vllm", "--enable-prompt-tokens-details"]
    args = make_arg_parser(FlexibleArgumentParser()).parse_args(words)

    async def prepare() -> uvicorn.Server:
        tasks = await llm.get_supported_tasks()
        app = build_app(args, tasks, llm.model_config)
        await init_app_state(llm, app.state, args, tasks)
        return uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning"))

    server = runner(prepare())
    serving = asyncio.run_coroutine_threadsafe(server.serve(), runner.loop)
    while not server.started:
        assert not serving.done(), serving.result()
        time.sleep(0.05)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/v1"
    server.should_exit = True
    serving.result(timeout=60)
