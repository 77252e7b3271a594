"""Generate and CHOPS by one model: planned together, in one pass, and job by job, on a real engine.

    python scripts/bench/shared_passes.py [out=FOLDER] [key=value ...]

Compares ids, numbers of candidates and seeds, which must be equal, and prints the share of equal texts (a real engine's
texts may change with what else is in its batch) and both times. A last line of JSON holds the numbers. Needs
new folders: what is finished is not run again.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from pipeline.config.load import load_config
from pipeline.core.folder import RunFolder
from pipeline.execution.cluster import cluster
from pipeline.jobs import generate, select
from pipeline.jobs.run import check, make
from pipeline.prompts.sources import read_prompts

SETTINGS = [
    "demo",
    "out=runs/shared",
    "sampling={kind: hedged, n: 4, temperature: 0.7, min_p: 0.1, max_tokens: 48}",
    "selectors={random: null, likelihood: null, mbr: null, best_of_n: null, judge: null}",
    "selectors.chops={engine: generator, checklist_tokens: 48}",
    "judge.engine=null",
    "execution.progress=false",
]


def measure(words: list[str]) -> dict[str, Any]:
    """Run both ways, one after the other."""
    found: dict[bool, list[dict[str, Any]]] = {}
    seconds: dict[bool, float] = {}
    cached: dict[bool, int] = {}
    base = load_config([*SETTINGS, *words])
    with cluster(base.ray):
        for share in (True, False):
            folder = f"{base.out}-{'shared' if share else 'separate'}"
            config = load_config([*SETTINGS, *words, f"out={folder}"])
            check(config)
            read_prompts(config.prompts, RunFolder(config.out))
            started = time.monotonic()
            if share:
                make(config)
            else:
                generate.run(config)
                select.run(config)
            seconds[share] = time.monotonic() - started
            run = RunFolder(folder)
            found[share] = run.table(
                "selections", ("row_id", "prompt_id", "candidates", "usage", "selections")
            ).to_pylist()
            chops = [u for r in found[share] for u in r["usage"] if u["stage"] == "select:chops"]
            cached[share] = sum(u["cached_tokens"] for u in chops)
    pairs = list(zip(found[True], found[False], strict=True))
    texts = [(a["text"], b["text"]) for x, y in pairs for a, b in zip(x["candidates"], y["candidates"], strict=True)]
    result = {
        "rows": len(pairs),
        "equal_ids": all(x["prompt_id"] == y["prompt_id"] for x, y in pairs),
        "equal_seeds": all(
            [c["seed"] for c in x["candidates"]] == [c["seed"] for c in y["candidates"]] for x, y in pairs
        ),
        "candidates": len(texts),
        "text_match": round(sum(a == b for a, b in texts) / len(texts), 3),
        "chops_cached_tokens": [cached[True], cached[False]],
        "shared_seconds": round(seconds[True], 1),
        "separate_seconds": round(seconds[False], 1),
    }
    for name, value in result.items():
        print(f"{name}: {value}")
    return result


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1:])))
