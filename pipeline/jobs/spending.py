"""What a run has cost, with its estimate beside it: for ``run`` and ``estimate``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from pipeline.config.config import Config
from pipeline.core.folder import RunFolder
from pipeline.core.layers import TABLES
from pipeline.core.safety import say
from pipeline.jobs.job import console, update_manifest
from pipeline.report.system_costs import SystemCost, system_costs
from pipeline.stats.choices import count_choices
from pipeline.stats.costs import Costs, StageCost, count_costs, total_of


def last_table(run: RunFolder) -> str:
    """The finished table that knows of all jobs."""
    return next(table for table in reversed(TABLES) if run.marker(table) is not None)


def report_costs(config: Config) -> None:
    """Count what the run has cost, store it in the manifest and print it, with the estimate where there was one."""
    run = RunFolder(config.out)
    true = count_costs(config, run, last_table(run))
    known = run.manifest().get("costs", {}).get("estimate")
    rates = run.read_table("winrates.parquet")
    systems = system_costs(config, true, count_choices(run, last_table(run)), rates.to_pylist() if rates else [])
    update_manifest(run, {"costs": {"truth": true.as_json(), "systems": [asdict(s) for s in systems]}})
    print_costs(Costs.from_json(known) if known else None, true)
    print_systems(systems)


def print_systems(systems: Sequence[SystemCost]) -> None:
    """Print what an accepted answer of each system costs, and a point of win-rate."""
    from rich.table import Table

    table = Table(title="cost of an accepted answer, and of a point of win-rate above 50%", title_justify="left")
    table.add_column("system")
    priced = any(s.money is not None for s in systems)
    for name in ("prompts", "accepted", "tokens", *(["money"] if priced else []), "points", "tokens/point"):
        table.add_column(name, justify="right")
    if priced:
        table.add_column("money/point", justify="right")
    for s in systems:
        money = [_money(s.money)] if priced else []
        more = [_money(s.money_per_point)] if priced else []
        points = "-" if s.points is None else f"{s.points:.1f}"
        counts = (f"{s.prompts:,}", f"{s.accepted:,}", _money(s.tokens), *money)
        table.add_row(s.system, *counts, points, _money(s.tokens_per_point), *more)
    if systems:
        console(table)


def print_costs(estimated: Costs | None, true: Costs | None) -> None:
    """Print the estimate, the truth, or both and their ratio, by stage and in all."""
    from rich.table import Table

    sides = [(name, costs) for name, costs in (("estimate", estimated), ("truth", true)) if costs is not None]
    rows = max(costs.rows for _, costs in sides)
    pilot = f", estimated from {estimated.pilot}" if estimated else ""
    table = Table(title=f"costs of {rows:,} prompts{pilot}", title_justify="left")
    table.add_column("stage")
    priced = any(costs.money is not None for _, costs in sides)
    for name, _ in sides:
        for what in ("requests", "prompt tok", "new tok", *(["money"] if priced else [])):
            table.add_column(f"{what}\n{name}", justify="right")
    if len(sides) == 2:
        table.add_column("tokens\nest./true", justify="right")
    names: list[tuple[str, str] | None] = list(dict.fromkeys((s.job, s.stage) for _, c in sides for s in c.stages))
    for key in [*names, None]:
        found = [total_of(s for s in costs.stages if key is None or (s.job, s.stage) == key) for _, costs in sides]
        cells = [cell for stage in found for cell in _cells(stage, priced)]
        ratio = [f"{found[0].tokens / found[1].tokens:.2f}" if found[1].tokens else "-"] if len(sides) == 2 else []
        table.add_row("all" if key is None else key[1], *cells, *ratio, end_section=key == (names or [None])[-1])
    console(table)
    for name, costs in sides:
        say(f"{name}: {_in_all(costs)}")


def _cells(stage: StageCost, priced: bool) -> list[str]:
    money = [_money(stage.money)] if priced else []
    return [f"{stage.requests:,.0f}", f"{stage.prompt_tokens:,.0f}", f"{stage.completion_tokens:,.0f}", *money]


def _money(value: float | None) -> str:
    return "-" if value is None else f"{value:,.4g}"


def _in_all(costs: Costs) -> str:
    bounds = "" if costs.low is None else f" ({costs.low:,.0f} to {costs.high:,.0f}, 95%)"
    money = "" if costs.money is None else f", money {_money(costs.money)}"
    rate = " at the pilot's rate; a full engine is faster" if costs.pilot else ""
    time = f"{costs.engine_hours:.2f} engine hours, {costs.seconds:,.0f} s"
    return f"{costs.tokens:,.0f} tokens{bounds}{money}, {time}{rate}"
