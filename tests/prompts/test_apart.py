"""Large sources are read in a process of their own: the same table, the same errors, and no process left behind."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import psutil
import pytest

from pipeline.core.errors import InputError
from pipeline.core.folder import RunFolder
from pipeline.prompts import apart as read_apart
from pipeline.prompts import files
from pipeline.prompts import sources as prompts
from pipeline.prompts.sources import FileSource, read_prompts
from tests.conftest import ROOT, rows_of


@pytest.fixture(autouse=True)
def everything_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompts, "_LARGE", 0)


def lines(path: Path, rows: int) -> FileSource:
    path.write_text("".join(f'{{"prompt": "question {i % 7}", "language": "en"}}\n' for i in range(rows)))
    return FileSource(path=path.name)


def test_the_table_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And it was not made in this process, unless the file is small."""
    source, names = lines(tmp_path / "p.jsonl", 20), ("prompt_id", "messages", "source")
    runs = [RunFolder(str(tmp_path / name)) for name in ("apart", "here")]
    with monkeypatch.context() as patch:
        patch.setattr(files, "open_source", lambda *_: pytest.fail("it was read here"))
        report = read_prompts(source, runs[0], tmp_path)
    monkeypatch.setattr(prompts, "_LARGE", 10**9)
    monkeypatch.setattr(read_apart, "read_apart", lambda *_: pytest.fail("it was read elsewhere"))
    assert asdict(read_prompts(source, runs[1], tmp_path)) == asdict(report) and report.n_duplicates == 13
    assert rows_of(runs[0], "prompts", *names) == rows_of(runs[1], "prompts", *names)
    lines(tmp_path / "p.jsonl", 25)  # grown: read again, and the new rows added
    assert read_prompts(source, runs[0], tmp_path).rows == 25


def test_an_error_is_the_same(tmp_path: Path) -> None:
    source = lines(tmp_path / "p.jsonl", 2)
    with (tmp_path / "p.jsonl").open("a") as file:
        file.write("{half a line")
    with pytest.raises(InputError, match=r"p\.jsonl, line 3: not valid JSON"):
        read_prompts(source, RunFolder(str(tmp_path / "run")), tmp_path)


def test_a_killed_reader_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed = tmp_path / "python"
    killed.write_text("#!/bin/sh\nkill -9 $$\n")
    killed.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(killed))
    with pytest.raises(InputError, match=r"was killed by signal 9: is there enough memory\?"):
        read_prompts(lines(tmp_path / "p.jsonl", 2), RunFolder(str(tmp_path / "run")), tmp_path)


def test_it_does_not_outlive_the_driver() -> None:
    waiting = "import threading, time; from pipeline.prompts.apart import end_with_parent\n"
    waiting += "threading.Thread(target=end_with_parent).start(); time.sleep(600)"
    code = f"import subprocess, sys; c = subprocess.Popen([sys.executable, '-c', {waiting!r}], stdin=subprocess.PIPE)\n"
    code += "print(c.pid, flush=True); input()"
    driver = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert driver.stdout is not None
    reader = psutil.Process(int(driver.stdout.readline()))
    driver.kill()
    driver.communicate()
    assert not psutil.wait_procs([reader], timeout=60)[1]
