"""Bradley-Terry strengths of several systems from their prompt scores (Bradley and Terry, 1952).

P(i beats j) = sigma(theta_i - theta_j), natural log; a tie is half a win for each; the anchor is at 0. A prompt counts
once per comparison, with the mean of its orders. With one opponent for all, theta is only logit(win-rate).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.core.columns import Bools, Floats, Ints
from pipeline.core.errors import InputError, nearest
from pipeline.stats.clusters import Bootstrap, cluster_weights, effective_clusters
from pipeline.stats.games import Games
from pipeline.stats.intervals import FEW_CLUSTERS, finite
from pipeline.stats.prompt_scores import prompt_scores
from pipeline.stats.signature import signature

if TYPE_CHECKING:
    from scipy.sparse import csr_array

_MAX_STEPS = 200
_SUSPECT = 12.0  # a spread of strengths (in nats) from which a draw is checked for an infinite solution
_UNBOUNDED = 1e3  # a standard error in nats: a system that one cluster alone compares
_MAX_LOST = 0.01  # share of draws without a solution above which there is no interval


@dataclass(frozen=True)
class Strength:
    """A system's strength; ``None`` where it has no interval."""

    system: str
    strength: float
    ci_low: float | None
    ci_high: float | None
    signature: str


def bradley_terry(
    games: Games, anchor: str, bootstrap: Bootstrap, judge: str | None = None, ridge: float = 0.0
) -> list[Strength]:
    """Maximum-likelihood strengths with intervals over clusters, strongest first.

    With fewer than 100 effective clusters the interval is Student's t on the jackknife's error (the percentile
    bootstrap is too narrow there), with more the percentile bootstrap of whole clusters.

    Args:
        anchor: the system (or opponent) whose strength is 0.
        judge: needed when the table holds several.
        ridge: penalty ridge/2 * sum of squared strengths (centred); in the signature when it is not 0.

    Returns:
        Without an interval with fewer than 2 effective clusters, and when more than 1% of the draws have no finite
        solution (with no ridge); fewer are left out.

    Raises:
        InputError: an unknown anchor or judge; several judges or templates; no valid prompt; without a ridge, a
            comparison graph that is not strongly connected: somebody never lost, or was never compared.

    Cost: O(draws * S^3) for S systems and about 8 Newton steps; O(clusters * S^3) with few clusters.
    """
    from scipy.sparse import csr_array
    from scipy.special import stdtrit

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

    bounds, methods = np.full((2, n), np.nan), ["none"] * n
    tail = (1 - bootstrap.confidence) / 2
    effective = _effective(wins, cells, n, zero)
    if effective.min() < FEW_CLUSTERS:
        se = _jackknife_errors(strength, wins, cells, ridge, zero)
        known = (effective >= 2) & np.isfinite(se)
        half = stdtrit(np.maximum(effective - 1, 1), 1 - tail) * se
        bounds[:, known] = np.stack([strength - half, strength + half])[:, known]
        methods = ["t" if ok else "none" for ok in known]
    else:
        drawn = _drawn_strengths(wins, matrices, ridge, zero, bootstrap)
        good = ~np.isnan(drawn[:, 0])
        if good.mean() >= 1 - _MAX_LOST:
            bounds, methods = np.quantile(drawn[good], [tail, 1 - tail], axis=0), ["boot"] * n
    extra = f"ridge:{ridge:g}" if ridge else ""
    choices = scores.choices(used[0], *kinds)
    return [
        Strength(
            system=names[i],
            strength=float(strength[i]),
            ci_low=finite(bounds[0][i]),
            ci_high=finite(bounds[1][i]),
            signature=signature("bradley-terry", choices, bootstrap, methods[i], extra),
        )
        for i in np.argsort(-strength, kind="stable")
    ]


def _drawn_strengths(
    wins: csr_array, matrices: Callable[[Floats], Floats], ridge: float, zero: int, bootstrap: Bootstrap
) -> Floats:
    """Strengths [draws, S] of resampled clusters; NaN where a draw has no finite solution."""
    samples = []
    for weights in cluster_weights(np.zeros(wins.shape[0], dtype=np.int64), bootstrap.draws, bootstrap.seed):
        for start in range(0, len(weights), 256):
            drawn = matrices(weights[start : start + 256] @ wins)
            fitted = fit_strengths(drawn, ridge)
            samples.append(np.where(_finite(fitted, drawn, ridge)[:, None], fitted - fitted[:, [zero]], np.nan))
    return np.concatenate(samples)


def _effective(wins: csr_array, cells: Ints, n: int, zero: int) -> Floats:
    """Effective clusters [S] behind every strength: its own games' or the anchor's, whichever are fewer."""
    row, _ = np.divmod(cells, n)
    games = np.stack([wins[:, row == i].sum(axis=1) for i in range(n)], axis=1)  # wins, and the mirrored losses below
    losses = np.stack([wins[:, cells % n == i].sum(axis=1) for i in range(n)], axis=1)
    found = np.array([effective_clusters(column) for column in (games + losses).T])
    return np.asarray(np.minimum(found, found[zero]), dtype=np.float64)


def _jackknife_errors(strength: Floats, wins: csr_array, cells: Ints, ridge: float, zero: int) -> Floats:
    """Standard errors [S] from leaving out one cluster at a time, each by one Newton step from the whole's strengths.

    One step is finite where leaving a cluster out would send a strength to infinity; not where nothing else compares a
    system at all.
    """
    n, clusters = len(strength), wins.shape[0]
    p = 1 / (1 + np.exp(strength[None, :] - strength[:, None]))
    square = np.zeros(n)

    def parts(sums: Floats) -> tuple[Floats, Floats]:
        """Gradients [B, S] and Hessians [B, S, S] of the (negative) log-likelihood of some clusters."""
        full = np.zeros((len(sums), n * n))
        full[:, cells] = sums
        won = full.reshape(-1, n, n)
        played = won + won.transpose(0, 2, 1)
        hessian = -played * p * (1 - p)
        diagonal = np.arange(n)
        hessian[:, diagonal, diagonal] -= hessian.sum(axis=2)
        return (won - played * p).sum(axis=2), hessian

    _, whole = parts(np.asarray(wins.sum(axis=0))[None])
    for start in range(0, clusters, 256):
        gradient, hessian = parts(wins[start : start + 256].toarray())
        rest = whole - hessian + ridge * np.eye(n) + 1 / n  # the constant that the likelihood does not see is fixed
        try:
            change = np.linalg.solve(rest, gradient[:, :, None])[:, :, 0]
        except np.linalg.LinAlgError:
            return np.full(n, np.nan)
        square += ((change - change[:, [zero]]) ** 2).sum(axis=0)
    se = np.sqrt(square * (clusters - 1) / clusters)
    without = se < 1e-12  # agreement of all clusters is no certainty
    without[zero] = False
    return np.asarray(np.where((se < _UNBOUNDED) & ~without, se, np.nan))


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
