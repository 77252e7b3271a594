"""Which room may import what."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator

from tests.conftest import ROOT

HEAVY = ("ray", "vllm", "torch", "datasets", "pandas")
FORBIDDEN = {
    "pipeline": ("numpy", "pyarrow", "omegaconf"),
    "pipeline.cli": ("numpy", "pyarrow", *HEAVY),
    "pipeline.prompts.sources": ("pyarrow.dataset", *HEAVY),
    "pipeline.config.load": HEAVY,
    "pipeline.selection": ("ray", "vllm", "torch"),
    "pipeline.sampling.stage": ("ray", "vllm"),
    "pipeline.judging.games": ("ray", "vllm"),
    "pipeline.stats.winrate": ("ray", "vllm", "torch"),
    "pipeline.report.render": ("ray", "vllm", "torch"),
    "pipeline.engines.vllm": ("ray", "vllm", "torch"),
}
"""Module -> what is not imported with it. Each is imported after those above it, so the lighter ones come first."""


def test_rooms_keep_their_imports() -> None:
    code = "import importlib, sys\n"
    code += f"for module, forbidden in {FORBIDDEN!r}.items():\n"
    code += "    importlib.import_module(module)\n"
    code += "    print(module, [m for m in forbidden if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.splitlines() == [f"{module} []" for module in FORBIDDEN]


def test_only_execution_imports_ray_and_only_one_module_imports_vllm() -> None:
    sources = {p: p.read_text() for p in (ROOT / "pipeline").rglob("*.py")}
    ray = {p.relative_to(ROOT).as_posix() for p, s in sources.items() if "import ray" in s or "from ray" in s}
    assert {p for p in ray if not p.startswith("pipeline/execution/")} <= {"pipeline/jobs/doctor.py"}
    vllm = {p.name for p, s in sources.items() if "from vllm" in s or "import vllm\n" in s}
    assert vllm == {"vllm.py"}


ROOMS = (
    *("core", "engines", "prompts", "tasks", "judging", "selection", "sampling", "config", "execution", "stats"),
    *("report", "jobs", "cli"),
)
"""From the ground up."""


def imports() -> Iterator[tuple[str, str]]:
    """(module, module of ours that it imports), wherever in the file."""
    paths = {".".join(p.relative_to(ROOT).with_suffix("").parts): p for p in (ROOT / "pipeline").rglob("*.py")}
    modules = {name.removesuffix(".__init__"): path for name, path in paths.items()}
    for name, path in modules.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "pipeline":
                for alias in node.names:
                    inner = f"{node.module}.{alias.name}"
                    yield name, inner if inner in modules else node.module


def room(module: str) -> str:
    return module.split(".")[1]


def test_the_house_has_these_rooms_and_no_other() -> None:
    there = {p.name.removesuffix(".py") for p in (ROOT / "pipeline").iterdir() if p.suffix == ".py" or p.is_dir()}
    assert there - {"__pycache__", "__init__"} == set(ROOMS)


def test_a_room_imports_only_rooms_below_it() -> None:
    """So there is no circle of rooms either."""
    up = {
        (name, other)
        for name, other in imports()
        if "." in name and "." in other and ROOMS.index(room(other)) > ROOMS.index(room(name))
    }
    assert not up


def test_no_module_needs_itself_to_be_imported() -> None:
    """A circle that is only closed inside a function is late on purpose; one at the top of modules is a knot."""
    needs: dict[str, set[str]] = {}
    for path in (ROOT / "pipeline").rglob("*.py"):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        tops = [n for n in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(n, ast.ImportFrom)]
        needs[name] = {f"{n.module}.{a.name}" for n in tops for a in n.names} | {str(n.module) for n in tops}
    needs = {name: (others & set(needs)) - {name} for name, others in needs.items()}
    while free := {name for name, others in needs.items() if not others & set(needs)}:
        needs = {name: others for name, others in needs.items() if name not in free}
    assert not needs
