"""Real engines: one of each kind, because a start costs half a minute; and what they are compared with.

They end with the tests of this room: each holds some gigabytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pipeline.engines.vllm import VLLMEngineConfig
from tests.engines.runner import Runner, served


@pytest.fixture(scope="package")
def chat(chat_model: str) -> Iterator[Runner]:
    """vLLM with the small chat model: candidates, verdicts, likelihoods."""
    with Runner(VLLMEngineConfig(model=chat_model, dtype="float32", max_model_len=1024, max_num_seqs=64)) as runner:
        yield runner


@pytest.fixture(scope="package")
def reward(reward_model: str) -> Iterator[Runner]:
    """vLLM with the small reward model."""
    config = VLLMEngineConfig(model=reward_model, runner="reward", dtype="float32", max_model_len=512, max_num_seqs=8)
    with Runner(config) as runner:
        yield runner


@pytest.fixture(scope="package")
def embedder(chat_model: str) -> Iterator[Runner]:
    """vLLM with the small chat model as an embedding model."""
    config = VLLMEngineConfig(model=chat_model, runner="embed", dtype="float32", max_model_len=256, max_num_seqs=8)
    with Runner(config) as runner:
        yield runner


@pytest.fixture(scope="package")
def vllm_server(chat: Runner) -> Iterator[str]:
    """Base URL of vLLM's own OpenAI-compatible server, with ``chat`` behind it under the name ``small``."""
    with served(chat, "small") as url:
        yield url


@pytest.fixture(scope="package")
def reference(chat_model: str) -> tuple[Any, Any]:
    """(model, tokenizer) of the chat model in transformers."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(chat_model, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(chat_model)


@pytest.fixture(scope="package")
def reference_reward(reward_model: str) -> Callable[..., tuple[float, int]]:
    """``messages, text -> (score, tokens)`` by one plain forward pass of the reward model in transformers."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(reward_model, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(reward_model)

    def score(messages: list[Any], text: str) -> tuple[float, int]:
        turns = [*messages, {"role": "assistant", "content": text}]
        ids = tokenizer.apply_chat_template(turns, tokenize=True, return_dict=False)
        with torch.no_grad():
            return float(model(torch.tensor([ids])).logits[0, 0]), len(ids)

    return score
