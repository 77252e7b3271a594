"""The openai engine against a scripted server, and against a real vLLM server."""

from __future__ import annotations

import asyncio
import math
import socket
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from pipeline.core.bounds import check_values
from pipeline.core.errors import ConfigError, EngineRequestError
from pipeline.core.row import Message, Tokens
from pipeline.engines.base import Engine, SamplingParams
from pipeline.engines.labels import match_label
from pipeline.engines.meter import Meter
from pipeline.engines.openai import OpenAIEngineConfig
from tests.endpoint import KEY, Endpoint, config_of, run

HELLO = [{"role": "user", "content": "Hello"}]
FAST = {"retry-after-ms": "1"}


def failure(config: OpenAIEngineConfig, call: Callable[[Engine], Awaitable[Any]]) -> str:
    with pytest.raises(EngineRequestError) as caught:
        run(config, call)
    assert KEY not in str(caught.value)
    assert len(str(caught.value)) <= 400
    return str(caught.value)


def chat(*texts: str, logprobs: list[float] | None = None, **usage: Any) -> dict[str, Any]:
    content = [{"token": "x", "logprob": value, "top_logprobs": []} for value in logprobs or []]
    choices = [
        {
            "index": k,
            "message": {"role": "assistant", "content": text},
            "finish_reason": "stop",
            "logprobs": {"content": content} if logprobs else None,
        }
        for k, text in enumerate(texts)
    ]
    return {"choices": choices, "usage": {"prompt_tokens": 7, "completion_tokens": 5} | usage}


def hello(engine: Engine) -> Awaitable[Any]:
    return engine.generate(HELLO, SamplingParams())


def test_generate_sends_the_plan_and_reads_candidates_in_order(endpoint: Endpoint) -> None:
    reply = chat("a", "b", "c", logprobs=[-1.0, -0.5], prompt_tokens_details={"cached_tokens": 4})
    reply["choices"].reverse()
    reply["choices"][0]["finish_reason"] = "content_filter"
    endpoint.replies = [(200, reply)]
    messages: list[Message] = [
        {"role": "user", "content": "Hi", "name": "ann", "other": 1},
        {"role": "assistant", "content": None, "tool_calls": '[{"id": "1"}]'},
    ]
    params = SamplingParams(n=3, temperature=0.7, top_p=0.9, min_p=0.1, top_k=5, max_tokens=9, seed=40, stop=("END",))
    config = config_of(endpoint, extra_body={"chat_template_kwargs": {"enable_thinking": False}})
    result = run(config, lambda engine: engine.generate(messages, params))
    assert [c.text for c in result.completions] == ["a", "b", "c"]
    assert [c.seed for c in result.completions] == [40, 41, 42]
    assert [c.finish_reason for c in result.completions] == ["stop", "stop", "content_filter"]
    assert [(c.logprob, c.num_tokens) for c in result.completions] == [(-1.5, 2)] * 3
    assert vars(result.tokens) == {"requests": 1, "prompt": 7, "cached": 4, "completion": 5}
    assert endpoint.requests[0]["path"] == "/v1/chat/completions"
    assert endpoint.requests[0]["auth"] == f"Bearer {KEY}"
    assert endpoint.body == {
        "model": "m",
        "messages": [
            {"role": "user", "content": "Hi", "name": "ann"},
            {"role": "assistant", "tool_calls": [{"id": "1"}]},
        ],
        **{"n": 3, "temperature": 0.7, "top_p": 0.9, "min_p": 0.1, "top_k": 5, "max_tokens": 9, "seed": 40},
        **{"stop": ["END"], "logprobs": True, "chat_template_kwargs": {"enable_thinking": False}},
    }


def test_greedy_without_logprobs_and_left_out_fields(endpoint: Endpoint) -> None:
    endpoint.replies = [(200, chat("a"))]
    config = config_of(
        endpoint, logprobs=False, max_tokens_field="max_completion_tokens", extra_body={"top_p": None, "user": "u"}
    )
    result = run(config, lambda e: e.generate(HELLO, SamplingParams(temperature=0, seed=1, max_tokens=3)))
    assert endpoint.body == {
        **{"model": "m", "messages": HELLO, "n": 1, "temperature": 0, "max_completion_tokens": 3, "user": "u"}
    }
    (completion,) = result.completions
    assert (completion.seed, completion.logprob, completion.num_tokens) == (None, None, 5)
    assert config.capabilities() == {"generate"}
    assert "n must be 1" in failure(config, lambda e: e.generate(HELLO, SamplingParams(n=2, temperature=0)))


