"""The generate stage: one plan's candidates for one prompt."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, TypeVar

from pipeline.core.errors import EngineRequestError, ResumeError
from pipeline.core.policy import Policy
from pipeline.core.row import Candidate, Row, Score
from pipeline.engines.base import Engine, Prompt
from pipeline.engines.certainty import SCORER as CERTAINTY
from pipeline.engines.stage import PROMPT, Stage
from pipeline.sampling.plans import PlanConfig, PlannedRequest
from pipeline.tasks import Task, task_for

T = TypeVar("T")


@dataclass
class GenerateStage(Stage):
    """Appends the candidates of one sampling plan to its candidate set.

    A request that fails leaves candidates with an ``error`` and no text; only when all of them fail does the row get an
    error. Rows that could not be read as prompts are carried along without candidates, as are rows for which the
    policy names another plan. Candidates that the plan refuses (evidence in the wrong language) are drawn again, a
    limited number of times, and then dropped.

    Args:
        plan: the plan's name in the config; seeds derive from it.
        config: the plan.
        run_seed: the run's seed.
        tasks: settings of the tasks that have any; the row's task says how to prompt.
        policy: restricts the plan to the rows whose rule names it.
        have: candidates of the plan that the rows have already; only those beyond them are sampled.
    """

    plan: str
    config: PlanConfig
    run_seed: int
    tasks: dict[str, Task] = field(default_factory=dict)
    policy: Policy | None = None
    have: int = 0

    reads: ClassVar[tuple[str, ...]] = (*PROMPT, "reference", "candidates", "scores")
    writes: ClassVar[tuple[str, ...]] = ("candidates", "scores")

    @property
    def name(self) -> str:
        return f"generate:{self.plan}"

    @property
    def set_name(self) -> str:
        return self.config.candidate_set or self.plan

    def rest(self, units: Sequence[str], before: Mapping[str, Any]) -> GenerateStage:
        if "rounds" in before.get(self.set_name, {}):
            raise ResumeError(f"plan {self.plan}: a set that was drawn in rounds is not extended; use another folder")
        have = int(before.get(self.set_name, {}).get("n", 0))
        if have > self.config.n:
            raise ResumeError(
                f"plan {self.plan}: the run has {have} candidates per prompt, more than n={self.config.n}; use another "
                "folder (out=...), or the larger n"
            )
        if have and not self.config.grows:
            raise ResumeError(f"plan {self.plan}: n was {have}; a finished {self.config.kind} set cannot be extended")
        return replace(self, have=have)

    async def __call__(self, row: Row, engine: Engine | None) -> Row:
        assert engine is not None
        if row.unreadable:
            return row
        if not self.config.wants(row.language):
            return row
        if self.policy is not None and not self.policy.wants_plan(self.set_name, row):
            return row
        task = task_for(row, self.tasks)
        prompt = self.config.prompt(task, row)
        drawn: list[tuple[Candidate, float | None]] = []
        failures: list[EngineRequestError] = []

        async def ask(request: PlannedRequest) -> list[tuple[Candidate, float | None]]:
            return await self._request(row, engine, prompt, task, request, failures)

        for draw in range(1 + self.config.redraw_limit()):
            if self.have:
                requests = self.config.further(self.plan, row.prompt_id, self.run_seed, self.have)
            else:
                requests = self.config.requests(self.plan, row.prompt_id, self.run_seed, draw, len(drawn))
            groups = await _together([ask(request) for request in requests])
            drawn += [pair for group in groups for pair in group if self.config.accepts(pair[0])]
            if self.have + len(drawn) >= self.config.n:
                break
        candidates = [candidate for candidate, _ in drawn]
        if self.config.confidence_tokens:
            self._keep_certainty(row, [value for _, value in drawn])
        row.candidates = [*row.candidates, *candidates]
        if candidates and all(c.error for c in candidates):
            raise failures[0]
        return row

    def _keep_certainty(self, row: Row, values: list[float | None]) -> None:
        """Store what was measured as scores, behind those of plans that filled the same set before."""
        known = [s for s in row.scores if s.scorer == CERTAINTY and s.plan == self.set_name]
        before = known[0].values if known else [None] * len(row.plan(self.set_name))
        others = [s for s in row.scores if s not in known]
        row.scores = [*others, Score(CERTAINTY, self.set_name, [*before, *values])]

    async def _request(
        self,
        row: Row,
        engine: Engine,
        prompt: Prompt,
        task: Task,
        request: PlannedRequest,
        failures: list[EngineRequestError],
    ) -> list[tuple[Candidate, float | None]]:
        params = replace(request.params, stop=(*request.params.stop, *task.stops()))
        base: dict[str, Any] = {
            "model": engine.model,
            "revision": engine.revision,
            "plan": self.set_name,
            "origin": request.origin,
            "language": self.config.answer_language(task, row),
            "temperature": params.temperature,
            "min_p": params.min_p,
            "top_p": params.top_p,
        }
        try:
            generation = await engine.generate(prompt, params)
        except EngineRequestError as error:
            failures.append(error)
            return [(Candidate(**base, seed=params.seed_of(k), error=str(error)), None) for k in range(params.n)]
        return [
            (
                Candidate(
                    **base,
                    text=c.text,
                    reasoning=c.reasoning,
                    seed=c.seed,
                    finish_reason=c.finish_reason,
                    num_tokens=c.num_tokens,
                    logprob=c.logprob,
                ),
                c.self_certainty,
            )
            for c in generation.completions
        ]


async def _together(calls: Sequence[Awaitable[T]]) -> Sequence[T]:
    """The results of all; a single call needs no task of its own, which is a tenth of what a row costs."""
    return [await calls[0]] if len(calls) == 1 else await asyncio.gather(*calls)
