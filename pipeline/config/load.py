"""From words to the config: presets, files and ``key=value`` words, merged left to right, built and checked.

Named maps (``engines.judge``, ``selectors.chops``, ``plans.hot``) merge by name. Their items, and ``prompts`` and
``sampling``, carry a ``kind`` that picks the dataclass, against which they are then checked strictly. A later layer
that changes a ``kind`` replaces the item instead of mixing two kinds' keys. Every mistake is a
:class:`~pipeline.core.errors.ConfigError` that names the full key and the nearest valid one; nothing heavy is imported.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import re
import types
import typing
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from omegaconf.resolvers import oc

from pipeline.config.checks import check
from pipeline.config.config import Config, Top
from pipeline.config.presets import presets
from pipeline.config.words import Spelled, read_word, read_yaml
from pipeline.core.errors import ConfigError, first_line, nearest
from pipeline.core.imports import allow
from pipeline.core.registry import Registry
from pipeline.core.remote import is_uri, read_text
from pipeline.core.safety import find_secrets
from pipeline.engines.base import ENGINES, EngineConfig
from pipeline.judging.answers import ANSWERS, AnswerSource
from pipeline.prompts.sources import SOURCES, RunSource, SourceConfig
from pipeline.sampling.plans import PLANS, PlanConfig
from pipeline.selection.base import SELECTORS, Selector
from pipeline.tasks import TASKS, Task

T = TypeVar("T")

_WRONG_TYPE = re.compile(r"Value (.+?) (?:of type '\w+' could not be converted to|is not a valid) (Integer|Float|bool)")
_NO_FILE = ' in "<unicode string>",'
_TYPES = {"Integer": "a whole number", "Float": "a number", "bool": "true or false"}

_REGISTRIES: dict[Any, Registry[Any]] = {
    SourceConfig: SOURCES,
    EngineConfig: ENGINES,
    PlanConfig: PLANS,
    Task: TASKS,
    Selector: SELECTORS,
    AnswerSource: ANSWERS,
}
"""Base class of what a ``kind`` picks."""
_DEFAULT_KINDS = {"prompts": "example", "sampling": "hedged"}
_NAMED_AFTER_KIND = ("selectors", "tasks")  # an item without a kind takes its own name as its kind


def load_config(words: Sequence[str]) -> Config:
    """Merge presets, files and ``key=value`` words, left to right, and check the result.

    Args:
        words: e.g. ``["conf/demo.yaml", "sampling.n=3", "out=runs/x"]``; a word without ``=`` is a file or the
            name of a preset.

    Raises:
        ConfigError: missing file, unknown key, wrong type or contradictory choice; the message names the key.
    """
    return build_config(merge_words([], words))


def merge_words(layers: Sequence[dict[str, Any]], words: Sequence[str]) -> dict[str, Any]:
    """Plain nested dicts of some layers, then presets, files and ``key=value`` words, merged in this order.

    Raises:
        ConfigError: a file or word cannot be read.
    """
    merged: dict[str, Any] = {}
    for layer in layers:
        _merge(merged, layer)
    for word in words:
        is_setting = "=" in word and not is_uri(word) and not Path(word).exists()
        _merge(merged, read_word(word) if is_setting else read_layer(word))
    return merged


def build_config(data: dict[str, Any]) -> Config:
    """Check plain nested dicts against the dataclasses and return the config.

    Raises:
        ConfigError: as :func:`load_config`.
    """
    hints = typing.get_type_hints(Config)
    _check_keys(data, hints, "")
    _import(data.get("modules") or [])
    with _no_environment():
        data = {"prompts": {}, **_resolve(data)}
        if "sampling" not in data and not data.get("plans") and not _brings_candidates(data["prompts"] or {}):
            data["sampling"] = {}
        top = [f.name for f in dataclasses.fields(Top)]
        values = vars(_build(Top, {name: data[name] for name in top if name in data}, ""))
        for name, value in data.items():
            if name not in top and (name != "sampling" or value is not None):
                values[name] = _value(hints[name], value or {}, name, _DEFAULT_KINDS.get(name))
        config = Config(**values)
        if isinstance(config.prompts, RunSource):
            config.prompts.find_sets()
        check(config)
        return config


def _elsewhere(key: str) -> str:
    """The sections that have a key of this name, in words: what was meant by one that stands at the top."""
    found = []
    for section, hint in typing.get_type_hints(Config).items():
        registered = next((_REGISTRIES[part] for part in (*typing.get_args(hint), hint) if part in _REGISTRIES), None)
        kinds = [kind for _, kind in registered.items()] if registered else [hint]
        if any(key == f.name for kind in kinds if dataclasses.is_dataclass(kind) for f in dataclasses.fields(kind)):
            found.append(f"{section}.NAME" if typing.get_origin(hint) is dict else section)
    return f"; {key} is a key of {', '.join(found)}" if found else ""


def _brings_candidates(source: Any) -> bool:
    given = (source.get("given") if isinstance(source, dict) else None) or {}
    from_run = isinstance(source, dict) and source.get("kind") == "run"
    return from_run or (isinstance(given, dict) and any(given.get(key) for key in ("column", "columns", "files")))


def _import(modules: Any) -> None:
    """Import the user's own modules; from the folder that the user stands in, those and no others."""
    modules = _shaped(list[str], modules, "modules")
    if odd := [m for m in modules if not isinstance(m, str)]:
        raise ConfigError(f"modules: must be names of Python modules, not {odd[0]!r}")
    allow(modules)
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            other = getattr(error, "name", None)
            hint = f"; if {other}.py is yours, name it under modules, too" if other and other not in modules else ""
            raise ConfigError(f"modules: cannot import {module!r}: {error}{hint}") from error


