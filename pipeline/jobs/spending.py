"""What a run has cost, with its estimate beside it: for ``run`` and ``estimate``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from pipeline.config.config import Config
from pipeline.core.folder import RunFolder
from pipeline.core.safety import say
from pipeline.jobs.job import console, update_manifest
from pipeline.report.wording import number
from pipeline.stats.costs import Costs, StageCost, pass_costs, total_of
from pipeline.stats.results import results_of
from pipeline.stats.system_costs import SystemCost


def report_costs(config: Config) -> None:
    """Store what the run has cost in its manifest and print it, with the estimate where there was one."""
    run = RunFolder(config.out)
    results = results_of(run, config)
    rows = results.overview.n_prompts if results.overview else 0
    true = Costs(rows, results.stages, pass_costs(config, run))
    known = run.manifest().get("costs", {}).get("estimate")
    systems = [asdict(system) for system in results.system_costs]
    update_manifest(run, {"costs": {"truth": true.as_json(), "systems": systems}})
    print_costs(Costs.from_json(known) if known else None, true)
    print_systems(results.system_costs)


def print_systems(systems: Sequence[SystemCost]) -> None:
    """Print what an accepted answer of each system costs, and a point of what it certainly gains."""
    from rich.table import Table

    unit = next((s.unit for s in systems if s.unit), "")
    title = "cost of an accepted answer" + (f", and of a point of {unit} gained for certain" if unit else "")
    table = Table(title=title, title_justify="left")
    table.add_column("system")
    priced = any(s.accepted_money is not None for s in systems)
    money = ["money"] if priced else []
    for name in ("prompts", "accepted", "tokens", *money, "points", "tokens/point", *(f"{m}/point" for m in money)):
        table.add_column(name, justify="right")
    for s in systems:
        points = None if s.calls_per_point is None else s.gain
        paid = [(number(value),) if priced else () for value in (s.accepted_money, s.money_per_point)]
        counts = (f"{s.n_prompts:,}", f"{s.accepted:,}", number(s.accepted_tokens), *paid[0])
        table.add_row(s.system, *counts, number(points), number(s.tokens_per_point), *paid[1])
    if systems:
        console(table)


def print_costs(estimated: Costs | None, true: Costs | None) -> None:
    """Print the estimate, the truth, or both and their ratio, by stage and in all."""
    from rich.table import Table
    from rich.text import Text

    sides = [(name, costs) for name, costs in (("estimate", estimated), ("truth", true)) if costs is not None]
    rows = max(costs.rows for _, costs in sides)
    pilot = f", estimated from {estimated.pilot}" if estimated else ""
    table = Table(title=f"costs of {rows:,} prompts{pilot}", title_justify="left")
    table.add_column("stage")
    priced = any(costs.money is not None for _, costs in sides)
    for name, _ in sides:
        for what in ("requests", "prompt tok", "new tok", *(["money"] if priced else [])):
            table.add_column(Text(f"{what}\n{name}"), justify="right")
    if len(sides) == 2:
        table.add_column(Text("tokens\nest./true"), justify="right")  # of a str the line break would be a sign
    names: list[tuple[str, str] | None] = list(dict.fromkeys((s.job, s.stage) for _, c in sides for s in c.stages))
    for key in [*names, None]:
        found = [total_of(s for s in costs.stages if key is None or (s.job, s.stage) == key) for _, costs in sides]
        cells = [cell for stage in found for cell in _cells(stage, priced)]
        ratio = [f"{found[0].tokens / found[1].tokens:.2f}" if found[1].tokens else "–"] if len(sides) == 2 else []
        table.add_row("all" if key is None else key[1], *cells, *ratio, end_section=key == (names or [None])[-1])
    console(table)
    for name, costs in sides:
        say(f"{name}: {_in_all(costs)}")


def _cells(stage: StageCost, priced: bool) -> list[str]:
    money = [number(stage.money)] if priced else []
    return [f"{stage.requests:,.0f}", f"{stage.prompt_tokens:,.0f}", f"{stage.completion_tokens:,.0f}", *money]


def _in_all(costs: Costs) -> str:
    bounds = "" if costs.low is None else f" ({costs.low:,.0f} to {costs.high:,.0f}, 95%)"
    money = "" if costs.money is None else f", money {number(costs.money)}"
    rate = " at the pilot's rate; a full engine is faster" if costs.pilot else ""
    time = f"{costs.engine_hours:.2f} engine hours, {costs.seconds:,.0f} s"
    return f"{costs.tokens:,.0f} tokens{bounds}{money}, {time}{rate}"
