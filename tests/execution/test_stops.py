"""Stopping a job before its end: signals, limits, read-only storage, engines that do not load; and many poison rows."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli import main
from pipeline.config.load import load_config
from pipeline.core.errors import ConfigError, Interrupted, LemonpressError, WorkerLost
from pipeline.core.folder import RunFolder
from pipeline.engines.base import Engine, PriceConfig
from pipeline.engines.dummy import DummyEngineConfig
from pipeline.execution.control import Control
from pipeline.execution.journal import JournalActor
from pipeline.execution.spec import PassSummary
from pipeline.sampling.plans import Hedged
from pipeline.sampling.stage import GenerateStage
from tests.conftest import rows_of, run_with_prompts
from tests.execution import harness
from tests.execution.harness import ROWS, Site, Tmpfs, begun, run_stages, wait_for


def on_ray(test: Any) -> Any:
    """A test that needs a real Ray."""
    return pytest.mark.ray(pytest.mark.usefixtures("ray_cluster")(test))


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site("generate", tmp_path / "run", harness.write_prompts(tmp_path / "prompts.jsonl"))


def requests(log: Path, event: str) -> Counter[str]:
    return Counter(line.split()[1] for line in log.read_text().splitlines() if line.endswith(event))


def check_nothing_was_done_twice(site: Site, log: Path) -> None:
    assert requests(log, "begin") == requests(log, "end")
    assert 0 < len(requests(log, "begin")) < ROWS
    assert site.start(f"{site.engine}.log={log}") == 0
    assert [r["row_id"] for r in site.rows()] == list(range(ROWS))
    assert set(requests(log, "begin").values()) == {2}  # a greedy request and a sampled one a row
    assert len(requests(log, "begin")) == ROWS


@on_ray
def test_sigterm_drains_and_the_next_start_repeats_nothing(site: Site, tmp_path: Path) -> None:
    log = tmp_path / "log"
    process = site.process(*harness.slowly(site, log))
    wait_for(lambda: begun(log) >= ROWS // 2 or process.poll() is not None)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143, errors
    assert "stopped by SIGTERM; the same command resumes: finishing the rows in flight" in errors
    assert "Traceback" not in errors
    check_nothing_was_done_twice(site, log)


def journal(folder: Path) -> Any:
    """The journal of a pass, here instead of in an actor."""
    actor = JournalActor.__ray_metadata__.modified_class  # type: ignore[attr-defined]
    return actor(RunFolder(str(folder)), "pass", ["stage"], attempts=2, max_restarts=3)


def test_a_drained_journal_lets_the_rest_of_a_begun_shard_begin_and_nothing_else(tmp_path: Path) -> None:
    async def play() -> None:
        book = journal(tmp_path)
        await book.start("worker", "process", "node")
        await book.drain()
        assert await asyncio.wait_for(book.begin("worker", [1], [], begun=True), 10) == {}
        waiting = asyncio.create_task(book.begin("worker", [2], []))
        await asyncio.sleep(0.05)
        assert not waiting.done() and (await book.state()).in_flight == 1
        await book.refuse("no more")
        with pytest.raises(WorkerLost, match="no more"):
            await waiting

    asyncio.run(play())


def test_suspects_outlive_the_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what its driver's death leaves behind, the next one's workers are told."""
    monkeypatch.setattr("pipeline.execution.journal._alive_nodes", lambda: {"node"})

    async def play() -> None:
        book = journal(tmp_path)
        for process in ("first", "second"):
            assert set(await book.start("worker", process, "node")) == ({3, 4} if process == "second" else set())
            await book.ready("worker")
            await book.begin("worker", [1, 2, 3, 4], [], known=True)
            await book.end("worker", [1, 2])
        after = journal(tmp_path)
        assert set(await after.start("another", "third", "node")) == {3, 4}
        assert (await after.state()).restarts == 1

    asyncio.run(play())


AT_WORK = """
import time
from pipeline.execution.control import Control

control = Control()
with control.signals():
    control.begin_pass()
    print("at work", flush=True)
    time.sleep(60)
"""


