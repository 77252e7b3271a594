"""``lemonpress generate`` beside one plain offline vLLM ``LLM.chat(n=N)`` call: same prompts, model and parameters.

    python scripts/bench/engine.py [pairs=1] [plain=same|bare] [config name, file or key=value ...]

Every pair is one ``generate`` and one ``chat`` call, each in a new process with a new engine (whose first steps are
slow); the order alternates. Tokens per second count the completion tokens of all candidates; Lemonpress's time runs
from the first prompt's start at the engine to the last one's end (``span_seconds`` of the pass's summary), plain vLLM's
is that of the whole call. Start-up is printed apart. Lemonpress gives every request a seed derived from its prompt and
asks for the log-probability of the sampled tokens; ``plain=same`` has the plain call ask the same, ``plain=bare``
leaves both out. Without words about prompts the package's 56 examples are asked; the claim needs at least 100, e.g. the
first 15 questions of MGSM in its seven languages:

    prompts.kind=file prompts.paths.en=mgsm_en.tsv ... 'prompts.header=[question,answer]'
    prompts.columns.prompt=question 'prompts.columns.cluster="@row"' prompts.limit_clusters=15

A last line of JSON holds the numbers.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from plain_vllm import Plain
from side_by_side import LIMIT, Load, machine, own_words, ratio, table

from pipeline.config.config import Config
from pipeline.config.load import load_config
from pipeline.core.folder import RunFolder
from pipeline.core.row import row_from_dict
from pipeline.prompts.sources import read_prompts
from pipeline.tasks import task_for

LOGPROBS = {"logprobs": 0}  # the sampled token's only
SETTINGS = [
    "engines.generator.kind=vllm",
    "engines.generator.model=cache:SmolLM2-135M-Instruct",
    "engines.generator.max_model_len=2048",
    "engines.generator.max_num_seqs=64",
    "sampling.kind=single",
    "sampling.n=3",
    "sampling.temperature=0.7",
    "sampling.max_tokens=32",
    "sampling.stop=['.', '?', '!', '。']",  # a small model's answers seldom end by themselves: their first sentences
    "execution.progress=false",
]


def measure(pairs: int, same: bool, words: Sequence[str], folder: Path) -> dict[str, Any]:
    """Run the pairs, one side after the other."""
    config = load_config([*SETTINGS, *words, f"out={folder / 'asked'}"])
    conversations, seeds = requests(config)
    engine, plan = config.engines["generator"].create(), config.sampling
    assert plan is not None
    names = ("n", "temperature", "top_p", "max_tokens", "top_k", "min_p")
    params: dict[str, Any] = {**{name: getattr(plan, name) for name in names}, "stop": list(plan.stop) or None}
    print(f"{len(conversations)} prompts x {plan.n} candidates, at most {plan.max_tokens} tokens; {machine()}")
    print(Load(), flush=True)
    rows: list[dict[str, Any]] = []
    for pair in range(pairs):
        for side in ("plain", "lemonpress") if pair % 2 == 0 else ("lemonpress", "plain"):
            if side == "plain":
                started = time.monotonic()
                plain = Plain(engine._engine_args())  # type: ignore[attr-defined]
                found = plain.chat(conversations, seeds if same else None, **params, **(LOGPROBS if same else {}))
                plain.close()
                found["wall"] = time.monotonic() - started
            else:
                found = lemonpress(words, folder / f"run{pair}")
            rows.append({"pair": pair, "side": side, **found})
            print(table([_shown(rows[-1])]), flush=True)
    return summary(rows)


def requests(config: Config) -> tuple[list[list[dict[str, Any]]], list[int]]:
    """The conversations that the plan would send, as its tasks instruct, and the seeds of its requests."""
    run = RunFolder(config.out)
    read_prompts(config.prompts, run)
    ((name, plan),) = config.all_plans().items()
    conversations, seeds = [], []
    for values in run.iter_rows("prompts", ("row_id", "prompt_id", "task", "language", "messages", "reference")):
        row = row_from_dict(values)
        prompt = plan.prompt(task_for(row, config.tasks).instruct(row.messages, row), row.language)
        assert not isinstance(prompt, str)
        (request,) = plan.requests(name, row.prompt_id, config.seed)
        conversations.append([{"role": m["role"], "content": m["content"]} for m in prompt])
        seeds.append(request.params.seed or 0)
    return conversations, seeds


def lemonpress(words: Sequence[str], out: Path) -> dict[str, Any]:
    """One ``generate`` as a user runs it."""
    env = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    command = [sys.executable, "-m", "pipeline.cli", "generate", *SETTINGS, *words, f"out={out}"]
    started = time.monotonic()
    ended = subprocess.run(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=LIMIT)
    wall = time.monotonic() - started
    if ended.returncode:
        raise SystemExit(ended.stdout[-3000:])
    run = RunFolder(str(out))
    (summary,) = (run.marker("candidates") or {})["passes"].values()
    pools = [row["candidates"] for row in run.iter_rows("candidates", ("candidates",))]
    return {
        "seconds": summary["span_seconds"],
        "wall": wall,
        "full": summary["load"].get("full"),
        "prompt_tokens": summary["prompt_tokens"],
        "completion_tokens": summary["completion_tokens"],
        "lengths": [c["num_tokens"] for pool in pools for c in pool],
        "finish_reasons": [c["finish_reason"] for pool in pools for c in pool],
    }


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What the pairs say."""
    sides = {name: [row for row in rows if row["side"] == name] for name in ("lemonpress", "plain")}
    speeds = {name: [r["completion_tokens"] / r["seconds"] for r in side] for name, side in sides.items()}
    found = ratio(speeds["lemonpress"], speeds["plain"])
    lengths = sorted(n for row in rows for n in row["lengths"])
    quantiles = [lengths[int(q * (len(lengths) - 1))] for q in (0.1, 0.5, 0.9)]
    starts = {name: min(r["wall"] - r["seconds"] for r in side) for name, side in sides.items()}
    print(f"tokens/s, lemonpress to plain: {found}")
    full = [r["full"] for r in sides["lemonpress"]]
    print(f"share of that time in which Lemonpress's engine was full: {', '.join(f'{f or 0:.1%}' for f in full)}")
    print(f"answers: {quantiles[0]} / {quantiles[1]} / {quantiles[2]} tokens (10%, median, 90%)")
    print(f"start-up and end, beside that (quickest): {', '.join(f'{k} {v:.1f} s' for k, v in starts.items())}")
    return {
        "ratio": {"median": found.median, "low": found.low, "high": found.high, "pairs": found.pairs},
        "tokens_per_second": speeds,
        "wall": {name: [r["wall"] for r in side] for name, side in sides.items()},
        "start": starts,
        "answer_tokens": quantiles,
        "full": full,
        "candidates": [len(row["lengths"]) for row in rows],
    }


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    names = ("pair", "side", "seconds", "wall", "prompt_tokens", "completion_tokens")
    return {**{n: row[n] for n in names}, "tokens/s": row["completion_tokens"] / row["seconds"]}


def main(words: Sequence[str]) -> dict[str, Any]:
    """Take this script's own words apart from the config's."""
    own, rest = own_words(words, "pairs", "plain")
    if own.get("plain", "same") not in ("same", "bare"):
        raise SystemExit("plain= must be same or bare")
    with tempfile.TemporaryDirectory() as folder:
        return measure(int(own.get("pairs", 1)), own.get("plain", "same") == "same", rest, Path(folder))


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1:])))
