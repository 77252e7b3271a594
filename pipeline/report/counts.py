"""Counts from the run's last table, batch by batch: prompts, candidates, games, choices, usage, failures."""

from __future__ import annotations

from collections import Counter, defaultdict
from itertools import combinations
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.columns import column, nested
from pipeline.core.folder import RunFolder
from pipeline.core.layers import TABLES
from pipeline.judging.names import IS_AUDIT, IS_CANDIDATE, JUDGE_FAILED
from pipeline.report.model import Failure, Load, Report, Spent
from pipeline.stats.choices import Choices
from pipeline.stats.games import UNDETERMINED
from pipeline.tasks.measure import LANGUAGE, METRIC

SPENT = ("requests", "prompt_tokens", "cached_tokens", "completion_tokens")


class Counts:
    """Sums over batches; memory grows with the number of clusters only.

    Attributes:
        main_metrics: task -> its main metric, of the batches so far.
    """

    def __init__(self) -> None:
        self._clusters: set[str] = set()
        self._languages: Counter[str] = Counter()
        self._choices = Choices()
        self._same: Counter[tuple[str, str]] = Counter()
        self._both: Counter[tuple[str, str]] = Counter()
        self._usage: dict[tuple[str, str, str], list[int]] = defaultdict(lambda: [0, 0, 0, 0])
        self._failures: dict[tuple[str, str], list[Any]] = {}
        self._models: set[str] = set()
        self._numbers: Counter[str] = Counter()
        self.main_metrics: dict[str, str] = {}

    def add(self, batch: pa.RecordBatch) -> None:
        """Count a batch."""
        self._numbers["prompts"] += len(batch)
        ids = zip(column(batch, "cluster_id"), column(batch, "prompt_id"), strict=True)
        self._clusters.update(cluster or prompt for cluster, prompt in ids)
        self._languages.update(name or UNDETERMINED for name in column(batch, "language"))
        self._choices.add(batch)
        self._candidates(batch)
        self._agreement(batch)
        self._games(batch)
        self._main_metrics(batch)
        for items in nested(batch, "usage", "job", "stage", "model", *SPENT):
            for job, stage, model, *numbers in items:
                total = self._usage[job, stage, model or ""]
                total[:] = [a + (b or 0) for a, b in zip(total, numbers, strict=True)]
        for errors in nested(batch, "errors", "stage", "kind", "message"):
            self._numbers["failed_rows"] += bool(errors)
            for stage, kind, message in errors:
                self._failed(stage, kind, example=message)

    def fill(self, report: Report) -> None:
        """Write what was counted into the report."""
        report.n_prompts = self._numbers["prompts"]
        report.n_candidates = self._numbers["candidates"]
        report.n_truncated = self._numbers["truncated"]
        report.n_games = self._numbers["games"]
        report.n_invalid_games = self._numbers["invalid_games"]
        report.n_candidate_games = self._numbers["candidate_games"]
        report.n_audit_games = self._numbers["audit_games"]
        report.n_failed_rows = self._numbers["failed_rows"]
        report.n_clusters = len(self._clusters)
        report.languages = dict(sorted(self._languages.items()))
        report.models = sorted(self._models - {""})
        report.main_metrics = dict(self.main_metrics)
        report.selectors = list(self._choices.rows.values())
        agreement: dict[tuple[str, str], float | None] = {pair: self._same[pair] / n for pair, n in self._both.items()}
        report.agreement = agreement | {(b, a): share for (a, b), share in agreement.items()}
        report.stages = [spent(stage, numbers, model=model) for (_, stage, model), numbers in self._usage.items()]
        for entry in report.selectors:
            if entry.missing:
                self._failed(f"select:{entry.method}", "no answer could be selected", entry.missing)
            for reason, count in entry.without.items():
                self._failed(f"select:{entry.method}", reason, count)
            for reason, count in entry.fallbacks.items():
                self._failed(f"select:{entry.method}", f"fell back: {reason}", count)
        report.failures = [Failure(*key, count, example) for key, (count, example) in self._failures.items()]
        report.failures.sort(key=lambda f: (-f.count, f.where, f.cause))

    def _failed(self, where: str, cause: str, count: int = 1, example: str | None = None) -> None:
        known = self._failures.setdefault((where, cause), [0, example or ""])
        known[0] += count

    def _candidates(self, batch: pa.RecordBatch) -> None:
        for pool in nested(batch, "candidates", "plan", "finish_reason", "error", "model", "revision"):
            for plan, finish, error, model, revision in pool:
                self._numbers["candidates"] += 1
                self._numbers["truncated"] += finish == "length"
                self._models.add(f"{model}@{revision}" if revision else model or "")
                if error:
                    self._failed(f"generate:{plan}", "candidate without a text", example=error)

    def _agreement(self, batch: pa.RecordBatch) -> None:
        for selections in nested(batch, "selections", "plan", "method", "text"):
            texts = {f"{plan}/{method}": text for plan, method, text in selections if text is not None}
            for pair in combinations(sorted(texts), 2):
                self._both[pair] += 1
                self._same[pair] += texts[pair[0]] == texts[pair[1]]

    def _games(self, batch: pa.RecordBatch) -> None:
        """Games between systems; those of single candidates and of the judge's audit are counted apart."""
        if "games" not in batch.schema.names:
            return
        items = pc.list_flatten(batch.column("games"))
        systems = pc.fill_null(pc.struct_field(items, "system"), "")
        audit = pc.match_substring_regex(systems, IS_AUDIT)
        single = pc.match_substring_regex(systems, IS_CANDIDATE)
        between = pc.invert(pc.or_(audit, single))
        for name, mine in (("games", between), ("candidate_games", single), ("audit_games", audit)):
            played = items.filter(mine)
            invalid = played.filter(pc.is_null(pc.struct_field(played, "score")))
            self._numbers[name] += len(played)
            if name == "games":
                self._numbers["invalid_games"] += len(invalid)
            where = "judge" if name == "games" else f"judge ({name.removesuffix('_games')})"
            for reason, count in Counter(pc.struct_field(invalid, "reason").to_pylist()).items():
                failed = bool(reason) and reason.startswith(JUDGE_FAILED)
                cause = "invalid verdict: the judge's call failed" if failed else "invalid verdict: unreadable"
                self._failed(where, cause, count, reason)

    def _main_metrics(self, batch: pa.RecordBatch) -> None:
        """Every task measures its main metric first, and the table keeps that order."""
        tasks = [name or "open" for name in column(batch, "task")]
        if set(tasks) <= set(self.main_metrics):
            return
        for task, scores in zip(tasks, nested(batch, "scores", "scorer"), strict=True):
            names = [s.removeprefix(METRIC) for (s,) in scores if s.startswith(METRIC)]
            first = next((name for name in names if name != LANGUAGE), None)
            if first is not None:
                self.main_metrics.setdefault(task, first)


def pass_costs(run: RunFolder, manifest: dict[str, Any]) -> list[Spent]:
    """Costs of the passes; a pass that the manifest missed (its job was killed at its end) is in its table's marker."""
    found: dict[str, dict[str, Any]] = dict(manifest.get("passes") or {})
    for table in TABLES:
        for name, summary in (run.marker(table) or {}).get("passes", {}).items():
            found.setdefault(name, summary)
    return [
        spent(
            name,
            [int(s.get(key) or 0) for key in SPENT],
            seconds=s.get("seconds"),
            rows=s.get("rows"),
            failed=s.get("failed"),
            load=Load(**s["load"]) if s.get("load") else None,
        )
        for name, s in found.items()
    ]


def spent(name: str, numbers: list[int], **more: Any) -> Spent:
    """A :class:`Spent` from the numbers in the order of ``SPENT``."""
    values: dict[str, Any] = dict(zip(SPENT, numbers, strict=True)) | more
    return Spent(name, **values)
