"""Nothing in data or config runs as code, and no name leads out of the run's folder."""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from jinja2.exceptions import SecurityError

from pipeline.config.load import load_config
from pipeline.core.errors import ConfigError, InputError, LemonpressError
from pipeline.core.folder import RunFolder
from pipeline.engines.transformers import TransformersEngineConfig
from pipeline.engines.vllm import VLLMEngineConfig
from pipeline.judging.templates import load_template
from pipeline.prompts.sources import read_prompts

USER = [{"role": "user", "content": "q"}]


class Payload:
    """Pickles to a call that makes a file."""

    def __init__(self, flag: Path) -> None:
        self.flag = flag

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.flag),)


def test_texts_are_no_templates() -> None:
    attack = "{{ ''.__class__.__mro__ }}{% for x in [1] %}{{ x }}{% endfor %}"
    shown = load_template("pairwise").render(USER, answer_a=attack, answer_b="b")[0]["content"]
    assert attack in shown


def test_a_template_runs_in_a_sandbox(tmp_path: Path) -> None:
    file = tmp_path / "own.txt"
    file.write_text("[user]\n{{ question.__class__.__mro__[1].__subclasses__() }}\n[labels]\nA B C\n")
    with pytest.raises(SecurityError):
        load_template(str(file)).render(USER)


@pytest.mark.parametrize("language", ["../../../../tmp/evil", "x/../y", "a\0b", "x" * 5000, ""])
def test_a_language_of_the_data_is_no_path(language: str, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    is_file = Path.is_file
    monkeypatch.setattr(Path, "is_file", lambda self: opened.append(str(self)) or is_file(self))
    load_template.cache_clear()
    assert load_template("pairwise", language).name == "pairwise"
    assert [Path(p).name for p in opened] == ["pairwise.txt"]


@pytest.mark.parametrize(
    ("word", "key"),
    [
        ("engines={'../x': {kind: dummy}}", "engines"),
        ("engines={'a/b': {kind: dummy}}", "engines.a/b"),
        ("plans={'../x': {kind: greedy, engine: generator}}", "plans"),
        ("plans.x={kind: greedy, engine: generator, candidate_set: ../y}", "plans.x.candidate_set"),
        ("selectors={'..': {kind: greedy}}", "selectors"),
        ("selectors={'a#1': {kind: greedy}}", "selectors.a#1"),
        ("selectors={'audit:x': {kind: greedy}}", "selectors.audit:x"),
        ("prompts={kind: file, path: x.jsonl, given: {column: answers, name: ../x}}", "prompts.given.name"),
    ],
)
def test_names_that_become_folders_are_plain(word: str, key: str) -> None:
    with pytest.raises(ConfigError, match="is no name") as caught:
        load_config(["dummy", word])
    assert str(caught.value).startswith(key)


@pytest.mark.parametrize("parts", [("..", "x"), ("work/../../x",), ("/etc", "x"), ("a\0b",)])
def test_no_path_leads_out_of_the_folder(run: RunFolder, parts: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match="leads out"):
        run.path(*parts)


def test_the_table_of_another_run_stays_in_it(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with pytest.raises(LemonpressError):
        config = load_config(["dummy", f"prompts={{kind: run, path: {tmp_path}/other, table: ../../etc}}"])
        read_prompts(config.prompts, RunFolder(str(tmp_path / "run")))


@pytest.mark.usefixtures("own_datasets_cache")
def test_pickles_in_parquet_are_not_opened(tmp_path: Path) -> None:
    """Ray Data has an Arrow type for pickled objects, and registers it for the whole process."""
    import ray.data  # noqa: F401

    flag, file = tmp_path / "ran", tmp_path / "prompts.parquet"
    extension = {b"ARROW:extension:name": b"ray.data.arrow_pickled_object", b"ARROW:extension:metadata": b""}
    schema = pa.schema([("prompt", pa.string()), pa.field("object", pa.large_binary(), metadata=extension)])
    pq.write_table(pa.table([["q"], [pickle.dumps(Payload(flag))]], schema=schema), file)
    config = load_config(["dummy", "prompts.kind=file", f"prompts.path={file}"])
    with pytest.raises(InputError, match=r"prompts\.parquet"):
        read_prompts(config.prompts, RunFolder(str(tmp_path / "run")))
    assert not flag.exists()


@pytest.mark.parametrize("name", ["prompts.py", "prompts.pkl"])
def test_prompts_are_data_never_scripts(tmp_path: Path, name: str) -> None:
    flag = tmp_path / "ran"
    (tmp_path / name).write_text(f"import os\nos.mkdir({str(flag)!r})\n")
    for path in (tmp_path / name, tmp_path):
        config = load_config(["dummy", "prompts.kind=file", f"prompts.path={path}"])
        with pytest.raises(LemonpressError):
            read_prompts(config.prompts, RunFolder(str(tmp_path / "run")))
    assert not flag.exists()


def test_code_that_comes_with_a_model_runs_only_when_asked_for(
    tmp_path: Path, chat_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import dynamic_module_utils

    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    flag, folder = tmp_path / "ran", tmp_path / "model"
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(Path(chat_model, name), folder)
    auto = {"AutoConfig": "evil.Config", "AutoModelForSequenceClassification": "evil.Model"}
    (folder / "config.json").write_text(json.dumps({"model_type": "evil", "auto_map": auto}))
    (folder / "evil.py").write_text(f"import os\nos.mkdir({str(flag)!r})\n")
    for trust in (False, True):
        engine = TransformersEngineConfig(model=str(folder), trust_remote_code=trust).create()
        with pytest.raises(Exception, match="" if trust else "trust_remote_code"):
            asyncio.run(engine.start())
        assert flag.exists() == trust
    assert not TransformersEngineConfig().trust_remote_code
    assert "trust_remote_code" not in VLLMEngineConfig(model="m").create()._engine_args()  # type: ignore[attr-defined]


def test_weights_are_no_pickle(tmp_path: Path) -> None:
    flag = tmp_path / "ran"
    with pytest.raises(Exception, match=r"(?i)weights.only|unsupported"):
        weights_of_a_pickle(tmp_path / "weights", flag)
    assert not flag.exists()


def weights_of_a_pickle(folder: Path, flag: Path) -> None:
    """Load a model whose weights are a pickle that runs code."""
    from transformers import AutoModelForSequenceClassification

    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = {"model_type": "llama", "vocab_size": 8, "num_labels": 1, **sizes}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["LlamaForSequenceClassification"]}))
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"x": Payload(flag)}))
    AutoModelForSequenceClassification.from_pretrained(str(folder))
