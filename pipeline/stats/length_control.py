"""Length-controlled win-rate: what the win-rate would be if both answers were equally long.

logit E[score] = theta_language + phi * tanh(length difference / sd_language), reported as the mean of sigma(theta). A
simplification of AlpacaEval's length control (Dubois et al., arXiv 2404.04475): it has no instruction difficulty.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from pipeline.errors import InputError
from pipeline.stats.arrays import Floats, Ints, nullable
from pipeline.stats.games import Games
from pipeline.stats.intervals import Bootstrap
from pipeline.stats.prompt_scores import prompt_scores
from pipeline.stats.winrate import signature

_MAX_STEPS = 100
_INFINITE = 30.0  # |theta| in nats beyond which lengths separate wins from losses


def length_controlled(games: Games, confidence: float = 0.95) -> pa.Table:
    """Length-controlled win-rates of every comparison.

    Uses the prompts with a valid score and known lengths. A language whose scores are all 0 (or all 1) keeps that
    rate: its theta is infinite and it says nothing about phi. ``sd_language`` has ddof=1; where it is 0 the length has
    no effect.

    Returns:
        ``system, opponent, language, n_prompts, length_controlled_win_rate, se, ci_low, ci_high, phi, signature``;
        ``all`` weights the languages by their prompts, ``macro`` equally. ``se`` is the cluster sandwich (delta
        method), the interval Student's t with G-1 degrees of freedom, cut to 0..1; null with fewer than 2 clusters or
        where the rate has no spread. All numbers are null when lengths alone separate wins from losses: phi is then
        infinite.

    Raises:
        InputError: the table has no lengths.
    """
    from scipy.stats import t

    if np.isnan(games.length_difference).all():
        raise InputError("length control needs the columns length and opponent_length")
    bootstrap = Bootstrap(confidence=confidence)
    scores = prompt_scores(games)
    usable = ~np.isnan(scores.score) & ~np.isnan(scores.length_difference)
    rows = []
    for k, kind in enumerate(games.comparisons):
        mine = usable & (scores.comparison == k)
        if not mine.any():
            continue
        prompt = scores.prompt[mine]
        codes, language = np.unique(games.prompt_language[prompt], return_inverse=True)
        rate, influence, phi = fit_length_control(scores.score[mine], scores.length_difference[mine], language)
        _, cluster = np.unique(games.prompt_cluster[prompt], return_inverse=True)
        n = np.bincount(language)
        named = {games.languages[code]: np.eye(len(codes))[i] for i, code in enumerate(codes)}
        named |= {"all": n / n.sum(), "macro": np.full(len(codes), 1 / len(codes))}
        for name, weight in named.items():
            value = float(weight @ rate)
            of_cluster = np.bincount(cluster, weights=influence @ weight)
            in_part = np.unique(cluster[weight[language] > 0])
            size = len(in_part)
            se = low = high = np.nan
            spread = float(np.sqrt((of_cluster**2).sum() * size / (size - 1))) if size >= 2 else 0.0
            if spread > 1e-12:
                half = float(t.ppf(0.5 + confidence / 2, size - 1)) * spread
                se, low, high = spread, max(0.0, value - half), min(1.0, value + half)
            recipe = signature(
                "length-controlled", kind, int(scores.orders[k]), bool(scores.soft[k]), bootstrap, "t", "simplified"
            )
            n_prompts = int(n[weight > 0].sum())
            rows.append((kind.system, kind.opponent, name, n_prompts, value, se, low, high, phi, recipe))
    texts, numbers = (0, 1, 2, 9), ("length_controlled_win_rate", "se", "ci_low", "ci_high", "phi")
    columns = [pa.array([row[i] for row in rows], pa.string()) for i in texts]
    return pa.table(
        {
            **dict(zip(("system", "opponent", "language"), columns[:3], strict=True)),
            "n_prompts": pa.array([row[3] for row in rows], pa.int64()),
            **{name: nullable([row[4 + i] for row in rows]) for i, name in enumerate(numbers)},
            "signature": columns[3],
        }
    )


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
