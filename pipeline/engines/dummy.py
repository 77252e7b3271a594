"""A deterministic engine without a model: for speed, faults and statistics. It implements the whole protocol.

Every answer is a function of (prompt, parameters, seed), so two runs with one seed give equal tables.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import os
import random
import re
import struct
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pipeline.core.bounds import bounded
from pipeline.core.errors import ConfigError, EngineDead, EngineRequestError
from pipeline.core.hashing import derive_seed, digest, hash_rng
from pipeline.core.row import Tokens
from pipeline.engines.base import (
    CAPABILITIES,
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
from pipeline.engines.text import fit

_WORDS = (
    *("alpha", "bravo", "coral", "delta", "ember", "fjord", "grove", "harbor"),
    *("indigo", "jade", "karma", "lemon", "mango", "nectar", "ocean", "pearl"),
)
_ANSWERS = re.compile(r"<answer_(\w+)((?:-\w+)?)>\n(.*?)\n</answer_\1\2>", re.DOTALL)


@ENGINES.register("dummy")
@dataclass
class DummyEngineConfig(EngineConfig):
    """Config of the dummy engine.

    Attributes:
        latency: mean seconds per request; each request takes a deterministic share of it, exponentially
            distributed, as real answers' lengths are.
        tail: shape of that distribution instead: log-normal with this sigma and the same mean; 0 = exponential.
        slots: sequences that it works on at once, as a real engine does: every candidate of a request then takes a
            slot for a latency of its own; ``null`` = any number of requests, a latency each.
        words: mean length of an answer in words.
        max_model_len: longest request, in words; ``null`` = any.
        truncate_prompt: cut the middle out of longer ones, instead of failing them.
        fail: requests whose prompt matches this regular expression fail (an ordinary error).
        crash: requests whose prompt matches this regular expression kill the worker process.
        dead: requests whose prompt matches this regular expression make the engine report its death.
        fuse: a file that the first crash or death leaves behind; while it exists there is no second one.
        log: a file to which every request appends a line when it begins and when it ends (its kind, a hash of its
            prompt, ``begin`` or ``end``).
        accuracy: makes it a judge of answers that are shown in tags ``<answer_X>``: it names the better one with this
            probability, else another one that is shown, uniformly. Its errors are independent per prompt text. Between
            answers of which not exactly one is ``best`` it names any, uniformly.
        best: a regular expression that the truly better answer matches.
        always: ``first`` makes it a judge that always says the first label.
        seed: of the judge's errors.
    """

    deterministic: ClassVar[bool] = True
    decides: ClassVar[tuple[str, ...]] = ("words", "max_model_len", "accuracy", "best", "always", "seed")
    latency: float = bounded(0.0, ge=0)
    tail: float = bounded(0.0, ge=0)
    slots: int | None = bounded(None, ge=1)
    words: int = bounded(12, ge=0)
    max_model_len: int | None = bounded(None, ge=1)
    truncate_prompt: bool = False
    fail: str | None = None
    crash: str | None = None
    dead: str | None = None
    fuse: str | None = None
    log: str | None = None
    accuracy: float | None = bounded(None, ge=0, le=1)
    best: str = ""
    always: str | None = bounded(None, one_of=("first",))
    seed: int = 0

    def capabilities(self) -> frozenset[str]:
        return frozenset(CAPABILITIES)

    def max_requests(self) -> int:
        return self.slots or 256

    def check(self, key: str) -> None:
        if self.accuracy is not None and not self.best:
            raise ConfigError(f"{key}.accuracy: a probability, together with {key}.best, not {self.accuracy}")

    def create(self) -> Engine:
        return DummyEngine(self)


class DummyEngine(Engine):
    """See :class:`DummyEngineConfig`."""

    def __init__(self, config: DummyEngineConfig) -> None:
        super().__init__(config)
        self.config = config
        self.model = config.model or "dummy"
        self._slots = asyncio.Semaphore(config.slots) if config.slots else None
        self._unfinished = 0

    def unfinished(self) -> int:
        return self._unfinished

    async def generate(self, prompt: Prompt, params: SamplingParams) -> Generation:
        if params.temperature == 0 and params.n != 1:
            raise EngineRequestError("n must be 1 when using greedy sampling")
        text = await self._request("generate", prompt, params.n)
        key = digest("text", text, params.temperature, params.top_p, params.top_k, params.min_p)
        completions = []
        for k in range(params.n):
            seed = None if params.temperature == 0 else (params.seed or 0) + k
            length, probability, certainty, numbers = self._stream(f"{key} {seed}", 2 * params.max_tokens)
            if params.choice:
                words = [self._judge(text, params.choice) or hash_rng(key, seed).choice(params.choice)]
            else:
                words = [_WORDS[number % len(_WORDS)] for number in numbers[:length]]
            stopped = len(words) < params.max_tokens
            words = words[: params.max_tokens]
            tokens = len(words) + int(stopped)
            completions.append(
                Completion(
                    text=" ".join(words),
                    finish_reason="stop" if stopped else "length",
                    num_tokens=tokens,
                    logprob=-2 * tokens * probability,
                    seed=seed,
                    self_certainty=10 * certainty if params.confidence_tokens else None,
                )
            )
        return Generation(completions, self._tokens(text, sum(c.num_tokens for c in completions)))

    def _stream(self, key: str, most: int) -> tuple[int, float, float, bytes]:
        """What a candidate is made of: its length in words, two numbers in [0, 1), and a byte a word.

        From an extendable hash: a seeded ``random.Random`` a candidate took half of a whole pass.
        """
        bits = hashlib.shake_128(key.encode()).digest(24 + 8 * self.config.words)
        first, second, third = ((number >> 11) / 2**53 for number in struct.unpack_from("<QQQ", bits))
        length = max(1, min(round(-self.config.words * math.log1p(-first)), most))
        if length > len(bits) - 24:
            bits = hashlib.shake_128(key.encode()).digest(24 + length)
        return length, second, third, bits[24:]

    async def label_probs(self, prompt: Prompt, labels: Sequence[str], prefill: str = "") -> LabelProbs:
        text = await self._request("label_probs", prompt)
        said = self._judge(text, labels)
        if said is not None:
            return LabelProbs({label: float(label == said) for label in labels}, self._tokens(text, 1))
        rng = hash_rng("labels", text)
        weights = [rng.random() ** 3 for _ in labels]
        mass = 0.8 + 0.2 * rng.random()
        probs = {label: mass * w / sum(weights) for label, w in zip(labels, weights, strict=True)}
        return LabelProbs(probs, self._tokens(text, 1))

    async def loglikelihood(self, prompt: Prompt, text: str) -> LogLikelihood:
        context = await self._request("loglikelihood", prompt)
        count = len(text.split()) + 1
        logprob = -2 * count * hash_rng("ll", context, text).random()
        return LogLikelihood(logprob, count, self._tokens(context + text, 0))

    async def reward(self, prompt: Prompt, text: str) -> Scored:
        context = await self._request("reward", prompt)
        return Scored(hash_rng("reward", context, text).gauss(0, 1), self._tokens(context + text, 0))

    async def embed(self, text: str) -> Embedding:
        await self._request("embed", text)
        vector = [0.0] * 64
        for word in text.lower().split():
            vector[derive_seed("embed", word) % 64] += 1.0
        norm = math.sqrt(sum(v * v for v in vector)) or 1.0
        return Embedding([v / norm for v in vector], self._tokens(text, 0))

    async def quality(self, source: str, text: str, reference: str) -> Scored:
        asked = await self._request("quality", f"{source}\n{text}\n{reference}")
        return Scored(1.0 if text == reference else hash_rng("quality", asked).random(), self._tokens(asked, 0))

    def _judge(self, text: str, labels: Sequence[str]) -> str | None:
        """The label that a judge of known accuracy names; ``None`` when it is none, or no answers are shown."""
        if self.config.always == "first":
            return labels[0]
        if self.config.accuracy is None:
            return None
        shown: dict[str, str] = {tag.upper(): said for tag, _, said in _ANSWERS.findall(text) if tag.upper() in labels}
        best = [label for label, answer in shown.items() if re.search(self.config.best, answer)]
        rng = hash_rng("judge", self.config.seed, text)
        if len(best) != 1:
            return rng.choice(list(shown)) if shown else None
        others = [label for label in shown if label != best[0]]
        return best[0] if not others or rng.random() < self.config.accuracy else rng.choice(others)

    async def _request(self, kind: str, prompt: Prompt, n: int = 1) -> str:
        text = _flatten(prompt)
        config = self.config
        if config.max_model_len is not None and len(text.split()) > config.max_model_len:
            text = " ".join(fit(text.split(), config.max_model_len, 0, config.truncate_prompt))
        self._log(kind, text, "begin")
        if config.crash and re.search(config.crash, text) and self._burn():
            os._exit(1)
        if config.dead and re.search(config.dead, text) and self._burn():
            raise EngineDead("the dummy engine was told to die")
        if config.latency:
            rng = hash_rng("latency", kind, text)
            sequences = 1 if self._slots is None else n
            await asyncio.gather(*(self._sequence(self._latency(rng)) for _ in range(sequences)))
        if config.fail and re.search(config.fail, text):
            raise EngineRequestError("the dummy engine was told to fail this request")
        self._log(kind, text, "end")
        return text

    async def _sequence(self, seconds: float) -> None:
        self._unfinished += 1
        try:
            async with self._slots or nullcontext():
                await asyncio.sleep(seconds)
        finally:
            self._unfinished -= 1

    def _latency(self, rng: random.Random) -> float:
        mean, sigma = self.config.latency, self.config.tail
        return rng.lognormvariate(math.log(mean) - sigma**2 / 2, sigma) if sigma else rng.expovariate(1 / mean)

    def _burn(self) -> bool:
        """Whether a fault may happen (again)."""
        fuse = self.config.fuse
        if fuse and Path(fuse).exists():
            return False
        if fuse:
            Path(fuse).touch()
        return True

    def _log(self, kind: str, text: str, event: str) -> None:
        if self.config.log:
            with Path(self.config.log).open("a") as log:  # one short line: atomic with O_APPEND
                log.write(f"{kind} {derive_seed(text)} {event}\n")

    @staticmethod
    def _tokens(text: str, completion: int) -> Tokens:
        return Tokens(1, len(text.split()), 0, completion)


def _flatten(prompt: Prompt) -> str:
    return prompt if isinstance(prompt, str) else "\n".join(f"{m['role']}: {m.get('content') or ''}" for m in prompt)
