"""X-MBR: minimum Bayes risk with evidence in another language."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pipeline.core.bounds import bounded
from pipeline.selection.base import Choice, Pool, selector
from pipeline.selection.mbr import MBR, UTILITY_NAMES

NO_EVIDENCE = "there is no evidence"


@selector("xmbr")
@dataclass
class XMBR(MBR):
    """MBR over Y whose evidence is Y without y, plus Z: M extra samples in an evidence language (English for
    non-English prompts, Chinese for English ones), each weighing as much as a candidate. Z is never chosen.

    Two candidates are compared as in MBR; a candidate and a piece of evidence by a judge who is told that the texts
    may differ in language and to weigh their content. Both orders. |Z| is recorded as ``evidence`` in ``detail``:
    without evidence this is MBR. O(N^2 + NM) utilities. Compare it with an MBR that was given N + M candidates. The
    paper's prompts could not be confirmed; these are ours. BLEU has no meaning across languages and chrF little.

    Attributes:
        evidence: name of the plan whose candidates of origin ``evidence`` are Z.
        crosslingual_template: name or file of the judge template for a candidate and a piece of evidence.
    """

    cost: ClassVar[str] = "M generations, judge: N(N-1) + 2NM = 50 at N=5, M=3"
    source: ClassVar[str] = "arXiv 2506.20544, X-MBR"
    template_keys: ClassVar[tuple[str, ...]] = ("template", "crosslingual_template")
    utility: str = bounded("judge", one_of=UTILITY_NAMES)
    evidence: str = "evidence"
    crosslingual_template: str = "crosslingual"

    def evidence_plan(self) -> str | None:
        return self.evidence

    async def select(self, pool: Pool) -> Choice:
        found = [c.text for c in pool.row.plan(self.evidence) if c.origin == "evidence" and c.text is not None]
        without = {} if found else {"without": NO_EVIDENCE}
        return await self._select(pool, found, self.crosslingual_template, evidence=len(found), **without)
