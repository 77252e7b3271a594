"""The passes of a whole run."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.cli import main
from pipeline.core.folder import RunFolder


@pytest.mark.usefixtures("no_ray", "own_datasets_cache")
@pytest.mark.parametrize(
    ("engine", "starts"), [("{kind: dummy, model: another}", 2), ("${engines.generator}", 1)], ids=["two", "one"]
)
def test_engines_of_equal_settings_are_one(engine: str, starts: int, tmp_path: Path) -> None:
    """A judge that is the generator by another name is not loaded again: answers and verdicts are one pass."""
    words = [
        "run",
        "dummy",
        "prompts.limit_clusters=1",
        "selectors.best_of_n=null",
        "judge.audit=0",
        f"engines.judge={engine}",
    ]
    assert main([*words, f"out={tmp_path / 'run'}", "execution.progress=false"]) == 0
    passes = RunFolder(str(tmp_path / "run")).read_json("manifest.json")["passes"].values()
    assert sum(bool(p["engine"]) and not p["shared"] for p in passes) == starts
    assert {p["engine"] for p in passes if p["engine"]} == {"generator", "judge"}  # each is accounted for by its name
