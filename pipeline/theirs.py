"""The config of a run that may be a stranger's, as ``verify`` and ``replay`` read it.

A run's ``config.yaml`` is code in all but name: it lists modules to import, programs and models to start, endpoints
that get a key, a cluster to join, and places to write to. Whoever checks somebody's run takes none of that from it.
What is wanted all the same is named once more on the command line.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from pipeline.config import Config, build_config, merge_words, read_layer
from pipeline.engines.base import EngineConfig
from pipeline.errors import ConfigError
from pipeline.remote import is_uri, read_text

_OURS = ("ray", "verify", "replay")
"""Sections that say where the work is done and where its result goes: never the stored config's."""
_CODE = ("trust_remote_code", "allow_pickle_weights", "engine_args", "python", "model_class", "chat_template")
"""Settings of engines that may run code or read files here."""

Layer = dict[str, Any]


def load_theirs(path: str, words: Sequence[str], allowed: Sequence[str] | None = None) -> Config:
    """A run's stored config, with the settings ``words``.

    Args:
        path: the run's ``config.yaml``.
        words: settings, as ``key=value``.
        allowed: the words of the command line, which name what is allowed; default: ``words``.

    Raises:
        ConfigError: the config names modules that the command line does not; otherwise as
            :func:`~pipeline.config.load_config`.
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
            f"modules=[{names}]"
        )
    for section in _OURS:
        stored.pop(section, None)
    return build_config(merge_words([deepcopy(stored)], words))


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
    """Refuse to start a stored config's engine that would run code or send a key, unless the words name it.

    Args:
        engines: those that are going to be started.

    Raises:
        ConfigError: names the setting, and the word that allows it.
    """
    named = merge_words([], words).get("engines") or {}
    for name in engines:
        own = named.get(name) or {}
        for key, value, why in _dangers(config.engines[name]):
            if key not in own:
                shown = value if isinstance(value, str | bool) else "{...}"
                raise ConfigError(
                    f"engines.{name}.{key}: the run's config {why}; if you want that, say so: "
                    f"engines.{name}.{key}={shown}"
                )


def _dangers(engine: EngineConfig) -> Iterator[tuple[str, Any, str]]:
    """(setting, value, what it would do) of an engine's settings that run code or send a key."""
    default = type(engine)()
    for key in _CODE:
        value = getattr(engine, key, None)
        if value != getattr(default, key, None):
            yield key, value, f"sets it to {str(value)[:80]!r}, which may run code or read files of this machine"
    variable = getattr(engine, "api_key_env", None)
    if variable and os.environ.get(variable):
        url = getattr(engine, "base_url", None) or "the default endpoint"
        yield "api_key_env", variable, f"would send the value of {variable} to {str(url)[:200]}"
