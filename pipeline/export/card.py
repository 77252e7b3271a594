"""The card: ``README.md`` with the front matter that ``datasets`` and the Hub read, and where the data came from.

Names and texts come from models, endpoints and data: of them only checked language tags reach the front matter, and
none acts as HTML, Markdown or a link in the text. No date and no path: the same run gives the same bytes.
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
from pipeline.export.counts import Counts
from pipeline.export.formats import Record
from pipeline.export.write import CARD, MARK
from pipeline.languages import base_language
from pipeline.report.escaping import escape_markdown, fence
from pipeline.report.wording import model_label
from pipeline.safety import redact
from pipeline.storage import RunFolder

_LONGEST = 2_000  # characters of one turn of the sample
_UNSTATED = "Not stated. Check the licences of the prompts and of every model named here before sharing this data."
_FORMATS = {
    "sft": "conversational language modelling (`messages`)",
    "dpo": "preference pairs (`prompt`, `chosen`, `rejected`)",
    "reward": "preference pairs with margins (`prompt`, `chosen`, `rejected`, `margin`)",
    "kto": "unpaired preferences (`prompt`, `completion`, `label`)",
}


@dataclass
class Source:
    """Where the data came from: the run, and the resolved plan, method and scorer (``None``: the method's own)."""

    config: Config
    run: RunFolder
    plan: str
    method: str
    scorer: str | None


def write_card(folder: Path, source: Source, counts: Counts, shards: Mapping[str, int], sample: list[Record]) -> None:
    """Write ``README.md`` into the export's folder.

    Args:
        folder: the export's folder.
        source: the run and the choices.
        counts: what became of every row.
        shards: split -> number of files, of the splits that have any.
        sample: records of one row, to show.
    """
    sections = [
        _front_matter(source.config, counts, shards),
        MARK,
        _head(source, counts),
        *_provenance(source, counts),
        *_counts(source, counts, shards),
        *_win_rates(source),
        *_licenses(source.config),
        *_sample(sample),
    ]
    (folder / CARD).write_text("\n\n".join(sections) + "\n", encoding="utf-8", newline="\n")


def plain(value: Any) -> str:
    """One line of running text: no secret, no Markdown, no HTML, and nothing that becomes a link by itself."""
    line = escape_markdown(redact(str(value)))
    return re.sub(r"(?i)\bwww\.", lambda m: m[0][:-1] + "\\.", line)


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
    lines += ["tags:", "- lemonpress", "- synthetic", "- trl", f"- {json.dumps(config.export.format)}", "---"]
    return "\n".join(lines)


def _head(source: Source, counts: Counts) -> str:
    config, exported = source.config, sum(counts.exported.values())
    return (
        f"# {plain(config.report.title)}: {config.export.format} data\n\n"
        f"{_FORMATS[config.export.format]}, made by Lemonpress: {exported:,} of {counts.rows:,} rows of a run whose "
        f"answers were selected by {plain(source.method)} from the candidate set {plain(source.plan)}. The answers are "
        "written by language models and were not read by people."
    )


def _provenance(source: Source, counts: Counts) -> list[str]:
    config, run = source.config, source.run
    manifest: dict[str, Any] = run.read_json("manifest.json") or {}
    marker = run.marker("selections") or {}
    packages = ", ".join(f"{name} {version}" for name, version in sorted((manifest.get("packages") or {}).items()))
    facts = [
        ("run", manifest.get("run_id") or "not recorded"),
        ("selections' fingerprint", marker.get("fingerprint_hash") or "not recorded"),
        ("Lemonpress of the run", manifest.get("lemonpress") or "not recorded"),
        ("Lemonpress of this export", __version__),
        ("packages of the run", packages or "not recorded"),
        ("plan", source.plan),
        ("method", source.method),
        ("scorer", source.scorer or "the method's own"),
        ("seed of the run", config.seed),
        *((f"template of {where}", text) for where, text in _templates(manifest)),
    ]
    engines = [
        (name, e.get("kind"), model_label(str(e.get("model") or "-")), e.get("revision") or "-", e.get("commit") or "-")
        for name, e in sorted((manifest.get("engines") or {}).items())
    ]
    models = sorted(counts.models.items(), key=lambda item: (-item[1], str(item[0])))
    answers = [("new texts (fusion)" if m is None else model_label(m), r or "-", f"{n:,}") for (m, r), n in models]
    hidden = ("output", "push", "licenses", "splits", "plan", "method", "scorer")
    filters = [(k, "-" if v is None else v) for k, v in vars(config.export).items() if k not in hidden]
    filters.append(("splits", ", ".join(f"{k} {v:g}" for k, v in config.export.shares().items())))
    parts = ["## Provenance", _table(("what", "value"), facts)]
    if engines:
        parts.append(_table(("engine", "kind", "model", "revision", "commit"), engines))
    return [
        *parts,
        _table(("answers by model", "revision", "rows"), answers),
        "## Filters",
        _table(("`export` key", "value"), filters),
    ]


def _templates(manifest: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    for where, named in sorted((manifest.get("templates") or {}).items()):
        for purpose, value in sorted(named.items()):
            yield f"{where}, {purpose}", str(value)


def _counts(source: Source, counts: Counts, shards: Mapping[str, int]) -> list[str]:
    keys = sorted(counts.exported, key=lambda key: (list(shards).index(key[0]), key[1]))
    by_split = [(s, lang, f"{counts.exported[s, lang]:,}", f"{counts.records[s, lang]:,}") for s, lang in keys]
    exported = sum(counts.exported.values())
    fate = [("exported", f"{exported:,}"), *((r, f"{n:,}") for r, n in counts.reasons()), ("all", f"{counts.rows:,}")]
    parts = ["## Rows", _table(("split", "language", "rows", "records"), by_split), _table(("fate", "rows"), fate)]
    empty = [split for split in source.config.export.shares() if split not in shards]
    return parts + ([f"No row fell into: {', '.join(empty)}."] if empty else [])


def _win_rates(source: Source) -> list[str]:
    table = source.run.read_table("winrates.parquet")
    system = f"{source.plan}/{source.method}"
    rows = [r for r in table.to_pylist() if (r["system"], r["language"]) == (system, "all")] if table else []
    if not rows:
        return []
    shown = [
        (r["opponent"], _percent(r["win_rate"]), f"{_percent(r['ci_low'])} to {_percent(r['ci_high'])}", r["n_prompts"])
        for r in sorted(rows, key=lambda r: str(r["opponent"]))
    ]
    level = f"{source.config.winrate.confidence:.0%} interval"
    note = "Of the selection on all prompts of the run, before this export's filters."
    return ["## Win-rate of the selection", _table(("against", "win-rate", level, "prompts"), shown), note]


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _licenses(config: Config) -> list[str]:
    named = sorted(config.export.licenses.items())
    return ["## Licences", _table(("of", "licence"), named) if named else _UNSTATED]


def _sample(records: list[Record]) -> list[str]:
    """One row's records, every text in a code block."""
    parts = ["## One sample"]
    for record in records:
        for column, value in record.items():
            if not isinstance(value, list):
                parts.append(f"`{column}`: {plain(value)}")
                continue
            for turn in value:
                parts.append(f"`{column}`, {plain(turn['role'])}:")
                text = redact(str(turn.get("content") or json.dumps(turn.get("tool_calls"), ensure_ascii=False)))
                parts.append(fence(text if len(text) <= _LONGEST else f"{text[:_LONGEST]}… [cut here]"))
    return parts


def _table(names: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    names = list(names)
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    return "\n".join([*lines, *("| " + " | ".join(plain(cell) for cell in row) + " |" for row in rows)])
