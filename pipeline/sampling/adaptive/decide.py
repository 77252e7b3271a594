"""One round's decision: how many further candidates every prompt gets, from numbers alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.core.columns import Bools, Floats, Ints
from pipeline.sampling.adaptive.budget import Lengths, deal_out, lengths
from pipeline.sampling.adaptive.rewards import reward_gains
from pipeline.sampling.adaptive.settings import Adaptive
from pipeline.sampling.adaptive.votes import counts_of, vote_gains


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
        """Tokens of all rounds together."""
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
