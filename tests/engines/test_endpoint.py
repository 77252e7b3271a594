"""What an endpoint can do wrong, request by request: every one ends, as an error of its own row."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import Any

import pytest

from pipeline.core.errors import EngineRequestError
from pipeline.engines.base import Generation, SamplingParams
from pipeline.engines.openai import OpenAIEngineConfig
from tests.endpoint import Endpoint, run

GOOD = {"index": 0, "message": {"role": "assistant", "content": "fine"}, "finish_reason": "stop"}


def generate(url: str, **options: Any) -> Generation:
    config = OpenAIEngineConfig(model="m", base_url=url, api_key_env=None, logprobs=False, retries=0, **options)
    return run(config, lambda engine: engine.generate([{"role": "user", "content": "Hi"}], SamplingParams()))


@pytest.mark.parametrize(
    "garbage",
    [
        5,
        None,
        "<html>",
        "",
        {},
        {"choices": None},
        {"choices": 7},
        {"choices": [7]},
        {"choices": [{**GOOD, "message": {"content": 5}}]},
        {"choices": [{**GOOD, "message": ["x"]}]},
        {"choices": [{**GOOD, "finish_reason": {"no": "text"}}]},
        {"choices": [GOOD], "usage": {"prompt_tokens": "many"}},
        {"choices": [GOOD], "usage": {"prompt_tokens": 10**30}},
        {"choices": [GOOD], "usage": {"completion_tokens": -1}},
        "[" * 100_000,
    ],
    ids=lambda garbage: str(garbage)[:60],
)
def test_garbage_is_an_error_of_its_request(endpoint: Endpoint, garbage: Any) -> None:
    endpoint.replies = [(200, garbage)]
    with pytest.raises(EngineRequestError):
        generate(endpoint.url)


def test_good_answers_are_not_garbage(endpoint: Endpoint) -> None:
    endpoint.replies = [(200, {"choices": [GOOD], "usage": {"prompt_tokens": 3, "completion_tokens": 2}})]
    assert generate(endpoint.url).completions[0].text == "fine"


def test_an_endpoint_that_trickles_for_ever_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = socket.create_server(("127.0.0.1", 0))

    def trickle() -> None:
        with contextlib.suppress(OSError):
            connection, _ = server.accept()
            connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 9999\r\n\r\n")
            while True:
                connection.sendall(b" ")
                time.sleep(0.1)

    threading.Thread(target=trickle, daemon=True).start()
    started = time.monotonic()
    with pytest.raises(EngineRequestError, match="no complete answer within 2 s"):
        generate(f"http://127.0.0.1:{server.getsockname()[1]}/v1", timeout=1.0)
    assert time.monotonic() - started < 10
    server.close()
