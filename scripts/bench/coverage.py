"""How often the intervals hold: coverage of single ones, family-wise error of simultaneous ones.

    nice -n 10 python scripts/bench/coverage.py            # the table of docs/intervals.md, minutes of one core
    python scripts/bench/coverage.py --experiments 200     # a quick look
    # one cell with many repetitions and the shipped number of draws
    python scripts/bench/coverage.py --only families --shapes equal --clusters 100 --scores .5 --systems 5 \
        --experiments 24000 --draws 20000

Clusters are equal (one prompt each) or very unequal (their sizes fall as 1/i, and half of a cluster's prompts share one
draw). Scores are wins and losses at a rate, or mostly ties. The functions are the shipped ones; the experiments of a
cell of coverage are columns of one call, so they share their resampled clusters, which leaves the coverage of each as
it is.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from unittest.mock import patch

import numpy as np

import pipeline.stats.clusters as clusters_module
from pipeline.core.columns import Floats, Ints
from pipeline.stats.clusters import Bootstrap, ClusterSums
from pipeline.stats.intervals import Estimate, mean_intervals, simultaneous_intervals

CLUSTERS = (3, 6, 10, 20, 49, 50, 100, 500)
SCORES = {".02": (0.02, 0.0), ".5": (0.5, 0.1), ".98": (0.98, 0.0), "ties": (0.5, 0.8)}
"""Name -> (expected score, share of ties)."""

SYSTEMS = {2: "2 win-rates", 3: "3 differences", 5: "10 differences", 10: "45 differences"}
"""Number of systems -> what is told of them together: of more than two, all pairs are compared."""


@dataclass(frozen=True)
class Cell:
    """One line of the table: the share of experiments in which all intervals hold the truth."""

    clusters: int
    sizes: str
    scores: str
    quantity: str
    held: float


def sizes_of(clusters: int, shape: str) -> Ints:
    """Prompts of every cluster [C]."""
    if shape == "equal":
        return np.ones(clusters, dtype=np.int64)
    return np.maximum(np.round(clusters / np.arange(1, clusters + 1)), 1).astype(np.int64)


def draw(rng: np.random.Generator, shape: tuple[int, ...], sizes: Ints, scores: str) -> Floats:
    """Cluster totals [*shape, C] of scores with the expectation of ``SCORES``."""
    rate, ties = SCORES[scores]
    win = rate - ties / 2

    def drawn(size: tuple[int, ...]) -> Floats:
        u = rng.random(size, dtype=np.float32)
        return (u < win) + 0.5 * ((u >= win) & (u < win + ties))

    common = drawn((*shape, len(sizes)))
    if (sizes == 1).all():
        return common
    total = np.zeros((*shape, len(sizes)))
    for c, size in enumerate(sizes):
        shared = rng.binomial(size, 0.5, size=shape)
        wins = rng.binomial(size - shared, win)
        tied = rng.binomial(size - shared - wins, ties / (1 - win))
        total[..., c] = shared * common[..., c] + wins + 0.5 * tied
    return total


def coverage(clusters: int, shape: str, scores: str, experiments: int, draws: int, seed: int) -> Iterator[Cell]:
    """Coverage of a win-rate, and of the paired difference to a second system with the same expectation."""
    rng = np.random.default_rng([seed, clusters])
    sizes = sizes_of(clusters, shape)
    first, second = draw(rng, (2, experiments), sizes, scores)
    counts = np.repeat(sizes[:, None], experiments, axis=1).astype(np.float64)
    for name, totals, low, truth in (
        ("win-rate", first, 0.0, SCORES[scores][0]),
        ("difference", first - second, -1.0, 0.0),
    ):
        sums = ClusterSums(totals.T.copy(), counts, np.zeros(clusters, dtype=np.int64))
        found = mean_intervals(sums, [[k] for k in range(experiments)], Bootstrap(draws), low, 1.0)
        yield Cell(clusters, shape, scores, name, float(np.mean([holds(e, truth) for e in found])))


def familywise(clusters: int, shape: str, scores: str, systems: int, experiments: int, draws: int, seed: int) -> Cell:
    """How often simultaneous intervals (``SYSTEMS``) of equal systems all hold the truth."""
    rng = np.random.default_rng([seed, clusters, systems])
    sizes = sizes_of(clusters, shape)
    pairs = list(combinations(range(systems), 2)) if systems > 2 else []
    width = len(pairs) or systems
    low, truth = (-1.0, 0.0) if pairs else (0.0, SCORES[scores][0])
    counts = np.repeat(sizes[:, None], width, axis=1).astype(np.float64)
    parts = [[k] for k in range(width)]
    held = 0
    for totals in draw(rng, (experiments, systems), sizes, scores):
        values = np.stack([totals[a] - totals[b] for a, b in pairs], axis=1) if pairs else totals.T
        sums = ClusterSums(values, counts, np.zeros(clusters, dtype=np.int64))
        held += all(holds(e, truth) for e in simultaneous_intervals(sums, parts, Bootstrap(draws), low, 1.0))
    return Cell(clusters, shape, scores, SYSTEMS[systems], held / experiments)


@contextmanager
def shared_weights() -> Iterator[None]:
    """Draw every family's clusters once: which clusters come up depends on their number and the seed only."""
    original = clusters_module.cluster_weights

    @cache
    def drawn(size: int, draws: int, seed: int) -> list[Floats]:
        return list(original(np.zeros(size, dtype=np.int64), draws, seed))

    def again(strata: Ints, draws: int, seed: int, multiplicity: Ints | None = None) -> Iterator[Floats]:
        return iter(drawn(len(strata), draws, seed))

    with patch.object(clusters_module, "cluster_weights", again):
        yield


