"""The documentation: it builds without warnings, its reference is complete, and what it tells people to type works.

A block of commands runs here, or says in its first lines why it cannot (``MARKS``); then its configs are checked only.
A block of YAML or Python whose first line is a comment with a file's name is that file, for the commands below it.
"""

from __future__ import annotations

import ast
import asyncio
import dataclasses
import functools
import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import yaml  # type: ignore[import-untyped]

from pipeline import cli
from pipeline.config.config import Config
from pipeline.config.load import load_config
from pipeline.core.registry import Registry
from pipeline.core.row import Candidate, Row
from pipeline.engines.comet import CometEngineConfig
from pipeline.engines.dummy import DummyEngineConfig
from pipeline.jobs import run
from pipeline.jobs.label import job as label
from pipeline.sampling.plans import PLANS
from pipeline.selection.base import SELECTORS, Pool, Selector
from tests.conftest import ROOT, jsonl

DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(p for p in DOCS.rglob("*.md") if p.parent.name != "reference")]
MARKS = ("needs GPUs", "needs the network", "needs a cluster", "takes minutes")
ELSEWHERE = {"lemonpress doctor": "tests/test_cli.py::test_an_installed_wheel_works_beside_false_libraries"}
"""Commands without a mark that another test runs."""
OTHER_PROGRAMS = ("pip", "kubectl", "sbatch", "source")
"""What marked blocks may call besides ``lemonpress`` and the repository's scripts."""


