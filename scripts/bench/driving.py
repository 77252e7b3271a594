"""Shared by the benchmarks that kill a run: a job in a process of its own, and what it has made durable so far."""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import psutil


def write_prompts(path: Path, rows: int) -> None:
    """``rows`` short prompts as JSON Lines."""
    with path.open("w") as file:
        for i in range(rows):
            file.write(json.dumps({"prompt": f"question {i}", "prompt_id": f"p{i}", "language": "en"}) + "\n")


def words(prompts: Path, out: Path, more: Sequence[str] = ()) -> list[str]:
    """The config: five candidates a prompt from the dummy engine."""
    fixed = ["dummy", "prompts.kind=file", f"prompts.path={prompts}", f"out={out}", "execution.progress=false"]
    return [*fixed, "sampling.n=5", "sampling.max_tokens=64", *more]


def start(config: Sequence[str], job: str = "generate") -> subprocess.Popen[bytes]:
    """A job in a process with a Ray cluster of its own."""
    env = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    process = subprocess.Popen([sys.executable, "-m", "pipeline.cli", job, *config], env=env, stdout=subprocess.DEVNULL)
    atexit.register(process.kill)  # a benchmark that is stopped leaves no run behind
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    return process


def kill(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL the driver; its cluster notices, and what is left of it after a while is killed too."""
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.wait()
    _, alive = psutil.wait_procs(family, timeout=20)
    for each in alive:
        each.kill()
    psutil.wait_procs(alive, timeout=20)


def durable(out: Path, layer: str = "candidates/generate-generator") -> int:
    """Rows whose shards a layer has files of."""
    record = out / "prompts" / "_complete.json"
    if not record.exists():
        return 0
    sizes = json.loads(record.read_text())["sizes"]
    return sum(sizes[int(path.stem)] for path in (out / layer).glob("*.parquet"))
