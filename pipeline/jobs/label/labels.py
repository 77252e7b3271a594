"""What one selector said about one candidate set: read from the ``selections/`` table, some rows at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.core.columns import Ints, nested
from pipeline.core.folder import RunFolder
from pipeline.stats.failures import Detail

NO_ROW = "not labelled: the prompt was not kept (prompts.limit)"
_Items = list[tuple[Any, ...]]
_COLUMNS = ["row_id", "candidates", "scores", "selections", "errors"]


@dataclass
class Label:
    """The label of one prompt.

    Attributes:
        index: the chosen answer, -1 for a new text; ``None`` where the selector could not do its work: what it fell
            back to is no label.
        scores: of every answer; ``None`` = the selector gives none.
        answer: the chosen text.
        error: why there is no label.
        problems: per answer, why it could not be used.
    """

    index: int | None = None
    scores: list[float | None] | None = None
    answer: str | None = None
    error: str | None = NO_ROW
    problems: Sequence[str | None] = ()

    def score(self, i: int) -> float | None:
        """Of answer ``i``."""
        return None if self.scores is None else self.scores[i]

    def ranks(self) -> list[int | None]:
        """Place of every answer by its score, from 1; of equal ones the chosen comes first, then the order counts."""
        scores = self.scores or []
        known = [(-s, i != self.index, i) for i, s in enumerate(scores) if s is not None]
        places = {i: place for place, (_, _, i) in enumerate(sorted(known), start=1)}
        return [places.get(i) for i in range(len(self.problems))]


class Labels:
    """The labels of a run.

    Args:
        run: its ``selections`` are finished.
        plan: the candidate set.
        method: the selector.
    """

    def __init__(self, run: RunFolder, plan: str, method: str) -> None:
        self._data = run.dataset("selections")
        self._plan, self._method = plan, method

    def of(self, row_ids: Ints) -> dict[int, Label]:
        """The labels of some rows; cheap where their ids lie close together."""
        if not len(row_ids):
            return {}
        near = (int(row_ids.min()), int(row_ids.max()))
        found: dict[int, Label] = {}
        for batch in self._data.batches(_COLUMNS, rows=near):
            batch = batch.filter(pa.array(np.isin(batch.column("row_id").to_numpy(), row_ids)))
            found.update(zip(batch.column("row_id").to_pylist(), self._labels(batch), strict=True))
        return found

    def _labels(self, batch: pa.RecordBatch) -> list[Label]:
        pools = nested(batch, "candidates", "plan", "error")
        scores = nested(batch, "scores", "scorer", "plan", "values")
        chosen = nested(batch, "selections", "plan", "method", "index", "text", "detail")
        errors = nested(batch, "errors", "job", "stage", "kind", "message")
        return [self._label(*row) for row in zip(pools, scores, chosen, errors, strict=True)]

    def _label(self, pool: _Items, scores: _Items, chosen: _Items, errors: _Items) -> Label:
        problems = [error for plan, error in pool if plan == self._plan]
        values = next((v for s, plan, v in scores if (s, plan) == (self._method, self._plan)), None)
        wanted = (self._plan, self._method)
        _, _, index, text, detail = next((c for c in chosen if c[:2] == wanted), (*wanted, None, None, None))
        unreadable = [f"{kind}: {message}" for job, _, kind, message in errors if job == "prompts"]
        failed = [f"{kind}: {m}" for job, stage, kind, m in errors if self._concerns(job, stage)]
        fallback = Detail.read(detail).fallback
        reason = "; ".join(unreadable or failed) or (f"fell back: {fallback}" if fallback else None)
        if reason is None and index is None:
            reason = "no answer could be chosen" if problems else "there is no answer to choose from"
        if reason is not None:
            return Label(None, None, None, reason, problems)
        return Label(index, values, text, None, problems)

    def _concerns(self, job: str, stage: str) -> bool:
        """Whether an error of the row is this selector's, or one of the whole row (a poison row)."""
        return job == "select" and (stage == f"select:{self._method}" or not stage.startswith(("select:", "metric:")))
