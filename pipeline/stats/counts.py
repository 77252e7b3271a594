"""What a run holds, and what every selector chose and could not: counted row by row, in memory that stays flat."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from pipeline.core.folder import RunFolder
from pipeline.core.row import Row
from pipeline.judging.names import is_audit, is_candidate
from pipeline.stats.failures import Detail
from pipeline.stats.games import PromptKey
from pipeline.stats.reading import read_rows


@dataclass
class Overview:
    """What a run's last table holds.

    Attributes:
        languages: language -> prompts.
        models: that wrote candidates, with their revisions.
        n_truncated: candidates that ended at the token limit.
        n_games, n_invalid_games: between systems; those of single candidates and of the audit apart.
        n_failed_rows: with an error.
    """

    n_prompts: int = 0
    n_clusters: int = 0
    languages: dict[str, int] = field(default_factory=dict)
    models: list[str] = field(default_factory=list)
    n_candidates: int = 0
    n_truncated: int = 0
    n_games: int = 0
    n_invalid_games: int = 0
    n_candidate_games: int = 0
    n_audit_games: int = 0
    n_failed_rows: int = 0


class OverviewBuilder:
    """Collects an :class:`Overview`."""

    def __init__(self) -> None:
        self._found = Overview()
        self._clusters: set[str] = set()
        self._languages: Counter[str] = Counter()
        self._models: set[str] = set()

    def add(self, row: Row) -> None:
        """Count a row, :func:`~pipeline.stats.reading.filled`."""
        found = self._found
        found.n_prompts += 1
        found.n_failed_rows += bool(row.errors)
        self._clusters.add(row.cluster_id)
        self._languages[str(row.language)] += 1
        found.n_candidates += len(row.candidates)
        for c in row.candidates:
            found.n_truncated += c.finish_reason == "length"
            self._models.add(f"{c.model}@{c.revision}" if c.revision else c.model or "")
        for game in row.games:
            if is_audit(game.system):
                found.n_audit_games += 1
            elif is_candidate(game.system):
                found.n_candidate_games += 1
            else:
                found.n_games += 1
                found.n_invalid_games += game.score is None

    def finish(self) -> Overview:
        """The counts of all rows."""
        self._found.n_clusters = len(self._clusters)
        self._found.languages = dict(sorted(self._languages.items()))
        self._found.models = sorted(self._models - {""})
        return self._found


@dataclass
class SelectorCounts:
    """What one selector did with one candidate set over all prompts.

    Attributes:
        n: prompts for which it gave an answer; ``missing`` those for which it gave none.
        greedy: answers that are the greedy candidate; ``None`` when the set has no greedy candidate.
        new: synthesised texts.
        chars: characters of all answers together.
        truncated: answers that hit the token limit.
        verdicts: verdicts that it asked for; ``None`` when it records none.
        invalid: verdicts and grades that cannot be read, those of failed requests among them.
        failed: requests that failed.
        lifted: prompts on which all candidates were barred, so that none was.
        evidence: pieces of evidence in another language, over all prompts; ``None`` for a method that takes none.
        without: prompts on which a part of the method was missing.
        incomplete: what was missing on every prompt, so that the method is another one than its name says.
        fallbacks: prompts on which it could not do its work and fell back.
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
    without: int = 0
    incomplete: str | None = None
    fallbacks: int = 0

    def share(self, count: int | None) -> float | None:
        """``count`` as a share of the answers."""
        return count / self.n if self.n and count is not None else None


@dataclass(frozen=True)
class Agreement:
    """Two selectors, the prompts that both answered, and those on which they gave the same text."""

    system_a: str
    system_b: str
    n: int
    same: int


class Choices:
    """Counts what selectors chose.

    Attributes:
        fell_back: system -> prompts on which it fell back.
    """

    def __init__(self) -> None:
        self._rows: dict[str, SelectorCounts] = {}
        self._without: dict[str, Counter[str]] = {}
        self._both: Counter[tuple[str, str]] = Counter()
        self._same: Counter[tuple[str, str]] = Counter()
        self.fell_back: dict[str, set[PromptKey]] = {}

    def add(self, row: Row) -> None:
        """Count a row."""
        for chosen in row.selections:
            name = chosen.system
            counts = self._rows.setdefault(name, SelectorCounts(name, chosen.plan, chosen.method))
            pool = row.plan(chosen.plan)
            if any(c.origin == "greedy" for c in pool):
                counts.greedy = counts.greedy or 0
            if chosen.text is None:
                counts.missing += 1
            else:
                counts.n += 1
                counts.chars += len(chosen.text)
                counts.new += chosen.index == -1
                if chosen.index is not None and 0 <= chosen.index < len(pool):
                    taken = pool[chosen.index]
                    counts.truncated += taken.finish_reason == "length"
                    if taken.origin == "greedy":
                        counts.greedy = (counts.greedy or 0) + 1
            self._detail(counts, Detail.read(chosen.detail), (row.prompt_id, str(row.language)))
        texts = {s.system: s.text for s in row.selections if s.text is not None}
        for pair in combinations(sorted(texts), 2):
            self._both[pair] += 1
            self._same[pair] += texts[pair[0]] == texts[pair[1]]

    def _detail(self, counts: SelectorCounts, detail: Detail, prompt: PromptKey) -> None:
        if detail.verdicts is not None:
            counts.verdicts = (counts.verdicts or 0) + detail.verdicts
        if detail.evidence is not None:
            counts.evidence = (counts.evidence or 0) + detail.evidence
        counts.invalid += detail.invalid
        counts.failed += detail.failed
        counts.lifted += detail.lifted
        if detail.without:
            counts.without += 1
            self._without.setdefault(counts.system, Counter())[detail.without] += 1
        if detail.fallback:
            counts.fallbacks += 1
            self.fell_back.setdefault(counts.system, set()).add(prompt)

    def finish(self) -> tuple[list[SelectorCounts], list[Agreement]]:
        """The counts of all rows, by system."""
        for name, parts in self._without.items():
            row = self._rows[name]
            row.incomplete = next((what for what, count in parts.items() if row.n and count >= row.n), None)
        agreement = [Agreement(*pair, n, self._same[pair]) for pair, n in self._both.items()]
        return sorted(self._rows.values(), key=lambda row: row.system), agreement


def count_choices(run: RunFolder, table: str = "selections") -> list[SelectorCounts]:
    """What the selectors of a finished table chose.

    Raises:
        UnfinishedTableError: the table is not finished.
    """
    choices = Choices()
    for row in read_rows(run, table, "candidates", "selections"):
        choices.add(row)
    return choices.finish()[0]


def agreements(rows: list[Agreement]) -> Mapping[tuple[str, str], float]:
    """(system, system) in either order -> share of the prompts answered by both with the same text."""
    found: dict[Any, float] = {}
    for row in rows:
        found[row.system_a, row.system_b] = found[row.system_b, row.system_a] = row.same / row.n
    return found
