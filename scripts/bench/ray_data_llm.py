"""``lemonpress generate`` beside ``ray.data.llm``: N candidates a prompt, end to end, each in a new process.

    python scripts/bench/ray_data_llm.py [pairs=1] [config name, file or key=value ...]

``ray.data.llm`` gives one answer a row, so its side is what its users write: read the prompts, ``flat_map`` each to N
rows (beside each other, so that they share their prefix), ``build_processor``, write Parquet. Its settings: the same
engine arguments as ours (vLLM's statistics on, as by its default), blocks of one batch, and 8 batches of 16 rows at
once, so that twice ``max_num_seqs`` rows are at the engine (its guide wants batch_size x max_concurrent_batches to
fill it, and prefers many small batches), and vLLM itself tokenizes and detokenizes: Ray's stages for that would be two
more pools of processes to start. The local cluster has 8 logical CPUs on both sides, and workers of normal
priority (Ray's own are nice, which costs an engine on the CPU some of its speed). Wall time is that of the whole
process: Python's start to its end. The time at the engine goes from the first request's arrival to the last one's end.
Prompts are given as to ``engine.py``. A last line of JSON holds the numbers.
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

from engine import SETTINGS, lemonpress, requests
from plain_vllm import CPU_SETTINGS
from side_by_side import LIMIT, Load, machine, own_words, ratio, table

from pipeline.config.load import load_config

BATCH, BATCHES, CPUS = 16, 8, 8


def user(request_file: str, out: str) -> None:
    """The other side's whole program."""
    import ray
    from ray.data.llm import build_processor, vLLMEngineProcessorConfig

    asked: dict[str, Any] = json.loads(Path(request_file).read_text())
    os.environ |= {key: os.environ.get(key, value) for key, value in CPU_SETTINGS.items()}
    ray.init(num_cpus=CPUS, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    params, n = asked["params"], asked["n"]

    def candidates(row: dict[str, Any]) -> list[dict[str, Any]]:
        return [{**row, "candidate": k, "seed": row["seed"] + k} for k in range(n)]

    def ask(row: dict[str, Any]) -> dict[str, Any]:
        return {"messages": row["messages"], "sampling_params": {**params, "seed": row["seed"]}}

    def keep(row: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in row.items() if key not in ("sampling_params", "messages")}

    config = vLLMEngineProcessorConfig(
        model_source=asked["engine_args"].pop("model"),
        engine_kwargs=asked["engine_args"],
        batch_size=BATCH,
        max_concurrent_batches=BATCHES,
        concurrency=1,
        placement_group_config={"bundles": [{"CPU": 1}]},  # no GPU
        tokenize_stage=False,
        detokenize_stage=False,
        log_engine_metrics=False,  # vLLM's exporter for Ray wants ray[serve]; its own statistics stay on
    )
    data = ray.data.read_json(asked["prompts"], lines=True).flat_map(candidates)
    data = data.repartition(target_num_rows_per_block=BATCH)
    build_processor(config, preprocess=ask, postprocess=keep)(data).write_parquet(out)


def ray_data_llm(request: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Run it in a new process and look at what it wrote."""
    import pyarrow.dataset as pads

    folder.mkdir()
    (folder / "request.json").write_text(json.dumps(request))
    settings = {**CPU_SETTINGS, "RAY_worker_niceness": "0", **os.environ}
    env = {k: v for k, v in settings.items() if k != "RAY_ADDRESS"}
    command = [sys.executable, __file__, "user", str(folder / "request.json"), str(folder / "out")]
    started = time.monotonic()
    ended = subprocess.run(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=LIMIT)
    wall = time.monotonic() - started
    if ended.returncode:
        raise SystemExit(ended.stdout[-4000:])
    rows = pads.dataset(str(folder / "out")).to_table().to_pylist()
    times = [row["metrics"] for row in rows if row.get("metrics")]
    reasons = sum("finish_reason" in row for row in rows)
    return {
        "wall": wall,
        "at_engine": max(t["last_token_ts"] for t in times) - min(t["queued_ts"] for t in times) if times else None,
        "candidates": len(rows),
        "finish_reasons": reasons,
        "prompt_tokens": sum(row["num_input_tokens"] for row in rows),
        "completion_tokens": sum(row["num_generated_tokens"] for row in rows),
    }


def measure(pairs: int, words: Sequence[str], folder: Path) -> dict[str, Any]:
    """Run the pairs, one side after the other."""
    config = load_config([*SETTINGS, *words, f"out={folder / 'asked'}"])
    conversations, seeds = requests(config)
    plan = config.sampling
    assert plan is not None
    prompts = folder / "prompts.jsonl"
    lines = [json.dumps({"messages": m, "seed": s}) for m, s in zip(conversations, seeds, strict=True)]
    prompts.write_text("\n".join(lines) + "\n")
    engine_args = config.engines["generator"].create()._engine_args()  # type: ignore[attr-defined]
    engine_args = {k: v for k, v in engine_args.items() if k != "disable_log_stats"}
    params = {"temperature": plan.temperature, "top_p": plan.top_p, "max_tokens": plan.max_tokens}
    params |= {"top_k": plan.top_k, "min_p": plan.min_p, **({"stop": list(plan.stop)} if plan.stop else {})}
    request = {"prompts": str(prompts), "n": plan.n, "engine_args": engine_args, "params": params}
    print(f"{len(conversations)} prompts x {plan.n} candidates, at most {plan.max_tokens} tokens; {machine()}")
    print(Load(), flush=True)
    rows: list[dict[str, Any]] = []
    for pair in range(pairs):
        for side in ("ray.data.llm", "lemonpress") if pair % 2 == 0 else ("lemonpress", "ray.data.llm"):
            if side == "lemonpress":
                found = ours(words, folder / f"lemonpress{pair}")
            else:
                found = ray_data_llm(request, folder / f"ray{pair}")
            rows.append({"pair": pair, "side": side, **found, "tokens/s": found["completion_tokens"] / found["wall"]})
            print(table([rows[-1]]), flush=True)
    return summary(rows)


def ours(words: Sequence[str], out: Path) -> dict[str, Any]:
    """``lemonpress generate``, in the same columns."""
    found = lemonpress([*words, f"ray.num_cpus={CPUS}"], out)
    return {
        "wall": found["wall"],
        "at_engine": found["seconds"],
        "candidates": len(found["lengths"]),
        "finish_reasons": sum(reason is not None for reason in found["finish_reasons"]),
        "prompt_tokens": found["prompt_tokens"],
        "completion_tokens": found["completion_tokens"],
    }


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What the pairs say: how many times faster, end to end and at the engine."""
    sides = {name: [row for row in rows if row["side"] == name] for name in ("lemonpress", "ray.data.llm")}
    result: dict[str, Any] = {"runs": rows}
    speeds = {name: [row["tokens/s"] for row in side] for name, side in sides.items()}
    walls = {name: [row["wall"] for row in side] for name, side in sides.items()}
    found = {
        "wall, ray.data.llm to lemonpress": ratio(walls["ray.data.llm"], walls["lemonpress"]),
        "tokens/s end to end, lemonpress to ray.data.llm": ratio(speeds["lemonpress"], speeds["ray.data.llm"]),
    }
    if all(row["at_engine"] for row in rows):
        spans = {name: [r["completion_tokens"] / r["at_engine"] for r in side] for name, side in sides.items()}
        found["tokens/s at the engine, lemonpress to ray.data.llm"] = ratio(spans["lemonpress"], spans["ray.data.llm"])
    for name, value in found.items():
        print(f"{name}: {value}")
        result[name] = {"median": value.median, "low": value.low, "high": value.high}
    return result


def main(words: Sequence[str]) -> dict[str, Any]:
    """Take this script's own words apart from the config's."""
    own, rest = own_words(words, "pairs")
    with tempfile.TemporaryDirectory() as folder:
        return measure(int(own.get("pairs", 1)), rest, Path(folder))


if __name__ == "__main__":
    if sys.argv[1:2] == ["user"]:
        user(*sys.argv[2:4])
    else:
        print(json.dumps(main(sys.argv[1:])))
