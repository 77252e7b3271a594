"""Do 95% intervals cover the truth 95% of the time? Simulated with dependent prompts, both orders and ties.

A question (cluster) is asked in seven languages and judged in both orders, with position bias. The interval function
is the shipped one: the experiments are columns of one bootstrap, so they share their resampled clusters (which leaves
every experiment's own coverage as it is) and 2,000 of them cost seconds.
"""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import norm

from pipeline.stats.clusters import Bootstrap, ClusterSums
from pipeline.stats.games import games_from_table
from pipeline.stats.intervals import Estimate, mean_intervals
from tests.conftest import ROOT
from tests.stats.tables import flat, winrates

LANGUAGES = ("de", "en", "es", "fr", "ja", "ru", "zh")
TIE, BIAS = 0.25, 0.15  # half-width of the tie band and shift of the first position, in latent standard deviations


def simulate(rng: np.random.Generator, shape: tuple[int, int], rates: tuple[float, float]) -> np.ndarray:
    """Scores [2 systems, experiments, clusters, languages, 2 orders] whose expectations are exactly ``rates``."""
    experiments, clusters = shape
    size = (experiments, clusters, len(LANGUAGES), 2)
    question = rng.normal(size=(experiments, clusters, 1, 1))
    result = np.empty((2, *size), dtype=np.float32)
    shifts = np.array([BIAS, -BIAS])
    for system, rate in enumerate(rates):

        def gap(centre: float, rate: float = rate) -> float:
            ends = [norm.cdf(centre + shift + side) for shift in shifts for side in (-TIE, TIE)]
            return float(np.mean(ends) - rate)

        centre = brentq(gap, -9, 9)
        own = rng.normal(size=(experiments, clusters, 1, 1))
        prompt = rng.normal(size=(*size[:3], 1))
        # variances: 0.3 question, 0.35 question x system, 0.15 prompt, 0.2 game: they sum to 1
        latent = np.sqrt(0.3) * question + np.sqrt(0.35) * own + np.sqrt(0.15) * prompt
        latent = latent + np.sqrt(0.2) * rng.normal(size=size) + centre + shifts
        result[system] = np.where(latent > TIE, 1.0, np.where(latent > -TIE, 0.5, 0.0))
    return result


def intracluster_correlation(prompt_scores: np.ndarray) -> float:
    """One-way ANOVA estimate from [experiments, clusters, prompts], averaged over experiments."""
    m = prompt_scores.shape[2]
    between = m * prompt_scores.mean(axis=2).var(axis=1, ddof=1)
    within = prompt_scores.var(axis=2, ddof=1).mean(axis=1)
    return float(((between - within) / (between + (m - 1) * within)).mean())


def intervals_of(units: np.ndarray, bootstrap: Bootstrap, low: float) -> list[Estimate]:
    """Intervals of the experiments' means from values [experiments, clusters, prompts]."""
    totals = units.sum(axis=2, dtype=np.float64).T
    counts = np.full(totals.shape, float(units.shape[2]))
    sums = ClusterSums(totals, counts, np.zeros(len(totals), dtype=np.int64))
    return mean_intervals(sums, [[k] for k in range(len(units))], bootstrap, low, 1.0)


def coverage(estimates: list[Estimate], truth: float) -> float:
    return float(np.mean([e.low is not None and e.high is not None and e.low <= truth <= e.high for e in estimates]))


