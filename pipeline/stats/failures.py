"""What went wrong in a run, by cause: counted from its last finished table, batch by batch."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import pyarrow as pa

from pipeline.core.columns import column, nested
from pipeline.core.errors import UnfinishedTableError
from pipeline.core.folder import RunFolder
from pipeline.core.layers import TABLES
from pipeline.judging.names import JUDGE_FAILED, UNREADABLE

_LEAVES = {
    "prompt_id": {""},
    "errors": {"job", "stage", "kind", "message"},
    "candidates": {"plan", "error"},
    "selections": {"plan", "method", "detail"},
    "games": {"system", "verdict", "reason"},
}
_MOST = 1000  # different causes; further ones are counted together, so that memory stays flat
_SPECIFIC = re.compile(r"'[^']{0,200}'|\"[^\"]{0,200}\"|\b(?:0x)?(?=[a-f]*\d)[0-9a-f]++\b")
_COMPARED = 160  # characters of a message


@dataclass
class Cause:
    """Things that failed for one reason.

    Attributes:
        what: what carries the error: ``row``, ``candidate``, ``selection`` or ``verdict``.
        job, stage: where it happened.
        kind: the error's class, ``UnreadableVerdict``, ``Fallback`` or ``RequestFailed``.
        example: one of the messages; those that differ only in numbers and quoted texts count as one cause.
        count: how many.
        prompts: ids of the first prompts.
    """

    what: str
    job: str
    stage: str
    kind: str
    example: str
    count: int = 0
    prompts: list[str] = field(default_factory=list)


@dataclass
class Failures:
    """Everything that failed in a run.

    Attributes:
        table: the table that was read: the last finished one.
        rows: of the table; ``failed`` of them carry an error.
        causes: the most frequent first.
    """

    table: str
    rows: int = 0
    failed: int = 0
    causes: list[Cause] = field(default_factory=list)


Found = tuple[str, str, str, str, str, int]
"""(what, job, stage, kind, message, count) of one failure."""


def find_failures(run: RunFolder, shown: int = 3) -> Failures:
    """Count a run's failures by cause; memory stays flat, and no answer is read.

    Args:
        shown: how many prompt ids to keep for each cause.

    Raises:
        UnfinishedTableError: no table of the run is finished.
    """
    table = next((name for name in reversed(TABLES) if run.marker(name) is not None), None)
    if table is None:
        raise UnfinishedTableError(f"{run.root}: there is no run here with a finished table")
    result = Failures(table)
    causes: dict[tuple[str, ...], Cause] = {}
    for batch in run.leaves(table, lambda name, leaf: leaf in _LEAVES.get(name, ())):
        result.rows += len(batch)
        result.failed += sum(bool(errors) for errors in nested(batch, "errors", "job"))
        for prompt_id, (what, job, stage, kind, message, count) in _failures(batch):
            key = (what, job, stage, kind, _SPECIFIC.sub("…", message[:_COMPARED]))
            if key not in causes and len(causes) >= _MOST:
                key, message = (what, job, stage, "(other)", ""), "further messages, all different"
            cause = causes.setdefault(key, Cause(*key[:4], example=message))
            cause.count += count
            if len(cause.prompts) < shown and prompt_id not in cause.prompts:
                cause.prompts.append(prompt_id)
    result.causes = sorted(causes.values(), key=lambda cause: -cause.count)
    return result


def _failures(batch: pa.RecordBatch) -> Iterator[tuple[str, Found]]:
    """(prompt_id, failure) of everything that failed in a batch."""
    ids = column(batch, "prompt_id")
    for prompt_id, errors in zip(ids, nested(batch, "errors", "job", "stage", "kind", "message"), strict=True):
        for job, stage, kind, message in errors:
            yield prompt_id, ("row", job, stage, kind, message, 1)
    for prompt_id, candidates in zip(ids, nested(batch, "candidates", "plan", "error"), strict=True):
        for plan, error in candidates:
            if error is not None:
                yield prompt_id, ("candidate", "generate", f"generate:{plan}", "RequestFailed", error, 1)
    for prompt_id, selections in zip(ids, nested(batch, "selections", "method", "detail"), strict=True):
        for method, detail in selections:
            for found in _in_detail(f"select:{method}", detail):
                yield prompt_id, found
    for prompt_id, games in zip(ids, nested(batch, "games", "verdict", "reason"), strict=True):
        for verdict, reason in games:
            if verdict == "invalid":
                yield prompt_id, _game(reason or "")


def _in_detail(stage: str, detail: str | None) -> Iterator[Found]:
    try:
        found = json.loads(detail or "{}")
    except ValueError:  # a user's own selector may have written anything
        return
    if not isinstance(found, dict):
        return
    if found.get("failure"):
        yield "selection", "select", stage, "RequestFailed", str(found["failure"]), 1
    if found.get("fallback"):
        yield "selection", "select", stage, "Fallback", str(found["fallback"]), 1
    invalid = found.get("invalid")
    if isinstance(invalid, int) and invalid > 0 and not found.get("failure"):
        said = found.get("unreadable") or "the judge named none of the labels"
        yield "verdict", "select", stage, "UnreadableVerdict", str(said), int(invalid)


def _game(reason: str) -> Found:
    if reason.startswith(JUDGE_FAILED):
        return "verdict", "judge", "judge", "RequestFailed", reason.removeprefix(JUDGE_FAILED), 1
    said = reason.removeprefix(UNREADABLE) if reason.startswith(UNREADABLE) else "the judge named none of the labels"
    return "verdict", "judge", "judge", "UnreadableVerdict", said, 1
