"""Self-certainty: the candidate of whose tokens the generator was most certain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pipeline.core.errors import EngineRequestError
from pipeline.engines.certainty import SCORER
from pipeline.selection.base import Choice, Pool, Selector, selector


@selector("self_certainty")
@dataclass
class SelfCertainty(Selector):
    """Highest mean KL(uniform || p) over the tokens, measured while sampling: no reward model, no extra call.

    Set ``sampling.confidence_tokens`` to k > 0. Exact only when k is the whole vocabulary; top-k is an approximation
    (``pipeline/engines/certainty.py``). Candidates of a set that was sampled without it cannot be scored.
    """

    cost: ClassVar[str] = "0 (measured while sampling)"
    source: ClassVar[str] = "arXiv 2502.18581; the whole vocabulary there, top-k here"

    async def select(self, pool: Pool) -> Choice:
        for score in pool.row.scores:
            if score.scorer == SCORER and score.plan == pool.plan and len(score.values) == len(pool.candidates):
                return self.best(pool, score.values)
        raise EngineRequestError("no self-certainty was measured: set sampling.confidence_tokens=20 before generating")
