"""``report``: one self-contained HTML page (and its Markdown twin). Needs neither Ray nor a model."""

from __future__ import annotations

from pipeline.config.config import Config
from pipeline.core.folder import RunFolder
from pipeline.core.safety import say
from pipeline.report.render import build_report


def run(config: Config) -> None:
    """Build the report of a finished run and print its path.

    Raises:
        UnfinishedTableError: ``judge`` has not finished (without a judge and outside answers: ``select``).
        InputError: a table cannot be used.
    """
    say(f"report: {build_report(RunFolder(config.out), config)}")
