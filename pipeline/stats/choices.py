"""What every selector chose, and how often it could not: counted from the ``selections`` column, batch by batch."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from pipeline.core.columns import column, nested
from pipeline.core.folder import RunFolder
from pipeline.stats.games import UNDETERMINED, PromptKey

_LEAVES = {"candidates": {"plan", "origin"}, "selections": {"plan", "method", "index", "text", "detail"}}


@dataclass
class SelectorRow:
    """What one selector did over all prompts.

    Attributes:
        n: prompts for which it gave an answer.
        missing: prompts for which it gave none.
        greedy: answers that are the greedy candidate; ``None`` when the plan has no greedy candidate.
        new: synthesised texts.
        chars: characters of all answers together.
        truncated: answers that hit the token limit.
        verdicts: verdicts that it asked for; ``None`` when it records none.
        invalid: verdicts and grades that cannot be read, those of failed requests among them.
        failed: requests that failed; a prompt whose selector kept only a reason counts as one.
        lifted: prompts on which all candidates were barred, so that none was.
        evidence: pieces of evidence in another language, over all prompts; ``None`` for a method that takes none.
        without: what a method is made of -> prompts on which it was missing: no evidence, an empty checklist.
        fallbacks: reason -> prompts on which it could not do its work and fell back.
        fell_back: those prompts, where the batches name them.
    """

    system: str
    plan: str
    method: str
    n: int = 0
    missing: int = 0
    greedy: int | None = None
    new: int = 0
    chars: int = 0
    truncated: int = 0
    verdicts: int | None = None
    invalid: int = 0
    failed: int = 0
    lifted: int = 0
    evidence: int | None = None
    without: Counter[str] = field(default_factory=Counter)
    fallbacks: Counter[str] = field(default_factory=Counter)
    fell_back: set[PromptKey] = field(default_factory=set)

    def share(self, count: int | None) -> float | None:
        """``count`` as a share of the answers."""
        return count / self.n if self.n and count is not None else None

    @property
    def mean_evidence(self) -> float | None:
        """Mean |Z|."""
        return self.share(self.evidence)

    @property
    def incomplete(self) -> str | None:
        """What was missing on every prompt, so that the method is another one than its name says."""
        return next((what for what, count in self.without.items() if self.n and count >= self.n), None)

    @property
    def mean_chars(self) -> float | None:
        """Mean length of an answer in characters."""
        return self.share(self.chars)

    def add(self, pool: Sequence[tuple[str, str | None, str | None]], index: int | None, chars: int | None) -> None:
        """Count one answer: ``pool`` holds its plan's candidates as (plan, origin, finish_reason)."""
        if any(origin == "greedy" for _, origin, _ in pool):
            self.greedy = self.greedy or 0
        if chars is None:
            self.missing += 1
            return
        self.n += 1
        self.chars += chars
        self.new += index == -1
        if index is not None and 0 <= index < len(pool):
            _, origin, finish = pool[index]
            self.truncated += finish == "length"
            if origin == "greedy":
                self.greedy = (self.greedy or 0) + 1

    def add_detail(self, text: str | None, prompt: PromptKey | None) -> None:
        """Count what one selection's ``detail`` records."""
        detail = _parse(text)
        verdicts = _count(detail.get("verdicts"))
        if verdicts is not None:
            self.verdicts = (self.verdicts or 0) + verdicts
        self.invalid += _count(detail.get("invalid")) or 0
        self.failed += _count(detail.get("failed")) or int(bool(detail.get("failure")))
        self.lifted += bool(detail.get("bars_lifted"))
        evidence = _count(detail.get("evidence"))
        if evidence is not None:
            self.evidence = (self.evidence or 0) + evidence
        if detail.get("without"):
            self.without[str(detail["without"])] += 1
        if detail.get("fallback"):
            self.fallbacks[str(detail["fallback"])] += 1
            if prompt is not None:
                self.fell_back.add(prompt)


class Choices:
    """Counts batches of a table that has selections.

    Attributes:
        rows: (plan, method) -> counts.
    """

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str], SelectorRow] = {}

    def add(self, batch: pa.RecordBatch) -> None:
        """Count a batch; the prompts that fell back are kept when it has ``prompt_id`` (and ``language``)."""
        pools = nested(batch, "candidates", "plan", "origin", "finish_reason")
        chosen = nested(batch, "selections", "plan", "method", "index", "text", "detail", lengths=("text",))
        ids, languages = column(batch, "prompt_id"), column(batch, "language")
        for pool, selections, prompt_id, language in zip(pools, chosen, ids, languages, strict=True):
            prompt = None if prompt_id is None else (prompt_id, language or UNDETERMINED)
            for plan, method, index, chars, detail in selections:
                row = self.rows.setdefault((plan, method), SelectorRow(f"{plan}/{method}", plan, method))
                row.add([c for c in pool if c[0] == plan], index, chars)
                row.add_detail(detail, prompt)


def count_choices(run: RunFolder, table: str = "selections") -> list[SelectorRow]:
    """Count a finished table's choices; of the candidates only plan and origin are read. Memory stays flat.

    Raises:
        UnfinishedTableError: the table is not finished.
    """
    choices = Choices()
    for batch in run.leaves(table, lambda top, leaf: leaf in _LEAVES.get(top, ())):
        choices.add(batch)
    return sorted(choices.rows.values(), key=lambda row: row.system)


def _parse(detail: str | None) -> dict[str, Any]:
    try:
        found = json.loads(detail or "{}")
    except ValueError:  # a user's own selector may have written anything
        return {}
    return found if isinstance(found, dict) else {}


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
