"""One-pass selection: the judge sees all candidates at once and names one."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from typing import Any, ClassVar

from pipeline.core.bounds import bounded
from pipeline.core.hashing import hash_rng
from pipeline.judging.verdicts import LETTERS, VERDICT, Judge
from pipeline.selection.base import Choice, Pool, Selector, selector

EMPTY_CHECKLIST = "the checklist is empty"


@selector("one_pass")
@dataclass
class OnePass(Selector):
    """The judge sees prompt and candidates and names one; with R permutations, the candidate named most often.

    The order is shuffled by a hash of (run seed, prompt_id); further permutations rotate it, so that with R = N every
    candidate stands once in every place. Equal texts share their votes, a tie is broken by a seeded hash. All
    permutations with their picks are recorded in ``detail``, the share of the votes in ``scores``. Judge temperature 0.
    An unreadable verdict has no vote; when none is readable, the greedy candidate is taken and marked. O(R) calls
    of O(N) texts. The paper's prompts, order and temperature could not be confirmed; these are ours.

    Attributes:
        template: name or file of the judge template.
        permutations: R, the number of orders in which the judge is shown the candidates.
    """

    draws: ClassVar[str] = "one_pass"
    needs: ClassVar[frozenset[str]] = frozenset({VERDICT})
    cost: ClassVar[str] = "R = 1"
    source: ClassVar[str] = "arXiv 2506.20544, CHOPS without its checklist"
    template_keys: ClassVar[tuple[str, ...]] = ("template",)
    template: str = "one_pass"
    permutations: int = bounded(1, ge=1)

    def check(self, key: str) -> None:
        super().check(key)

    async def select(self, pool: Pool) -> Choice:
        indices = pool.selectable()
        if len({pool.candidates[i].text for i in indices}) == 1:
            return Choice(indices[0], detail={"identical": True})
        if len(indices) > len(LETTERS):
            raise ValueError(f"one-pass selection shows at most {len(LETTERS)} candidates, not {len(indices)}")
        checklist = await self._checklist(pool)
        judge = pool.judge()
        orders = [self._order(pool, indices, r) for r in range(self.permutations)]
        picks = await asyncio.gather(*(self._pick(pool, judge, order, checklist) for order in orders))
        detail: dict[str, Any] = {"permutations": picks, **judge.tally.detail()}
        if checklist is not None:
            detail |= {"checklist": checklist} if checklist else {"without": EMPTY_CHECKLIST}
        votes = Counter(pool.candidates[p["pick"]].text for p in picks if p["pick"] is not None)
        if not votes:
            return Choice(pool.fallback(), detail={**detail, "fallback": "unreadable verdict"})
        return self.best(pool, [votes[c.text] / votes.total() for c in pool.candidates], **detail)

    async def _checklist(self, pool: Pool) -> str | None:
        """What the candidates are judged by; ``None``: by none."""
        return None

    def _order(self, pool: Pool, indices: list[int], r: int) -> list[int]:
        block, turn = divmod(r, len(indices))
        order = list(indices)
        hash_rng(*pool.key(self.draws, block)).shuffle(order)
        return order[turn:] + order[:turn]

    async def _pick(self, pool: Pool, judge: Judge, order: list[int], checklist: str | None) -> dict[str, Any]:
        labels = LETTERS[: len(order)]
        answers = [(label, pool.candidates[i].text) for label, i in zip(labels, order, strict=True)]
        template = pool.template(self.template)
        said = await judge.verdict(template, labels, checklist=checklist or "", answers=answers)
        label = said.pick(*pool.key(self.draws, order))
        probs = [round(said.probs.get(label, 0.0), 6) for label in labels]
        return {"order": order, "probs": probs, "pick": None if label is None else order[labels.index(label)]}
