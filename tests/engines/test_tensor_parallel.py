"""Tensor parallelism where it can be tried: two processes of vLLM's CPU engine; the slow part inside a Ray actor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.engines.base import SamplingParams
from pipeline.engines.vllm import VLLMEngineConfig
from pipeline.sampling.plans import Hedged
from pipeline.sampling.stage import GenerateStage
from tests.conftest import rows_of, run_with_prompts
from tests.engines.runner import Runner
from tests.execution.harness import run_stages

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def tiny_llama(chat_model: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A random Llama of 4 heads (SmolLM2's 9 do not divide by 2), with SmolLM2's tokenizer."""
    import torch
    import transformers

    folder = tmp_path_factory.mktemp("tiny-llama")
    tokenizer = transformers.AutoTokenizer.from_pretrained(chat_model)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,  # heads of 64: the CPU attention has no kernel for 16
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.3,  # larger than usual: answers that differ clearly, whatever the order of sums
    )
    transformers.LlamaForCausalLM(config).to(torch.float32).save_pretrained(folder)
    return str(folder)


def config(model: str, size: int) -> VLLMEngineConfig:
    return VLLMEngineConfig(
        model=model,
        dtype="float32",
        max_model_len=256,
        max_num_seqs=8,
        tensor_parallel_size=size,
        engine_args={} if size == 1 else {"distributed_executor_backend": "mp"},
    )


def test_two_processes_give_the_tokens_of_one_forward_pass(tiny_llama: str) -> None:
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_llama)
    texts = []
    with Runner(config(tiny_llama, 2)) as runner:
        for i in range(4):
            asked = [{"role": "user", "content": f"question {i}"}]
            ids = tokenizer.apply_chat_template(
                asked, add_generation_prompt=True, return_tensors="pt", return_dict=False
            )
            params = SamplingParams(temperature=0.0, max_tokens=12)
            (answer,) = runner(runner.engine.generate(asked, params)).completions
            with torch.no_grad():
                whole = model.generate(ids, max_new_tokens=12, do_sample=False, pad_token_id=tokenizer.eos_token_id)
                new = whole[0, ids.shape[1] :]
                logits = model(whole).logits[0].log_softmax(-1)
            assert answer.num_tokens == len(new)
            assert answer.text == tokenizer.decode(new, skip_special_tokens=True)
            expected = sum(logits[ids.shape[1] + k - 1, token] for k, token in enumerate(new))
            assert answer.logprob == pytest.approx(float(expected), abs=1e-3)
            texts.append(answer.text)
    assert len(set(texts)) == 4  # nothing degenerate: all answers differ


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_two_processes_inside_an_actor_give_the_tokens_of_one(tiny_llama: str, tmp_path: Path) -> None:
    texts: dict[int, list[Any]] = {}
    for size in (1, 2):
        run = run_with_prompts(tmp_path / str(size), 6)
        stage = GenerateStage("hedged", Hedged(n=3, max_tokens=12), 1)
        summary = run_stages(run, [stage], config(tiny_llama, size))
        assert (summary.rows, summary.failed) == (6, 0)
        rows = rows_of(run, "candidates", "candidates")
        texts[size] = [[(c["text"], c["num_tokens"], c["seed"]) for c in row["candidates"]] for row in rows]
    assert texts[1] == texts[2]
    assert len({text for row in texts[1] for text, _, _ in row}) == 18  # nothing degenerate: all answers differ
