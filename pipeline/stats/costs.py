"""What a run spends: tokens by stage, engine hours by pass, money where a price is configured; estimated and true."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import pyarrow as pa

from pipeline.config.config import Config
from pipeline.core.folder import RunFolder

_COUNTS = ("requests", "prompt_tokens", "cached_tokens", "completion_tokens")


@dataclass
class StageCost:
    """What one stage spends on all rows.

    Attributes:
        job, stage: as in the rows' ``usage``.
        engine: name of the engine that it asked, as its pass recorded it; empty where none did.
        money: price of its tokens; ``None`` where its engine's tokens have no price.
    """

    job: str
    stage: str
    requests: float = 0
    prompt_tokens: float = 0
    cached_tokens: float = 0
    completion_tokens: float = 0
    engine: str = ""
    money: float | None = None

    @property
    def tokens(self) -> float:
        """Prompt and completion tokens."""
        return self.prompt_tokens + self.completion_tokens


@dataclass
class PassCost:
    """The time of one pass.

    Attributes:
        seconds: wall time, the model's loading included.
        engine_hours: of all its actors together.
        money: price of those hours; ``None`` where the engine has no price by the hour.
        beside: the pass in which it ran side by side with others, which all have that pass's seconds.
    """

    name: str
    seconds: float
    engine_hours: float
    money: float | None = None
    beside: str = ""


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
        return sum({p.beside or p.name: p.seconds for p in self.passes}.values())

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
        stages, passes = [StageCost(**s) for s in data["stages"]], [PassCost(**p) for p in data["passes"]]
        return cls(data["rows"], stages, passes, data["low"], data["high"], data["pilot"])


def count_costs(config: Config, run: RunFolder, table: str) -> Costs:
    """What a run has spent, from the ``usage`` of its last table (its other columns are not read) and its manifest."""
    totals: dict[tuple[str, str], StageCost] = {}
    rows = 0
    for batch in run.leaves(table, lambda top, leaf: top == "usage", 4096):
        rows += batch.num_rows
        items = pa.Table.from_struct_array(batch.column("usage").flatten())
        sums = items.group_by(["job", "stage"]).aggregate([(name, "sum") for name in _COUNTS])
        for item in sums.to_pylist():
            _add(totals, item["job"], item["stage"], {name: item[f"{name}_sum"] or 0 for name in _COUNTS})
    return Costs(rows, _priced(config, totals, engines_of(run)), pass_costs(config, run))


def pass_costs(config: Config, run: RunFolder) -> list[PassCost]:
    """The time that the manifest's passes took, over all attempts."""
    passes = _passes(run)
    costs = [_pass_cost(config, name, p, float(p["seconds"])) for name, p in passes.items()]
    return [replace(cost, beside=p.get("beside", "")) for cost, p in zip(costs, passes.values(), strict=True)]


def engines_of(run: RunFolder) -> dict[str, str]:
    """Stage -> name of the engine that it asked, as the manifest's passes recorded it."""
    return {stage: p["engine"] for p in _passes(run).values() for stage in p["stages"] if p["engine"]}


def _passes(run: RunFolder) -> dict[str, dict[str, Any]]:
    passes: dict[str, dict[str, Any]] = run.manifest().get("passes", {})
    return passes


@dataclass
class PilotRow:
    """One prompt of the pilot.

    Attributes:
        stratum: its language and task.
        usage: items of its ``usage`` column.
    """

    stratum: Stratum
    usage: list[dict[str, Any]]

    @property
    def tokens(self) -> int:
        """All that were spent on it."""
        return sum(u["prompt_tokens"] + u["completion_tokens"] for u in self.usage)


def read_pilot(run: RunFolder, table: str) -> list[PilotRow]:
    """The rows of a pilot's last table."""
    rows = run.iter_rows(table, ("language", "task", "usage"))
    return [PilotRow((r["language"], r["task"]), r["usage"] or []) for r in rows]


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
    totals: dict[tuple[str, str], StageCost] = {}
    for row, weight in zip(rows, weights([r.stratum for r in rows], population), strict=True):
        for item in row.usage:
            factor = audited if audited is not None and item["stage"] == "audit" else weight
            _add(totals, item["job"], item["stage"], {name: item[name] * factor for name in _COUNTS})
    costs = Costs(total, _priced(config, totals, engines), pilot=len(rows))
    if len(rows) > 1:
        spent = [r.tokens for r in rows]
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


def _pass_cost(config: Config, name: str, done: Mapping[str, Any], seconds: float) -> PassCost:
    engine = config.engines.get(done["engine"])
    hours = seconds * engine.pool.most() / 3600 if engine else 0.0
    return PassCost(name, seconds, hours, engine.price.hour * hours if engine and engine.price.hour else None)


def _priced(config: Config, totals: Mapping[tuple[str, str], StageCost], engines: Mapping[str, str]) -> list[StageCost]:
    for cost in totals.values():
        cost.engine = engines.get(cost.stage, "")
        cost.money = price_of(config, cost)
    return list(totals.values())


def price_of(config: Config, cost: StageCost) -> float | None:
    """The price of a stage's tokens; ``None`` where its engine's tokens have none."""
    engine = config.engines.get(cost.engine)
    if engine is None or not engine.price.charges_tokens:
        return None
    return engine.price.of(cost.prompt_tokens, cost.cached_tokens, cost.completion_tokens)


def _add(totals: dict[tuple[str, str], StageCost], job: str, stage: str, counts: Mapping[str, float]) -> None:
    cost = totals.setdefault((job, stage), StageCost(job, stage))
    for name, value in counts.items():
        setattr(cost, name, getattr(cost, name) + value)


def total_of(costs: Iterable[StageCost]) -> StageCost:
    """The sum of some stages; its money is ``None`` when none has a price."""
    total = StageCost("", "")
    for cost in costs:
        for name in _COUNTS:
            setattr(total, name, getattr(total, name) + getattr(cost, name))
        if cost.money is not None:
            total.money = (total.money or 0.0) + cost.money
    return total


Stratum = tuple[str | None, str | None]
"""(language, task)."""


def strata(run: RunFolder) -> Counter[Stratum]:
    """Stratum -> rows of the run's prompts."""
    return Counter((r["language"], r["task"]) for r in run.iter_rows("prompts", ("language", "task")))


def weights(pilot: Sequence[Stratum], population: Counter[Stratum]) -> list[float]:
    """Rows of the population that each row of the pilot stands for; they add up to the population.

    A row stands for its share of its stratum. What lies in strata that the pilot did not reach is shared by all.
    """
    reached = Counter(pilot)
    rest = sum(n for stratum, n in population.items() if stratum not in reached)
    return [population[stratum] / reached[stratum] + rest / len(pilot) for stratum in pilot]
