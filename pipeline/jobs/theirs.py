"""The config of a run that may be a stranger's, as ``verify`` and ``replay`` read it.

A run's ``config.yaml`` is code in all but name: it lists modules to import, programs and models to start, endpoints
that get a key, a cluster to join, and places to write to. Whoever checks somebody's run takes none of that from it.
What is wanted all the same is named once more on the command line.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Iterator, Sequence
from copy import deepcopy
from pathlib import Path
from shlex import quote  # what is theirs is not to be a command when a message is pasted into a shell
from typing import Any

import yaml  # type: ignore[import-untyped]

from pipeline.config.config import Config
from pipeline.config.load import build_config, merge_words, read_layer
from pipeline.core.errors import ConfigError
from pipeline.core.remote import is_uri, read_text
from pipeline.engines.base import EngineConfig

_OURS = ("ray", "verify", "replay")
"""Sections that say where the work is done and where its result goes: never the stored config's."""
_HARMLESS = {
    *("model", "revision", "verdict_tokens", "pool", "price", "dtype", "device", "head", "runner", "seed"),
    *("max_model_len", "max_length", "truncate_prompt", "max_num_seqs", "batch_size", "add_bos"),
    *("tensor_parallel_size", "pipeline_parallel_size", "thinking", "reasoning_tags"),
    *("latency", "tail", "slots", "words", "accuracy", "always"),
    *("concurrency", "requests_per_minute", "timeout", "retries", "max_tokens_field", "logprobs", "top_logprobs"),
    *("assistant_prefill", "embeddings", "structured_output", "api_key_env"),  # the key itself: see _dangers
}
"""Settings of engines that need not be named: sizes, numbers and which model.

Any other may run code, touch files or call somebody; a new setting does not pass before it is put here.
"""
_WORD = re.compile(r"[\w-]+")

Layer = dict[str, Any]


def load_theirs(path: str, words: Sequence[str], allowed: Sequence[str] | None = None) -> Config:
    """A run's stored config, with the settings ``words``.

    Args:
        path: the run's ``config.yaml``.
        words: settings, as ``key=value``.
        allowed: the words of the command line, which name what is allowed; default: ``words``.

    Raises:
        ConfigError: the config names modules that the command line does not; otherwise as
            :func:`~pipeline.config.load.load_config`.
    """
    _refuse_growth(path)
    stored = read_layer(path)
    named = merge_words([], allowed if allowed is not None else words)
    modules = stored.get("modules") or []
    strange = [m for m in modules if m not in (named.get("modules") or [])] if isinstance(modules, list) else [modules]
    if strange:
        names = ", ".join(map(str, [*(named.get("modules") or []), *strange]))
        raise ConfigError(
            f"{path} names the module {strange[0]!r}, whose code would run here; if you know it, name it yourself: "
            f"{quote(f'modules=[{names}]')}"
        )
    for section in _OURS:
        stored.pop(section, None)
    merged = merge_words([deepcopy(stored)], words)
    _refuse_upstream(merged, named)
    _refuse_templates(merged, named)
    return build_config(merged)


def _refuse_upstream(config: Layer, named: Layer) -> None:
    """Another run's folder may be a URI: its host would get a request that is signed with our credentials.

    A stored config says itself which candidate sets came from there; one that does not must be told.
    """
    prompts, own = config.get("prompts"), named.get("prompts")
    own = own if isinstance(own, dict) else {}
    if not isinstance(prompts, dict) or prompts.get("kind") != "run":
        return
    if prompts.get("sets") is None and own.get("sets") is not None:
        prompts["sets"] = own["sets"]
    if prompts.get("sets") is None and (own.get("path") is None or own["path"] != prompts.get("path")):
        raise ConfigError(
            f"prompts.sets: the run's config does not say which candidate sets came from {str(prompts.get('path'))!r}, "
            "which is not opened unasked; say it: prompts.sets=[NAME, ...]"
        )


def _refuse_templates(config: Layer, named: Layer) -> None:
    """A template that is no built-in one is a file of this machine."""

    def selectors(of: Layer) -> Layer:
        found = of.get("selectors")
        return found if isinstance(found, dict) else {}

    pairs = {"judge": (config.get("judge"), named.get("judge"))}
    pairs |= {f"selectors.{name}": (each, selectors(named).get(name)) for name, each in selectors(config).items()}
    for key, (section, own) in pairs.items():
        for name, value in section.items() if isinstance(section, dict) else ():
            if not str(name).endswith("template") or not isinstance(value, str) or _WORD.fullmatch(value):
                continue
            if not isinstance(own, dict) or own.get(name) != value:
                raise ConfigError(
                    f"{key}.{name}: the run's config names the file {value[:200]!r}, which is not opened unasked; "
                    f"if you want that, say so: {quote(f'{key}.{name}={value[:200]}')}"
                )


def _refuse_growth(path: str) -> None:
    """A stored config is written out; a few lines of references to references would fill the memory."""
    text = read_text(path) if is_uri(path) else Path(path).read_text(encoding="utf-8", errors="replace")
    try:
        grows = "${" in text or any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader))
    except (yaml.YAMLError, RecursionError):
        return  # no YAML, which its reader says
    if grows:
        raise ConfigError(
            f"{path}: holds references (${{...}} or *name), which no config has that was stored with a run"
        )


def check_engines(config: Config, engines: Sequence[str], words: Sequence[str]) -> None:
    """Refuse to start a stored config's engine that could run code, touch files or call an endpoint, unless the words
    name what it would do that with.

    Args:
        engines: those that are going to be started.

    Raises:
        ConfigError: names the settings, and the words that allow them.
    """
    named = merge_words([], words).get("engines") or {}
    for name in engines:
        own = named.get(name) or {}
        found = [danger for danger in _dangers(config.engines[name]) if not _is_named(danger, own)]
        if found:
            what = "; ".join(f"engines.{name}.{key} {why}" for key, _, why in found)
            allow = " ".join(quote(f"engines.{name}.{key}={_shown(value)}") for key, value, _ in found)
            raise ConfigError(
                f"the run's config would do more than load a model: {what}; if you want that, say so: {allow}"
            )


def _is_named(danger: tuple[str, Any, str], own: Layer) -> bool:
    """Words are merged into the stored config's maps: that a key is there does not mean that all in it was named."""
    key, value, _ = danger
    return key in own and (own[key] == value or not isinstance(value, dict))


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _dangers(engine: EngineConfig) -> Iterator[tuple[str, Any, str]]:
    """(setting, value, what it would do) of an engine's settings that nobody should take from a stranger."""
    default = type(engine)()
    for each in dataclasses.fields(engine):
        value = getattr(engine, each.name)
        if each.name not in (*_HARMLESS, "base_url") and value != getattr(default, each.name):
            yield each.name, value, f"is {str(value)[:80]!r}, which may run code or touch files of this machine"
    if not hasattr(engine, "base_url"):
        return
    url, variable = engine.base_url, getattr(engine, "api_key_env", None)
    where = str(url)[:200] if url else "the default endpoint"
    yield "base_url", url, f"would send the prompts to {where}"
    if variable and os.environ.get(variable):
        yield "api_key_env", variable, f"would send the value of {variable} to {where}"
