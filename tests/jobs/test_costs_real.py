"""Estimates and shared passes on a real engine: what the benchmark scripts print is what is claimed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.engine, pytest.mark.ray, pytest.mark.usefixtures("chat_model")]


def bench(script: str, folder: Path) -> dict[str, Any]:
    """The last line of a benchmark's output."""
    command = [sys.executable, f"scripts/bench/{script}.py", f"out={folder}"]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=1500)
    print(done.stdout)
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


@pytest.mark.timeout(1600)
def test_a_pilot_of_ten_prompts_tells_the_tokens_of_the_others(tmp_path: Path) -> None:
    found = bench("estimate", tmp_path / "run")
    assert (found["pilot"], found["others"]) == (10, 46)
    assert found["stop_share"] >= 0.5
    assert 1 / 1.3 <= found["ratio"] <= 1.3


@pytest.mark.timeout(1600)
def test_shared_passes_are_faster_and_give_the_same_sets(tmp_path: Path) -> None:
    found = bench("shared_passes", tmp_path / "run")
    assert found["rows"] == 14 and found["candidates"] == 14 * 4
    assert found["equal_ids"] and found["equal_seeds"]
    assert found["shared_seconds"] < found["separate_seconds"]
