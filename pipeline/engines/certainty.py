"""Self-certainty: how far a model's token distributions are from uniform."""

from __future__ import annotations

import math
from collections.abc import Sequence

SCORER = "self_certainty"
"""Scorer name under which it is stored when it was measured while sampling."""


def self_certainty(steps: Sequence[Sequence[float]], vocabulary: int) -> float | None:
    """Mean over tokens of KL(U || p), in nats, from the top tokens' log-probabilities.

    The definition needs the whole vocabulary's distribution. With k < V tokens a step this is an approximation: the
    probability that they leave is spread evenly over the other V - k tokens, which bounds KL(U || p) from below.

    Args:
        steps: for each generated token, natural log-probabilities of k different tokens.
        vocabulary: V.

    Returns:
        ``None`` without tokens.

    Source: arXiv 2502.18581, equation for self-certainty: -1/(nV) sum_i sum_j log(V p(j | x, y_<i)).
    """
    if not steps:
        return None
    return sum(_divergence(step, vocabulary) for step in steps) / len(steps)


def _divergence(logprobs: Sequence[float], vocabulary: int) -> float:
    rest = vocabulary - len(logprobs)
    total = sum(logprobs)
    if rest > 0:
        left = max(1.0 - math.fsum(math.exp(p) for p in logprobs), 1e-10)
        total += rest * math.log(left / rest)
    return -math.log(vocabulary) - total / vocabulary
