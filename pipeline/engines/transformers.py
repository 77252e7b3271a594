"""Reward models whose head vLLM does not serve, through Hugging Face transformers."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

from pipeline.core.bounds import bounded
from pipeline.core.errors import ConfigError, EngineRequestError, nearest
from pipeline.core.remote import model_path
from pipeline.core.row import Tokens
from pipeline.engines.base import ENGINES, Engine, EngineConfig, Prompt, Scored, require
from pipeline.engines.batching import BatchedEngine
from pipeline.engines.control import special_tokens
from pipeline.engines.text import chat_messages
from pipeline.engines.weights import refuse_pickles


@ENGINES.register("transformers")
@dataclass
class TransformersEngineConfig(EngineConfig):
    """Config of a reward model (one logit) run by transformers.

    Attributes:
        dtype: ``auto`` (the checkpoint's), ``float32``, ``bfloat16``, ...
        device: e.g. ``cuda`` or ``cpu``; ``null`` = a GPU where the worker sees one. On a Ray cluster it sees one
            when ``device`` is ``cuda`` or ``pool.num_gpus`` is set. ``auto`` spreads the layers over all GPUs that the
            worker sees (accelerate's ``device_map``): for a model that is larger than one, with ``pool.num_gpus``.
        batch_size: conversations per forward pass.
        max_length: tokens; a longer conversation is an error. ``null`` = what the model was made for.
        trust_remote_code: run Python code that comes with the model, with all your rights: only for a model
            whose code you have read, and with ``revision`` pinned to that commit.
        allow_pickle_weights: load weights that are a Python pickle (``.bin``, ``.pt``), too: only those that you trust.
        chat_template_kwargs: arguments of the chat template.
        model_class: the class of ``transformers`` to load the model with.
        head: ``linear``, transformers' own; ``mlp``, two linear layers with a ReLU between them (INF-ORM's).
    """

    decides: ClassVar[tuple[str, ...]] = ("dtype", "max_length", "chat_template_kwargs", "model_class", "head")
    model: str = bounded("", filled=True)
    dtype: str = "auto"
    device: str | None = None
    batch_size: int = bounded(8, ge=1)
    max_length: int | None = bounded(None, ge=1)
    trust_remote_code: bool = False
    allow_pickle_weights: bool = False
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)
    model_class: str = "AutoModelForSequenceClassification"
    head: str = bounded("linear", one_of=("linear", "mlp"))

    def capabilities(self) -> frozenset[str]:
        return frozenset({"reward"})

    def gpus(self) -> float:
        return 1.0 if (self.device or "").startswith("cuda") else 0.0

    def max_requests(self) -> int:
        return self.batch_size

    def ready(self, key: str) -> None:
        require("transformers", "torch", "transformers")
        if not self.allow_pickle_weights:
            refuse_pickles(model_path(self.model), key)

    def create(self) -> Engine:
        return TransformersEngine(self)


class TransformersEngine(BatchedEngine[tuple[Prompt, str]]):
    """See :class:`TransformersEngineConfig`."""

    def __init__(self, config: TransformersEngineConfig) -> None:
        super().__init__(config, config.batch_size)
        self.config = config

    async def stop(self) -> None:
        await super().stop()
        del self._model, self._tokenizer

    async def reward(self, prompt: Prompt, text: str) -> Scored:
        return await self._ask((prompt, text))

    def _load(self) -> None:
        config = self.config
        config.ready("engines.*")
        import torch
        import transformers

        auto = getattr(transformers, config.model_class, None)
        if auto is None:
            raise ConfigError(f"model_class: no {config.model_class!r}{nearest(config.model_class, dir(transformers))}")
        name = model_path(config.model)
        source: dict[str, Any] = {"revision": config.revision, "trust_remote_code": config.trust_remote_code}
        self._tokenizer: Any = transformers.AutoTokenizer.from_pretrained(name, **source)
        self._special = special_tokens(self._tokenizer)
        spread = {"device_map": "auto"} if config.device == "auto" else {}
        if config.head == "mlp":
            source["num_labels"] = 1
            auto = _with_mlp_head(auto, transformers.AutoConfig.from_pretrained(name, **source))
        plain = {} if config.allow_pickle_weights or name.endswith(".gguf") else {"use_safetensors": True}
        options = {"dtype": config.dtype, "output_loading_info": True, **spread, **plain, **source}
        model, info = auto.from_pretrained(name, **options)
        labels, missing = model.config.num_labels, sorted(info["missing_keys"])
        if labels != 1 or missing:  # a missing head would be filled with noise
            found = f"{labels} labels instead of 1, missing weights: {missing[:3]}"
            raise ConfigError(f"{config.model} is no reward model: {found}")
        device = config.device or ("cuda" if torch.cuda.is_available() else "cpu")
        self._model: Any = (model if spread else model.to(device)).eval()
        text_config = model.config.get_text_config()
        limits = (getattr(text_config, "max_position_embeddings", None), self._tokenizer.model_max_length)
        self._max_length = config.max_length or min(limit for limit in limits if limit)
        self._pad: int | None = text_config.pad_token_id

    def _score(self, requests: list[tuple[Prompt, str]]) -> list[Scored | EngineRequestError]:
        rows = [self._try(self._encode, prompt, text) for prompt, text in requests]
        encoded = [row for row in rows if not isinstance(row, EngineRequestError)]
        values = self._try(self._forward, encoded) if encoded else []
        if isinstance(values, EngineRequestError):  # one by one, so that a bad row does not fail its neighbours
            single = (self._try(self._forward, [row]) for row in encoded)
            values = [value if isinstance(value, EngineRequestError) else value[0] for value in single]
        rewards = iter(values)
        return [row if isinstance(row, EngineRequestError) else next(rewards) for row in rows]

    def _try(self, call: Any, *args: Any) -> Any:
        """The result of ``call``, or the error of this request; what breaks the device is raised."""
        import torch

        try:
            return call(*args)
        except EngineRequestError as error:
            return error
        except torch.AcceleratorError:  # no later call on this device can succeed
            raise
        except Exception as error:
            return EngineRequestError(f"{type(error).__name__}: {str(error)[:300]}")

    def _encode(self, prompt: Prompt, text: str) -> list[int]:
        """Token ids of the conversation with ``text`` as its answer."""
        if isinstance(prompt, str):
            ids: list[int] = self._tokenizer(prompt + text)["input_ids"]
        else:
            turns = chat_messages([*prompt, {"role": "assistant", "content": text}], self._special)
            rendered = self._tokenizer.apply_chat_template(turns, tokenize=False, **self.config.chat_template_kwargs)
            ids = self._tokenizer(rendered, add_special_tokens=False)["input_ids"]
        if not 0 < len(ids) <= self._max_length:
            raise EngineRequestError(f"the conversation has {len(ids)} tokens; the limit is {self._max_length}")
        return ids

    def _forward(self, rows: list[list[int]]) -> list[Scored | EngineRequestError]:
        import torch

        width = max(map(len, rows))
        pad = self._pad
        if pad is None:
            # The head reads the last token that is not padding, so without a token of the model's own any will do
            # that ends no row (an end token would: the score would be read one token early).
            ends = {row[-1] for row in rows}
            pad = next(token for token in range(len(rows) + 1) if token not in ends)
            self._model.config.get_text_config().pad_token_id = pad
        device = self._model.device
        ids = torch.tensor([row + [pad] * (width - len(row)) for row in rows], device=device)
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=device)
        with torch.inference_mode():
            logits = self._model(input_ids=ids, attention_mask=mask).logits
        return [
            Scored(value, Tokens(1, len(row))) if math.isfinite(value) else EngineRequestError(f"the score is {value}")
            for row, value in zip(rows, logits.float().squeeze(-1).tolist(), strict=True)
        ]


def _with_mlp_head(auto: Any, model_config: Any) -> Any:
    """The class that ``auto`` would load, its head replaced by two linear layers with a ReLU between them.

    Source: the model card of infly/INF-ORM-Llama3.1-70B, "Modified Score Head". The checkpoint must hold both layers:
    a missing weight is refused like any other.
    """
    from torch import nn

    base: Any = auto._model_mapping[type(model_config)] if hasattr(auto, "_model_mapping") else auto

    class WithMLPHead(base):  # type: ignore[misc]
        def __init__(self, config: Any) -> None:
            super().__init__(config)
            size = config.get_text_config().hidden_size
            self.score = nn.Sequential(nn.Linear(size, size), nn.ReLU(), nn.Linear(size, 1))
            self.post_init()

    return WithMLPHead
