"""Lemonpress: sample many answers in any language, select (or fuse) one, and prove with win-rates that it paid off."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.core.finished import FinishedRun

__version__ = "0.1.0"


def open_run(path: str) -> FinishedRun:
    """A run's folder, to read: see :class:`pipeline.core.finished.FinishedRun`.

    Args:
        path: local path or URI (``s3://bucket/run``).

    Raises:
        InputError: there is no run.
    """
    from pipeline.core.finished import FinishedRun

    return FinishedRun(path)
