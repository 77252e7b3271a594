"""How near the estimate from a pilot of 10 prompts comes to the truth, on a real engine.

    python scripts/bench/estimate.py [out=FOLDER] [key=value ...]

The 56 example prompts, one sentence each, two candidates and a choice between them by the same small model. The other
46 prompts are compared: their tokens as estimated from the pilot, and as spent. Prints a table by stage, and a line of
JSON.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter

from pipeline.config.config import Config
from pipeline.config.load import load_config
from pipeline.core.folder import RunFolder
from pipeline.execution.cluster import cluster
from pipeline.jobs import estimate
from pipeline.jobs.job import session
from pipeline.jobs.pilot import FOLDER
from pipeline.jobs.run import check, make
from pipeline.stats.costs import engines_of, extrapolate, read_pilot

SETTINGS = [
    "demo",
    "out=runs/estimate",
    "prompts.limit_clusters=null",
    "prompts.system=Answer in one short sentence.",
    "sampling={kind: hedged, n: 2, temperature: 0.7, min_p: 0.1, max_tokens: 160}",
    "selectors={random: null, likelihood: null, mbr: null, best_of_n: null, chops: null}",
    "selectors.judge.engine=generator",
    "judge.engine=null",
    "execution.progress=false",
    "execution.pilot=10",
]


def compare(config: Config) -> dict[str, float]:
    """Estimate, run everything, and compare what the prompts outside the pilot have spent."""
    check(config)
    run = RunFolder(config.out)
    started = time.monotonic()
    with session(config, run), cluster(config.ray):
        estimate.estimate(config)
        piloted = time.monotonic()
        make(config)
    ended = time.monotonic()
    pilot = RunFolder(run.uri(*FOLDER))
    mine = {r["prompt_id"] for r in pilot.iter_rows("prompts", ("prompt_id",))}
    table = run.table("selections", ("row_id", "prompt_id", "language", "task", "usage", "candidates")).to_pylist()
    others = [r for r in table if r["prompt_id"] not in mine]
    true: Counter[str] = Counter()
    for row in others:
        for item in row["usage"]:
            true[item["stage"]] += item["prompt_tokens"] + item["completion_tokens"]
    population = Counter((r["language"], r["task"]) for r in others)
    guessed = extrapolate(config, read_pilot(pilot, "selections"), population, engines_of(pilot))
    by_stage = {s.stage: s.tokens for s in guessed.stages}
    print(f"{len(mine)} prompts are the pilot, {len(others)} others are compared")
    for stage in [*by_stage, None]:
        a, b = (guessed.tokens, true.total()) if stage is None else (by_stage[stage], true[stage])
        print(f"{stage or 'all':<20} estimated {a:9,.0f} tokens, true {b:9,.0f}: {a / b:.2f}")
    truth = [sum(u["prompt_tokens"] + u["completion_tokens"] for u in r["usage"]) for r in others]
    ends = Counter(c["finish_reason"] for r in others for c in r["candidates"])
    print(
        f"the others' answers end by {dict(ends)}; the estimate's interval is {guessed.low:,.0f} to {guessed.high:,.0f}"
    )
    return {
        "pilot": len(mine),
        "others": len(others),
        "estimated": round(guessed.tokens),
        "true": sum(truth),
        "ratio": round(guessed.tokens / sum(truth), 3),
        "stop_share": round(ends["stop"] / ends.total(), 3),
        "pilot_seconds": round(piloted - started, 1),
        "run_seconds": round(ended - piloted, 1),
    }


if __name__ == "__main__":
    print(json.dumps(compare(load_config([*SETTINGS, *sys.argv[1:]]))))
