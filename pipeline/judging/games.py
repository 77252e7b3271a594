"""Games between systems (and of single candidates), in both orders: who plays, what the judge is shown, who wins."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar

from pipeline.core.errors import EngineRequestError
from pipeline.core.row import Game, Row, answer
from pipeline.core.units import CANDIDATE
from pipeline.engines.base import Engine, SamplingParams
from pipeline.engines.stage import PROMPT, Stage
from pipeline.judging.names import JUDGE_FAILED, PLEA, PLEA_IGNORED, UNREADABLE, candidate_system
from pipeline.judging.pleas import without_pleas
from pipeline.judging.templates import JudgeTemplate, load_template
from pipeline.judging.verdicts import FirstVerdicts, Judge, Verdict
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
_LONGEST_ERROR = 500


@dataclass
class Refereeing:
    """How games are judged.

    Attributes:
        judge: the judge's name as recorded.
        template: name or file of the template; its labels mean first, second, tie.
        soft: probabilities instead of hard verdicts.
        max_chars: longer answers are cut to this many characters in the judge's prompt (0 = never).
        reason_tokens: the judge first writes a reason of at most so many tokens, and is shown it when it chooses; kept
            in ``games.reason`` (0 = none: the verdict is read from one prefill).
        run_seed: seeds the word in the frames (:func:`~pipeline.judging.templates.framed`).
        tasks: settings of the tasks that have any: the judge sees their instructions.
        early: notices a judge that cannot be read.
    """

    judge: str
    template: str = "pairwise"
    soft: bool = False
    max_chars: int = 0
    reason_tokens: int = 0
    run_seed: int = 1
    tasks: dict[str, Task] = field(default_factory=dict)
    early: FirstVerdicts | None = None


class Referee(Judge):
    """Plays games on one row; equal pairs of texts are judged once."""

    def __init__(self, rules: Refereeing, engine: Engine, row: Row) -> None:
        super().__init__(engine, task_for(row, rules.tasks).question(row), rules.early)
        self._rules = rules
        self._template = load_template(rules.template, row.language)

    async def play(
        self, system: str, opponent: str, mine: str | None, theirs: str | None, order: str, ask_always: bool = False
    ) -> Game:
        """One game in one order.

        Args:
            mine, theirs: the two answers; a missing one loses without a call, and equal ones tie.
            ask_always: put equal texts to the judge too.
        """
        rules, template = self._rules, self._template
        game = partial(Game, system, opponent, rules.judge, f"{template.name}@{template.hash}", order)
        if mine is None or theirs is None or (mine == theirs and not ask_always):
            score, why = _without_call(mine, theirs)
            return game(score, None, _word(score), why)
        said = await self.compare(template, *((mine, theirs) if order == "ab" else (theirs, mine)))
        if said.error is not None:
            return game(None, None, "invalid", f"{JUDGE_FAILED}{said.error}"[:_LONGEST_ERROR])
        if said.problem is not None:
            return game(None, None, "invalid", f"{UNREADABLE}{said.problem}"[:_LONGEST_ERROR])
        played, hard = (_of_system(said.score(soft), order) for soft in (rules.soft, False))
        return game(played, min(1.0, sum(said.probs.values())), _word(hard), said.reason)

    async def _compare(self, template: JudgeTemplate, first: str, second: str) -> Verdict:
        """The judge's verdict, or that on copies without the sentences that speak to the judge (a plea), where those
        sentences gained anything for the answer that holds them: a plea can lose a game, and never win one.
        """
        said = await self._call(template, first, second)
        bare = without_pleas(first), without_pleas(second)
        if bare == (first, second) or said.error is not None:
            return said
        again = await self._call(template, *bare)
        with_plea, without = said.score(soft=True), again.score(soft=True)
        if without is None:
            ignored = False
        elif with_plea is None:
            ignored = True
        else:
            gain, pleading = with_plea - without, (bare[0] != first, bare[1] != second)
            ignored = gain != 0 and (all(pleading) or (gain > 0) == pleading[0])
        note = PLEA_IGNORED if ignored else PLEA
        return replace(again if ignored else said, reason=f"{note}; {said.reason}" if said.reason else note)

    async def _call(self, template: JudgeTemplate, first: str, second: str) -> Verdict:
        turns = self.render(template, answer_a=self._cut(first), answer_b=self._cut(second))
        if not self._rules.reason_tokens:
            return await self.ask(turns, template, template.labels)
        turns = [*turns[:-1], {"role": "user", "content": f"{turns[-1]['content']}\n\n{_REASON}"}]
        params = SamplingParams(temperature=0.0, max_tokens=self._rules.reason_tokens)
        try:
            reason = (await self.engine.generate(turns, params)).completions[0].text.strip()
        except EngineRequestError as error:
            return Verdict(template.labels, {}, str(error))
        turns += [{"role": "assistant", "content": template.defused(reason)}, {"role": "user", "content": _CHOOSE}]
        return replace(await self.ask(turns, template, template.labels), reason=reason[:_LONGEST_REASON])

    def _cut(self, text: str) -> str:
        limit = self._rules.max_chars
        return text[:limit] + " [cut]" if limit and len(text) > limit else text


def _of_system(score: float | None, order: str) -> float | None:
    return score if score is None or order == "ab" else 1.0 - score


def _without_call(mine: str | None, theirs: str | None) -> tuple[float, str]:
    """Score and reason of a game that needs no judge: a missing answer loses, identical texts tie."""
    if mine is None and theirs is None:
        return 0.5, "both answers are missing"
    if mine is None:
        return 0.0, "the system's answer is missing"
    return (1.0, "the opponent's answer is missing") if theirs is None else (0.5, "identical texts")


def _word(score: float | None) -> str:
    if score is None:
        return "invalid"
    return "win" if score > 0.5 else "loss" if score < 0.5 else "tie"


@dataclass
class JudgeStage(Refereeing, Stage):
    """Judges every system against one opponent, in both orders.

    Equal texts tie without a call; a missing answer of a system loses without a call (both missing: tie);
    pairs of texts that several systems share are judged once. A judge that fails leaves a null score.

    Args:
        systems: ``plan/selector`` names or outside systems.
        opponent: the baseline.
        candidate_sets: sets whose every candidate plays too, as ``SET#INDEX``: for hope, risk and oracle on open tasks.
    """

    systems: tuple[str, ...] = ()
    opponent: str = ""
    candidate_sets: tuple[str, ...] = ()

    reads: ClassVar[tuple[str, ...]] = (*PROMPT, "candidates", "selections", "answers", "games")
    writes: ClassVar[tuple[str, ...]] = ("games",)

    @property
    def name(self) -> str:
        return "judge"

    def rest(self, units: Sequence[str], before: Mapping[str, Any]) -> JudgeStage:
        return replace(
            self,
            systems=tuple(s for s in self.systems if f"{s} vs {self.opponent}" in units),
            candidate_sets=tuple(s for s in self.candidate_sets if f"{s}{CANDIDATE} vs {self.opponent}" in units),
        )

    async def __call__(self, row: Row, engine: Engine | None) -> Row:
        assert engine is not None
        if row.unreadable:
            return row
        referee = Referee(self, engine, row)
        theirs = answer(row, self.opponent)
        games = [
            referee.play(system, self.opponent, mine, theirs, order)
            for system, mine in self._players(row)
            for order in ORDERS
        ]
        row.games = [*row.games, *await asyncio.gather(*games)]
        return row

    def _players(self, row: Row) -> Iterator[tuple[str, str | None]]:
        for system in self.systems:
            yield system, answer(row, system)
        for name in self.candidate_sets:
            for i, candidate in enumerate(row.plan(name)):
                if candidate.origin != "evidence":
                    yield candidate_system(name, i), candidate.text