def test_the_first_signal_leaves_a_pass_time_and_the_second_ends_at_once() -> None:
    process = subprocess.Popen([sys.executable, "-c", AT_WORK], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "at work\n"
    process.send_signal(signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.5)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 143


@pytest.mark.slow
@on_ray
def test_a_second_signal_ends_a_pass_and_its_workers(site: Site, tmp_path: Path) -> None:
    log = tmp_path / "log"
    process = site.process(f"{site.engine}.latency=1000", f"{site.engine}.log={log}")
    wait_for(lambda: begun(log) > 0 or process.poll() is not None)
    process.send_signal(signal.SIGTERM)
    assert process.stderr is not None
    while "finishing" not in process.stderr.readline():
        assert process.poll() is None
    signalled = time.monotonic()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert time.monotonic() - signalled < 10
    assert process.returncode == 143
    wait_for(harness.no_worker_left, 60)


@pytest.mark.usefixtures("anywhere")
@pytest.mark.parametrize("limit", ["tokens=500", "money=0.0005"])
def test_a_spent_limit_ends_with_code_4_and_resumes(
    site: Site, tmp_path: Path, limit: str, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "log"
    site.words = [f"{site.engine}.price={{prompt: 1, completion: 1}}"]
    assert site.start(*harness.slowly(site, log), f"limits.{limit}") == 4
    assert f"limits.{limit} is used up: this run has spent" in capsys.readouterr().err
    spent = site.run.read_json("work", "spent.json")["generate-generator"]
    assert spent["tokens"] >= 500
    assert spent["money"] == pytest.approx(spent["tokens"] / 1e6)
    asked = log.read_text()
    assert site.start(f"limits.{limit}", f"{site.engine}.log={log}") == 4
    assert log.read_text() == asked  # still spent: nothing is even started
    check_nothing_was_done_twice(site, log)


@pytest.mark.usefixtures("no_ray")
def test_a_limit_on_time_ends_with_code_4_and_resumes(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    assert site.start("limits.seconds=0.01") == 4
    assert "limits.seconds=0.01: time is up" in capsys.readouterr().err
    assert site.start() == 0
    assert len(site.rows()) == ROWS and site.summary()["resumed"] > 0


@pytest.mark.slow
@on_ray
def test_a_limit_on_time_does_not_wait_for_an_engine(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    words = [f"{site.engine}.latency=1000", "limits.seconds=3", "execution.drain_seconds=1"]
    started = time.monotonic()
    assert site.start(*words) == 4
    assert time.monotonic() - started < 40
    assert "limits.seconds=3: time is up" in capsys.readouterr().err
    assert site.start() == 0
    assert len(site.rows()) == ROWS


def test_limits_are_checked() -> None:
    with pytest.raises(ConfigError, match=r"limits.money: no engine has a price"):
        load_config(["dummy", "limits.money=3"])
    with pytest.raises(ConfigError, match=r"limits.tokens: must be more than 0"):
        load_config(["dummy", "limits.tokens=0"])
    assert PriceConfig(prompt=2, completion=10, cached=0.5).of(1_000_000, 400_000, 100_000) == pytest.approx(2.4)
    assert PriceConfig(prompt=2, completion=10).of(1_000_000, 400_000, 100_000) == pytest.approx(3)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a file system needs root")
def test_read_only_storage_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Tmpfs(tmp_path / "small", 1024) as mount:
        subprocess.run(["mount", "-o", "remount,ro", str(mount)], check=True)
        assert main(["generate", "dummy", f"out={mount}/run"]) == 1
        message = capsys.readouterr().err
        assert f"{mount}/run" in message
        assert "Read-only file system; the same command resumes" in message


class DiesLoading(DummyEngineConfig):
    """Its process is gone before its engine has loaded, as with a model that does not fit into memory."""

    def create(self) -> Engine:
        os._exit(9)


def sample(run: RunFolder, engine: DummyEngineConfig, **options: Any) -> PassSummary:
    return run_stages(run, [GenerateStage("hedged", Hedged(max_tokens=16), 1)], engine, **options)


@pytest.mark.slow
@on_ray
def test_an_engine_that_kills_its_worker_while_loading_ends_the_job(tmp_path: Path) -> None:
    run = run_with_prompts(tmp_path, 4)
    with pytest.raises(LemonpressError, match="the worker died 3 times while its engine was loading"):
        sample(run, DiesLoading(model="d"))


@pytest.mark.slow
@on_ray
def test_an_engine_that_dies_on_every_row_ends_the_job(tmp_path: Path) -> None:
    run = run_with_prompts(tmp_path, 40)
    with pytest.raises(LemonpressError, match=r"died 4 times in a row.*told to die"):
        sample(run, DummyEngineConfig(model="d", dead="question"), max_restarts=4)


@pytest.mark.slow
@on_ray
def test_five_poison_rows_among_a_thousand(tmp_path: Path) -> None:
    run = run_with_prompts(tmp_path, 1000)
    engine = DummyEngineConfig(model="d", latency=0.02, crash=r"question (13|14|420|666|999)$")
    summary = sample(run, engine)
    rows = rows_of(run, "candidates", "prompt_id", "candidates", "errors")
    poisoned = {r["prompt_id"]: r["errors"] for r in rows if r["errors"]}
    print(f"\n1,000 rows, 5 poison rows: {summary.restarts} restarts, {summary.seconds:.0f} s")
    assert len(rows) == 1000
    assert set(poisoned) == {"p13", "p14", "p420", "p666", "p999"}
    assert all([e["kind"] for e in errors] == ["PoisonRow"] for errors in poisoned.values())
    assert sum(all(c["text"] for c in r["candidates"]) and len(r["candidates"]) == 5 for r in rows) == 995
    assert (summary.failed, summary.poisoned) == (5, 5)
    assert summary.restarts <= 5 * (2 + 2)


def test_a_signal_outside_a_pass_stops_at_once_and_handlers_come_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    control = Control()
    with pytest.raises(Interrupted, match="stopped by SIGTERM") as stopped, control.signals():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
    assert stopped.value.exit_code == 143
    assert signal.getsignal(signal.SIGTERM) == before
    with pytest.raises(LemonpressError):
        control.check()
