"""``export``: selections -> training data (SFT, DPO, reward model, KTO). Needs neither Ray nor a model."""

from __future__ import annotations

from pipeline.config.config import Config
from pipeline.core.safety import say
from pipeline.jobs.export.build import Exported, build
from pipeline.jobs.export.push import token_for, upload
from pipeline.jobs.job import console


def run(config: Config) -> None:
    """Write the export, print what became of every row, and upload it where ``export.push`` says so.

    Raises:
        ConfigError: a key is wrong; nothing was written.
        UnfinishedTableError: ``select`` has not finished.
        InputError: no row is left.
        StorageError: the upload failed.
    """
    push = config.export.push
    if push:
        token_for(push)
    result = build(config)
    print_counts(result, config.export.format)
    if push:
        say(f"uploaded to {upload(result.folder, push)} (private)")


def print_counts(result: Exported, format: str) -> None:
    """Print rows per split and per reason, and the folder."""
    from rich.table import Table

    counts = result.counts
    shown = Table(title=f"export: {format} of {result.choices.plan}/{result.choices.method}", title_justify="left")
    shown.add_column("rows")
    for name in ("count", "records", "files"):
        shown.add_column(name, justify="right")
    rows, records = counts.per_split(counts.exported), counts.per_split(counts.records)
    for split, files in result.shards.items():
        shown.add_row(f"exported: {split}", f"{rows[split]:,}", f"{records[split]:,}", f"{files:,}")
    for reason, n in counts.reasons():
        shown.add_row(f"left out: {reason}", f"{n:,}", "", "")
    shown.add_row("all", f"{counts.rows:,}", f"{sum(records.values()):,}", f"{sum(result.shards.values()):,}")
    console(shown)
    say(f"written to {result.where}")
