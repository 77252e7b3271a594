"""Pointwise judge: every candidate graded on its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pipeline.core.errors import EngineRequestError
from pipeline.judging.templates import load_template
from pipeline.judging.verdicts import VERDICT
from pipeline.selection.base import Choice, Pool, Selector, score_texts, selector


@selector("judge")
@dataclass
class PointwiseJudge(Selector):
    """Best-of-N by a judge's expected grade, read from the probabilities of the grades in one prefill.

    Warning: pointwise grades tie in 67% of pairs and recover 21% of the oracle's gain (arXiv 2603.12520).
    A grade is invalid when the labels hold less than half of the probability mass.

    Attributes:
        template: name or file of the judge template.
    """

    by_text: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({VERDICT})
    cost: ClassVar[str] = "N"
    source: ClassVar[str] = "arXiv 2506.20544, selection; arXiv 2603.12520"
    template_keys: ClassVar[tuple[str, ...]] = ("template",)
    template: str = "pointwise"

    def highest(self) -> float:
        return max(float(label) for label in load_template(self.template).labels)

    async def select(self, pool: Pool) -> Choice:
        values, failures = await score_texts(pool, lambda text: self._grade(pool, text))
        invalid = {c.text for c, v in zip(pool.candidates, values, strict=True) if c.text is not None and v is None}
        return self.best(pool, values, **({"invalid": len(invalid)} if invalid else {}), **failures)

    async def _grade(self, pool: Pool, text: str) -> float | None:
        template = pool.template(self.template)
        said = await pool.judge().verdict(template, template.labels, answer=text)
        if said.error:
            raise EngineRequestError(said.error)
        return said.grade()
