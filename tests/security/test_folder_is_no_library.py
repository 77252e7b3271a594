"""Python files that lie beside the prompts are not imported: by the command line, what it starts, or Ray's workers."""

from __future__ import annotations

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
    "multiprocessing",
)
"""What the driver, the reading process or a worker imports sooner or later."""
WORDS = ["dummy", "prompts.kind=file", "prompts.path=p.jsonl", "out=run", "execution.progress=false"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with prompts, and files with the names of libraries that say so when they are run."""
    for name in NAMES:
        say = f"import os; os.makedirs({str(tmp_path / 'ran' / name)!r}, exist_ok=True); raise ImportError('mine')\n"
        (tmp_path / f"{name}.py").write_text(say)
    (tmp_path / "p.jsonl").write_text('{"prompt": "q", "language": "en"}\n' * 4)
    return tmp_path


def lemonpress(
    folder: Path, *words: str, path: str = str(ROOT), start: tuple[str, ...] = ("-m", "pipeline.cli")
) -> str:
    """Run the command line in a folder; returns what it said."""
    environment = {**os.environ, "PYTHONPATH": path, "HF_DATASETS_CACHE": str(folder / "hf")}
    environment.pop("PYTHONSAFEPATH", None)
    done = subprocess.run(
        [sys.executable, *start, *words], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_the_command_line_in_that_folder(folder: Path) -> None:
    lemonpress(folder, "generate", *WORDS, start=_program(folder))
    assert not (folder / "ran").exists()


def _program(folder: Path) -> tuple[str, ...]:
    """As ``-m pipeline.cli``, with passes in this process."""
    program = folder / "elsewhere" / "program.py"
    program.parent.mkdir()
    program.write_text(
        "import sys, os\n"
        "sys.path.insert(0, os.getcwd())  # as python -m has it\n"
        "from pipeline.core.imports import leave_folder_out\n"
        "leave_folder_out()\n"
        "from tests.inprocess import without_ray\n"
        "from pipeline.cli import main\n"
        "with without_ray():\n"
        "    raise SystemExit(main())\n"
    )
    return (str(program),)


@pytest.mark.parametrize("path", [str(ROOT), f":{ROOT}", f"{ROOT}:"])
def test_as_a_module_also_with_an_empty_entry_on_the_path(folder: Path, path: str) -> None:
    """``PYTHONPATH=$UNSET:/x`` means the folder one stands in to Python, and a mistake to everyone else."""
    (folder / "argparse.py").unlink()  # Python itself may import some of its own before we have a say
    (folder / "multiprocessing.py").unlink()
    said = lemonpress(folder, "winrate", "--help", path=path)
    said += lemonpress(folder, "generate", *WORDS, "--help", path=path)
    assert "usage" in said and not (folder / "ran").exists()


def test_the_process_that_reads_large_files(folder: Path) -> None:
    lines = "".join(f'{{"prompt": "{i} {"q" * 1000}", "language": "en"}}\n' for i in range(1200))
    (folder / "p.jsonl").write_text(lines)
    lemonpress(folder, "generate", *WORDS, start=_program(folder))
    assert RunFolder(str(folder / "run")).marker("candidates") is not None
    assert not (folder / "ran").exists()


def test_what_modules_names_is_imported_and_may_import_what_else_is_named(folder: Path) -> None:
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
    words = ["select", *WORDS, "selectors.mine={}", "modules=[my_selector, shared_words]"]
    start = _program(folder)
    lemonpress(folder, "generate", *WORDS[:-1], start=start)
    lemonpress(folder, *words, start=start)
    rows = RunFolder(str(folder / "run")).table("selections", ["selections"]).to_pylist()
    assert any("longest of mine" in (s["detail"] or "") for s in rows[0]["selections"])
    assert not (folder / "ran").exists()


def test_a_sibling_that_is_not_named_is_said(folder: Path) -> None:
    (folder / "my_module.py").write_text("import not_named\n")
    (folder / "not_named.py").write_text("x = 1\n")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.cli", "generate", *WORDS, "modules=[my_module]"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2 and "not_named.py is yours, name it under modules" in done.stderr


@pytest.mark.ray
def test_rays_workers_and_their_children(folder: Path) -> None:
    """On a cluster that the command starts itself: its processes get neither the folder nor the habit."""
    lemonpress(
        folder,
        "generate",
        *WORDS,
        start=(
            "-c",
            "from pipeline.core.imports import leave_folder_out as out; out(); "
            "from pipeline.cli import main; raise SystemExit(main())",
        ),
    )
    assert RunFolder(str(folder / "run")).marker("candidates") is not None
    assert not (folder / "ran").exists()
