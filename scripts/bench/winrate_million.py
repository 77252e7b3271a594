"""One million games to win-rates with intervals, and arena-hard-auto's interval of the same games beside them.

    python scripts/bench/winrate_million.py

498 questions in seven languages, both orders, 10,000 draws. Target: under 30 s and under 2 GiB.
"""

from __future__ import annotations

import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.stats.clusters import Bootstrap
from pipeline.stats.games import load_table_games
from pipeline.stats.winrate import win_rates

LANGUAGES = ["en", "de", "es", "fr", "ja", "ru", "zh"]
CLUSTERS, GAMES = 498, 1_000_000


def make_games() -> pa.Table:
    """A flat table of ``GAMES`` games whose questions differ in difficulty."""
    per_system = CLUSTERS * len(LANGUAGES) * 2
    system, rest = np.divmod(np.arange(GAMES), per_system)
    prompt, order = np.divmod(rest, 2)
    cluster, language = np.divmod(prompt, len(LANGUAGES))
    rng = np.random.default_rng(0)
    latent = rng.normal(size=CLUSTERS)[cluster] + rng.normal(size=GAMES) + 0.01 * (system - 70)
    return pa.table(
        {
            "prompt_id": pa.array(np.char.add("p", prompt.astype(str))),
            "cluster_id": pa.array(np.char.add("q", cluster.astype(str))),
            "language": pa.array(np.array(LANGUAGES)[language]),
            "system": pa.array(np.char.add("s", system.astype(str))),
            "opponent": pa.array(["base"] * GAMES),
            "order": pa.array(np.array(["ab", "ba"])[order]),
            "score": pa.array(np.where(latent > 0.3, 1.0, np.where(latent > -0.3, 0.5, 0.0))),
        }
    )


def arena_hard_interval(table: pa.Table, rounds: int = 100) -> dict[str, tuple[float, float]]:
    """arena-hard-auto's way: resample rows as if independent, 100 rounds, 5-95% quantiles.

    Each system's mean is taken by ``bincount``; masking the rows system by system takes five minutes.
    """
    system = np.array(table.column("system").to_pylist())
    score = table.column("score").to_numpy()
    rng = np.random.default_rng(1)
    names, codes = np.unique(system, return_inverse=True)
    means = []
    for _ in range(rounds):
        rows = rng.integers(len(score), size=len(score))
        means.append(np.bincount(codes[rows], weights=score[rows]) / np.bincount(codes[rows]))
    low, high = np.quantile(means, [0.05, 0.95], axis=0)
    return {str(name): (float(a), float(b)) for name, a, b in zip(names, low, high, strict=True)}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "games.parquet")
        pq.write_table(make_games(), path)
        # the generator's own memory is in the process's peak, so it is shown before and after
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        start = time.perf_counter()
        games = load_table_games(path)
        loaded = time.perf_counter()
        result = list(win_rates(games, Bootstrap()))
        done = time.perf_counter()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"{len(games.score):,} games, {games.n_clusters} clusters, {len(result):,} rows, 10,000 draws")
        seconds = f"{done - start:.1f} s (load {loaded - start:.1f} s)"
        print(f"lemonpress: {seconds}, peak {peak:.2f} GiB ({before:.2f} before)")
        table = pq.read_table(path)
        start = time.perf_counter()
        naive = arena_hard_interval(table)
        print(f"arena-hard-auto's method, written naively, 100 rounds: {time.perf_counter() - start:.1f} s")
    for row in [r for r in result if r.language == "all"][:3]:
        a, b = naive[row.system]
        print(
            f"  {row.system}: {row.win_rate:.3f}, clusters 95% [{row.ci_low:.3f}, {row.ci_high:.3f}], "
            f"rows 5-95% [{a:.3f}, {b:.3f}]: {(row.ci_high - row.ci_low) / (b - a):.1f} times as wide"
        )


if __name__ == "__main__":
    main()
