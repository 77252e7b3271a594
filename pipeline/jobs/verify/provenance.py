"""What a run says of its own making, against what is here now."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from pipeline.config.config import Config
from pipeline.core.errors import InputError, ResumeError
from pipeline.core.folder import TABLES, RunFolder
from pipeline.core.schema import read_provenance
from pipeline.jobs import generate, select
from pipeline.jobs.record import provenance
from pipeline.jobs.verify.consistency import Problem

if TYPE_CHECKING:
    from pipeline.execution.spec import PassSpec

_PASSES: dict[str, Callable[[Config], list[PassSpec]]] = {
    "candidates": generate.passes,
    "selections": select.passes,
}


def check_provenance(run: RunFolder, config: Config) -> Iterator[Problem]:
    """The config that is stored is the one that the tables were made with; weights and templates are the same still."""
    for table in TABLES:
        marker = run.marker(table)
        if marker is None:
            continue
        if marker.get("mixed"):
            yield Problem("config", "holds results of more than one config (resume=force)", table=table)
        try:
            version = str(read_provenance(run.dataset(table).schema, run.path(table)).get("lemonpress"))
        except InputError as error:
            yield Problem("files", str(error), table=table)
            continue
        if version != str(marker.get("lemonpress", version)):
            yield Problem("config", f"files by Lemonpress {version}, marker by {marker['lemonpress']}", table=table)
        if table in _PASSES and (table != "candidates" or config.all_plans()):
            try:
                todo = [spec.name for spec in _PASSES[table](config) if not spec.skip]
            except ResumeError as error:
                yield Problem("config", str(error), table=table)
                continue
            if todo:
                message = f"config.yaml asks for more than the table holds: {', '.join(todo)}"
                yield Problem("config", message, table=table)
    manifest = run.manifest()
    now = provenance(config)
    for name, before in manifest.get("engines", {}).items():
        commit = now["engines"].get(name, {}).get("commit")
        if before.get("commit") and commit and commit != before["commit"]:
            message = f"engine {name}: made with weights {before['commit']}, here are {commit}"
            yield Problem("revision", message)
    for name, hashes in manifest.get("templates", {}).items():
        if name in now["templates"] and now["templates"][name] != hashes:
            yield Problem("template", f"{name}: made with the template {hashes}, here is {now['templates'][name]}")
