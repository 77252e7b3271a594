"""The transformers engine on a tiny random reward model, and on the real small one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from pipeline.core.bounds import check_values
from pipeline.core.errors import ConfigError, EngineDead, EngineRequestError
from pipeline.engines.base import Engine
from pipeline.engines.transformers import TransformersEngine, TransformersEngineConfig

T = TypeVar("T")
WORDS = [f"w{i}" for i in range(40)]
TEMPLATE = "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} {{ end }} {% endfor %}"
TEMPLATE += "{% if add_generation_prompt %}assistant {% endif %}"
CHATS = [
    ([{"role": "user", "content": " ".join(WORDS[k : k + length])}], " ".join(WORDS[k + 1 : k + 1 + 2 * length]))
    for k, length in enumerate((1, 9, 3, 14, 2, 5, 5))
]


def save_model(folder: Path, labels: int = 1, pad_token_id: int | None = 1) -> Path:
    """A random two-layer Llama with a classification head, and a word tokenizer with a chat template."""
    import torch
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = {w: i for i, w in enumerate(["[unk]", "[pad]", "[end]", "user", "assistant", *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="[unk]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[unk]", eos_token="[end]")
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        pad_token_id=pad_token_id,
        eos_token_id=2,
        num_labels=labels,
    )
    transformers.LlamaForSequenceClassification(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("tiny"))


def config_of(folder: Path, **options: Any) -> TransformersEngineConfig:
    return TransformersEngineConfig(
        **{
            "model": str(folder),
            "dtype": "float32",
            "device": "cpu",
            "chat_template_kwargs": {"end": "[end]"},
            **options,
        }
    )


def run(config: TransformersEngineConfig, call: Callable[[TransformersEngine], Awaitable[T]]) -> T:
    async def main() -> T:
        engine = config.create()
        assert isinstance(engine, Engine) and isinstance(engine, TransformersEngine)
        await engine.start()
        try:
            return await call(engine)
        finally:
            await engine.stop()

    return asyncio.run(main())


def rewards(config: TransformersEngineConfig, chats: list[Any]) -> list[Any]:
    async def together(engine: Engine) -> list[Any]:
        return await asyncio.gather(*(engine.reward(*chat) for chat in chats), return_exceptions=True)

    return run(config, together)


def direct(folder: Path, chats: list[Any], **template: Any) -> list[float]:
    """The scores by one plain forward pass per conversation."""
    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    scores = []
    for messages, text in chats:
        conversation = [*messages, {"role": "assistant", "content": text}]
        rendered = tokenizer.apply_chat_template(conversation, tokenize=False, **template)
        ids = tokenizer(rendered, add_special_tokens=False, return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            scores.append(model(input_ids=ids).logits.item())
    return scores


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_rewards_equal_a_direct_forward_pass(tiny: Path, batch_size: int) -> None:
    results = rewards(config_of(tiny, batch_size=batch_size), CHATS)
    expected = direct(tiny, CHATS, end="[end]")
    assert [r.value for r in results] == pytest.approx(expected, abs=1e-5)
    assert len({round(score, 4) for score in expected}) == len(CHATS)  # the test can tell them apart
    assert results[0].tokens.prompt == 7 and results[0].tokens.requests == 1


def test_a_model_without_a_padding_token_is_read_at_its_last_token(tmp_path: Path) -> None:
    folder = save_model(tmp_path, pad_token_id=None)  # every conversation ends with the end token
    results = rewards(config_of(folder), CHATS)
    assert [r.value for r in results] == pytest.approx(direct(folder, CHATS, end="[end]"), abs=1e-5)


def test_a_head_of_two_layers_spread_by_accelerate(tiny: Path, tmp_path: Path) -> None:
    """INF-ORM's layout: a stock Llama whose ``score`` is Linear, ReLU, Linear, in a config that says 2 labels."""
    import torch
    import transformers
    from safetensors.torch import load_file, save_file

    save_model(tmp_path, labels=2)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["score.weight"]
    torch.manual_seed(1)
    head = torch.nn.Sequential(torch.nn.Linear(32, 32), torch.nn.ReLU(), torch.nn.Linear(32, 1))
    weights |= {f"score.{name}": value for name, value in head.state_dict().items()}
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})

    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    body = transformers.LlamaModel.from_pretrained(tmp_path, dtype=torch.float32).eval()
    expected = []
    for messages, text in CHATS:
        conversation = [*messages, {"role": "assistant", "content": text}]
        rendered = tokenizer.apply_chat_template(conversation, tokenize=False, end="[end]")
        ids = tokenizer(rendered, add_special_tokens=False, return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            expected.append(head(body(input_ids=ids).last_hidden_state[0, -1]).item())
    for device in ("cpu", "auto"):
        results = rewards(config_of(tmp_path, head="mlp", device=device), CHATS)
        assert [r.value for r in results] == pytest.approx(expected, abs=1e-5)
    with pytest.raises(ConfigError, match=r"missing weights: \['score.0.bias'"):
        rewards(config_of(tiny, head="mlp"), CHATS)


def test_a_long_conversation_fails_alone(tiny: Path) -> None:
    chats = [CHATS[0], (CHATS[1][0], "w1 " * 70), CHATS[2]]
    short, long, other = rewards(config_of(tiny), chats)
    assert isinstance(long, EngineRequestError)
    assert str(long) == "the conversation has 83 tokens; the limit is 64"
    assert [short.value, other.value] == pytest.approx(direct(tiny, [CHATS[0], CHATS[2]], end="[end]"), abs=1e-5)
    (limited,) = rewards(config_of(tiny, max_length=6), CHATS[:1])
    assert "7 tokens; the limit is 6" in str(limited)


def test_a_bad_row_does_not_fail_its_neighbours(tiny: Path) -> None:
    async def call(engine: TransformersEngine) -> list[Any]:
        forward, sizes = engine._forward, []

        def picky(rows: list[list[int]]) -> Any:
            sizes.append(len(rows))
            if any(len(row) > 40 for row in rows):
                raise RuntimeError("out of memory")
            return forward(rows)

        engine._forward = picky  # type: ignore[method-assign]
        results = await asyncio.gather(*(engine.reward(*chat) for chat in CHATS[:4]), return_exceptions=True)
        return [sizes, *results]

    sizes, *results = run(config_of(tiny), call)
    assert sizes[-5:] == [4, 1, 1, 1, 1]
    assert str(results[3]) == "RuntimeError: out of memory"
    assert [r.value for r in results[:3]] == pytest.approx(direct(tiny, CHATS[:3], end="[end]"), abs=1e-5)


def test_a_broken_device_is_the_end_of_the_engine(tiny: Path) -> None:
    import torch

    async def call(engine: TransformersEngine) -> list[Any]:
        def broken(rows: list[list[int]]) -> Any:
            raise torch.AcceleratorError("device-side assert")

        engine._forward = broken  # type: ignore[method-assign]
        first = await asyncio.gather(*(engine.reward(*chat) for chat in CHATS), return_exceptions=True)
        return [*first, *await asyncio.gather(engine.reward(*CHATS[0]), return_exceptions=True)]

    results = run(config_of(tiny, batch_size=2), call)
    assert len(results) == len(CHATS) + 1 and all(isinstance(r, EngineDead) for r in results)


def test_stop_leaves_nobody_waiting(tiny: Path) -> None:
    async def call(engine: TransformersEngine) -> list[Any]:
        waiting = [asyncio.ensure_future(engine.reward(*chat)) for chat in CHATS]
        waiting[0].cancel()
        await asyncio.sleep(0)
        await engine.stop()
        return await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 10)

    config = config_of(tiny, batch_size=1)

    async def main() -> list[Any]:
        engine = TransformersEngine(config)
        await engine.start()
        return await call(engine)

    results = asyncio.run(main())
    assert {type(r) for r in results[1:]} == {EngineDead}


