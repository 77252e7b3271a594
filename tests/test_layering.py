"""Which room may import what."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.conftest import ROOT


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [
        ("pipeline", ["numpy", "pyarrow", "omegaconf"]),
        ("pipeline.cli", ["numpy", "pyarrow", "ray"]),
        ("pipeline.config", ["ray", "vllm", "torch", "datasets"]),
        ("pipeline.selection", ["ray", "vllm", "torch"]),
        ("pipeline.sampling.stage", ["ray", "vllm"]),
        ("pipeline.judging.pairwise", ["ray", "vllm"]),
        ("pipeline.stats.winrate", ["ray", "vllm", "torch"]),
        ("pipeline.report.render", ["ray", "vllm", "torch"]),
        ("pipeline.engines.vllm", ["ray", "vllm", "torch"]),
    ],
)
def test_rooms_keep_their_imports(module: str, forbidden: list[str]) -> None:
    code = f"import sys, {module}; print([m for m in {forbidden!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"


def test_only_execution_imports_ray_and_only_one_module_imports_vllm() -> None:
    sources = {p: p.read_text() for p in (ROOT / "pipeline").rglob("*.py")}
    ray = {p.relative_to(ROOT).as_posix() for p, s in sources.items() if "import ray" in s or "from ray" in s}
    assert {p for p in ray if not p.startswith("pipeline/execution/")} <= {"pipeline/commands/doctor.py"}
    vllm = {p.name for p, s in sources.items() if "from vllm" in s or "import vllm\n" in s}
    assert vllm == {"vllm.py"}
