"""An endpoint with a script, for what talks to one: the engine of kind ``openai``, and judges behind it."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeVar

from pipeline.engines.base import Engine
from pipeline.engines.openai import OpenAIEngineConfig

T = TypeVar("T")
KEY = "sk-very-secret"
"""What the fixture ``endpoint`` sets as ``OPENAI_API_KEY``."""


class Endpoint:
    """Answers request k with reply k (the last one for ever after): (status, body) or (status, body, headers)."""

    def __init__(self) -> None:
        self.replies: list[tuple[Any, ...]] = []
        self.requests: list[dict[str, Any]] = []
        self.active = self.most_active = 0
        self.delay = 0.0
        self.release = threading.Event()
        lock = threading.Lock()
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                with lock:
                    number = len(endpoint.requests)
                    endpoint.requests.append({"path": self.path, "auth": self.headers["authorization"], "body": body})
                    endpoint.active += 1
                    endpoint.most_active = max(endpoint.most_active, endpoint.active)
                endpoint.release.wait(endpoint.delay)
                with lock:
                    endpoint.active -= 1
                status, reply, *headers = endpoint.replies[min(number, len(endpoint.replies) - 1)]
                payload = (reply if isinstance(reply, str) else json.dumps(reply)).encode()
                try:
                    self.send_response(status)
                    for name, value in (headers[0] if headers else {}).items():
                        self.send_header(name, value)
                    self.send_header("content-type", "application/json")
                    self.send_header("content-length", str(len(payload)))
                    self.end_headers()
                    self.wfile.write(payload)
                except OSError:  # the client gave up waiting
                    pass

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def body(self) -> dict[str, Any]:
        body: dict[str, Any] = self.requests[-1]["body"]
        return body

    def close(self) -> None:
        self.release.set()
        self.server.shutdown()
        self.server.server_close()


def config_of(endpoint: Endpoint, **options: Any) -> OpenAIEngineConfig:
    options = {"retries": 1, "timeout": 5.0} | options
    return OpenAIEngineConfig(model="m", base_url=endpoint.url, **options)


def run(config: OpenAIEngineConfig, call: Callable[[Engine], Awaitable[T]]) -> T:
    """What one call on an engine of its own returns."""

    async def main() -> T:
        engine = config.create()
        await engine.start()
        try:
            return await call(engine)
        finally:
            await engine.stop()

    return asyncio.run(main())
