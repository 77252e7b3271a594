"""Judges' replies as chat models write them: clear ones are read, and nothing else is; over an endpoint, too."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest

from pipeline.engines.base import Engine
from pipeline.engines.openai import OpenAIEngineConfig
from pipeline.judging.replies import CUT, CUT_THINKING, UNREADABLE, read_reply
from pipeline.judging.templates import load_template
from pipeline.judging.verdicts import Judge
from pipeline.tasks.base import Question
from tests.endpoint import Endpoint, config_of, run
from tests.judging.replies import CLEAR, UNCLEAR

TEMPLATE = load_template("pairwise")
OPTIONS = {"A": "answer A is better", "B": "answer B is better", "C": "they are equally good"}
QUESTION = Question([{"role": "user", "content": "Q"}], "English")
SCORES = {"A": 1.0, "B": 0.0, "C": 0.5}


def test_the_options_are_the_templates_own_words() -> None:
    assert TEMPLATE.options == OPTIONS
    assert load_template("pointwise").options["4"] == "good"


def test_clear_replies_are_read_and_unclear_ones_are_not() -> None:
    missed = [(text, label) for text, label in CLEAR if read_reply(text, "ABC", OPTIONS).label != label]
    misread = [(text, read_reply(text, "ABC", OPTIONS).label) for text in UNCLEAR]
    assert len(set(CLEAR)) >= 200 and len(set(UNCLEAR)) >= 200
    assert len(missed) <= 0.05 * len(CLEAR), missed
    assert [(text, label) for text, label in misread if label] == []
    assert not [text for text, label in missed if read_reply(text, "ABC", OPTIONS).label]  # none as another label


@pytest.mark.parametrize(
    ("text", "finish", "problem"),
    [
        ("<think>A is better, B is", "length", CUT_THINKING),
        ("<thinking>A is better", "stop", CUT_THINKING),
        ("", "length", CUT_THINKING),
        ("Comparing the two answers, I see", "length", CUT),
        ("Comparing the two answers, I see", "stop", UNREADABLE),
    ],
)
def test_why_there_is_no_verdict(text: str, finish: str, problem: str) -> None:
    assert read_reply(text, "ABC", OPTIONS, finish).problem == problem


@pytest.mark.parametrize(
    ("text", "grade"),
    [
        *(
            (text, "4")
            for text in ("4", "(4)", "4/5", "**4**", "Grade: 4", "My grade is 4.", "(4) good", "4 - good", "good")
        ),
        *((text, "4") for text in ("4 out of 5", "I'd give it a 4.", "评分：4", "4. It is fluent.", "4 points")),
        *(
            (text, None)
            for text in ("3 or 4", "3-4", "3.5", "1. First\n2. Second", "There are 3 errors in it.", "10", "")
        ),
    ],
)
def test_grades(text: str, grade: str | None) -> None:
    words = dict(zip("12345", ("useless", "poor", "fair", "good", "excellent"), strict=True))
    assert read_reply(text, "12345", words).label == grade


@pytest.mark.parametrize(
    ("text", "label"),
    [("D", "D"), ("(I)", "I"), ("answer J", "J"), ("I choose D", "D"), ("**H**", "H"), ("F is the best answer.", "F")]
    + [(text, None) for text in ("I think so", "I like answer two", "A good one", "F, then G", "E or F", "No, none")],
)
def test_one_of_ten(text: str, label: str | None) -> None:
    assert read_reply(text, "ABCDEFGHIJ").label == label


def ask(config: OpenAIEngineConfig) -> Any:
    texts = {"answer_a": "one", "answer_b": "two"}
    return run(config, lambda engine: Judge(engine, QUESTION).verdict(TEMPLATE, TEMPLATE.labels, **texts))


def reply(text: str, *steps: dict[str, float], finish: str = "stop", **message: Any) -> dict[str, Any]:
    content = [
        {
            "token": max(top, key=lambda token: top[token]),
            "logprob": 0.0,
            "top_logprobs": [{"token": token, "logprob": math.log(p)} for token, p in top.items()],
        }
        for top in steps
    ]
    choice = {"index": 0, "message": {"content": text, **message}, "finish_reason": finish}
    return {"choices": [choice | ({"logprobs": {"content": content}} if steps else {})]}


def spelled(text: str) -> list[dict[str, float]]:
    """The tokens of a text, each with some probability for another one."""
    return [{token: 0.9, "other": 0.1} for token in re.findall(r"\s*\w+|\s*[^\w\s]+|\s+", text)]


@pytest.mark.parametrize("step", [8, pytest.param(1, marks=pytest.mark.slow)])  # every eighth reply, and all of them
@pytest.mark.parametrize("logprobs", [False, True])
def test_an_endpoint_that_talks_is_read_with_and_without_log_probabilities(
    endpoint: Endpoint, logprobs: bool, step: int
) -> None:
    clear, unclear = CLEAR[::step], UNCLEAR[::step]
    texts = [text for text, _ in clear] + unclear
    endpoint.replies = [(200, reply(text, *(spelled(text) or [{"": 1.0}] if logprobs else []))) for text in texts]

    async def scores(engine: Engine) -> list[float | None]:
        judge, found = Judge(engine, QUESTION), []
        for _ in texts:  # one after the other: reply k is for request k
            said = await judge.verdict(TEMPLATE, TEMPLATE.labels, answer_a="1", answer_b="2")
            found.append(said.score())
        return found

    found = run(config_of(endpoint, logprobs=logprobs, structured_output="none"), scores)
    read = [score == SCORES[label] for score, (_, label) in zip(found, clear, strict=False)]
    assert len(endpoint.requests) == len(texts)
    assert sum(read) >= 0.95 * len(read)
    assert [text for text, score in zip(unclear, found[len(clear) :], strict=True) if score is not None] == []


def test_a_first_token_that_is_no_label_does_not_lose_the_verdict(endpoint: Endpoint) -> None:
    """``(B) answer B is better``: the probabilities are those behind the bracket."""
    endpoint.replies = [(200, reply("(B) answer", {"(": 0.9, "B": 0.1}, {"B": 0.7, "A": 0.25, "C": 0.02}, {")": 1.0}))]
    said = ask(config_of(endpoint))
    assert said.probs == pytest.approx({"A": 0.25, "B": 0.7, "C": 0.02})
    endpoint.replies = [(200, reply("**B**", {"**": 0.9}, {"B": 0.8, "A": 0.2}, {"**": 1.0}))]
    assert ask(config_of(endpoint)).probs == pytest.approx({"A": 0.2, "B": 0.8, "C": 0.0})
    endpoint.replies = [(200, reply("B", {"B": 0.4, "(": 0.35, "**": 0.2}))]  # less than half on labels, and yet clear
    assert ask(config_of(endpoint)).probs == {"A": 0.0, "B": 1.0, "C": 0.0}


def test_a_first_token_that_only_looks_like_a_label_is_no_verdict(endpoint: Endpoint) -> None:
    """``A good answer ...``: today the article is a vote of 0.9 for A."""
    endpoint.replies = [(200, reply("A good answer names the date.", {"A": 0.9, "B": 0.1}, {" good": 1.0}))]
    said = ask(config_of(endpoint))
    assert said.mass is None and said.problem and UNREADABLE in said.problem


def test_an_endpoint_that_refuses_unknown_fields_is_asked_in_its_own_way(endpoint: Endpoint) -> None:
    refused = (400, {"error": {"message": "Unrecognized request argument: structured_outputs"}})
    endpoint.replies = [refused, (200, reply('{"choice": "A"}')), (200, reply('{"choice": "B"}'))]
    said = ask(config_of(endpoint, logprobs=False))
    assert said.probs["B"] == 1.0
    bodies = [request["body"] for request in endpoint.requests]
    assert "structured_outputs" in bodies[0] and "structured_outputs" not in bodies[1] | bodies[2]
    enum = bodies[2]["response_format"]["json_schema"]["schema"]["properties"]["choice"]["enum"]
    assert enum == ["A", "B", "C"] and bodies[2]["max_tokens"] == 32


def test_an_endpoint_that_takes_neither_is_asked_for_plain_text(endpoint: Endpoint) -> None:
    refused = (400, {"error": {"message": "unknown field"}})
    endpoint.replies = [refused, refused, (200, reply("Answer B is better."))]
    assert ask(config_of(endpoint, logprobs=False)).probs["B"] == 1.0
    assert set(endpoint.body) == {"model", "messages", "n", "temperature", "top_p", "max_tokens"}


@pytest.mark.parametrize(
    ("base_url", "field"),
    [
        (None, "response_format"),
        ("https://me.openai.azure.com/v1", "response_format"),
        ("https://generativelanguage.googleapis.com/v1beta/openai/", "response_format"),
        ("http://127.0.0.1:8000/v1", "structured_outputs"),
        ("http://vllm-head:8000/v1", "structured_outputs"),
        ("http://10.1.2.3/v1", "structured_outputs"),
        ("https://api.example.com/v1", None),
    ],
)
def test_the_default_follows_the_address(base_url: str | None, field: str | None) -> None:
    from pipeline.engines.structured import by_address, structured_fields

    assert list(structured_fields(by_address(base_url), ("A", "B"))) == ([field] if field else [])


def test_a_judge_that_thinks_gets_room_and_says_when_it_was_cut(endpoint: Endpoint) -> None:
    endpoint.replies = [(200, reply("", finish="length", reasoning="A is ...")), (200, reply("B", reasoning="so B"))]
    thinking = {"extra_body": {"reasoning_effort": "high"}, "logprobs": False}
    assert CUT_THINKING in (ask(config_of(endpoint, **thinking)).problem or "")
    assert endpoint.body["max_tokens"] == 4096 and "structured_outputs" not in endpoint.body
    assert ask(config_of(endpoint, **thinking, verdict_tokens=77)).probs["B"] == 1.0
    assert endpoint.body["max_tokens"] == 77