def measure(clusters: int, experiments: int, rates: tuple[float, float], draws: int, seed: int) -> dict[str, float]:
    """Coverage of both systems' win-rates, their paired difference, and a row bootstrap of the same games."""
    scores = simulate(np.random.default_rng(seed), (experiments, clusters), rates)
    prompts = scores.mean(axis=4)
    bootstrap = Bootstrap(draws=draws)
    found = {"icc": min(intracluster_correlation(p) for p in prompts), "ties": float((scores == 0.5).mean())}
    for name, system in (("a", 0), ("b", 1)):
        found[name] = coverage(intervals_of(prompts[system], bootstrap, 0.0), rates[system])
        # every game its own cluster; 1,000 draws are enough to see it fail
        rows = scores[system].reshape(experiments, -1, 1)
        found[f"rows {name}"] = coverage(intervals_of(rows, Bootstrap(draws=min(draws, 1000)), 0.0), rates[system])
    found["difference"] = coverage(intervals_of(prompts[0] - prompts[1], bootstrap, -1.0), rates[0] - rates[1])
    return found


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("clusters", [50, 498])
def test_coverage_of_2000_experiments(clusters: int) -> None:
    found = measure(clusters, 2000, (0.5, 0.85), draws=10_000, seed=clusters)
    print(clusters, found)
    assert found["icc"] >= 0.3 and found["ties"] > 0.05
    assert all(0.934 <= found[name] <= 0.966 for name in ("a", "b", "difference")), found
    assert found["rows a"] < 0.85 and found["rows b"] < 0.85, found


@pytest.mark.parametrize("clusters", [10, 60])
def test_coverage_of_300_experiments(clusters: int) -> None:
    """300 experiments: three standard errors around 95% are 91.2 and 98.8; both take the t-interval.

    Rates above 85% have an exact one, which may hold more often.
    """
    found = measure(clusters, 300, (0.5, 0.85), draws=2000, seed=7)
    assert found["icc"] >= 0.3
    assert all(0.91 <= found[name] <= 0.988 for name in ("a", "difference")), found
    assert found["b"] >= 0.91, found
    assert found["rows a"] < 0.85 and found["rows b"] < 0.85, found


def test_the_simulated_interval_is_the_one_that_winrates_writes() -> None:
    scores = simulate(np.random.default_rng(0), (1, 60), (0.5, 0.85))[0]
    rows = [
        (f"q{c:02}", language, "s", "o", order, float(scores[0, c, i, j]))
        for c in range(60)
        for i, language in enumerate(LANGUAGES)
        for j, order in enumerate(("ab", "ba"))
    ]
    table = winrates(games_from_table(flat(rows)), draws=1000)
    written = next(r for r in table if r["language"] == "all")
    estimate = intervals_of(scores.mean(axis=3), Bootstrap(draws=1000), 0.0)[0]
    assert (written["win_rate"], written["se"]) == pytest.approx((estimate.value, estimate.se))
    assert (written["ci_low"], written["ci_high"]) == pytest.approx((estimate.low, estimate.high))


def bench() -> ModuleType:
    """``scripts/bench/coverage.py``, whose table is in the docs."""
    spec = importlib.util.spec_from_file_location("coverage_bench", ROOT / "scripts" / "bench" / "coverage.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def check(clusters: tuple[int, ...], experiments: int, draws: int, slack: float) -> None:
    """Coverage not below 93% and family-wise error not above 6.5%, give or take ``slack``."""
    module = bench()
    with module.shared_weights():
        for shape in ("equal", "unequal"):
            for size in clusters:
                for scores in module.SCORES:
                    for cell in module.coverage(size, shape, scores, experiments, draws, 2):
                        assert cell.held >= 0.93 - slack, cell
                    for systems in (2, 10):
                        cell = module.familywise(size, shape, scores, systems, experiments // 4, draws // 2, 2)
                        named = (shape, scores, systems) == ("unequal", ".5", 2)  # docs/intervals.md says why
                        assert 1 - cell.held <= (0.1 if named else 0.065) + slack, cell


def test_few_unequal_and_skewed_clusters_cover() -> None:
    """The plain rules cover 85 to 92% where sizes fall as 1/i, and a rate of .02 or .98 is [0, 0] or [1, 1] to them."""
    check((3, 10), experiments=320, draws=100, slack=0.06)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_cell_of_the_table() -> None:
    check(bench().CLUSTERS, experiments=4000, draws=1500, slack=0.015)
