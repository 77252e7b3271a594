"""``sweep``: generate and select over a grid of sampling settings -> curves, and a recommended policy.

The grid becomes plans of an ordinary run, so a sweep resumes, and its folder can be reported, like any other.
"""

from __future__ import annotations

from typing import Any

from pipeline.config.config import Config
from pipeline.core.errors import ConfigError
from pipeline.core.folder import RunFolder
from pipeline.core.safety import say
from pipeline.jobs import generate, judge, select
from pipeline.jobs.job import console
from pipeline.jobs.sweep_plan import chosen_selector, metrics_of, policy_yaml, sweep_config
from pipeline.jobs.winrate import interval, percent, points, store_table
from pipeline.prompts.sources import read_prompts
from pipeline.stats.clusters import Bootstrap
from pipeline.stats.facts import set_facts
from pipeline.stats.pools import load_quality
from pipeline.stats.sweep import Sweep, sweep_table
from pipeline.stats.sweep_choice import choices_table

POLICY_FILE = "policy.yaml"


def run(config: Config) -> None:
    """Sample every setting's candidates and the greedy answer, select, score, and recommend.

    Writes ``sweep`` and ``sweep_choices`` (``.parquet`` and ``.csv``) and ``policy.yaml`` into the run's folder.

    Raises:
        ConfigError, InputError: before any model loads, also when nothing could tell good answers from bad ones.
        LemonpressError: a pass failed.
    """
    planned = sweep_config(config)
    run = RunFolder(config.out)
    for name, engine in _engines(planned).items():
        engine.ready(f"engines.{name}")
    read_prompts(planned.prompts, run)
    _check_metrics(planned, run)
    from pipeline.execution.cluster import cluster

    with cluster(planned.ray):
        generate.run(planned)
        select.run(planned)
        if planned.judge.candidates:
            judge.run(planned)
    tables(planned, run)


def _engines(planned: Config) -> dict[str, Any]:
    names = {plan.engine for plan in planned.all_plans().values()}
    names |= {s.engine for s in planned.selectors.values() if s.engine}
    names |= {m.engine for m in planned.metrics.values()}
    names |= {planned.judge.engine} if planned.judge.engine else set()
    for name, plan in planned.all_plans().items():
        planned.engine(plan.engine, planned.plan_key(name, "engine"), frozenset({"generate"}))
    return {name: planned.engine(name, "engines") for name in sorted(names)}


def _check_metrics(planned: Config, run: RunFolder) -> None:
    has_reference = sum(
        len(batch) - batch.column("reference").null_count for batch in run.dataset("prompts").batches(["reference"])
    )
    if not has_reference and not planned.judge.candidates:
        raise ConfigError(
            "judge.candidates: the prompts have no references, so only a judge can tell good answers from bad ones; "
            "set judge.candidates=true with an engine"
        )


def tables(planned: Config, run: RunFolder) -> None:
    """Compute the tables of a finished sweep, store and print them, and write the policy."""
    settings = planned.winrate
    bootstrap = Bootstrap(settings.draws, settings.confidence, settings.seed)
    sweep = Sweep(
        planned.sweep.settings(),
        planned.sweep.base_setting(),
        chosen_selector(planned),
        planned.sweep.development,
        seed=planned.seed,
    )
    quality = load_quality(run, set_facts(planned))
    metrics = {name: metrics_of(planned, name) for name in quality.tasks}
    curves = sweep_table(quality, sweep, bootstrap)
    store_table(run, "sweep", curves)
    choices = choices_table(quality, sweep, metrics, bootstrap)
    store_table(run, "sweep_choices", choices)
    print_curves(curves.to_pylist(), choices.to_pylist())
    print_choices(choices.to_pylist(), settings.confidence)
    path = run.write_text(policy_yaml(planned, choices.to_pylist()), POLICY_FILE)
    say(f"policy: {path}; to use it: lemonpress run CONFIG {path}")


def print_curves(curves: list[dict[str, Any]], choices: list[dict[str, Any]]) -> None:
    """Print what each setting gives at N, over all languages, by the metrics that choose."""
    from rich.table import Table

    by = {(c["task"], c["metric"]) for c in choices}
    largest = max((c["n"] for c in curves), default=0)
    shown = Table(title=f"sampling settings, {largest} candidates each, all languages", title_justify="left")
    for name in ("task", "metric", "setting"):
        shown.add_column(name)
    for name in ("prompts", "one sample", "interval", "selected", "best", "hope", "risk"):
        shown.add_column(name, justify="right")
    for c in curves:
        if (c["task"], c["metric"]) in by and c["language"] == "all" and c["n"] == largest:
            shown.add_row(
                c["task"],
                c["metric"],
                c["setting"],
                str(c["n_prompts"]),
                percent(c["mean"]),
                interval(c["mean_low"], c["mean_high"]),
                percent(c["selected"]),
                percent(c["best"]),
                *("-" if c[name] is None else f"{c[name]:+.1%}" for name in ("hope", "risk")),
            )
    console(shown)


def print_choices(choices: list[dict[str, Any]], confidence: float) -> None:
    """Print what was chosen on the development clusters, and what it was worth on the others."""
    from rich.table import Table

    if not choices:
        return
    first = choices[0]
    title = f"best setting for {first['selector']} against {first['base']} on held-out clusters ({confidence:.0%})"
    shown = Table(title=title, title_justify="left")
    for name in ("task", "language", "best"):
        shown.add_column(name)
    for name in ("prompts", "quality", "difference", "interval"):
        shown.add_column(name, justify="right")
    shown.add_column("recommended")
    shown.add_column("because", overflow="fold")
    for c in choices:
        shown.add_row(
            c["task"],
            c["language"],
            c["best"] or "-",
            str(c["n_held_out"] or 0),
            percent(c["held_out"]),
            "-" if c["difference"] is None else f"{100 * c['difference']:+.1f}",
            points(c["ci_low"], c["ci_high"]),
            c["recommended"],
            c["note"],
        )
    console(shown)
