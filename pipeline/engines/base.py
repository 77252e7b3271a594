"""The engine protocol: a model behind a handful of calls. No engine knows what a candidate set is.

An engine is described by a config dataclass (its ``kind``), which is cheap to make and says, before anything
loads, what the engine will be able to do (:meth:`EngineConfig.capabilities`). :meth:`EngineConfig.create` makes
the engine itself, inside the worker that will own it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from pipeline.core.bounds import bounded
from pipeline.core.errors import ConfigError
from pipeline.core.registry import Registry
from pipeline.core.row import Message, Tokens

Prompt = Sequence[Message] | str
"""A conversation in the chat format, or the raw text that a base model continues."""

CAPABILITIES = ("generate", "label_probs", "loglikelihood", "reward", "embed", "quality")

VERDICT_TOKENS = 32
"""Room for a verdict that is written: ``Answer: **(B)** answer B is better`` has 12 tokens."""
THINKING_TOKENS = 4096
"""Room for a verdict of a model that thinks first."""


def spell_needs(needs: Iterable[str]) -> str:
    """Capabilities as words, sorted; ``a|b`` (either will do) reads "a or b"."""
    return ", ".join(need.replace("|", " or ") for need in sorted(needs))


@dataclass(frozen=True)
class SamplingParams:
    """How to sample. ``temperature=0`` is greedy and allows one candidate only.

    Attributes:
        min_p: tokens below ``min_p`` times the top token's probability are cut (0 = off).
        top_k: 0 = off.
        seed: child k of an n-sample request uses ``seed + k``.
        choice: the text must be one of these strings (structured output).
        confidence_tokens: also measure self-certainty from so many top tokens a step; 0 = do not.
    """

    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    max_tokens: int = 512
    seed: int | None = None
    stop: tuple[str, ...] = ()
    choice: tuple[str, ...] = ()
    confidence_tokens: int = 0

    def seed_of(self, child: int) -> int | None:
        """The seed of one of the request's candidates; ``None`` where it needs none."""
        return None if self.seed is None or self.temperature == 0 else self.seed + child


@dataclass
class Completion:
    """One generated text.

    Attributes:
        text: the answer, without reasoning and without the end token.
        reasoning: the thinking part where the model has one.
        finish_reason: ``stop``, ``length`` or ``abort``.
        num_tokens: generated tokens, end token included.
        logprob: total natural log-probability of the generated tokens under the raw distribution
            (before temperature and pruning); ``None`` where the engine cannot tell.
        self_certainty: mean over tokens of KL(uniform || p), in nats, when ``confidence_tokens`` asked for it.
    """

    text: str
    finish_reason: str | None
    num_tokens: int
    logprob: float | None = None
    reasoning: str | None = None
    seed: int | None = None
    self_certainty: float | None = None


@dataclass
class Generation:
    """Result of :meth:`Engine.generate`: ``completions`` in the order of their seeds."""

    completions: list[Completion]
    tokens: Tokens


@dataclass(frozen=True)
class Step:
    """One generated token, and the likeliest ones in its place: token -> probability."""

    token: str
    top: dict[str, float]


@dataclass
class LabelProbs:
    """Result of :meth:`Engine.label_probs`.

    Attributes:
        probs: label -> raw probability of its first token, summed over the label's token variants
            (with and without a leading space); not normalised.
        wrote: what the model wrote, where the engine let it write: the label need not come first then, and what counts
            is what the text says.
        steps: its tokens, in order.
    """

    probs: dict[str, float]
    tokens: Tokens
    wrote: Completion | None = None
    steps: Sequence[Step] = ()


@dataclass
class LogLikelihood:
    """Result of :meth:`Engine.loglikelihood`: total natural log-probability of ``num_tokens`` tokens."""

    logprob: float
    num_tokens: int
    tokens: Tokens


@dataclass
class Scored:
    """Result of :meth:`Engine.reward` (the reward model's raw score) and of :meth:`Engine.quality`."""

    value: float
    tokens: Tokens


