"""Faults, injected into one job of a run, and what must be true afterwards."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil

from pipeline.cli import main
from pipeline.config.sections import ExecutionConfig
from pipeline.core.folder import RunFolder
from pipeline.core.hashing import derive_seed, hash_rng
from pipeline.engines.base import EngineConfig
from pipeline.engines.stage import Stage
from pipeline.execution.control import Control
from pipeline.execution.passes import run_passes
from pipeline.execution.schedule import Plan, Step
from pipeline.execution.spec import PassSummary
from pipeline.execution.summary import finish_table
from tests.conftest import ROOT, rows_of

ROWS = 40
JOBS = {"generate": "generator", "select": "judge", "judge": "judge"}
"""Job -> the engine that its fault hits."""
TABLES = {"generate": "candidates", "select": "selections", "judge": "games"}
COLUMNS = ("prompt_id", "candidates", "scores", "selections", "games", "usage", "errors")
POISON = 17


def write_prompts(path: Path, rows: int = ROWS) -> Path:
    path.write_text("".join(f'{{"prompt": "question {i}", "language": "en"}}\n' for i in range(rows)))
    return path


@dataclass
class Site:
    """One run folder, and the words that run a job in it.

    Attributes:
        job: the job that the fault hits; the jobs before it are finished.
        words: config of every attempt, the undisturbed run included.
    """

    job: str
    folder: Path
    prompts: Path
    words: list[str] = field(default_factory=list)

    @property
    def engine(self) -> str:
        return f"engines.{JOBS[self.job]}"

    @property
    def run(self) -> RunFolder:
        return RunFolder(str(self.folder))

    def config(self, *more: str) -> list[str]:
        words = ["dummy", "prompts.kind=file", f"prompts.path={self.prompts}", f"out={self.folder}"]
        words += ["execution.progress=false", "prompts.shard_rows=4", "sampling.n=3"]
        words += ["judge.audit=0"]  # a row that is audited passes two stages of the judge, and may kill in both
        # Of the preset's selectors those on at most one engine, so that each job is one pass.
        words += [f"selectors.{name}=null" for name in ("random", "likelihood", "mbr", "best_of_n", "judge")]
        return [*words, *self.words, *more]

    def start(self, *more: str) -> int:
        """Run the job in this process; returns its exit code."""
        return main([self.job, *self.config(*more)])

    def process(self, *more: str) -> subprocess.Popen[str]:
        """Run the job in a process of its own, on the session's cluster."""
        command = [sys.executable, "-m", "pipeline.cli", self.job, *self.config(*more)]
        return subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ)
        )

    def rows(self) -> list[dict[str, Any]]:
        return rows_of(self.run, TABLES[self.job], *COLUMNS)

    def summary(self) -> dict[str, Any]:
        marker = self.run.marker(TABLES[self.job])
        assert marker is not None
        return next(summary for summary in marker["passes"].values() if summary["engine"])


def copy_inputs(whole: Path, site: Site) -> None:
    """Give a site the finished tables of the jobs before its own."""
    before = ["prompts", *(TABLES[j] for j in list(JOBS)[: list(JOBS).index(site.job)])]
    for table in before:
        shutil.copytree(whole / table, site.folder / table)


def begun(log: Path) -> int:
    return sum(line.endswith("begin") for line in log.read_text().splitlines()) if log.exists() else 0


def wait_for(what: Callable[[], bool], seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.05)


def workers(root: int) -> list[psutil.Process]:
    """The processes below ``root`` that host an engine."""
    found = []
    for process in psutil.Process(root).children(recursive=True):
        try:
            if "MapBatches(Worker)" in " ".join(process.cmdline()):
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def no_worker_left() -> bool:
    """Whether no engine outlived its job; in this process a caught exception may still hold the actors' handles."""
    gc.collect()
    return not workers(os.getpid())


def later(action: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=action, daemon=True)
    thread.start()
    return thread


def slowly(site: Site, log: Path) -> list[str]:
    """Words that make a job last a few seconds, few rows at a time, and log its requests."""
    return [f"{site.engine}.latency=0.3", f"{site.engine}.log={log}", f"{site.engine}.slots=8"]


