"""How many processes a pass's read starts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import ray.data

from pipeline.execution import source
from tests.conftest import run_with_prompts

READERS = "RAY_DATA_PARQUET_FOOTER_NUM_ACTORS"


def test_a_small_table_starts_one_footer_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_with_prompts(tmp_path, 3)
    monkeypatch.setattr(ray.data, "read_parquet", lambda files, **_: (files, os.environ[READERS]))
    files, readers = source.read_table(run, "prompts")  # type: ignore[misc]
    assert len(files) == 1
    assert readers == "1"
    assert READERS not in os.environ


@pytest.mark.parametrize(("files", "readers"), [(1, "1"), (100, "1"), (101, "2"), (100_000, "32")])
def test_readers_grow_with_the_files(files: int, readers: str) -> None:
    with source._readers(files):
        assert os.environ[READERS] == readers


def test_a_number_that_the_user_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(READERS, "7")
    with source._readers(1):
        assert os.environ[READERS] == "7"
    assert os.environ[READERS] == "7"
