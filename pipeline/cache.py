"""Lemonpress's cache folder: models that the set-up scripts prepared, outside the repository."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """``$LEMONPRESS_CACHE``, else ``$XDG_CACHE_HOME/lemonpress``, else ``~/.cache/lemonpress``."""
    own = os.environ.get("LEMONPRESS_CACHE")
    if own:
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "lemonpress"


def model_path(model: str) -> str:
    """``cache:NAME`` -> the folder ``models/NAME`` of the cache; ``~`` is expanded; other names stay as they are."""
    if model.startswith("cache:"):
        return str(cache_folder() / "models" / model.removeprefix("cache:"))
    return str(Path(model).expanduser()) if model.startswith("~") else model
