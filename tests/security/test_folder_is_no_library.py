"""Python files that lie beside the prompts are not imported: by the command line, or what it starts.

Nor by Ray's workers: tests/test_cli.py has such files beside an installed wheel's run.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.core.folder import RunFolder
from tests.conftest import ROOT

NAMES = (
    "pandas",
    "datasets",
    "colorsys",
    "ray",
    "numpy",
    "pyarrow",
    "omegaconf",
    "rich",
    "argparse",
    "click",
    "multiprocessing",
)
"""What the driver, the reading process or a worker imports sooner or later."""
WORDS = ["dummy", "prompts.kind=file", "prompts.path=p.jsonl", "out=run", "execution.progress=false"]
PROGRAM = """
import json, os, sys
sys.path.insert(0, os.getcwd())  # as python -m has it
from pipeline.core.imports import leave_folder_out
leave_folder_out()
from tests.inprocess import without_ray
from pipeline.cli import main
with without_ray():
    print(*[main(words) for words in json.loads(sys.argv[1])])
"""
"""Runs jobs as ``-m pipeline.cli`` does, with passes in its own process, and says how each of them ended."""


def write_false_libraries(folder: Path) -> Path:
    """Files with the names of libraries; returns where each leaves its name when it is run."""
    for name in NAMES:
        say = f"import os; os.makedirs({str(folder / 'ran' / name)!r}, exist_ok=True); raise ImportError('mine')\n"
        (folder / f"{name}.py").write_text(say)
    return folder / "ran"


def unlink_early(folder: Path) -> None:
    """Python itself may import some of its own before we have a say."""
    for name in ("argparse", "multiprocessing"):
        (folder / f"{name}.py").unlink()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with false libraries and prompts."""
    write_false_libraries(tmp_path)
    (tmp_path / "p.jsonl").write_text('{"prompt": "q", "language": "en"}\n' * 4)
    return tmp_path


def start(folder: Path, *words: str, path: str = str(ROOT)) -> subprocess.CompletedProcess[str]:
    """Start Python in a folder."""
    environment = {**os.environ, "PYTHONPATH": path, "HF_DATASETS_CACHE": str(folder / "hf")}
    environment.pop("PYTHONSAFEPATH", None)
    done = subprocess.run(
        [sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.parametrize("path", [str(ROOT), f":{ROOT}", f"{ROOT}:"])
def test_as_a_module_also_with_an_empty_entry_on_the_path(folder: Path, path: str) -> None:
    """``PYTHONPATH=$UNSET:/x`` means the folder one stands in to Python, and a mistake to everyone else."""
    unlink_early(folder)
    assert "Usage" in start(folder, "-m", "pipeline.cli", "generate", "--help", path=path).stdout
    assert not (folder / "ran").exists()


def test_the_command_line_in_that_folder(folder: Path) -> None:
    """Its process and the one that reads large files; what ``modules`` names is imported, what that imports is not."""
    lines = "".join(f'{{"prompt": "{i} {"q" * 1000}", "language": "en"}}\n' for i in range(1200))
    (folder / "p.jsonl").write_text(lines)
    (folder / "shared_words.py").write_text("WORD = 'longest of mine'\n")
    (folder / "my_selector.py").write_text(
        "from dataclasses import dataclass\n"
        "from shared_words import WORD\n"
        "from pipeline.selection.base import Choice, Pool, Selector, selector\n\n\n"
        "@selector('mine')\n@dataclass\nclass Mine(Selector):\n"
        "    cost = 'none'\n    source = 'here'\n\n"
        "    async def select(self, pool: Pool) -> Choice:\n"
        "        return Choice(pool.selectable()[0], detail={'word': WORD})\n"
    )
    (folder / "my_module.py").write_text("import not_named\n")
    (folder / "not_named.py").write_text("x = 1\n")
    words = [*WORDS, "prompts.limit=4"]
    jobs = [
        ["generate", *words],
        ["select", *words, "selectors.mine={}", "modules=[my_selector, shared_words]"],
        ["generate", *words, "modules=[my_module]"],
    ]
    done = start(folder, "-c", PROGRAM, json.dumps(jobs))
    assert done.stdout.split()[-3:] == ["0", "0", "2"], done.stderr
    assert "not_named.py is yours, name it under modules" in done.stderr
    rows = RunFolder(str(folder / "run")).table("selections", ["selections"]).to_pylist()
    assert len(rows) == 4 and any("longest of mine" in (s["detail"] or "") for s in rows[0]["selections"])
    assert not (folder / "ran").exists()
