"""Requests longer than the context: refused with a kind of their own, or cut in the middle."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.errors import PromptTooLong
from pipeline.core.row import Candidate, Row, Selection
from pipeline.engines.base import Engine
from pipeline.engines.dummy import DummyEngineConfig
from pipeline.engines.text import fit
from pipeline.judging.games import JudgeStage
from pipeline.sampling.plans import Hedged
from pipeline.sampling.stage import GenerateStage
from pipeline.selection import best_of_n
from pipeline.selection.stage import SelectStage


@given(st.integers(1, 300), st.integers(4, 200), st.integers(0, 250), st.integers(0, 40))
def test_the_middle_is_cut_where_it_must_be(n: int, context: int, reserve: int, whole: int) -> None:
    tokens = list(range(n))
    limit = context - min(reserve, 1)
    if n <= limit:
        assert fit(tokens, context, reserve, False, whole) == tokens
        return
    with pytest.raises(PromptTooLong, match=f"{n} tokens, but the model takes {limit}"):
        fit(tokens, context, reserve, False, whole)
    try:
        kept = fit(tokens, context, reserve, True, whole)
    except PromptTooLong:
        assert whole + 2 > max(context - reserve, context // 2)
        return
    assert len(kept) == max(context - reserve, context // 2) <= context
    tail = next(i for i, token in enumerate(kept) if token != i)
    assert tail >= 1 and kept[:tail] == tokens[:tail] and kept[tail:] == tokens[-(len(kept) - tail) :]
    assert len(kept) - tail >= whole


def row(words: int) -> Row:
    candidates = [Candidate("one", plan="hedged"), Candidate("two", plan="hedged")]
    chosen = [Selection("hedged", method, i, text) for i, (method, text) in enumerate([("a", "one"), ("b", "two")])]
    asked = [{"role": "user", "content": " ".join(f"w{i}" for i in range(words))}]
    return Row(1, "p", messages=asked, candidates=candidates, selections=chosen)


def engine(truncate: bool = False) -> Engine:
    return DummyEngineConfig(max_model_len=300, truncate_prompt=truncate).create()


GENERATE = GenerateStage("new", Hedged(n=3, max_tokens=8), 1)
SELECT = SelectStage("best", best_of_n.BestOfN(engine="reward"), ("hedged",), 1)
JUDGE = JudgeStage("judge", "pairwise", systems=("hedged/b",), opponent="hedged/a")


def test_too_long_for_generate_is_an_error_of_its_own_kind_and_keeps_the_row() -> None:
    long = row(301)
    with pytest.raises(PromptTooLong, match="302 tokens, but the model takes 300"):
        asyncio.run(GENERATE(long, engine()))
    assert [c.error is None for c in long.candidates] == [True, True, False, False, False]


def test_too_long_for_a_selector_falls_back_and_says_so() -> None:
    chosen = asyncio.run(SELECT(row(301), engine())).selections[-1]
    assert chosen.text in ("one", "two")
    assert chosen.detail is not None and "the model takes 300" in chosen.detail


def test_too_long_for_the_judge_is_an_invalid_game() -> None:
    games = asyncio.run(JUDGE(row(301), engine())).games
    assert [(g.verdict, g.score) for g in games] == [("invalid", None)] * 2
    assert all("the model takes 300" in (g.reason or "") for g in games)


def test_truncated_requests_are_answered_everywhere() -> None:
    done = row(301)
    for stage in (GENERATE, SELECT, JUDGE):
        done = asyncio.run(stage(done, engine(truncate=True)))
    assert all(c.error is None for c in done.candidates) and len(done.candidates) == 5
    assert "failure" not in (done.selections[-1].detail or "")
    assert all(g.reason is None for g in done.games) and len(done.games) == 2
