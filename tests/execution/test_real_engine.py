"""Two faults on the real vLLM engine: its core process is killed, its driver is killed."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import psutil
import pytest

from tests.execution import harness
from tests.execution.harness import Site, later, wait_for

pytestmark = [pytest.mark.engine, pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]

N = 8


def cores(root: int) -> list[psutil.Process]:
    """vLLM's engine processes below ``root``."""
    return [p for p in psutil.Process(root).children(recursive=True) if p.name().startswith("VLLM")]


def gone(engines: list[psutil.Process]) -> bool:
    """Whether all of them have ended, wherever they were moved to when their parents died."""
    assert engines  # else nothing was looked at
    return all(not p.is_running() or p.status() == psutil.STATUS_ZOMBIE for p in engines)


def site(folder: Path, prompts: Path, model: str) -> Site:
    engine = f"{{kind: vllm, model: '{model}', max_model_len: 512, max_num_seqs: 4}}"
    words = [f"engines.generator={engine}", "prompts.shard_rows=2", "sampling.max_tokens=24"]
    return Site("generate", folder, prompts, words)


def compare(resumed: Site, whole: Site, what: str) -> None:
    """Ids, counts and seeds are equal; bf16 texts may depend on the batch, so their match rate is printed."""
    rows, others = resumed.rows(), whole.rows()
    assert [r["prompt_id"] for r in rows] == [r["prompt_id"] for r in others]
    assert [r["row_id"] for r in rows] == list(range(N))
    pairs = [
        pair for r, o in zip(rows, others, strict=True) for pair in zip(r["candidates"], o["candidates"], strict=True)
    ]
    assert all(a["seed"] == b["seed"] and a["text"] is not None for a, b in pairs)
    assert all(not r["errors"] for r in rows)
    match = sum(a["text"] == b["text"] for a, b in pairs) / len(pairs)
    print(f"\n{what}: {len(rows)} rows, {len(pairs)} candidates, texts equal to an undisturbed run: {match:.0%}")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, chat_model: str) -> Site:
    """An undisturbed run."""
    folder = tmp_path_factory.mktemp("real")
    made = site(folder / "whole", harness.write_prompts(folder / "prompts.jsonl", N), chat_model)
    assert made.start() == 0
    wait_for(lambda: not cores(os.getpid()), 60)
    return made


def stored(run: Site) -> bool:
    return bool(run.run.parquet_files("candidates", "generate-generator"))


def test_engine_core_killed(tmp_path: Path, whole: Site, chat_model: str) -> None:
    killed = site(tmp_path / "run", whole.prompts, chat_model)

    engines: list[psutil.Process] = []

    def kill() -> None:
        wait_for(lambda: stored(killed), 300)
        engines.extend(cores(os.getpid()))
        for process in engines:
            process.kill()

    thread = later(kill)
    assert killed.start() == 0
    thread.join()
    assert killed.summary()["restarts"] == 1
    compare(killed, whole, "engine core killed")
    wait_for(lambda: gone(engines) and not cores(os.getpid()), 60)  # no orphan engine is left


def test_driver_killed(tmp_path: Path, whole: Site, chat_model: str) -> None:
    killed = site(tmp_path / "run", whole.prompts, chat_model)
    process = killed.process()
    wait_for(lambda: stored(killed) or process.poll() is not None, 300)
    engines = cores(os.getpid())
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert killed.run.marker("candidates") is None
    wait_for(lambda: gone(engines), 60)  # no orphan engine is left
    time.sleep(1)
    assert killed.start() == 0
    assert killed.summary()["resumed"] > 0
    compare(killed, whole, "driver killed")
    wait_for(lambda: not cores(os.getpid()), 60)
