"""What the framework itself costs a row: rows/s through generate and select, beside the best plan by hand.

    python scripts/bench/overhead.py [prompts=20000] [pairs=1] [blocks=500,2000] [key=value ...]

The engine is the dummy one without latency, five candidates a prompt. The side by hand is what a user writes:
read_parquet, repartition, map_batches on one actor, write_parquet, twice, and nothing else: no retries, journal,
resume, progress, or verdict about lost rows. It reads one file, asks the same dummy engine for the same texts, sees in
which language each of them is, and gets the block size, of ``blocks``, with which it is fastest. Times are those of
the passes, from plan to last write: Ray's start and reading the prompts apart. Sides alternate. The last line of JSON
holds the numbers.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from driving import start, words, write_prompts
from side_by_side import LIMIT, Load, machine, own_words, ratio, table

from pipeline.core.folder import RunFolder

GOAL = 0.7
_OTHERS = ("sample", "greedy", "mbr", "best_of_n", "judge", "chops")
_SELECTORS = [f"selectors.{name}=null" for name in _OTHERS]  # of the preset's, random and likelihood are left


def ours(prompts: Path, out: Path, more: Sequence[str]) -> dict[str, float]:
    """Seconds of the generate pass and of the select pass."""
    config = words(prompts, out, [*_SELECTORS, "execution.cpu_workers=1", *more])
    for job in ("generate", "select"):
        process = start(config, job)
        if process.wait(LIMIT):
            raise SystemExit(f"{job} failed")
    run = RunFolder(str(out))
    markers = {"generate": run.marker("candidates"), "select": run.marker("selections")}
    return {job: sum(p["seconds"] for p in (m or {})["passes"].values()) for job, m in markers.items()}


def bare(prompts: Path, out: Path, block: int) -> dict[str, float]:
    """The same by hand, in a process of its own."""
    command = [sys.executable, __file__, "--bare", str(prompts), str(out), str(block)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=LIMIT)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def _bare(prompts: Path, out: Path, block: int) -> dict[str, float]:
    import ray
    from ray.data import ActorPoolStrategy

    ray.data.DataContext.get_current().enable_progress_bars = False
    seconds, source = {}, str(prompts)
    for job in ("generate", "select"):
        # As ours, each begins in a Ray of its own, whose worker processes have yet to start.
        ray.init("local", num_cpus=8, include_dashboard=False, log_to_driver=False, logging_level="error")
        started = time.monotonic()
        data = ray.data.read_parquet(source).repartition(target_num_rows_per_block=block)
        data.map_batches(
            _Bare,
            fn_constructor_args=(job,),
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=0.5,
            compute=ActorPoolStrategy(size=1),
        ).write_parquet(str(out / job), compression="zstd")
        seconds[job] = time.monotonic() - started
        source = str(out / job)
        ray.shutdown()
    return seconds


class _Bare:
    def __init__(self, job: str) -> None:
        from pipeline.engines.dummy import DummyEngine, DummyEngineConfig

        self._job = job
        self._engine = DummyEngine(DummyEngineConfig(model="dummy"))

    def __call__(self, block: Any) -> Any:
        rows = block.to_pylist()
        if self._job == "generate":
            return _with(block, candidates=asyncio.run(self._generate(rows)), usage=_usage(rows, "generate"))
        scores = [self._languages(r) for r in rows]
        chosen = [
            [
                {
                    "plan": "bare",
                    "method": m,
                    "index": 0,
                    "text": r["candidates"][0]["text"],
                    "score": 0.5,
                    "detail": None,
                }
                for m in ("random", "likelihood")
            ]
            for r in rows
        ]
        return _with(block, scores=scores, selections=chosen)

    @staticmethod
    def _languages(row: dict[str, Any]) -> list[dict[str, Any]]:
        from pipeline.core.languages import is_language

        found = [is_language(c["text"], row["language"]) for c in row["candidates"]]
        values = [None if each is None else float(each) for each in found]
        return [{"scorer": "metric:language", "plan": "bare", "values": values}]

    async def _generate(self, rows: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
        return await asyncio.gather(*(self._set(i, row) for i, row in enumerate(rows)))

    async def _set(self, i: int, row: dict[str, Any]) -> list[dict[str, Any]]:
        from pipeline.engines.base import SamplingParams

        messages = [{k: v for k, v in m.items() if v is not None} for m in row["messages"]]
        found = await self._engine.generate(messages, SamplingParams(n=5, temperature=0.7, max_tokens=64, seed=i))
        texts = [(c.text, c.num_tokens) for c in found.completions]
        known = {"reasoning": None, "model": "dummy", "revision": None, "plan": "bare", "origin": "sample"}
        params = {"language": "en", "temperature": 0.7, "min_p": 0.1, "top_p": 1.0, "seed": i, "finish_reason": "stop"}
        return [{"text": t, **known, **params, "num_tokens": n, "logprob": -1.0, "error": None} for t, n in texts]


def _usage(rows: Sequence[object], job: str) -> list[list[dict[str, Any]]]:
    item = {"job": job, "stage": job, "model": "dummy", "requests": 1}
    return [[{**item, "prompt_tokens": 6, "cached_tokens": 0, "completion_tokens": 60}] for _ in rows]


def _with(block: Any, **columns: list[Any]) -> Any:
    import pyarrow as pa

    from pipeline.core.schema import COLUMNS

    for name, values in columns.items():
        array = pa.array(values, COLUMNS[name])
        at = block.schema.get_field_index(name)
        block = block.set_column(at, name, array) if at >= 0 else block.append_column(name, array)
    return block


def measure(rows: int, pairs: int, blocks: Sequence[int], more: Sequence[str]) -> dict[str, Any]:
    """Alternate the sides."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    print(f"{rows:,} prompts x 5 candidates, no latency; {machine()}")
    print(Load(), flush=True)
    found: dict[str, list[dict[str, float]]] = {"lemonpress": [], "by hand": []}
    with tempfile.TemporaryDirectory() as folder:
        prompts, file = Path(folder) / "prompts.jsonl", Path(folder) / "prompts.parquet"
        write_prompts(prompts, rows)
        for i in range(pairs):
            out = Path(folder) / f"run-{i}"
            found["lemonpress"].append(ours(prompts, out, more))
            pq.write_table(pa.Table.from_batches(RunFolder(str(out)).dataset("prompts").batches()), file)
            tried = [bare(file, Path(folder) / f"bare-{block}-{i}", block) for block in blocks]
            found["by hand"].append({job: min(each[job] for each in tried) for job in ("generate", "select")})
    lines = []
    result: dict[str, Any] = {"rows": rows}
    for job in ("generate", "select"):
        rates = {side: [rows / seconds[job] for seconds in runs] for side, runs in found.items()}
        for side, values in rates.items():
            lines.append({"job": job, "side": side, **{f"rows/s {i + 1}": round(v) for i, v in enumerate(values)}})
        result[f"{job}_ratio"] = ratio(rates["lemonpress"], rates["by hand"])
    print(table(lines))
    for name, value in list(result.items())[1:]:
        print(f"{name}: {value} (goal {GOAL})")
    return {name: value if isinstance(value, int) else value.median for name, value in result.items()}


def main(arguments: Sequence[str]) -> dict[str, Any]:
    """Take this script's own words apart from the config's."""
    own, rest = own_words(arguments, "prompts", "pairs", "blocks")
    blocks = [int(block) for block in own.get("blocks", "500,2000").split(",")]
    return measure(int(own.get("prompts", 20_000)), int(own.get("pairs", 1)), blocks, rest)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--bare"]:
        print(json.dumps(_bare(Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))))
    else:
        print(json.dumps(main(sys.argv[1:])))
