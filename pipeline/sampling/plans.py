"""Sampling plans: which requests make up a candidate set.

Source: "When Life Gives You Samples" (arXiv 2506.20544), sampling section. Recommended temperatures are 0.7 to
0.9; the paper's min-p value could not be confirmed, ours is 0.1 where min-p is on.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from pipeline.core.bounds import bounded
from pipeline.core.errors import ConfigError
from pipeline.core.hashing import derive_seed
from pipeline.core.languages import is_among
from pipeline.core.registry import Registry
from pipeline.core.row import Candidate, Row
from pipeline.engines.base import Prompt, SamplingParams
from pipeline.tasks.base import Task

PLANS: Registry[PlanConfig] = Registry("sampling plan", ("pipeline.sampling.plans", "pipeline.sampling.evidence"))

SCORING = ("best_of_n", "judge", "likelihood", "self_certainty", "oracle")
"""Kinds of selectors that give every candidate a number by itself, of which they choose the largest."""

VOTING = ("majority_vote",)

FAIR = ("language",)
"""What a budget can be dealt out within."""


@dataclass(frozen=True)
class PlannedRequest:
    """One request to the generator: ``params`` and the ``origin`` of the candidates it returns."""

    params: SamplingParams
    origin: str


@dataclass
class Adaptive:
    """Draw the candidates in rounds, and more of them only where they are worth their tokens.

    Attributes:
        by: the selector whose scores or votes decide, by its name under ``selectors``; ``null`` = off: the same N for
            all prompts.
        first: candidates of every prompt in the first round. The plan's ``n`` is the most that a prompt can get.
        mean_n: the budget: the tokens that so many candidates of every prompt cost on average, as the first round's
            lengths show.
        tokens: the budget in completion tokens per prompt on average, instead of ``mean_n``.
        rounds: all rounds, the first one included. Each further one loads the model again.
        fair: ``language`` = every language gets the tokens that ``mean_n`` candidates of each of its prompts cost, and
            deals them out among its own prompts; ``null`` = the largest gain per token comes first, whatever its
            language, which leaves little to languages whose answers take many tokens.
        min_gain: another candidate is drawn only where its expected gain is larger: in the score's unit, or, by votes,
            in the probability that the leading answer is the most probable one.
    """

    by: str | None = None
    first: int = bounded(4, ge=2)
    mean_n: float | None = None
    tokens: float | None = bounded(None, gt=0)
    rounds: int = bounded(2, ge=2, cure="{at}.by=null turns rounds off")
    fair: str | None = bounded(None, one_of=FAIR)
    min_gain: float = bounded(0.0, ge=0)

    def check_with(self, key: str, n: int) -> None:
        """Raise ConfigError, naming the key below ``key``, on a value that cannot work with a plan of ``n``."""
        if self.by is None:
            return
        if self.first >= n:
            raise ConfigError(f"{key}.first: from 2 to less than the plan's n ({n}), not {self.first}")
        if (self.mean_n is None) == (self.tokens is None):
            raise ConfigError(f"{key}: set one of {key}.mean_n and {key}.tokens: the budget of all rounds together")
        if self.mean_n is not None and not self.first <= self.mean_n <= n:
            raise ConfigError(f"{key}.mean_n: from {key}.first to n ({self.first} to {n}), not {self.mean_n:g}")


@dataclass
class PlanConfig:
    """What every plan has in common.

    Attributes:
        engine: name of the generator under ``engines``.
        n: candidates per prompt (N), the greedy one included where the plan has one.
        temperature: of the stochastic candidates.
        top_p: nucleus; 1 = off.
        top_k: 0 = off.
        min_p: cut tokens below ``min_p`` x the top token's probability; 0 = off.
        max_tokens: longest answer, in tokens.
        stop: strings that end an answer.
        candidate_set: name of the candidate set to add to; ``null`` = the plan's own name. Plans with one set name but
            different engines make a teacher pool.
        confidence_tokens: measure self-certainty, for its selector, from so many top tokens a step; 0 = off.
        only_languages: sample only for prompts in these languages (primary subtags); ``null`` = for all.
        apart: only selectors that name the set in ``plans`` are applied to it: for comparisons (MBR with more
            candidates, the fusor answering alone).
        adaptive: draw in rounds, and more candidates only where they are worth their tokens.
    """

    kind: ClassVar[str] = ""
    grows: ClassVar[bool] = True
    """Whether a finished set can be extended to a larger N."""
    adapts: ClassVar[bool] = False
    """Whether the numbers of candidates may differ between prompts: all further ones are alike."""
    engine: str = "generator"
    n: int = bounded(5, ge=1)
    temperature: float = bounded(0.7, ge=0)
    top_p: float = bounded(1.0, gt=0, le=1)
    top_k: int = bounded(0, ge=0)
    min_p: float = bounded(0.0, ge=0, le=1)
    max_tokens: int = bounded(1024, ge=1)
    stop: list[str] = field(default_factory=list)
    candidate_set: str | None = None
    confidence_tokens: int = bounded(0, ge=0)
    only_languages: list[str] | None = None
    apart: bool = False
    adaptive: Adaptive = field(default_factory=Adaptive)

    def wants(self, language: str | None) -> bool:
        return is_among(language, self.only_languages)

    def check(self, key: str) -> None:
        """Raise ConfigError, naming the key below ``key``, on a contradiction."""
        if self.adaptive.by is not None and not self.adapts:
            raise ConfigError(f"{key}.adaptive: only plans of kind single and hedged can, not {self.kind}")
        self.adaptive.check_with(f"{key}.adaptive", self.n)

    def requests(self, plan: str, prompt_id: str, run_seed: int, draw: int = 0, have: int = 0) -> list[PlannedRequest]:
        """The requests for one prompt; seeds come from a hash of (run seed, prompt, plan, entry).

        Args:
            plan: the plan's name.
            draw: 0, or the number of the redraw.
            have: candidates that earlier draws have given.
        """
        raise NotImplementedError

    def further(self, plan: str, prompt_id: str, run_seed: int, have: int) -> list[PlannedRequest]:
        """The requests for what a set of N has and one of ``have`` has not: child k of a request has its seed + k, so
        the first children of each request are the same in both. (Mixed temperatures give the same set in another
        order.)
        """
        known = [r.params.n for r in replace(self, n=have).requests(plan, prompt_id, run_seed)]
        found = []
        for i, request in enumerate(self.requests(plan, prompt_id, run_seed)):
            params, skip = request.params, known[i] if i < len(known) else 0
            if params.n > skip:
                seed = None if params.seed is None else params.seed + skip
                found.append(replace(request, params=replace(params, n=params.n - skip, seed=seed)))
        return found

    def redraw_limit(self) -> int:
        """How often candidates that were not accepted are drawn again."""
        return 0

    def prompt(self, task: Task, row: Row) -> Prompt:
        return task.instruct(row.messages, row)

    def answer_language(self, task: Task, row: Row) -> str | None:
        return task.answer_language(row)

    def accepts(self, candidate: Candidate) -> bool:
        """Whether to keep a candidate; refused ones are drawn again, :meth:`redraw_limit` times."""
        return True

    def _greedy(self) -> PlannedRequest:
        return self._request("greedy", temperature=0.0)

    def _stochastic(self, n: int, temperature: float, seed: int) -> PlannedRequest:
        cuts: dict[str, Any] = {"top_p": self.top_p, "top_k": self.top_k, "min_p": self.min_p}
        return self._request("sample", n=n, temperature=temperature, seed=seed, **cuts)

    def _request(self, origin: str, **params: Any) -> PlannedRequest:
        limits: dict[str, Any] = {"max_tokens": self.max_tokens, "stop": tuple(self.stop)}
        return PlannedRequest(SamplingParams(**params, **limits, confidence_tokens=self.confidence_tokens), origin)


@PLANS.register("greedy")
@dataclass
class Greedy(PlanConfig):
    """One candidate at temperature 0."""

    n: int = bounded(1, ge=1, le=1, cure="greedy decoding has one answer; set {at}.n=1 or {at}.kind=hedged")

    def requests(self, plan: str, prompt_id: str, run_seed: int, draw: int = 0, have: int = 0) -> list[PlannedRequest]:
        return [self._greedy()]


@PLANS.register("single")
@dataclass
class SingleTemperature(PlanConfig):
    """N stochastic candidates at one temperature, in one request."""

    adapts: ClassVar[bool] = True
    temperature: float = bounded(0.7, gt=0, cure="0 has one answer only: use {at}.kind=greedy")

    def requests(self, plan: str, prompt_id: str, run_seed: int, draw: int = 0, have: int = 0) -> list[PlannedRequest]:
        return [self._stochastic(self.n, self.temperature, derive_seed(run_seed, prompt_id, plan, 0))]


@PLANS.register("hedged")
@dataclass
class Hedged(SingleTemperature):
    """The greedy answer plus N-1 stochastic ones at one temperature (N counts the greedy one).

    vLLM refuses n > 1 at temperature 0, so this is two requests, which share their prefix.
    """

    n: int = bounded(5, ge=2, cure="hedged is the greedy answer plus n-1 samples; or set {at}.kind=greedy")

    def requests(self, plan: str, prompt_id: str, run_seed: int, draw: int = 0, have: int = 0) -> list[PlannedRequest]:
        seed = derive_seed(run_seed, prompt_id, plan, 1)
        return [self._greedy(), self._stochastic(self.n - 1, self.temperature, seed)]


@PLANS.register("mixed")
@dataclass
class MixedTemperatures(PlanConfig):
    """Stochastic candidates spread over several temperatures (0 in the list is the greedy answer).

    The paper's schedule could not be confirmed; ours deals the candidates out to the temperatures in turn.

    Attributes:
        temperatures: those to draw at; ``temperature`` is not used.
    """

    temperatures: list[float] = bounded(factory=lambda: [0.3, 0.7, 1.0], ge=0)

    def check(self, key: str) -> None:
        super().check(key)
        if not self.temperatures:
            raise ConfigError(f"{key}.temperatures: a list of numbers that is not empty")
        if self.temperatures.count(0) > 1 or (0 in self.temperatures and self.n > len(self.temperatures)):
            raise ConfigError(f"{key}.temperatures: 0 (greedy) can be drawn once only, so n <= the list's length")

    def requests(self, plan: str, prompt_id: str, run_seed: int, draw: int = 0, have: int = 0) -> list[PlannedRequest]:
        counts = [0] * len(self.temperatures)
        for i in range(self.n):
            counts[i % len(counts)] += 1
        entries = enumerate(zip(self.temperatures, counts, strict=True))
        return [
            self._greedy() if t == 0 else self._stochastic(n, t, derive_seed(run_seed, prompt_id, plan, i))
            for i, (t, n) in entries
            if n
        ]
