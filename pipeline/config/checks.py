"""What no single dataclass of the config can know: names, and contradictions across sections."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pipeline.core.errors import ConfigError, nearest
from pipeline.core.safety import holds_secret, is_variable_name
from pipeline.judging.names import is_audit, is_candidate
from pipeline.sampling.plans import SCORING, VOTING
from pipeline.tasks import task_named
from pipeline.tasks.measure import LANGUAGE, WIN

if TYPE_CHECKING:
    from pipeline.config.load import Config


def check(config: Config) -> None:
    """Raise ConfigError, naming the key, for what is wrong in the sections, or contradicts across them."""
    _check_names(config)
    _check_variables(config)
    for name, engine in config.engines.items():
        engine.check(f"engines.{name}")
        if engine.verdict_tokens is not None and engine.verdict_tokens < 1:
            raise ConfigError(f"engines.{name}.verdict_tokens: at least 1, not {engine.verdict_tokens}")
    for task_name, task in config.tasks.items():
        task.check(f"tasks.{task_name}")
    _check_plans(config)
    _check_selectors(config)
    _check_adaptive(config)
    _check_answers(config)
    _check_metrics(config)
    config.export.check("export")
    config.sweep.check("sweep")
    config.verify.check("verify")
    config.replay.check("replay")
    _check_policy(config)
    _check_numbers(config)
    _check_limits(config)


def _check_plans(config: Config) -> None:
    if config.sampling and config.sampling.kind in config.plans:
        raise ConfigError(f"plans.{config.sampling.kind}: the plan under sampling has that name already")
    for name, plan in config.all_plans().items():
        key = config.plan_key(name, "")[:-1]
        plan.check(key)
        if plan.engine in config.engines:
            config.engine(plan.engine, f"{key}.engine", frozenset({"generate"}))


def _check_selectors(config: Config) -> None:
    plans, sets = config.all_plans(), config.sets()
    for name, chosen in config.selectors.items():
        key = f"selectors.{name}"
        chosen.check(key)
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
            if plan_name not in sets:
                raise ConfigError(f"{key}.plans: no candidate set is called {plan_name!r}{nearest(plan_name, sets)}")


def _check_adaptive(config: Config) -> None:
    plans = config.all_plans()
    for name, plan in plans.items():
        by, key, set_name = plan.adaptive.by, config.plan_key(name, "adaptive"), plan.candidate_set or name
        if by is None:
            continue
        if by not in config.selectors:
            raise ConfigError(f"{key}.by: no selector is called {by!r}{nearest(by, config.selectors)}")
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
        if rule.plan not in sets:
            raise ConfigError(f"policy.{name}.plan: no candidate set is called {rule.plan!r}{nearest(rule.plan, sets)}")
        if rule.selector not in config.selectors:
            hint = nearest(rule.selector, config.selectors)
            raise ConfigError(f"policy.{name}.selector: no selector is called {rule.selector!r}{hint}")
    if config.policy and not any(r.task is None and r.language is None for r in config.policy.values()):
        raise ConfigError(
            "policy: no rule without task and language; add e.g. policy.default={plan: ..., selector: ...}"
        )


def _check_numbers(config: Config) -> None:
    if config.judge.scores not in ("hard", "soft"):
        raise ConfigError(f"judge.scores: must be hard or soft, not {config.judge.scores!r}")
    if config.execution.pilot < 0:
        raise ConfigError(f"execution.pilot: must be at least 0, not {config.execution.pilot}")
    for field_name in ("audit", "max_chars", "reason_tokens"):
        if getattr(config.judge, field_name) < 0:
            raise ConfigError(f"judge.{field_name}: must be at least 0, not {getattr(config.judge, field_name)}")
    if not 0 <= config.judge.max_invalid <= 1:
        raise ConfigError(f"judge.max_invalid: a share from 0 to 1, not {config.judge.max_invalid}")
    if not 0 < config.winrate.confidence < 1:
        raise ConfigError(f"winrate.confidence: must be between 0 and 1, not {config.winrate.confidence}")
    if config.resume not in ("check", "force"):
        raise ConfigError(f"resume: must be check or force, not {config.resume!r}")
    for name in ("rows_per_checkpoint", "cpu_workers", "poison_attempts", "max_restarts"):
        count = getattr(config.execution, name)
        if count is not None and count < 1:
            raise ConfigError(f"execution.{name}: must be at least 1, not {count}")
    if config.execution.row_seconds is not None and config.execution.row_seconds <= 0:
        raise ConfigError(f"execution.row_seconds: must be more than 0, not {config.execution.row_seconds}")
    _check_limits(config)


def _check_limits(config: Config) -> None:
    for name, limit in vars(config.limits).items():
        if limit is not None and limit <= 0:
            raise ConfigError(f"limits.{name}: must be more than 0, not {limit:g}")
    if config.limits.money is not None and not any(e.price.charges for e in config.engines.values()):
        raise ConfigError("limits.money: no engine has a price; set engines.X.price.prompt and .completion, or .hour")


def _check_answers(config: Config) -> None:
    for name, source in config.answers.items():
        key = f"answers.{name}"
        if "/" in name or is_candidate(name) or is_audit(name):
            raise ConfigError(
                f"{key}: an outside system's name may hold no '/', begin with 'audit:' or end in '#NUMBER'"
            )
        if name in config.selectors:
            raise ConfigError(f"{key}: a selector has that name already")
        source.check(key)
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
