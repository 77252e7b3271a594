"""The fault matrix: every fault in every job, with the dummy engine; then the same command again.

Afterwards: rows in = rows out, none twice, the job has ended, and its table equals the one of an undisturbed run (made
without Ray). One cell of each fault that is Ray's to survive is in the default run (the driver's SIGKILL is counted
row by row in test_passes.py); faults of disk and endpoint are there without Ray, in every job. The rest is slow.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests import inprocess
from tests.execution import harness
from tests.execution.harness import JOBS, POISON, ROWS, TABLES, ChaoticServer, Site, Tmpfs, begun, fill, later, wait_for


def on_ray(test: Any) -> Any:
    """A test that needs a real Ray."""
    return pytest.mark.ray(pytest.mark.usefixtures("ray_cluster")(test))


ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
QUICK = {("worker SIGKILL", "select"), ("engine death", "judge"), ("poison row", "judge"), ("endpoint chaos", "judge")}


@dataclass
class Cell:
    """A line of the table that is printed at the end."""

    fault: str
    job: str
    rows: int
    errors: int
    restarts: int
    seconds: float
    note: str


@pytest.fixture(scope="module")
def table() -> Iterator[list[Cell]]:
    cells: list[Cell] = []
    yield cells
    print(f"\n\n{'fault':<15} {'job':<9} {'rows':>5} {'errors':>6} {'restarts':>8} {'seconds':>7}  note")
    for c in cells:
        print(f"{c.fault:<15} {c.job:<9} {c.rows:>5} {c.errors:>6} {c.restarts:>8} {c.seconds:>7.1f}  {c.note}")


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return harness.write_prompts(tmp_path_factory.mktemp("prompts") / "prompts.jsonl")


def whole_run(folder: Path, prompts: Path, words: list[str], last: str) -> None:
    """The jobs up to ``last``, undisturbed; those that are done already cost nothing."""
    with inprocess.without_ray():
        for job in list(JOBS)[: list(JOBS).index(last) + 1]:
            assert Site(job, folder, prompts, words).start() == 0


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the undisturbed run; :func:`make_site` runs in it what is missing."""
    return tmp_path_factory.mktemp("whole")


def cells(fault: str) -> list[Any]:
    return [pytest.param(job, marks=[] if (fault, job) in QUICK else [pytest.mark.slow]) for job in JOBS]


def check(fault: str, site: Site, whole: Path, table: list[Cell], started: float, note: str, spare: int = -1) -> None:
    """The same command again, and everything that must be true then; row ``spare`` may differ."""
    assert site.start() == 0
    rows = site.rows()
    expected = Site(site.job, whole, site.prompts, site.words).rows()
    assert [r["row_id"] for r in rows] == list(range(ROWS))
    for row, other in zip(rows, expected, strict=True):
        assert row == other or row["row_id"] == spare
    summary = site.summary()
    failed = sum(bool(r["errors"]) for r in rows)
    table.append(Cell(fault, site.job, len(rows), failed, summary["restarts"], time.monotonic() - started, note))
    assert failed <= (spare >= 0)
    wait_for(harness.no_worker_left, 60)


def make_site(job: str, whole: Path, prompts: Path, folder: Path, words: list[str] | None = None) -> Site:
    site = Site(job, folder, prompts, words or [])
    whole_run(whole, prompts, site.words, job)
    harness.copy_inputs(whole, site)
    return site


@on_ray
@pytest.mark.parametrize("job", cells("driver SIGKILL"))
def test_driver_sigkill(job: str, whole: Path, prompts: Path, tmp_path: Path, table: list[Cell]) -> None:
    started = time.monotonic()
    site = make_site(job, whole, prompts, tmp_path / "run")
    note = harness.kill_driver(site, tmp_path / "log")
    assert site.run.marker(TABLES[job]) is None
    check("driver SIGKILL", site, whole, table, started, note)
    assert site.summary()["restarts"] == 0


@on_ray
@pytest.mark.parametrize("job", cells("worker SIGKILL"))
def test_worker_sigkill(job: str, whole: Path, prompts: Path, tmp_path: Path, table: list[Cell]) -> None:
    started = time.monotonic()
    site = make_site(job, whole, prompts, tmp_path / "run")
    note = harness.kill_worker(site, tmp_path / "log")
    assert site.summary()["restarts"] >= 1
    check("worker SIGKILL", site, whole, table, started, note)


@on_ray
@pytest.mark.parametrize("job", cells("engine death"))
def test_engine_death(job: str, whole: Path, prompts: Path, tmp_path: Path, table: list[Cell]) -> None:
    started = time.monotonic()
    site = make_site(job, whole, prompts, tmp_path / "run")
    note = harness.engine_death(site, tmp_path / "log")
    assert site.summary()["restarts"] == 1
    check("engine death", site, whole, table, started, note)