def _value(hint: Any, value: Any, key: str, kind: str | None) -> Any:
    """A section, or a map of named items, from plain data.

    Args:
        kind: of an item that names none.
    """
    parts = [part for part in typing.get_args(hint) if part is not type(None)]
    cls = parts[-1] if parts else hint  # of X, X | None, dict[str, X]
    if typing.get_origin(hint) is dict:
        if not isinstance(value, dict):
            raise ConfigError(f"{key}: must be a map of names, not {type(value).__name__}")
        own = key in _NAMED_AFTER_KIND
        items = {name: item for name, item in value.items() if item is not None}
        return {name: _value(cls, item, f"{key}.{name}", str(name) if own else None) for name, item in items.items()}
    if cls not in _REGISTRIES:
        return _build(cls, value, key)
    if not isinstance(value, dict):
        cure = f"; set prompts.kind=file prompts.path={value}" if key == "prompts" and isinstance(value, str) else ""
        raise ConfigError(f"{key}: must be a map with a kind, not {value!r}{cure}")
    kind = value.get("kind") or kind
    if kind is None:
        raise ConfigError(f"{key}.kind: missing; one of {', '.join(_REGISTRIES[cls])}")
    rest = {name: item for name, item in value.items() if name != "kind"}
    return _build(_REGISTRIES[cls].get(str(kind), f"{key}.kind"), rest, key)


def _build(cls: type[T], data: Any, key: str) -> T:
    """Strict, typed construction of one dataclass from plain data."""
    data = _shaped(cls, data, key)
    try:
        node = OmegaConf.merge(_structured(typing.cast(Any, cls)), data)
        return typing.cast(T, OmegaConf.to_object(node))
    except OmegaConfBaseException as error:
        full = ".".join(part for part in (key, error.full_key or "") if part)
        wrong = _WRONG_TYPE.match(first_line(error))
        said = f"must be {_TYPES[wrong[2]]}, not {wrong[1]}" if wrong else first_line(error)
        raise ConfigError(f"{full}: {said}") from error


@functools.cache
def _structured(cls: type) -> Any:
    """The class as OmegaConf sees it, which takes longer than all else about a config; a merge works on a copy."""
    return OmegaConf.structured(cls)


def _check_keys(data: dict[str, Any], valid: typing.Iterable[str], key: str) -> None:
    for name in data:
        if name not in valid:
            full = f"{key}.{name}" if key else str(name)
            hint = "" if key else _elsewhere(str(name))
            raise ConfigError(f"unknown config key {full!r}{hint or nearest(str(name), valid)}")


def _shaped(hint: Any, value: Any, key: str) -> Any:
    """The value: text where the setting is text (also for a number or ``true``), numbers where anything may be.

    Unknown keys are refused, and a map, a list or a plain value where another of these belongs; OmegaConf checks and
    converts the rest.

    Raises:
        ConfigError: naming the key of the very item.
    """
    options = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    if value is None:
        return None
    if Any in options:
        return _numbers(value)
    kind = next((o for o in options if o is not type(None)), str)
    container, inner = typing.get_origin(kind) or kind, typing.get_args(kind)
    is_section = dataclasses.is_dataclass(kind)
    what = "a list" if container is list else "a map" if container is dict or is_section else "one value"
    found = "a list" if isinstance(value, list) else "a map" if isinstance(value, dict) else "one value"
    if found != what:
        hint = f"; as in {key}=[{value}]" if (what, found) == ("a list", "one value") else ""
        raise ConfigError(f"{key}: must be {what}, not {repr(value) if found == 'one value' else found}{hint}")
    if is_section:
        hints = typing.get_type_hints(kind)
        _check_keys(value, [f.name for f in dataclasses.fields(typing.cast(Any, kind))], key)
        return {name: _shaped(hints[name], item, f"{key}.{name}" if key else name) for name, item in value.items()}
    if isinstance(value, dict):
        return {name: _shaped(inner[1] if inner else Any, item, f"{key}.{name}") for name, item in value.items()}
    if isinstance(value, list):
        if None in value:
            raise ConfigError(f"{key}[{value.index(None)}]: is empty")
        return [_shaped(inner[0] if inner else Any, item, f"{key}[{i}]") for i, item in enumerate(value)]
    if kind is str and isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Spelled):
        return value.number if kind is float else str(value)
    return value


