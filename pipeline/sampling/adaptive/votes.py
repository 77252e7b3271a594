"""What further candidates are expected to gain where the most frequent answer is chosen.

A prompt's answers are taken as draws from an unknown law over answers, of which some have not been seen: a Dirichlet
process, whose concentration (few answers, or many) differs between prompts. The frequencies of concentrations are
fitted to the whole batch (empirical Bayes, with Ewens' sampling formula as the likelihood of the counts). From the
posterior come the law, its true mode, and further answers; so the probability that the leader is the true mode is known
now, and after m more candidates on average. Their difference is the gain. Adaptive-consistency (arXiv 2305.11860) stops
a prompt by such a posterior; here the tokens go where it grows most.

Prompts with equal counts are equal: the cost is that of the different sets of counts, not of the prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import lgamma
from typing import cast

import numpy as np

from pipeline.core.columns import Floats
from pipeline.core.hashing import derive_seed

_GRID = np.geomspace(0.05, 50.0, 24)
_ITERATIONS = 200
_DRAWS = 2000
_UNSEEN = 12  # answers that the unseen part of a law is broken into

Counts = tuple[int, ...]
"""How often each answer was given, the most frequent first."""


def counts_of(votes: Sequence[float]) -> Counts:
    """The counts from what :class:`~pipeline.selection.majority_vote.MajorityVote` gives every candidate: the number
    of votes for its answer (NaN: it casts none). So no text, and no answer, is needed.
    """
    numbers, times = np.unique([v for v in votes if v == v and v > 0], return_counts=True)
    found = [int(v) for v, t in zip(numbers, times, strict=True) for _ in range(round(t / v))]
    return tuple(sorted(found, reverse=True))


def vote_gains(counts: Sequence[Counts], most: int) -> tuple[Floats, Floats]:
    """How sure the leader is, and the expected gain of 1 to ``most`` further votes.

    Returns:
        (probability that the leader is the law's true mode [P], 0 without a vote; its expected growth [P, most]).
    """
    states = sorted({c for c in counts if c})
    sure, gains = np.zeros(len(counts)), np.zeros((len(counts), most))
    if not states:
        return sure, gains
    number = {state: i for i, state in enumerate(states)}
    weights = np.bincount([number[c] for c in counts if c], minlength=len(states))
    likelihood = np.array([[_ewens(state, c) for c in _GRID] for state in states])
    likelihood = np.exp(likelihood - likelihood.max(axis=1, keepdims=True))
    prior = np.full(len(_GRID), 1 / len(_GRID))
    for _ in range(_ITERATIONS):
        joint = likelihood * prior
        prior = weights @ (joint / joint.sum(axis=1, keepdims=True)) / weights.sum()
    right = [_probabilities(state, row * prior, most) for state, row in zip(states, likelihood, strict=True)]
    for i, state in enumerate(counts):
        if state:
            found = right[number[state]]
            sure[i], gains[i] = found[0], np.maximum(found[1:] - found[0], 0.0)
    return sure, gains


def _ewens(counts: Counts, concentration: float) -> float:
    """Log probability of the counts (without what does not depend on the concentration)."""
    total = sum(counts)
    rising = lgamma(concentration + total) - lgamma(concentration)
    return float(len(counts) * np.log(concentration) - rising)


def _probabilities(counts: Counts, posterior: Floats, most: int) -> Floats:
    """Probability that the leader is the true mode after 0 .. ``most`` further votes, by simulation [1 + most]."""
    rng = np.random.default_rng(derive_seed("votes", list(counts)))
    concentration = rng.choice(_GRID, size=_DRAWS, p=posterior / posterior.sum())
    known = rng.gamma(np.array(counts, float), size=(_DRAWS, len(counts)))
    rest = rng.gamma(concentration)
    sticks = rng.beta(1.0, concentration[:, None], size=(_DRAWS, _UNSEEN))
    left = np.cumprod(1 - sticks, axis=1)
    unseen = rest[:, None] * sticks * np.concatenate([np.ones((_DRAWS, 1)), left[:, :-1]], axis=1)
    law = np.concatenate([known, unseen], axis=1)
    law /= law.sum(axis=1, keepdims=True)
    mode, bounds = law.argmax(axis=1), np.cumsum(law, axis=1)
    votes = np.concatenate([np.tile(np.array(counts, float), (_DRAWS, 1)), np.zeros(unseen.shape)], axis=1)
    votes += rng.random(votes.shape) * 1e-6  # ties are broken at random
    rows, found = np.arange(_DRAWS), np.zeros(1 + most)
    for m in range(1 + most):
        if m:
            drawn = (rng.random((_DRAWS, 1)) > bounds[:, :-1]).sum(axis=1)
            votes[rows, drawn] += 1
        # Given the votes, what counts is how often the leader is the mode: averaged over the laws that were drawn.
        found[m] = (votes.argmax(axis=1) == mode).mean()
    return cast(Floats, np.maximum.accumulate(found))
