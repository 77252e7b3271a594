"""The configs that come along, by name. Imports nothing heavy: the command line completes them."""

from __future__ import annotations

from pathlib import Path


def config_folders() -> list[Path]:
    """Folders in which presets are found by name: the installed package's, or the checkout's ``conf``."""
    package = Path(__file__).parents[1]
    return [p for p in (package / "conf", package.parent / "conf") if p.is_dir()]


def presets() -> dict[str, Path]:
    """Preset name (``demo``, ``models/qwen3-8b``) -> file."""
    found: dict[str, Path] = {}
    for folder in config_folders():
        for path in sorted(folder.rglob("*.yaml")):
            found.setdefault(str(path.relative_to(folder).with_suffix("")), path)
    return found