def _numbers(value: Any) -> Any:
    """Plain data in which every number is one."""
    if isinstance(value, dict):
        return {name: _numbers(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_numbers(item) for item in value]
    return value.number if isinstance(value, Spelled) else value


def read_layer(name: str) -> dict[str, Any]:
    """A preset or config file as plain nested dicts. Raises ConfigError."""
    path = Path(name).expanduser()
    if not is_uri(name) and not path.is_file():
        known = presets()
        preset = known.get(name) or known.get(name.removeprefix("conf/").removesuffix(".yaml"))
        if preset is None:
            raise ConfigError(
                f"{name}: neither a config file, the name of a preset nor a run's folder{nearest(name, known)}"
            )
        path = preset
    try:
        layer = read_yaml(read_text(name) if is_uri(name) else path.read_text(encoding="utf-8")) or {}
    except ConfigError:
        raise
    except Exception as error:
        hint = f"; for prompts: prompts.kind=file prompts.path={name}" if path.suffix not in (".yaml", ".yml") else ""
        raise ConfigError(
            f"{path}: not valid YAML: {' '.join(str(error).replace(_NO_FILE, '').split())[:300]}{hint}"
        ) from error
    if not isinstance(layer, dict):
        raise ConfigError(f"{path}: a config file must be a map of sections, not {type(layer).__name__}")
    return typing.cast(dict[str, Any], layer)


def _merge(base: dict[str, Any], layer: dict[str, Any]) -> None:
    """Merge ``layer`` into ``base`` in place; where the ``kind`` changes, the layer's item replaces the base's."""
    for key, value in layer.items():
        old = base.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            if "kind" in value and "kind" in old and value["kind"] != old["kind"]:
                base[key] = value
            else:
                _merge(old, value)
        else:
            base[key] = value


@contextmanager
def _no_environment() -> Iterator[None]:
    """Refuse ``${oc.env:...}``: the resolved config is stored with the run, where a secret must never be.

    The resolver is replaced, because texts can spell it in other ways (``${oc.${x}:KEY}``); it is the whole process's.
    """

    def refuse(*_: Any) -> str:
        raise ConfigError(
            "environment variables may not be copied into the config, which is stored with the run; "
            "name the variable instead (e.g. api_key_env: MY_KEY)"
        )

    OmegaConf.register_resolver("oc.env", refuse, replace=True)
    try:
        yield
    finally:
        OmegaConf.register_resolver("oc.env", oc.env, replace=True)


def _resolve(data: dict[str, Any]) -> dict[str, Any]:
    """Fill in references (``${engines.generator}``); refuse values left open (``???``) and secrets."""
    try:
        resolved = _spelled(OmegaConf.to_container(OmegaConf.create(_spelled(data, None)), resolve=True), data)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key or 'config'}: {first_line(error)}") from error
    _refuse_gaps(resolved, "")
    for key in find_secrets(resolved):
        raise ConfigError(
            f"{key}: holds a secret, and the config is stored with the run; put it into an environment variable"
        )
    return typing.cast(dict[str, Any], resolved)


def _spelled(value: Any, like: Any) -> Any:
    """``value`` with :class:`Spelled` numbers where ``like`` has them: OmegaConf takes plain texts only."""
    if isinstance(value, dict):
        others = like if isinstance(like, dict) else {}
        return {name: _spelled(item, others.get(name)) for name, item in value.items()}
    if isinstance(value, list):
        items = like if isinstance(like, list) else [None] * len(value)
        return [_spelled(item, other) for item, other in zip(value, items, strict=True)]
    return like if isinstance(like, Spelled) else str(value) if isinstance(value, Spelled) else value


def _refuse_gaps(value: Any, key: str) -> None:
    if isinstance(value, dict):
        for k, v in value.items():
            _refuse_gaps(v, f"{key}.{k}" if key else str(k))
    elif isinstance(value, list):
        for i, v in enumerate(value):
            _refuse_gaps(v, f"{key}[{i}]")
    elif value == "???":
        raise ConfigError(f"{key}: missing; set {key}=...")
