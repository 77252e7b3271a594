"""The judge stage: pairwise games between systems, in both orders."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from pipeline.engines.base import Engine, LabelProbs
from pipeline.errors import EngineRequestError
from pipeline.judging.templates import JudgeTemplate, load_template
from pipeline.judging.verdicts import pairwise_score
from pipeline.records import Game, Row
from pipeline.selection.stage import answer
from pipeline.stage import Stage

ORDERS = ("ab", "ba")


@dataclass
class JudgeStage(Stage):
    """Judges every system against one opponent, in both orders.

    Equal texts tie without a call; a missing answer of a system loses without a call (both missing: tie);
    pairs of texts that several systems share are judged once. A judge that fails leaves a null score.

    Args:
        systems: ``plan/selector`` names or outside systems.
        opponent: the baseline.
        judge: the judge's name as recorded.
        template: name or file of the template; its labels mean first, second, tie.
        soft: probabilities instead of hard verdicts.
        max_chars: longer answers are cut to this many characters in the judge's prompt (0 = never).
    """

    systems: tuple[str, ...]
    opponent: str
    judge: str
    template: str
    soft: bool = False
    max_chars: int = 0

    reads: ClassVar[tuple[str, ...]] = ("prompt_id", "language", "messages", "selections", "answers", "games", "errors")
    writes: ClassVar[tuple[str, ...]] = ("games",)

    @property
    def name(self) -> str:
        return "judge"

    def rest(self, units: Sequence[str], before: Mapping[str, Any]) -> JudgeStage:
        return replace(self, systems=tuple(s for s in self.systems if f"{s} vs {self.opponent}" in units))

    async def __call__(self, row: Row, engine: Engine | None) -> Row:
        assert engine is not None
        if row.unreadable:
            return row
        template = load_template(self.template, row.language)
        calls: dict[tuple[str, str], asyncio.Task[LabelProbs]] = {}

        def verdict(first: str, second: str) -> Awaitable[LabelProbs]:
            if (first, second) not in calls:
                prompt = template.render(messages=row.messages, answer_a=self._cut(first), answer_b=self._cut(second))
                call = engine.label_probs(prompt, template.labels, template.prefill)
                calls[first, second] = asyncio.ensure_future(call)
            return calls[first, second]

        theirs = answer(row, self.opponent)
        pairs = [(system, order) for system in self.systems for order in ORDERS]

        async def game(system: str, order: str) -> Game:
            mine = answer(row, system)
            base: dict[str, Any] = {
                "system": system,
                "opponent": self.opponent,
                "judge": self.judge,
                "template": f"{template.name}@{template.hash}",
                "order": order,
            }
            if mine is None or theirs is None or mine == theirs:
                score, reason = _without_call(mine, theirs)
                return Game(**base, score=score, mass=None, verdict=_word(score), reason=reason)
            try:
                result = await (verdict(mine, theirs) if order == "ab" else verdict(theirs, mine))
            except EngineRequestError as error:
                return Game(**base, score=None, mass=None, verdict="invalid", reason=f"judge failed: {error}"[:500])
            return Game(**base, **self._read(template, result, order))

        row.games = [*row.games, *await asyncio.gather(*(game(s, o) for s, o in pairs))]
        return row

    def _read(self, template: JudgeTemplate, result: LabelProbs, order: str) -> dict[str, Any]:
        first, second, tie = template.labels
        scores = []
        for soft in (self.soft, False):
            score = pairwise_score(result.probs, first, second, tie, soft)
            scores.append(None if score is None else score if order == "ab" else 1.0 - score)
        return {"score": scores[0], "mass": result.mass, "verdict": _word(scores[1])}

    def _cut(self, text: str) -> str:
        return text[: self.max_chars] + " [cut]" if self.max_chars and len(text) > self.max_chars else text


def _without_call(mine: str | None, theirs: str | None) -> tuple[float, str]:
    """Score and reason of a game that needs no judge: a missing answer loses, identical texts tie."""
    if mine is None and theirs is None:
        return 0.5, "both answers are missing"
    if mine is None:
        return 0.0, "the system's answer is missing"
    if theirs is None:
        return 1.0, "the opponent's answer is missing"
    return 0.5, "identical texts"


def _word(score: float | None) -> str:
    if score is None:
        return "invalid"
    return "win" if score > 0.5 else "loss" if score < 0.5 else "tie"
