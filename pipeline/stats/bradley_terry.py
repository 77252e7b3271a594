"""Bradley-Terry strengths of several systems from their prompt scores (Bradley and Terry, 1952).

P(i beats j) = sigma(theta_i - theta_j), natural log; a tie is half a win for each; the anchor is at 0. A prompt counts
once per comparison, with the mean of its orders. With one opponent for all, theta is only logit(win-rate).
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from pipeline.errors import InputError, nearest
from pipeline.stats.arrays import Bools, Floats, Ints, nullable
from pipeline.stats.games import Games
from pipeline.stats.intervals import Bootstrap, cluster_weights
from pipeline.stats.prompt_scores import prompt_scores
from pipeline.stats.winrate import signature

_MAX_STEPS = 200
_SUSPECT = 12.0  # a spread of strengths (in nats) from which a draw is checked for an infinite solution
_MAX_LOST = 0.01  # share of draws without a solution above which there is no interval


def bradley_terry(
    games: Games,
    anchor: str,
    judge: str | None = None,
    ridge: float = 0.0,
    draws: int = 1_000,
    confidence: float = 0.95,
    seed: int = 1,
) -> pa.Table:
    """Maximum-likelihood strengths with percentile intervals from resampled clusters.

    Args:
        anchor: the system (or opponent) whose strength is 0.
        judge: needed when the table holds several.
        ridge: penalty ridge/2 * sum of squared strengths (centred); in the signature when it is not 0.

    Returns:
        ``system, strength, ci_low, ci_high, signature``, strongest first. The interval is null when more than 1% of the
        draws have no finite solution (with no ridge); fewer are left out.

    Raises:
        InputError: an unknown anchor or judge; several judges or templates; no valid prompt; without a ridge, a
            comparison graph that is not strongly connected: somebody never lost, or was never compared.

    Cost: O(draws * S^3) for S systems and about 8 Newton steps.
    """
    from scipy.sparse import csr_array

    bootstrap = Bootstrap(draws, confidence, seed)
    scores = prompt_scores(games)
    judges = {kind.judge for kind in games.comparisons}
    if judge is not None and judge not in judges:
        raise InputError(f"no games of judge {judge!r}{nearest(judge, judges)}")
    kinds = [k for k, c in enumerate(games.comparisons) if judge in (None, c.judge)]
    used = [games.comparisons[k] for k in kinds]
    instruments = sorted({(c.judge, c.template) for c in used})
    if len(instruments) > 1:
        raise InputError(f"Bradley-Terry needs one judge and template, there are {instruments[:5]}")
    names = sorted({c.system for c in used} | {c.opponent for c in used})
    if anchor not in names:
        raise InputError(f"no games of the anchor {anchor!r}{nearest(anchor, names)}")

    take = np.isin(scores.comparison, kinds) & ~np.isnan(scores.score)
    if not take.any():
        raise InputError("Bradley-Terry: no prompt has a valid score")
    row = np.array([names.index(c.system) for c in games.comparisons])[scores.comparison[take]]
    column = np.array([names.index(c.opponent) for c in games.comparisons])[scores.comparison[take]]
    score = scores.score[take]
    clusters, cluster = np.unique(games.prompt_cluster[scores.prompt[take]], return_inverse=True)
    n = len(names)
    # cluster sums of the cells that occur: few pairs among many systems stay small
    cells, cell = np.unique(np.concatenate([row * n + column, column * n + row]), return_inverse=True)
    won = np.concatenate([score, 1 - score])
    wins = csr_array((won, (np.tile(cluster, 2), cell)), shape=(len(clusters), len(cells)))

    def matrices(sums: Floats) -> Floats:
        full = np.zeros((len(sums), n * n))
        full[:, cells] = sums
        return full.reshape(-1, n, n)

    total = matrices(wins.sum(axis=0)[None])
    components = _components(total[0])
    if ridge == 0 and components.max() > 0:
        groups = [[names[i] for i in np.flatnonzero(components == c)] for c in range(components.max() + 1)]
        raise InputError(
            f"Bradley-Terry: the comparison graph is not strongly connected, its parts are {groups}: somebody won or "
            "lost everything, or was never compared; drop those systems, add games, or set a ridge"
        )
    zero = names.index(anchor)
    strength = fit_strengths(total, ridge)[0]
    strength -= strength[zero]

    samples = []
    for weights in cluster_weights(np.zeros(len(clusters), dtype=np.int64), draws, seed):
        for start in range(0, len(weights), 256):
            drawn = matrices(weights[start : start + 256] @ wins)
            fitted = fit_strengths(drawn, ridge)
            samples.append(np.where(_finite(fitted, drawn, ridge)[:, None], fitted - fitted[:, [zero]], np.nan))
    drawn_strengths = np.concatenate(samples)
    good = ~np.isnan(drawn_strengths[:, 0])
    bounds = np.full((2, n), np.nan)
    if len(clusters) >= 2 and good.mean() >= 1 - _MAX_LOST:
        tail = (1 - confidence) / 2
        bounds = np.quantile(drawn_strengths[good], [tail, 1 - tail], axis=0)
    both = int(scores.orders[kinds].max())
    extra = f"ridge:{ridge:g}" if ridge else ""
    recipe = signature("bradley-terry", used[0], both, bool(scores.soft[kinds].any()), bootstrap, extra=extra)
    order = np.argsort(-strength, kind="stable")
    return pa.table(
        {
            "system": [names[i] for i in order],
            "strength": strength[order],
            "ci_low": nullable(bounds[0][order]),
            "ci_high": nullable(bounds[1][order]),
            "signature": [recipe] * n,
        }
    )


def fit_strengths(wins: Floats, ridge: float = 0.0) -> Floats:
    """Strengths [B, S], each row summing to 0, of B tournaments at once.

    Args:
        wins: [B, S, S], wins of row over column (halves for ties).
        ridge: penalty on the squared strengths.

    Newton's method; the likelihood is concave, and adding a constant to all strengths (which it does not see) is fixed
    by a rank-one term.
    """
    size = wins.shape[1]
    played = wins + wins.transpose(0, 2, 1)
    scale = np.maximum(played.sum(axis=(1, 2)), 1.0)[:, None]
    theta = np.zeros(wins.shape[:2])
    for _ in range(_MAX_STEPS):
        p = 1 / (1 + np.exp(theta[:, None, :] - theta[:, :, None]))
        gradient = (wins - played * p).sum(axis=2) - ridge * theta
        if (np.abs(gradient) / scale).max() < 1e-13:
            break
        information = played * p * (1 - p)
        hessian = -information
        diagonal = np.arange(size)
        # the small constant keeps a system without games solvable: its gradient, hence its step, is 0
        hessian[:, diagonal, diagonal] += information.sum(axis=2) + ridge + 1e-12
        step = np.linalg.solve(hessian + 1 / size, gradient[:, :, None])[:, :, 0]
        # far from the optimum the quadratic model is poor: at most 2 nats a step
        step *= np.minimum(1, 2 / np.maximum(np.abs(step).max(axis=1, keepdims=True), 1e-300))
        theta += step
        if np.abs(step).max() < 1e-12:
            break
    return theta


def _components(wins: Floats) -> Ints:
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components

    return np.asarray(connected_components(csr_array(wins > 0), connection="strong")[1])


def _finite(theta: Floats, wins: Floats, ridge: float) -> Bools:
    """Which draws have a finite maximum: with no ridge, those whose graph is strongly connected."""
    good = np.ones(len(theta), dtype=bool)
    if ridge == 0:
        unplayed = (wins.sum(axis=2) + wins.sum(axis=1) == 0).any(axis=1)
        for i in np.flatnonzero(unplayed | (np.ptp(theta, axis=1) > _SUSPECT)):
            good[i] = _components(wins[i]).max() == 0
    return good