@dataclass(frozen=True)
class Block:
    page: Path
    line: int
    language: str
    text: str

    @property
    def where(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def file(self) -> str | None:
        """The file that this block is."""
        found = re.match(r"# ([\w-]+\.(?:yaml|py))\b", self.text)
        return found[1] if found else None

    @property
    def marks(self) -> list[str]:
        lines = self.text.splitlines()
        comments = [line.removeprefix("# ") for line in lines if line.startswith("# ")]
        return [c.partition(":")[0] for c in comments if c.startswith(("needs ", "takes "))]


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found = re.finditer(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [Block(page, text[: m.start()].count("\n") + 1, m[1], m[2]) for m in found]


def commands(block: Block) -> Iterator[list[str] | tuple[str, str]]:
    """The commands of a block: words, or (file, text) where a text is written into a file."""
    text = block.text.replace("\\\n", " ")
    heredoc = re.compile(r"^cat > (\S+) <<'END'\n(.*?)^END\n", re.MULTILINE | re.DOTALL)
    start = 0
    for m in [*heredoc.finditer(text), None]:
        for line in text[start : m.start() if m else len(text)].splitlines():
            if words := shlex.split(line, comments=True):
                yield words
        if m:
            yield m[1], m[2]
            start = m.end()


ALL = [block for page in PAGES for block in blocks(page)]


@functools.cache
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("lemonpress_reference", DOCS / "_ext" / "lemonpress_reference.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


class _Links(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.ids: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("href", "src") and value:
                self.links.append(value)
                if name == "src" or tag == "link":
                    self.loaded.append(value)
            if name == "id" and value:
                self.ids.add(value)


def test_the_documentation_builds_without_warnings_and_every_link_in_it_resolves(tmp_path: Path) -> None:
    out = tmp_path / "html"
    words = ["-W", "--keep-going", "-q", "-b", "html", "-d", str(tmp_path / "trees"), str(DOCS), str(out)]
    done = subprocess.run([sys.executable, "-m", "sphinx", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    pages = {path: _Links(path.read_text(encoding="utf-8")) for path in out.rglob("*.html")}
    assert {out / "index.html", out / "reference" / "config.html", out / "reference" / "methods.html"} <= set(pages)
    for path, page in pages.items():
        assert not [link for link in page.loaded if urlsplit(link).netloc], "a page loads something from elsewhere"
        for link in page.links:
            url = urlsplit(link)
            if url.scheme or url.netloc:
                continue
            target = (path.parent / unquote(url.path)).resolve() if url.path else path
            assert target.is_file(), f"{path.name}: {link}"
            if url.fragment and target in pages:
                assert url.fragment in pages[target].ids, f"{path.name}: {link}"


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "SECURITY.md"])
def test_relative_links_of_the_pages_at_the_top_resolve(name: str) -> None:
    text = re.sub(r"```.*?```", "", (ROOT / name).read_text(encoding="utf-8"), flags=re.DOTALL)
    links = [urlsplit(link) for link in re.findall(r"\]\(([^)\s]+)\)", text)]
    assert not [u.path for u in links if not u.scheme and not (ROOT / u.path).exists()]


def test_the_reference_has_every_key_of_every_dataclass_with_an_explanation() -> None:
    text = generator().config_page()

    def names(cls: Any, prefix: str) -> Iterator[str]:
        hints = typing.get_type_hints(cls)
        for field in dataclasses.fields(cls):
            yield f"{prefix}.{field.name}"
            for inner in (hints[field.name], *typing.get_args(hints[field.name])):
                if dataclasses.is_dataclass(inner):
                    items = "[]" if typing.get_origin(hints[field.name]) is list else ""
                    yield from names(inner, f"{prefix}.{field.name}{items}")

    wanted = set()
    for field, hint in typing.get_type_hints(Config).items():
        kinds = generator().KINDS.get(field)
        if kinds is not None:
            registered = [cls for _, cls in generator().own(kinds.registry)]
            wanted |= {n for cls in registered for n in names(cls, kinds.prefix) if not n.startswith("plans.")}
            wanted.add(f"{kinds.prefix}.kind" if field != "plans" else "plans.NAME")
        elif dataclasses.is_dataclass(hint):
            wanted |= set(names(hint, field))
        elif typing.get_origin(hint) is dict:
            wanted |= set(names(typing.get_args(hint)[1], f"{field}.NAME"))
        else:
            wanted.add(field)
    assert len(wanted) > 150
    assert not sorted(name for name in wanted if f"`{name}`" not in text)
    assert not [key.name for key in generator().all_keys() if not key.text]


def test_every_column_is_explained() -> None:
    text = generator().tables_page()
    rows = [line for line in text.splitlines() if re.match(r"\| `\w+` \| .* \| ", line)]
    assert len(rows) > 150
    assert not [row for row in rows if row.rstrip().endswith("|  |")]


@pytest.mark.parametrize("registry", [SELECTORS, PLANS], ids=["selectors", "plans"])
def test_every_method_is_in_the_reference(registry: Registry[Any]) -> None:
    text = generator().methods_page()
    for kind, cls in generator().own(registry):
        assert f"### {kind}\n" in text
        if registry is SELECTORS:
            assert cls.cost and cls.source and cls.__doc__, kind


def test_every_job_and_option_is_in_the_reference() -> None:
    text = generator().command_page()
    for word in [*(f"### {job}" for job in cli.JOBS), "`--list", "`--json", "`--address", "`--detach"]:
        assert word in text


def test_messages_in_troubleshooting_are_messages_of_the_code() -> None:
    literals = []
    for path in (ROOT / "pipeline").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                literals.append(node.value)
    everything = "\0".join(literals)
    quoted = [block for block in blocks(DOCS / "troubleshooting.md") if block.language == "text"]
    assert len(quoted) > 20
    for block in quoted:
        for piece in block.text.strip().split("…"):
            assert piece.strip() in everything, f"{block.where}: no message has {piece!r}"


@pytest.mark.parametrize("block", [b for b in ALL if b.language == "bash"], ids=lambda b: b.where)
def test_every_command_is_run_or_says_why_not(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(block.marks) <= set(MARKS), f"{block.where}: unknown mark"
    for command in commands(block):
        if isinstance(command, tuple):
            continue
        program = command[0]
        if not block.marks:
            assert program == "lemonpress", f"{block.where}: {program} needs a mark, or a test that runs it"
        elif program.startswith("scripts/"):
            assert (ROOT / program).is_file(), block.where
        else:
            assert program in ("lemonpress", *OTHER_PROGRAMS), f"{block.where}: {program}"


def test_commands_that_other_tests_run_have_such_a_test() -> None:
    for name in ELSEWHERE.values():
        path, _, test = name.partition("::")
        assert f"def {test}" in (ROOT / path).read_text(encoding="utf-8"), name


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A reader's folder, keys, and modules."""
    monkeypatch.chdir(tmp_path)
    for key in ("OPENAI_API_KEY", "GEMINI_API_KEY", "HF_TOKEN"):
        monkeypatch.setenv(key, "none")
    monkeypatch.setattr(CometEngineConfig, "ready", lambda self, key: None)
    list(SELECTORS)
    monkeypatch.setattr(SELECTORS, "_items", dict(SELECTORS._items))
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    for name in ("my_selectors", "my_judges"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    # What the README calls a reader's own files.
    jsonl(tmp_path / "questions.jsonl", {"uid": "q1", "prompt": "Name a river."}, {"uid": "q2", "prompt": "2 + 2?"})
    for model, texts in {"gpt": ("The Danube.", "4"), "claude": ("The long Danube.", "It is 4.")}.items():
        answers = [{"uid": f"q{i}", "text": t, "messages": [{}, {"content": t}]} for i, t in enumerate(texts, 1)]
        jsonl(tmp_path / f"{model}.jsonl", *answers)
    for name in ("gpt-answers.jsonl", "my_prompts.jsonl"):
        jsonl(tmp_path / name, {"uid": "q1", "prompt": "Name a river."})
    yield tmp_path
    for name in ("my_selectors", "my_judges"):  # other tests have modules of these names, too
        sys.modules.pop(name, None)


@pytest.mark.usefixtures("no_ray", "own_datasets_cache")
@pytest.mark.parametrize("page", PAGES[1:], ids=lambda p: str(p.relative_to(ROOT)))
def test_what_a_page_tells_to_type_works(
    page: Path, reader: Path, request: pytest.FixtureRequest, capfd: pytest.CaptureFixture[str]
) -> None:
    _lay_out(page, reader, request)
    _type(page, reader, capfd)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster", "own_datasets_cache")
def test_what_the_readme_tells_to_type_works(
    reader: Path, request: pytest.FixtureRequest, capfd: pytest.CaptureFixture[str]
) -> None:
    """As a reader has it, on Ray."""
    _lay_out(PAGES[0], reader, request)
    _type(PAGES[0], reader, capfd)


def _lay_out(page: Path, reader: Path, request: pytest.FixtureRequest) -> None:
    """The finished run that a page opens."""
    if 'open_run("runs/demo")' in page.read_text(encoding="utf-8"):
        shutil.copytree(request.getfixturevalue("whole"), reader / "runs" / "demo")


def _type(page: Path, reader: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Run every command of a page that can be run here, and check the configs of the others."""
    for block in blocks(page):
        if block.file:
            (reader / block.file).write_text(block.text, encoding="utf-8")
        if block.language == "yaml":
            _check_layer(block)
        elif block.language == "python":
            if block.file:
                assert f"modules=[{Path(block.file).stem}]" in page.read_text(encoding="utf-8")
            else:
                exec(compile(block.text, block.where, "exec"), {"__name__": block.where})
        elif block.language == "bash":
            for command in commands(block):
                _do(block, command, capfd)


def test_the_guides_selector_chooses(reader: Path) -> None:
    (block,) = [b for b in blocks(DOCS / "guide.md") if b.language == "python" and b.file]
    (reader / "my_selectors.py").write_text(block.text, encoding="utf-8")
    _check_command(["run", "dummy", "modules=[my_selectors]", "selectors.shortest.minimum=3"])


def _do(block: Block, command: list[str] | tuple[str, str], capfd: pytest.CaptureFixture[str]) -> None:
    if isinstance(command, tuple):
        Path(command[0]).write_text(command[1], encoding="utf-8")
    elif shlex.join(command) in ELSEWHERE:
        _check_command(command[1:])
    elif not block.marks:
        code = cli.main(command[1:])
        assert code == 0, f"{block.where}: {shlex.join(command)}: exit code {code}\n{capfd.readouterr().err[-3000:]}"
        if any(word.startswith("modules=") for word in command):
            _check_command(command[1:])
    elif command[0] == "lemonpress":
        _check_command(command[1:])
    elif command[0] == "sbatch":
        start = next(i for i, word in enumerate(command) if word.endswith(".sh"))
        run.check(load_config(command[start + 1 :]))


def _check_command(words: list[str]) -> None:
    """As far as a command goes before it needs what this machine has not: its words and its config."""
    job = words[0]
    args = list(cli.program.commands[job].make_context(job, words[1:]).params["words"])
    args = [f"out={word}" if word.startswith("runs/") else word for word in args]  # a run that is not there
    if job == "doctor":
        return
    if job in ("status", "logs", "stop"):
        assert len(args) <= 1
    elif job in ("generate", "select", "sweep", "export"):
        load_config(args)
    elif job == "label":
        label.check(cli._config(job, args))
    else:
        config = load_config(args)
        run.check(config)
        for chosen in config.selectors.values():
            if not type(chosen).__module__.startswith("pipeline."):
                _try(chosen)


def _try(chosen: Selector) -> None:
    """A selector of the documentation chooses among three candidates."""
    row = Row(0, "p", messages=[{"role": "user", "content": "How much is 2 + 2?"}])
    candidates = [Candidate(plan="hedged", text=text, origin="sample") for text in ("2 + 2 is 4.", "4.00", "5")]
    pool = Pool(row, "hedged", candidates, 1, DummyEngineConfig().create())
    choice = asyncio.run(chosen.select(pool))
    assert choice.index in (0, 1, 2)
    assert choice.values is not None
    assert len(choice.values) == 3
    if chosen.kind == "shortest":
        assert choice.index == 1


def _check_layer(block: Block) -> None:
    """A block of YAML fits over the dummy preset; engines that other layers would bring are dummies, too."""
    data = yaml.safe_load(block.text)
    assert isinstance(data, dict), block.where
    asked = set(re.findall(r"\b(?:engine: |opponent: )(\w+)", block.text))
    fillers = {name: {"kind": "dummy"} for name in asked - set(data.get("engines") or {})}
    own = {"engines": fillers, "plans": {"evidence": {"kind": "evidence"}}}
    Path("fillers.yaml").write_text(yaml.safe_dump(own), encoding="utf-8")
    Path("layer.yaml").write_text(block.text, encoding="utf-8")
    load_config(["dummy", "fillers.yaml", "layer.yaml"])
