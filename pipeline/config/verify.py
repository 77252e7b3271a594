"""The ``verify`` section of the config."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.core.errors import ConfigError


@dataclass
class VerifyConfig:
    """How a run is verified.

    Attributes:
        rows: prompts whose candidates are sampled again; ``null`` = all.
        seed: chooses them, by hash.
        min_match: smallest share of candidates, in each candidate set and model, that must be the same text again; else
            the exit code is 3. ``null`` = 1 for engines that are deterministic (the dummy), and 0 for all others:
            vLLM's numbers depend on which requests share a batch, so that some answers differ although nothing is
            wrong.
        folder: where the sampling is done again and ``verify.json`` goes; ``null`` = the run's own folder.
    """

    rows: int | None = 20
    seed: int = 1
    min_match: float | None = None
    folder: str | None = None

    def check(self, key: str) -> None:
        """Raise ConfigError, naming the key below ``key``, on a value that cannot work."""
        if self.rows is not None and self.rows < 1:
            raise ConfigError(f"{key}.rows: must be at least 1, or null for all, not {self.rows}")
        if self.min_match is not None and not 0 <= self.min_match <= 1:
            raise ConfigError(f"{key}.min_match: must be in [0, 1], not {self.min_match}")
