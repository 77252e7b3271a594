"""What no single dataclass of the config can know: names, and contradictions across sections."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pipeline.core.bounds import check_values
from pipeline.core.errors import ConfigError, nearest, require_known
from pipeline.core.safety import holds_secret, is_variable_name
from pipeline.judging.names import is_audit, is_candidate
from pipeline.sampling.plans import SCORING, VOTING
from pipeline.tasks import task_named
from pipeline.tasks.measure import LANGUAGE, WIN

if TYPE_CHECKING:
    from pipeline.config.config import Config


def check(config: Config) -> None:
    """Raise ConfigError, naming the key, for what is wrong in the sections, or contradicts across them."""
    _check_variables(config)
    _check_names(config)
    check_values(config, "")
    _check_plans(config)
    _check_selectors(config)
    _check_adaptive(config)
    _check_answers(config)
    _check_metrics(config)
    _check_policy(config)
    if config.limits.money is not None and not any(e.price.charges for e in config.engines.values()):
        raise ConfigError("limits.money: no engine has a price; set engines.X.price.prompt and .completion, or .hour")


def _check_plans(config: Config) -> None:
    if config.sampling and config.sampling.kind in config.plans:
        raise ConfigError(f"plans.{config.sampling.kind}: the plan under sampling has that name already")
    for name, plan in config.all_plans().items():
        if plan.engine in config.engines:
            config.engine(plan.engine, config.plan_key(name, "engine"), frozenset({"generate"}))


def _check_selectors(config: Config) -> None:
    plans, sets = config.all_plans(), config.sets()
    for name, chosen in config.selectors.items():
        key = f"selectors.{name}"
        if chosen.engine:
            config.engine(chosen.engine, f"{key}.engine", chosen.requires())
        evidence = chosen.evidence_plan()
        if evidence is not None and (evidence not in plans or plans[evidence].kind != "evidence"):
            known = [p for p in plans if plans[p].kind == "evidence"]
            raise ConfigError(
                f"{key}.evidence: no plan of kind evidence is called {evidence!r}{nearest(evidence, known)}; "
                f"e.g. plans.{evidence}.kind=evidence"
            )
        for plan_name in chosen.plans or []:
            require_known(plan_name, sets, f"{key}.plans", "no candidate set is called")


def _check_adaptive(config: Config) -> None:
    plans = config.all_plans()
    for name, plan in plans.items():
        by, key, set_name = plan.adaptive.by, config.plan_key(name, "adaptive"), plan.candidate_set or name
        if by is None:
            continue
        require_known(by, config.selectors, f"{key}.by", "no selector is called")
        kind, able = config.selectors[by].kind, (*SCORING, *VOTING)
        if kind not in able:
            raise ConfigError(f"{key}.by: {kind} does not say what further candidates are worth; {', '.join(able)} do")
        if kind in SCORING and plan.kind == "hedged" and plan.adaptive.first < 3:
            raise ConfigError(f"{key}.first: at least 3 with a hedged plan: how scores spread shows in two samples")
        if set_name not in config.sets_of(by):
            raise ConfigError(f"{key}.by: {by!r} is not applied to {set_name!r}; add it to selectors.{by}.plans")
        others = [p.candidate_set or n for n, p in plans.items() if n != name]
        if set_name in (*others, *config.prompts.given_sets()):
            raise ConfigError(f"{key}: the candidate set {set_name!r} is filled by others as well")


def _check_policy(config: Config) -> None:
    sets = config.sets()
    for name, rule in config.policy.items():
        require_known(rule.plan, sets, f"policy.{name}.plan", "no candidate set is called")
        require_known(rule.selector, config.selectors, f"policy.{name}.selector", "no selector is called")
    if config.policy and not any(r.task is None and r.language is None for r in config.policy.values()):
        raise ConfigError(
            "policy: no rule without task and language; add e.g. policy.default={plan: ..., selector: ...}"
        )


def _check_answers(config: Config) -> None:
    for name, source in config.answers.items():
        key = f"answers.{name}"
        if "/" in name or is_candidate(name) or is_audit(name):
            raise ConfigError(
                f"{key}: an outside system's name may hold no '/', begin with 'audit:' or end in '#NUMBER'"
            )
        if name in config.selectors:
            raise ConfigError(f"{key}: a selector has that name already")
        if source.engine is not None:
            config.engine(source.engine, f"{key}.engine", frozenset({"generate"}))


def _check_metrics(config: Config) -> None:
    for name, metric in config.metrics.items():
        if not name.isidentifier():
            raise ConfigError(f"metrics.{name}: a metric's name is a word of letters, digits and underscores")
        for task in metric.tasks:
            if name in (*task_named(task, config.tasks).metrics(), LANGUAGE, WIN):
                raise ConfigError(f"metrics.{name}: the task {task!r} has a metric of that name already")
        config.engine(metric.engine, f"metrics.{name}.engine", frozenset({"quality"}))


def _check_variables(config: Config) -> None:
    """A key that is pasted where a variable's name belongs would be stored with the run: it is refused, unprinted."""
    named = {f"engines.{name}.api_key_env": getattr(e, "api_key_env", None) for name, e in config.engines.items()}
    named |= {f"ray.env[{i}]": name for i, name in enumerate(config.ray.env)}
    for key, variable in named.items():
        if variable and not is_variable_name(variable):
            raise ConfigError(
                f"{key}: what stands here is no name of an environment variable (letters, digits and '_'), but looks "
                "like a key; put the key into a variable and write its name"
            )
        if "api_key_env" in key:
            holds_secret(variable)


_NAME = re.compile(r"\w[\w.+-]{0,99}")


def _check_names(config: Config) -> None:
    """Names become names of passes and folders, and parts of ``plan/selector`` and ``plan#index``."""
    sections = ("engines", "plans", "selectors", "tasks", "policy")
    named = [(f"{section}.{name}", str(name)) for section in sections for name in getattr(config, section)]
    for plan_name, plan in config.all_plans().items():
        named.append((config.plan_key(plan_name, "candidate_set"), plan.candidate_set or plan_name))
    named += [("prompts.given.name", name) for name in config.prompts.given_sets()]
    for key, name in named:
        if not _NAME.fullmatch(name):
            raise ConfigError(f"{key}: {name!r} is no name: letters, digits, '_', '-', '.' and '+', at most 100")
