"""The grid of a sweep: sampling plans over temperatures and min-p."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from pipeline.core.errors import ConfigError, nearest
from pipeline.sampling.plans import PlanConfig, SingleTemperature

PAPER_TEMPERATURE = 0.7
"""The lower end of what the paper recommends (arXiv 2506.20544): the default base of a sweep."""


@dataclass
class SweepConfig:
    """What ``lemonpress sweep`` tries out, and how it chooses.

    All other settings of the plans (engine, ``max_tokens``, ``top_p`` ...) are those of ``sampling``.

    Attributes:
        temperatures, min_p: the grid; its settings are called ``t0.7-p0.1``.
        n: candidates sampled per setting; what fewer would give follows in closed form.
        base: the setting that others must beat; ``null`` = the temperature nearest to 0.7 with the lowest min-p.
        selector: the selector whose answers are compared, and which the policy names; ``null`` = the first one
            configured that is no baseline, else ``sample`` (the mean of the candidates).
        metrics: task -> metric to choose by (``win`` = candidates' games); ``null`` = the task's main metric, and
            ``win`` for tasks without one.
        development: share of the clusters on which settings are chosen; they are scored on the others.
        enough: the number of candidates that is reported as enough gives this share of what the best of all ``n`` gains
            over one.
    """

    temperatures: list[float] = field(default_factory=lambda: [0.3, 0.7, 1.0])
    min_p: list[float] = field(default_factory=lambda: [0.0])
    n: int = 8
    base: str | None = None
    selector: str | None = None
    metrics: dict[str, str] = field(default_factory=dict)
    development: float = 0.5
    enough: float = 0.9

    def check(self, key: str) -> None:
        """Raise ConfigError, naming the key below ``key``, on a value that cannot work."""
        for name, values in (("temperatures", self.temperatures), ("min_p", self.min_p)):
            if not values or len(set(values)) < len(values):
                raise ConfigError(f"{key}.{name}: a list of different numbers, not {values}")
        if any(t <= 0 for t in self.temperatures):
            raise ConfigError(f"{key}.temperatures: must be above 0 (the greedy answer is sampled anyway)")
        if any(not 0 <= p <= 1 for p in self.min_p):
            raise ConfigError(f"{key}.min_p: must be in [0, 1], not {self.min_p}")
        if self.n < 1:
            raise ConfigError(f"{key}.n: must be at least 1, not {self.n}")
        for name, share in (("development", self.development), ("enough", self.enough)):
            if not 0 < share < 1:
                raise ConfigError(f"{key}.{name}: a share between 0 and 1, not {share}")
        if self.base is not None and self.base not in self.settings():
            raise ConfigError(f"{key}.base: the grid has no {self.base!r}{nearest(self.base, self.settings())}")

    def settings(self) -> dict[str, tuple[float, float]]:
        """Name -> (temperature, min-p), cool ones first."""
        return {f"t{t:g}-p{p:g}": (t, p) for t in sorted(self.temperatures) for p in sorted(self.min_p)}

    def base_setting(self) -> str:
        """Name of the setting that others must beat."""
        grid = self.settings()
        return self.base or min(grid, key=lambda name: (abs(grid[name][0] - PAPER_TEMPERATURE), grid[name]))

    def plans(self, template: PlanConfig) -> dict[str, PlanConfig]:
        """One plan of ``n`` candidates per setting, with the template's other settings."""
        common = {f.name: getattr(template, f.name) for f in fields(PlanConfig)}
        common |= {"n": self.n, "candidate_set": None}
        return {
            name: SingleTemperature(**{**common, "temperature": t, "min_p": p})
            for name, (t, p) in self.settings().items()
        }
