"""Task look-up, the open task and translation."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from sacrebleu.metrics.chrf import CHRF

from pipeline.core.bounds import check_values
from pipeline.core.errors import ConfigError
from pipeline.core.row import Row
from pipeline.tasks import TASKS, Task, task_for
from pipeline.tasks.math import Math
from pipeline.tasks.open import Open
from pipeline.tasks.translation import Example, Translation, number_match

MESSAGES = [{"role": "system", "content": "s"}, {"role": "user", "content": "Hola\nmundo"}]


def row(task: str = "translation", language: str | None = "en", reference: str | None = None) -> Row:
    return Row(0, "p", task=task, language=language, reference=reference)


def test_a_rows_task_is_the_configured_one_else_its_kind_else_open() -> None:
    configured: dict[str, Task] = {"gsm": Math(), "math": Math(instructions={"en": "x"})}
    assert task_for(row("gsm"), configured) is configured["gsm"]
    assert task_for(row("math"), configured) is configured["math"]
    assert task_for(row("math")) == Math()
    assert task_for(row("gsm")) == task_for(row("open")) == Open()


def test_open_leaves_everything_alone() -> None:
    task = Open()
    assert task.instruct(MESSAGES, row("open")) is MESSAGES
    assert task.canonicalise("42", row("open")) is None
    assert task.verify("42", "42", row("open")) is None
    assert task.stops() == ()


@pytest.mark.parametrize("kind", list(TASKS))
def test_every_task_builds_strictly_from_config_and_says_its_source(kind: str) -> None:
    cls = TASKS.get(kind)
    assert cls.source and cls.__doc__
    built: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(cls), {"stop": ["###"]}))
    assert isinstance(built, cls)
    assert built.stops() == ("###",)


def test_translation_from_config_with_examples() -> None:
    data = {"source_language": "es", "raw": True, "few_shot": [{"source": "uno", "target": "one"}]}
    built: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Translation), data))
    assert built == Translation(source_language="es", raw=True, few_shot=[Example("uno", "one")])


def test_a_chat_model_is_told_to_output_the_translation_only() -> None:
    task = Translation(source_language="es", few_shot=[Example("uno", "one")])
    prompt = task.instruct(MESSAGES, row())
    told = "Translate the following Spanish text into English. Reply with the translation only, without explanations."
    assert prompt == [
        MESSAGES[0],
        {"role": "user", "content": f"{told}\n\nuno"},
        {"role": "assistant", "content": "one"},
        {"role": "user", "content": f"{told}\n\nHola\nmundo"},
    ]
    assert MESSAGES[1]["content"] == "Hola\nmundo"
    assert task.stops() == ()


def test_the_rows_language_is_the_target_or_with_a_target_the_source() -> None:
    unnamed = Translation().instruct(MESSAGES, row(language="ja"))
    assert not isinstance(unnamed, str)
    assert unnamed[-1]["content"].startswith("Translate the following text into Japanese.")
    into = Translation(target_language="en").instruct(MESSAGES, row(language="ja"))
    assert not isinstance(into, str)
    assert into[-1]["content"].startswith("Translate the following Japanese text into English.")


def test_a_base_model_completes_a_line() -> None:
    task = Translation(target_language="en", few_shot=[Example("uno", "one"), Example("dos", "two")], raw=True)
    prompt = task.instruct(MESSAGES, row(language="es"))
    assert prompt == "Spanish: uno\nEnglish: one\n\nSpanish: dos\nEnglish: two\n\nSpanish: Hola mundo\nEnglish:"
    assert task.stops() == ("\n",)


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ({"source_language": "en", "target_language": "en"}, "target_language"),
        ({"raw": True}, "source_language"),
        ({"instruction": "Into {language}"}, "instruction"),
        ({"instruction": "{"}, "instruction"),
        ({"instruction": "{source.x}"}, "instruction"),
        ({"few_shot": [Example("uno", "")]}, r"few_shot\[0\]\.target"),
        ({"stop": [""]}, r"stop\[0\]"),
    ],
)
def test_contradictions_name_their_key(config: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError, match=rf"^tasks\.x\.{key}: "):
        check_values(Translation(**config), "tasks.x")


@given(st.text())
def test_equal_translations_vote_together(text: str) -> None:
    task = Translation()
    canonical = task.canonicalise(text, row())
    assert task.canonicalise(f" {text}\n", row()) == canonical
    if canonical is not None:
        assert task.canonicalise(canonical, row()) == canonical
    assert task.canonicalise(" \n", row()) is None
    assert task.canonicalise("Cafe\u0301  au\nlait ", row()) == "Café au lait"


@given(st.text(max_size=60), st.text(max_size=60))
def test_quality_is_sacrebleus_sentence_chrf(text: str, reference: str) -> None:
    quality = Translation().verify(text, reference, row())
    if reference.strip():
        assert quality == pytest.approx(CHRF().sentence_score(text, [reference]).score / 100, abs=1e-12)
    else:
        assert quality is None
    assert Translation().verify(text, None, row()) is None


@pytest.mark.parametrize(
    ("language", "text", "reference", "share"),
    [
        ("hi", "१,२५० लोग", "1250 लोग", 1.0),
        ("ar", "١٬٢٥٠ و ٢٫٥", "1250 و 2.5", 1.0),
        ("ja", "１，２５０人", "1250人", 1.0),
        ("fr", "1 250 personnes et 2,5 %", "1250 personnes et 2.5 %", 1.0),
        ("de-CH", "1'250 Leute", "1250 Leute", 1.0),
        ("de", "1.250 Leute, 2,5 Prozent", "1,250 Leute, 2.5 Prozent", 1.0),
        ("zh", "8万5千人", "85000人", 1.0),
        ("en", "70k people", "70,000 people", 1.0),
        ("en", "2 billion", "2 million", 0.0),
        ("en", "10-15 on 12/05", "12 05 10 15", 1.0),
        ("en", "3 of 4", "3 of 5", 0.5),
        ("en", "none", "18", 0.0),
        ("en", "18", "none", None),
    ],
)
def test_numbers_of_a_translation_are_read_as_those_of_the_maths_task(
    language: str, text: str, reference: str, share: float | None
) -> None:
    assert number_match(text, reference, language) == share
