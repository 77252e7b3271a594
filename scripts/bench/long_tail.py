"""Answers of very unequal length: how full the engine stays, and how long a slow row holds back others' storing.

    python scripts/bench/long_tail.py [prompts=600] [tail=1.5] [slots=32] [key=value ...]

The engine is the dummy one with so many slots and a log-normal latency per candidate (mean 0.25 s, sigma ``tail``; with
1.5 the slowest of a hundred takes about 13 times the mean); four candidates a prompt. Full means: as many candidates
running as there are slots. The last rows cannot keep it full, whatever one does: the best possible time is that of all
slots busy until all work is done, or of the slowest candidate where that is longer. A row is stored with
its shard, whose slowest row it waits for: what is printed is the time from the row's own end until it is durable. Every
time is seen from outside, by looking 20 times a second. The last line of JSON holds the numbers.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from driving import start, words, write_prompts
from side_by_side import Load, machine, own_words, table

from pipeline.core.folder import RunFolder
from pipeline.core.hashing import derive_seed, hash_rng
from pipeline.engines.dummy import DummyEngine, DummyEngineConfig

LATENCY, CANDIDATES = 0.25, 4


class Eyes:
    """Notes when rows end and when they become durable.

    Args:
        log: of the dummy engine.
        out: the run's folder.
        rows: how many there are.
    """

    def __init__(self, log: Path, out: Path, rows: int) -> None:
        self._log, self._out = log, out
        self._rows = {str(derive_seed(_text(i))): i for i in range(rows)}
        self._read = 0
        self._seen: set[str] = set()
        self.ended: dict[int, float] = {}
        self.durable: dict[int, float] = {}

    def look(self) -> None:
        """Read what is new."""
        now = time.monotonic()
        if self._log.exists():
            text = self._log.read_bytes()[self._read :]
            text = text[: text.rfind(b"\n") + 1]
            self._read += len(text)
            for line in text.decode().splitlines():
                kind, row, event = line.split()
                if (kind, event) == ("generate", "end"):
                    self.ended[self._rows[row]] = now
        for path in self._out.glob("candidates/*/*.parquet"):
            if path.name in self._seen:
                continue
            try:
                ids = pq.read_table(path, columns=["row_id"]).column("row_id").to_pylist()
            except (OSError, ValueError):  # it is being written
                continue
            self._seen.add(path.name)
            self.durable |= dict.fromkeys(ids, now)

    def held_back(self) -> list[float]:
        """Seconds from each row's end until it was durable; rows of the very last shard may be missing."""
        return [max(0.0, self.durable[row] - end) for row, end in self.ended.items() if row in self.durable]


def _text(i: int) -> str:
    return f"user: question {i}"


def measure(rows: int, tail: float, slots: int, more: Sequence[str], folder: Path) -> dict[str, Any]:
    """One run."""
    prompts, out, log = folder / "prompts.jsonl", folder / "run", folder / "log"
    write_prompts(prompts, rows)
    engine = [f"engines.generator.{k}={v}" for k, v in {"latency": LATENCY, "tail": tail, "slots": slots}.items()]
    plan = ["sampling.kind=single", f"sampling.n={CANDIDATES}", f"engines.generator.log={log}"]
    config = [w for w in words(prompts, out) if not w.startswith("sampling.n=")] + [*engine, *plan, *more]
    print(f"{rows} prompts x {CANDIDATES} candidates, {slots} slots, sigma {tail:g}; {machine()}")
    print(Load(), flush=True)
    eyes = Eyes(log, out, rows)
    process = start(config)
    while process.poll() is None:
        eyes.look()
        time.sleep(0.05)
    if process.returncode:
        raise SystemExit("generate failed")
    (summary,) = (RunFolder(str(out)).marker("candidates") or {})["passes"].values()
    work, longest = _work(rows, tail)
    best = max(work / slots, longest)
    held = np.array(eyes.held_back())
    result = {
        "full": summary["load"]["full"],
        "seconds": summary["span_seconds"],
        "best_possible": best,
        "efficiency": best / summary["span_seconds"],
        "row_seconds_p99": summary["row_seconds"]["p99"],
        "rows_seen": len(held),
        **{f"held_back_{name}": float(np.quantile(held, q)) for name, q in (("p50", 0.5), ("p90", 0.9), ("max", 1))},
        "load": summary["load"],
    }
    print(table([{k: v for k, v in result.items() if k != "load"}]))
    return result


def _work(rows: int, tail: float) -> tuple[float, float]:
    """(seconds of all candidates together, of the slowest one): the dummy engine's own law."""
    engine = DummyEngine(DummyEngineConfig(latency=LATENCY, tail=tail))
    total, longest = 0.0, 0.0
    for i in range(rows):
        rng = hash_rng("latency", "generate", _text(i))
        each = [engine._latency(rng) for _ in range(CANDIDATES)]
        total, longest = total + sum(each), max(longest, *each)
    return total, longest


def main(arguments: Sequence[str]) -> dict[str, Any]:
    """Take this script's own words apart from the config's."""
    own, rest = own_words(arguments, "prompts", "tail", "slots")
    with tempfile.TemporaryDirectory() as folder:
        settings = int(own.get("prompts", 600)), float(own.get("tail", 1.5)), int(own.get("slots", 32))
        return measure(*settings, rest, Path(folder))


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1:])))