def test_an_answer_of_no_use_is_paid_for(endpoint: Endpoint) -> None:
    endpoint.replies = [(200, chat("A"))]

    async def two(engine: Any) -> Tokens:
        meter = Meter(engine)
        with pytest.raises(EngineRequestError, match="1 of 2 choices"):
            await meter.generate(HELLO, SamplingParams(n=2, max_tokens=5))
        return meter.total

    assert run(config_of(endpoint), two) == Tokens(requests=1, prompt=7, completion=5)


def test_num_tokens_without_logprobs_share_the_usage(endpoint: Endpoint) -> None:
    endpoint.replies = [(200, chat("a", "b"))]
    result = run(config_of(endpoint), lambda e: e.generate(HELLO, SamplingParams(n=2)))
    assert [c.num_tokens for c in result.completions] == [3, 2]


def test_reasoning_is_kept_apart(endpoint: Endpoint) -> None:
    reply = chat("<think>hm</think>a", "b", "c")
    reply["choices"][1]["message"]["reasoning"] = "because"
    reply["choices"][2]["message"] |= {"content": None, "reasoning_content": "cut"}
    endpoint.replies = [(200, reply)]
    result = run(config_of(endpoint), lambda e: e.generate(HELLO, SamplingParams(n=3)))
    assert [(c.reasoning, c.text) for c in result.completions] == [("hm", "a"), ("because", "b"), ("cut", "")]


def test_raw_prompt_uses_the_completions_endpoint(endpoint: Endpoint) -> None:
    choice = {"index": 0, "text": " Paris", "finish_reason": "length", "logprobs": {"token_logprobs": [-0.5, -0.25]}}
    endpoint.replies = [(200, {"choices": [choice], "usage": {"prompt_tokens": 5, "completion_tokens": 2}})]
    result = run(config_of(endpoint), lambda e: e.generate("The capital is", SamplingParams(max_tokens=2)))
    assert endpoint.requests[0]["path"] == "/v1/completions"
    assert endpoint.body["prompt"] == "The capital is" and endpoint.body["logprobs"] == 1
    (completion,) = result.completions
    assert (completion.text, completion.logprob, completion.num_tokens) == (" Paris", -0.75, 2)


def test_structured_output(endpoint: Endpoint) -> None:
    endpoint.replies = [(200, chat("x"))]
    run(config_of(endpoint), lambda e: e.generate(HELLO, SamplingParams(choice=("A", "B"))))
    assert endpoint.body["structured_outputs"] == {"choice": ["A", "B"]}
    assert len(endpoint.requests) == 2  # tried once


def test_label_probs_sum_the_variants_of_each_label(endpoint: Endpoint) -> None:
    top = {"A": 0.5, " A": 0.1, "B": 0.2, "Bo": 0.05, "Ti": 0.04, " ": 0.01, "T": 0.02}
    items = [{"token": t, "logprob": math.log(p)} for t, p in top.items()]
    reply = chat("A")
    reply["choices"][0]["logprobs"] = {"content": [{"token": "A", "logprob": 0.0, "top_logprobs": items}]}
    endpoint.replies = [(200, reply)]
    labels = ["A", "B", "Tie", "Two"]
    result = run(config_of(endpoint), lambda e: e.label_probs(HELLO, labels, prefill="Verdict: "))
    assert result.probs == pytest.approx({"A": 0.6, "B": 0.2, "Tie": 0.04, "Two": 0.0})
    assert endpoint.body == {
        **{"model": "m", "messages": HELLO, "temperature": 0, "max_tokens": 32, "logprobs": True, "top_logprobs": 20}
    }
    run(config_of(endpoint, assistant_prefill=True), lambda e: e.label_probs(HELLO, labels, prefill="Verdict: "))
    assert endpoint.body["messages"] == [*HELLO, {"role": "assistant", "content": "Verdict: "}]
    assert (endpoint.body["continue_final_message"], endpoint.body["add_generation_prompt"]) == (True, False)
    assert endpoint.body["max_tokens"] == 1


def test_label_probs_of_a_raw_prompt_and_without_logprobs(endpoint: Endpoint) -> None:
    choice = {"index": 0, "text": "A", "logprobs": {"token_logprobs": [-0.1], "top_logprobs": [{"A": math.log(0.5)}]}}
    endpoint.replies = [(200, {"choices": [choice]}), (200, chat("A"))]
    assert run(config_of(endpoint), lambda e: e.label_probs("A or B?", ["A", "B"])).probs == {"A": 0.5, "B": 0.0}
    assert endpoint.body["logprobs"] == 20
    assert "no log-probabilities" in failure(config_of(endpoint), lambda e: e.label_probs(HELLO, ["A"]))


