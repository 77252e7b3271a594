"""Room for verdicts, by engine: a model that is told to think writes its verdict, and is not held to a label."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.config.load import build_config
from pipeline.core.bounds import check_values
from pipeline.core.errors import ConfigError
from pipeline.engines.base import THINKING_TOKENS, VERDICT_TOKENS
from pipeline.engines.dummy import DummyEngine, DummyEngineConfig
from pipeline.engines.meter import Meter
from pipeline.engines.openai import OpenAIEngineConfig
from pipeline.engines.vllm import VLLMEngineConfig


@pytest.mark.parametrize(
    ("config", "thinks"),
    [
        (VLLMEngineConfig(model="m"), False),
        (VLLMEngineConfig(model="m", thinking=False), False),
        (VLLMEngineConfig(model="m", thinking=True), True),
        (VLLMEngineConfig(model="m", chat_template_kwargs={"enable_thinking": True}), True),
        (OpenAIEngineConfig(model="m"), False),
        (OpenAIEngineConfig(model="m", extra_body={"reasoning_effort": "low"}), True),
        (OpenAIEngineConfig(model="m", extra_body={"reasoning_effort": "none"}), False),
        (OpenAIEngineConfig(model="m", extra_body={"chat_template_kwargs": {"enable_thinking": True}}), True),
    ],
)
def test_a_model_that_thinks_has_room(config: Any, thinks: bool) -> None:
    assert config.verdict_room() == (THINKING_TOKENS if thinks else VERDICT_TOKENS)
    assert "verdict_tokens" not in config.identity()  # a job whose verdicts were cut resumes with more
    config.verdict_tokens = 7
    assert config.verdict_room() == 7


def test_an_in_process_model_that_thinks_writes_its_verdicts() -> None:
    assert "label_probs" in VLLMEngineConfig(model="m", thinking=False).capabilities()
    assert VLLMEngineConfig(model="m", thinking=True).capabilities() >= {"generate", "loglikelihood"}
    assert "label_probs" not in VLLMEngineConfig(model="m", thinking=True).capabilities()


def test_the_room_is_seen_through_a_meter_and_checked() -> None:
    assert Meter(DummyEngine(DummyEngineConfig(verdict_tokens=5))).verdict_tokens == 5
    with pytest.raises(ConfigError, match=r"engines\.generator\.verdict_tokens"):
        build_config({"engines": {"generator": {"kind": "dummy", "verdict_tokens": 0}}})
    with pytest.raises(ConfigError, match=r"e\.structured_output"):
        check_values(OpenAIEngineConfig(model="m", structured_output="maybe"), "e")
