"""Pointwise judge: every candidate graded on its own."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import ClassVar

from pipeline.errors import EngineRequestError
from pipeline.judging.templates import load_template
from pipeline.judging.verdicts import expected_grade
from pipeline.selection.base import Choice, Pool, Selector, selector


@selector("judge")
@dataclass
class PointwiseJudge(Selector):
    """Best-of-N by a judge's expected grade, read from the probabilities of the grades in one prefill.

    Warning: pointwise grades tie in 67% of pairs and recover 21% of the oracle's gain (arXiv 2603.12520).
    A grade is invalid when the labels hold less than half of the probability mass.

    Attributes:
        template: name or file of the judge template.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"label_probs"})
    cost: ClassVar[str] = "N"
    source: ClassVar[str] = "arXiv 2506.20544, selection; arXiv 2603.12520"
    template: str = "pointwise"

    def check(self, key: str) -> None:
        super().check(key)
        load_template(self.template, key=f"{key}.template")

    def templates(self) -> dict[str, str]:
        return {self.template: load_template(self.template).hash}

    async def select(self, pool: Pool) -> Choice:
        texts = sorted({c.text for c in pool.candidates if c.text is not None})
        grades = dict(zip(texts, await asyncio.gather(*(self._grade(pool, t) for t in texts)), strict=True))
        values = [None if c.text is None else grades[c.text] for c in pool.candidates]
        invalid = sum(v is None for v in grades.values())
        return self.best(pool, values, **({"invalid": invalid} if invalid else {}))

    async def _grade(self, pool: Pool, text: str) -> float | None:
        assert pool.engine is not None
        template = load_template(self.template, pool.row.language)
        labels = template.labels
        try:
            result = await pool.engine.label_probs(
                template.render(messages=pool.row.messages, answer=text), labels, template.prefill
            )
        except EngineRequestError:
            return None
        return expected_grade(result.probs, labels)
