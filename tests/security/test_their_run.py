"""A stranger's run is verified and replayed without importing its modules or sending our keys to its endpoints."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from pipeline.cli import main
from tests.inprocess import without_ray

QUIET = "execution.progress=false"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("theirs") / "run"
    words = ["dummy", "prompts.limit_clusters=1", "prompts.languages=[en,de]", QUIET, f"out={folder}"]
    with without_ray():
        assert main(["run", *words, "judge.candidates=true"]) == 0
        assert main(["replay", str(folder)]) == 0
    return folder


@pytest.fixture
def theirs(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A run whose config names a module that lies in the folder one stands in."""
    shutil.copytree(whole, tmp_path / "theirs")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil_module.py").write_text("import os\nos.makedirs('ran', exist_ok=True)\n")
    set_config(tmp_path / "theirs", {"modules": ["evil_module"]})
    yield tmp_path / "theirs"
    sys.modules.pop("evil_module", None)


def set_config(run: Path, values: dict[str, object]) -> None:
    path = run / "config.yaml"
    OmegaConf.save(OmegaConf.merge(OmegaConf.load(path), OmegaConf.create(values)), path)


@pytest.mark.usefixtures("no_ray")
@pytest.mark.parametrize("job", ["verify", "replay"])
def test_no_module_of_theirs_is_imported_but_by_name(
    job: str, theirs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([job, str(theirs)]) == 2
    assert "modules=[evil_module]" in capsys.readouterr().err and not (tmp_path / "ran").exists()
    assert main([job, str(theirs), "modules=[evil_module]"]) == 0
    assert (tmp_path / "ran").exists()


@pytest.mark.usefixtures("no_ray")
def test_nor_by_a_replay_table_alone(theirs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (theirs / "replay.parquet").unlink()
    assert main(["replay", str(theirs), "modules=[evil_module]"]) == 0
    shutil.rmtree(tmp_path / "ran")
    sys.modules.pop("evil_module")
    shutil.copy(theirs / "replay.parquet", tmp_path / "table.parquet")
    assert main(["replay", str(tmp_path / "table.parquet")]) == 2
    assert "evil_module" in capsys.readouterr().err and not (tmp_path / "ran").exists()


ENDPOINT = {"kind": "openai", "model": "m", "base_url": "http://127.0.0.1:9/v1", "api_key_env": "MY_DEAR_KEY"}


@pytest.mark.usefixtures("no_ray")
@pytest.mark.parametrize(
    ("engine", "says"),
    [
        (ENDPOINT, ["MY_DEAR_KEY", "http://127.0.0.1:9/v1", "engines.generator.api_key_env="]),
        ({"kind": "vllm", "model": "m", "engine_args": {"trust_remote_code": True}}, ["engines.generator.engine_args"]),
        ({"kind": "vllm", "model": "m", "chat_template": "/etc/passwd"}, ["engines.generator.chat_template"]),
    ],
)
def test_no_engine_of_theirs_gets_a_key_or_runs_code(
    engine: dict[str, object],
    says: list[str],
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(whole, tmp_path / "theirs")
    config = OmegaConf.load(tmp_path / "theirs/config.yaml")
    config.engines.generator = engine  # type: ignore[union-attr]
    OmegaConf.save(config, tmp_path / "theirs/config.yaml")
    monkeypatch.setitem(os.environ, "MY_DEAR_KEY", "hush-hush-hush")
    assert main(["verify", str(tmp_path / "theirs")]) == 2
    said = capsys.readouterr().err
    assert all(word in said for word in says) and "hush-hush" not in said


@pytest.mark.usefixtures("no_ray")
def test_where_work_is_done_and_written_is_not_theirs_to_say(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "theirs")
    elsewhere = str(tmp_path / "elsewhere")
    values = {"ray": {"address": "ray://127.0.0.1:1"}, "verify": {"folder": elsewhere, "min_match": 0.0}}
    set_config(tmp_path / "theirs", {**values, "replay": {"table": f"{elsewhere}.parquet"}})
    assert main(["verify", str(tmp_path / "theirs"), "verify.rows=1"]) == 0
    assert main(["replay", str(tmp_path / "theirs")]) == 0
    assert not list(tmp_path.glob("elsewhere*")) and (tmp_path / "theirs/verify.json").exists()
