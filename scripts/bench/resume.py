"""A large run is killed three times at random moments and resumed: every row once, and how many were done twice.

    python scripts/bench/resume.py [--rows 300000] [--kills 3] [--seed 1] [key=value ...]

Promised: a kill costs at most the blocks that an actor has open (c blocks of k rows) and as many again that wait to be
written. Rows done twice are counted in the dummy engine's log of requests.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
from driving import durable, kill, start, words, write_prompts

from pipeline.core.folder import RunFolder

_PROMISED = 100  # rows of a worker that a kill costs at most, with shards of 50 rows
_REQUESTS = 2  # of a hedged set: the greedy answer, and the samples


def main() -> int:
    """Run, kill, resume, count; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=300_000)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("words", nargs="*", metavar="key=value", help="more of the config")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        return bench(Path(folder), args.rows, args.kills, args.seed, args.words)


def bench(folder: Path, rows: int, kills: int, seed: int, more: list[str]) -> int:
    """One run with its kills."""
    prompts, out, log = folder / "prompts.jsonl", folder / "run", folder / "requests.log"
    write_prompts(prompts, rows)
    config = words(prompts, out, [f"engines.generator.log={log}", *more])
    rng = random.Random(seed)
    moments = sorted(rng.uniform(0.05, 0.95) for _ in range(kills))
    begun = time.monotonic()
    for moment in moments:
        process = start(config)
        while durable(out) < moment * rows:
            if process.poll() is not None:
                raise SystemExit(f"the run ended (exit {process.returncode}) before it could be killed")
            time.sleep(0.2 + rng.random())
        kill(process)
        print(f"killed when {durable(out):,} of {rows:,} rows were durable", flush=True)
    if start(config).wait() != 0:
        raise SystemExit("the last attempt failed")
    return report(RunFolder(str(out)), log, rows, kills, time.monotonic() - begun)


def report(run: RunFolder, log: Path, rows: int, kills: int, seconds: float) -> int:
    """Print the counts; returns 0 when all of them are as promised."""
    ids = run.table("candidates", ["row_id"])["row_id"].to_numpy()
    with log.open() as lines:
        begins = Counter(line.split()[1] for line in lines if line.endswith("begin\n"))
    twice = sum(count > _REQUESTS for count in begins.values())
    bound = kills * _PROMISED
    print(f"{kills} kills, {seconds:.0f} s")
    files = len(run.files("candidates"))
    print(f"rows: {len(ids):,} of {rows:,}; different: {len(np.unique(ids)):,}; files: {files:,}")
    print(f"rows done twice: {twice:,}; promised: {bound:,} ({_PROMISED} a kill)")
    # Not begins: a kill may tear a line of the log.
    exact = len(ids) == rows == len(np.unique(ids))
    return 0 if exact and twice <= bound else 1


if __name__ == "__main__":
    raise SystemExit(main())
