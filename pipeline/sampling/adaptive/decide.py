"""One round's decision: how many further candidates every prompt gets, from numbers alone.

A budget of tokens is dealt out over prompts by what further candidates gain per token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np

from pipeline.core.columns import Bools, Floats, Ints
from pipeline.sampling.adaptive.rewards import reward_gains
from pipeline.sampling.adaptive.votes import counts_of, vote_gains
from pipeline.sampling.plans import Adaptive

_SAFETY = 2.0
"""Standard deviations of the next round's tokens that are kept back from the budget."""


@dataclass(frozen=True)
class State:
    """P prompts after a round; all arrays [P, N], and NaN (or false) behind a prompt's last candidate.

    Attributes:
        scores: the selector's numbers, or each candidate's votes; NaN = invalid.
        tokens: of every candidate; NaN = the request failed.
        drawn: the candidates that further ones are like: not the greedy one.
        count: candidates so far, failed ones included [P].
        language: of every prompt [P]; ``None`` where nobody asks for it.
    """

    scores: Floats
    tokens: Floats
    drawn: Bools
    count: Ints
    language: Sequence[str] | None = None


@dataclass(frozen=True)
class Decision:
    """What one round may spend, and on whom.

    Attributes:
        more: further candidates [P].
        gains: what they are expected to gain [P].
        budgets: language -> tokens of all rounds together; one entry, the empty string, where languages share.
        spent: tokens of the rounds before.
        expected: tokens that ``more`` is expected to cost.
    """

    more: Ints
    gains: Floats
    budgets: dict[str, float]
    spent: float
    expected: float

    @property
    def budget(self) -> float:
        return sum(self.budgets.values())

    @property
    def gain(self) -> float:
        """What the round is expected to gain, summed over prompts."""
        return float(self.gains.sum())


def decide(
    settings: Adaptive,
    n: int,
    votes: bool,
    state: State,
    done: int,
    budgets: Mapping[str, float] | None = None,
    highest: float = np.inf,
) -> Decision:
    """Decide about the next round.

    Before the last round a part of what is left is dealt out (in equal parts), so that later rounds can use what this
    one shows.

    Args:
        settings: the plan's.
        n: most candidates of a prompt.
        votes: whether ``state.scores`` are votes.
        state: the prompts after the rounds so far.
        done: rounds so far.
        budgets: what the first decision said; ``None`` = this is the first one.
        highest: the largest score that a candidate can have.
    """
    expected = lengths(np.where(state.drawn, state.tokens, np.nan))
    spent = np.nansum(state.tokens, axis=1)
    asked = state.count > 0
    room = np.where(asked, np.maximum(n - state.count, 0), 0)
    most = int(room.max(initial=0))
    gains = _gains(votes, state, n, most, expected, highest)
    shared = settings.fair is None or state.language is None
    groups = np.full(len(room), "") if shared else np.array(state.language, dtype=object)
    if budgets is None:
        budgets = _budgets(settings, np.where(asked, expected.mean, 0.0), groups)
    more = np.zeros(len(room), np.int64)
    for group, budget in budgets.items():
        rows = np.flatnonzero(groups == group)
        now = (budget - float(spent[rows].sum())) / max(settings.rounds - done, 1)
        more[rows] = deal_out(gains[rows], room[rows], expected.take(rows), now, settings.min_gain)
    some = np.flatnonzero(more)
    gained = np.zeros(len(room))
    gained[some] = gains[some, more[some] - 1]
    return Decision(more, gained, dict(budgets), float(spent.sum()), float((more * expected.mean).sum()))


def _gains(votes: bool, state: State, n: int, most: int, expected: Lengths, highest: float) -> Floats:
    """Expected gain of 1 to ``most`` further candidates [P, most]."""
    if votes:
        return vote_gains([counts_of(row) for row in state.scores.tolist()], most)[1]
    sampled = state.drawn.sum(axis=1)
    first = int(sampled[sampled > 0].min(initial=most + n))
    sampled_scores = np.where(state.drawn, state.scores, np.nan)
    return reward_gains(state.scores, sampled_scores, most, first, expected.mean, highest)


def _budgets(settings: Adaptive, candidate: Floats, groups: np.ndarray) -> dict[str, float]:
    """Group -> tokens of all rounds together, so that every group's pay for as many candidates a prompt.

    Args:
        candidate: tokens that one more candidate of each prompt costs, 0 of those that have none [P].
        groups: of every prompt [P].
    """
    if settings.tokens is not None:
        factor = settings.tokens * float((candidate > 0).sum()) / max(float(candidate.sum()), 1e-12)
    else:
        factor = settings.mean_n or 0.0
    names = sorted(set(groups.tolist()))
    return {name: factor * float(candidate[groups == name].sum()) for name in names}