def kill_driver(site: Site, log: Path) -> str:
    process = site.process(*slowly(site, log))
    wait_for(lambda: begun(log) >= ROWS // 2 or process.poll() is not None)
    assert process.poll() is None, process.communicate()[1]
    process.send_signal(signal.SIGKILL)
    process.communicate()
    wait_for(no_worker_left)  # the cluster ends the dead driver's actors
    return "SIGKILL"


def kill_worker(site: Site, log: Path) -> str:
    killed: list[int] = []

    def kill() -> None:
        wait_for(lambda: begun(log) >= ROWS // 2)
        for process in workers(os.getpid()):
            killed.append(process.pid)
            process.kill()

    thread = later(kill)
    assert site.start(*slowly(site, log)) == 0
    thread.join()
    assert killed
    return f"{len(killed)} killed"


def engine_death(site: Site, log: Path) -> str:
    assert site.start(f"{site.engine}.dead='question {POISON}\\b'", f"{site.engine}.fuse={log}.fuse") == 0
    return "engine said so"


def poison(site: Site, log: Path) -> str:
    assert site.start(f"{site.engine}.crash='question {POISON}\\b'") == 0
    return "set aside"


class Tmpfs:
    """A file system of a given size, mounted while the block lasts. Needs root."""

    def __init__(self, path: Path, kilobytes: int) -> None:
        self._path = path
        self._size = kilobytes

    def __enter__(self) -> Path:
        self._path.mkdir(parents=True, exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={self._size}k", "tmpfs", str(self._path)], check=True)
        return self._path

    def __exit__(self, *exception: object) -> None:
        subprocess.run(["umount", "-l", str(self._path)], check=True)


def fill(folder: Path, leave: int) -> Path:
    """Fill the file system of ``folder`` but for about ``leave`` bytes; returns the file to delete."""
    free = shutil.disk_usage(folder).free
    ballast = folder / "ballast"
    ballast.write_bytes(b"\0" * max(0, free - leave))
    return ballast


class ChaoticServer:
    """A deterministic OpenAI-compatible endpoint that can misbehave.

    Every third new request fails first: with 429, 500, half an answer, or no answer at all. Requests about
    ``POISON`` get garbage for ever. A retried request succeeds.
    """

    def __init__(self) -> None:
        self.chaos = False
        self.failures: dict[str, int] = {}
        self._seen: set[str] = set()
        self._lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                text = self.rfile.read(int(self.headers["content-length"])).decode()
                with contextlib.suppress(OSError):  # the client gave up waiting
                    self._send(*server.reply(text))

            def _send(self, status: int, payload: bytes, length: int) -> None:
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("retry-after-ms", "1")
                self.send_header("content-length", str(length))
                self.end_headers()
                self.wfile.write(payload)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/v1"
        threading.Thread(target=self.http.serve_forever, args=(0.05,), daemon=True).start()

    def reply(self, text: str) -> tuple[int, bytes, int]:
        body = json.loads(text)
        answer = json.dumps(self._answer(body)).encode()
        if not self.chaos:
            return 200, answer, len(answer)
        if re.search(rf"question {POISON}\b", text):
            return 200, b"<html>garbage</html>", 20
        with self._lock:
            first = text not in self._seen
            self._seen.add(text)
            kind = derive_seed(text) % 12 if first else 99
            fault = {0: "429", 3: "500", 6: "half", 9: "silence"}.get(kind, "")
            if fault:
                self.failures[fault] = self.failures.get(fault, 0) + 1
        if fault in ("429", "500"):
            return int(fault), b"{}", 2
        if fault == "silence":
            time.sleep(2.5)
        return 200, answer, len(answer) + (50 if fault == "half" else 0)

    def _answer(self, body: dict[str, Any]) -> dict[str, Any]:
        rng = hash_rng("server", json.dumps(body, sort_keys=True))
        verdict = bool(body.get("top_logprobs"))  # of a judge: its text is what counts
        top = [{"token": label, "logprob": -rng.random() * 3} for label in ("A", "B", "C", "5", "7")]
        choices = []
        for index in range(body.get("n") or 1):
            content = [{"token": "x", "logprob": -rng.random(), "top_logprobs": top}]
            text = " ".join(rng.choice(["alpha", "beta", "gamma", "delta"]) for _ in range(5))
            text = str(max(top, key=lambda t: t["logprob"])["token"]) if verdict else text
            message = {"role": "assistant", "content": text}
            choices.append(
                {"index": index, "message": message, "finish_reason": "stop", "logprobs": {"content": content}}
            )
        return {"choices": choices, "usage": {"prompt_tokens": 9, "completion_tokens": 5 * len(choices)}}

    def words(self, engine: str) -> list[str]:
        return [f"engines.{engine}={{kind: openai, model: m, base_url: '{self.url}', timeout: 1, api_key_env: null}}"]


def make_plan(run: RunFolder, stages: Sequence[Stage], engine: EngineConfig | None, **settings: Any) -> Plan:
    """The plan of a layer of candidates that stages make."""
    name = "engine" if engine is not None else None
    steps = [Step("generate", "candidates", name, each, settings, requests=5) for each in stages]
    sizes = (run.marker("prompts") or {})["sizes"]
    return Plan(run, steps, {"engine": engine} if engine is not None else {}, sizes)


def run_stages(
    run: RunFolder,
    stages: Sequence[Stage],
    engine: EngineConfig | None = None,
    control: Control | None = None,
    settings: dict[str, Any] | None = None,
    **options: Any,
) -> PassSummary:
    """Have a pool make a layer of candidates, and finish the table.

    Args:
        options: of ``execution``.
    """
    plan = make_plan(run, stages, engine, **(settings or {}))
    for group in plan.passes():
        run_passes([plan.spec_of(group)], run, ExecutionConfig(progress=False, **options), control or Control())
        plan.finish(group)
    return finish_table(run, "candidates", plan.sizes, {one.spec.layer.name: "engine" for one in plan.layers})[-1]
