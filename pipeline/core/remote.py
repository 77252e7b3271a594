"""Files elsewhere: on object stores, whatever URI ``pyarrow.fs`` opens (``s3://``, ``gs://``, ``hdfs://`` ...), and in
Lemonpress's cache folder, which holds copies of those and the models that the set-up scripts prepared.

Credentials come from where the store's own tools look for them: ``AWS_ACCESS_KEY_ID`` and ``AWS_SECRET_ACCESS_KEY``, a
profile or an instance's role, ``GOOGLE_APPLICATION_CREDENTIALS``. A URI that carries some is refused, because paths are
stored with the run. An S3-compatible server is named by ``AWS_ENDPOINT_URL``, or in the URI:
``s3://bucket/run?scheme=http&endpoint_override=127.0.0.1%3A9000``.
"""

from __future__ import annotations

import fnmatch
import os
import re
import tempfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.fs as pafs

from pipeline.core.errors import ConfigError, first_line
from pipeline.core.hashing import digest

_URI = re.compile(r"[a-z][a-z0-9+.-]+://")
_PATTERN = re.compile(r"[*\[]")
_origins: dict[Path, str] = {}


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


def scratch_file() -> IO[bytes]:
    """An empty file without a name, gone when it is closed: on the disk of the cache folder, since it may become large;
    where that cannot be written, in the system's folder for such files."""
    with suppress(OSError):
        cache_folder().mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryFile(dir=cache_folder())
    return tempfile.TemporaryFile()


def is_uri(path: str) -> bool:
    """Whether ``path`` is a URI and no local path."""
    return _URI.match(path) is not None


def check_uri(path: str, key: str) -> None:
    """Raise ConfigError, naming ``key``, when a URI holds a password or secret key."""
    if is_uri(path) and urlsplit(path).password:
        raise ConfigError(
            f"{key}: credentials may not stand in a path, which is stored with the run; set environment variables "
            "(AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY) or use the machine's role"
        )


def open_uri(path: str, key: str) -> tuple[pafs.FileSystem, str]:
    """The file system of a URI, and the path on it.

    Raises:
        ConfigError: the URI is wrong, or carries credentials; the message names ``key``.
    """
    check_uri(path, key)
    try:
        return pafs.FileSystem.from_uri(path)  # type: ignore[no-any-return]
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ConfigError(f"{key}: cannot open {path}: {first_line(error)}") from error


def local_copies(path: str, key: str, wanted: Callable[[str], bool] = lambda name: True) -> list[Path]:
    """The files that a URI means (a file, a folder or a glob), as copies in the cache folder, sorted.

    What reads prompts and answers maps its files into memory, so they have to be on this machine. A copy keeps the name
    and the time of change, and is made once for every state of its original.

    Args:
        wanted: chooses among a folder's files by their names.

    Raises:
        ConfigError: there is no such file.
    """
    fs, inner = open_uri(path, key)
    try:
        infos = _find(fs, inner, wanted)
    except OSError as error:
        raise ConfigError(f"{key}: cannot read {path}: {first_line(error)}") from error
    if not infos:
        raise ConfigError(f"{key}: no such file: {path}")
    if isinstance(fs, pafs.LocalFileSystem) and [info.path for info in infos] != [inner]:
        pattern = _PATTERN.search(inner)
        refuse_links_out((i.path for i in infos), _fixed(inner) if pattern else inner, key)
    scheme = path.partition("://")[0]
    copies = []
    for info in sorted(infos, key=lambda i: i.path):
        copy = cache_folder() / "remote" / digest(path, info.path, info.size, info.mtime_ns) / info.base_name
        if not copy.exists():
            _copy(fs, info, copy)
        _origins[copy] = f"{scheme}://{info.path}"
        copies.append(copy)
    return copies


def read_text(path: str) -> str:
    """The text of a small file.

    Raises:
        ConfigError: there is no such file.
    """
    fs, inner = open_uri(path, "config")
    try:
        with fs.open_input_stream(inner) as stream:
            return bytes(stream.read()).decode("utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read the config {path}: {first_line(error)}") from error


def origin(path: Path) -> str:
    """What a person knows a file as: the original of a copy, else its path."""
    return _origins.get(path, str(path))


def refuse_links_out(paths: Iterable[str | Path], folder: str | Path, key: str) -> None:
    """Refuse files that were found in a folder and are links out of it: a stranger's folder may name any file of ours.

    Raises:
        ConfigError: the message names ``key`` and the link.
    """
    home = Path(folder).resolve()
    for path in paths:
        real = Path(path).resolve()
        if not real.is_relative_to(home):
            raise ConfigError(
                f"{key}: {path} is a link that leads out of the folder, to {real}: a stranger's folder could name any "
                "file of yours so; if it is meant (a snapshot in the hub's cache holds nothing but such links), name "
                "the files instead of their folder: prompts.path=FILE, or a file a language under prompts.paths"
            )


def _find(fs: pafs.FileSystem, inner: str, wanted: Callable[[str], bool]) -> list[pafs.FileInfo]:
    pattern = _PATTERN.search(inner)
    if pattern:
        folder = _fixed(inner)
        every = fs.get_file_info(pafs.FileSelector(folder, recursive=True, allow_not_found=True))
        return [i for i in every if i.is_file and fnmatch.fnmatchcase(i.path, inner)]
    info = fs.get_file_info(inner)
    if info.is_file:
        return [info]
    every = fs.get_file_info(pafs.FileSelector(inner, recursive=True, allow_not_found=True))
    return [i for i in every if i.is_file and not i.base_name.startswith((".", "_")) and wanted(i.base_name)]


def _fixed(pattern: str) -> str:
    """The folder of a pattern, before its first wildcard."""
    return _PATTERN.split(pattern)[0].rpartition("/")[0]


def _copy(fs: pafs.FileSystem, info: pafs.FileInfo, copy: Path) -> None:
    copy.parent.mkdir(parents=True, exist_ok=True)
    half = copy.with_name(f"{copy.name}.{os.getpid()}.part")
    pafs.copy_files(info.path, str(half), source_filesystem=fs, destination_filesystem=pafs.LocalFileSystem())
    os.utime(half, ns=(info.mtime_ns or 0, info.mtime_ns or 0))
    half.replace(copy)
