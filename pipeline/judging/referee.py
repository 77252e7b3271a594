"""One row's games: what the judge is shown, what its verdicts mean, and which games need no judge."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from pipeline.core.errors import EngineRequestError
from pipeline.core.row import Game, Row
from pipeline.engines.base import Engine, SamplingParams
from pipeline.judging.compare import Judge, Verdict
from pipeline.judging.early import FirstVerdicts
from pipeline.judging.names import JUDGE_FAILED, PLEA, PLEA_IGNORED, UNREADABLE
from pipeline.judging.pleas import without_pleas
from pipeline.judging.templates import load_template
from pipeline.judging.verdicts import pairwise_score
from pipeline.tasks import Task, task_for

ORDERS = ("ab", "ba")
"""``ab``: the system was shown first."""

_REASON = (
    "Do not choose yet: first say in one or two sentences what decides between the two answers, without naming your "
    "choice. You will be asked for it next."
)
_ANSWER_WITH = "Answer with the letter of one option, and nothing else."
_CHOOSE = f"Now choose one of the options above. Which answer is better? {_ANSWER_WITH}"
_LONGEST_REASON = 2000  # characters kept of a reason


@dataclass
class Refereeing:
    """How games are judged.

    Attributes:
        judge: the judge's name as recorded.
        template: name or file of the template; its labels mean first, second, tie.
        soft: probabilities instead of hard verdicts.
        reason_tokens: the judge first writes a reason of at most so many tokens, and is shown it when it chooses; kept
            in ``games.reason`` (0 = none: the verdict is read from one prefill).
        run_seed: seeds the word in the frames (:func:`~pipeline.judging.templates.framed`).
        tasks: settings of the tasks that have any: the judge sees their instructions.
        early: notices a judge that cannot be read.
    """

    judge: str
    template: str = "pairwise"
    soft: bool = False
    reason_tokens: int = 0
    run_seed: int = 1
    tasks: dict[str, Task] = field(default_factory=dict)
    early: FirstVerdicts | None = None


@dataclass
class Referee:
    """Plays games on one row; equal pairs of texts are judged once."""

    rules: Refereeing
    engine: Engine
    row: Row
    _asked: dict[tuple[str, str], asyncio.Task[tuple[Verdict, str | None]]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self._template = load_template(self.rules.template, self.row.language)
        self._judge = Judge(self.engine, task_for(self.row, self.rules.tasks).question(self.row), self.rules.early)

    async def play(
        self, system: str, opponent: str, mine: str | None, theirs: str | None, order: str, ask_always: bool = False
    ) -> Game:
        """One game in one order.

        Args:
            mine, theirs: the two answers; a missing one loses without a call, and equal ones tie.
            ask_always: put equal texts to the judge too.
        """
        rules = self.rules
        base: dict[str, Any] = {
            "system": system,
            "opponent": opponent,
            "judge": rules.judge,
            "template": f"{self._template.name}@{self._template.hash}",
            "order": order,
        }
        if mine is None or theirs is None or (mine == theirs and not ask_always):
            score, why = _without_call(mine, theirs)
            return Game(**base, score=score, mass=None, verdict=_word(score), reason=why)
        said, reason = await (self._ask(mine, theirs) if order == "ab" else self._ask(theirs, mine))
        if said.error is not None:
            return Game(**base, score=None, mass=None, verdict="invalid", reason=f"{JUDGE_FAILED}{said.error}"[:500])
        if said.problem is not None:
            return Game(**base, score=None, mass=None, verdict="invalid", reason=f"{UNREADABLE}{said.problem}"[:500])
        scores = [self._score(said, soft, order) for soft in (rules.soft, False)]
        mass = min(1.0, sum(said.probs.values()))
        return Game(**base, score=scores[0], mass=mass, verdict=_word(scores[1]), reason=reason)

    def _score(self, said: Verdict, soft: bool, order: str) -> float | None:
        first, second, tie = self._template.labels
        score = pairwise_score(said.probs, first, second, tie, soft)
        return score if score is None or order == "ab" else 1.0 - score

    def _ask(self, first: str, second: str) -> asyncio.Task[tuple[Verdict, str | None]]:
        if (first, second) not in self._asked:
            self._asked[first, second] = asyncio.ensure_future(self._checked(first, second))
        return self._asked[first, second]

    async def _checked(self, first: str, second: str) -> tuple[Verdict, str | None]:
        """The judge's verdict, or that on copies without the sentences that speak to the judge (a plea), where those
        sentences gained anything for the answer that holds them: a plea can lose a game, and never win one.
        """
        said, reason = await self._call(first, second)
        bare = without_pleas(first), without_pleas(second)
        if bare == (first, second) or said.error is not None:
            return said, reason
        again, _ = await self._call(*bare)
        scores = [self._score(each, True, "ab") for each in (said, again)]
        if scores[0] is None or scores[1] is None:
            return (said, _noted(reason, PLEA)) if scores[1] is None else (again, _noted(reason, PLEA_IGNORED))
        gain = scores[0] - scores[1]
        pleading = bare[0] != first, bare[1] != second
        gained = all(pleading) or (gain > 0 if pleading[0] else gain < 0)
        return (again, _noted(reason, PLEA_IGNORED)) if gained and gain else (said, _noted(reason, PLEA))

    async def _call(self, first: str, second: str) -> tuple[Verdict, str | None]:
        template = self._template
        turns = self._judge.render(template, answer_a=first, answer_b=second)
        if not self.rules.reason_tokens:
            return await self._judge.ask(turns, template, template.labels), None
        turns = [*turns[:-1], {"role": "user", "content": f"{turns[-1]['content']}\n\n{_REASON}"}]
        params = SamplingParams(temperature=0.0, max_tokens=self.rules.reason_tokens)
        try:
            reason = (await self.engine.generate(turns, params)).completions[0].text.strip()
        except EngineRequestError as error:
            return Verdict({}, str(error)), None
        turns += [{"role": "assistant", "content": template.defused(reason)}, {"role": "user", "content": _CHOOSE}]
        return await self._judge.ask(turns, template, template.labels), reason[:_LONGEST_REASON]


def _noted(reason: str | None, note: str) -> str:
    return f"{note}; {reason}" if reason else note


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
