"""Exports to an S3-compatible server (moto's), started here on loopback."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest

from pipeline.cli import main
from pipeline.core.errors import ConfigError
from pipeline.core.folder import RunFolder
from tests.jobs.export import data


@pytest.fixture(scope="module")
def store(s3_server: str) -> str:
    """A bucket's URI with ``{}`` for the path."""
    fs = pafs.S3FileSystem(scheme="http", endpoint_override=s3_server, allow_bucket_creation=True)
    fs.create_dir("bucket")
    return f"s3://bucket/{{}}?scheme=http&endpoint_override={quote(s3_server, safe='')}"


def test_an_export_on_the_store_has_the_same_bytes_and_replaces_itself(store: str, tmp_path: Path) -> None:
    run = data.write(tmp_path, data.plain_rows(30))
    local = data.export(run, format="dpo").folder
    there = RunFolder(store.format("data/dpo"))
    for shards in (7, 1):
        data.export(run, format="dpo", output=there.name, rows_per_shard=4 if shards == 7 else 100)
        assert there.names() == {"README.md", "data"} and len(there.parquet_files("data")) == shards + 1
    for path in (p for p in local.rglob("*") if p.is_file()):
        with there.fs.open_input_file(there.path(str(path.relative_to(local)))) as file:
            assert file.read() == path.read_bytes()


def test_a_run_on_the_store_is_exported_beside_itself(store: str, tmp_path: Path) -> None:
    local = data.write(tmp_path, data.plain_rows(4))
    run = RunFolder(store.format("run"))
    pafs.copy_files(local.root, run.root, source_filesystem=local.fs, destination_filesystem=run.fs)
    assert main(["export", f"out={run.name}"]) == 0
    files = run.parquet_files("export", "sft", "data")
    assert sum(pq.read_table(path, filesystem=run.fs).num_rows for path in files) == 4


def test_an_upload_that_breaks_off_says_so_in_its_card_and_can_be_done_again(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, there = data.write(tmp_path, data.plain_rows(4)), RunFolder(store.format("broken"))
    words = ["export", f"out={run.root}", f"export.output={there.name}"]
    assert main(words) == 0
    with monkeypatch.context() as broken:
        broken.setattr("pyarrow.fs.copy_files", lambda *_, **__: (_ for _ in ()).throw(OSError("gone\nlong")))
        assert main(words) == 1
    error = capsys.readouterr().err
    assert "gone; the same command writes it again" in error and "long" not in error
    assert "This export is not whole" in (there.read_text("README.md") or "")
    assert main(words) == 0
    assert "not whole" not in (there.read_text("README.md") or "") and there.parquet_files("data")


def test_what_else_lies_on_the_store_is_never_replaced(store: str, tmp_path: Path) -> None:
    run = data.write(tmp_path, data.plain_rows(2))
    RunFolder(store.format("thesis")).write_text("mine", "README.md")
    for path in ("thesis", "thesis/README.md"):
        with pytest.raises(ConfigError, match="holds something else than an export"):
            data.export(run, output=store.format(path))


def test_a_missing_bucket_ends_in_one_line(store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = data.write(tmp_path, data.plain_rows(2))
    assert main(["export", f"out={run.root}", f"export.output={store.format('x').replace('bucket', 'nowhere')}"]) == 1
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
