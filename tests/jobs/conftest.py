"""What the tests of several jobs share: a finished run."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pipeline.storage import RunFolder
from tests.runs import make_run


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run, which no test may change."""
    return make_run(tmp_path_factory.mktemp("finished"))


@pytest.fixture
def finished_run(finished: Path, tmp_path: Path) -> RunFolder:
    """A copy of the finished run."""
    return RunFolder(str(shutil.copytree(finished, tmp_path / "run")))
