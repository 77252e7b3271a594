"""Shapes of the laws that scores are drawn from: standardised, from strongly skewed to the left to the right.

The logarithm of a gamma variable with parameter k is skewed to the left, less so the larger k is (in the limit it is
normal), and its density is smooth and positive everywhere; mirrored, it is skewed to the right. For scores between
bounds there are symmetric shapes with shorter tails than the normal one: densities as exp(-abs(z)^p) with p > 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import exp, lgamma, log, pi, sqrt
from typing import cast

import numpy as np

from pipeline.stats.arrays import Floats

_LOW, _HIGH, _STEP = -10.0, 14.0, 0.04


@dataclass(frozen=True)
class Shape:
    """One shape.

    Attributes:
        k: parameter of the gamma law; ``None`` = normal.
        mirrored: skewed to the right.
        power: p of a symmetric shape with short tails.
    """

    k: float | None = None
    mirrored: bool = False
    power: float | None = None

    def log_density(self, z: Floats) -> Floats:
        """Of standardised scores."""
        if self.power is not None:
            p = self.power
            scale = exp((lgamma(1 / p) - lgamma(3 / p)) / 2)
            return -(np.minimum(np.abs(z) / scale, 1e6) ** p) + log(p / (2 * scale)) - lgamma(1 / p)
        if self.k is None:
            return -0.5 * z**2 - 0.5 * log(2 * pi)
        mean, spread = _moments(self.k)
        y = np.minimum(mean + spread * (-z if self.mirrored else z), 50.0)
        return cast(Floats, log(spread) + self.k * y - np.exp(y) - lgamma(self.k))

    def gains(self, distance: Floats, most: int) -> Floats:
        """E[max(d, X_1 .. X_m)] - d for m = 1 .. ``most`` standardised draws, at each distance d [P, most]."""
        table = _table(self, most)
        place = (np.clip(distance, _LOW, _HIGH) - _LOW) / _STEP
        left = np.minimum(place.astype(np.int64), len(table) - 2)
        share = (place - left)[:, None]
        below = np.maximum(_LOW - distance, 0.0)[:, None]
        return cast(Floats, table[left] * (1 - share) + table[left + 1] * share + below)


SHAPES = (
    *(Shape(k) for k in (0.25, 0.5, 1.0, 2.0, 5.0)),
    Shape(),
    *(Shape(power=p) for p in (4.0, 12.0)),
    *(Shape(k, mirrored=True) for k in (5.0, 2.0, 1.0, 0.5, 0.25)),
)


@lru_cache
def _moments(k: float) -> tuple[float, float]:
    """Mean and standard deviation of the logarithm of a gamma variable, by the trapezoid rule."""
    y = np.linspace(-60 / k - 10, 10, 200_001)
    density = np.exp(k * y - np.exp(y) - lgamma(k))
    density /= density.sum()
    mean = float((density * y).sum())
    return mean, sqrt(float((density * (y - mean) ** 2).sum()))


@lru_cache(maxsize=32)
def _table(shape: Shape, most: int) -> Floats:
    """Gains on a grid of distances [D, most]: the integral of 1 - F(t)^m from d upwards."""
    points: Floats = np.arange(_LOW, _HIGH + _STEP / 2, _STEP, dtype=np.float64)
    density = np.exp(shape.log_density(points))
    cdf = np.cumsum(density) - density / 2
    cdf = np.clip(cdf / density.sum(), 0.0, 1.0)
    above = 1 - cdf[:, None] ** np.arange(1, most + 1)
    parts = (above[1:] + above[:-1]) / 2 * _STEP
    return np.vstack([np.cumsum(parts[::-1], axis=0)[::-1], np.zeros((1, most))])
