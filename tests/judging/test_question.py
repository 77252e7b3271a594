"""Whoever judges, scores or fuses sees the task: its instruction without examples, and the language of the answer."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pipeline.core.row import Candidate, Row, Selection, Tokens
from pipeline.engines.base import Completion, Generation, LogLikelihood, Prompt, SamplingParams, Scored
from pipeline.engines.dummy import DummyEngine, DummyEngineConfig
from pipeline.judging.games import JudgeStage
from pipeline.sampling.evidence import Evidence
from pipeline.sampling.stage import GenerateStage
from pipeline.selection.base import SELECTORS, Pool
from pipeline.tasks.math import Math
from pipeline.tasks.open import Open
from pipeline.tasks.translation import Example, Translation

SHOT = Example("Good night.", "Gute Nacht.")
INTO_GERMAN = Translation(source_language="en", few_shot=[SHOT])
FROM_SPANISH = Translation(target_language="en", few_shot=[Example("Buenas noches.", "Good night.")])
RAW = Translation(target_language="en", raw=True, few_shot=[Example("Buenas noches.", "Good night.")])


class Listener(DummyEngine):
    """Keeps what it is asked."""

    def __init__(self) -> None:
        super().__init__(DummyEngineConfig(model="l"))
        self.heard: list[Prompt] = []

    async def label_probs(self, prompt: Prompt, labels: Any, prefill: str = "") -> Any:
        self.heard.append(prompt)
        return await super().label_probs(prompt, labels, prefill)

    async def generate(self, prompt: Prompt, params: SamplingParams) -> Generation:
        self.heard.append(prompt)
        return Generation([Completion(f"text {k}", "stop", 2) for k in range(params.n)], Tokens())

    async def reward(self, prompt: Prompt, text: str) -> Scored:
        self.heard.append(prompt)
        return Scored(1.0, Tokens())

    async def loglikelihood(self, prompt: Prompt, text: str) -> LogLikelihood:
        self.heard.append(prompt)
        return LogLikelihood(-1.0, 2, Tokens())


def row(language: str, text: str, task: str = "translation") -> Row:
    candidates = [Candidate(t, plan="x") for t in ("eins", "zwei")]
    chosen = [Selection("x", "one", 0, "eins"), Selection("x", "two", 1, "zwei")]
    return Row(
        1, "p", "c", task, language, [{"role": "user", "content": text}], candidates=candidates, selections=chosen
    )


def heard(kind: str, asked: Row, task: Any, **config: Any) -> list[Prompt]:
    engine = Listener()
    pool = Pool(asked, "x", asked.plan("x"), 1, engine, {asked.task: task})
    asyncio.run(SELECTORS.get(kind)(engine="l", **config).select(pool))
    return engine.heard


def words(prompt: Prompt) -> str:
    return prompt if isinstance(prompt, str) else "\n".join(str(turn["content"]) for turn in prompt)


JUDGED: list[tuple[str, dict[str, Any]]] = [
    ("best_of_n", {}),
    ("judge", {}),
    ("mbr", {"utility": "judge"}),
    ("one_pass", {}),
    ("chops", {}),
    ("tournament", {}),
    ("fusion", {}),
]


@pytest.mark.parametrize(("kind", "config"), JUDGED)
def test_every_selector_that_asks_a_model_shows_the_translation_task(kind: str, config: dict[str, Any]) -> None:
    for task, asked, line in (
        (INTO_GERMAN, row("de", "Good morning."), "Translate the following English text into German."),
        (FROM_SPANISH, row("es", "Buenos días."), "Translate the following Spanish text into English."),
        (RAW, row("es", "Buenos días."), "Translate the following Spanish text into English."),
    ):
        prompts = heard(kind, asked, task, **config)
        assert prompts
        for prompt in prompts:
            assert not isinstance(prompt, str) and line in words(prompt)
            assert "night" not in words(prompt) and "noches" not in words(prompt)  # no examples
            if kind != "best_of_n":
                assert ("in English" if task.target_language else "in German") in words(prompt)


def test_a_weighted_vote_asks_its_reward_model_about_the_task() -> None:
    asked = row("ko", "2 + 3?", "math")
    asked.candidates = [Candidate(f"Answer: {k}", plan="x") for k in (5, 6)]
    for prompt in heard("weighted_vote", asked, Math()):
        assert "On the last line" in words(prompt)


def test_the_fusor_writes_in_the_target_language() -> None:
    (prompt,) = heard("fusion", row("es", "Buenos días."), FROM_SPANISH)
    assert "Write it in English" in words(prompt) and "Write it in Spanish" not in words(prompt)


def test_the_win_rate_judge_sees_the_task() -> None:
    engine, asked = Listener(), row("de", "Good morning.")
    stage = JudgeStage("j", systems=("x/one",), opponent="x/two", tasks={"translation": INTO_GERMAN})
    assert "task" in stage.reads
    asyncio.run(stage(asked, engine))
    assert len(engine.heard) == 2
    assert all("Translate the following English text into German." in words(p) for p in engine.heard)
    assert all("Good answers are in German" in words(p) and "night" not in words(p) for p in engine.heard)


def test_a_given_candidate_is_scored_under_the_prompt_that_is_sampled() -> None:
    for task in (FROM_SPANISH, RAW):
        asked = row("es", "Buenos días.")
        for prompt in heard("likelihood", asked, task):
            assert prompt == task.instruct(asked.messages, asked)
            assert isinstance(prompt, str) == task.raw and "Good night." in words(prompt)  # the examples, too


def evidence(asked: Row, task: Any) -> tuple[Prompt, list[Candidate]]:
    engine = Listener()
    stage = GenerateStage("evidence", Evidence(), 1, {asked.task: task})
    done = asyncio.run(stage(asked, engine))
    return engine.heard[0], [c for c in done.candidates if c.origin == "evidence"]


@pytest.mark.parametrize(
    ("task", "language", "wanted", "named"),
    [
        (FROM_SPANISH, "es", "zh", "Chinese"),  # the answers are English
        (Translation(source_language="en"), "de", "zh", "Chinese"),  # English is the source
        (Translation(source_language="zh", target_language="en"), "zh", "es", "Spanish"),
        (RAW, "es", "zh", "Chinese"),
    ],
)
def test_evidence_is_asked_for_in_the_language_in_which_it_is_checked(
    task: Translation, language: str, wanted: str, named: str
) -> None:
    prompt, found = evidence(row(language, "Texto."), task)
    assert {c.language for c in found} == {wanted} and len(found) == 3
    assert f"Answer in {named} only." in words(prompt)
    assert f"{named}:" in words(prompt) if task.raw else f"into {named}." in words(prompt)
    assert "into English" not in words(prompt) and "English:" not in words(prompt) and "night" not in words(prompt)


def test_evidence_of_other_tasks() -> None:
    prompt, found = evidence(row("de", "Was ist 2 + 3?", "math"), Math())
    assert {c.language for c in found} == {"en"}
    assert "Solve the problem" in words(prompt) and "Löse" not in words(prompt)
    prompt, found = evidence(row("en", "Hello", "open"), Open())
    assert {c.language for c in found} == {"zh"} and words(prompt) == "Hello\n\nAnswer in Chinese only."
