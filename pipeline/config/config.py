"""The whole config as one object: what stands under every key, and the names that follow from it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from omegaconf import OmegaConf

from pipeline.config.sections import (
    ExecutionConfig,
    ExportConfig,
    JudgeConfig,
    LabelConfig,
    LimitsConfig,
    RayConfig,
    ReplayConfig,
    ReportConfig,
    SelectionConfig,
    SweepConfig,
    VerifyConfig,
    WinrateConfig,
)
from pipeline.core.bounds import bounded
from pipeline.core.errors import ConfigError, require_known
from pipeline.core.policy import NAME as POLICY
from pipeline.core.policy import Policy, Rule
from pipeline.engines.base import EngineConfig, spell_needs
from pipeline.judging.answers import AnswerSource
from pipeline.prompts.sources import SourceConfig
from pipeline.sampling.plans import PlanConfig
from pipeline.selection.base import Selector
from pipeline.tasks import Task
from pipeline.tasks.measure import MetricConfig


@dataclass
class Top:
    """What is in no section.

    Attributes:
        out: the run's folder.
        seed: the run's seed; every random choice derives from it by hash.
        modules: Python modules of the user's own to import: they may register selectors.
        resume: ``check`` refuses to go on in a folder whose results this config would mix with; ``anew`` makes what
            differs again, beside what is there, with all that depends on it. It holds for one command.
    """

    out: str = "runs/lemonpress"
    seed: int = 1
    modules: list[str] = field(default_factory=list)
    resume: str = bounded("check", one_of=("check", "anew"))


@dataclass
class Config(Top):
    """A run's whole config, resolved and checked.

    Attributes:
        sampling: the sampling plan, named after its kind; ``null`` when the candidates are given.
        plans: further sampling plans by name.
        tasks: settings of tasks by name; a prompt's task without settings takes the defaults.
        metrics: metrics that an engine gives, by name, beside the tasks' own.
        policy: rules that pick plan and selector by task and language.
        answers: outside systems to compare with: name -> where their answers come from.
    """

    prompts: SourceConfig = field(default_factory=SourceConfig)
    engines: dict[str, EngineConfig] = field(default_factory=dict)
    sampling: PlanConfig | None = None
    plans: dict[str, PlanConfig] = field(default_factory=dict)
    tasks: dict[str, Task] = field(default_factory=dict)
    metrics: dict[str, MetricConfig] = field(default_factory=dict)
    policy: dict[str, Rule] = field(default_factory=dict)
    selectors: dict[str, Selector] = field(default_factory=dict)
    selection: SelectionConfig = field(default_factory=SelectionConfig)
    answers: dict[str, AnswerSource] = field(default_factory=dict)
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    winrate: WinrateConfig = field(default_factory=WinrateConfig)
    report: ReportConfig = field(default_factory=ReportConfig)
    export: ExportConfig = field(default_factory=ExportConfig)
    sweep: SweepConfig = field(default_factory=SweepConfig)
    label: LabelConfig = field(default_factory=LabelConfig)
    verify: VerifyConfig = field(default_factory=VerifyConfig)
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    execution: ExecutionConfig = field(default_factory=ExecutionConfig)
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    ray: RayConfig = field(default_factory=RayConfig)

    def all_plans(self) -> dict[str, PlanConfig]:
        """Every sampling plan by name; ``sampling`` goes by its kind."""
        return {**({self.sampling.kind: self.sampling} if self.sampling else {}), **self.plans}

    def sets(self) -> list[str]:
        """Names of the candidate sets that selectors work on: those of the plans (evidence apart) and given ones."""
        named = [p.candidate_set or name for name, p in self.all_plans().items() if p.kind != "evidence"]
        return list(dict.fromkeys([*self.prompts.given_sets(), *named]))

    def only_languages(self) -> dict[str, list[str]]:
        """Candidate set -> its languages, for the sets that no plan samples in all languages."""
        found: dict[str, list[str] | None] = {}
        for name, plan in self.all_plans().items():
            key, tags = plan.candidate_set or name, plan.only_languages
            known = found.get(key, [])
            found[key] = None if tags is None or known is None else [*known, *tags]
        return {key: tags for key, tags in found.items() if tags is not None}

    def sets_of(self, selector: str) -> list[str]:
        """The candidate sets that one selector is applied to."""
        apart = {p.candidate_set or name for name, p in self.all_plans().items() if p.apart}
        return self.selectors[selector].plans or [name for name in self.sets() if name not in apart]

    def systems(self) -> list[str]:
        """Full names of this run's systems. Under a policy, those that exist for every row: ``policy/...``."""
        if self.policy:
            return [f"{POLICY}/{s}" for s in (POLICY, *Policy(self.policy).baselines(self.selectors))]
        return [f"{p}/{s}" for s in self.selectors for p in self.sets_of(s)]

    def judges(self) -> bool:
        """Whether the ``judge`` job has anything to do: games to play, or outside answers to bring in."""
        return self.judge.engine is not None or bool(self.answers)

    def judge_conflicts(self) -> tuple[list[str], list[str]]:
        """(selectors, plans) that use the win-rate judge: the same engine, or the same model under another name."""
        name = self.judge.engine
        judge = self.engines.get(name or "")

        def same(other_name: str | None) -> bool:
            other = self.engines.get(other_name or "")
            return judge is not None and (
                other_name == name or bool(other and judge.model and judge.model == other.model)
            )

        selectors = [key for key, chosen in self.selectors.items() if same(chosen.engine)]
        return selectors, [key for key, plan in self.all_plans().items() if same(plan.engine)]

    def plan_key(self, name: str, field: str) -> str:
        """The config key of one field of the plan called ``name``, for messages."""
        return f"sampling.{field}" if name not in self.plans else f"plans.{name}.{field}"

    def engine(self, name: str, key: str, needs: frozenset[str] = frozenset()) -> EngineConfig:
        """The engine called ``name``, checked for what it must be able to do.

        Raises:
            ConfigError: there is no such engine, or it lacks a capability; the message names ``key``.
        """
        require_known(name, self.engines, key, "no engine is called")
        able = self.engines[name].capabilities()
        missing = [need for need in needs if not able & set(need.split("|"))]
        if missing:
            can = ", ".join(sorted(able))
            raise ConfigError(f"{key}: engine {name!r} cannot {spell_needs(missing)} (it can: {can})")
        return self.engines[name]

    def system(self, name: str, key: str) -> str:
        """``plan/selector`` for a selector's name, a full name or a name under ``answers``.

        Raises:
            ConfigError: there is no such system; the message names ``key``.
        """
        known = self.systems()
        if name in known or name in self.answers:
            return name
        matches = [k for k in known if k.split("/", 1)[1] == name]
        if not matches:
            require_known(name, [*known, *self.selectors, *self.answers], key, "no system is called")
        if len(matches) > 1:
            raise ConfigError(f"{key}: {name!r} exists for several plans; choose one of {', '.join(matches)}")
        return matches[0]


def to_yaml(config: Config) -> str:
    """The resolved config as YAML, with every ``kind`` written out; reading it back gives the same config."""
    return OmegaConf.to_yaml(OmegaConf.create(to_dict(dataclasses.replace(config, resume="check"))))


def to_dict(value: Any) -> Any:
    """Nested plain dicts of a config object; items picked by kind carry their ``kind``."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        kind = getattr(value, "kind", None)
        fields = {f.name: to_dict(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"kind": kind, **fields} if kind else fields
    if isinstance(value, dict):
        return {str(k): to_dict(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [to_dict(v) for v in value]
    return value
