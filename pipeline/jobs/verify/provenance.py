"""What a run says of its own making, against what is here now."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pipeline.config.config import Config
from pipeline.core.errors import InputError, ResumeError
from pipeline.core.folder import RunFolder
from pipeline.core.layers import TABLES
from pipeline.execution.schedule import Plan
from pipeline.jobs import generate, select
from pipeline.jobs.record import provenance
from pipeline.jobs.steps import made_so_far
from pipeline.jobs.verify.consistency import Problem


def check_provenance(run: RunFolder, config: Config) -> Iterator[Problem]:
    """The config that is stored is the one that the tables were made with; weights and templates are the same still."""
    for table in TABLES:
        marker = run.marker(table)
        if marker is None:
            continue
        if table in ("candidates", "selections") and (table != "candidates" or config.all_plans()):
            yield from _asked_for(run, config, table, marker)
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


def _asked_for(run: RunFolder, config: Config, table: str, record: dict[str, Any]) -> Iterator[Problem]:
    """The table holds what the config asks for."""
    try:
        steps = generate.steps(config)
        if table == "selections":
            steps = select.steps(config, made_so_far(run, "candidates" if config.all_plans() else "prompts"))
        plan = Plan(run, steps, config.engines, record.get("sizes", ()))
    except (ResumeError, InputError) as error:
        yield Problem("config", str(error), table=table)
        return
    if todo := [one.spec.layer.name for one in plan.layers if one.spec.shards]:
        yield Problem("config", f"config.yaml asks for more than the table holds: {', '.join(todo)}", table=table)
