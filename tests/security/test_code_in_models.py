"""What else could carry code: weights that are pickles, code beside models and data sets, tags in YAML."""

from __future__ import annotations

import asyncio
import json
import pickle
import shutil
from pathlib import Path

import pytest

from pipeline.cli import main
from pipeline.config.load import load_config
from pipeline.core.errors import ConfigError
from pipeline.engines.base import EngineConfig
from pipeline.engines.comet import CometEngineConfig
from pipeline.engines.transformers import TransformersEngineConfig
from pipeline.engines.vllm import VLLMEngineConfig
from pipeline.engines.weights import refuse_pickles
from pipeline.jobs.theirs import load_theirs
from tests.security.canary import Payload


def pickled_weights(folder: Path, name: str, flag: Path) -> str:
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(pickle.dumps({"x": Payload(flag)}))
    return str(folder)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "a.pt", "a.pth", "a.ckpt"])
@pytest.mark.parametrize("kind", [VLLMEngineConfig, TransformersEngineConfig])
def test_weights_in_a_pickle_are_refused_before_anything_starts(
    kind: type[VLLMEngineConfig] | type[TransformersEngineConfig], name: str, tmp_path: Path
) -> None:
    folder = pickled_weights(tmp_path / "model", name, tmp_path / "ran")
    with pytest.raises(ConfigError, match=r"engines\.x\.allow_pickle_weights=true") as caught:
        kind(model=folder).ready("engines.x")
    assert name in str(caught.value) and not (tmp_path / "ran").exists()
    kind(model=folder, allow_pickle_weights=True).ready("engines.x")
    (tmp_path / "model" / "model.safetensors").write_bytes(b"")  # what loaders take first
    kind(model=folder).ready("engines.x")


def test_an_adapter_in_a_pickle(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    adapter = pickled_weights(tmp_path / "adapter", "adapter_model.bin", tmp_path / "ran")
    with pytest.raises(ConfigError, match=r"adapter_model\.bin"):
        VLLMEngineConfig(model=str(tmp_path / "model"), lora=adapter).ready("engines.x")


def test_what_a_training_leaves_behind_is_no_weight(tmp_path: Path) -> None:
    refuse_pickles(pickled_weights(tmp_path, "training_args.bin", tmp_path / "ran"), "engines.x")


def test_the_hubs_weights_are_safetensors(tmp_path: Path) -> None:
    def load_format(**settings: object) -> object:
        return VLLMEngineConfig(**settings).create()._engine_args().get("load_format")  # type: ignore[attr-defined,arg-type]

    assert load_format(model="somebody/model") == "safetensors"
    assert load_format(model="somebody/model", allow_pickle_weights=True) is None
    assert load_format(model="somebody/model", engine_args={"load_format": "dummy"}) == "dummy"
    assert load_format(model=str(tmp_path)) is None


def test_transformers_itself_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chat_model: str) -> None:
    """Also of a name on the hub, of which nothing lies here."""
    import transformers

    asked: list[dict[str, object]] = []

    def from_pretrained(name: str, **options: object) -> None:
        asked.append(options)
        raise OSError("enough")

    monkeypatch.setattr(transformers.AutoModelForSequenceClassification, "from_pretrained", from_pretrained)
    for allowed in (False, True):
        engine = TransformersEngineConfig(model=chat_model, allow_pickle_weights=allowed).create()
        with pytest.raises(OSError, match="enough"):
            asyncio.run(engine.start())
    assert [options.get("use_safetensors") for options in asked] == [True, None]


def test_a_comet_checkpoint_is_a_pickle() -> None:
    with pytest.raises(ConfigError, match=r"engines\.x\.allow_pickle_weights=true"):
        CometEngineConfig(model="Unbabel/XCOMET-XL").check("engines.x")
    CometEngineConfig(model="Unbabel/XCOMET-XL", allow_pickle_weights=True).check("engines.x")
    assert load_config(["translation", "xcomet", "prompts.path=p.jsonl"]).engines["xcomet"].allow_pickle_weights  # type: ignore[attr-defined]


def test_trust_is_not_part_of_what_an_answer_depends_on() -> None:
    def identity(config: type[EngineConfig], trusted: bool) -> object:
        return config(model="m", allow_pickle_weights=trusted).identity()  # type: ignore[call-arg]

    for config in (VLLMEngineConfig, TransformersEngineConfig, CometEngineConfig):
        assert identity(config, True) == identity(config, False)


def test_code_beside_a_tokenizer(tmp_path: Path, chat_model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import dynamic_module_utils

    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("tokenizer.json", "config.json"):
        shutil.copy(Path(chat_model, name), folder)
    settings = json.loads(Path(chat_model, "tokenizer_config.json").read_text())
    settings |= {"auto_map": {"AutoTokenizer": ["evil.Tokenizer", "evil.Tokenizer"]}, "tokenizer_class": "Tokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "evil.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'ran')!r})\n")
    with pytest.raises(Exception):  # noqa: B017  # whatever it says: no weights lie there, either
        asyncio.run(TransformersEngineConfig(model=str(folder)).create().start())
    assert not (tmp_path / "ran").exists()


@pytest.mark.usefixtures("own_datasets_cache")
def test_a_script_beside_a_data_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for name in ("data.py", "test.py", "builder.py"):
        (folder / name).write_text(f"import os\nos.makedirs({str(tmp_path / 'ran')!r})\n")
    (folder / "test.jsonl").write_text('{"prompt": "q"}\n')
    words = ["generate", "dummy", f"prompts={{kind: hub, dataset: {folder}}}", f"out={tmp_path / 'o'}"]
    main([*words, "sampling.n=0"])  # whether it is read or refused: a wrong N ends the job before Ray starts
    assert not (tmp_path / "ran").exists()


TAGS = ("!!python/object/apply:os.makedirs", "!!python/object/new:os.makedirs", "!!python/name:os.makedirs")


@pytest.mark.parametrize("tag", TAGS)
def test_tags_in_yaml_are_no_code(tag: str, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(f"seed: {tag} [{tmp_path / 'ran'}]\n")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_config(["dummy", str(path)])
    with pytest.raises(ConfigError):
        load_config(["dummy", f"seed={tag} [{tmp_path / 'ran'}]"])
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "bomb",
    [
        "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\nd: [*c, *c]\n",
        "out: xxxxxxxx\nreport:\n  title: ${out}${out}\n  note: ${report.title}${report.title}\n",
    ],
)
def test_a_few_lines_of_their_config_do_not_grow(bomb: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(bomb)
    with pytest.raises(ConfigError, match="references"):
        load_theirs(str(path), ())
