"""Task metrics of candidates, new texts and outside answers."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from sacrebleu import sentence_bleu, sentence_chrf

from pipeline.config.config import Config
from pipeline.config.load import build_config
from pipeline.core.bounds import check_values
from pipeline.core.errors import ConfigError, EngineRequestError
from pipeline.core.row import Answer, Candidate, Row, RowError, Score, Selection, Tokens
from pipeline.core.units import Made
from pipeline.engines.base import Scored
from pipeline.execution.schedule import Plan
from pipeline.jobs import generate, select
from pipeline.sampling.plans import SingleTemperature
from pipeline.sampling.stage import GenerateStage
from pipeline.selection.mbr import MBR
from pipeline.selection.stage import SelectStage
from pipeline.tasks.measure import MeasureStage, QualityStage
from pipeline.tasks.translation import Example, Translation, number_match
from tests.conftest import run_with_prompts

REFERENCE = "Janet sells 16 eggs a day for $2 each at the market in town."
GOOD = "Janet sells 16 eggs every day for $2 each at the town market."
SPANISH = "Janet vende 16 huevos al día por 2 dólares cada uno en el mercado."


def row(**values: Any) -> Row:
    base: dict[str, Any] = {
        "row_id": 0,
        "prompt_id": "p",
        "task": "translation",
        "language": "es",
        "messages": [{"role": "user", "content": SPANISH}],
        "reference": REFERENCE,
    }
    return Row(**{**base, **values})


def measure(row: Row, **translation: Any) -> dict[tuple[str, str], list[float | None]]:
    stage = MeasureStage({"translation": Translation(**{"target_language": "en", **translation})})
    asyncio.run(stage(row, None))
    return {(s.scorer, s.plan): s.values for s in row.scores}


def test_candidates_new_texts_and_outside_answers_are_measured() -> None:
    texts = [GOOD, SPANISH, None]
    found = measure(
        row(
            candidates=[*(Candidate(text=t, plan="hot") for t in texts), Candidate("x", plan="ev", origin="evidence")],
            selections=[Selection("hot", "fusion", -1, REFERENCE), Selection("hot", "mbr", 0, GOOD)],
            answers=[Answer("copy", SPANISH), Answer("gone", None)],
        )
    )
    assert {plan for _, plan in found} == {"hot", "answer:hot/fusion", "answer:copy", "answer:gone"}
    chrf, bleu = found["metric:chrf", "hot"], found["metric:bleu", "hot"]
    assert chrf[0] == pytest.approx(sentence_chrf(GOOD, [REFERENCE]).score / 100)
    assert bleu[0] == pytest.approx(sentence_bleu(GOOD, [REFERENCE], use_effective_order=True).score / 100)
    assert chrf[2] is bleu[2] is found["metric:language", "hot"][2] is None
    assert found["metric:language", "hot"][:2] == [1.0, 0.0]  # asked for English
    assert found["metric:chrf", "answer:hot/fusion"] == [1.0]
    assert found["metric:chrf", "answer:gone"] == [None]
    assert found["metric:numbers", "answer:copy"] == [1.0]


def test_without_a_reference_only_the_language_is_measured() -> None:
    found = measure(row(reference=None, candidates=[Candidate(text=GOOD, plan="hot")]))
    assert found["metric:chrf", "hot"] == [None] and found["metric:language", "hot"] == [1.0]


def test_what_is_measured_is_not_measured_again_and_unreadable_rows_are_left_alone() -> None:
    known = row(candidates=[Candidate(text=GOOD, plan="hot")], scores=[Score("metric:language", "hot", [0.5])])
    assert measure(known) == {("metric:language", "hot"): [0.5]}
    assert measure(row(candidates=[Candidate("a", plan="x")], errors=[RowError("prompts", "read", "E", "m")])) == {}


def test_math_gives_accuracy_and_open_prompts_give_the_language() -> None:
    found = measure(row(task="math", reference="18", candidates=[Candidate(text="#### 18"), Candidate(text="17")]))
    assert found["metric:accuracy", ""] == [1.0, 0.0]
    found = measure(row(task="open", candidates=[Candidate(text=SPANISH)]))
    assert found == {("metric:language", ""): [1.0]}


@pytest.mark.parametrize(
    ("text", "reference", "share"),
    [
        ("16 and 2", "2 then 16", 1.0),
        ("1,000 or 2.50", "1000, 2.50", 1.0),
        ("16", "16 and 16", 0.5),
        ("16 2 9 9", "16 2", 0.5),
        ("none", "16", 0.0),
        ("16", "sixteen", None),
        ("１６", "16", 1.0),
    ],
)
def test_number_match(text: str, reference: str, share: float | None) -> None:
    assert number_match(text, reference) == share


def test_examples_are_shown_to_their_language_only() -> None:
    shots = [Example("uno", "one", "es"), Example("un", "one", "fr-CA"), Example("x", "y")]
    task = Translation(target_language="en", raw=True, few_shot=shots)
    prompt = task.instruct(row().messages, row())
    assert isinstance(prompt, str)
    assert "Spanish: uno" in prompt and "Spanish: x" in prompt and "un\n" not in prompt
    assert prompt.endswith(f"Spanish: {SPANISH}\nEnglish:")


class _NoEngine:
    model, revision = "m", None


def test_a_plan_for_some_languages_leaves_other_rows_alone() -> None:
    stage = GenerateStage("hot", SingleTemperature(only_languages=["ja", "de-AT"]), 1)
    assert asyncio.run(stage(row(), _NoEngine())).candidates == []  # type: ignore[arg-type]
    with pytest.raises(AttributeError):
        asyncio.run(stage(row(language="de"), _NoEngine()))  # type: ignore[arg-type]
    pool = row(candidates=[Candidate("a", plan="cool")])
    chosen = SelectStage("mbr", MBR(), ("hot", "cool"), 1, only_languages={"hot": ["ja"], "cool": ["es"]})
    assert [s.system for s in asyncio.run(chosen(pool, None)).selections] == ["cool/mbr"]


def test_a_set_is_for_all_languages_when_one_of_its_plans_is() -> None:
    plans = {
        "hot": SingleTemperature(only_languages=["ja"]),
        "a": SingleTemperature(candidate_set="pool", only_languages=["ja"]),
        "b": SingleTemperature(candidate_set="pool"),
    }
    assert Config(plans=dict(plans)).only_languages() == {"hot": ["ja"]}


def test_origins_restrict_who_takes_part() -> None:
    pool = [
        Candidate(t, plan="hedged", origin=o)
        for t, o in (("a a a b", "greedy"), ("a a b b", "sample"), ("c", "sample"))
    ]
    for origins, scored in ((["sample"], [False, True, True]), ([], [True, True, True])):
        done = asyncio.run(SelectStage("mbr", MBR(origins=origins), ("hedged",), 1)(row(candidates=list(pool)), None))
        assert [v is not None for v in done.scores[0].values] == scored
    with pytest.raises(ConfigError, match=r"selectors\.mbr\.origins.*did you mean 'sample'"):
        check_values(MBR(origins=["samples"]), "selectors.mbr")


class _Judge:
    """An engine that tells the quality of everything but one text."""

    model, revision = "m", None

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, str]] = []

    async def quality(self, source: str, text: str, reference: str) -> Scored:
        self.asked.append((source, text, reference))
        if text == "bad":
            raise EngineRequestError("too long")
        return Scored(len(text) / 10, Tokens())


def learned(row: Row, tasks: tuple[str, ...] = ("translation",)) -> tuple[Row, _Judge]:
    engine = _Judge()
    return asyncio.run(QualityStage("xcomet", tasks, "select")(row, engine)), engine  # type: ignore[arg-type]


def test_a_learned_metric_is_asked_once_per_text_and_one_failure_is_kept() -> None:
    texts = ["abc", "bad", None, "abc"]
    done, engine = learned(
        row(
            candidates=[Candidate(text=t, plan="hot") for t in texts],
            selections=[Selection("hot", "fusion", -1, "abcde"), Selection("policy", "policy", 0, "abc")],
            answers=[Answer("outside", "ab")],
        )
    )
    found = {s.plan: s.values for s in done.scores if s.scorer == "metric:xcomet"}
    assert found["hot"] == [0.3, None, None, 0.3]
    assert found["answer:hot/fusion"] == [0.5] and found["answer:policy/policy"] == [0.3]
    assert found["answer:outside"] == [0.2]
    assert sorted(engine.asked) == [(SPANISH, t, REFERENCE) for t in ("ab", "abc", "abcde", "bad")]
    assert [(e.job, e.stage, e.message) for e in done.errors] == [("select", "metric:xcomet", "too long")]
    again, engine = learned(done)
    assert engine.asked == [] and len(again.scores) == 4


def test_a_learned_metric_leaves_other_tasks_alone_and_needs_a_reference() -> None:
    done, engine = learned(row(task="open", candidates=[Candidate(text="a", plan="hot")]))
    assert done.scores == [] and engine.asked == []
    done, engine = learned(row(reference=" ", candidates=[Candidate(text="a", plan="hot")]))
    assert [s.values for s in done.scores] == [[None]] and engine.asked == []


def test_metrics_are_checked() -> None:
    engines = {"x": {"kind": "dummy"}, "chat": {"kind": "transformers", "model": "m"}}
    for metrics, message in (
        ({"chrf": {"engine": "x"}}, r"metrics\.chrf: the task 'translation' has a metric of that name"),
        ({"language": {"engine": "x"}}, r"metrics\.language: "),
        ({"a/b": {"engine": "x"}}, r"metrics\.a/b: a metric's name"),
        ({"y": {"engine": "z"}}, r"metrics\.y\.engine: no engine is called 'z'"),
        ({"y": {"engine": "chat"}}, r"metrics\.y\.engine: engine 'chat' cannot quality"),
        ({"y": {"engin": "x"}}, r"metrics\.y\.engin'; did you mean 'engine'"),
    ):
        with pytest.raises(ConfigError, match=message):
            build_config({"engines": engines, "metrics": metrics})


def test_metrics_of_engines_come_last_in_passes_of_their_own(tmp_path: Path) -> None:
    engines = {name: {"kind": "dummy", "model": name} for name in ("generator", "reward", "judge", "x")}
    base: dict[str, Any] = {"engines": engines, "judge": {"engine": None}}
    early = {"best_of_n": {"engine": "reward"}, "judge": {"engine": "judge"}, "sample": {}}

    def passes(selectors: dict[str, Any], *metrics: str) -> list[list[str]]:
        named = {f"m_{name}": {"engine": name} for name in metrics}
        config = build_config({**base, "selectors": selectors, "metrics": named})
        run = run_with_prompts(tmp_path / f"{len(selectors)}-{'-'.join(metrics)}", 4)
        steps = [*generate.steps(config)]
        steps += select.steps(config, Made(step.made() for step in steps))
        plan = Plan(run, steps, config.engines, (run.marker("prompts") or {})["sizes"])
        return [[stage.name for one in group for stage in one.spec.stages] for group in plan.passes()]

    first, second, third, fourth = passes(early, "x")
    assert first == ["generate:hedged", "select:sample"] and second == ["select:best_of_n"]
    assert third == ["select:judge", "measure"] and fourth == ["metric:m_x"]
    assert passes({"sample": {}}, "x") == [["generate:hedged", "select:sample", "measure"], ["metric:m_x"]]
    # an engine that was at work before the last selector gets a second pass: new texts come from that one
    again = passes(early, "reward", "judge")
    assert [p[-1] for p in again[1:]] == ["select:best_of_n", "metric:m_judge", "metric:m_reward"]