def test_raw_prompts_and_messages(tiny: Path) -> None:
    async def call(engine: Engine) -> None:
        plain = await engine.reward("user w0 [end] assistant ", "w1 w2 [end]")
        assert plain.value == pytest.approx((await engine.reward(*CHATS[0])).value, abs=1e-5)
        with pytest.raises(EngineRequestError, match="tool_calls"):
            await engine.reward([{"role": "user", "content": "w1", "tool_calls": "{"}], "w2")
        with pytest.raises(EngineRequestError, match="0 tokens"):
            await engine.reward("", "")

    run(config_of(tiny), call)


def test_what_is_no_reward_model_is_refused(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="2 labels instead of 1"):
        rewards(config_of(save_model(tmp_path, labels=2)), CHATS)
    with pytest.raises(ConfigError, match="did you mean 'AutoModelForSequenceClassification'"):
        rewards(config_of(tiny, model_class="AutoModelForSequenceClasification"), CHATS)


def test_a_checkpoint_without_a_head_is_refused(tiny: Path, tmp_path: Path) -> None:
    """transformers fills a missing head with noise and only warns: every score would be random."""
    import transformers

    config = transformers.AutoConfig.from_pretrained(tiny)
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path)
    transformers.AutoTokenizer.from_pretrained(tiny).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"missing weights: \['score.weight'\]"):
        rewards(config_of(tmp_path), CHATS)


def test_check_names_the_key() -> None:
    for key, options in (("model", {}), ("batch_size", {"batch_size": 0}), ("max_length", {"max_length": 0})):
        config = TransformersEngineConfig(**({"model": "m"} if options else {}) | options)  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match=rf"^engines\.x\.{key}: "):
            check_values(config, "engines.x")
    assert TransformersEngineConfig(model="m", device="cuda").gpus() == 1.0
    assert TransformersEngineConfig(model="m").gpus() == 0.0


@pytest.mark.engine
@pytest.mark.timeout(300)
def test_the_real_small_model(reward_model: str, reference_reward: Callable[..., tuple[float, int]]) -> None:
    question = [{"role": "user", "content": "What is the capital of France?"}]
    chats = [(question, "Paris."), (question, "The capital of France is Paris, on the Seine. " * 4), (question, "No.")]
    results = rewards(config_of(Path(reward_model), chat_template_kwargs={}), chats)
    assert [r.value for r in results] == pytest.approx([reference_reward(*chat)[0] for chat in chats], abs=1e-3)
