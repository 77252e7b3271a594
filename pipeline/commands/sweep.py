"""``sweep``: generate and select over a grid of sampling settings -> curves, and a recommended policy.

The grid becomes plans of an ordinary run, so a sweep resumes, and its folder can be reported, like any other.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import pyarrow.dataset as pads

from pipeline.commands import generate, judge, select
from pipeline.commands.context import console
from pipeline.commands.winrate import interval, percent, points, store_table
from pipeline.config import Config, to_dict
from pipeline.errors import ConfigError, nearest
from pipeline.prompts import read_prompts
from pipeline.sampling.plans import Greedy, PlanConfig
from pipeline.scoring.measure import WIN
from pipeline.selection.base import SELECTORS, Selector
from pipeline.stats.intervals import Bootstrap
from pipeline.stats.pools import load_quality
from pipeline.stats.sweep import Sweep, sweep_table
from pipeline.stats.sweep_choice import choices_table
from pipeline.storage import RunFolder
from pipeline.tasks import task_named

POLICY_FILE = "policy.yaml"
_BASELINES = ("sample", "random", "longest", "greedy", "oracle")


def run(config: Config) -> None:
    """Sample every setting's candidates and the greedy answer, select, score, and recommend.

    Writes ``sweep`` and ``sweep_choices`` (``.parquet`` and ``.csv``) and ``policy.yaml`` into the run's folder.

    Raises:
        ConfigError, InputError: before any model loads, also when nothing could tell good answers from bad ones.
        LemonpressError: a pass failed.
    """
    from pipeline.execution.cluster import cluster

    planned = sweep_config(config)
    run = RunFolder(config.out)
    for name, engine in _engines(planned).items():
        engine.ready(f"engines.{name}")
    read_prompts(planned.prompts, run)
    _check_metrics(planned, run)
    with cluster(planned.ray):
        generate.run(planned)
        select.run(planned)
        if planned.judge.candidates:
            judge.run(planned)
    tables(planned, run)


def sweep_config(config: Config) -> Config:
    """The run that a sweep is: ``sampling`` becomes the greedy plan, ``plans`` the grid; evidence plans stay.

    Of the selectors the chosen one stays, and ``sample`` and ``greedy``. Doing it twice changes nothing, so the config
    that the folder stores resumes the sweep.

    Raises:
        ConfigError: there is no such selector, or nothing to take the plans' settings from.
    """
    sweep = config.sweep
    if config.sampling is None:
        raise ConfigError("sampling: null; a sweep takes the plans' engine, max_tokens and so on from it")
    common = {f.name: getattr(config.sampling, f.name) for f in dataclasses.fields(PlanConfig)}
    greedy = Greedy(**{**common, "n": 1, "temperature": 0.0, "min_p": 0.0, "candidate_set": None})
    evidence = {name: plan for name, plan in config.plans.items() if plan.kind == "evidence"}
    grid = sweep.plans(config.sampling)
    settings = list(grid)
    name = chosen_selector(config)
    sample, best = SELECTORS.get("sample")(), SELECTORS.get("greedy")()
    selectors: dict[str, Selector] = {
        "greedy": dataclasses.replace(best, plans=["greedy"]),
        "sample": dataclasses.replace(sample, plans=settings),
    }
    if name in config.selectors:
        selectors[name] = dataclasses.replace(config.selectors[name], plans=settings)
    derived = dataclasses.replace(
        config,
        sampling=greedy,
        plans={**evidence, **grid},
        selectors=selectors,
        policy={},
        answers=dict(config.answers),
    )
    derived.judge = dataclasses.replace(config.judge, systems=[])
    if not config.judge.candidates or config.judge.engine is None:
        derived.answers = {}
        derived.judge = dataclasses.replace(config.judge, engine=None, candidates=False)
        return derived
    opponent = config.judge.opponent
    if opponent not in config.answers:
        method = opponent.rpartition("/")[2]
        if method not in selectors:
            raise ConfigError(
                f"judge.opponent: a sweep has no {opponent!r}{nearest(method, [*selectors, *config.answers])}"
            )
        derived.judge.opponent = f"{'greedy' if method == 'greedy' else sweep.base_setting()}/{method}"
    judge.check(derived)
    return derived


def chosen_selector(config: Config) -> str:
    """Name of the selector whose answers a sweep compares.

    Raises:
        ConfigError: ``sweep.selector`` names none, or one that has no answer of its own at every setting.
    """
    name = config.sweep.selector
    if name is None:
        return next((n for n, s in config.selectors.items() if s.kind not in _BASELINES), "sample")
    if name != "sample" and name not in config.selectors:
        raise ConfigError(
            f"sweep.selector: no selector is called {name!r}{nearest(name, ['sample', *config.selectors])}"
        )
    if name in config.selectors and config.selectors[name].kind in ("greedy", "oracle"):
        kind = config.selectors[name].kind
        why = "does not depend on the setting" if kind == "greedy" else "is a bound, never a system"
        raise ConfigError(f"sweep.selector: {kind} {why}")
    return name


def _engines(planned: Config) -> dict[str, Any]:
    names = {plan.engine for plan in planned.all_plans().values()}
    names |= {s.engine for s in planned.selectors.values() if s.engine}
    names |= {m.engine for m in planned.metrics.values()}
    names |= {planned.judge.engine} if planned.judge.engine else set()
    for name, plan in planned.all_plans().items():
        planned.engine(plan.engine, planned.plan_key(name, "engine"), frozenset({"generate"}))
    return {name: planned.engine(name, "engines") for name in sorted(names)}


def _check_metrics(planned: Config, run: RunFolder) -> None:
    has_reference = run.dataset("prompts").count_rows(filter=pads.field("reference").is_valid())
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
        planned.sweep.enough,
        planned.seed,
    )
    quality = load_quality(run)
    metrics = {name: metrics_of(planned, name) for name in quality.tasks}
    curves = sweep_table(quality, sweep, bootstrap)
    choices = choices_table(quality, sweep, metrics, bootstrap)
    store_table(run, "sweep", curves)
    store_table(run, "sweep_choices", choices)
    print_curves(curves.to_pylist(), choices.to_pylist())
    print_choices(choices.to_pylist(), settings.confidence)
    path = run.write_text(policy_yaml(planned, choices.to_pylist()), POLICY_FILE)
    print(f"policy: {path} (add it to a run: lemonpress run CONFIG {POLICY_FILE})")


def metrics_of(config: Config, task: str) -> tuple[str, ...]:
    """The metrics that a task's settings may be chosen by, the preferred one first."""
    named = config.sweep.metrics.get(task)
    return (named,) if named else (*task_named(task, config.tasks).metrics()[:1], WIN)


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
            str(c["n_held_out"]),
            percent(c["held_out"]),
            "-" if c["difference"] is None else f"{100 * c['difference']:+.1f}",
            points(c["ci_low"], c["ci_high"]),
            c["recommended"],
            c["note"],
        )
    console(shown)


