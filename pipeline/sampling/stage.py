"""The generate stage: one plan's candidates for one prompt."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, ClassVar

from pipeline.engines.base import Engine
from pipeline.errors import EngineRequestError
from pipeline.records import Candidate, Row
from pipeline.sampling.plans import PlanConfig, PlannedRequest
from pipeline.stage import Stage


@dataclass
class GenerateStage(Stage):
    """Appends the candidates of one sampling plan.

    A request that fails leaves candidates with an ``error`` and no text; only when all of them fail does the
    row get an error. Rows that could not be read as prompts are carried along without candidates.
    """

    plan: str
    config: PlanConfig
    run_seed: int

    reads: ClassVar[tuple[str, ...]] = ("prompt_id", "language", "messages", "candidates", "errors")
    writes: ClassVar[tuple[str, ...]] = ("candidates",)

    @property
    def name(self) -> str:
        return f"generate:{self.plan}"

    async def __call__(self, row: Row, engine: Engine | None) -> Row:
        assert engine is not None
        if any(error.job == "prompts" for error in row.errors):
            return row
        requests = self.config.requests(self.plan, row.prompt_id, self.run_seed)
        results = await asyncio.gather(*(self._request(row, engine, request) for request in requests))
        candidates = [c for group in results for c in group]
        row.candidates = [*row.candidates, *candidates]
        if candidates and all(c.error for c in candidates):
            raise EngineRequestError(candidates[0].error or "no candidate")
        return row

    async def _request(self, row: Row, engine: Engine, request: PlannedRequest) -> list[Candidate]:
        params = request.params
        base: dict[str, Any] = {
            "model": engine.model,
            "revision": engine.revision,
            "plan": self.plan,
            "origin": request.origin,
            "language": row.language,
            "temperature": params.temperature,
            "min_p": params.min_p,
            "top_p": params.top_p,
        }
        try:
            generation = await engine.generate(row.messages, params)
        except EngineRequestError as error:
            seeds = [None if params.seed is None else params.seed + k for k in range(params.n)]
            return [Candidate(**base, seed=seed, error=str(error)) for seed in seeds]
        return [
            Candidate(
                **base,
                text=c.text,
                reasoning=c.reasoning,
                seed=c.seed,
                finish_reason=c.finish_reason,
                num_tokens=c.num_tokens,
                logprob=c.logprob,
            )
            for c in generation.completions
        ]
