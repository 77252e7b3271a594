"""A sweep as a run: its config, what it chooses by, and the policy that comes out of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from pipeline.config.config import Config, to_dict
from pipeline.core.errors import ConfigError, nearest
from pipeline.jobs import judge
from pipeline.sampling.plans import Greedy, PlanConfig
from pipeline.selection.base import SELECTORS, Selector
from pipeline.stats.intervals import POOLED
from pipeline.stats.sweep import ENOUGH, SweepChoice
from pipeline.tasks import task_named
from pipeline.tasks.measure import WIN

_BASELINES = ("sample", "random", "longest", "greedy", "oracle")


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


def metrics_of(config: Config, task: str) -> tuple[str, ...]:
    """The metrics that a task's settings may be chosen by, the preferred one first."""
    named = config.sweep.metrics.get(task)
    return (named,) if named else (*task_named(task, config.tasks).metrics()[:1], WIN)


def policy_yaml(planned: Config, choices: Sequence[SweepChoice]) -> str:
    """The recommendation as a config layer: the plans, the selector, and a rule per task (and language, where that
    one's own setting is better than the base).
    """
    from omegaconf import OmegaConf

    sweep, selector = planned.sweep, chosen_selector(planned)
    whole = {c.task: c.recommended for c in choices if c.language == POOLED}
    rules: dict[str, dict[str, str]] = {"default": {"plan": sweep.base_setting(), "selector": selector}}
    for c in choices:
        if c.language == POOLED:
            rules[c.task] = {"task": c.task, "plan": c.recommended, "selector": selector}
        elif c.resolved and c.recommended != whole[c.task]:
            where = {"task": c.task, "language": c.language}
            rules[f"{c.task}_{c.language}"] = {**where, "plan": c.recommended, "selector": selector}
    used = dict.fromkeys(rule["plan"] for rule in rules.values())
    layer = {
        "sampling": None,
        "plans": {name: to_dict(planned.plans[name]) for name in used},
        "selectors": {selector: {**to_dict(planned.selectors[selector]), "plans": None}},
        "policy": rules,
    }
    notes = [f"#   {c.task} {c.language}: {c.recommended}: {c.note}" for c in choices]
    enough = [
        f"#   {c.task}: {c.n_enough} of {c.n} candidates give {ENOUGH:.0%} of the best one's gain"
        for c in choices
        if c.language == POOLED and c.n_enough
    ]
    head = [
        "# Written by `lemonpress sweep`: add it to a run's config, after the files that it should win over.",
        *notes,
    ]
    return "\n".join([*head, *enough, OmegaConf.to_yaml(OmegaConf.create(layer))])
