"""Any OpenAI-compatible endpoint: OpenAI's own, a vLLM server, or another provider."""

from __future__ import annotations

import asyncio
import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar
from urllib.parse import urlsplit

from pipeline.core.bounds import bounded
from pipeline.core.errors import ConfigError, EngineRequestError, PromptTooLong
from pipeline.core.row import Tokens
from pipeline.core.safety import HIDDEN, holds_secret, redact
from pipeline.engines.base import (
    ENGINES,
    Completion,
    Embedding,
    Engine,
    EngineConfig,
    Generation,
    LabelProbs,
    Prompt,
    SamplingParams,
    Step,
    require,
)
from pipeline.engines.labels import label_masses
from pipeline.engines.structured import STRUCTURED, Structured, chosen
from pipeline.engines.text import chat_messages, split_reasoning

if TYPE_CHECKING:
    from aiolimiter import AsyncLimiter
    from openai import AsyncOpenAI

T = TypeVar("T")

_LONGEST_WAIT = 60.0  # seconds before a retry that the openai package grants an endpoint's Retry-After

_OWN_FIELDS = {"model", "messages", "prompt", "n", "seed", "stop", "stream", "temperature", "top_p", "max_tokens"}
_OWN_FIELDS |= {"max_completion_tokens", "logprobs", "top_logprobs"}


@ENGINES.register("openai")
@dataclass
class OpenAIEngineConfig(EngineConfig):
    """Config of an OpenAI-compatible endpoint.

    A vLLM server needs ``--generation-config vllm``, or the model's own default for e.g. ``top_k`` joins in unseen;
    ``--enable-prompt-tokens-details`` makes it report cached tokens.

    Attributes:
        base_url: e.g. ``http://localhost:8000/v1``; ``null`` = the ``openai`` package's default.
        api_key_env: *name* of the environment variable that holds the key, on every machine that hosts this
            engine; ``null`` = the endpoint wants none. A loopback ``base_url`` works without the variable.
        concurrency: requests at once, per actor.
        requests_per_minute: paced evenly, per actor; retries come on top. ``null`` = no limit.
        timeout: seconds to wait for an answer, per attempt (for its next byte; all attempts together end after
            this times one more than their number, and the waits between them).
        retries: further attempts, with exponential backoff, after a time-out, a lost connection or a
            status 408, 409, 429 or 5xx.
        extra_body: further fields of every generation request, e.g. ``chat_template_kwargs``, ``reasoning_effort`` or a
            vLLM server's ``truncate_prompt_tokens``; a field set to ``null`` is left out (``temperature: null`` for
            models that refuse it).
        max_tokens_field: newer OpenAI models want ``max_completion_tokens``.
        logprobs: ask for log-probabilities; ``false`` for endpoints without them (then there are no label
            probabilities either).
        top_logprobs: tokens read per label decision, at most what the endpoint allows.
        assistant_prefill: the endpoint can continue a begun answer (vLLM servers can); otherwise the prefill of a
            label decision is ignored.
        embeddings: the model serves ``/embeddings``.
        structured_output: how a reply is held to one of several labels: ``choice`` (``structured_outputs``, vLLM
            servers), ``schema`` (``response_format`` with an enum: OpenAI, Google), ``none`` (plain text, which is
            read); ``auto`` = by the address: ``choice`` on this machine and private networks, ``schema`` for those two,
            else ``none``. The first request of this kind tries it once, and goes on with what the endpoint takes.
    """

    # Not verdict_tokens and structured_output: they decide whether a verdict can be read, and may be set to resume.
    decides: ClassVar[tuple[str, ...]] = ("base_url", "extra_body", "logprobs", "top_logprobs", "assistant_prefill")
    model: str = bounded("", filled=True)
    base_url: str | None = None
    api_key_env: str | None = "OPENAI_API_KEY"
    concurrency: int = bounded(64, ge=1)
    requests_per_minute: float | None = bounded(None, gt=0)
    timeout: float = bounded(600.0, gt=0)
    retries: int = bounded(5, ge=0)
    extra_body: dict[str, Any] = field(default_factory=dict)
    max_tokens_field: str = bounded("max_tokens", one_of=("max_tokens", "max_completion_tokens"))
    logprobs: bool = True
    top_logprobs: int = bounded(20, ge=1)
    assistant_prefill: bool = False
    embeddings: bool = False
    structured_output: str = bounded("auto", one_of=("auto", *STRUCTURED))

    def capabilities(self) -> frozenset[str]:
        offered = {"generate": True, "label_probs": self.logprobs, "embed": self.embeddings}
        return frozenset(name for name, there in offered.items() if there)

    def max_requests(self) -> int:
        return self.concurrency

    def check(self, key: str) -> None:
        for name in sorted(_OWN_FIELDS & {k for k, v in self.extra_body.items() if v is not None}):
            raise ConfigError(f"{key}.extra_body.{name}: set by Lemonpress; only null (leave it out) is possible here")
        url = urlsplit(self.base_url or "https://")
        if url.scheme not in ("http", "https"):
            raise ConfigError(f"{key}.base_url: must start with http:// or https://")
        if "@" in url.netloc:
            raise ConfigError(f"{key}.base_url: holds credentials, and the config is stored; use api_key_env")

    def ready(self, key: str) -> None:
        require("openai", "openai", "aiolimiter")
        name = self.key_name()
        if name and not os.environ.get(name):
            raise ConfigError(f"{key}.api_key_env: the environment variable {name} is not set")

    def key_name(self) -> str | None:
        host = urlsplit(self.base_url or "").hostname or ""
        return None if host in ("localhost", "::1") or host.startswith("127.") else self.api_key_env

    def thinks(self) -> bool:
        effort = self.extra_body.get("reasoning_effort")
        kwargs = self.extra_body.get("chat_template_kwargs") or {}
        return effort not in (None, "none") or bool(isinstance(kwargs, dict) and kwargs.get("enable_thinking"))

    def create(self) -> Engine:
        return OpenAIEngine(self)


