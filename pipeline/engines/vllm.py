"""In-process vLLM (``AsyncLLM``). The only module that imports vLLM.

Tested with vLLM 0.32 (CPU build); the names used here exist from 0.29 to 0.33.
"""

from __future__ import annotations

import itertools
import logging
import math
import os
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from pipeline.core.bounds import bounded
from pipeline.core.errors import ConfigError, EngineDead, EngineRequestError
from pipeline.core.remote import model_path
from pipeline.core.row import Message, Tokens
from pipeline.engines import vllm_cpu
from pipeline.engines.base import (
    ENGINES,
    Completion,
    Embedding,
    Engine,
    EngineConfig,
    Generation,
    LabelProbs,
    LogLikelihood,
    Prompt,
    SamplingParams,
    Scored,
)
from pipeline.engines.certainty import self_certainty
from pipeline.engines.control import defuse, special_tokens, split
from pipeline.engines.text import chat_messages, fit, split_reasoning
from pipeline.engines.weights import refuse_pickles

logger = logging.getLogger(__name__)

_RUNNERS = {
    "generate": frozenset({"generate", "label_probs", "loglikelihood"}),
    "reward": frozenset({"reward"}),
    "embed": frozenset({"embed"}),
}
_POOLING = {"reward": "classify", "embed": "embed"}


@ENGINES.register("vllm")
@dataclass
class VLLMEngineConfig(EngineConfig):
    """Config of an in-process vLLM engine.

    Attributes:
        runner: ``generate``; ``reward`` (a sequence-classification model with one output); ``embed``.
        dtype: weights and activations; ``auto`` follows the model, or is ``float32`` on a processor that computes
            ``bfloat16`` some 50 times slower.
        max_model_len: longest prompt plus answer, in tokens; ``null`` follows the model.
        truncate_prompt: cut the middle out of requests that are longer than that, instead of failing them; a text that
            is scored is never cut.
        max_num_seqs: requests that the engine runs at once.
        tensor_parallel_size, pipeline_parallel_size: GPUs of one engine.
        allow_pickle_weights: load weights that are a Python pickle (``.bin``, ``.pt``), too: only those that you trust.
        engine_args: any other argument of vLLM's ``AsyncEngineArgs``, passed through (``quantization``, ...).
        chat_template: path of a Jinja chat template instead of the model's own.
        chat_template_kwargs: passed to the chat template.
        thinking: ``true``/``false`` is passed to the template as ``enable_thinking``; ``null`` leaves it alone.
        reasoning_tags: what opens and closes the model's thinking, which is kept apart from the answer.
        lora: path of a LoRA adapter.
        add_bos: put the tokenizer's BOS token before raw prompts whose tokenizer adds none.
    """

    # Not truncate_prompt: it changes nothing but rows that would fail, and may be set to retry these.
    decides: ClassVar[tuple[str, ...]] = (
        *("runner", "dtype", "max_model_len", "chat_template", "chat_template_kwargs", "thinking", "reasoning_tags"),
        *("lora", "add_bos", "engine_args"),
    )
    model: str = bounded("", filled=True, cure="a model's name or path")
    runner: str = bounded("generate", one_of=tuple(_RUNNERS))
    dtype: str = "auto"
    max_model_len: int | None = bounded(None, ge=1)
    truncate_prompt: bool = False
    max_num_seqs: int = bounded(256, ge=1)
    tensor_parallel_size: int = bounded(1, ge=1)
    pipeline_parallel_size: int = bounded(1, ge=1)
    allow_pickle_weights: bool = False
    engine_args: dict[str, Any] = field(default_factory=dict)
    chat_template: str | None = None
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)
    thinking: bool | None = None
    reasoning_tags: list[str] = field(default_factory=lambda: ["<think>", "</think>"])
    lora: str | None = None
    add_bos: bool = False

    def capabilities(self) -> frozenset[str]:
        able = _RUNNERS.get(self.runner, frozenset())
        # The first tokens of a model that thinks are no labels: its verdicts are written, and read.
        return able - {"label_probs"} if self.thinks() else able

    def thinks(self) -> bool:
        return bool(self.thinking or self.chat_template_kwargs.get("enable_thinking"))

    def check(self, key: str) -> None:
        if len(self.reasoning_tags) != 2:
            raise ConfigError(f"{key}.reasoning_tags: the opening and the closing tag, not {self.reasoning_tags}")

    def ready(self, key: str) -> None:
        path = model_path(self.model)
        if self.model.startswith(("cache:", "/", "./", "~")) and not os.path.isdir(path):
            hint = "; scripts/demo_model.py prepares the demo's models" if self.model.startswith("cache:") else ""
            raise ConfigError(f"{key}.model: {self.model}: no folder {path}{hint}")
        if self.chat_template and not os.path.isfile(self.chat_template):
            raise ConfigError(f"{key}.chat_template: no file {self.chat_template}")
        if not self.allow_pickle_weights:
            for folder in filter(None, (path, self.lora)):
                refuse_pickles(folder, key)

    def gpus(self) -> float:
        return 0.0 if vllm_cpu.is_cpu_build() else float(self.tensor_parallel_size * self.pipeline_parallel_size)

    def parallel(self) -> tuple[int, int]:
        return self.tensor_parallel_size, self.pipeline_parallel_size

    def can_spread(self) -> bool:
        return True

    def spread(self) -> VLLMEngineConfig:
        return replace(self, engine_args={**self.engine_args, "distributed_executor_backend": "ray"})

    def is_spread(self) -> bool:
        return self.engine_args.get("distributed_executor_backend") == "ray"

    def max_requests(self) -> int:
        return self.max_num_seqs

    def create(self) -> Engine:
        return VLLMEngine(self)


