"""Plain vLLM as a user writes it, in a process of its own: one offline ``LLM``, one ``chat`` call per measurement.

Reads one JSON object a line from standard input (engine arguments first, then requests) and answers with one a line.
"""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

CPU_SETTINGS = {"VLLM_LOGGING_LEVEL": "WARNING", "VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_KVCACHE_SPACE": "2"}
"""What Lemonpress sets for its own engines on the CPU (``pipeline/engines/vllm.py``)."""


class Plain:
    """The other process, as the benchmark sees it.

    Args:
        engine_args: of ``vllm.LLM``.
    """

    def __init__(self, engine_args: dict[str, Any]) -> None:
        command = [sys.executable, str(Path(__file__).resolve())]
        env = {**CPU_SETTINGS, **os.environ}
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env, text=True)
        atexit.register(self.close)
        self._ask(engine_args)

    def chat(self, conversations: list[list[dict[str, Any]]], seeds: list[int] | None, **params: Any) -> dict[str, Any]:
        """One ``LLM.chat`` call; see :func:`serve` for what comes back."""
        return self._ask({"conversations": conversations, "seeds": seeds, "params": params})

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"the plain engine ended (exit code {self._process.wait()})")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End the process and its engine."""
        if self._process.poll() is None and self._process.stdin is not None:
            self._process.stdin.close()
            try:
                self._process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                self._process.kill()


def serve() -> None:
    """The other process: answers with the call's seconds and tokens."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what vLLM prints must not mix with the answers
    import vllm

    llm = vllm.LLM(**json.loads(sys.stdin.readline()))
    _answer(answers, {"vllm": vllm.__version__})
    for line in sys.stdin:
        request = json.loads(line)
        seeds = request["seeds"] or [None] * len(request["conversations"])
        params = [vllm.SamplingParams(seed=seed, **request["params"]) for seed in seeds]
        started = time.monotonic()
        outputs = llm.chat(request["conversations"], params, use_tqdm=False)
        seconds = time.monotonic() - started
        children = [child for output in outputs for child in output.outputs]
        _answer(
            answers,
            {
                "seconds": seconds,
                "prompt_tokens": sum(len(output.prompt_token_ids or []) for output in outputs),
                "completion_tokens": sum(len(child.token_ids) for child in children),
                "lengths": [len(child.token_ids) for child in children],
            },
        )


def _answer(stream: Any, values: dict[str, Any]) -> None:
    stream.write(json.dumps(values) + "\n")
    stream.flush()


if __name__ == "__main__":
    serve()
