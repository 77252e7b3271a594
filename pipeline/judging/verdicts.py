"""From label probabilities to verdicts. A verdict is invalid when the labels hold less than half of the mass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.hashing import argmax

MIN_MASS = 0.5
LETTERS = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ")


def pick(probs: Mapping[str, float], *tie_key: Any) -> str | None:
    """The most probable label (ties by seeded hash), or ``None`` when the verdict is invalid."""
    if sum(probs.values()) < MIN_MASS:
        return None
    labels = list(probs)
    index = argmax([probs[label] for label in labels], *tie_key)
    return None if index is None else labels[index]


def expected_grade(probs: Mapping[str, float], labels: Sequence[str]) -> float | None:
    """Mean of the numeric labels under their normalised probabilities, or ``None`` when invalid."""
    mass = sum(probs.values())
    if mass < MIN_MASS:
        return None
    return sum(float(label) * probs[label] for label in labels) / mass


def pairwise_score(probs: Mapping[str, float], first: str, second: str, tie: str, soft: bool) -> float | None:
    """Score of the answer shown first, in [0, 1], or ``None`` when the verdict is invalid.

    Args:
        probs: label -> raw probability.
        first, second, tie: the labels for "first is better", "second is better" and "neither".
        soft: win probability plus half the tie probability, instead of the hard 1, 1/2, 0.
    """
    mass = sum(probs.values())
    if mass < MIN_MASS:
        return None
    if soft:
        return (probs[first] + 0.5 * probs[tie]) / mass
    top = max(probs.values())
    winners = [label for label, p in probs.items() if p == top]
    if len(winners) > 1 or winners[0] == tie:
        return 0.5
    return 1.0 if winners[0] == first else 0.0
