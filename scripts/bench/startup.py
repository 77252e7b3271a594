"""How long the command line takes to say something.

    python scripts/bench/startup.py [times=7]

Wall time of fresh processes: `import pipeline`, `lemonpress --help`, a misspelt config key, and an interpreter that
does nothing, in turn; the median and the range of each. Goals: 0.3 s, 0.5 s and 1 s. The last line of JSON holds the
medians.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time

from side_by_side import Load, machine, table

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


if __name__ == "__main__":
    own = dict(word.split("=", 1) for word in sys.argv[1:])
    print(json.dumps(measure(int(own.get("times", 7)))))
