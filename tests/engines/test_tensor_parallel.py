"""Tensor parallelism where it can be tried: two processes of vLLM's CPU engine inside a Lemonpress actor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.engines.vllm import VLLMEngineConfig
from pipeline.execution.passes import PassSpec, run_pass
from pipeline.sampling.plans import Hedged
from pipeline.sampling.stage import GenerateStage
from tests.conftest import rows_of, run_with_prompts
from tests.execution.test_passes import quiet


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


@pytest.mark.ray
@pytest.mark.engine
@pytest.mark.usefixtures("ray_cluster")
def test_two_processes_give_the_tokens_of_one(tiny_llama: str, tmp_path: Path) -> None:
    texts: dict[int, list[Any]] = {}
    for size in (1, 2):
        engine = VLLMEngineConfig(
            model=tiny_llama,
            dtype="float32",
            max_model_len=256,
            max_num_seqs=8,
            tensor_parallel_size=size,
            engine_args={} if size == 1 else {"distributed_executor_backend": "mp"},
        )
        run = run_with_prompts(tmp_path / str(size), 6)
        stage = GenerateStage("hedged", Hedged(n=3, max_tokens=12), 1)
        summary = run_pass(PassSpec("generate", "generate", "prompts", "candidates", [stage], engine, 3), run, quiet())
        assert (summary.rows, summary.failed) == (6, 0)
        rows = rows_of(run, "candidates", "candidates")
        texts[size] = [[(c["text"], c["num_tokens"], c["seed"]) for c in row["candidates"]] for row in rows]
    assert texts[1] == texts[2]
    assert len({text for row in texts[1] for text, _, _ in row}) == 18  # nothing degenerate: all answers differ
