"""The real vLLM engine on the real small model, against Hugging Face transformers as the reference.

One engine per kind for the whole module: a start costs half a minute.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from types import SimpleNamespace
from typing import Any, TypeVar

import psutil
import pytest

from pipeline.engines.base import Engine, SamplingParams
from pipeline.engines.vllm import VLLMEngineConfig, _cpu_build
from pipeline.errors import ConfigError, EngineRequestError, PromptTooLong

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]

T = TypeVar("T")
QUESTION = [{"role": "user", "content": "Name three things to pack for a rainy hike."}]


class Runner:
    """An engine on an event loop of its own, as the worker hosts it."""

    def __init__(self, config: VLLMEngineConfig) -> None:
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        self.engine: Engine = config.create()
        self(self.engine.start())

    def __call__(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(timeout=600)

    def close(self) -> None:
        self(self.engine.stop())
        self.loop.call_soon_threadsafe(self.loop.stop)


@pytest.fixture(scope="module")
def chat(chat_model: str) -> Iterator[Runner]:
    config = VLLMEngineConfig(model=chat_model, dtype="float32", max_model_len=1024, max_num_seqs=16)
    runner = Runner(config)
    yield runner
    runner.close()


@pytest.fixture(scope="module")
def reference(chat_model: str) -> Any:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(chat_model, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(chat_model)


def test_its_core_starts_where_vllm_is_imported_already(chat: Runner) -> None:
    if not _cpu_build():
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
    assert result.tokens.prompt == chat(chat.engine.count_tokens(QUESTION))


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
    assert 0 < result.mass < 1


def test_digits_are_labels_although_their_spaced_forms_start_alike(chat: Runner) -> None:
    result = chat(chat.engine.label_probs(QUESTION, ["1", "2", "3"], "My grade ("))
    assert result.mass > 0.05
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
    long = [{"role": "user", "content": "What is the capital of France? " + "lemon " * 150_000 + "Answer in one word."}]
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
    assert labels.tokens.prompt == 1023 and labels.mass > 0
    assert likelihood.tokens.prompt == 1023 and likelihood.num_tokens == 2
    with pytest.raises(PromptTooLong, match="may not be cut"):
        chat(chat.engine.loglikelihood(QUESTION, "lemon " * 2000))
    short = chat(chat.engine.generate(QUESTION, SamplingParams(max_tokens=4, temperature=0)))
    assert len(short.completions) == 1


def test_reward_equals_transformers(reward_model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    runner = Runner(
        VLLMEngineConfig(model=reward_model, runner="reward", dtype="float32", max_model_len=512, max_num_seqs=8)
    )
    try:
        model = AutoModelForSequenceClassification.from_pretrained(reward_model, dtype=torch.float32).eval()
        tokenizer = AutoTokenizer.from_pretrained(reward_model)
        for text in ("Take a rain jacket.", "I like trains very much, and you?"):
            turns = [*QUESTION, {"role": "assistant", "content": text}]
            ids = tokenizer.apply_chat_template(turns, tokenize=True, return_dict=False)
            with torch.no_grad():
                expected = float(model(torch.tensor([ids])).logits[0, 0])
            result = runner(runner.engine.reward(QUESTION, text))
            assert result.value == pytest.approx(expected, abs=1e-2)
            assert result.tokens.prompt == len(ids)

        async def overflown(*_: Any) -> Any:
            return SimpleNamespace(outputs=SimpleNamespace(data=torch.tensor([float("inf")])))

        monkeypatch.setattr(runner.engine, "_encode", overflown)  # it would win against every other
        with pytest.raises(EngineRequestError, match="the score is inf"):
            runner(runner.engine.reward(QUESTION, "Take a rain jacket."))
    finally:
        runner.close()


def test_embeddings_equal_transformers(chat_model: str) -> None:
    import torch
    from transformers import AutoModel, AutoTokenizer

    runner = Runner(
        VLLMEngineConfig(model=chat_model, runner="embed", dtype="float32", max_model_len=256, max_num_seqs=8)
    )
    try:
        model = AutoModel.from_pretrained(chat_model, dtype=torch.float32).eval()
        ids = AutoTokenizer.from_pretrained(chat_model).encode("A small red boat")
        with torch.no_grad():
            state = model(torch.tensor([ids])).last_hidden_state[0, -1]  # last-token pooling, normalised
        expected = (state / state.norm()).tolist()
        assert runner(runner.engine.embed("A small red boat")).vector == pytest.approx(expected, abs=1e-3)
    finally:
        runner.close()


def test_config_mistakes_are_named() -> None:
    with pytest.raises(ConfigError, match=r"engines.x.runner.*'rewrd'"):
        VLLMEngineConfig(model="m", runner="rewrd").check("engines.x")
    with pytest.raises(ConfigError, match=r"engines.x.model"):
        VLLMEngineConfig().check("engines.x")
    with pytest.raises(ConfigError, match=r"engines.x.model: cache:nothing"):
        VLLMEngineConfig(model="cache:nothing").ready("engines.x")