def holds(found: Estimate, truth: float) -> bool:
    """Whether an interval holds the truth; none at all claims nothing."""
    return found.low is None or found.high is None or found.low - 1e-12 <= truth <= found.high + 1e-12


def lines(args: argparse.Namespace) -> Iterator[str]:
    """The tables, as Markdown."""
    for shape in args.shapes:
        if args.only != "families":
            yield f"\nCoverage, {shape} clusters (win-rate, difference)\n"
            yield from header(args.scores)
            for clusters in args.clusters:
                cells = [coverage(clusters, shape, n, args.experiments, args.draws, args.seed) for n in args.scores]
                yield f"| {clusters} | " + " | ".join(", ".join(f"{c.held:.3f}" for c in cell) for cell in cells) + " |"
        if args.only != "coverage":
            yield f"\nFamily-wise error, {shape} clusters ({', '.join(SYSTEMS[s] for s in args.systems)})\n"
            yield from header(args.scores)
            for clusters in args.clusters:
                yield f"| {clusters} | " + " | ".join(errors(clusters, shape, n, args) for n in args.scores) + " |"


def errors(clusters: int, shape: str, scores: str, args: argparse.Namespace) -> str:
    """A family-wise error for each number of systems."""
    options = (args.experiments // 4, args.draws // 2, args.seed)
    return ", ".join(f"{1 - familywise(clusters, shape, scores, s, *options).held:.3f}" for s in args.systems)


def header(scores: list[str]) -> Iterator[str]:
    """A Markdown table's first two lines."""
    yield "| clusters | " + " | ".join(scores) + " |"
    yield "|---" * (len(scores) + 1) + "|"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--experiments", type=int, default=4000, help="of a cell of coverage; families get a quarter")
    parser.add_argument("--draws", type=int, default=1500, help="families get half")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=["coverage", "families"])
    parser.add_argument("--shapes", nargs="*", default=["equal", "unequal"], choices=["equal", "unequal"])
    parser.add_argument("--clusters", type=int, nargs="*", default=list(CLUSTERS))
    parser.add_argument("--scores", nargs="*", default=list(SCORES), choices=list(SCORES))
    parser.add_argument("--systems", type=int, nargs="*", default=list(SYSTEMS), choices=list(SYSTEMS))
    with shared_weights():
        for line in lines(parser.parse_args()):
            print(line, flush=True)


if __name__ == "__main__":
    main()
