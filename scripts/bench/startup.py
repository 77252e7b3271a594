"""How long the command line takes to say something, and how long an engine takes to start.

    python scripts/bench/startup.py [times=7] [engines=0]

Wall time of fresh processes: `import pipeline`, `lemonpress --help`, a misspelt config key, and an interpreter that
does nothing, in turn; the median and the range of each. Goals: 0.3 s, 0.5 s and 1 s. ``engines`` pairs of starts of
the demo's vLLM engine: as Lemonpress starts it on the CPU (``pipeline/engines/vllm_cpu.py``), and as vLLM does by
itself. The last line of JSON holds the medians.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from side_by_side import Load, machine, own_words, ratio, table

CASES: dict[str, tuple[list[str], int, float | None]] = {
    "nothing": (["-c", ""], 0, None),
    "import pipeline": (["-c", "import pipeline"], 0, 0.3),
    "--help": (["-m", "pipeline.cli", "--help"], 0, 0.5),
    "config error": (["-m", "pipeline.cli", "generate", "dummy", "sampling.tempreature=1"], 2, 1.0),
}
"""Name -> (arguments of the interpreter, exit code, goal in seconds)."""


def seconds(arguments: list[str], code: int) -> float:
    """Wall time of one process."""
    started = time.perf_counter()
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True)
    took = time.perf_counter() - started
    if done.returncode != code:
        raise SystemExit(f"{arguments}: exit code {done.returncode}, not {code}: {done.stderr[-500:]}")
    return took


def measure(times: int) -> dict[str, float]:
    """All cases in turn, ``times`` times, after one round that fills the caches."""
    print(machine())
    print(Load(), flush=True)
    found: dict[str, list[float]] = {name: [] for name in CASES}
    for i in range(times + 1):
        for name, (arguments, code, _) in CASES.items():
            took = seconds(arguments, code)
            found[name] += [took] if i else []
    lines = [
        {"case": name, "median s": statistics.median(v), "from": min(v), "to": max(v), "goal s": CASES[name][2] or "-"}
        for name, v in found.items()
    ]
    print(table(lines))
    return {name: round(statistics.median(v), 3) for name, v in found.items()}


_ENGINE = """
import asyncio, sys, time
from pipeline.engines import vllm_cpu
from pipeline.engines.vllm import VLLMEngineConfig

async def main():
    engine = VLLMEngineConfig(model="cache:SmolLM2-135M-Instruct", max_model_len=1024).create()
    started = time.perf_counter()
    await engine.start()
    print("seconds", time.perf_counter() - started)
    await engine.stop()

if __name__ == "__main__":
    if sys.argv[1] == "vLLM":
        vllm_cpu.begin = vllm_cpu.use = lambda *_: None
    asyncio.run(main())
"""


def engines(pairs: int) -> dict[str, float]:
    """Seconds from the first import of vLLM until the engine answers, on both sides in turn."""
    found: dict[str, list[float]] = {"lemonpress": [], "vLLM": []}
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "engine.py"
        script.write_text(_ENGINE)
        for pair in range(pairs):
            for side in list(found)[:: 1 if pair % 2 else -1]:
                done = subprocess.run([sys.executable, script, side], capture_output=True, text=True, check=True)
                found[side] += [float(line.split()[1]) for line in done.stdout.splitlines() if line[:8] == "seconds "]
    print(table([{"start by": side, **{f"s {i + 1}": v for i, v in enumerate(vs)}} for side, vs in found.items()]))
    print(f"vLLM's start to Lemonpress's: {ratio(found['vLLM'], found['lemonpress'])}")
    return {f"engine by {side}": round(statistics.median(values), 1) for side, values in found.items()}


if __name__ == "__main__":
    own, rest = own_words(sys.argv[1:], "times", "engines")
    if rest:
        raise SystemExit(f"unknown: {' '.join(rest)}")
    medians = measure(int(own.get("times", 7)))
    pairs = int(own.get("engines", 0))
    print(json.dumps(medians | (engines(pairs) if pairs else {})))
