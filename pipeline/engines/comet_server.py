"""Runs a COMET model: the other end of :mod:`pipeline.engines.comet`, in COMET's own Python environment.

It knows nothing of Lemonpress and runs as a file: ``python -I comet_server.py MODEL REVISION BATCH_SIZE``. Standard
input and output carry one JSON value a line: first ``{"ready": true, ...}``, then for each list of requests
``{"src", "mt", "ref"}`` a list of numbers, in order, with ``{"error": text}`` in place of a request that failed.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any


def checkpoint(model: str, revision: str | None) -> str:
    """Path of the checkpoint: a file, a folder that holds ``checkpoints/model.ckpt``, or a hub repository."""
    if os.path.isfile(model):
        return model
    if not os.path.isdir(model):
        from huggingface_hub import snapshot_download

        model = snapshot_download(model, revision=revision)
    return os.path.join(model, "checkpoints", "model.ckpt")


class Model:
    """The model, on a GPU where there is one."""

    def __init__(self, path: str, batch_size: int) -> None:
        import logging

        import torch
        from comet import load_from_checkpoint

        logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)  # a line about devices at every call
        self._model: Any = load_from_checkpoint(path)
        self._batch_size = batch_size
        self._gpus = int(torch.cuda.is_available())

    def scores(self, requests: list[dict[str, str]]) -> list[Any]:
        """The scores, the library's own; when the batch fails, its requests are tried one at a time."""
        try:
            # No workers that load data: they would fork this process at every call.
            found = self._model.predict(
                requests, batch_size=self._batch_size, gpus=self._gpus, progress_bar=False, num_workers=0
            )
            return [float(score) for score in found["scores"]]
        except Exception as error:
            if len(requests) == 1:
                return [{"error": f"{type(error).__name__}: {str(error)[:300]}"}]
            return [self.scores([request])[0] for request in requests]


def main() -> None:
    """Load, say so, and answer until standard input ends: it ends with the worker, however that ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what the library prints must not come between the answers
    try:
        name, revision, size = sys.argv[1:]
        model = Model(checkpoint(name, revision or None), int(size))
    except Exception as error:
        print(json.dumps({"error": f"{type(error).__name__}: {str(error)[:1000]}"}), file=answers, flush=True)
        raise SystemExit(1) from error
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in sys.stdin.buffer:
        print(json.dumps(model.scores(json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