class VLLMEngine(Engine):
    """See :class:`VLLMEngineConfig`."""

    def __init__(self, config: VLLMEngineConfig) -> None:
        super().__init__(config)
        self.config = config
        self._ids = itertools.count()
        self._labels: dict[tuple[str, ...], dict[str, list[int]]] = {}
        self._llm: Any = None
        self._tokenizer: Any = None
        self._special: Any = None
        self._lora: Any = None
        self._template_arguments = dict(config.chat_template_kwargs)
        if config.thinking is not None:
            self._template_arguments["enable_thinking"] = config.thinking
        if config.chat_template:
            self._template_arguments["chat_template"] = Path(config.chat_template).read_text()

    async def start(self) -> None:
        self.config.ready("engines.*")
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        on_cpu = vllm_cpu.is_cpu_build()
        if on_cpu:
            vllm_cpu.set_environment(self.config.tensor_parallel_size)
            vllm_cpu.begin()
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.lora.request import LoRARequest
        from vllm.v1.engine import utils
        from vllm.v1.engine.async_llm import AsyncLLM

        if on_cpu:
            vllm_cpu.use(utils)
        self._llm = AsyncLLM.from_engine_args(AsyncEngineArgs(**self._engine_args()))
        self._tokenizer = self._llm.get_tokenizer()
        self._special = special_tokens(self._tokenizer)
        if self.config.lora:
            self._lora = LoRARequest("lora", 1, self.config.lora)

    def _engine_args(self) -> dict[str, Any]:
        config = self.config
        same = ("revision", "dtype", "max_num_seqs", "tensor_parallel_size", "pipeline_parallel_size")
        args: dict[str, Any] = {
            "model": model_path(config.model),
            **{name: getattr(config, name) for name in same},
            "disable_log_stats": True,
            "max_logprobs": -1,  # self-certainty asks for as many as the plan says
            "enable_lora": config.lora is not None,
        }
        if not config.allow_pickle_weights and not os.path.exists(args["model"]):
            args["load_format"] = "safetensors"  # of the hub's repositories: what is here was looked at (ready)
        if config.max_model_len is not None:
            args["max_model_len"] = config.max_model_len
        if config.runner in _POOLING:
            args |= {"runner": "pooling", "convert": _POOLING[config.runner]}
        if vllm_cpu.is_cpu_build():
            args |= vllm_cpu.arguments(config.max_model_len)
            if config.dtype == "auto" and not vllm_cpu.has_fast_bfloat16() and "dtype" not in config.engine_args:
                logger.warning("%s: this processor has no fast bfloat16: computing in float32", config.model)
                args["dtype"] = "float32"
        return args | config.engine_args

    async def stop(self) -> None:
        if self._llm is not None:
            self._llm.shutdown()
            self._llm = None

    def unfinished(self) -> int:
        return int(self._llm.output_processor.get_num_unfinished_requests()) if self._llm is not None else 0

    async def generate(self, prompt: Prompt, params: SamplingParams) -> Generation:
        from vllm.sampling_params import StructuredOutputsParams

        held = params.choice and not self.config.thinks()  # it would leave no room for the thoughts
        ids = self._fit(self._prompt_ids(prompt), params.max_tokens)
        output = await self._sample(
            ids,
            n=params.n,
            temperature=params.temperature,
            top_p=params.top_p,
            top_k=params.top_k,
            min_p=params.min_p,
            max_tokens=params.max_tokens,
            seed=params.seed,
            stop=list(params.stop) or None,
            logprobs=params.confidence_tokens,
            structured_outputs=StructuredOutputsParams(choice=list(params.choice)) if held else None,
        )
        opening, closing = self.config.reasoning_tags
        # Many chat templates open the thinking themselves, so that the text begins inside it.
        opened = self._tokenizer.decode(ids[-8:]).rstrip().endswith(opening)
        completions = []
        for child in sorted(output.outputs, key=lambda c: c.index):
            reasoning, text = split_reasoning(child.text, opening, closing, opened)
            completions.append(
                Completion(
                    text=text,
                    reasoning=reasoning,
                    finish_reason=child.finish_reason,
                    num_tokens=len(child.token_ids),
                    logprob=child.cumulative_logprob,
                    self_certainty=self._certainty(child.logprobs, params.confidence_tokens),
                    seed=params.seed_of(child.index),
                )
            )
        if len(completions) != params.n:
            raise EngineRequestError(f"asked for {params.n} candidates, got {len(completions)}")
        return Generation(completions, _tokens(output, sum(c.num_tokens for c in completions)))

    def _certainty(self, steps: Any, tokens: int) -> float | None:
        if not tokens:
            return None
        # A step lists the sampled token too, beside the top ones: keep the top ones.
        top = [sorted((item.logprob for item in step.values()), reverse=True)[:tokens] for step in steps]
        return self_certainty(top, self._llm.model_config.get_vocab_size())

    async def label_probs(self, prompt: Prompt, labels: Sequence[str], prefill: str = "") -> LabelProbs:
        variants = self._label_ids(tuple(labels))
        wanted = [i for ids in variants.values() for i in ids]
        begun = self._tokenizer.encode(prefill, add_special_tokens=False) if prefill else []
        ids = self._fit([*self._prompt_ids(prompt), *begun], 1)
        output = await self._sample(ids, temperature=0.0, max_tokens=1, logprob_token_ids=wanted)
        logprobs = output.outputs[0].logprobs[0]
        probs = {
            label: sum(math.exp(logprobs[i].logprob) for i in ids if i in logprobs) for label, ids in variants.items()
        }
        return LabelProbs(probs, _tokens(output, 1))

    async def loglikelihood(self, prompt: Prompt, text: str) -> LogLikelihood:
        answer = self._tokenizer.encode(defuse(text, self._special, split), add_special_tokens=False)
        if not isinstance(prompt, str) and self._tokenizer.eos_token_id is not None:
            answer = [*answer, self._tokenizer.eos_token_id]
        if not answer:
            raise EngineRequestError("an empty text has no log-likelihood")
        ids = self._fit([*self._prompt_ids(prompt), *answer], 1, whole=len(answer))
        output = await self._sample(ids, temperature=0.0, max_tokens=1, prompt_logprobs=0)
        positions = range(len(ids) - len(answer), len(ids))
        total = sum(output.prompt_logprobs[i][ids[i]].logprob for i in positions)
        return LogLikelihood(total, len(answer), _tokens(output, 1))

    async def reward(self, prompt: Prompt, text: str) -> Scored:
        if isinstance(prompt, str):
            raise EngineRequestError("a reward model scores conversations, not raw prompts")
        messages = [*prompt, {"role": "assistant", "content": text}]
        ids = self._fit(self._template(messages, add_generation_prompt=False), 0)
        output = await self._encode(ids, task="classify", use_activation=False)
        values = output.outputs.data.flatten().tolist()
        if len(values) != 1:
            raise EngineRequestError(f"{self.model} gives {len(values)} numbers per text; a reward model gives 1")
        if not math.isfinite(values[0]):
            raise EngineRequestError(f"the score is {values[0]}")
        return Scored(float(values[0]), _tokens(output, 0))

    async def embed(self, text: str) -> Embedding:
        ids = self._fit(self._tokenizer.encode(defuse(text, self._special, split)), 0)
        output = await self._encode(ids, task="embed")
        return Embedding([float(v) for v in output.outputs.data.flatten().tolist()], _tokens(output, 0))

    def _prompt_ids(self, prompt: Prompt) -> list[int]:
        if isinstance(prompt, str):
            ids = list(self._tokenizer.encode(prompt))
            bos = self._tokenizer.bos_token_id
            return [bos, *ids] if self.config.add_bos and bos is not None and ids[:1] != [bos] else ids
        return self._template(prompt, add_generation_prompt=True)

    def _fit(self, ids: list[int], reserve: int, whole: int = 0) -> list[int]:
        return fit(ids, self._llm.model_config.max_model_len, reserve, self.config.truncate_prompt, whole)

    def _template(self, messages: Sequence[Message], add_generation_prompt: bool) -> list[int]:
        options = {"add_generation_prompt": add_generation_prompt, "tokenize": True, "return_dict": False}
        turns = chat_messages(messages, self._special)
        try:
            return list(self._tokenizer.apply_chat_template(turns, **options, **self._template_arguments))
        except Exception as error:  # Jinja raises whatever the template author liked
            raise EngineRequestError(f"chat template: {error}") from error

    def _label_ids(self, labels: tuple[str, ...]) -> dict[str, list[int]]:
        """Label -> ids of its first token, with and without a space before it.

        A form whose first token several labels share says nothing (many tokenizers split `` 5`` into a space and a
        digit) and is left out.
        """
        if labels not in self._labels:
            encode = self._tokenizer.encode
            first = {
                label: {encode(form, add_special_tokens=False)[0] for form in (label, " " + label)} for label in labels
            }
            uses = Counter(i for ids in first.values() for i in ids)
            known = {label: sorted(i for i in ids if uses[i] == 1) for label, ids in first.items()}
            if not all(known.values()):
                raise EngineRequestError(f"{self.model}'s tokenizer does not tell the labels {labels} apart")
            self._labels[labels] = known
        return self._labels[labels]

    async def _sample(self, ids: list[int], **fields: Any) -> Any:
        from vllm import SamplingParams as VLLMParams
        from vllm.sampling_params import RequestOutputKind

        try:
            params = VLLMParams(output_kind=RequestOutputKind.FINAL_ONLY, **fields)
        except Exception as error:  # a combination that vLLM refuses
            raise EngineRequestError(str(error)) from error
        return await self._ask(self._llm.generate, ids, params, lora_request=self._lora)

    async def _encode(self, ids: list[int], **fields: Any) -> Any:
        from vllm import PoolingParams

        return await self._ask(self._llm.encode, ids, PoolingParams(**fields))

    async def _ask(self, call: Callable[..., AsyncIterator[Any]], ids: list[int], params: Any, **more: Any) -> Any:
        """The last output of one request; vLLM's exceptions become the engine's death, or this request's failure."""
        from vllm.inputs.llm import TokensPrompt
        from vllm.v1.engine.exceptions import EngineDeadError

        try:
            stream = call(TokensPrompt(prompt_token_ids=ids), params, str(next(self._ids)), **more)
            return [output async for output in stream][-1]
        except EngineDeadError as error:
            raise EngineDead(str(error)) from error
        except Exception as error:
            cause = error.__cause__ or error
            raise EngineRequestError(f"{type(cause).__name__}: {cause}") from error


def _tokens(output: Any, completion: int) -> Tokens:
    return Tokens(1, len(output.prompt_token_ids or []), output.num_cached_tokens or 0, completion)