@pytest.mark.parametrize(
    ("token", "labels", "label"),
    [
        ("A", ["A", "B"], "A"),
        ("\n A", ["A", "B"], "A"),
        ("A ", ["A", "B"], "A"),
        ("a", ["A", "B"], "A"),
        ("(B", ["A", "B"], "B"),
        ("**B", ["A", "B"], "B"),
        ("Ｂ", ["A", "B"], "B"),
        ("B.", ["A", "B"], "B"),
        ("(", ["A", "B"], None),
        ("**", ["A", "B"], None),
        ("An", ["A", "B"], None),
        ("C++", ["A", "C"], None),
        ("", ["A"], None),
        (" ", ["A"], None),
        ("1", ["1", "10"], "1"),
        ("T", ["Tie", "Two"], None),
        ("Ti", ["Tie", "Two"], "Tie"),
        ("Tiers", ["Tie", "Two"], None),
    ],
)
def test_match_label(token: str, labels: list[str], label: str | None) -> None:
    assert match_label(token, labels) == label


def test_embed(endpoint: Endpoint) -> None:
    endpoint.replies = [(200, {"data": [{"embedding": [0.6, 0.8]}], "usage": {"prompt_tokens": 3}})]
    config = config_of(endpoint, embeddings=True)
    result = run(config, lambda e: e.embed("Hello"))
    assert result.vector == [0.6, 0.8] and result.tokens.prompt == 3
    assert endpoint.body == {"model": "m", "input": "Hello", "encoding_format": "float"}
    assert "embed" in config.capabilities()


def test_a_busy_endpoint_is_asked_again(endpoint: Endpoint) -> None:
    endpoint.replies = [(429, {"error": {"message": "slow down"}}, FAST), (200, chat("a"))]
    assert run(config_of(endpoint), hello).completions[0].text == "a"
    assert len(endpoint.requests) == 2


def test_errors_after_the_retries(endpoint: Endpoint) -> None:
    endpoint.replies = [(500, {"error": {"message": f"oops {KEY} " + "x" * 999}}, FAST)]
    message = failure(config_of(endpoint, retries=2), hello)
    assert "HTTP 500" in message and "oops ***" in message
    assert len(endpoint.requests) == 3


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        ((401, {"error": {"message": f"bad key {KEY}"}}), ["HTTP 401", "API key", "OPENAI_API_KEY"]),
        ((403, {"error": {"message": "no"}}), ["HTTP 403", "API key"]),
        ((404, {"error": {"message": "unknown"}}), ["HTTP 404", "'m'"]),
        ((400, {"error": {"message": "too long"}}), ["HTTP 400", "too long"]),
        ((200, "{garbage"), ["unexpected response", "{garbage"]),
        ((200, "[]"), ["unexpected response"]),
        ((200, {"choices": [5]}), ["unexpected response"]),
        ((200, {"usage": None}), ["0 of 1 choices"]),
        ((200, {"error": {"message": f"upstream {KEY}"}}), ["0 of 1 choices", "upstream ***"]),
    ],
)
def test_lasting_errors_are_named_and_not_repeated(
    endpoint: Endpoint, reply: tuple[Any, ...], words: list[str]
) -> None:
    endpoint.replies = [reply]
    message = failure(config_of(endpoint), hello)
    assert [word for word in words if word not in message] == []
    assert len(endpoint.requests) == 1


def test_missing_choices(endpoint: Endpoint) -> None:
    endpoint.replies = [(200, chat("a"))]
    message = failure(config_of(endpoint), lambda e: e.generate(HELLO, SamplingParams(n=3)))
    assert message == "the endpoint returned 1 of 3 choices"


def test_broken_tool_calls_fail_their_request(endpoint: Endpoint) -> None:
    messages = [{"role": "assistant", "tool_calls": "{"}]
    assert "tool_calls" in failure(config_of(endpoint), lambda e: e.generate(messages, SamplingParams()))


def test_an_endpoint_that_never_answers(endpoint: Endpoint) -> None:
    endpoint.delay = 30
    endpoint.replies = [(200, chat("a"))]
    started = time.monotonic()
    assert "no answer within 0.2 s" in failure(config_of(endpoint, timeout=0.2, retries=0), hello)
    assert time.monotonic() - started < 5


def test_nobody_listens(endpoint: Endpoint) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound, but not listening
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/v1"
        assert "cannot be reached" in failure(OpenAIEngineConfig(model="m", base_url=url, retries=0), hello)


