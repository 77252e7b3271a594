"""The quality stage: a learned metric of translation quality, as one more metric of the run."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import ClassVar

from pipeline.core.errors import EngineRequestError
from pipeline.core.row import Row, RowError, Score
from pipeline.engines.base import Engine
from pipeline.engines.stage import Stage
from pipeline.tasks.measure import METRIC, measured_texts


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
    """Appends ``metric:NAME`` scores, in 0..1, of all candidates, new texts and outside answers that have none yet.

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

    reads: ClassVar[tuple[str, ...]] = (
        "task",
        "messages",
        "reference",
        "candidates",
        "scores",
        "selections",
        "answers",
        "errors",
    )
    writes: ClassVar[tuple[str, ...]] = ("scores",)

    @property
    def name(self) -> str:
        return f"metric:{self.metric}"

    async def __call__(self, row: Row, engine: Engine | None) -> Row:
        assert engine is not None
        if row.unreadable or row.task not in self.tasks:
            return row
        scorer = METRIC + self.metric
        known = {s.plan for s in row.scores if s.scorer == scorer}
        targets = {name: list(texts) for name, texts in measured_texts(row) if name not in known}
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
        row.scores = [
            *row.scores,
            *(Score(scorer, name, [values.get(text) for text in texts]) for name, texts in targets.items()),
        ]
        return row
