"""Words mean what they say: text where a setting is text, whatever YAML 1.1 would make of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.config.load import build_config, load_config
from pipeline.config.words import Spelled, read_word, read_yaml
from pipeline.core.errors import ConfigError

TEXTS = ["no", "on", "1e3", "0123456", "12:30", "0.10", "2024-05-13", "true", "5", "exp #1", "a: b", "1_000", ".inf"]


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_is_kept_as_it_is_written(text: str, tmp_path: Path) -> None:
    assert load_config(["dummy", f"out={text}"]).out == text
    assert load_config(["dummy", f"out='{text}'"]).out == text
    path = tmp_path / "mine.yaml"
    path.write_text(f"out: {text}\n" if text not in ("exp #1", "a: b") else f"out: '{text}'\n")
    assert load_config(["dummy", str(path)]).out == text


def test_a_list_of_languages() -> None:
    config = load_config(["dummy", "prompts.kind=hub", "prompts.dataset=a/b", "prompts.names=[no, de, 1e3]"])
    assert getattr(config.prompts, "names") == ["no", "de", "1e3"]  # noqa: B009  a field of one kind of source


def test_numbers_are_numbers_where_they_belong() -> None:
    words = [
        "sampling.n=03",
        "sampling.temperature=7e-1",
        "engines.g={kind: vllm, model: m, engine_args: {a: 1e-3, b: no}}",
    ]
    config = load_config(["dummy", *words])
    assert config.sampling is not None
    assert (getattr(config.sampling, "n"), getattr(config.sampling, "temperature")) == (3, 0.7)  # noqa: B009
    assert getattr(config.engines["g"], "engine_args") == {"a": 0.001, "b": "no"}  # noqa: B009


def test_yes_and_no_are_true_and_false_where_that_is_asked() -> None:
    assert not load_config(["dummy", "ray.worker_logs=no"]).ray.worker_logs
    assert load_config(["dummy", "ray.worker_logs=on"]).ray.worker_logs


def test_a_reference_leaves_other_texts_alone() -> None:
    data = {"out": Spelled("1e3"), "seed": 3, "sampling": {"kind": "hedged", "n": "${seed}"}}
    config = build_config(data)
    assert config.out == "1e3"
    assert getattr(config.sampling, "n") == 3  # noqa: B009


@pytest.mark.parametrize(
    ("word", "found"),
    [
        ("a.b=no", {"a": {"b": "no"}}),
        ("a[x.y].z=1", {"a": {"x.y": {"z": 1}}}),
        ("a={1: x, no: y}", {"a": {"1": "x", "no": "y"}}),
        ("a=", {"a": None}),
        ("a=x=y", {"a": "x=y"}),
        ("a=!!python/name:os.system", {"a": "!!python/name:os.system"}),
    ],
)
def test_words(word: str, found: dict[str, Any]) -> None:
    assert read_word(word) == found


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("prompts.given={files:", "quote the whole word for the shell: 'prompts.given=...'"),
        ("a={b: 1, b: 2}", "found twice: b"),
        ("a=[!!python/name:os.system]", "cannot read"),
        ("=3", "cannot read '=3' as key=value"),
    ],
)
def test_what_cannot_be_read_is_said(word: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said.replace("[", r"\[")):
        read_word(word)


def test_maps_that_others_bring_come_first() -> None:
    assert read_yaml("a: &a {k: 1, l: 2}\nb: {<<: *a, k: 3}") == {"a": {"k": 1, "l": 2}, "b": {"k": 3, "l": 2}}
