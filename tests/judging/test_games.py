"""Templates, verdicts and the pairwise stage."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from pipeline.core.errors import ConfigError, EngineRequestError
from pipeline.core.row import Answer, Game, Row, RowError, Selection
from pipeline.engines.base import LabelProbs, Prompt
from pipeline.judging.games import JudgeStage
from pipeline.judging.templates import load_template
from pipeline.judging.verdicts import Verdict
from tests.selection.test_selectors import Judge


def said(**probs: float) -> Verdict:
    return Verdict(list(probs), probs)


def test_verdicts() -> None:
    assert said(A=0.6, B=0.2, C=0.1).score() == 1.0
    assert said(A=0.2, B=0.6, C=0.1).score() == 0.0
    assert said(A=0.2, B=0.1, C=0.6).score() == 0.5
    assert said(A=0.4, B=0.4, C=0.1).score() == 0.5
    assert said(A=0.4, B=0.2, C=0.2).score(soft=True) == pytest.approx(0.625)
    assert said(A=0.3, B=0.1, C=0.09).score() is None  # mass below one half
    assert said(A=0.2, B=0.31).pick("k") == "B"
    assert said(A=0.2, B=0.2).pick("k") is None
    assert Verdict("15", {"1": 0.25, "5": 0.75}).grade() == 4.0
    assert Verdict("15", {"1": 0.2, "5": 0.2}).grade() is None


def row(**texts: str | None) -> Row:
    selections = [Selection("x", name, 0, text) for name, text in texts.items()]
    return Row(0, "p", language="en", messages=[{"role": "user", "content": "Q?"}], selections=selections)


def play(target: Row, engine: Judge, systems: Sequence[str], **config: object) -> list[Game]:
    stage = JudgeStage("j", systems=tuple(systems), opponent="x/base", **config)  # type: ignore[arg-type]
    return asyncio.run(stage(target, engine)).games


def test_both_orders_are_asked_and_scores_are_the_systems() -> None:
    def rule(text: str, labels: Sequence[str]) -> list[float]:
        return [0.8, 0.1, 0.1] if text.index("better text") < text.index("worse text") else [0.1, 0.8, 0.1]

    engine = Judge(rule)
    games = play(row(mine="better text", base="worse text"), engine, ["x/mine"])
    assert [(g.order, g.score, g.verdict) for g in games] == [("ab", 1.0, "win"), ("ba", 1.0, "win")]
    assert all(g.mass == pytest.approx(1.0) and g.judge == "j" and g.template.startswith("pairwise@") for g in games)
    assert "<answer_a>\nbetter" in engine.prompts[0]
    assert "<answer_a>\nworse" in engine.prompts[1]


def test_a_judge_that_always_says_first_flips() -> None:
    games = play(row(mine="one", base="two"), Judge(lambda text, labels: [0.9, 0.05, 0.05]), ["x/mine"])
    assert [(g.score, g.verdict) for g in games] == [(1.0, "win"), (0.0, "loss")]


def test_games_that_need_no_judge() -> None:
    engine = Judge(lambda text, labels: [0.9, 0.05, 0.05])
    games = play(row(same="two", gone=None, base="two"), engine, ["x/same", "x/gone", "x/never"])
    assert [(g.system, g.score, g.mass, g.reason) for g in games if g.order == "ab"] == [
        ("x/same", 0.5, None, "identical texts"),
        ("x/gone", 0.0, None, "the system's answer is missing"),
        ("x/never", 0.0, None, "the system's answer is missing"),
    ]
    assert engine.prompts == []


def test_systems_with_the_same_text_share_their_calls() -> None:
    engine = Judge(lambda text, labels: [0.9, 0.05, 0.05])
    games = play(row(a="one", b="one", base="two"), engine, ["x/a", "x/b"])
    assert len(games) == 4
    assert len(engine.prompts) == 2


def test_an_invalid_verdict_and_a_failing_judge_are_null_not_lost() -> None:
    games = play(row(mine="one", base="two"), Judge(lambda text, labels: [0.2, 0.1, 0.1]), ["x/mine"])
    assert [(g.score, g.verdict) for g in games] == [(None, "invalid")] * 2
    assert games[0].mass == pytest.approx(0.4)

    class Failing(Judge):
        async def label_probs(self, prompt: Prompt, labels: Sequence[str], prefill: str = "") -> LabelProbs:
            raise EngineRequestError("prompt too long")

    games = play(row(mine="one", base="two"), Failing(None), ["x/mine"])
    assert [(g.score, g.verdict, g.reason) for g in games] == [(None, "invalid", "judge failed: prompt too long")] * 2


def test_soft_scores_keep_the_hard_verdict() -> None:
    games = play(row(mine="one", base="two"), Judge(lambda text, labels: [0.6, 0.2, 0.2]), ["x/mine"], soft=True)
    assert [g.score for g in games] == pytest.approx([0.7, 0.3])
    assert [g.verdict for g in games] == ["win", "loss"]


def test_outside_answers_can_play() -> None:
    target = row(mine="one")
    target.answers = [Answer("x/base", "two")]
    assert len(play(target, Judge(lambda text, labels: [0.6, 0.2, 0.2]), ["x/mine"])) == 2


def test_rows_that_are_no_prompts_are_carried_along() -> None:
    target = row(mine="one", base="two")
    target.errors = [RowError("prompts", "read", "BadPrompt", "empty")]
    engine = Judge(lambda text, labels: [0.6, 0.2, 0.2])
    assert play(target, engine, ["x/mine"]) == []
    assert engine.prompts == []


def test_own_and_localised_templates(tmp_path: Path) -> None:
    mine = tmp_path / "mine.txt"
    mine.write_text("a comment\n[user]\nQ: {{ question }} / {{ answer }}\n[labels]\nno yes\n[prefill]\nI say")
    (tmp_path / "mine.ja.txt").write_text("[user]\n日本語 {{ question }} {{ answer }}\n[labels]\nno yes\n")
    english, japanese = load_template(str(mine), "de-AT"), load_template(str(mine), "ja-JP")
    turns = [{"role": "user", "content": "Why {{ x }}?"}]
    assert english.render(turns, answer="{% raw %}") == [{"role": "user", "content": "Q: Why {{ x }}? / {% raw %}"}]
    assert english.labels == ("no", "yes")
    assert english.prefill == "I say"
    assert japanese.render(turns, answer="b")[0]["content"].startswith("日本語")
    assert (english.name, english.hash) == (japanese.name, japanese.hash)  # one template, one identity
    (tmp_path / "mine.ja.txt").write_text("[user]\nchanged")
    load_template.cache_clear()
    assert load_template(str(mine), "de").hash != english.hash
    several = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}]
    assert "[system]\nBe kind." in english.render(several, answer="b")[0]["content"]


@pytest.mark.parametrize("text", ["no section", "[user]\n{{ unclosed"])
def test_unusable_templates_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.txt"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"my.key: bad.txt"):
        load_template(str(path), key="my.key")
