"""The stages of adaptive N: give the candidates numbers, and draw what was decided between two passes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from pipeline.core.columns import Ints
from pipeline.core.errors import ResumeError
from pipeline.core.row import Row, Score
from pipeline.engines.base import Engine
from pipeline.engines.stage import Stage
from pipeline.judging.verdicts import FirstVerdicts
from pipeline.sampling.stage import GenerateStage
from pipeline.selection.base import Pool, Selector
from pipeline.selection.stage import SCORER, known_values
from pipeline.tasks import Task


@dataclass
class ScoreStage(Stage):
    """Appends what a selector gives the candidates so far; candidates of later rounds have null until they are scored.

    Args:
        plan: the sampling plan.
        set_name: its candidate set.
        done: rounds so far.
        method: the selector's name.
        selector: the selector.
        run_seed: as in the select stage.
        tasks: settings of the tasks that have any.
        early: notices a judge that cannot be read.
    """

    plan: str
    set_name: str
    done: int
    method: str
    selector: Selector
    run_seed: int
    tasks: dict[str, Task] = field(default_factory=dict)
    early: FirstVerdicts | None = None

    reads: ClassVar[tuple[str, ...]] = (
        *("row_id", "prompt_id", "task", "language", "messages", "reference"),
        *("candidates", "scores", "errors"),
    )
    writes: ClassVar[tuple[str, ...]] = ("scores",)

    @property
    def name(self) -> str:
        return f"score:{self.set_name}:{self.done}"

    def rest(self, units: Sequence[str], before: Mapping[str, Any]) -> Stage:
        if before:
            raise refusal(self.plan)
        return self

    async def __call__(self, row: Row, engine: Engine | None) -> Row:
        scorer = SCORER + self.method
        candidates = row.plan(self.set_name)
        usable = engine if self.selector.engine else None
        known = known_values(row, self.set_name, SCORER + self.method) if usable is not None else {}
        more: dict[str, Any] = {"origins": self.selector.origins, "known": known, "early": self.early}
        pool = Pool(row, self.set_name, candidates, self.run_seed, usable, self.tasks, **more)
        if not pool.selectable():
            return row
        values = (await self.selector.select(pool)).values
        others = [s for s in row.scores if (s.scorer, s.plan) != (scorer, self.set_name)]
        row.scores = [*others, Score(scorer, self.set_name, list(values or [None] * len(candidates)))]
        return row


@dataclass
class ExtendStage(Stage):
    """Draws a row's further candidates: with the seeds that they have in a set of the same size drawn at once.

    Args:
        base: the plan's first round.
        number: of this round, from 2.
        more: ``row_id`` -> further candidates; known when the round before is finished.
    """

    base: GenerateStage
    number: int
    more: Ints | None = None

    reads: ClassVar[tuple[str, ...]] = GenerateStage.reads
    writes: ClassVar[tuple[str, ...]] = GenerateStage.writes

    @property
    def name(self) -> str:
        return f"{self.base.name}:{self.number}"

    def rest(self, units: Sequence[str], before: Mapping[str, Any]) -> Stage:
        if before:
            raise refusal(self.base.plan)
        return self

    async def __call__(self, row: Row, engine: Engine | None) -> Row:
        assert self.more is not None, "decided before the pass starts"
        more, have = int(self.more[row.row_id]), len(row.plan(self.base.set_name))
        if not more:
            return row
        try:
            wanted = replace(self.base.config, n=have + more)
            return await replace(self.base, config=wanted, have=have)(row, engine)
        finally:
            size = len(row.plan(self.base.set_name))
            row.scores = [self._longer(score, size) for score in row.scores]

    def _longer(self, score: Score, size: int) -> Score:
        """A score with nulls for the candidates that are new."""
        if score.plan != self.base.set_name or not score.scorer.startswith(SCORER) or len(score.values) >= size:
            return score
        return replace(score, values=[*score.values, *[None] * (size - len(score.values))])


def refusal(plan: str) -> ResumeError:
    """A finished set was drawn within its budget: there is nothing that may be added."""
    return ResumeError(
        f"plan {plan}: a finished set cannot be given other rounds or another budget; use another folder (out=...)"
    )
