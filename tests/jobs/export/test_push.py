"""The upload, with a stand-in for the Hub's client."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.cli import main
from tests.jobs.export import data

TOKEN = "hf_" + "x9Y8" * 6


class Hub:
    """Notes the calls; ``public`` and ``fails`` play the Hub's part."""

    calls: list[tuple[str, Any]]
    public = False
    fails = False

    def __init__(self, token: str) -> None:
        self.calls.append(("token", token))

    def create_repo(self, name: str, **options: Any) -> str:
        self.calls.append((name, options))
        return f"https://hub.example/datasets/{name}"

    def dataset_info(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(private=not self.public)

    def upload_folder(self, **options: Any) -> None:
        if self.fails:
            raise OSError(f"403 for token {TOKEN}")
        self.calls.append(("upload", options))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> type[Hub]:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    mine = type("Mine", (Hub,), {"calls": []})
    monkeypatch.setattr("huggingface_hub.HfApi", mine)
    return mine


def test_an_export_is_uploaded_privately(tmp_path: Path, hub: type[Hub], capsys: pytest.CaptureFixture[str]) -> None:
    run = data.write(tmp_path, data.plain_rows(3))
    assert main(["export", f"out={run.root}", "export.push=me/data"]) == 0
    token, create, (_, upload) = hub.calls
    assert token == ("token", TOKEN)
    assert create == ("me/data", {"repo_type": "dataset", "private": True, "exist_ok": True})
    assert (upload["repo_id"], upload["repo_type"]) == ("me/data", "dataset")
    assert Path(upload["folder_path"], "README.md").exists()
    assert TOKEN not in capsys.readouterr().out + Path(upload["folder_path"], "README.md").read_text("utf-8")


def test_a_public_dataset_is_refused(tmp_path: Path, hub: type[Hub], capsys: pytest.CaptureFixture[str]) -> None:
    hub.public = True
    assert main(["export", f"out={data.write(tmp_path, data.plain_rows(3)).root}", "export.push=me/data"]) == 2
    assert "is public" in capsys.readouterr().err and len(hub.calls) == 2


def test_only_a_local_export_is_uploaded(tmp_path: Path, hub: type[Hub], capsys: pytest.CaptureFixture[str]) -> None:
    words = ["export.push=me/data", "export.output=s3://bucket/x?region=eu-west-1"]
    assert main(["export", f"out={data.write(tmp_path, data.plain_rows(3)).root}", *words]) == 2
    assert "export.push: only a local folder" in capsys.readouterr().err and not hub.calls


def test_a_failed_upload_keeps_the_export(tmp_path: Path, hub: type[Hub], capsys: pytest.CaptureFixture[str]) -> None:
    hub.fails = True
    assert main(["export", f"out={data.write(tmp_path, data.plain_rows(3)).root}", "export.push=me/data"]) == 1
    error = capsys.readouterr().err
    assert "403" in error and TOKEN not in error
    assert (tmp_path / "export" / "sft" / "README.md").exists()
