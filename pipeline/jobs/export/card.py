"""The card: ``README.md`` with the front matter that ``datasets`` and the Hub read, and where the data came from.

Of what comes from models, endpoints and data, only checked language tags reach the front matter; in the text nothing
acts as HTML, Markdown or a link. No date and no path: the same run gives the same bytes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline import __version__
from pipeline.config.config import Config
from pipeline.config.sections import PAIRED
from pipeline.core.languages import base_language
from pipeline.jobs.export.card_tables import Source, answer_quality, left_out, rows_by_language, win_rates
from pipeline.jobs.export.counts import Counts
from pipeline.jobs.export.formats import Record
from pipeline.jobs.export.markdown import bar, facts, language_cell, plain, table, text_cell
from pipeline.jobs.export.write import CARD, MARK
from pipeline.report.wording import model_label

_UNSTATED = "Not stated. Check the licences of the prompts and of every model named here before sharing this data."
_FORMATS = {
    "sft": ("SFT", "Conversations for supervised fine-tuning", "messages", "SFTTrainer"),
    "dpo": ("DPO", "Preference pairs", "prompt, chosen, rejected, score_chosen, score_rejected", "DPOTrainer"),
    "reward": (
        "reward",
        "Preference pairs with margins",
        "prompt, chosen, rejected, their scores, margin",
        "RewardTrainer",
    ),
    "kto": ("KTO", "Answers labelled good or bad", "prompt, completion, label", "KTOTrainer"),
}
_SIZES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B", "1B<n<10B")


def write_card(
    folder: Path, source: Source, counts: Counts, files: Mapping[str, str], samples: Mapping[str, list[Record]]
) -> None:
    """Write ``README.md`` into the export's folder.

    Args:
        folder: the export's folder.
        source: the run and the choices.
        counts: what became of every row.
        files: split -> pattern of its files, of the splits that have any.
        samples: language -> the records of one row, to show.
    """
    sections = [
        _front_matter(source.config, counts, files),
        MARK,
        *_head(source, counts, list(files)),
        *_samples(samples),
        *rows_by_language(source, counts, list(files)),
        *left_out(source.config, counts),
        *answer_quality(source, counts),
        *win_rates(source),
        *_provenance(source, counts),
        *_licenses(source.config),
    ]
    (folder / CARD).write_text("\n\n".join(sections) + "\n", encoding="utf-8", newline="\n")


def _front_matter(config: Config, counts: Counts, files: Mapping[str, str]) -> str:
    languages = sorted({base_language(tag) or "" for tag in counts.languages()} - {"und", ""})
    licenses = sorted(set(config.export.licenses.values()))
    lines = ["---", "configs:", "- config_name: default", "  data_files:"]
    for split, pattern in files.items():  # shards of an earlier upload never match
        lines += [f"  - split: {json.dumps(split)}", f"    path: {json.dumps(pattern)}"]
    if languages:
        lines += ["language:", *(f"- {json.dumps(tag)}" for tag in languages)]
    if licenses:
        known = len(licenses) == 1 and re.fullmatch(r"[a-z0-9][a-z0-9.-]*", licenses[0])
        lines.append(f"license: {json.dumps(licenses[0] if known else 'other')}")
    size = min(max(len(str(counts.records.total())) - 3, 0), len(_SIZES) - 1)
    lines += ["size_categories:", f"- {_SIZES[size]}", "task_categories:", "- text-generation"]
    lines += ["tags:", "- lemonpress", "- synthetic", "- trl", f"- {json.dumps(config.export.format)}", "---"]
    return "\n".join(lines)


def _head(source: Source, counts: Counts, splits: Sequence[str]) -> list[str]:
    config, exported = source.config, counts.exported.total()
    name, what, columns, trainer = _FORMATS[config.export.format]
    share = f" ({exported / counts.rows:.0%})" if counts.rows else ""
    languages = len(counts.languages())
    among = f" in {languages} languages" if languages > 1 else ""
    return [
        f"# {plain(config.report.title)}: {name} data",
        f"**{exported:,} of {counts.rows:,} prompts{share}{among}, answered by language models. No person has read the "
        f"answers.** {what} (`{columns}`), as TRL's `{trainer}` reads them. The answers were selected by "
        f"**{plain(source.method)}** from the candidate set **{plain(source.plan)}**, and filtered, by Lemonpress.",
        "```python\nfrom datasets import load_dataset\n\n"
        f'data = load_dataset("OWNER/NAME")  # or this folder; splits: {", ".join(splits)}\n```',
    ]


def _samples(samples: Mapping[str, list[Record]]) -> list[str]:
    """The first row of some languages; turns stand in a table, whose cells wrap."""
    parts = ["## Samples", "The first exported row of each language named here, not a choice."]
    for language, records in samples.items():
        rows: list[tuple[str, str]] = []
        before: Record = {}
        for record in records:
            for column, value in record.items():
                if isinstance(value, list) and value != before.get(column):  # KTO's records share their prompt
                    rows += _turns(column, value, record)
            before = record
        parts += [f"### {language_cell(language)}", table(("turn", "text"), rows)]
    return parts


def _turns(column: str, turns: list[Record], record: Record) -> Iterable[tuple[str, str]]:
    """A turn a line: its role, or what the format makes of the answer."""
    score = record.get(f"score_{column}")
    label = record.get("label") if column == "completion" else None
    extra = f", score {score:.4g}" if score is not None else "" if label is None else f", label {str(label).lower()}"
    for turn in turns:
        name = plain(turn["role"]) if column in ("messages", "prompt") else f"**{column}**{extra}"
        text = turn.get("content") or json.dumps(turn.get("tool_calls"), ensure_ascii=False)
        yield name, text_cell(str(text))


def _provenance(source: Source, counts: Counts) -> list[str]:
    config, run = source.config, source.run
    manifest: dict[str, Any] = run.manifest()
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
