"""One round's decision: how many further candidates every prompt gets, from numbers alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.adaptive.budget import deal_out, lengths
from pipeline.adaptive.rewards import reward_gains
from pipeline.adaptive.settings import Adaptive
from pipeline.adaptive.votes import counts_of, vote_gains
from pipeline.stats.arrays import Bools, Floats, Ints


@dataclass(frozen=True)
class State:
    """P prompts after a round; all arrays [P, N], and NaN (or false) behind a prompt's last candidate.

    Attributes:
        scores: the selector's numbers, or each candidate's votes; NaN = invalid.
        tokens: of every candidate; NaN = the request failed.
        drawn: the candidates that further ones are like: not the greedy one.
        count: candidates so far, failed ones included [P].
    """

    scores: Floats
    tokens: Floats
    drawn: Bools
    count: Ints


@dataclass(frozen=True)
class Decision:
    """What one round may spend, and on whom.

    Attributes:
        more: further candidates [P].
        budget: tokens of all rounds together.
        spent: tokens of the rounds before.
        expected: tokens that ``more`` is expected to cost.
        gain: what it is expected to gain, summed over prompts.
    """

    more: Ints
    budget: float
    spent: float
    expected: float
    gain: float


def decide(
    settings: Adaptive,
    n: int,
    votes: bool,
    state: State,
    done: int,
    budget: float | None = None,
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
        budget: what the first decision said; ``None`` = this is the first one.
        highest: the largest score that a candidate can have.
    """
    tokens = np.where(state.drawn, state.tokens, np.nan)
    expected = lengths(tokens)
    spent = float(np.nansum(state.tokens))
    asked = state.count > 0
    if budget is None:
        budget = _budget(settings, float(expected.mean[asked].sum()), int(asked.sum()))
    room = np.where(asked, np.maximum(n - state.count, 0), 0)
    most = int(room.max(initial=0))
    if votes:
        gains = vote_gains([counts_of(row) for row in state.scores.tolist()], most)[1]
    else:
        sampled = state.drawn.sum(axis=1)
        first = int(sampled[sampled > 0].min(initial=most + n))
        sampled_scores = np.where(state.drawn, state.scores, np.nan)
        gains = reward_gains(state.scores, sampled_scores, most, first, expected.mean, highest)
    now = (budget - spent) / max(settings.rounds - done, 1)
    more = deal_out(gains, room, expected, now, settings.min_gain)
    gain = gains[np.flatnonzero(more), more[more > 0] - 1].sum() if most else 0.0
    return Decision(more, budget, spent, float((more * expected.mean).sum()), float(gain))


def _budget(settings: Adaptive, per_candidate: float, prompts: int) -> float:
    """Tokens of all rounds together; ``per_candidate``: what one of every prompt costs."""
    if settings.tokens is not None:
        return settings.tokens * prompts
    return (settings.mean_n or 0.0) * per_candidate
