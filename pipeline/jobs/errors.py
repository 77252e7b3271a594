"""``errors``: what went wrong in a run, by cause. Needs neither Ray nor a model."""

from __future__ import annotations

from dataclasses import asdict

from pipeline.core.errors import ConfigError
from pipeline.core.folder import RunFolder
from pipeline.core.safety import json_text, say
from pipeline.jobs.job import console
from pipeline.stats.failures import Cause, find_failures

_LONGEST = 240  # characters of a message


def run(folder: str, as_json: bool = False) -> None:
    """Print the causes of a run's failures with counts, an example and some prompt ids.

    Args:
        folder: the run.
        as_json: print them as one JSON object instead of a table.

    Raises:
        ConfigError: there is no such folder.
        UnfinishedTableError: no table of the run is finished.
    """
    run_folder = RunFolder(folder)
    if not run_folder.exists():
        raise ConfigError(f"no such run folder: {folder}")
    table, found = find_failures(run_folder)
    causes = sorted(found.found, key=lambda cause: -cause.count)
    if as_json:
        counts = {"table": table, "rows": found.rows, "failed": found.failed}
        print(json_text({**counts, "causes": [asdict(cause) for cause in causes]}))
        return
    if causes:
        _print(causes, f"errors: {folder} ({table})")
    say(f"{found.failed:,} of {found.rows:,} rows carry an error")
    if any(c.kind == "BadPrompt" for c in causes):
        say("rows of kind BadPrompt could not be read: mend them in the source; source._original has what they held")
    if any(c.kind != "BadPrompt" for c in causes):
        say(f"lemonpress show {folder} PROMPT_ID shows one prompt; lemonpress retry {folder} runs failed rows again")


def _print(causes: list[Cause], title: str) -> None:
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    table.add_column("count", justify="right")
    for name in ("of", "stage", "kind", "message (an example)", "prompts"):
        table.add_column(name, overflow="fold")
    for c in causes:
        more = ", ..." if c.count > len(c.prompts) else ""
        message = c.example if len(c.example) <= _LONGEST else c.example[:_LONGEST] + " ..."
        stage = c.stage if c.stage.startswith(c.job) else f"{c.job}:{c.stage}"
        cells = (f"{c.count:,}", c.what, stage, c.kind, message, ", ".join(c.prompts) + more)
        table.add_row(*cells)
    console(table)
