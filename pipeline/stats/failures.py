"""What went wrong in a run, by cause: the one place that knows where a row says so."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from pipeline.core.folder import RunFolder
from pipeline.core.row import Row
from pipeline.judging.names import is_audit, is_candidate, is_cut, no_verdict
from pipeline.stats.reading import last_table, read_rows

_COLUMNS = ("errors", "candidates", "selections", "games")
_MOST = 1000  # different causes; further ones are counted together, so that memory stays flat
_SPECIFIC = re.compile(r"'[^']{0,200}'|\"[^\"]{0,200}\"|\b(?:0x)?(?=[a-f]*\d)[0-9a-f]++\b")
_COMPARED = 160  # characters of a message
_NO_LABEL = "the judge named none of the labels"


@dataclass(frozen=True)
class Detail:
    """What a selection's ``detail`` records, as far as it is known here.

    Attributes:
        verdicts: that the selector asked for; ``None`` where it records none.
        invalid: verdicts and grades that cannot be read, those of failed requests among them.
        failed: requests that failed; one where only a reason was kept.
        failure: why a request failed.
        unreadable: what an unreadable reply was like.
        fallback: why the selector could not do its work and fell back.
        without: what of the method was missing: no evidence, an empty checklist.
        evidence: pieces of evidence in another language; ``None`` for a method that takes none.
        lifted: all candidates were barred, so that none was.
        finish_reason: of a new text.
    """

    verdicts: int | None = None
    invalid: int = 0
    failed: int = 0
    failure: str = ""
    unreadable: str = ""
    fallback: str = ""
    without: str = ""
    evidence: int | None = None
    lifted: bool = False
    finish_reason: str | None = None

    @property
    def refused(self) -> bool:
        """Whether another try could give another answer: a request failed, or a reply was cut."""
        return bool(self.failure) or is_cut(self.unreadable)

    @classmethod
    def read(cls, text: str | None) -> Detail:
        """From ``Selection.detail``; a user's own selector may have written anything."""
        try:
            found = json.loads(text or "{}")
        except (ValueError, RecursionError):
            return cls()
        if not isinstance(found, dict):
            return cls()
        failure, finish = _text(found.get("failure")), found.get("finish_reason")
        return cls(
            verdicts=_count(found.get("verdicts")),
            invalid=_count(found.get("invalid")) or 0,
            failed=_count(found.get("failed")) or int(bool(failure)),
            failure=failure,
            unreadable=_text(found.get("unreadable")),
            fallback=_text(found.get("fallback")),
            without=_text(found.get("without")),
            evidence=_count(found.get("evidence")),
            lifted=bool(found.get("bars_lifted")),
            finish_reason=finish if isinstance(finish, str) else None,
        )


def _text(value: Any) -> str:
    return str(value) if value else ""


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


@dataclass
class Cause:
    """Things that failed for one reason.

    Attributes:
        what: what carries the error: ``row``, ``candidate``, ``selection`` or ``verdict``.
        job, stage: where it happened.
        kind: the error's class, ``UnreadableVerdict``, ``RequestFailed``, ``Fallback``, ``Incomplete`` (a part of the
            method was missing) or ``NoAnswer``.
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


class Causes:
    """Counts failures by cause, row by row; memory stays flat.

    Args:
        shown: prompt ids to keep for each cause.

    Attributes:
        rows, failed: rows so far, and those with an error.
        found: the causes, in the order of their first failure.
    """

    def __init__(self, shown: int = 3) -> None:
        self._shown = shown
        self._causes: dict[tuple[str, str, str, str, str], Cause] = {}
        self.rows = 0
        self.failed = 0

    @property
    def found(self) -> list[Cause]:
        return list(self._causes.values())

    def add(self, row: Row) -> None:
        """Count a row's failures."""
        self.rows += 1
        self.failed += bool(row.errors)
        for what, job, stage, kind, message, count in _failures(row):
            key = (what, job, stage, kind, _SPECIFIC.sub("…", message[:_COMPARED]))
            if key not in self._causes and len(self._causes) >= _MOST:
                key, message = (what, job, stage, "(other)", ""), "further messages, all different"
            cause = self._causes.setdefault(key, Cause(*key[:4], message))
            cause.count += count
            if len(cause.prompts) < self._shown and row.prompt_id not in cause.prompts:
                cause.prompts.append(row.prompt_id)


def find_failures(run: RunFolder) -> tuple[str, Causes]:
    """The run's last finished table, and what failed in it; no answer is read.

    Raises:
        UnfinishedTableError: no table of the run is finished.
    """
    table, causes = last_table(run), Causes()
    for row in read_rows(run, table, *_COLUMNS, texts=False):
        causes.add(row)
    return table, causes


def _failures(row: Row) -> Iterator[tuple[str, str, str, str, str, int]]:
    """(what, job, stage, kind, message, count) of everything that failed in a row."""
    for error in row.errors:
        yield "row", error.job, error.stage, error.kind, error.message, 1
    for candidate in row.candidates:
        if candidate.error is not None:
            yield "candidate", "generate", f"generate:{candidate.plan}", "RequestFailed", candidate.error, 1
    for chosen in row.selections:
        where, detail = ("select", f"select:{chosen.method}"), Detail.read(chosen.detail)
        found = {"RequestFailed": detail.failure, "Fallback": detail.fallback, "Incomplete": detail.without}
        found |= {"NoAnswer": "no answer could be selected"} if chosen.index is None else {}
        for kind, why in found.items():
            if why:
                yield "selection", *where, kind, why, 1
        if detail.invalid > 0 and not detail.failure:
            yield "verdict", *where, "UnreadableVerdict", detail.unreadable or _NO_LABEL, detail.invalid
    for game in row.games:
        if game.verdict == "invalid":
            failed, why = no_verdict(game.reason)
            of = " (audit)" if is_audit(game.system) else " (candidate)" if is_candidate(game.system) else ""
            kind = "RequestFailed" if failed else "UnreadableVerdict"
            yield "verdict", "judge", f"judge{of}", kind, why or _NO_LABEL, 1


_SAID = {
    ("candidate", "RequestFailed"): "candidate without a text",
    ("selection", "Fallback"): "fell back: {}",
    ("selection", "Incomplete"): "{}",
    ("selection", "NoAnswer"): "{}",
    ("verdict", "RequestFailed"): "invalid verdict: the judge's call failed",
    ("verdict", "UnreadableVerdict"): "invalid verdict: unreadable",
}
"""(what, kind) -> cause, with its message for ``{}``; a row's error is named after its kind."""


@dataclass(frozen=True)
class Failure:
    """One cause of failure as the report shows it: how often it occurred, and an example of its message."""

    where: str
    cause: str
    count: int
    example: str


def failures(causes: list[Cause]) -> list[Failure]:
    """The most frequent first. What selectors could not read, or were refused, stands in the table of choices."""
    found: dict[tuple[str, str], Failure] = {}
    for cause in causes:
        said = _SAID.get((cause.what, cause.kind))
        if cause.what == "row":
            where, why, example = cause.stage, cause.kind, cause.example
        elif said is None or (cause.what == "verdict" and cause.job != "judge"):
            continue
        else:
            where, why = cause.stage, said.format(cause.example)
            example = "" if "{}" in said or cause.example == _NO_LABEL else cause.example
        before = found.get((where, why), Failure(where, why, 0, example))
        found[where, why] = Failure(where, why, before.count + cause.count, before.example)
    return sorted(found.values(), key=lambda f: (-f.count, f.where, f.cause))