class OpenAIEngine(Engine):
    """See :class:`OpenAIEngineConfig`. Nothing it raises, logs or returns holds the API key."""

    def __init__(self, config: OpenAIEngineConfig) -> None:
        super().__init__(config)
        self.config = config
        self._client: AsyncOpenAI | None = None
        self._key = os.environ.get(config.api_key_env or "")
        holds_secret(config.api_key_env)
        # Seconds that one request may take: every attempt's time-out and one more, and the waits between them.
        self._longest = config.timeout * (config.retries + 2) + _LONGEST_WAIT * config.retries
        self._slots = asyncio.Semaphore(config.concurrency)
        self._pace: AsyncLimiter | None = None
        self._structured = Structured(config.structured_output, config.base_url, config.thinks())

    async def start(self) -> None:
        config = self.config
        config.ready("engine")
        from aiolimiter import AsyncLimiter
        from openai import AsyncOpenAI

        self._client = AsyncOpenAI(
            api_key=self._key or "none",  # the package insists on one
            base_url=config.base_url,
            timeout=config.timeout,
            max_retries=config.retries,
        )
        if config.requests_per_minute:
            # One second's worth at a time: a whole minute's worth in one burst is what endpoints refuse.
            rate = config.requests_per_minute / 60
            self._pace = AsyncLimiter(max(1.0, rate), max(1.0, 1 / rate))

    async def stop(self) -> None:
        if self._client is not None:
            await self._client.close()

    async def generate(self, prompt: Prompt, params: SamplingParams) -> Generation:
        """Sample ``params.n`` completions in one request.

        ``num_tokens`` counts the returned log-probabilities; without them it is an even share of the usage.
        Completion k is labelled ``seed + k``, which is how vLLM servers seed; others promise less.
        """
        if params.temperature == 0 and params.n != 1:
            raise EngineRequestError("n must be 1 when using greedy sampling")
        fields: dict[str, Any] = {
            "n": params.n,
            "temperature": params.temperature,
            "top_p": params.top_p,
            self.config.max_tokens_field: params.max_tokens,
            "seed": params.seed_of(0),
            "stop": list(params.stop) or None,
            "min_p": params.min_p or None,
            "top_k": params.top_k or None,
        }
        if params.choice:
            fields |= await self._structured.fields(params.choice, lambda held: self._try(held, params.max_tokens))

        def parse(data: Any) -> Generation:
            choices = sorted(data.get("choices") or [], key=lambda choice: choice.get("index", 0))
            if len(choices) < params.n:
                hint = f": {data['error']}" if data.get("error") else ""  # some providers answer 200 with an error
                raise EngineRequestError(f"the endpoint returned {len(choices)} of {params.n} choices{hint}")
            tokens = _usage(data)
            share, rest = divmod(tokens.completion, params.n)
            completions = [_completion(c, share + (k < rest)) for k, c in enumerate(choices[: params.n])]
            for k, completion in enumerate(completions):
                completion.seed = params.seed_of(k)
                completion.text = chosen(completion.text) if params.choice else completion.text
            return Generation(completions, tokens)

        return await self._sample(prompt, fields, 0, parse)

    async def label_probs(self, prompt: Prompt, labels: Sequence[str], prefill: str = "") -> LabelProbs:
        """Probabilities of the labels among the ``top_logprobs`` most likely first tokens, and what was written.

        A token counts for a label when, without what decorates it (``(B``, ``**B``), it equals the label, or else
        begins it and no other label. What the endpoint leaves out of its list counts as 0. A chat model that is not
        given the beginning of its answer may write ``verdict_tokens``: the label may come later.
        """
        prefilled = bool(prefill and self.config.assistant_prefill)
        room = 1 if prefilled or isinstance(prompt, str) else self.verdict_tokens
        fields: dict[str, Any] = {"temperature": 0, self.config.max_tokens_field: room}
        if prefilled:
            if isinstance(prompt, str):
                prompt += prefill
            else:
                prompt = [*prompt, {"role": "assistant", "content": prefill}]
                fields |= {"continue_final_message": True, "add_generation_prompt": False}

        def parse(data: Any) -> LabelProbs:
            choice = data["choices"][0]
            steps = _steps(choice.get("logprobs"))
            probs = label_masses(steps[0].top if steps else {}, labels)
            return LabelProbs(probs, _usage(data), None if room == 1 else _completion(choice, len(steps)), steps)

        return await self._sample(prompt, fields, self.config.top_logprobs, parse)

    async def _try(self, fields: dict[str, Any], room: int) -> bool:
        """Whether the endpoint takes these fields; what else goes wrong is raised."""
        ask: Prompt = [{"role": "user", "content": "Answer with the letter A and nothing else."}]
        try:
            await self._sample(ask, {self.config.max_tokens_field: room, **fields}, 0, _usage)
        except _Refused:
            return False
        return True

    async def embed(self, text: str) -> Embedding:
        def parse(data: Any) -> Embedding:
            return Embedding([float(x) for x in data["data"][0]["embedding"]], _usage(data))

        return await self._request("embeddings", {"input": text, "encoding_format": "float"}, parse)

    async def _sample(self, prompt: Prompt, fields: dict[str, Any], top: int, parse: Callable[[Any], T]) -> T:
        arguments: dict[str, Any]
        if isinstance(prompt, str):
            endpoint, arguments = "completions", {"prompt": prompt}
            fields["logprobs"] = max(1, top) if self.config.logprobs else None
        else:
            endpoint, arguments = "chat", {"messages": chat_messages(prompt)}
            fields |= {"logprobs": self.config.logprobs or None, "top_logprobs": top or None}
        fields |= self.config.extra_body
        arguments["extra_body"] = {name: value for name, value in fields.items() if value is not None}
        return await self._request(endpoint, arguments, parse)

    async def _request(self, endpoint: str, arguments: dict[str, Any], parse: Callable[[Any], T]) -> T:
        import openai

        if self._client is None:
            raise RuntimeError("the engine was not started")
        resource: Any = self._client.chat.completions if endpoint == "chat" else getattr(self._client, endpoint)
        async with self._slots:
            if self._pace is not None:
                await self._pace.acquire()
            try:
                # The package's time-out restarts with every byte that arrives: an endpoint that trickles never ends.
                async with asyncio.timeout(self._longest):
                    # The raw response: the package's models drop or guess what they do not know, such as reasoning.
                    raw = await resource.with_raw_response.create(model=self.model, **arguments)
            except TimeoutError:
                raise EngineRequestError(f"no complete answer within {self._longest:g} s, retries included") from None
            except openai.OpenAIError as error:
                raise _kind_of(error)(self._scrub(self._explain(error))) from None
        try:
            answer = json.loads(raw.http_response.content)
            return parse(answer)
        except EngineRequestError as error:  # an answer that is of no use costs the same
            raise EngineRequestError(self._scrub(str(error)), _cost(answer)) from None
        except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
            message = f"unexpected response ({type(error).__name__}): {raw.http_response.text}"
            raise EngineRequestError(self._scrub(message)) from None

    def _explain(self, error: Exception) -> str:
        import openai

        if isinstance(error, openai.APIStatusError):
            status = error.status_code
            if status in (401, 403):
                return f"HTTP {status}: the endpoint refused the API key ({self.config.api_key_env}): {error.message}"
            if status == 404:
                return f"HTTP 404: no model {self.model!r} at this base_url, or no such path: {error.message}"
            return f"HTTP {status}: {error.message}"
        if isinstance(error, openai.APITimeoutError):
            return f"no answer within {self.config.timeout:g} s, {self.config.retries + 1} times"
        return f"the endpoint cannot be reached: {error.__cause__ or error}"

    def _scrub(self, message: str) -> str:
        return redact(message.replace(self._key, HIDDEN) if self._key else message, 400)


