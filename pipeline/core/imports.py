"""Where modules are imported from: what is installed, and from the folder one stands in only what is named.

Python puts that folder before all others when it starts with ``-m`` or ``-c``, and Ray does in its workers. Then a file
called ``pandas.py`` beside somebody's prompts is run in place of the library. So the command line takes the folder off
the path, for itself and for every process that it starts; ``modules=[x]`` loads ``x.py`` (or the package ``x``) of that
folder and nothing else.

Nothing but ``os`` and ``sys`` is imported here: this runs before all else.
"""

from __future__ import annotations

import os
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
"""The folder that holds this package: ``site-packages``, or a checkout."""

_named: dict[str, str] = {}  # top-level module that may be imported from a folder -> the folder


def leave_folder_out() -> None:
    """Take the folder one stands in off the import path, unless the user has put it on ``PYTHONPATH``.

    For a process of ours, and what it starts: a variable tells every Python below it the same.
    """
    os.environ["PYTHONSAFEPATH"] = "1"
    if "PYTHONPATH" in os.environ:  # an empty entry, as of PYTHONPATH=$UNSET:/x, means the folder one stands in
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, os.environ["PYTHONPATH"].split(os.pathsep)))
    sys.path[:] = [path for path in sys.path if not is_here(path)]


def is_program() -> bool:
    """Whether this process was started as one of our own programs (``python -m pipeline.cli``, ``-m jobs.run``)."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    return spec is not None and spec.name.partition(".")[0] in ("pipeline", "jobs")


def is_here(path: str) -> bool:
    """Whether an entry of the import path is the folder one stands in, and not named by ``PYTHONPATH``."""
    here = os.getcwd()
    named = [os.path.abspath(p) for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p]
    return not path or (os.path.realpath(path) == os.path.realpath(here) and os.path.abspath(path) not in named)


def search_path() -> list[str]:
    """What another process needs on its import path, to find this package where Python alone would not."""
    named = [os.path.abspath(p) for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p]
    installed = os.path.basename(ROOT) in ("site-packages", "dist-packages")
    return [] if installed or ROOT in named else [ROOT]


class _Named:
    """Finds the modules that were named, in the folder where they were named, and no others."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> object:
        if path is not None or name not in _named:
            return None
        from importlib.machinery import PathFinder

        return PathFinder.find_spec(name, [_named[name]])


def allow(modules: list[str], folder: str | None = None) -> None:
    """Let some modules be imported from a folder (default: the one that one stands in), before what is installed.

    Only those: what one of them imports beside it has to be named, too.
    """
    for module in modules:
        _named[module.partition(".")[0]] = folder or os.getcwd()
    finders: list[object] = sys.meta_path  # type: ignore[assignment]
    if modules and _Named not in finders:
        finders.insert(0, _Named)


def allowed() -> dict[str, str]:
    """Top-level modules that may be imported from a folder -> the folder."""
    return dict(_named)
