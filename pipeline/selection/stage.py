"""The select stage: one selector on every plan's candidates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pipeline.engines.base import Engine
from pipeline.errors import EngineDead
from pipeline.records import Row, RowError, Selection
from pipeline.selection.base import Choice, Pool, Selector, to_records
from pipeline.stage import Stage


@dataclass
class SelectStage(Stage):
    """Appends one selection per plan, whatever happens: a selector that fails leaves an empty one and an error.

    Args:
        method: the selector's name in the config, stored as ``selections.method``.
        selector: what chooses.
        plans: the sampling plans to apply it to.
        run_seed: seeds ties and shuffles.
        needs_engine: whether the selector was given an engine.
    """

    method: str
    selector: Selector
    plans: tuple[str, ...]
    run_seed: int

    reads: ClassVar[tuple[str, ...]] = (
        "row_id",
        "prompt_id",
        "task",
        "language",
        "messages",
        "reference",
        "candidates",
        "scores",
        "selections",
        "errors",
    )
    writes: ClassVar[tuple[str, ...]] = ("scores", "selections")

    @property
    def name(self) -> str:
        return f"select:{self.method}"

    async def __call__(self, row: Row, engine: Engine | None) -> Row:
        for plan in self.plans:
            pool = Pool(row, plan, row.plan(plan), self.run_seed, engine if self.selector.engine else None)
            try:
                choice = await self.selector.select(pool) if pool.selectable() else Choice(None)
            except EngineDead:
                raise
            except Exception as error:
                # One selector that fails does not fail the row: it falls back, marked, and the error is kept.
                row.errors.append(RowError("select", self.name, type(error).__name__, str(error)[:2000]))
                choice = Choice(pool.fallback(), detail={"fallback": f"{type(error).__name__}: {error}"[:500]})
            selection, score = to_records(self.method, pool, choice)
            kept = [s for s in row.selections if (s.plan, s.method) != (plan, self.method)]
            row.selections = [*kept, selection]
            if score is not None:
                row.scores = [*(s for s in row.scores if (s.plan, s.scorer) != (plan, self.method)), score]
        return row


def missing(row: Row, system: str) -> bool:
    """Whether ``system`` (``plan/method``) has no usable answer in this row."""
    return answer(row, system) is None


def answer(row: Row, system: str) -> str | None:
    """The text with which a system enters a game: a selection's, or an outside answer's."""
    for selection in row.selections:
        if selection.system == system:
            return selection.text
    for outside in row.answers:
        if outside.system == system:
            return outside.text
    return None


__all__ = ["SelectStage", "Selection", "answer", "missing"]
