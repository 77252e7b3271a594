"""chrF MBR beside sacrebleu's and mbrs's pairwise loops, how cost grows with N, and what the approximations cost.

    python scripts/bench/selection.py [run=FOLDER] [sets=24] [sizes=4,16,64]

``run`` is a finished run whose candidates are taken (prompts with at least the largest N), e.g. of

    lemonpress generate demo sampling.n=64 sampling.temperature=1.0 sampling.max_tokens=48 out=runs/sets

Without it the sets are made up: the package's example questions, each with a share of its words (drawn anew for every
candidate, 10% to 70%) exchanged for others of the same language; the times are then right, the disagreement rates are
those of such texts. The other sides: sacrebleu's ``sentence_score`` in a double loop; mbrs's ``MetricChrF`` where the
package is installed, else its algorithm (the same pairs over a pool of worker processes), restated here; and fastchrf,
which mbrs can be told to use, where that is installed. They compare every candidate with itself, too, as mbrs does.
A last line of JSON holds the numbers.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from side_by_side import Load, Ratio, machine, own_words, ratio, table

from pipeline.core.hashing import hash_rng
from pipeline.core.row import Candidate, Row
from pipeline.selection.base import SELECTORS, Pool
from pipeline.selection.mbr import mean_of_others
from pipeline.tasks.utilities import chrf_matrix

FORMS: dict[str, dict[str, Any]] = {
    "exact": {},
    "reference_subset, R=8": {"approximation": "reference_subset", "references": 8},
    "reference_subset, R=16": {"approximation": "reference_subset", "references": 16},
    "aggregate": {"approximation": "aggregate"},
}
SLOW_SETS, MEDIUM_SETS, PAIRED_SETS = 2, 6, 5
Sets = list[list[str]]


def made_up(sets: int, n: int) -> Sets:
    """Disturbed copies of the example questions."""
    import importlib.resources

    lines = importlib.resources.files("pipeline").joinpath("prompts/examples.jsonl").read_text("utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    words: dict[str, list[str]] = {}
    for row in rows:
        words.setdefault(row["language"], []).extend(_units(row["prompt"]))
    found = []
    for i in range(sets):
        row = rows[i % len(rows)]
        rng = hash_rng("bench", i)
        units, glue = _units(row["prompt"]) * 4, "" if row["language"] in ("zh", "ja") else " "
        candidates = []
        for _ in range(n):
            share = rng.uniform(0.1, 0.7)
            candidates.append(
                glue.join(rng.choice(words[row["language"]]) if rng.random() < share else u for u in units)
            )
        found.append(candidates)
    return found


def _units(text: str) -> list[str]:
    return text.split() if len(text.split()) > 3 else list(text)


def of_run(folder: str, sets: int, n: int) -> Sets:
    """The first ``n`` texts of a run's prompts."""
    from pipeline.core.folder import RunFolder

    found = []
    for row in RunFolder(folder).iter_rows("candidates", ("candidates",)):
        texts = [c["text"] for c in row["candidates"] if c["text"] is not None and c["origin"] != "evidence"]
        if len(texts) >= n:
            found.append(texts[:n])
    if not found:
        raise SystemExit(f"{folder}: no prompt has {n} candidates")
    return found[:sets]


def choose(sets: Sets, **options: Any) -> list[int]:
    """The selector's choices."""
    mbr = SELECTORS.get("mbr")(**options)

    async def run() -> list[int]:
        pools = [Pool(Row(i, f"p{i}"), "x", [Candidate(text) for text in texts], 1) for i, texts in enumerate(sets)]
        return [(await mbr.select(pool)).index or 0 for pool in pools]

    return asyncio.run(run())


def sacrebleu_loop(sets: Sets) -> None:
    """A double loop over sentence scores."""
    from sacrebleu.metrics.chrf import CHRF

    score = CHRF().sentence_score
    for texts in sets:
        means = [statistics.fmean(score(y, [r]).score for r in texts) for y in texts]
        means.index(max(means))


def _pair(hypothesis: str, reference: str) -> float:
    from sacrebleu.metrics.chrf import CHRF

    return float(CHRF().sentence_score(hypothesis, [reference]).score)


