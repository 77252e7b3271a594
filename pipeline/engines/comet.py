"""COMET and XCOMET, learned metrics of translation quality, in a Python environment of their own.

Their library unbabel-comet (2.2.7) asks for numpy < 2, transformers < 5 and protobuf < 5, so it cannot be installed
beside Ray, vLLM and this package. ``scripts/comet.sh`` makes the environment; every actor of the pool runs
``comet_server.py`` in it as a child process. So the numbers are the library's own.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.core.bounds import bounded
from pipeline.core.errors import ConfigError, EngineDead, EngineRequestError
from pipeline.core.remote import cache_folder, model_path
from pipeline.core.row import Tokens
from pipeline.engines.base import ENGINES, Engine, EngineConfig, Scored
from pipeline.engines.batching import BatchedEngine

SERVER = Path(__file__).with_name("comet_server.py")

Request = dict[str, str]

_BATCHES = 4  # forward passes a call: the library sorts a call's texts by length, which saves padding


def comet_python(configured: str | None = None) -> str:
    """The interpreter of COMET's environment: as configured, ``$LEMONPRESS_COMET_PYTHON``, else where the script
    ``scripts/comet.sh`` makes it.
    """
    path = configured or os.environ.get("LEMONPRESS_COMET_PYTHON") or cache_folder() / "comet/bin/python"
    return str(Path(path).expanduser())


@ENGINES.register("comet")
@dataclass
class CometEngineConfig(EngineConfig):
    """Config of a COMET model that compares a translation with its source and a reference.

    ``model`` is a hub repository, a folder that holds ``checkpoints/model.ckpt`` and ``hparams.yaml``, or such a
    ``.ckpt`` file. The paper's XCOMET-XL (``Unbabel/XCOMET-XL``, 3.5B parameters) is gated: accept its licence
    (CC BY-NC-SA 4.0: no commercial use) on the hub and log in. All of them are Python pickles, which can run code when
    they are loaded: use only those that you trust, and pin ``revision``.

    Attributes:
        allow_pickle_weights: that you trust the checkpoint; it is not loaded otherwise.
        batch_size: texts per forward pass. It uses the GPU that ``pool.num_gpus=1`` gives to each actor, else the CPU.
        python: interpreter of the environment that holds unbabel-comet; ``null`` = ``$LEMONPRESS_COMET_PYTHON``, else
            the one that ``scripts/comet.sh`` made. On a cluster every node needs it, at the same path.
    """

    model: str = bounded("", filled=True, cure="e.g. Unbabel/XCOMET-XL")
    allow_pickle_weights: bool = False
    batch_size: int = bounded(16, ge=1)
    python: str | None = None

    def capabilities(self) -> frozenset[str]:
        return frozenset({"quality"})

    def max_requests(self) -> int:
        return _BATCHES * self.batch_size

    def check(self, key: str) -> None:
        if not self.allow_pickle_weights:
            raise ConfigError(
                f"{key}.allow_pickle_weights: COMET's checkpoints are Python pickles, which can run code when they are "
                f"loaded; if you trust {self.model}, say so: {key}.allow_pickle_weights=true"
            )

    def ready(self, key: str) -> None:
        python = comet_python(self.python)
        probe = "import importlib.util as i; raise SystemExit(i.find_spec('comet') is None)"
        try:
            found = subprocess.run([python, "-I", "-c", probe], capture_output=True, check=False).returncode == 0
        except OSError:
            found = False
        if not found:
            raise ConfigError(f"{key}.python: {python} is no Python with unbabel-comet; scripts/comet.sh makes one")

    def create(self) -> Engine:
        return CometEngine(self)


class CometEngine(BatchedEngine[Request]):
    """See :class:`CometEngineConfig`."""

    def __init__(self, config: CometEngineConfig) -> None:
        super().__init__(config, config.max_requests())
        self.config = config
        self._child: subprocess.Popen[str] | None = None

    async def stop(self) -> None:
        child = self._child
        if child is not None:
            child.kill()
        await super().stop()
        if child is not None:
            child.communicate()

    async def quality(self, source: str, text: str, reference: str) -> Scored:
        """The model's score, cut to 0..1: of the older models some leave it by a little, XCOMET's do not go above."""
        return await self._ask({"src": source, "mt": text, "ref": reference})

    def _load(self) -> None:
        config = self.config
        command = [comet_python(config.python), "-I", str(SERVER), model_path(config.model), config.revision or ""]
        try:
            self._child = subprocess.Popen(
                [*command, str(config.batch_size)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8"
            )
        except OSError as error:
            raise ConfigError(f"{command[0]}: {error.strerror}; scripts/comet.sh makes COMET's environment") from None
        said = self._read()
        if "error" in said:
            raise ConfigError(f"{config.model} cannot be loaded: {said['error']}")

    def _score(self, requests: list[Request]) -> Sequence[Scored | EngineRequestError]:
        assert self._child is not None and self._child.stdin is not None
        try:
            self._child.stdin.write(json.dumps(requests) + "\n")
            self._child.stdin.flush()
        except OSError as error:
            raise EngineDead(f"COMET's process ended: {error}") from error
        return [_result(said) for said in self._read()]

    def _read(self) -> Any:
        assert self._child is not None and self._child.stdout is not None
        line = self._child.stdout.readline()
        if not line.endswith("\n"):
            raise EngineDead(f"COMET's process ended with exit code {self._child.wait()}")
        return json.loads(line)


def _result(said: float | dict[str, str]) -> Scored | EngineRequestError:
    if isinstance(said, dict):
        return EngineRequestError(said["error"])
    if not math.isfinite(said):
        return EngineRequestError(f"the score is {said}")
    return Scored(min(max(said, 0.0), 1.0), Tokens(1))
