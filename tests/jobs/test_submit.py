"""Jobs on a cluster: two raylets on this machine, their job server, token authentication."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.cli import main
from pipeline.config.load import load_config
from pipeline.core.errors import ConfigError
from pipeline.core.folder import RunFolder
from pipeline.execution.jobs import JobServer
from pipeline.jobs.shipping import absolute, keys_left, pack, variables
from tests.conftest import ROOT, rows_of

TOKEN = "a-token-of-the-tests"
SECRET = "hf_a-secret-that-nobody-may-see"

SELECTOR = '''
import os
from dataclasses import dataclass

import pipeline
import ray

from my_words import NAME
from pipeline.selection.base import Choice, Pool, Selector, score_texts, selector


@selector(NAME)
@dataclass
class Where(Selector):
    """The first candidate; its detail says where and beside what it was chosen, and whether the secret came along."""

    needs = frozenset({"reward"})

    async def select(self, pool: Pool) -> Choice:
        await score_texts(pool, pool.reward)
        node = ray.get_runtime_context().get_node_id()
        secret = os.environ.get("LP_TEST_SECRET", "")
        groups = [g["state"] for g in ray.util.placement_group_table().values() if g["state"] != "REMOVED"]
        left = {"groups": groups, "gpus": ray.available_resources().get("GPU")}
        return Choice(0, detail={"node": node, "secret": len(secret), "package": pipeline.__file__, **left})
'''

ENGINE = '''
import json
from dataclasses import dataclass, replace
from pathlib import Path

import ray

from pipeline.engines.base import ENGINES
from pipeline.engines.dummy import DummyEngine, DummyEngineConfig


@ENGINES.register("large")
@dataclass
class Large(DummyEngineConfig):
    """A dummy engine that asks for as many GPUs as a large model, and notes what it got."""

    wide: bool = False

    def gpus(self):
        return 8.0

    def parallel(self):
        return 4, 2

    def can_spread(self):
        return True

    def spread(self):
        return replace(self, wide=True)

    def is_spread(self):
        return self.wide

    def create(self):
        group = ray.util.placement_group_table(ray.util.get_current_placement_group())
        nodes = list(group["bundles_to_node_id"].values())
        Path(self.log).write_text(json.dumps([group["state"], sorted(nodes.count(n) for n in set(nodes))]) + "\\n")
        return DummyEngine(self)
'''


COMMANDS = """
import json, sys
from pipeline.core.imports import leave_folder_out
leave_folder_out()
from pipeline.cli import main
for words in json.loads(sys.argv[1]):
    code = main(words)
    print("exit code", code, flush=True)
