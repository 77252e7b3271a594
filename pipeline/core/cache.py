"""Lemonpress's cache folder: models that the set-up scripts prepared, outside the repository."""

from __future__ import annotations

import os
from pathlib import Path

from pipeline.core.hashing import digest


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


def model_commit(model: str, revision: str | None = None) -> str | None:
    """Which weights a model's name stands for on this machine.

    A hub model's commit, from the hub's own cache; of a local folder ``files:`` with a hash of its ``config.json`` and
    of its files' names and sizes; ``None`` where neither is here (an endpoint's model, a worker's own cache).
    """
    folder = Path(model_path(model))
    if folder.is_dir():
        files = sorted((p.name, p.stat().st_size) for p in folder.iterdir() if p.is_file())
        own = folder / "config.json"
        return f"files:{digest(files, own.read_text(encoding='utf-8') if own.is_file() else '', size=8)}"
    if revision and (revision.startswith("/") or ".." in revision.split("/")):
        return None  # a stranger's config may name any: it is part of a path
    from huggingface_hub.constants import HF_HUB_CACHE

    ref = Path(HF_HUB_CACHE, "models--" + model.replace("/", "--"), "refs", revision or "main")
    return ref.read_text(encoding="utf-8").strip() if ref.is_file() else None
