"""The real vLLM engine on the real small model, against Hugging Face transformers as the reference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from pipeline.core.bounds import check_values
from pipeline.core.errors import ConfigError, EngineRequestError, PromptTooLong
from pipeline.engines.base import SamplingParams
from pipeline.engines.vllm import VLLMEngineConfig
from pipeline.engines.vllm_cpu import is_cpu_build
from tests.engines.runner import Runner

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]

QUESTION = [{"role": "user", "content": "Name three things to pack for a rainy hike."}]


def test_its_core_starts_where_vllm_is_imported_already(chat: Runner) -> None:
    if not is_cpu_build():
        pytest.skip("on the CPU only")
    below = psutil.Process().children(recursive=True)
    (core,) = [process for process in below if process.name().startswith("VLLM::Engine")]
    parent = core.parent()
    assert parent is not None
    assert any("forkserver" in word for word in parent.cmdline())


def reference_logprob(reference: Any, context: list[int], answer: list[int]) -> float:
    """Total log-probability of ``answer`` after ``context``, by one plain forward pass."""
    import torch

    model, _ = reference
    with torch.no_grad():
        logits = model(torch.tensor([context + answer])).logits[0].log_softmax(-1)
    return float(sum(logits[len(context) + i - 1, token] for i, token in enumerate(answer)))


def context_ids(reference: Any, prompt: Any = QUESTION) -> list[int]:
    _, tokenizer = reference
    return list(tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=True, return_dict=False))


def test_n_candidates_in_one_request(chat: Runner) -> None:
    params = SamplingParams(n=3, temperature=0.8, max_tokens=12, seed=100, min_p=0.05)
    result = chat(chat.engine.generate(QUESTION, params))
    assert [c.seed for c in result.completions] == [100, 101, 102]
    assert len({c.text for c in result.completions}) == 3
    assert all(c.finish_reason == "length" and c.num_tokens == 12 for c in result.completions)
    assert result.tokens.completion == 36
    assert result.tokens.prompt == len(chat.engine._prompt_ids(QUESTION))
    again = chat(chat.engine.generate(QUESTION, params))
    other = chat(chat.engine.generate(QUESTION, replace(params, seed=200)))
    assert [c.text for c in again.completions] == [c.text for c in result.completions]
    assert {c.text for c in other.completions}.isdisjoint(c.text for c in result.completions)


def test_shared_prefixes_are_served_from_the_cache(chat: Runner) -> None:
    long = [{"role": "user", "content": "Remember these words: " + "apple pear plum " * 80}]
    params = SamplingParams(temperature=0.0, max_tokens=1)
    first = chat(chat.engine.generate(long, params))
    second = chat(chat.engine.generate(long, params))
    assert first.tokens.prompt > 256
    assert second.tokens.cached >= 128  # whole blocks of 128 tokens on the CPU


def test_logprobs_equal_a_transformers_forward_pass(chat: Runner, reference: Any) -> None:
    _, tokenizer = reference
    prompt = [{"role": "user", "content": "Reply with the single word: yes"}]
    seen = set()
    requests = [
        SamplingParams(n=4, temperature=1.0, max_tokens=24, seed=3),
        SamplingParams(temperature=0.0, max_tokens=4),
    ]
    for params in requests:
        for c in chat(chat.engine.generate(prompt, params)).completions:
            answer = tokenizer.encode(c.text, add_special_tokens=False)
            if c.finish_reason == "stop":
                answer = [*answer, tokenizer.eos_token_id]
            if len(answer) != c.num_tokens:
                continue  # the text does not encode back to the tokens that were sampled
            expected = reference_logprob(reference, context_ids(reference, prompt), answer)
            assert c.logprob == pytest.approx(expected, abs=1e-3 * c.num_tokens)
            seen.add(c.finish_reason)
    assert seen == {"stop", "length"}


def test_self_certainty_is_exact_with_the_whole_vocabulary(chat: Runner, reference: Any) -> None:
    import math

    import torch

    model, tokenizer = reference
    size = model.config.vocab_size
    values = []
    for tokens in (20, 2000, size):
        params = SamplingParams(temperature=0.0, max_tokens=3, confidence_tokens=tokens)
        completion = chat(chat.engine.generate(QUESTION, params)).completions[0]
        values.append(completion.self_certainty)
    context = context_ids(reference)
    answer = tokenizer.encode(completion.text, add_special_tokens=False)
    assert len(answer) == 3
    with torch.no_grad():
        logits = model(torch.tensor([context + answer])).logits[0].log_softmax(-1)
    steps = logits[len(context) - 1 : len(context) + 2]
    exact = float((-steps.mean(-1) - math.log(size)).mean())
    assert values[2] == pytest.approx(exact, abs=2e-3)
    assert values[0] < values[1] < values[2]  # top-k bounds it from below


def test_likelihood_of_a_given_text_equals_transformers(chat: Runner, reference: Any) -> None:
    _, tokenizer = reference
    text = "Take a rain jacket and warm socks."
    answer = [*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id]
    result = chat(chat.engine.loglikelihood(QUESTION, text))
    assert result.num_tokens == len(answer)
    expected = reference_logprob(reference, context_ids(reference), answer)
    assert result.logprob == pytest.approx(expected, abs=1e-3 * len(answer))


def test_label_probabilities_equal_transformers(chat: Runner, reference: Any) -> None:
    import torch

    model, tokenizer = reference
    prefill = "The better answer is"
    result = chat(chat.engine.label_probs(QUESTION, ["A", "B", "C"], prefill))
    ids = [*context_ids(reference), *tokenizer.encode(prefill, add_special_tokens=False)]
    with torch.no_grad():
        probs = model(torch.tensor([ids])).logits[0, -1].softmax(-1)
    for label in ("A", "B", "C"):
        variants = {tokenizer.encode(form, add_special_tokens=False)[0] for form in (label, " " + label)}
        assert result.probs[label] == pytest.approx(float(sum(probs[i] for i in variants)), abs=1e-4)
    assert 0 < sum(result.probs.values()) < 1


def test_digits_are_labels_although_their_spaced_forms_start_alike(chat: Runner) -> None:
    result = chat(chat.engine.label_probs(QUESTION, ["1", "2", "3"], "My grade ("))
    assert sum(result.probs.values()) > 0.05
    assert all(p > 0 for p in result.probs.values())


def test_labels_that_start_alike_are_refused(chat: Runner) -> None:
    with pytest.raises(EngineRequestError, match="apart"):
        chat(chat.engine.label_probs(QUESTION, ["Apple", "Apple pie"]))


def test_structured_output(chat: Runner) -> None:
    params = SamplingParams(temperature=0.0, max_tokens=8, choice=("alpha", "beta"))
    assert chat(chat.engine.generate(QUESTION, params)).completions[0].text in ("alpha", "beta")


def test_raw_prompts_and_stop_strings(chat: Runner) -> None:
    params = SamplingParams(temperature=0.0, max_tokens=8, stop=(".",))
    completion = chat(chat.engine.generate("The capital of France is", params)).completions[0]
    assert "Paris" in completion.text
    assert completion.finish_reason == "stop"


def test_one_bad_request_leaves_the_engine_alive(chat: Runner) -> None:
    with pytest.raises(EngineRequestError, match="1023"):
        chat(chat.engine.generate([{"role": "user", "content": "word " * 3000}], SamplingParams(temperature=0.0)))
    with pytest.raises(EngineRequestError, match="greedy"):
        chat(chat.engine.generate(QUESTION, SamplingParams(n=2, temperature=0.0)))
    assert chat(chat.engine.generate(QUESTION, SamplingParams(temperature=0.0, max_tokens=1))).completions


def test_a_request_longer_than_the_context_is_refused_or_cut(chat: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    long = [{"role": "user", "content": "What is the capital of France? " + "lemon " * 20_000 + "Answer in one word."}]
    calls = [
        lambda: chat(chat.engine.generate(long, SamplingParams(max_tokens=8, temperature=0))),
        lambda: chat(chat.engine.label_probs(long, ["A", "B"])),
        lambda: chat(chat.engine.loglikelihood(long, "Paris")),
    ]
    for call in calls:
        with pytest.raises(PromptTooLong, match=r"\d+ tokens, but the model takes 1023; .*truncate_prompt"):
            call()
    with pytest.raises(PromptTooLong):
        chat(chat.engine.loglikelihood(QUESTION, "lemon " * 2000))
    monkeypatch.setattr(chat.engine.config, "truncate_prompt", True)
    generated, labels, likelihood = (call() for call in calls)
    assert generated.tokens.prompt == 1024 - 8 and generated.completions[0].text
    assert labels.tokens.prompt == 1023 and sum(labels.probs.values()) > 0
    assert likelihood.tokens.prompt == 1023 and likelihood.num_tokens == 2
    with pytest.raises(PromptTooLong, match="may not be cut"):
        chat(chat.engine.loglikelihood(QUESTION, "lemon " * 2000))
    short = chat(chat.engine.generate(QUESTION, SamplingParams(max_tokens=4, temperature=0)))
    assert len(short.completions) == 1


def test_reward_equals_transformers(
    reward: Runner, reference_reward: Callable[..., tuple[float, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    for text in ("Take a rain jacket.", "I like trains very much, and you?"):
        result = reward(reward.engine.reward(QUESTION, text))
        expected, tokens = reference_reward(QUESTION, text)
        assert result.value == pytest.approx(expected, abs=1e-2)
        assert result.tokens.prompt == tokens

    async def overflown(*_: Any, **__: Any) -> Any:
        return SimpleNamespace(outputs=SimpleNamespace(data=torch.tensor([float("inf")])))

    monkeypatch.setattr(reward.engine, "_encode", overflown)  # it would win against every other
    with pytest.raises(EngineRequestError, match="the score is inf"):
        reward(reward.engine.reward(QUESTION, "Take a rain jacket."))


def test_embeddings_equal_transformers(embedder: Runner, reference: Any) -> None:
    import torch

    model, tokenizer = reference
    with torch.no_grad():
        states = model.model(torch.tensor([tokenizer.encode("A small red boat")])).last_hidden_state
    expected = (states[0, -1] / states[0, -1].norm()).tolist()  # last-token pooling, normalised
    vector = embedder(embedder.engine.embed("A small red boat")).vector
    assert vector == pytest.approx(expected, abs=1e-3)


def test_config_mistakes_are_named() -> None:
    with pytest.raises(ConfigError, match=r"engines.x.runner.*'rewrd'"):
        check_values(VLLMEngineConfig(model="m", runner="rewrd"), "engines.x")
    with pytest.raises(ConfigError, match=r"engines.x.model"):
        check_values(VLLMEngineConfig(), "engines.x")
    with pytest.raises(ConfigError, match=r"engines.x.model: cache:nothing"):
        VLLMEngineConfig(model="cache:nothing").ready("engines.x")
