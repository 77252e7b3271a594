"""The whole export: stream the run's rows, choose, write the shards and the card."""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.config.config import Config
from pipeline.config.sections import TOOLS
from pipeline.core.errors import ConfigError, InputError
from pipeline.core.folder import RunFolder
from pipeline.core.hashing import digest
from pipeline.core.languages import base_language, is_language_tag
from pipeline.core.row import Row, row_from_dict
from pipeline.jobs.export.card import write_card
from pipeline.jobs.export.card_tables import Source
from pipeline.jobs.export.choose import DUPLICATE, Dropped, Pair, choose, choose_answer, measured
from pipeline.jobs.export.counts import Counts
from pipeline.jobs.export.duplicates import Duplicates
from pipeline.jobs.export.formats import Record, definitions, schema_of, to_records
from pipeline.jobs.export.inventory import Choices, Inventory, resolve
from pipeline.jobs.export.splits import split_of
from pipeline.jobs.export.write import DATA, SplitWriter, check_target, replacing

_COLUMNS = (
    *("row_id", "prompt_id", "cluster_id", "task", "language", "messages", "reference", "source"),
    *("candidates", "scores", "selections", "errors"),
)
_BATCH = 256  # rows: a batch of long candidate sets still fits into little memory
_SAMPLES = 3  # languages of which one row is shown


@dataclass
class Exported:
    """What an export made: where it lies, the choices it followed, the counts, and split -> number of files."""

    where: str
    choices: Choices
    counts: Counts = field(default_factory=Counts)
    shards: dict[str, int] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """The folder, where it is a local one."""
        return Path(self.where)


def output_folder(config: Config, run: RunFolder) -> RunFolder:
    """Where the export goes.

    Raises:
        ConfigError: it cannot be opened, or holds the run.
    """
    output = config.export.output or run.uri("export", config.export.format)
    target = RunFolder(output, "export.output")
    if target.is_local:
        target = RunFolder(target.root, "export.output")  # of a file:// URI, too
        if Path(run.root).is_relative_to(target.root) and run.is_local:
            raise ConfigError(f"export.output: {target.root} is, or holds, the run's own folder")
    elif config.export.push:
        raise ConfigError("export.push: only a local folder can be uploaded; set export.output to one")
    return target


def build(config: Config) -> Exported:
    """Export a finished run.

    Nothing is left behind when it fails, and an earlier export in the folder stays as it was.

    Raises:
        UnfinishedTableError: ``select`` has not finished.
        ConfigError: a name that the run lacks, or a folder that cannot be used; nothing was written.
        StorageError: an object store cannot be reached.
        InputError: no row is left; the message has the reasons.
    """
    run = RunFolder(config.out)
    found = Inventory.of(run)
    target = output_folder(config, run)
    result = Exported(target.name, resolve(config, found))
    check_target(target)
    schema, settings, counts = (
        schema_of(config.export.format, found, result.choices.tools is not None),
        config.export,
        result.counts,
    )
    writers: dict[str, SplitWriter] = {}
    samples: dict[str, list[Record]] = {}
    with replacing(target) as folder:
        data = folder / DATA
        data.mkdir()
        shares = settings.shares()
        if settings.min_score_quantile is not None:
            counts.thresholds = _thresholds(config, run, result.choices, settings.min_score_quantile)
        for row, pair, records in _examples(config, run, result.choices, counts):
            split = split_of(row.cluster_id or digest(row.messages), shares, settings.seed)
            if split not in writers:
                writers[split] = SplitWriter(data, split, schema, settings.rows_per_shard)
            for record in records:
                writers[split].add(record)
            language = language_key(row.language)
            if len(samples) < _SAMPLES:
                samples.setdefault(language, records)
            counts.exported[split, language] += 1
            counts.records[split, language] += len(records)
            by = pair.chosen.candidate
            counts.models[(by.model, by.revision, by.temperature) if by else (None, None, None)] += 1
            counts.measure(row.task, language, measured(row, result.choices))
        if not writers:
            reasons = "; ".join(f"{reason}: {n:,}" for reason, n in counts.reasons())
            raise InputError(
                f"nothing to export: {counts.rows:,} rows, all left out ({reasons or 'the table is empty'})"
            )
        patterns = {name: writers[name].finish() for name in shares if name in writers}
        result.shards = {name: len(writers[name].shards) for name in patterns}
        source = Source(config, run, result.choices.plan, result.choices.method, result.choices.scorer)
        write_card(folder, source, counts, patterns, samples)
    return result


def _examples(
    config: Config, run: RunFolder, choices: Choices, counts: Counts
) -> Iterator[tuple[Row, Pair, list[Record]]]:
    """The rows that are exported; every row, and every dropped one by its reason, is counted."""
    settings, duplicates = config.export, Duplicates()
    for item in run.iter_rows("selections", _COLUMNS, _BATCH):
        row = row_from_dict(item)
        language = language_key(row.language)
        counts.asked[language] += 1
        try:
            pair = choose(row, config, choices, counts.thresholds)
            records = to_records(settings.format, row.messages, pair, settings.reasoning == "keep")
            tools = definitions((row.source or {}).get(choices.tools)) if choices.tools else None
            records = [{**record, TOOLS: tools} for record in records] if choices.tools else records
            if settings.deduplicate and duplicates.seen(row.messages, pair.chosen.text, tools):
                raise Dropped(DUPLICATE)
        except Dropped as reason:
            counts.lost[str(reason), language] += 1
            continue
        yield row, pair, records


def _thresholds(config: Config, run: RunFolder, choices: Choices, quantile: float) -> dict[str | None, float]:
    """Base language -> that quantile of the scores of its answers, of those that no other filter leaves out."""
    scores: dict[str | None, array[float]] = defaultdict(lambda: array("d"))
    for item in run.iter_rows("selections", _COLUMNS, _BATCH):
        row = row_from_dict(item)
        try:
            answer = choose_answer(row, config, choices)
        except Dropped:
            continue
        if answer.score is not None:
            scores[base_language(row.language)].append(answer.score)
    return {language: sorted(found)[int(quantile * len(found))] for language, found in scores.items()}


def language_key(tag: str | None) -> str:
    """A language as it is counted: whatever is no BCP 47 tag is data, and does not become a key of the card."""
    return tag if tag and is_language_tag(tag) else "und"