def test_concurrency_and_rate_are_limited(endpoint: Endpoint) -> None:
    endpoint.replies = [(200, chat("a"))]
    endpoint.delay = 0.05

    async def six(engine: Engine) -> None:
        await asyncio.gather(*(hello(engine) for _ in range(6)))

    run(config_of(endpoint, concurrency=2), six)
    assert endpoint.most_active == 2
    started = time.monotonic()
    run(config_of(endpoint, requests_per_minute=120), six)  # 2 a second: the first two at once, the sixth after 2 s
    assert time.monotonic() - started > 1.9


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"model": ""}, "model"),
        ({"concurrency": 0}, "concurrency"),
        ({"requests_per_minute": 0.0}, "requests_per_minute"),
        ({"timeout": 0.0}, "timeout"),
        ({"retries": -1}, "retries"),
        ({"max_tokens_field": "tokens"}, "max_tokens_field"),
        ({"extra_body": {"temperature": 0.5}}, "extra_body.temperature"),
        ({"base_url": "localhost:8000"}, "base_url"),
        ({"base_url": "https://me:secret@host/v1"}, "base_url"),
    ],
)
def test_check_names_the_key(monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], key: str) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    config = OpenAIEngineConfig(**({"model": "m", "base_url": "http://localhost:1/v1"} | options))
    with pytest.raises(ConfigError, match=rf"^engines\.x\.{key}: ") as caught:
        check_values(config, "engines.x")
    assert "secret" not in str(caught.value)


def test_check_accepts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    check_values(OpenAIEngineConfig(model="m", base_url="http://127.0.0.1:1/v1", extra_body={"temperature": None}), "x")
    check_values(OpenAIEngineConfig(model="m", base_url="https://host/v1", api_key_env=None), "x")
    monkeypatch.setenv("OTHER_KEY", KEY)
    config = OpenAIEngineConfig(model="m", api_key_env="OTHER_KEY")
    check_values(config, "x")
    assert KEY not in repr(config) + repr(config.identity())


@pytest.mark.parametrize("url", [None, "https://api.example.com/v1"])
def test_only_who_asks_needs_the_key(monkeypatch: pytest.MonkeyPatch, url: str | None) -> None:
    """A report of stored games reads the same config as the judge that played them."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    config = OpenAIEngineConfig(model="m", base_url=url)
    check_values(config, "engines.x")
    with pytest.raises(ConfigError, match=r"^engines\.x\.api_key_env: .*OPENAI_API_KEY is not set"):
        config.ready("engines.x")
    OpenAIEngineConfig(model="m", base_url="http://127.0.0.1:1/v1").ready("engines.x")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    config.ready("engines.x")


def test_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    config = OpenAIEngineConfig(model="m", api_key_env=None)
    with pytest.raises(ConfigError, match=r"lemonpress\[openai\]"):
        config.ready("engines.x")
    with pytest.raises(ConfigError, match=r"lemonpress\[openai\]"):
        run(config, hello)


@pytest.mark.engine
@pytest.mark.timeout(600)
def test_a_real_vllm_server(vllm_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    config = OpenAIEngineConfig(model="small", base_url=vllm_server, assistant_prefill=True, timeout=300)
    check_values(config, "engines.small")
    question = [{"role": "user", "content": "What is the capital of France?"}]

    async def check(engine: Engine) -> None:
        params = SamplingParams(n=3, temperature=0.8, min_p=0.1, top_k=20, max_tokens=12, seed=5)
        result = await engine.generate(question, params)
        assert [c.seed for c in result.completions] == [5, 6, 7]
        assert {c.finish_reason for c in result.completions} <= {"stop", "length"}
        assert all(c.text and c.logprob is not None and c.logprob < 0 for c in result.completions)
        assert result.tokens.completion == sum(c.num_tokens for c in result.completions)

        greedy = await engine.generate(question, SamplingParams(temperature=0, max_tokens=16))
        assert "Paris" in greedy.completions[0].text
        assert greedy.completions[0].finish_reason == "stop"  # so the end token is among those counted
        raw = await engine.generate("The capital of France is", SamplingParams(temperature=0, max_tokens=4))
        assert "Paris" in raw.completions[0].text and raw.completions[0].num_tokens == 4

        for prefill in ("", "The answer is"):
            labels = await engine.label_probs(question, ["The", "Paris"], prefill=prefill)
            assert 0 < sum(labels.probs.values()) <= 1
        assert labels.probs["Paris"] > labels.probs["The"]  # the begun answer was continued

        choice = SamplingParams(temperature=0, max_tokens=8, choice=("Berlin", "Paris"))
        assert (await engine.generate(question, choice)).completions[0].text in ("Berlin", "Paris")

        with pytest.raises(EngineRequestError, match="HTTP 400"):
            await engine.generate([{"role": "user", "content": "word " * 3000}], SamplingParams(max_tokens=1))

    run(config, check)
    with pytest.raises(EngineRequestError, match="HTTP 404: no model 'other'"):
        run(OpenAIEngineConfig(model="other", base_url=vllm_server), hello)