class _Refused(EngineRequestError):
    """The endpoint does not take the request as it stands (status 400, 404, 422, 501)."""


def _kind_of(error: Exception) -> type[EngineRequestError]:
    if getattr(error, "code", None) == "context_length_exceeded":
        return PromptTooLong
    return _Refused if getattr(error, "status_code", None) in (400, 404, 422, 501) else EngineRequestError


def _steps(logprobs: Any) -> list[Step]:
    """The generated tokens with their likeliest ones, of a chat's or a completion's log-probabilities."""
    if not logprobs:
        raise EngineRequestError("the endpoint returned no log-probabilities; set logprobs: false")
    if logprobs.get("content"):
        items = [(i["token"], [(t["token"], t["logprob"]) for t in i["top_logprobs"]]) for i in logprobs["content"]]
    else:
        tops = logprobs["top_logprobs"]
        tokens = logprobs.get("tokens") or [""] * len(tops)
        items = [(token, list(top.items())) for token, top in zip(tokens, tops, strict=True)]
    found = []
    for token, pairs in items:
        top: dict[str, float] = {}
        for name, logprob in pairs:
            top[name] = top.get(name, 0.0) + math.exp(logprob)
        found.append(Step(token, top))
    return found


def _usage(data: Any) -> Tokens:
    usage = data.get("usage") or {}
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    prompt, completion = usage.get("prompt_tokens") or 0, usage.get("completion_tokens") or 0
    counts = [int(n) for n in (prompt, cached, completion)]
    if not all(0 <= n < 2**31 for n in counts):
        raise ValueError(f"usage {counts}")  # no table could hold it
    return Tokens(1, *counts)


def _cost(data: Any) -> Tokens | None:
    try:
        return _usage(data)
    except (ValueError, TypeError, AttributeError):
        return None


def _completion(choice: Any, num_tokens: int) -> Completion:
    message = choice.get("message") or {}
    text = message.get("content") or choice.get("text") or ""
    reasoning = message.get("reasoning") or message.get("reasoning_content")
    if not reasoning:  # the server has no parser for it
        reasoning, text = split_reasoning(text)
    finish = choice.get("finish_reason")
    for name, value in (("text", text), ("reasoning", reasoning), ("finish_reason", finish)):
        if not isinstance(value, str | None):
            raise TypeError(f"{name} is no text: {value!r}")
    logprobs = choice.get("logprobs") or {}
    values = logprobs.get("token_logprobs") or [item["logprob"] for item in logprobs.get("content") or ()]
    return Completion(
        text=text,
        finish_reason=finish,
        num_tokens=len(values) or num_tokens,
        logprob=sum(values) if values else None,
        reasoning=reasoning,
    )
