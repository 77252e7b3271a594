"""CHOPS: checklisted one-pass selection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pipeline.engines.base import SamplingParams
from pipeline.errors import EngineRequestError
from pipeline.hashing import hash_rng
from pipeline.judging.templates import load_template
from pipeline.judging.verdicts import LETTERS, pick
from pipeline.selection.base import Choice, Pool, Selector, selector


@selector("chops")
@dataclass
class CHOPS(Selector):
    """The judge writes a checklist for this prompt, then sees it with all candidates at once and names one.

    Candidates are shown in an order shuffled by a hash of (run seed, prompt_id); the permutation is recorded in
    ``detail``. Judge temperature 0. An unreadable verdict falls back to the greedy candidate and is marked. The
    paper's prompts, order and temperature could not be confirmed; these are ours.

    Attributes:
        checklist_template, template: names or files of the two judge templates.
        checklist_tokens: longest checklist, in tokens.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"generate", "label_probs"})
    cost: ClassVar[str] = "2"
    source: ClassVar[str] = "arXiv 2506.20544, CHOPS"
    checklist_template: str = "checklist"
    template: str = "one_pass"
    checklist_tokens: int = 256

    def check(self, key: str) -> None:
        super().check(key)
        load_template(self.checklist_template, key=f"{key}.checklist_template")
        load_template(self.template, key=f"{key}.template")

    def templates(self) -> dict[str, str]:
        return {name: load_template(name).hash for name in (self.checklist_template, self.template)}

    async def select(self, pool: Pool) -> Choice:
        indices = pool.selectable()
        if len({pool.candidates[i].text for i in indices}) == 1:
            return Choice(indices[0], detail={"identical": True})
        checklist = await self._checklist(pool)
        order = list(indices)
        hash_rng(*pool.key("chops", 0)).shuffle(order)
        return await self._pick(pool, order, checklist)

    async def _checklist(self, pool: Pool) -> str:
        assert pool.engine is not None
        template = load_template(self.checklist_template, pool.row.language)
        params = SamplingParams(temperature=0.0, max_tokens=self.checklist_tokens)
        generation = await pool.engine.generate(template.render(messages=pool.row.messages), params)
        return generation.completions[0].text.strip()

    async def _pick(self, pool: Pool, order: list[int], checklist: str) -> Choice:
        assert pool.engine is not None
        if len(order) > len(LETTERS):
            raise EngineRequestError(f"one-pass selection shows at most {len(LETTERS)} candidates, not {len(order)}")
        template = load_template(self.template, pool.row.language)
        labels = LETTERS[: len(order)]
        answers = [(label, pool.candidates[i].text) for label, i in zip(labels, order, strict=True)]
        prompt = template.render(messages=pool.row.messages, checklist=checklist, answers=answers)
        result = await pool.engine.label_probs(prompt, labels, template.prefill)
        label = pick(result.probs, *pool.key("chops"))
        detail = {"order": order, "mass": round(result.mass, 6), "checklist": checklist}
        if label is None:
            return Choice(pool.fallback(), detail={**detail, "fallback": "unreadable verdict"})
        values: list[float | None] = [None] * len(pool.candidates)
        for name, index in zip(labels, order, strict=True):
            values[index] = result.probs[name] / result.mass
        index = order[labels.index(label)]
        return Choice(index, score=values[index], detail=detail, values=values)
