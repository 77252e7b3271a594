"""Sampling plans, evidence, candidate sets from several generators, the policy, and bars."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from pipeline.config.load import load_config
from pipeline.core.bounds import check_values
from pipeline.core.errors import ConfigError, EngineRequestError, ResumeError
from pipeline.core.languages import identify, is_language
from pipeline.core.policy import Policy, Rule
from pipeline.core.row import Candidate, Row, Selection, Tokens
from pipeline.engines.base import Completion, Generation, Prompt, SamplingParams
from pipeline.engines.dummy import DummyEngine, DummyEngineConfig
from pipeline.sampling.evidence import Evidence
from pipeline.sampling.plans import Greedy, Hedged, MixedTemperatures, PlanConfig, PlannedRequest, SingleTemperature
from pipeline.sampling.stage import GenerateStage
from pipeline.selection.policy_stage import PolicyStage
from pipeline.selection.sample import Sample
from pipeline.selection.stage import SelectStage
from pipeline.tasks.open import Open
from pipeline.tasks.translation import Translation


class Scripted(DummyEngine):
    """Answers from a list, in order; keeps what it was asked."""

    def __init__(self, texts: Sequence[str] = ()) -> None:
        super().__init__(DummyEngineConfig(model="scripted"))
        self.texts = list(texts)
        self.asked: list[tuple[Prompt, SamplingParams]] = []

    async def generate(self, prompt: Prompt, params: SamplingParams) -> Generation:
        self.asked.append((prompt, params))
        if not self.texts:
            return await super().generate(prompt, params)
        texts = [self.texts.pop(0) for _ in range(params.n)]
        seed = params.seed or 0
        completions = [Completion(t, "stop", 3, -1.0, seed=seed + k) for k, t in enumerate(texts)]
        return Generation(completions, Tokens())


def row(language: str | None = "de", task: str = "open", prompt_id: str = "p") -> Row:
    return Row(0, prompt_id, task=task, language=language, messages=[{"role": "user", "content": "Was ist Regen?"}])


def generate(
    plan: PlanConfig, target: Row, engine: DummyEngine | None = None, name: str = "x", **options: Any
) -> list[Candidate]:
    stage = GenerateStage(name, plan, 7, **options)
    return asyncio.run(stage(target, engine or Scripted())).candidates


def test_plans_ask_for_what_their_names_say() -> None:
    def shape(plan: PlanConfig) -> list[tuple[str, int, float]]:
        return [(r.origin, r.params.n, r.params.temperature) for r in plan.requests("x", "p", 1)]

    assert shape(Greedy()) == [("greedy", 1, 0.0)]
    assert shape(SingleTemperature(n=4, temperature=0.9)) == [("sample", 4, 0.9)]
    assert shape(Hedged(n=5)) == [("greedy", 1, 0.0), ("sample", 4, 0.7)]
    mixed = MixedTemperatures(n=4, temperatures=[0.0, 0.5, 1.0, 1.2])
    assert shape(mixed) == [("greedy", 1, 0.0), ("sample", 1, 0.5), ("sample", 1, 1.0), ("sample", 1, 1.2)]
    assert shape(MixedTemperatures(n=5, temperatures=[0.5, 1.0])) == [("sample", 3, 0.5), ("sample", 2, 1.0)]


def test_pruning_reaches_the_engine() -> None:
    params = SingleTemperature(n=2, top_p=0.9, top_k=20, min_p=0.05, stop=["x"]).requests("x", "p", 1)[0].params
    assert (params.top_p, params.top_k, params.min_p, params.stop) == (0.9, 20, 0.05, ("x",))


@pytest.mark.parametrize(
    "plan", [SingleTemperature(n=3), Hedged(n=4), MixedTemperatures(n=3, temperatures=[0.0, 0.5, 1.0])]
)
def test_seeds_differ_by_run_prompt_plan_entry_and_candidate(plan: PlanConfig) -> None:
    def seeds(name: str, prompt: str, run: int) -> list[int]:
        asked = [r.params for r in plan.requests(name, prompt, run)]
        return [p.seed + k for p in asked if p.seed is not None for k in range(p.n)]

    keys = [(name, f"p{i}", run) for name in ("x", "y") for i in range(50) for run in (1, 2)]
    made = [s for key in keys for s in seeds(*key)]
    assert len(made) == len(set(made)) == sum(r.params.n for r in plan.requests("x", "p", 1) if r.params.seed) * 200
    assert seeds("x", "p", 1) == seeds("x", "p", 1)


def test_identical_candidates_are_kept() -> None:
    texts = [c.text for c in generate(SingleTemperature(n=3), row(), Scripted(["a", "b", "a"]))]
    assert texts == ["a", "b", "a"]


def test_evidence_is_asked_for_in_another_language_and_checked() -> None:
    right, wrong = "Rain is water that falls from the clouds.", "Regen ist Wasser, das aus den Wolken fällt."
    engine = Scripted([right, wrong, wrong, wrong, right, wrong])
    found = generate(Evidence(n=3, redraws=2), row("de"), engine)
    assert [(c.text, c.origin, c.language) for c in found] == [(right, "evidence", "en")] * 2
    assert [params.n for _, params in engine.asked] == [3, 2, 1]  # redrawn twice, then dropped
    assert len({params.seed for _, params in engine.asked}) == 3
    prompt = engine.asked[0][0]
    assert prompt[-1]["content"].endswith("Answer in English only.")  # type: ignore[index]


def test_evidence_languages() -> None:
    plan = Evidence()
    found = [plan.answer_language(Open(), row(tag)) for tag in ("de", "en", "en-GB", "zh", None)]
    assert found == ["en", "zh", "zh", "en", "en"]
    assert Evidence(languages={"default": "en", "en": "zh", "ja": "ko"}).answer_language(Open(), row("ja")) == "ko"
    with pytest.raises(ConfigError, match=r"plans.e.languages.de: evidence must be in another language"):
        check_values(Evidence(languages={"default": "en", "de": "de-AT"}), "plans.e")
    with pytest.raises(ConfigError, match=r"plans.e.languages.default"):
        check_values(Evidence(languages={"en": "zh"}), "plans.e")
    raw = plan.prompt(Translation(target_language="de", raw=True), row("en"))
    assert isinstance(raw, str) and raw.startswith("Answer in Chinese only.\nEnglish: ") and raw.endswith("Chinese:")


def test_evidence_is_appended_to_a_set_that_exists() -> None:
    target = row("de")
    target.candidates = [Candidate("gegeben", plan="given", origin="given")]
    found = generate(Evidence(n=1), target, Scripted(["Rain is water that falls from the clouds."]), name="evidence")
    assert [(c.plan, c.origin) for c in found] == [("given", "given"), ("evidence", "evidence")]
    assert asyncio.run(SelectStage("s", Sample(), ("given",), 1)(target, None)).selections[0].text == "gegeben"


def test_several_generators_fill_one_candidate_set() -> None:
    target = row()
    for name, model in (("a", "teacher-a"), ("b", "teacher-b")):
        engine = DummyEngine(DummyEngineConfig(model=model))
        generate(SingleTemperature(n=1, temperature=0.3, candidate_set="teachers"), target, engine, name)
    assert [(c.model, c.plan) for c in target.plan("teachers")] == [
        ("teacher-a", "teachers"),
        ("teacher-b", "teachers"),
    ]
    assert target.candidates[0].seed != target.candidates[1].seed
    words = ["dummy", "plans.a={kind: single, candidate_set: t}", "plans.b={kind: single, candidate_set: t}"]
    assert load_config(words).sets() == ["hedged", "t"]


def test_failed_requests_leave_marked_candidates() -> None:
    class HalfBroken(Scripted):
        async def generate(self, prompt: Prompt, params: SamplingParams) -> Generation:
            if params.temperature == 0:
                raise EngineRequestError("no greedy today")
            return await super().generate(prompt, params)

    found = generate(Hedged(n=3), row(), HalfBroken())
    assert [(c.origin, c.text is None, c.error) for c in found] == [
        ("greedy", True, "no greedy today"),
        ("sample", False, None),
        ("sample", False, None),
    ]


def policy() -> Policy:
    return Policy(
        {
            "default": Rule(plan="hedged", selector="chops"),
            "maths": Rule(task="math", plan="cool", selector="vote"),
            "japanese": Rule(language="ja", plan="hedged", selector="mbr"),
            "japanese_maths": Rule(task="math", language="ja", plan="cooler", selector="vote"),
        }
    )


def test_the_most_specific_rule_wins() -> None:
    p = policy()
    cases = [("open", "de"), ("math", "de"), ("open", "ja"), ("math", "ja-JP")]
    assert [p.rule(row(language, task)).plan for task, language in cases] == ["hedged", "cool", "hedged", "cooler"]
    assert [p.rule(row(language, task)).selector for task, language in cases] == ["chops", "vote", "mbr", "vote"]


def test_the_policy_samples_one_plan_and_other_plans_for_everyone() -> None:
    def plans(target: Row) -> set[str]:
        for name in ("hedged", "cool", "cooler", "extra"):
            generate(SingleTemperature(n=1), target, name=name, policy=policy())
        return {c.plan for c in target.candidates}

    assert plans(row("de", "open")) == {"hedged", "extra"}
    assert plans(row("ja", "math")) == {"cooler", "extra"}


def test_the_policys_answer_has_one_name_for_all_rows() -> None:
    target = row("ja", "math")
    target.selections = [
        Selection("cooler", "vote", 1, "voted"),
        Selection("cooler", "sample", 0, "sampled"),
        Selection("extra", "sample", 0, "extra"),
    ]
    done = asyncio.run(PolicyStage(policy())(target, None))
    copies = {s.system: s.text for s in done.selections if s.plan == "policy"}
    assert copies == {"policy/policy": "voted", "policy/sample": "sampled"}
    again = asyncio.run(PolicyStage(policy())(done, None))
    assert len(again.selections) == 5  # running it twice doubles nothing


def test_the_policy_in_a_config() -> None:
    words = ["dummy", "plans.cool={kind: single, temperature: 0.3}"]
    words += ["policy.default={plan: hedged, selector: mbr}", "policy.m={task: math, plan: cool, selector: likelihood}"]
    config = load_config(words)
    assert set(config.systems()) == {"policy/policy"} | {
        f"policy/{s}" for s in config.selectors if s not in ("mbr", "likelihood")
    }
    assert config.system("sample", "judge.opponent") == "policy/sample"
    for word, part in [
        ("policy.m.plan=cold", "policy.m.plan"),
        ("policy.m.selector=vot", "policy.m.selector"),
        ("policy.default=null", "no rule without task and language"),
        ("policy.m.tsk=math", "'policy.m.tsk'"),
    ]:
        with pytest.raises(ConfigError) as error:
            load_config([*words, word])
        assert part in str(error.value)


def select(target: Row, **options: Any) -> Selection:
    return asyncio.run(SelectStage("s", Sample(), ("x",), 1, **options)(target, None)).selections[0]


def test_truncated_and_wrong_language_candidates_can_be_barred() -> None:
    target = row("de")
    target.candidates = [
        Candidate("Regen ist Wasser, das aus den Wolken", plan="x", finish_reason="length"),
        Candidate("Rain is water that falls from the clouds.", plan="x", finish_reason="stop"),
        Candidate("Regen ist Wasser aus den Wolken.", plan="x", finish_reason="stop"),
    ]
    assert select(target).index == 0
    assert select(target, bar_truncated=True).index == 1
    both = select(target, bar_truncated=True, bar_wrong_language=True)
    assert (both.index, both.detail) == (2, '{"barred": [0, 1]}')
    target.candidates.pop()
    lifted = select(target, bar_truncated=True, bar_wrong_language=True)
    assert (lifted.index, lifted.detail) == (0, '{"bars_lifted": [0, 1]}')


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Regen ist Wasser, das aus den Wolken fällt.", "de"),
        ("Rain is water that falls from the clouds.", "en-GB"),
        ("La lluvia es agua que cae de las nubes.", "es"),
        ("La pluie est de l'eau qui tombe des nuages.", "fr"),
        ("雨は雲から落ちてくる水です。", "ja"),
        ("Дождь — это вода, которая падает из облаков.", "ru"),
        ("雨是从云中落下的水。", "zh-Hans"),
    ],
)
def test_language_identification(text: str, language: str) -> None:
    assert is_language(text, language) is True
    assert is_language(text, "sw") is False


def test_what_cannot_be_told_is_not_called_wrong() -> None:
    for text in ("", "42", "ok", "\n\n", "🍋🍋🍋"):
        assert identify(text) is None
        assert is_language(text, "de") is None
    assert is_language("Regen ist Wasser.", None) is None


@pytest.mark.parametrize(
    "plan",
    [SingleTemperature(n=8), Hedged(n=8), MixedTemperatures(n=8), MixedTemperatures(n=3, temperatures=[0.0, 0.5, 1.0])],
)
def test_a_larger_set_begins_with_the_smaller_one(plan: PlanConfig) -> None:
    """What is sampled for the first ``have``, and then beyond them, is together what a fresh set of N samples."""

    def children(requests: Sequence[PlannedRequest]) -> Counter[tuple[float, int | None]]:
        return Counter(
            (r.params.temperature, None if r.params.seed is None else r.params.seed + k)
            for r in requests
            for k in range(r.params.n)
        )

    for have in range(2, plan.n):
        first = replace(plan, n=have).requests("plan", "p", 1)
        beyond = plan.further("plan", "p", 1, have)
        assert children(first) + children(beyond) == children(plan.requests("plan", "p", 1))
        assert all(r.params.n >= 1 for r in beyond)


def test_what_cannot_be_extended_is_refused() -> None:
    """Evidence that was drawn again, and a smaller N."""
    stage = GenerateStage("evidence", Evidence(n=4), 1)
    with pytest.raises(ResumeError, match="a finished evidence set cannot be extended"):
        stage.rest(["evidence"], {"evidence": {"n": 3}})
    assert stage.rest(["evidence"], {}).have == 0
    with pytest.raises(ResumeError, match="has 5 candidates per prompt, more than n=4"):
        GenerateStage("single", SingleTemperature(n=4), 1).rest(["single"], {"single": {"n": 5}})
