"""The ``replay`` section of the config."""

from __future__ import annotations

from dataclasses import dataclass, field

from pipeline.core.errors import ConfigError


@dataclass
class ReplayConfig:
    """How selectors are tried on the candidates of a finished run.

    Attributes:
        n: sizes at which selectors are compared: each sees the first so many candidates of every set, as if no more had
            been sampled. The whole set is always among them.
        metrics: what answers are scored by; ``null`` = each task's main metric, and win-rates of candidate games where
            there are any.
        split: share of the clusters to choose a selector on (in 0..1); the others say what the choice is worth.
            ``null`` = one comparison on all of them, which flatters what was chosen, or tuned, on it.
        table: where the table is (or will be); ``null`` = ``replay.parquet`` in the run's folder.
    """

    n: list[int] = field(default_factory=lambda: [1, 2, 4, 8])
    metrics: list[str] | None = None
    split: float | None = None
    table: str | None = None

    def check(self, key: str) -> None:
        """Raise ConfigError, naming the key below ``key``, on a value that cannot work."""
        if any(n < 1 for n in self.n):
            raise ConfigError(f"{key}.n: a candidate set has at least 1 candidate, not {min(self.n)}")
        if self.split is not None and not 0 < self.split < 1:
            raise ConfigError(f"{key}.split: a share of the clusters, between 0 and 1, not {self.split:g}")