def policy_yaml(planned: Config, choices: list[dict[str, Any]]) -> str:
    """The recommendation as a config layer: the plans, the selector, and a rule per task (and language, where that
    one's own setting is better than the base).
    """
    from omegaconf import OmegaConf

    sweep, selector = planned.sweep, chosen_selector(planned)
    whole = {c["task"]: c["recommended"] for c in choices if c["language"] == "all"}
    rules: dict[str, dict[str, str]] = {"default": {"plan": sweep.base_setting(), "selector": selector}}
    for c in choices:
        if c["language"] == "all":
            rules[c["task"]] = {"task": c["task"], "plan": c["recommended"], "selector": selector}
        elif c["resolved"] and c["recommended"] != whole[c["task"]]:
            where = {"task": c["task"], "language": c["language"]}
            rules[f"{c['task']}_{c['language']}"] = {**where, "plan": c["recommended"], "selector": selector}
    used = dict.fromkeys(rule["plan"] for rule in rules.values())
    layer = {
        "sampling": None,
        "plans": {name: to_dict(planned.plans[name]) for name in used},
        "selectors": {selector: {**to_dict(planned.selectors[selector]), "plans": None}},
        "policy": rules,
    }
    notes = [f"#   {c['task']} {c['language']}: {c['recommended']}: {c['note']}" for c in choices]
    enough = [
        f"#   {c['task']}: {c['n_enough']} of {c['n']} candidates give {sweep.enough:.0%} of the best one's gain"
        for c in choices
        if c["language"] == "all" and c["n_enough"]
    ]
    head = [
        "# Written by `lemonpress sweep`: add it to a run's config, after the files that it should win over.",
        *notes,
    ]
    return "\n".join([*head, *enough, OmegaConf.to_yaml(OmegaConf.create(layer))])
