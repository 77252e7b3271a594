"""From label probabilities to verdicts.

A verdict is invalid when the labels hold less than half of the mass, or an endpoint's numbers are no probabilities.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.core.hashing import argmax

MIN_MASS = 0.5
_MAX_MASS = 1.05  # rounded log-probabilities add up to a little more than 1
LETTERS = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ")


def mass_of(probs: Mapping[str, float]) -> float | None:
    """What the labels hold together, or ``None`` when the verdict is invalid."""
    mass = sum(probs.values())
    usable = all(p >= 0 for p in probs.values()) and MIN_MASS <= mass <= _MAX_MASS  # false for NaN, too
    return mass if usable else None


def pick(probs: Mapping[str, float], *tie_key: Any) -> str | None:
    """The most probable label (ties by seeded hash), or ``None`` when the verdict is invalid."""
    if mass_of(probs) is None:
        return None
    labels = list(probs)
    index = argmax([probs[label] for label in labels], *tie_key)
    return None if index is None else labels[index]


def expected_grade(probs: Mapping[str, float], labels: Sequence[str]) -> float | None:
    """Mean of the numeric labels under their normalised probabilities, or ``None`` when invalid."""
    mass = mass_of(probs)
    if mass is None:
        return None
    return sum(float(label) * probs[label] for label in labels) / mass


def pairwise_score(probs: Mapping[str, float], first: str, second: str, tie: str, soft: bool) -> float | None:
    """Score of the answer shown first, in [0, 1], or ``None`` when the verdict is invalid.

    Args:
        probs: label -> raw probability.
        first, second, tie: the labels for "first is better", "second is better" and "neither".
        soft: win probability plus half the tie probability, instead of the hard 1, 1/2, 0.
    """
    mass = mass_of(probs)
    if mass is None:
        return None
    if soft:
        return (probs[first] + 0.5 * probs[tie]) / mass
    top = max(probs.values())
    winners = [label for label, p in probs.items() if p == top]
    if len(winners) > 1 or winners[0] == tie:
        return 0.5
    return 1.0 if winners[0] == first else 0.0
