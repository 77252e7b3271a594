"""The process that a vLLM engine's core starts in on the CPU, without vLLM."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from pipeline.engines.vllm import VLLMEngineConfig
from pipeline.engines.vllm_cpu import has_fast_bfloat16
from tests.execution.harness import wait_for

SCRIPT = """
import multiprocessing, os, sys, time
from pipeline.engines.vllm_cpu import _Context

def child(path):
    with open(path, "w") as file:
        file.write(f"{os.getpid()} {os.environ['LATE']} {'EARLY' in os.environ}")
    os.rename(path, path + ".done")
    time.sleep(600)

if __name__ == "__main__":
    os.environ["EARLY"] = "1"
    multiprocessing.set_forkserver_preload([])
    multiprocessing.forkserver.ensure_running()
    os.environ["LATE"] = "now"
    del os.environ["EARLY"]
    process = _Context().Process(target=child, args=(sys.argv[1],), daemon=True)
    process.start()
    process.join()
"""


def test_it_has_its_parents_environment_and_ends_with_it(tmp_path: Path) -> None:
    script, told = tmp_path / "script.py", tmp_path / "told"
    script.write_text(SCRIPT)
    parent = subprocess.Popen([sys.executable, str(script), str(told)], env={**os.environ, "PYTHONPATH": os.getcwd()})
    try:
        done = Path(f"{told}.done")
        wait_for(done.exists)
        pid, late, early = done.read_text().split()
        assert (late, early) == ("now", "False")
        child = psutil.Process(int(pid))
        assert child.ppid() != parent.pid  # so nobody ends it as a child of its parent
    finally:
        parent.kill()
        parent.wait()
    wait_for(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


@pytest.mark.parametrize(
    ("text", "fast"),
    [
        ("processor : 0\nflags : fpu avx2 fma\n", False),
        ("processor : 0\nflags : fpu avx2 avx512f avx512bw\n", True),
        ("processor : 0\nflags : fpu avx2 avx_ne_convert\n", True),
        ("processor : 0\nFeatures : fp asimd\n", True),  # ARM: not known to be slow
    ],
)
def test_slow_bfloat16_is_known(
    text: str, fast: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    assert has_fast_bfloat16(str(tmp_path / "cpuinfo")) is fast
    monkeypatch.setattr("pipeline.engines.vllm_cpu.has_fast_bfloat16", lambda: fast)
    monkeypatch.setattr("pipeline.engines.vllm_cpu.is_cpu_build", lambda: True)

    def dtype(asked: str) -> str:
        return str(VLLMEngineConfig(model="some/model", dtype=asked).create()._engine_args()["dtype"])  # type: ignore[attr-defined]

    assert dtype("auto") == ("auto" if fast else "float32")
    assert dtype("bfloat16") == "bfloat16"
    assert ("float32" in caplog.text) is not fast


def test_no_processor_is_described(tmp_path: Path) -> None:
    assert has_fast_bfloat16(str(tmp_path / "none"))
