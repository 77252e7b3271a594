"""A stranger's run is verified and replayed without importing its modules or sending our keys to its endpoints."""

from __future__ import annotations

import dataclasses
import os
import shutil
import sys
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from omegaconf import OmegaConf

from pipeline.cli import main
from pipeline.config.load import build_config, merge_words
from pipeline.core import folder as storage
from pipeline.core.errors import ConfigError
from pipeline.core.remote import model_commit
from pipeline.core.schema import read_provenance, with_provenance
from pipeline.engines.base import ENGINES
from pipeline.jobs import theirs as theirs_module

QUIET = "execution.progress=false"


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
        ({**ENDPOINT, "api_key_env": None}, ["http://127.0.0.1:9/v1", "engines.generator.base_url=http"]),
        ({**ENDPOINT, "api_key_env": "NO_SUCH_VARIABLE"}, ["engines.generator.base_url=http://127.0.0.1:9/v1"]),
        ({**ENDPOINT, "base_url": None}, ["engines.generator.base_url=null", "engines.generator.api_key_env="]),
        ({"kind": "dummy", "log": "/tmp/x"}, ["engines.generator.log=/tmp/x"]),
        ({"kind": "vllm", "model": "m", "lora": "/home"}, ["engines.generator.lora=/home"]),
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


@pytest.mark.parametrize("kind", ["dummy", "vllm", "openai", "transformers", "comet"])
def test_every_setting_of_an_engine_is_harmless_or_asks(kind: str) -> None:
    """What is not on the list is refused, so a new setting is, too; the list holds no word for a path or code."""
    asks = {
        "dummy": {"fail", "crash", "dead", "fuse", "log", "best"},
        "vllm": {"allow_pickle_weights", "engine_args", "chat_template", "chat_template_kwargs", "lora"},
        "openai": {"base_url", "extra_body"},
        "transformers": {"trust_remote_code", "allow_pickle_weights", "chat_template_kwargs", "model_class"},
        "comet": {"allow_pickle_weights", "python"},
    }
    names = {field.name for field in dataclasses.fields(ENGINES.get(kind, "kind"))}
    assert names - theirs_module._HARMLESS == asks[kind]


def test_a_word_for_a_part_of_a_map_does_not_allow_the_rest() -> None:
    stored = {"generator": {"kind": "vllm", "model": "m", "engine_args": {"trust_remote_code": True}}}
    layer = {"engines": stored, "sampling": {"kind": "single"}}
    word = "engines.generator.engine_args.seed=1"
    config = build_config(merge_words([deepcopy(layer)], [word]))
    with pytest.raises(ConfigError, match="trust_remote_code"):
        theirs_module.check_engines(config, ["generator"], [word])
    whole = ['engines.generator.engine_args={"trust_remote_code": true}']
    theirs_module.check_engines(build_config(merge_words([layer], whole)), ["generator"], whole)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """URIs that are opened."""
    uris: list[str] = []

    def refuse(path: str, key: str) -> None:
        uris.append(path)
        raise ConfigError("opened")

    monkeypatch.setattr(storage, "open_uri", refuse)
    return uris


@pytest.mark.usefixtures("no_ray")
def test_no_host_that_their_config_names_is_asked(
    whole: Path, tmp_path: Path, opened: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    evil = "s3://b/r?endpoint_override=127.0.0.1:9&scheme=http"
    run = Path(shutil.copytree(whole, tmp_path / "theirs"))
    config = OmegaConf.load(run / "config.yaml")
    config.prompts = {"kind": "run", "path": evil}
    OmegaConf.save(config, run / "config.yaml")
    schema = pq.read_schema(run / "replay.parquet")
    provenance = {**read_provenance(schema, ""), "config": (run / "config.yaml").read_text()}
    pq.write_table(
        pq.read_table(run / "replay.parquet").replace_schema_metadata(with_provenance(schema, provenance).metadata),
        tmp_path / "alone.parquet",
    )
    (run / "replay.parquet").unlink()
    for words in (["verify", str(run)], ["replay", str(run)], ["replay", str(tmp_path / "alone.parquet")]):
        assert main(words) == 2
        assert "prompts.sets=" in capsys.readouterr().err
        assert main([*words, "prompts.sets=[given]"]) in (0, 3)
    assert not opened
    assert main(["verify", str(run), f"prompts.path={evil}"]) == 2 and opened  # named: it is asked


@pytest.mark.usefixtures("no_ray")
@pytest.mark.parametrize("key", ["judge", "selectors.mine"])
def test_no_template_of_theirs_is_read_but_by_name(
    key: str, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(whole, tmp_path / "theirs"))
    values = {"template": str(tmp_path / "mine.txt")}
    set_config(run, {"judge": values} if key == "judge" else {"selectors": {"mine": {"kind": "judge", **values}}})
    for job in ("verify", "replay"):
        assert main([job, str(run)]) == 2
        assert f"{key}.template={tmp_path / 'mine.txt'}" in capsys.readouterr().err


def test_a_revision_is_no_path(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("hush")
    assert model_commit("a/b", str(tmp_path / "secret")) is None