"""


@dataclass
class Site:
    """The cluster, and a folder from which a person submits."""

    address: str
    folder: Path
    env: dict[str, str]

    def start(self, *words: str, **env: str) -> subprocess.Popen[str]:
        return self._python("-m", "pipeline.cli", *words, **env)

    def _python(self, *words: str, **env: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, *words],
            cwd=self.folder,
            env={**self.env, **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # a shell's background jobs ignore Ctrl-C, and would hand that down
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def start_all(self, *commands: Sequence[str], **env: str) -> subprocess.Popen[str]:
        """Several commands, one after the other in one process: most of a command's time goes into imports."""
        return self._python("-c", COMMANDS, json.dumps(commands), **env)

    def run(self, *commands: Sequence[str]) -> tuple[list[tuple[int, str]], str]:
        """(exit code, output) of each command, and what they said on standard error."""
        out, err = self.start_all(*commands).communicate(timeout=240)
        ends = list(re.finditer(r"^exit code (\d+)\n", out, re.MULTILINE))
        starts = [0, *(end.end() for end in ends)]
        assert len(ends) == len(commands), out + err
        return [(int(end[1]), out[start : end.start()]) for start, end in zip(starts, ends, strict=False)], err


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    port = free_port()
    temp = tempfile.mkdtemp(prefix="lp", dir="/tmp")  # short: sockets' paths end at 107 characters
    env = {k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")}
    env.pop("PYTHONPATH", None)  # the cluster gets Lemonpress from the job
    env |= {"RAY_AUTH_TOKEN": TOKEN, "RAY_AUTH_MODE": "token"}
    command = [sys.executable, "-m", "tests.execution.two_nodes", str(port), temp]
    cluster = subprocess.Popen(command, cwd=ROOT, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert cluster.stdout is not None
    assert any(line.strip() == "ready" for line in cluster.stdout)
    folder = tmp_path_factory.mktemp("site")
    (folder / "my_selectors.py").write_text(SELECTOR)
    (folder / "my_engines.py").write_text(ENGINE)
    (folder / "my_words.py").write_text('NAME = "where"\n')
    env |= {"PYTHONPATH": str(ROOT), "LP_TEST_SECRET": SECRET}
    del env["RAY_AUTH_MODE"]  # a person has the token, and nothing else
    yield Site(f"http://127.0.0.1:{port}", folder, env)
    cluster.communicate(timeout=60)
    shutil.rmtree(temp, ignore_errors=True)


QUICK = ["prompts.limit_clusters=2", "execution.progress=false"]


@pytest.mark.ray
def test_a_submitted_run_works_on_both_nodes(site: Site) -> None:
    """A person's own selector and engine come along; one engine of eight GPUs spans the nodes while it is needed."""
    words = [
        "dummy",
        *QUICK,
        "out=run",
        "modules=[my_words,my_selectors,my_engines]",
        "selectors.where={engine: reward}",
    ]
    words += [f"engines.generator={{kind: large, model: large, log: {site.folder / 'engine.log'}}}"]
    # More shards than one worker holds at a time, and slow ones: some are left when the second worker is up.
    words += ["engines.reward={latency: 5, pool: {size: 2, num_cpus: 2}}", "prompts.shard_rows=1"]
    words += [f"selectors.{name}=null" for name in ("random", "likelihood", "best_of_n", "judge", "chops")]
    submit = ["submit", "--address", site.address, *words, "ray.env=[LP_TEST_SECRET]"]
    ((code, out), (status, told)), err = site.run(submit, ["status", f"out={site.folder / 'run'}"])
    assert code == 0, out + err
    first, *log = out.splitlines()
    assert first.startswith("submitted lemonpress-run-")
    assert first.endswith(f"with LP_TEST_SECRET; out={site.folder / 'run'}")
    placed = "placement (run): 1 x large TP=4 PP=2 on 8 GPUs, each over several nodes, then 2 x dummy-reward"
    assert any(line.startswith(placed) for line in log)
    group = (site.folder / "engine.log").read_text().splitlines()[0]
    assert json.loads(group) == ["CREATED", [4, 4]]
    assert any("select-reward" in line for line in log)  # the jobs' tables are in the log
    assert f"report: {site.folder / 'run' / 'report' / 'index.html'}" in out

    run = RunFolder(str(site.folder / "run"))
    rows = rows_of(run, "games", "selections", "errors")
    assert len(rows) == 14
    assert all(row["errors"] == [] for row in rows)
    details = [json.loads(s["detail"]) for row in rows for s in row["selections"] if s["method"] == "where"]
    assert len({d["node"] for d in details}) == 2
    assert all((d["groups"], d["gpus"]) == ([], 8.0) for d in details)  # given back with the pass
    assert {d["secret"] for d in details} == {len(SECRET)}
    assert all("runtime_resources" in d["package"] for d in details)  # the submitter's Lemonpress, whatever is there
    assert SECRET not in out + err
    assert TOKEN not in out + err
    for path in (site.folder / "run").rglob("*"):
        assert not path.is_file() or SECRET.encode() not in path.read_bytes(), path

    note = run.read_json("manifest.json")["submission"]
    assert note["address"] == site.address
    assert status == 0
    assert told.startswith(f"{note['id']}  SUCCEEDED  run  since ")


@pytest.mark.slow
@pytest.mark.ray
def test_a_failing_job_gives_its_own_exit_code(site: Site) -> None:
    words = ["dummy", *QUICK, "out=fails", "prompts.kind=file", "prompts.path=nowhere.jsonl"]
    ((code, out),), err = site.run(["submit", "--job", "generate", "--address", site.address, *words])
    assert code == 2, out + err
    assert str(site.folder / "nowhere.jsonl") in out  # the job's own message, with the path made absolute
    assert "FAILED, exit code 2" in err


@pytest.mark.ray
def test_a_disconnected_job_goes_on_and_can_be_stopped(site: Site) -> None:
    words = ["dummy", *QUICK, "out=long", "engines.generator.latency=30"]
    process = site.start("submit", "--job", "generate", "--address", site.address, *words)
    assert process.stdout is not None
    seen = next((line for line in process.stdout if "placement (generate)" in line), None)
    assert seen is not None, process.communicate()[1]  # otherwise it is at work now
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "the job goes on" in err

    found = f"out={site.folder / 'long'}"
    said, err = site.run(["status", found], ["stop", found], ["logs", found], ["status", "--address", site.address])
    (_, before), (stopped, asked), (ended, log), (_, after) = said
    assert "RUNNING" in before
    assert stopped == 0 and "asked to stop" in asked
    assert ended == 130 and "placement (generate)" in log
    assert "STOPPED, exit code 130" in err
    assert "  STOPPED  generate  " in after


@pytest.mark.ray
def test_a_wrong_address_token_or_id_is_one_line(site: Site) -> None:
    words = ["submit", "dummy", "out=never", "--address"]
    elsewhere, unknown = [*words, f"http://127.0.0.1:{free_port()}"], ["logs", "no-such-job", "--address", site.address]
    started = [  # at once
        (site.start_all(elsewhere, unknown), ["no Ray job server answers at http://127.0.0.1", "no-such-job"]),
        (site.start_all([*words, site.address], RAY_AUTH_TOKEN="wrong"), ["refuses the token"]),
    ]
    for process, messages in started:
        out, err = process.communicate(timeout=240)
        assert out == "exit code 2\n" * len(messages), err
        lines = err.strip().splitlines()
        assert len(lines) == len(messages)
        assert all(message in line for message, line in zip(messages, lines, strict=True))
    assert not (site.folder / "never").exists()


@pytest.mark.parametrize(
    ("ray", "python", "message"),
    [
        ("2.41.0", "3.11.4", r"Ray 2\.41\.0 runs at http://.*, and Ray 2\.\d+\.\d+ here"),
        (None, "3.8.20", r"Python 3\.8\.20 runs at http://.*, and Python 3\.\d+\.\d+ here"),
    ],
)
def test_other_versions_are_refused_naming_both(
    ray: str | None, python: str, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import ray as ours

    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    answers = {
        "/api/version": {"version": "4", "ray_version": ray or ours.__version__, "ray_commit": ""},
        "/api/v0/cluster_metadata": {"result": True, "msg": "", "data": {"pythonVersion": python}},
    }

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(answers[self.path]).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with pytest.raises(ConfigError, match=message):
            JobServer(f"http://127.0.0.1:{server.server_port}").check_versions()
    finally:
        server.shutdown()
        server.server_close()


class Flaky:
    """A job client whose log stream breaks twice, each time starting over as Ray's does."""

    def __init__(self) -> None:
        self.calls = 0

    async def tail_job_logs(self, job_id: str) -> Any:
        self.calls += 1
        for i, piece in enumerate(["one\n", "two\nthr", "ee\n", "four\n"]):
            await asyncio.sleep(0)
            if i == self.calls:
                raise RuntimeError("WebSocket connection closed unexpectedly")
            yield piece

    def get_job_info(self, job_id: str) -> Any:
        value = "RUNNING" if self.calls < 4 else "FAILED"
        status = SimpleNamespace(value=value, is_terminal=lambda: value == "FAILED")
        return SimpleNamespace(status=status, driver_exit_code=3)


def test_a_broken_stream_is_taken_up_where_it_broke(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.execution.jobs._PAUSE", 0.0)
    server = JobServer.__new__(JobServer)
    server.address, server._client = "here", Flaky()
    pieces: list[str] = []
    assert server.follow("job", pieces.append) == 3
    assert "".join(pieces) == "one\ntwo\nthree\nfour\n"


def test_what_is_shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "my_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "part.py").write_text("X = 1\n")
    (tmp_path / "judge.txt").write_text("template")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    words = ["dummy", "modules=[my_package.part]", "ray={address: auto, env: [MY_VAR]}", "out=runs/x"]
    config = load_config([*words, "prompts={kind: file, path: p.jsonl}", "prompts.given.files={a: a.jsonl}"])
    (tmp_path / "ship").mkdir()
    pack(config, tmp_path / "ship")
    assert (tmp_path / "ship" / "my_package" / "part.py").exists()
    shipped = load_config([str(tmp_path / "ship" / "lemonpress.yaml")])
    assert shipped.out == str(tmp_path / "runs" / "x")
    assert shipped.ray.address is None
    assert shipped.selectors == config.selectors
    assert "p.jsonl" not in (shipped.prompts.path, "") and shipped.prompts.path == str(tmp_path / "p.jsonl")
    assert shipped.prompts.given.files == {"a": str(tmp_path / "a.jsonl")}
    assert absolute({"template": "judge.txt"})["template"] == str(tmp_path / "judge.txt")
    assert absolute({"template": "pairwise", "path": "s3://b/x", "model": "a/b"})["template"] == "pairwise"
    assert absolute("s3://bucket/run", "out") == "s3://bucket/run"
    sources = absolute({"paths": {"de": "de.tsv"}, "output": "sft", "checklist_template": "judge.txt"})
    assert sources["paths"]["de"] == str(tmp_path / "de.tsv") and sources["output"] == str(tmp_path / "sft")
    assert sources["checklist_template"] == str(tmp_path / "judge.txt")

    assert variables(config, {"MY_VAR": "1", "OTHER": "2"}) == {"MY_VAR": "1"}
    asked = load_config(["dummy", "engines.judge={kind: openai, model: m, api_key_env: MY_VAR}"])
    assert (keys_left(asked, {"MY_VAR": "1"}), keys_left(asked, {}), keys_left(config, {})) == ([], ["MY_VAR"], [])
    with pytest.raises(ConfigError, match="MY_VAR is not set"):
        variables(config, {})


def test_only_jobs_can_be_submitted(capsys: pytest.CaptureFixture[str]) -> None:
    for words, message in (
        (["submit", "dummy", "--job", "doctor"], "'--job': 'doctor' is not one of 'run', 'generate'"),
        (["submit", "dummy", "--address", "head:8265"], "write http://HEAD:8265"),
        (["stop", "--address", "http://127.0.0.1:1", "a", "b"], "stop takes one word"),
        (["stop", "sampling.n=3"], "stop takes one word"),
    ):
        assert main(words) == 2
        assert message in capsys.readouterr().err
