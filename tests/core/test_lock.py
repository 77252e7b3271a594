"""One process a run folder."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli import main
from pipeline.core.errors import RunBusy
from pipeline.core.folder import RunFolder
from pipeline.core.lock import run_lock

HOLD = "import sys, time\nfrom pipeline.core.lock import run_lock\nfrom pipeline.core.folder import RunFolder\n"
HOLD += "with run_lock(RunFolder(sys.argv[1])):\n print('held', flush=True)\n time.sleep(60)"


class RemoteFolder(RunFolder):
    """A folder whose file system knows no kernel locks."""

    is_local = False  # type: ignore[assignment]


def test_a_second_driver_is_refused_and_a_dead_ones_lock_is_taken_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert first.stdout is not None
    assert first.stdout.readline() == "held\n"
    try:
        assert main(["generate", "dummy", f"out={tmp_path}"]) == 5
        message = capsys.readouterr().err
        assert f"process {first.pid} on {socket.gethostname()}, since 20" in message
        assert not (tmp_path / "config.yaml").exists()
        (tmp_path / "work" / "lock.json").unlink()  # here the kernel's lock decides, whatever the file says
        assert main(["generate", "dummy", f"out={tmp_path}"]) == 5
    finally:
        first.kill()
        first.wait()
    with run_lock(RunFolder(str(tmp_path))):
        assert json.loads((tmp_path / "work" / "lock.json").read_text())["pid"] == os.getpid()


def lock_file(run: RunFolder, **values: Any) -> None:
    content = {"host": "elsewhere", "pid": 1, "started": "2026-01-01", "beat": time.time(), **values}
    run.write_json(content, "work", "lock.json")


def test_without_kernel_locks_a_sign_of_life_decides(tmp_path: Path) -> None:
    run = RemoteFolder(str(tmp_path))
    lock_file(run)
    with pytest.raises(RunBusy, match="process 1 on elsewhere, since 2026-01-01"), run_lock(run):
        pass
    gone = subprocess.Popen(["true"])
    gone.wait()
    for stale in ({"beat": time.time() - 500}, {"host": socket.gethostname(), "pid": gone.pid}, {"released": True}):
        lock_file(run, **stale)
        with run_lock(run), pytest.raises(RunBusy), run_lock(run):
            pass
