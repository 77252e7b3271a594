"""The card's tables: what became of the rows, how good the answers are, and win-rates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.config.config import Config
from pipeline.config.sections import PAIRED
from pipeline.core.folder import RunFolder
from pipeline.jobs.export import choose
from pipeline.jobs.export.counts import Counts
from pipeline.jobs.export.markdown import bar, facts, language_cell, plain, table
from pipeline.report.wording import interval, metric_label, percent, quality, signed, signed_interval
from pipeline.tasks.measure import LANGUAGE

_MOST_COLUMNS = 8  # languages that still fit beside each other
_FILTERS = {
    choose.TRUNCATED: "truncated",
    choose.WRONG_LANGUAGE: "language",
    choose.FALLBACK: "fallbacks",
    choose.LOW_SCORE: "min_score",
    choose.LOW_IN_LANGUAGE: "min_score_quantile",
    choose.NO_SCORE: "min_score",
    choose.NO_REJECTED: "rejected",
    choose.LOW_MARGIN: "min_margin",
    choose.CONTRADICTED: "contradicted",
    choose.DUPLICATE: "deduplicate",
}
"""Reason -> the key that causes it; the other reasons are no choice."""


@dataclass
class Source:
    """Where the data came from: the run, and the resolved plan, method and scorer (``None``: the method's own)."""

    config: Config
    run: RunFolder
    plan: str
    method: str
    scorer: str | None

    @property
    def system(self) -> str:
        """``plan/method``."""
        return f"{self.plan}/{self.method}"


def rows_by_language(source: Source, counts: Counts, splits: Sequence[str]) -> list[str]:
    """Languages down, splits across."""
    more = counts.records != counts.exported
    names = ["language", "exported", "share", "prompts", *splits, *(["records"] if more else [])]
    rows = []
    for language in [*sorted(counts.asked), "all"]:
        here = [lang for lang in counts.asked if language in (lang, "all")]
        asked = sum(counts.asked[lang] for lang in here)
        rest = [sum(counts.exported[split, lang] for lang in here) for split in splits]
        cells = [f"{sum(rest):,}", bar(sum(rest), asked), f"{asked:,}", *(f"{n:,}" for n in rest)]
        if more:
            cells.append(f"{sum(counts.records[split, lang] for split in splits for lang in here):,}")
        rows.append([language_cell(language), *cells])
    parts = ["## Rows", table(names, rows, {1, *range(3, len(names))})]
    shares = ", ".join(f"{name} {share:g}" for name, share in source.config.export.shares().items())
    empty = [split for split in source.config.export.shares() if split not in splits]
    note = f"Split by cluster, {shares}: translations of one question, and copies of one prompt, are all in one split."
    return [*parts, note + (f" No row fell into: {', '.join(empty)}." if empty else "")]


def left_out(config: Config, counts: Counts) -> list[str]:
    """What every filter did, those that did nothing included."""
    settings, dropped = config.export, counts.dropped
    paired = (choose.NO_REJECTED, choose.LOW_MARGIN, choose.CONTRADICTED)
    possible = [reason for reason in _FILTERS if settings.format in PAIRED or reason not in paired]
    by_score = {choose.LOW_SCORE: settings.min_score, choose.LOW_IN_LANGUAGE: settings.min_score_quantile}
    unset = [reason for reason, value in by_score.items() if value is None]
    unset += [choose.NO_SCORE] if len(unset) == len(by_score) else []
    reasons = sorted(dict.fromkeys([*dropped, *possible]), key=lambda reason: -dropped[reason])
    reasons = [reason for reason in reasons if dropped[reason] or reason not in unset]
    languages = sorted(counts.asked) if 1 < len(counts.asked) <= _MOST_COLUMNS else []
    rows = [
        [
            plain(reason),
            f"{dropped[reason]:,}",
            bar(dropped[reason], counts.rows),
            _setting(config, reason),
            *(f"{counts.lost[reason, lang]:,}" for lang in languages),
        ]
        for reason in reasons
    ]
    sums = [sum(counts.lost[reason, lang] for reason in reasons) for lang in languages]
    total = dropped.total()
    rows.append(["**all**", f"{total:,}", bar(total, counts.rows), "", *(f"{n:,}" for n in sums)])
    names = ["why", "rows", "share", "`export` key", *map(plain, languages)]
    note = (
        "A row is counted under the first reason that applies; the selected answer was never replaced by another one."
    )
    if counts.thresholds:
        smallest = ", ".join(
            f"{tag or 'not stated'} {score:.4g}" for tag, score in sorted(counts.thresholds.items(), key=str)
        )
        note += f" Smallest score by language: {plain(smallest)}."
    return ["## Left out", table(names, rows, {1, *range(4, len(names))}), note]


def _setting(config: Config, reason: str) -> str:
    key = _FILTERS.get(reason)
    if key is None:
        return ""
    value = getattr(config.export, key)
    return f"`{key}={'null' if value is None else str(value).lower()}`"


def answer_quality(source: Source, counts: Counts) -> list[str]:
    """The tasks' metrics of what is exported, and of the selection on all prompts beside its base."""
    stored = source.run.read_table("scores.parquet")
    scores = {(r["task"], r["metric"], r["system"], r["language"]): r for r in (stored.to_pylist() if stored else [])}
    parts = []
    for task, metric in dict.fromkeys((t, m) for t, m, _ in sorted(counts.measured) if m != LANGUAGE):
        rows, base = [], None
        for language in [*sorted(counts.asked), "all"]:
            n, total = counts.measured.get((task, metric, language), (0, 0.0))
            run = scores.get((task, metric, source.system, language), {})
            base = run.get("base") or base
            beside = scores.get((task, metric, base, language), {})
            if not n and not run:
                continue
            cells = [language_cell(language), f"{n:,}", quality(metric, total / n if n else None)]
            if scores:
                gain = signed(run.get("difference"))
                if run.get("difference_low") is not None:
                    gain += f" ({signed_interval(run['difference_low'], run['difference_high'])})"
                cells += [f"{run.get('n_prompts', 0):,}"]
                cells += [quality(metric, run.get("mean")), quality(metric, beside.get("mean")), gain]
            rows.append(cells)
        names = ["language", "exported", plain(metric_label(metric))]
        if scores:
            names += ["all prompts", plain(source.method), plain((base or "-").rpartition("/")[2]), "difference"]
        parts += [f"**{plain(metric_label(metric))}** ({plain(task)})", table(names, rows, range(1, len(names)))]
    if not parts:
        return []
    level = f"{source.config.winrate.confidence:.0%}"
    note = "Computed against the references of the prompts. Left: the exported answers."
    if scores:
        note += (
            f" Right: {plain(source.method)} on all prompts of the run, before the filters, beside what it has to "
            f"beat; the difference in points, with {level} intervals by cluster."
        )
    return ["## How good the answers are", *parts, note]


def win_rates(source: Source) -> list[str]:
    stored = source.run.read_table("winrates.parquet")
    found = stored.to_pylist() if stored else []
    rows = sorted((r for r in found if r["system"] == source.system and r["language"] == "all"), key=str)
    if not rows:
        return []
    shown = [
        (r["opponent"], percent(r["win_rate"]), interval(r["ci_low"], r["ci_high"]), f"{r['n_prompts']:,}")
        for r in rows
    ]
    level = f"{source.config.winrate.confidence:.0%} interval"
    note = "Of the selection on all prompts of the run, before this export's filters."
    return ["## Win-rate of the selection", facts(("against", "win-rate", level, "prompts"), shown, {1, 2, 3}), note]
