"""The select stage: one selector on every plan's candidates."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from pipeline.core.errors import EngineDead, UnreadableJudge
from pipeline.core.languages import is_among, is_language
from pipeline.core.policy import Policy
from pipeline.core.row import Candidate, Row, RowError, Score, Selection
from pipeline.core.safety import redact
from pipeline.engines.base import Engine
from pipeline.engines.stage import PROMPT, Stage
from pipeline.judging.verdicts import FirstVerdicts
from pipeline.selection.base import Choice, Pool, Selector
from pipeline.tasks import Task, task_for

SCORER = "adaptive:"
"""Begins ``Score.scorer`` where the numbers were made between two rounds, as in ``adaptive:best_of_n``."""


@dataclass
class SelectStage(Stage):
    """Appends one selection per plan, whatever happens: a selector that fails leaves an empty one and an error.

    Args:
        method: the selector's name in the config, stored as ``selections.method``.
        selector: what chooses.
        plans: the sampling plans to apply it to.
        run_seed: seeds ties and shuffles.
        tasks: settings of the tasks that have any.
        policy: restricts the selector to the rows whose rule names it.
        only_languages: plan -> the languages that it was sampled for, where these are not all.
        bar_truncated, bar_wrong_language: what may not be chosen while anything else is left.
        known: of these plans it is not asked again what it said between two rounds of sampling.
        grown: of these plans it is not asked again what it said of the smaller set that the row has its choice from.
        early: notices a judge that cannot be read.
    """

    method: str
    selector: Selector
    plans: tuple[str, ...]
    run_seed: int
    tasks: dict[str, Task] = field(default_factory=dict)
    policy: Policy | None = None
    only_languages: dict[str, list[str]] = field(default_factory=dict)
    bar_truncated: bool = False
    bar_wrong_language: bool = False
    known: frozenset[str] = frozenset()
    early: FirstVerdicts | None = None
    grown: frozenset[str] = frozenset()

    reads: ClassVar[tuple[str, ...]] = (*PROMPT, "row_id", "reference", "candidates", "scores", "selections")
    writes: ClassVar[tuple[str, ...]] = ("scores", "selections")

    @property
    def name(self) -> str:
        return f"select:{self.method}"

    def rest(self, units: Sequence[str], before: Mapping[str, Any]) -> SelectStage:
        return replace(self, plans=tuple(units), grown=frozenset(before) if self.selector.by_text else frozenset())

    async def __call__(self, row: Row, engine: Engine | None) -> Row:
        if self.policy is not None and not self.policy.wants_selector(self.method, row):
            return row
        for plan in self.plans:
            if self.policy is not None and not self.policy.wants_plan(plan, row):
                continue
            if not is_among(row.language, self.only_languages.get(plan)):
                continue
            pool = self._pool(row, plan, engine if self.selector.engine else None)
            note = self._bar(pool)
            try:
                choice = await self.selector.select(pool) if pool.selectable() else Choice(None)
            except (EngineDead, UnreadableJudge):
                raise
            except Exception as error:
                # One selector that fails does not fail the row: it falls back, marked, and the error is kept.
                failure = RowError("select", self.name, type(error).__name__, redact(str(error), 2000))
                row.errors.append(failure)
                choice = Choice(pool.fallback(), detail={"fallback": f"{failure.kind}: {failure.message}"[:500]})
            self._keep(row, pool, choice, {**choice.detail, **note})
        return row

    def _keep(self, row: Row, pool: Pool, choice: Choice, detail: dict[str, Any]) -> None:
        """Put a choice into the row, in place of what it may have from a selector of that name."""
        text, index, place = choice.text, choice.index, (pool.plan, self.method)
        if index is not None and index >= 0:
            text = pool.candidates[index].text
        told = json.dumps(detail, ensure_ascii=False, sort_keys=True) if detail else None
        kept = [s for s in row.selections if (s.plan, s.method) != place]
        row.selections = [*kept, Selection(*place, index, text, choice.score, told)]
        if choice.values is not None:
            others = [s for s in row.scores if (s.plan, s.scorer) != place]
            row.scores = [*others, Score(self.method, pool.plan, list(choice.values))]

    def _pool(self, row: Row, plan: str, engine: Engine | None) -> Pool:
        known = known_values(row, plan, SCORER + self.method) if engine is not None and plan in self.known else {}
        if plan in self.grown:
            known |= known_values(row, plan, self.method)
        more: dict[str, Any] = {"origins": self.selector.origins, "known": known, "early": self.early}
        return Pool(row, plan, row.plan(plan), self.run_seed, engine, self.tasks, **more)

    def _bar(self, pool: Pool) -> dict[str, object]:
        """Bar what may not be chosen, unless nothing else is left; returns what to record."""
        if not (self.bar_truncated or self.bar_wrong_language):
            return {}
        barred = frozenset(i for i in pool.selectable() if self._is_barred(pool.candidates[i], pool.row))
        if not barred:
            return {}
        if len(barred) == len(pool.selectable()):
            return {"bars_lifted": sorted(barred)}
        pool.barred = barred
        return {"barred": sorted(barred)}

    def _is_barred(self, candidate: Candidate, row: Row) -> bool:
        if self.bar_truncated and candidate.finish_reason == "length":
            return True
        language = task_for(row, self.tasks).answer_language(row)
        return self.bar_wrong_language and is_language(candidate.text or "", language) is False


def known_values(row: Row, set_name: str, scorer: str) -> dict[str, float]:
    """Text -> the number that the row has of it: it is not asked for again."""
    found = [s.values for s in row.scores if (s.scorer, s.plan) == (scorer, set_name)]
    pairs = zip(row.plan(set_name), found[0], strict=False) if found else ()
    return {c.text: v for c, v in pairs if c.text is not None and v is not None}
