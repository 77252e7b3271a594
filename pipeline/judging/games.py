"""The judge stage: pairwise games between systems (and of single candidates), in both orders."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from pipeline.core.row import Row, answer
from pipeline.core.units import CANDIDATE
from pipeline.engines.base import Engine
from pipeline.engines.stage import Stage
from pipeline.judging.names import candidate_system
from pipeline.judging.referee import ORDERS, Referee, Refereeing


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

    reads: ClassVar[tuple[str, ...]] = (
        "prompt_id",
        "task",
        "language",
        "messages",
        "candidates",
        "selections",
        "answers",
        "games",
        "errors",
    )
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
