"""What a run spends: tokens by stage, engine hours by pass, money where a price is configured; estimated and true."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from pipeline.config.config import Config
from pipeline.core.folder import RunFolder
from pipeline.core.layers import TABLES
from pipeline.core.row import Row, Usage
from pipeline.stats.reading import read_rows

_COUNTS = ("requests", "prompt_tokens", "cached_tokens", "completion_tokens")

Stratum = tuple[str | None, str | None]
"""(language, task)."""


@dataclass
class Spent:
    """Requests and tokens; of an estimate, or a share, they need not be whole."""

    requests: float = 0
    prompt_tokens: float = 0
    cached_tokens: float = 0
    completion_tokens: float = 0

    @property
    def tokens(self) -> float:
        """Prompt and completion tokens."""
        return self.prompt_tokens + self.completion_tokens

    @property
    def cached_share(self) -> float | None:
        """Share of the prompt tokens that came out of the prefix cache."""
        return self.cached_tokens / self.prompt_tokens if self.prompt_tokens else None

    def add(self, other: Spent | Usage, factor: float = 1) -> None:
        """Add ``factor`` times what another one spent."""
        for name in _COUNTS:
            setattr(self, name, getattr(self, name) + factor * (getattr(other, name) or 0))


@dataclass
class StageCost(Spent):
    """What one stage spends on all rows.

    Attributes:
        job, stage, model: as in the rows' ``usage``.
        engine: name of the engine that it asked, as its pass recorded it; empty where none did.
        money: price of its tokens; ``None`` where its engine's tokens have no price.
    """

    job: str = ""
    stage: str = ""
    model: str = ""
    engine: str = ""
    money: float | None = None


@dataclass(frozen=True)
class Load:
    """How full a pass's engines were: sequences that ran, per bin of its time.

    Attributes:
        full: share of the engines' time in which they were full.
        capacity: sequences that an engine works on at once.
        width: seconds of a bin.
        mean, low, high: per engine; ``None`` in a bin without a sample.
    """

    full: float
    capacity: int
    width: float
    mean: list[float | None]
    low: list[int | None]
    high: list[int | None]


@dataclass
class PassCost(Spent):
    """What one pass spent, and how long it took.

    Attributes:
        rows, failed: ``None`` where they were not recorded; so ``seconds``: wall time, the model's loading included.
        engine_hours: of all its actors together.
        money: price of those hours; ``None`` where the engine has no price by the hour.
        beside: the pass in which it ran side by side with others, which all have that pass's seconds.
    """

    name: str = ""
    rows: int | None = None
    failed: int | None = None
    seconds: float | None = None
    engine_hours: float = 0.0
    money: float | None = None
    beside: str = ""
    load: Load | None = None

    @property
    def full(self) -> float | None:
        """Share of the engines' time in which they were full; ``None`` where there was none, or it was not recorded."""
        return self.load.full if self.load else None


@dataclass
class Costs:
    """What a run costs.

    Attributes:
        rows: prompts.
        low, high: 95% interval of the tokens of an estimate, from the differences between the pilot's prompts.
        pilot: prompts that an estimate was made from; 0 = counted, not estimated.
    """

    rows: int
    stages: list[StageCost] = field(default_factory=list)
    passes: list[PassCost] = field(default_factory=list)
    low: float | None = None
    high: float | None = None
    pilot: int = 0

    @property
    def tokens(self) -> float:
        """Prompt and completion tokens of all stages."""
        return sum(s.tokens for s in self.stages)

    @property
    def seconds(self) -> float:
        """Wall time of all passes."""
        return sum({p.beside or p.name: p.seconds or 0.0 for p in self.passes}.values())

    @property
    def engine_hours(self) -> float:
        """Hours of all actors together."""
        return sum(p.engine_hours for p in self.passes)

    @property
    def money(self) -> float | None:
        """All priced tokens and hours; ``None`` when nothing has a price."""
        prices = [*(s.money for s in self.stages), *(p.money for p in self.passes)]
        known = [price for price in prices if price is not None]
        return sum(known) if known else None

    def as_json(self) -> dict[str, Any]:
        """For the manifest."""
        totals = {"tokens": self.tokens, "money": self.money, "engine_hours": self.engine_hours}
        return {**asdict(self), **totals, "seconds": self.seconds}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Costs:
        """What :meth:`as_json` gave."""
        passes = [PassCost(**{**p, "load": Load(**p["load"]) if p["load"] else None}) for p in data["passes"]]
        stages = [StageCost(**s) for s in data["stages"]]
        return cls(data["rows"], stages, passes, data["low"], data["high"], data["pilot"])


class StageCosts:
    """Adds up the rows' ``usage``, stage by stage.

    Attributes:
        rows: so far.
    """

    def __init__(self) -> None:
        self._found: dict[tuple[str, str, str], StageCost] = {}
        self.rows = 0

    def add(self, row: Row) -> None:
        """Count a row."""
        self.rows += 1
        for item in row.usage:
            self.add_usage(item)

    def add_usage(self, item: Usage, factor: float = 1) -> None:
        """Count one item of a row ``factor`` times."""
        key = (item.job, item.stage, item.model or "")
        self._found.setdefault(key, StageCost(job=key[0], stage=key[1], model=key[2])).add(item, factor)

    def finish(self, config: Config, engines: Mapping[str, str]) -> list[StageCost]:
        """All stages, with their prices.

        Args:
            engines: stage -> name of its engine (:func:`engines_of`).
        """
        named = (replace(cost, engine=engines.get(cost.stage, "")) for cost in self._found.values())
        return [priced(config, cost) for cost in named]


