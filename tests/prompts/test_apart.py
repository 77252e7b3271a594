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
from pipeline.prompts import sources as prompts
from pipeline.prompts.sources import FileSource, read_prompts
from tests.conftest import ROOT, rows_of


@pytest.fixture(autouse=True)
def everything_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompts, "_LARGE", 0)


def lines(path: Path, rows: int) -> FileSource:
    path.write_text("".join(f'{{"prompt": "question {i % 7}", "language": "en"}}\n' for i in range(rows)))
    return FileSource(path=path.name)


def test_the_table_is_the_same(tmp_path: Path) -> None:
    source, names = lines(tmp_path / "p.jsonl", 20), ("prompt_id", "messages", "source")
    runs = [RunFolder(str(tmp_path / str(how))) for how in (True, False)]
    reports = [read_prompts(source, run, tmp_path, apart=run is runs[0]) for run in runs]
    assert asdict(reports[0]) == asdict(reports[1]) and reports[0].n_duplicates == 13
    assert rows_of(runs[0], "prompts", *names) == rows_of(runs[1], "prompts", *names)
    lines(tmp_path / "p.jsonl", 25)  # grown: read again, and the new rows added
    assert read_prompts(source, runs[0], tmp_path).rows == 25


def test_it_happens_in_another_process(tmp_path: Path) -> None:
    """Seen from outside: the time was spent by a child."""
    lines(tmp_path / "p.jsonl", 20)
    code = (
        "import resource; from pipeline.prompts import sources as prompts; prompts._LARGE = {}\n"
        "from pipeline.core.folder import RunFolder; from pathlib import Path\n"
        "prompts.read_prompts(prompts.FileSource(path='p.jsonl'), RunFolder({!r}), Path({!r}))\n"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime > 0)"
    )
    for large, apart in ((0, "True"), (10**9, "False")):
        text = code.format(large, str(tmp_path / str(large)), str(tmp_path))
        done = subprocess.run([sys.executable, "-c", text], cwd=ROOT, capture_output=True, text=True, check=True)
        assert done.stdout.split()[-1] == apart


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
