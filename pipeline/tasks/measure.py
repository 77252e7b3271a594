"""The stages that measure every text that a system could give: by the row's task, and by an engine's metric."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from pipeline.core.errors import EngineRequestError
from pipeline.core.languages import is_language
from pipeline.core.policy import NAME as POLICY
from pipeline.core.row import Row, RowError, Score
from pipeline.engines.base import Engine
from pipeline.engines.stage import PROMPT, Stage
from pipeline.tasks import Task, task_for

METRIC = "metric:"
"""Begins ``Score.scorer`` where the numbers are a metric, as in ``metric:chrf``: for reports, never for selectors."""

ANSWER = "answer:"
"""Begins ``Score.plan`` where the one value is of a system's text that is no candidate: ``answer:hedged/fusion``."""

LANGUAGE = "language"
"""The metric of every task: 1 = in the language asked for, 0 = clearly in another, null = cannot be told."""

WIN = "win"
"""Pseudo-metric of the statistics: a candidate's prompt score against the opponent."""


_MEASURED = ("reference", "candidates", "scores", "selections", "answers")


@dataclass
class MeasureStage(Stage):
    """Appends ``metric:NAME`` scores of all candidates, new texts and outside answers that have none yet.

    What is measured is the task's business (:meth:`Task.measure`), in 0..1; a text that is missing, or a row without a
    reference, gives null. Offline language identification (1 ms a text) is added for every task. O(texts).

    Args:
        tasks: settings of the tasks that have any.
    """

    tasks: dict[str, Task] = field(default_factory=dict)

    reads: ClassVar[tuple[str, ...]] = (*PROMPT, *_MEASURED)
    writes: ClassVar[tuple[str, ...]] = ("scores",)

    @property
    def name(self) -> str:
        return "measure"

    async def __call__(self, row: Row, engine: Engine | None) -> Row:
        if not row.unreadable:
            # An engine's loop must not wait for it; without one a thread for every row would only cost time.
            found = self._measure(row) if engine is None else await asyncio.to_thread(self._measure, row)
            row.scores = [*row.scores, *found]
        return row

    def _measure(self, row: Row) -> list[Score]:
        task = task_for(row, self.tasks)
        language = task.answer_language(row)
        found = []
        for name, texts in _unmeasured(row, METRIC + LANGUAGE):
            values = task.measure(texts, row)
            values[LANGUAGE] = [None if t is None else _as_number(is_language(t, language)) for t in texts]
            found += [Score(METRIC + metric, name, numbers) for metric, numbers in values.items()]
        return found


@dataclass
class MetricConfig:
    """A metric that an engine gives: ``metrics: {xcomet: {engine: xcomet}}`` makes ``metric:xcomet``.

    Attributes:
        engine: name under ``engines``; it must be able to tell ``quality``.
        tasks: the tasks whose prompts it is for; the others are left alone.
    """

    engine: str = ""
    tasks: list[str] = field(default_factory=lambda: ["translation"])


@dataclass
class QualityStage(Stage):
    """Appends ``metric:NAME`` scores of an engine, in 0..1, of all that have none yet.

    The source is the last user turn. A missing text and a row without a reference give null; so does a text that the
    engine fails on, which is also an error of the row. Equal texts are asked about once. O(different texts) requests.

    Args:
        metric: its name.
        tasks: the tasks it is for.
        job: recorded in ``errors``.
    """

    metric: str
    tasks: tuple[str, ...]
    job: str

    reads: ClassVar[tuple[str, ...]] = ("task", "messages", "errors", *_MEASURED)
    writes: ClassVar[tuple[str, ...]] = ("scores",)

    @property
    def name(self) -> str:
        return f"metric:{self.metric}"

    async def __call__(self, row: Row, engine: Engine | None) -> Row:
        assert engine is not None
        if row.unreadable or row.task not in self.tasks:
            return row
        targets = {name: list(texts) for name, texts in _unmeasured(row, METRIC + self.metric)}
        source = next((m.get("content") or "" for m in reversed(row.messages) if m.get("role") == "user"), "")
        reference = (row.reference or "").strip() and row.reference
        texts = sorted({t for texts in targets.values() for t in texts if t is not None}) if reference else []
        asked = (engine.quality(source, text, str(reference)) for text in texts)
        values: dict[str | None, float] = {}
        for text, found in zip(texts, await asyncio.gather(*asked, return_exceptions=True), strict=True):
            if isinstance(found, EngineRequestError):
                row.errors.append(RowError(self.job, self.name, type(found).__name__, str(found)[:2000]))
            elif isinstance(found, BaseException):
                raise found
            else:
                values[text] = found.value
        scores = (Score(METRIC + self.metric, name, [values.get(t) for t in texts]) for name, texts in targets.items())
        row.scores = [*row.scores, *scores]
        return row


def _unmeasured(row: Row, scorer: str) -> list[tuple[str, Sequence[str | None]]]:
    known = {s.plan for s in row.scores if s.scorer == scorer}
    return [(name, texts) for name, texts in _texts(row) if name not in known]


def _texts(row: Row) -> Iterator[tuple[str, Sequence[str | None]]]:
    """(``Score.plan``, texts) of everything that can be measured; evidence is nobody's answer."""
    for plan in dict.fromkeys(c.plan for c in row.candidates if c.origin != "evidence"):
        yield plan, [c.text for c in row.plan(plan)]
    for selection in row.selections:
        if is_own_text(selection.plan, selection.index):
            yield ANSWER + selection.system, [selection.text]
    for answer in row.answers:
        yield ANSWER + answer.system, [answer.text]


def is_own_text(plan: str, index: int | None) -> bool:
    """Whether a selection's numbers stand under ``answer:SYSTEM``: a new text, or the policy's, which has no pool."""
    return index is not None and (index == -1 or plan == POLICY)


def _as_number(value: bool | None) -> float | None:
    return None if value is None else float(value)
