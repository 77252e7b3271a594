"""The card: ``README.md`` with the front matter that ``datasets`` and the Hub read, and where the data came from.

Of what comes from models, endpoints and data, only checked language tags reach the front matter; in the text nothing
acts as HTML, Markdown or a link. No date and no path: the same run gives the same bytes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import __version__
from pipeline.config import Config
from pipeline.export import choose
from pipeline.export.config import PAIRED
from pipeline.export.counts import Counts
from pipeline.export.formats import Record
from pipeline.export.markdown import bar, facts, language_cell, plain, table, text_cell
from pipeline.export.write import CARD, MARK
from pipeline.languages import base_language
from pipeline.report.wording import interval, metric_label, model_label, percent, quality, signed, signed_interval
from pipeline.scoring.measure import LANGUAGE
from pipeline.storage import RunFolder

_MOST_COLUMNS = 8  # languages that still fit beside each other
_UNSTATED = "Not stated. Check the licences of the prompts and of every model named here before sharing this data."
_FORMATS = {
    "sft": ("Conversations for supervised fine-tuning", "messages", "SFTTrainer"),
    "dpo": ("Preference pairs", "prompt, chosen, rejected, score_chosen, score_rejected", "DPOTrainer"),
    "reward": ("Preference pairs with margins", "prompt, chosen, rejected, their scores, margin", "RewardTrainer"),
    "kto": ("Answers labelled good or bad", "prompt, completion, label", "KTOTrainer"),
}
_FILTERS = {
    choose.TRUNCATED: "truncated",
    choose.WRONG_LANGUAGE: "language",
    choose.LOW_SCORE: "min_score",
    choose.NO_SCORE: "min_score",
    choose.NO_REJECTED: "rejected",
    choose.LOW_MARGIN: "min_margin",
    choose.DUPLICATE: "deduplicate",
}
"""Reason -> the key that causes it; the other reasons are no choice."""
_SIZES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B", "1B<n<10B")


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


def write_card(
    folder: Path, source: Source, counts: Counts, shards: Mapping[str, int], samples: Mapping[str, list[Record]]
) -> None:
    """Write ``README.md`` into the export's folder.

    Args:
        folder: the export's folder.
        source: the run and the choices.
        counts: what became of every row.
        shards: split -> number of files, of the splits that have any.
        samples: language -> the records of one row, to show.
    """
    sections = [
        _front_matter(source.config, counts, shards),
        MARK,
        *_head(source, counts, shards),
        *_samples(samples),
        *_rows(source, counts, shards),
        *_left_out(source.config, counts),
        *_quality(source, counts),
        *_win_rates(source),
        *_provenance(source, counts),
        *_licenses(source.config),
    ]
    (folder / CARD).write_text("\n\n".join(sections) + "\n", encoding="utf-8", newline="\n")


def _front_matter(config: Config, counts: Counts, shards: Mapping[str, int]) -> str:
    languages = sorted({base_language(tag) or "" for tag in counts.languages()} - {"und", ""})
    licenses = sorted(set(config.export.licenses.values()))
    lines = ["---", "configs:", "- config_name: default", "  data_files:"]
    for split, n in shards.items():
        # the number of files is in the pattern: shards of an earlier upload never match
        lines += [f"  - split: {json.dumps(split)}", f'    path: "data/{split}-*-of-{n:05d}.parquet"']
    if languages:
        lines += ["language:", *(f"- {json.dumps(tag)}" for tag in languages)]
    if licenses:
        known = len(licenses) == 1 and re.fullmatch(r"[a-z0-9][a-z0-9.-]*", licenses[0])
        lines.append(f"license: {json.dumps(licenses[0] if known else 'other')}")
    size = min(max(len(str(counts.records.total())) - 3, 0), len(_SIZES) - 1)
    lines += ["size_categories:", f"- {_SIZES[size]}", "task_categories:", "- text-generation"]
    lines += ["tags:", "- lemonpress", "- synthetic", "- trl", f"- {json.dumps(config.export.format)}", "---"]
    return "\n".join(lines)


def _head(source: Source, counts: Counts, shards: Mapping[str, int]) -> list[str]:
    config, exported = source.config, counts.exported.total()
    what, columns, trainer = _FORMATS[config.export.format]
    share = f" ({exported / counts.rows:.0%})" if counts.rows else ""
    languages = len(counts.languages())
    among = f" in {languages} languages" if languages > 1 else ""
    return [
        f"# {plain(config.report.title)}: {config.export.format} data",
        f"**{exported:,} of {counts.rows:,} prompts{share}{among}, answered by language models; no person has read the "
        f"answers.** {what} (`{columns}`), as TRL's `{trainer}` reads them. For each prompt "
        f"{plain(source.method)} selected one answer from the candidate set {plain(source.plan)}; "
        "made by Lemonpress.",
        "```python\nfrom datasets import load_dataset\n\n"
        f'data = load_dataset("OWNER/NAME")  # or this folder; splits: {", ".join(shards)}\n```',
    ]


def _samples(samples: Mapping[str, list[Record]]) -> list[str]:
    """The first row of some languages; turns stand in a table, whose cells wrap."""
    parts = ["## Samples", "The first exported row of each language named here, not a choice."]
    for language, records in samples.items():
        rows: list[tuple[str, str]] = []
        before: Record = {}
        for record in records:
            for column, value in record.items():
                if column == "label" or value != before.get(column):  # KTO's records share their prompt
                    rows += _shown(column, value)
            before = record
        parts += [f"### {language_cell(language)}", table(("turn", "text"), rows)]
    return parts


def _shown(column: str, value: Any) -> Iterable[tuple[str, str]]:
    if not isinstance(value, list):
        yield f"`{column}`", plain(f"{value:g}" if isinstance(value, float) else "-" if value is None else value)
        return
    for turn in value:
        text = turn.get("content") or json.dumps(turn.get("tool_calls"), ensure_ascii=False)
        yield f"`{column}` {plain(turn['role'])}", text_cell(str(text))


def _rows(source: Source, counts: Counts, shards: Mapping[str, int]) -> list[str]:
    """Languages down, splits across."""
    more = counts.records != counts.exported
    names = ["language", "prompts", "exported", "share", *shards, *(["records"] if more else [])]
    rows = []
    for language in [*sorted(counts.asked), "all"]:
        here = [lang for lang in counts.asked if language in (lang, "all")]
        asked = sum(counts.asked[lang] for lang in here)
        splits = [sum(counts.exported[split, lang] for lang in here) for split in shards]
        cells = [f"{asked:,}", f"{sum(splits):,}", bar(sum(splits), asked), *(f"{n:,}" for n in splits)]
        if more:
            cells.append(f"{sum(counts.records[split, lang] for split in shards for lang in here):,}")
        rows.append([language_cell(language), *cells])
    parts = ["## Rows", table(names, rows, {1, 2, *range(4, len(names))})]
    shares = ", ".join(f"{name} {share:g}" for name, share in source.config.export.shares().items())
    empty = [split for split in source.config.export.shares() if split not in shards]
    note = f"Split by cluster, {shares}: translations of one question are all in one split."
    return [*parts, note + (f" No row fell into: {', '.join(empty)}." if empty else "")]


def _left_out(config: Config, counts: Counts) -> list[str]:
    """What every filter did, those that did nothing included."""
    settings, dropped = config.export, counts.dropped
    paired = (choose.NO_REJECTED, choose.LOW_MARGIN)
    possible = [reason for reason in _FILTERS if settings.format in PAIRED or reason not in paired]
    unset = [choose.LOW_SCORE, choose.NO_SCORE] if settings.min_score is None else []
    reasons = sorted(dict.fromkeys([*dropped, *possible]), key=lambda reason: -dropped[reason])
    reasons = [reason for reason in reasons if dropped[reason] or reason not in unset]
    languages = sorted(counts.asked) if 1 < len(counts.asked) <= _MOST_COLUMNS else []
    rows = [
        [
            plain(reason),
            _setting(config, reason),
            f"{dropped[reason]:,}",
            bar(dropped[reason], counts.rows),
            *(f"{counts.lost[reason, lang]:,}" for lang in languages),
        ]
        for reason in reasons
    ]
    sums = [sum(counts.lost[reason, lang] for reason in reasons) for lang in languages]
    total = dropped.total()
    rows.append(["**all**", "", f"{total:,}", bar(total, counts.rows), *(f"{n:,}" for n in sums)])
    names = ["why", "`export` key", "rows", "share", *map(plain, languages)]
    note = "A row is counted under the first reason that applies; the selected answer was never replaced by another one."
    return ["## Left out", table(names, rows, {2, *range(4, len(names))}), note]


def _setting(config: Config, reason: str) -> str:
    key = _FILTERS.get(reason)
    if key is None:
        return ""
    value = getattr(config.export, key)
    return f"`{key}={'null' if value is None else str(value).lower()}`"


def _quality(source: Source, counts: Counts) -> list[str]:
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
        names = ["language", "exported", metric_label(metric)]
        if scores:
            names += ["all prompts", plain(source.method), plain((base or "-").rpartition("/")[2]), "difference"]
        parts += [f"**{plain(metric_label(metric))}** ({plain(task)})", table(names, rows, range(1, len(names)))]
    if not parts:
        return []
    level = f"{source.config.winrate.confidence:.0%}"
    note = "Computed against the references of the prompts. Left: the exported answers."
    if scores:
        note += (
            f" Right: {plain(source.method)} on all prompts of the run, before the filters, beside the answer it has to "
            f"beat; the difference in points, with {level} intervals by cluster."
        )
    return ["## How good the answers are", *parts, note]


def _win_rates(source: Source) -> list[str]:
    stored = source.run.read_table("winrates.parquet")
    found = stored.to_pylist() if stored else []
    rows = sorted((r for r in found if r["system"] == source.system and r["language"] == "all"), key=str)
    if not rows:
        return []
    shown = [
        (r["opponent"], percent(r["win_rate"]), interval(r["ci_low"], r["ci_high"]), f"{r['n_prompts']:,}") for r in rows
    ]
    level = f"{source.config.winrate.confidence:.0%} interval"
    note = "Of the selection on all prompts of the run, before this export's filters."
    return ["## Win-rate of the selection", facts(("against", "win-rate", level, "prompts"), shown, {1, 2, 3}), note]


def _provenance(source: Source, counts: Counts) -> list[str]:
    config, run = source.config, source.run
    manifest: dict[str, Any] = run.read_json("manifest.json") or {}
    marker = run.marker("selections") or {}
    packages = ", ".join(f"{name} {version}" for name, version in sorted((manifest.get("packages") or {}).items()))
    settings = config.export
    known = [
        ("run", manifest.get("run_id") or "not recorded"),
        ("selections' fingerprint", marker.get("fingerprint_hash") or "not recorded"),
        ("seed of the run", config.seed),
        ("plan", source.plan),
        ("method", source.method),
        ("scorer", source.scorer or "the method's own"),
        ("rejected answers", settings.rejected if settings.format in PAIRED else "-"),
        ("reasoning", settings.reasoning),
        ("seed of the export", settings.seed),
        *((f"template of {where}", text) for where, text in _templates(manifest)),
        ("Lemonpress of the run", manifest.get("lemonpress") or "not recorded"),
        ("Lemonpress of this export", __version__),
        ("packages of the run", packages or "not recorded"),
    ]
    engines = [
        (name, e.get("kind"), model_label(str(e.get("model") or "-")), e.get("revision") or "-", e.get("commit") or "-")
        for name, e in sorted((manifest.get("engines") or {}).items())
    ]
    answers = [
        (
            "new texts (fusion)" if model is None else plain(model_label(model)),
            plain(revision or "-"),
            "-" if temperature is None else f"{temperature:g}",
            f"{n:,}",
            bar(n, counts.exported.total()),
        )
        for (model, revision, temperature), n in sorted(counts.models.items(), key=lambda i: (-i[1], str(i[0])))
    ]
    parts = [
        "## Provenance",
        "Who wrote the exported answers:",
        table(("model", "revision", "temperature", "rows", "share"), answers, {2, 3}),
    ]
    if engines:
        parts += ["The run's engines:", facts(("engine", "kind", "model", "revision", "commit"), engines)]
    return [*parts, "The run:", facts(("what", "value"), known)]


def _templates(manifest: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    for where, named in sorted((manifest.get("templates") or {}).items()):
        for purpose, value in sorted(named.items()):
            yield f"{where}, {purpose}", str(value)


def _licenses(config: Config) -> list[str]:
    named = sorted(config.export.licenses.items())
    return ["## Licences", facts(("of", "licence"), named) if named else _UNSTATED]
