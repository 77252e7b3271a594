"""Best-of-N: the candidate with the highest reward."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pipeline.selection.base import Choice, Pool, Selector, score_texts, selector


@selector("best_of_n")
@dataclass
class BestOfN(Selector):
    """Argmax of a reward model's raw score.

    The paper uses INF-ORM-Llama3.1-70B, whose head vLLM does not serve; any sequence-classification model with
    one output does (``kind: vllm, runner: reward`` or ``kind: transformers``). Equal texts are scored once.
    """

    by_text: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"reward"})
    cost: ClassVar[str] = "N reward scores"
    source: ClassVar[str] = "arXiv 2506.20544, selection"

    async def select(self, pool: Pool) -> Choice:
        values, failures = await score_texts(pool, pool.reward)
        return self.best(pool, values, **failures)