@dataclass
class Embedding:
    vector: list[float]
    tokens: Tokens


class Engine:
    """What a stage may ask of a model, in part or all of it: ``capabilities`` says what, so nobody asks for more.

    All calls may be awaited concurrently by thousands of rows. Every call raises
    :class:`~pipeline.core.errors.EngineRequestError` when this one request failed and
    :class:`~pipeline.core.errors.EngineDead` when the engine is gone.
    """

    model: str
    revision: str | None
    capabilities: frozenset[str]
    verdict_tokens: int

    def __init__(self, config: EngineConfig) -> None:
        self.model = config.model
        self.revision = config.revision
        self.capabilities = config.capabilities()
        self.verdict_tokens = config.verdict_room()

    async def start(self) -> None:
        """Load the model; called once, on the event loop that will make all calls.

        Raises:
            ConfigError: what it needs is not on this machine, or the model is of another kind.
        """

    async def stop(self) -> None:
        """Release the model and its processes; requests that wait get ``EngineDead``."""

    def unfinished(self) -> int | None:
        """Sequences that it generates, and those that wait for that; ``None`` where it does not know."""
        return None

    async def generate(self, prompt: Prompt, params: SamplingParams) -> Generation:
        """Sample ``params.n`` completions in one request."""
        raise self._cannot("generate")

    async def label_probs(self, prompt: Prompt, labels: Sequence[str], prefill: str = "") -> LabelProbs:
        """Probabilities that the answer starts with each label, in one prefill.

        Args:
            prefill: text with which the answer begins already, before the label.
        """
        raise self._cannot("label_probs")

    async def loglikelihood(self, prompt: Prompt, text: str) -> LogLikelihood:
        """Log-probability of a given answer (its end token included)."""
        raise self._cannot("loglikelihood")

    async def reward(self, prompt: Prompt, text: str) -> Scored:
        """A reward model's raw score (no sigmoid) of ``text`` as the answer to ``prompt``."""
        raise self._cannot("reward")

    async def embed(self, text: str) -> Embedding:
        raise self._cannot("embed")

    async def quality(self, source: str, text: str, reference: str) -> Scored:
        """How good ``text`` is as a translation of ``source``, given a ``reference``: 0 (worst) to 1 (perfect)."""
        raise self._cannot("quality")

    def _cannot(self, what: str) -> NotImplementedError:
        return NotImplementedError(f"{type(self).__name__} cannot {what}")


@dataclass
class PoolConfig:
    """How many actors host an engine, and what each of them takes.

    Attributes:
        size: fixed number of actors; leave it out and set both bounds for an autoscaling pool.
        min_size: actors of an autoscaling pool at least.
        max_size: actors of an autoscaling pool at most.
        num_cpus: logical CPUs per actor; fractions are fine.
        num_gpus: GPUs per actor; ``null`` takes what the engine says that it needs.
    """

    size: int | None = bounded(None, ge=1)
    min_size: int | None = bounded(None, ge=1)
    max_size: int | None = bounded(None, ge=1)
    num_cpus: float = bounded(0.5, ge=0)
    num_gpus: float | None = bounded(None, ge=0)

    def most(self) -> int:
        return self.size or self.max_size or self.min_size or 1

    def bounds(self) -> tuple[int, int | None]:
        """(actors at least, actors at most); the latter is ``None`` for a pool of fixed size."""
        if self.min_size is None and self.max_size is None:
            return self.size or 1, None
        low = self.min_size or 1
        return low, max(low, self.max_size or low)