@on_ray
@pytest.mark.parametrize("job", cells("poison row"))
def test_poison_row(job: str, whole: Path, prompts: Path, tmp_path: Path, table: list[Cell]) -> None:
    started = time.monotonic()
    site = make_site(job, whole, prompts, tmp_path / "run")
    note = harness.poison(site, tmp_path / "log")
    check("poison row", site, whole, table, started, note, spare=POISON)
    summary = site.summary()
    assert (summary["poisoned"], summary["failed"]) == (1, 1)
    assert 3 <= summary["restarts"] <= 4
    poisoned = site.rows()[POISON]
    assert [(e["kind"], e["job"]) for e in poisoned["errors"]] == [("PoisonRow", job)]
    assert "with this row in flight, 2 of them with no other row" in poisoned["errors"][0]["message"]
    before = Site(job, whole, prompts, []).rows()[POISON]
    earlier = [c for c in ("candidates", "selections") if c in poisoned and c != TABLES[job]]
    assert {c: poisoned[c] for c in earlier} == {c: before[c] for c in earlier}
    for later_job in list(JOBS)[list(JOBS).index(job) + 1 :]:  # the rest of the run carries it along
        after = Site(later_job, site.folder, prompts, [])
        with inprocess.without_ray():
            assert after.start() == 0
        assert [(e["kind"], e["job"]) for e in after.rows()[POISON]["errors"]][:1] == [("PoisonRow", job)]


@ROOT_ONLY
@pytest.mark.usefixtures("anywhere")
@pytest.mark.parametrize("job", list(JOBS))
def test_disk_full(
    job: str, whole: Path, prompts: Path, tmp_path: Path, table: list[Cell], capsys: pytest.CaptureFixture[str]
) -> None:
    started = time.monotonic()
    with Tmpfs(tmp_path / "small", 1024) as mount:
        site = make_site(job, whole, prompts, mount / "run")
        (site.folder / "work").mkdir()
        ballast = fill(mount, leave=64 * 1024)
        assert site.start() == 1
        assert "No space left on device" in (message := capsys.readouterr().err)
        assert "the same command" in message
        assert site.run.marker(TABLES[job]) is None
        ballast.unlink()
        check("disk full", site, whole, table, started, "ENOSPC, exit code 1")


@pytest.fixture(scope="module")
def server() -> Iterator[ChaoticServer]:
    chaotic = ChaoticServer()
    yield chaotic
    chaotic.http.shutdown()


def endpoint_words(server: ChaoticServer) -> list[str]:
    """Of all rows in one shard: one after the other, shards without Ray would wait for each silence."""
    return [*server.words("generator"), *server.words("judge"), f"prompts.shard_rows={ROWS}"]


@pytest.mark.usefixtures("anywhere")
@pytest.mark.parametrize("job", cells("endpoint chaos"))
def test_endpoint_chaos(job: str, server: ChaoticServer, prompts: Path, tmp_path: Path, table: list[Cell]) -> None:
    started = time.monotonic()
    whole = tmp_path / "whole"
    site = make_site(job, whole, prompts, tmp_path / "run", endpoint_words(server))
    server.chaos, server.failures = True, {}
    try:
        assert site.start() == 0
    finally:
        server.chaos = False
    check("endpoint chaos", site, whole, table, started, str(server.failures), spare=POISON)
    assert len(server.failures) >= 3
    assert "garbage" in str(site.rows()[POISON])


@pytest.fixture
def second_node(ray_cluster: str) -> Iterator[psutil.Process]:
    """Another raylet on this machine; ``ray start`` cannot join a cluster that listens on loopback alone."""
    from ray._private.worker import global_worker
    from ray.cluster_utils import Cluster

    joined = Cluster()
    joined.head_node = global_worker.node
    raylet = psutil.Process(joined.add_node(num_cpus=8).all_processes["raylet"][0].process.pid)
    yield raylet
    kill_tree(raylet)


def kill_tree(raylet: psutil.Process) -> None:
    """SIGKILL for all of a node's processes."""
    if raylet.is_running():
        for process in [*raylet.children(recursive=True), raylet]:
            process.kill()


@pytest.mark.slow
@on_ray
@pytest.mark.parametrize("job", list(JOBS))
def test_node_loss(
    job: str,
    whole: Path,
    prompts: Path,
    tmp_path: Path,
    table: list[Cell],
    second_node: psutil.Process,
) -> None:
    started = time.monotonic()
    site = make_site(job, whole, prompts, tmp_path / "run")
    log = tmp_path / "log"
    lost: list[int] = []

    def lose() -> None:
        wait_for(lambda: begun(log) >= ROWS // 2 and bool(harness.workers(second_node.pid)))
        lost.append(len(harness.workers(second_node.pid)))
        kill_tree(second_node)

    thread = later(lose)
    pool = [f"{site.engine}.pool.size=2", f"{site.engine}.pool.num_cpus=3"]
    assert site.start(*harness.slowly(site, log), *pool) == 0
    thread.join()
    assert lost
    assert lost[0] >= 1
    check("node loss", site, whole, table, started, f"{lost[0]} workers lost with it")
