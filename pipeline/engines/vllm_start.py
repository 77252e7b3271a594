"""On the CPU, a vLLM engine's core starts in a process that has imported vLLM already.

vLLM's CPU engine is three processes, each started by the one before, and each of them imports vLLM anew: nearly all of
an engine's start. Here the second one is forked off a process that imports vLLM while the first one does, on another
core. (The third one needs another environment before OpenMP loads, so it is spawned as ever.) vLLM's own server can do
the same; ``AsyncLLM`` has no setting for it (https://github.com/vllm-project/vllm/pull/45483). Not tested on GPUs, and
not used there.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.forkserver
import os
import threading
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerContext, ForkServerProcess
from typing import Any

_PRELOADED = "vllm.v1.engine.core"


class _Process(ForkServerProcess):
    """A process that is to its parent what a spawned one is, though another one has forked it off.

    It has its parent's environment, and ends with it: Ray ends only the children of a dead actor, and this one is none.
    """

    def start(self) -> None:
        self._environment = dict(os.environ)
        super().start()

    def run(self) -> None:
        from setproctitle import getproctitle

        getproctitle()  # finds the place of the title, which it does not once the environment has been changed
        os.environ.clear()
        os.environ.update(self._environment)
        threading.Thread(target=_end_with_parent, name="lemonpress-parent", daemon=True).start()
        super().run()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


class _Context(ForkServerContext):
    Process = _Process  # type: ignore[assignment]


def begin() -> None:
    """Have another process import vLLM; returns at once, and is to be called before this one imports it."""
    multiprocessing.set_forkserver_preload([_PRELOADED])
    multiprocessing.forkserver.ensure_running()


def use(utils: Any) -> None:
    """Let vLLM start its engine core there; without effect on a vLLM that starts it otherwise.

    Args:
        utils: the module ``vllm.v1.engine.utils``.
    """
    if hasattr(utils, "get_mp_context"):
        utils.get_mp_context = _Context
