"""CHOPS: checklisted one-pass selection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pipeline.core.bounds import bounded
from pipeline.engines.base import SamplingParams
from pipeline.selection.base import Pool, selector
from pipeline.selection.one_pass import OnePass


@selector("chops")
@dataclass
class CHOPS(OnePass):
    """The judge writes a checklist for this prompt, then sees it with all candidates at once and names one.

    The checklist is written once, for all permutations; everything else is as in one-pass selection, the seeded orders
    too, so that the checklist is all the difference; an empty one is marked. O(1 + R) calls.

    Attributes:
        checklist_template: name or file of the template that asks for the checklist.
        checklist_tokens: longest checklist, in tokens.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"generate"})
    cost: ClassVar[str] = "1 + R = 2"
    source: ClassVar[str] = "arXiv 2506.20544, CHOPS"
    template_keys: ClassVar[tuple[str, ...]] = ("template", "checklist_template")
    checklist_template: str = "checklist"
    checklist_tokens: int = bounded(256, ge=1)

    async def _checklist(self, pool: Pool) -> str:
        assert pool.engine is not None
        turns = pool.judge().render(pool.template(self.checklist_template))
        params = SamplingParams(temperature=0.0, max_tokens=self.checklist_tokens)
        return (await pool.engine.generate(turns, params)).completions[0].text.strip()
