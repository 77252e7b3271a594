"""Length-controlled win-rate: what the win-rate would be if both answers were equally long.

logit E[score] = theta_language + phi * tanh(length difference / sd_language), reported as the mean of sigma(theta). A
simplification of AlpacaEval's length control (Dubois et al., arXiv 2404.04475): it has no instruction difficulty.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pipeline.core.columns import Bools, Floats, Ints
from pipeline.core.errors import InputError
from pipeline.stats.clusters import Bootstrap, effective_clusters
from pipeline.stats.games import Games
from pipeline.stats.intervals import MACRO, POOLED, finite
from pipeline.stats.prompt_scores import prompt_scores
from pipeline.stats.signature import signature

_MAX_STEPS = 100
_INFINITE = 30.0  # |theta| in nats beyond which lengths separate wins from losses


@dataclass(frozen=True)
class LengthControlled:
    """One comparison in one language; ``all`` weights the languages by their prompts, ``macro`` equally.

    ``se`` is the cluster jackknife (delta method), the interval Student's t with G*-1 degrees of freedom, cut to 0..1;
    null with fewer than 2 effective clusters or where the rate has no spread. All numbers are null when lengths alone
    separate wins from losses: phi is then infinite.
    """

    system: str
    opponent: str
    language: str
    n_prompts: int
    length_controlled_win_rate: float | None
    se: float | None
    ci_low: float | None
    ci_high: float | None
    phi: float | None
    signature: str


def length_controlled(games: Games, confidence: float = 0.95) -> Iterator[LengthControlled]:
    """Length-controlled win-rates of every comparison.

    Uses the prompts with a valid score and known lengths, and those on which an answer is missing: it loses at any
    length. A language whose scores are all 0 (or all 1) keeps that rate: its theta is infinite and it says nothing
    about phi. ``sd_language`` has ddof=1; where it is 0 the length has no effect.

    Raises:
        InputError: the table has no lengths.
    """
    from scipy.special import stdtrit

    if np.isnan(games.length_difference).all():
        raise InputError("length control needs the columns length and opponent_length")
    bootstrap = Bootstrap(confidence=confidence)
    scores = prompt_scores(games)
    usable = ~np.isnan(scores.score) & (scores.forfeit | ~np.isnan(scores.length_difference))
    for k, kind in enumerate(games.comparisons):
        mine = usable & (scores.comparison == k)
        if not mine.any():
            continue
        prompt = scores.prompt[mine]
        codes, language = np.unique(games.prompt_language[prompt], return_inverse=True)
        rate, influence, phi = _with_forfeits(
            scores.score[mine], scores.length_difference[mine], language, scores.forfeit[mine]
        )
        _, cluster = np.unique(games.prompt_cluster[prompt], return_inverse=True)
        n = np.bincount(language)
        counts = np.zeros((cluster.max() + 1, len(codes)))
        np.add.at(counts, (cluster, language), 1)
        recipe = signature("length-controlled", scores.choices(kind, k), bootstrap, "t", "simplified")
        named = {games.languages[code]: np.eye(len(codes))[i] for i, code in enumerate(codes)}
        named |= {POOLED: n / n.sum(), MACRO: np.full(len(codes), 1 / len(codes))}
        for name, weight in named.items():
            value = float(weight @ rate)
            size = effective_clusters(counts.sum(axis=1) if name == POOLED else counts[:, weight > 0])
            spread = _jackknife_error(influence @ weight, cluster, counts / n @ weight)
            se = low = high = None
            if size >= 2 and spread > 1e-12:
                half = float(stdtrit(size - 1, 0.5 + confidence / 2)) * spread
                se, low, high = spread, max(0.0, value - half), min(1.0, value + half)
            n_prompts = int(n[weight > 0].sum())
            names = (kind.system, kind.opponent, name)
            yield LengthControlled(*names, n_prompts, finite(value), se, low, high, finite(phi), recipe)


def _with_forfeits(score: Floats, difference: Floats, language: Ints, forfeit: Bools) -> tuple[Floats, Floats, float]:
    """:func:`fit_length_control` of the prompts with two answers; a missing answer loses at any length."""
    n = np.bincount(language).astype(np.float64)
    played = ~forfeit
    kept, codes = np.unique(language[played], return_inverse=True)
    fitted, on_fit, phi = np.zeros(len(n)), np.zeros((len(score), len(n))), float("nan")
    if len(kept):
        fitted[kept], on_fit[np.ix_(played, kept)], phi = fit_length_control(score[played], difference[played], codes)
    own = np.where(forfeit, score, fitted[language])  # what every prompt adds to its language's mean
    rate = np.bincount(language, weights=own) / n
    share = np.bincount(language, weights=played) / n
    influence = share * on_fit
    influence[np.arange(len(score)), language] += (own - rate[language]) / n[language]
    return rate, influence, phi


def _jackknife_error(influence: Floats, cluster: Ints, share: Floats) -> float:
    """Standard error of a mean from its prompts' influences [P].

    Args:
        share: [C], the clusters' weights in the mean: without a cluster the others weigh more.
    """
    inside = share > 0
    size = int(inside.sum())
    if size < 2:
        return 0.0
    change = np.bincount(cluster, weights=influence)[inside] / (1 - share[inside])
    return float(np.sqrt((change**2).sum() * (size - 1) / size))


def fit_length_control(score: Floats, difference: Floats, language: Ints) -> tuple[Floats, Floats, float]:
    """Fit one comparison by (quasi-)maximum likelihood.

    Args:
        score: [P], 0..1.
        difference: [P], length differences in any unit.
        language: [P], codes 0..L-1, all of which occur.

    Returns:
        sigma(theta) [L]; influence of every prompt on it [P, L] (their outer products sum to its variance); phi. NaN
        where lengths separate wins from losses; phi is NaN where no language has information about it.
    """
    n = np.bincount(language)
    mean = np.bincount(language, weights=score) / n
    centred = difference - (np.bincount(language, weights=difference) / n)[language]
    sd = np.sqrt(np.bincount(language, weights=centred**2) / np.maximum(n - 1, 1))[language]
    x = np.tanh(np.divide(difference, sd, out=np.zeros_like(difference), where=sd > 0))

    rate, influence = mean.copy(), np.zeros((len(score), len(n)))
    inner = np.flatnonzero((mean > 0) & (mean < 1))
    rows = np.isin(language, inner)
    if not len(inner):
        return rate, influence, float("nan")
    design = np.column_stack([language[rows, None] == inner, x[rows]]).astype(np.float64)
    y = score[rows]
    has_slope = bool(np.linalg.matrix_rank(design) > len(inner))
    if not has_slope:
        design = design[:, :-1]
    beta = np.zeros(design.shape[1])
    converged = False
    for _ in range(_MAX_STEPS):
        p = 1 / (1 + np.exp(-np.clip(design @ beta, -700, 700)))
        information = design.T @ (design * (p * (1 - p))[:, None])
        try:
            step = np.linalg.solve(information, design.T @ (y - p))
        except np.linalg.LinAlgError:
            break
        beta += step * min(1.0, 2 / max(float(np.abs(step).max()), 1e-300))
        if np.abs(beta).max() > _INFINITE:
            break
        if np.abs(step).max() < 1e-10:
            converged = True
            break
    if not converged:
        rate[inner] = np.nan
        influence[:, inner] = np.nan
        return rate, influence, float("nan")
    p = 1 / (1 + np.exp(-design @ beta))
    information = design.T @ (design * (p * (1 - p))[:, None])
    on_beta = np.linalg.solve(information, (design * (y - p)[:, None]).T).T
    fitted = 1 / (1 + np.exp(-beta[: len(inner)]))
    rate[inner] = fitted
    influence[np.ix_(rows, inner)] = on_beta[:, : len(inner)] * fitted * (1 - fitted)
    return rate, influence, float(beta[-1]) if has_slope else float("nan")