def priced(config: Config, cost: StageCost) -> StageCost:
    """With the price of its tokens, where its engine's tokens have one."""
    engine = config.engines.get(cost.engine)
    if engine is None or not engine.price.charges_tokens:
        return replace(cost, money=None)
    return replace(cost, money=engine.price.of(cost.prompt_tokens, cost.cached_tokens, cost.completion_tokens))


def total_of(costs: Iterable[StageCost]) -> StageCost:
    """The sum of some stages; its money is ``None`` when none has a price."""
    total = StageCost()
    for cost in costs:
        total.add(cost)
        if cost.money is not None:
            total.money = (total.money or 0.0) + cost.money
    return total


def count_costs(config: Config, run: RunFolder, table: str) -> Costs:
    """What a run has spent, from the ``usage`` of its last table (its other columns are not read) and its manifest."""
    stages = StageCosts()
    for row in read_rows(run, table, "usage"):
        stages.add(row)
    return Costs(stages.rows, stages.finish(config, engines_of(run)), pass_costs(config, run))


def pass_costs(config: Config, run: RunFolder) -> list[PassCost]:
    """What the run's passes have cost, over all attempts."""
    return [_pass_cost(config, name, done, done.get("seconds")) for name, done in _passes(run).items()]


def engines_of(run: RunFolder) -> dict[str, str]:
    """Stage -> name of the engine that it asked, as the passes recorded it."""
    return {stage: p["engine"] for p in _passes(run).values() if p.get("engine") for stage in p["stages"]}


def _passes(run: RunFolder) -> dict[str, dict[str, Any]]:
    """The manifest's passes, and those that it missed (their job was killed at its end), by their table's marker."""
    found: dict[str, dict[str, Any]] = dict(run.manifest().get("passes") or {})
    for table in TABLES:
        for name, summary in ((run.marker(table) or {}).get("passes") or {}).items():
            found.setdefault(name, summary)
    return found


def _pass_cost(config: Config, name: str, done: Mapping[str, Any], seconds: float | None) -> PassCost:
    engine = config.engines.get(done.get("engine", ""))
    hours = (seconds or 0.0) * engine.pool.most() / 3600 if engine else 0.0
    return PassCost(
        **{key: done.get(key) or 0 for key in _COUNTS},
        name=name,
        rows=done.get("rows"),
        failed=done.get("failed"),
        seconds=seconds,
        engine_hours=hours,
        money=engine.price.hour * hours if engine and engine.price.hour else None,
        beside=done.get("beside", ""),
        load=Load(**done["load"]) if done.get("load") else None,
    )


@dataclass
class PilotRow:
    """One prompt of the pilot.

    Attributes:
        stratum: its language and task.
        usage: items of its ``usage`` column.
    """

    stratum: Stratum
    usage: list[Usage]

    @property
    def tokens(self) -> int:
        """All that were spent on it."""
        return sum(u.prompt_tokens + u.completion_tokens for u in self.usage)


def read_pilot(run: RunFolder, table: str) -> list[PilotRow]:
    """The rows of a pilot's last table."""
    return [PilotRow((row.language, row.task), row.usage) for row in read_rows(run, table, "usage")]


def strata(run: RunFolder) -> Counter[Stratum]:
    """Stratum -> rows of the run's prompts."""
    return Counter((row.language, row.task) for row in read_rows(run, "prompts", "errors"))


def weights(pilot: Sequence[Stratum], population: Counter[Stratum]) -> list[float]:
    """Rows of the population that each row of the pilot stands for; they add up to the population.

    A row stands for its share of its stratum. What lies in strata that the pilot did not reach is shared by all.
    """
    reached = Counter(pilot)
    rest = sum(n for stratum, n in population.items() if stratum not in reached)
    return [population[stratum] / reached[stratum] + rest / len(pilot) for stratum in pilot]


def extrapolate(
    config: Config,
    rows: Sequence[PilotRow],
    population: Counter[Stratum],
    engines: Mapping[str, str],
    audited: float | None = None,
) -> Costs:
    """From a pilot's rows to all rows: every pilot row stands for its share of its language and task.

    Args:
        config: knows the prices.
        rows: of the pilot.
        population: stratum -> rows of the whole.
        engines: of the pilot's stages (:func:`engines_of`).
        audited: how many times more rows the whole run audits than the pilot; ``None`` = in proportion to the rows.
    """
    from scipy.special import stdtrit  # takes a moment to import

    total = sum(population.values())
    stages = StageCosts()
    for row, weight in zip(rows, weights([r.stratum for r in rows], population), strict=True):
        for item in row.usage:
            stages.add_usage(item, audited if audited is not None and item.stage == "audit" else weight)
    costs = Costs(total, stages.finish(config, engines), pilot=len(rows))
    if len(rows) > 1:
        spent = [row.tokens for row in rows]
        mean = sum(spent) / len(spent)
        variance = sum((s - mean) ** 2 for s in spent) / (len(spent) - 1)
        half = float(stdtrit(len(spent) - 1, 0.975)) * math.sqrt(variance / len(spent)) * total
        costs.low, costs.high = max(0.0, costs.tokens - half), costs.tokens + half
    return costs


def extrapolate_passes(config: Config, pilot: RunFolder, factor: float, cpu_workers: int = 1) -> list[PassCost]:
    """The passes' time with ``factor`` times the pilot's rows, at the pilot's rate; a model loads once all the same.

    A pilot seldom fills an engine, so the real rate is rather higher.

    Args:
        cpu_workers: actors of a pass without an engine.
    """
    found = []
    for name, done in _passes(pilot).items():
        working = done["busy_seconds"] / max(1, done["workers"])
        loading = max(0.0, done["seconds"] - working)
        engine = config.engines.get(done["engine"])
        seconds = loading + done["busy_seconds"] * factor / (engine.pool.most() if engine else cpu_workers)
        found.append(_pass_cost(config, name, done, seconds))
    return found