@dataclass
class PriceConfig:
    """What tokens and hours cost, in any one currency.

    Attributes:
        prompt, completion: per million tokens.
        cached: per million prompt tokens that came from a prefix cache; ``null`` = as ``prompt``.
        hour: one actor for an hour: the price of its GPUs.
    """

    prompt: float = bounded(0.0, ge=0)
    completion: float = bounded(0.0, ge=0)
    cached: float | None = bounded(None, ge=0)
    hour: float = bounded(0.0, ge=0)

    @property
    def charges(self) -> bool:
        return self.charges_tokens or bool(self.hour)

    @property
    def charges_tokens(self) -> bool:
        return bool(self.prompt or self.completion or self.cached)

    def of(self, prompt: float, cached: float, completion: float) -> float:
        """Price of so many tokens; ``cached`` of the ``prompt`` ones came from a cache."""
        hit = self.prompt if self.cached is None else self.cached
        return ((prompt - cached) * self.prompt + cached * hit + completion * self.completion) / 1e6


@dataclass
class EngineConfig:
    """Base of every engine's config. ``kind`` picks the subclass.

    Attributes:
        model: name or path; ``cache:NAME`` is looked up in Lemonpress's cache folder.
        revision: model revision, recorded with every candidate.
        verdict_tokens: longest verdict, in tokens, where the model is a judge that writes it; ``null`` = 32, or 4,096
            for a model that is told to think first. It may be raised to resume a job whose verdicts were cut.
        price: what its tokens and hours cost, for ``limits.money`` and estimates.
    """

    kind: ClassVar[str] = ""
    deterministic: ClassVar[bool] = False
    """Whether a request's answer depends on nothing but the request."""
    decides: ClassVar[tuple[str, ...]] = ()
    """The settings, besides model and revision, that change what the engine answers."""
    model: str = ""
    revision: str | None = None
    verdict_tokens: int | None = bounded(None, ge=1)
    pool: PoolConfig = field(default_factory=PoolConfig)
    price: PriceConfig = field(default_factory=PriceConfig)

    def capabilities(self) -> frozenset[str]:
        """What the engine will be able to do, known before anything loads."""
        raise NotImplementedError

    def thinks(self) -> bool:
        return False

    def verdict_room(self) -> int:
        """Tokens that a verdict may take."""
        return self.verdict_tokens or (THINKING_TOKENS if self.thinks() else VERDICT_TOKENS)

    def gpus(self) -> float:
        return 0.0

    def parallel(self) -> tuple[int, int]:
        """(tensor, pipeline) parallel sizes: one engine is so many processes, with a GPU each."""
        return 1, 1

    def can_spread(self) -> bool:
        return False

    def spread(self) -> EngineConfig:
        """The same engine, its processes spread over several nodes by Ray."""
        raise NotImplementedError

    def is_spread(self) -> bool:
        """Whether Ray starts this engine's processes, inside a placement group, instead of the engine itself."""
        return False

    def max_requests(self) -> int:
        """Requests that the engine works on at once; the worker keeps more rows than that in flight."""
        return 64

    def ready(self, key: str) -> None:
        """Raise :class:`~pipeline.core.errors.ConfigError` when a file, package or key that it needs is not here.

        Called by the jobs that will load the engine, before anything heavy starts, and by the engine where it starts:
        what lies there may not be what lies with the driver.
        """

    def key_name(self) -> str | None:
        """The environment variable that must hold a key where the engine runs; ``None`` = it needs none."""
        return None

    def identity(self) -> dict[str, Any]:
        """The settings that change what the engine answers: part of what a result is known by."""
        return {name: getattr(self, name) for name in ("kind", "model", "revision", *self.decides)}

    def create(self) -> Engine:
        """Make the engine (inside its worker). Heavy imports happen here or in ``start``."""
        raise NotImplementedError


def require(extra: str, *packages: str) -> None:
    """Raise :class:`~pipeline.core.errors.ConfigError`, naming the extra that brings them, unless packages are here."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise ConfigError(f"no module named {package!r}: pip install 'lemonpress[{extra}]'")


ENGINES: Registry[EngineConfig] = Registry(
    "engine",
    tuple(f"pipeline.engines.{name}" for name in ("dummy", "vllm", "openai", "transformers", "comet")),
)