@dataclass(frozen=True)
class Lengths:
    """What a prompt's next candidate is expected to cost.

    Attributes:
        mean: tokens [P].
        doubt: variance of that mean [P]: it is estimated from some candidates.
        spread: variance of one candidate's tokens around its prompt's mean.
    """

    mean: Floats
    doubt: Floats
    spread: float

    def take(self, rows: Ints) -> Lengths:
        return Lengths(self.mean[rows], self.doubt[rows], self.spread)


def lengths(tokens: Floats) -> Lengths:
    """Mean length of every prompt's candidates, drawn towards the batch's mean where it is estimated from few.

    Args:
        tokens: of the candidates so far [P, N]; NaN = none.
    """
    valid = np.isfinite(tokens)
    count = valid.sum(axis=1)
    some = count > 0
    means = np.where(valid, tokens, 0.0).sum(axis=1) / np.maximum(count, 1)
    freedom = max(int((count - some).sum()), 1)
    within = float((np.where(valid, tokens - means[:, None], 0.0) ** 2).sum() / freedom)
    grand = float(means[some].mean()) if some.any() else 0.0
    noise = within / np.maximum(count, 1)
    between = max(float(means[some].var() - noise[some].mean()), 0.0) if some.any() else 0.0
    trust = np.where(some, between / np.maximum(between + noise, 1e-12), 0.0)
    mean = np.maximum(grand + trust * (means - grand), 1.0)
    return Lengths(mean, trust * noise, within)


def concave(gains: Floats) -> Floats:
    """Least concave curves above expected gains [P, m], which start at 0 (a second vote may gain what the first one
    cannot).
    """
    curves = np.concatenate([np.zeros((len(gains), 1)), gains], axis=1)
    size, rows = curves.shape[1], np.arange(len(curves))
    found = curves.copy()
    at = np.zeros(len(curves), np.int64)
    while (at < size - 1).any():
        steps = np.arange(size)[None, :] - at[:, None]
        slopes = np.where(steps > 0, (curves - curves[rows, at][:, None]) / np.maximum(steps, 1), -np.inf)
        to = np.where(at < size - 1, slopes.argmax(axis=1), at)
        inside = (steps > 0) & (np.arange(size)[None, :] <= to[:, None])
        slope = np.where(at < size - 1, slopes.max(axis=1), 0.0)
        line = curves[rows, at][:, None] + slope[:, None] * steps
        found = np.where(inside, line, found)
        at = to
    return cast(Floats, found[:, 1:])


def deal_out(gains: Floats, room: Ints, expected: Lengths, budget: float, least: float = 0.0) -> Ints:
    """How many further candidates each prompt gets: always the one with the largest gain per token next.

    Gains grow ever more slowly, so this is the best use of the budget but for its last candidate. Of the budget, two
    standard deviations of what the candidates will really cost are kept back.

    Args:
        gains: expected gain of 1, 2 .. further candidates [P, M].
        room: most candidates that each prompt may still get [P].
        expected: their lengths.
        budget: tokens.
        least: a candidate that is expected to gain no more than this is not drawn.

    Returns:
        [P]; the sum of expected tokens is at most ``budget``.
    """
    most = gains.shape[1]
    if not most or budget <= 0:
        return np.zeros(len(gains), np.int64)
    number = np.arange(1, most + 1)
    within = np.minimum(number - 1, np.maximum(room - 1, 0)[:, None])  # no slope leads beyond a prompt's own room
    steps = np.diff(concave(np.take_along_axis(gains, within, axis=1)), axis=1, prepend=0.0)
    wanted: Bools = (steps > max(least, 1e-12)) & (number[None, :] <= room[:, None])
    rows, columns = np.nonzero(wanted)
    worth = steps[rows, columns] / expected.mean[rows]
    order = np.lexsort((rows, columns, -worth))
    rows, columns = rows[order], columns[order]
    cost = np.cumsum(expected.mean[rows])
    variance = np.cumsum(expected.spread + (2 * columns + 1) * expected.doubt[rows])
    taken = cost + _SAFETY * np.sqrt(variance) <= budget
    kept = int(np.argmin(taken)) if not taken.all() else len(taken)
    return np.bincount(rows[:kept], minlength=len(gains))
