"""Which weights may be loaded: safetensors are numbers and nothing else; a pickle is a program that builds them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pipeline.core.errors import ConfigError

_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")
_PLAIN = (".safetensors", ".gguf")
_NO_WEIGHTS = ("training_args.bin", "optimizer.pt", "optimizer.bin", "scheduler.pt", "rng_state.pth")


def refuse_pickles(folder: str | Path, key: str) -> None:
    """Refuse a local model or adapter whose weights are there as a pickle only.

    Args:
        folder: a folder, or a file; what does not exist here (a name on the hub) is the loader's to refuse.
        key: the engine's in the config.

    Raises:
        ConfigError: names the file, and the setting that allows it.
    """
    path = Path(folder).expanduser()
    files = [path] if path.is_file() else list(_files(path))
    if any(file.suffix in _PLAIN for file in files):
        return  # these are what the loaders take first
    for file in files:
        if file.suffix in _PICKLES and file.name not in _NO_WEIGHTS:
            raise ConfigError(
                f"{key}.model: {file} is a Python pickle, which can run code when it is loaded; convert it to "
                f"safetensors, or say that you trust it: {key}.allow_pickle_weights=true"
            )


def _files(folder: Path) -> Iterator[Path]:
    if folder.is_dir():
        yield from sorted(file for file in folder.iterdir() if file.is_file())
