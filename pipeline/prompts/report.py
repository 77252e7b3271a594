"""What reading the prompts found, and how it is told."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import chain

from pipeline.core.languages import is_known
from pipeline.core.safety import line


@dataclass
class ReadReport:
    """What reading the prompts found.

    Attributes:
        rows, clusters: of the ``prompts/`` table.
        tasks: task -> language -> rows; ``und`` counts rows without a language.
        bad_rows: rows that are kept, but carry a ``BadPrompt`` error.
        duplicates: the first ten (row_id, row_id of its first occurrence) of readable prompts that repeat an earlier
            one's messages, language and task; they are kept.
        n_duplicates: all of those.
        files: files (or hub configurations) that were read, in reading order.
        unmatched: file of given answers -> its ids that no kept prompt has.
        unanswered: file of given answers -> kept prompts that it has no answer to.
        bad_answers: answers of the given column that cannot be used.
        language_like: columns that are not mapped and may hold the language, where no prompt has one.
        skipped: the table was finished before, so nothing was read (not stored).
    """

    rows: int
    clusters: int
    tasks: dict[str, dict[str, int]]
    bad_rows: int = 0
    duplicates: list[tuple[int, int]] = field(default_factory=list)
    n_duplicates: int = 0
    files: list[str] = field(default_factory=list)
    unmatched: dict[str, int] = field(default_factory=dict)
    unanswered: dict[str, int] = field(default_factory=dict)
    bad_answers: int = 0
    language_like: list[str] = field(default_factory=list)
    skipped: bool = False

    @property
    def languages(self) -> dict[str, int]:
        """Language -> rows, sorted."""
        found: Counter[str] = Counter()
        for rows in self.tasks.values():
            found.update(rows)
        return dict(sorted(found.items()))

    def lines(self) -> list[str]:
        """The report as lines of text for :func:`~pipeline.core.safety.say`."""
        source = self.files[0] if len(self.files) == 1 else f"{len(self.files)} files"
        before = " (had been read before)" if self.skipped else ""
        lines = [f"{self.rows} prompts in {self.clusters} clusters from {source}{before}"]
        languages = self.languages
        if set(languages) == {"und"}:
            named = [*self.language_like, "COLUMN"][0]
            there = f" ({', '.join(self.language_like)} may hold it)" if self.language_like else ""
            lines.append(
                f"languages: no prompt has one{there}: prompts.columns.language={named} maps a column, "
                "prompts.language=en says one for all"
            )
        else:
            lines.append(line("languages: " + ", ".join(["{} {}"] * len(languages)), *chain(*languages.items())))
        odd = [k for k in languages if not is_known(k)]
        if odd:
            lines.append(
                f"unknown languages: {', '.join(f'{k[:20]!r} ({languages[k]})' for k in odd[:5])}"
                f"{', ...' if len(odd) > 5 else ''}: no codes that are known here (ISO 639, BCP 47); those prompts are "
                "kept and used as they are, but models read the code instead of a name, and whether an answer is in "
                "the right language cannot be told"
            )
        if self.bad_rows:
            lines.append(f"bad prompts: {self.bad_rows} rows carry an error of kind BadPrompt and are kept")
        if self.n_duplicates:
            pairs = ", ".join(f"row {row} = row {first}" for row, first in self.duplicates)
            more = ", ..." if self.n_duplicates > len(self.duplicates) else ""
            lines.append(f"duplicates: {self.n_duplicates} prompts repeat an earlier one and are kept: {pairs}{more}")
        for file, n in self.unmatched.items():
            lines.append(f"given answers: {n} ids in {file} belong to no prompt that is kept")
        for file, n in self.unanswered.items():
            lines.append(f"given answers: {file} has none to {n} prompts; those candidates carry an error")
        if self.bad_answers:
            lines.append(f"given answers: {self.bad_answers} in the column cannot be used and carry an error")
        return lines