def restated(sets: Sets) -> None:
    """mbrs's pairwise loop: all pairs over a pool of processes, one for each core here (its default is 8)."""
    workers = len(os.sched_getaffinity(0))
    for texts in sets:
        pairs = [(y, r) for y in texts for r in texts]
        with ProcessPoolExecutor(workers) as executor:
            size = -(-len(pairs) // workers)
            scores = list(executor.map(_pair, *zip(*pairs, strict=True), chunksize=size))
        means = [statistics.fmean(scores[i : i + len(texts)]) for i in range(0, len(scores), len(texts))]
        means.index(max(means))


def alternatives() -> dict[str, tuple[Callable[[Sets], None], int]]:
    """Name -> (what chooses, on how many sets it is timed)."""
    found: dict[str, tuple[Callable[[Sets], None], int]] = {"sacrebleu double loop": (sacrebleu_loop, SLOW_SETS)}
    try:
        from mbrs.metrics.chrf import MetricChrF
    except ImportError:
        found["mbrs's algorithm (restated)"] = (restated, SLOW_SETS)
    else:
        metric = MetricChrF(MetricChrF.Config(num_workers=len(os.sched_getaffinity(0))))

        def mbrs(sets: Sets) -> None:
            for texts in sets:
                metric.pairwise_scores(texts, texts).mean(dim=1).argmax().item()

        found["mbrs (package)"] = (mbrs, SLOW_SETS)
    try:
        import fastchrf
    except ImportError:
        return found

    def fast(sets: Sets) -> None:
        for texts in sets:
            means = [statistics.fmean(row) for row in fastchrf.pairwise_chrf([texts], [texts])[0]]
            means.index(max(means))

    return {**found, "fastchrf": (fast, MEDIUM_SETS)}


def losses(sets: Sets, options: dict[str, Any], exact: Sequence[int], utilities: list[list[float]]) -> dict[str, float]:
    """How often another text is chosen, and what that costs in expected utility (chrF points)."""
    chosen = choose(sets, **options)
    differ = [texts[a] != texts[b] for texts, a, b in zip(sets, chosen, exact, strict=True)]
    loss = [u[b] - u[a] for u, a, b in zip(utilities, chosen, exact, strict=True)]
    return {"other text": statistics.fmean(differ), "mean loss": statistics.fmean(loss), "largest loss": max(loss)}


def _seconds(run: Callable[[Sets], object], texts: list[str]) -> float:
    started = time.perf_counter()
    run([texts])
    return time.perf_counter() - started


def beside_sacrebleu(sets: Sets) -> Ratio:
    """The double loop's time to ours, set by set, one right after the other."""
    pairs = [(_seconds(sacrebleu_loop, texts), _seconds(choose, texts)) for texts in sets]
    return ratio(*zip(*pairs, strict=True))


def measure(source: str | None, count: int, sizes: Sequence[int]) -> dict[str, Any]:
    """All tables."""
    print(machine())
    print(Load())
    whole = of_run(source, count, max(sizes)) if source else made_up(count, max(sizes))
    characters = statistics.fmean(len(text) for texts in whole for text in texts)
    print(f"{len(whole)} sets of {source or 'made-up texts'}, {characters:.0f} characters a text on average")
    speed: list[dict[str, Any]] = []
    quality: list[dict[str, Any]] = []
    ours: dict[str, tuple[Callable[[Sets], object], int]] = {
        name: (lambda sets, o=options: choose(sets, **o), len(whole)) for name, options in FORMS.items()
    }
    for name, (run, most) in {**ours, **alternatives()}.items():
        row: dict[str, Any] = {"ms a set": name}
        for n in sizes:
            sets = [texts[:n] for texts in whole[:most]]
            run(sets[:1])  # imports
            row[f"N={n}"] = 1000 * statistics.median(_seconds(run, texts) for texts in sets)
        row["growth"] = row[f"N={sizes[-1]}"] / row[f"N={sizes[0]}"]
        row["sets"] = min(most, len(whole))
        speed.append(row)
    print(table(speed), flush=True)
    ratios = {n: beside_sacrebleu([texts[:n] for texts in whole[:PAIRED_SETS]]) for n in sizes}
    for n, found_ratio in ratios.items():
        print(f"N={n}: time of sacrebleu's double loop to that of the exact form: {found_ratio}", flush=True)
    for n in sizes:
        sets = [texts[:n] for texts in whole]
        utilities = [[u or 0.0 for u in mean_of_others(chrf_matrix(texts, texts))] for texts in sets]
        exact = choose(sets)
        scale = statistics.fmean(max(u) - statistics.fmean(u) for u in utilities)
        for name, options in FORMS.items():
            if name != "exact":
                found = losses(sets, options, exact, utilities)
                quality.append({"N": n, "form": name, **found, "loss of a random choice": scale})
    print(table(quality))
    return {
        "milliseconds": speed,
        "sacrebleu_to_exact": {n: found_ratio.median for n, found_ratio in ratios.items()},
        "approximations": quality,
        "sets": len(whole),
        "characters": characters,
    }


if __name__ == "__main__":
    own, rest = own_words(sys.argv[1:], "run", "sets", "sizes")
    if rest:
        raise SystemExit(f"unknown: {' '.join(rest)}")
    asked = [int(n) for n in own.get("sizes", "4,16,64").split(",")]
    print(json.dumps(measure(own.get("run"), int(own.get("sets", 24)), asked)))
