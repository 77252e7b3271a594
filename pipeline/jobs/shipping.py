"""What a submitted job takes along: its resolved config, the user's own modules, the values of named variables.

The job runs in a folder of its own on the cluster, so paths that are relative here are made absolute: they must lie on
storage that the cluster's nodes see under the same name.
"""

from __future__ import annotations

import importlib
import os
import shutil
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from pipeline.config.config import Config, to_dict
from pipeline.core.errors import ConfigError

CONFIG = "lemonpress.yaml"
_PATHS = ("out", "path", "games", "lora", "log", "output")  # always paths, as is what lies under the next ones
_PATH_MAPS = ("files", "paths")
# Paths, or names of something.
_MAYBE_PATHS = ("template", "checklist_template", "crosslingual_template", "chat_template", "model")


def pack(config: Config, folder: Path) -> None:
    """Write into ``folder`` what the job's working directory must hold.

    Raises:
        ConfigError: a module of the user's own cannot be sent.
    """
    settings = absolute(to_dict(config))
    settings["ray"]["address"] = None  # the job's Ray is the one that it runs on
    (folder / CONFIG).write_text(OmegaConf.to_yaml(OmegaConf.create(settings)), encoding="utf-8")
    for name in {module.partition(".")[0] for module in config.modules}:
        source = importlib.import_module(name).__file__
        if source is None:
            raise ConfigError(f"modules: {name!r} is a namespace package, which cannot be sent; give it an __init__.py")
        path = Path(source)
        if path.name == "__init__.py":
            shutil.copytree(path.parent, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(path, folder / path.name)


def absolute(value: Any, key: str = "", parent: str = "") -> Any:
    """The config's plain dicts with relative local paths made absolute."""
    if isinstance(value, dict):
        return {k: absolute(v, str(k), key) for k, v in value.items()}
    if isinstance(value, list):
        return [absolute(v, key, parent) for v in value]
    if not isinstance(value, str) or not value or "://" in value:
        return value
    path = Path(value).expanduser()
    if key in _PATHS or parent in _PATH_MAPS or (key in _MAYBE_PATHS and path.exists()):
        return os.path.abspath(path)  # not resolve(): a link's name is what the nodes share
    return value


def variables(config: Config, environment: Mapping[str, str]) -> dict[str, str]:
    """Environment variables for the job: those under ``ray.env``, and the engines' keys that are set here.

    Raises:
        ConfigError: one that ``ray.env`` names is not set.
    """
    missing = [name for name in config.ray.env if name not in environment]
    if missing:
        raise ConfigError(f"ray.env: the environment variable {missing[0]} is not set here")
    keys = [getattr(engine, "api_key_env", None) for engine in config.engines.values()]
    return {name: environment[name] for name in [*config.ray.env, *keys] if name and name in environment}


def keys_left(config: Config, sent: Container[str]) -> list[str]:
    """Variables that hold an engine's key and are not sent along: the cluster must set them itself."""
    names = {engine.key_name() for engine in config.engines.values()}
    return sorted(name for name in names if name and name not in sent)
