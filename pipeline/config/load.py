"""The config: typed dataclasses, merged left to right from presets, files and ``key=value`` words.

Named maps (``engines.judge``, ``selectors.chops``, ``plans.hot``) merge by name. Their items, and ``prompts`` and
``sampling``, carry a ``kind`` that picks the dataclass, against which they are then checked strictly. A later layer
that changes a ``kind`` replaces the item instead of mixing two kinds' keys. Every mistake is a
:class:`~pipeline.core.errors.ConfigError` that names the full key and the nearest valid one; nothing heavy is imported.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import types
import typing
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from omegaconf.resolvers import oc

from pipeline.config.checks import check
from pipeline.config.export import ExportConfig
from pipeline.config.grid import SweepConfig
from pipeline.config.replay import ReplayConfig
from pipeline.config.sections import (
    ExecutionConfig,
    JudgeConfig,
    LabelConfig,
    LimitsConfig,
    RayConfig,
    ReportConfig,
    SelectionConfig,
    WinrateConfig,
)
from pipeline.config.verify import VerifyConfig
from pipeline.core.errors import ConfigError, nearest
from pipeline.core.imports import allow
from pipeline.core.policy import NAME as POLICY
from pipeline.core.policy import Policy, Rule
from pipeline.core.registry import Registry
from pipeline.core.remote import is_uri, read_text
from pipeline.core.safety import find_secrets
from pipeline.engines.base import ENGINES, EngineConfig, spell_needs
from pipeline.judging.answers import ANSWERS, AnswerSource
from pipeline.prompts.sources import SOURCES, SourceConfig
from pipeline.sampling.plans import PLANS, PlanConfig
from pipeline.selection.base import SELECTORS, Selector
from pipeline.tasks import TASKS, Task
from pipeline.tasks.measure import MetricConfig

T = TypeVar("T")


@dataclass
class Config:
    """A run's whole config, resolved and checked.

    Attributes:
        out: the run's folder.
        seed: the run's seed; every random choice derives from it by hash.
        modules: Python modules of the user's own to import: they may register selectors.
        resume: ``check`` refuses to go on in a folder whose results this config would mix with; ``force`` keeps them
            as if this config had made them, and records that they are mixed. It holds for one command.
        sampling: the sampling plan, named after its kind; ``null`` when the candidates are given.
        plans: further sampling plans by name.
        tasks: settings of tasks by name; a prompt's task without settings takes the defaults.
        metrics: metrics that an engine gives, by name, beside the tasks' own.
        policy: rules that pick plan and selector by task and language.
        answers: outside systems to compare with: name -> where their answers come from.
    """

    out: str = "runs/lemonpress"
    seed: int = 1
    modules: list[str] = field(default_factory=list)
    resume: str = "check"
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
        if name not in self.engines:
            raise ConfigError(f"{key}: no engine is called {name!r} under engines{nearest(name, self.engines)}")
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
            raise ConfigError(
                f"{key}: no system is called {name!r}{nearest(name, [*known, *self.selectors, *self.answers])}"
            )
        if len(matches) > 1:
            raise ConfigError(f"{key}: {name!r} exists for several plans; choose one of {', '.join(matches)}")
        return matches[0]


_KINDS: dict[str, tuple[Registry[Any], str | None]] = {
    "prompts": (SOURCES, "example"),
    "sampling": (PLANS, "hedged"),
}
_SECTIONS = (
    *("selection", "judge", "winrate", "report", "export", "sweep", "label", "verify", "replay"),
    *("execution", "limits", "ray"),
)
_KIND_MAPS: dict[str, Registry[Any]] = {
    "engines": ENGINES,
    "plans": PLANS,
    "selectors": SELECTORS,
    "tasks": TASKS,
    "answers": ANSWERS,
}
_PLAIN_MAPS: dict[str, type[Any]] = {"policy": Rule, "metrics": MetricConfig}
_NAMED_AFTER_KIND = ("selectors", "tasks")  # an item without a kind takes its own name as its kind


def config_folders() -> list[Path]:
    """Folders in which presets are found by name: the installed package's, or the checkout's ``conf``."""
    package = Path(__file__).parents[1]
    return [p for p in (package / "conf", package.parent / "conf") if p.is_dir()]


def presets() -> dict[str, Path]:
    """Preset name (``demo``, ``models/qwen3-8b``) -> file."""
    found: dict[str, Path] = {}
    for folder in config_folders():
        for path in sorted(folder.rglob("*.yaml")):
            found.setdefault(str(path.relative_to(folder).with_suffix("")), path)
    return found


def load_config(words: Sequence[str]) -> Config:
    """Merge presets, files and ``key=value`` words, left to right, and check the result.

    Args:
        words: e.g. ``["conf/demo.yaml", "sampling.n=3", "out=runs/x"]``; a word without ``=`` is a file or the
            name of a preset.

    Raises:
        ConfigError: missing file, unknown key, wrong type or contradictory choice; the message names the key.
    """
    return build_config(merge_words([], words))


def merge_words(layers: Sequence[dict[str, Any]], words: Sequence[str]) -> dict[str, Any]:
    """Plain nested dicts of some layers, then presets, files and ``key=value`` words, merged in this order.

    Raises:
        ConfigError: a file or word cannot be read.
    """
    merged: dict[str, Any] = {}
    for layer in layers:
        _merge(merged, layer, ())
    for word in words:
        is_setting = "=" in word and not is_uri(word) and not Path(word).exists()
        _merge(merged, _read_word(word) if is_setting else read_layer(word), ())
    return merged


def build_config(data: dict[str, Any]) -> Config:
    """Check plain nested dicts against the dataclasses and return the config.

    Raises:
        ConfigError: as :func:`load_config`.
    """
    _check_keys(data, [f.name for f in dataclasses.fields(Config)], "")
    modules = data.get("modules") or []
    _check_shape(list[str], modules, "modules")
    if odd := [m for m in modules if not isinstance(m, str)]:
        raise ConfigError(f"modules: must be names of Python modules, not {odd[0]!r}")
    _import(modules)
    with _no_environment():
        return _build_config(data)


def _import(modules: Sequence[str]) -> None:
    """Import the user's own modules; from the folder that the user stands in, those and no others."""
    allow(list(modules))
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            other = getattr(error, "name", None)
            hint = f"; if {other}.py is yours, name it under modules, too" if other and other not in modules else ""
            raise ConfigError(f"modules: cannot import {module!r}: {error}{hint}") from error


def _build_config(data: dict[str, Any]) -> Config:
    resolved = _resolve(data)
    hints = typing.get_type_hints(Config)
    values: dict[str, Any] = {}
    source = resolved.get("prompts") or {}
    given = source.get("given") or {}
    brings_candidates = any(given.get(k) for k in ("column", "columns", "files")) or source.get("kind") == "run"
    sampled = "sampling" in resolved or not (resolved.get("plans") or brings_candidates)
    for name, (registry, default) in _KINDS.items():
        if name == "sampling" and (not sampled or resolved.get(name, {}) is None):
            resolved.pop(name, None)
            continue
        values[name] = _build_kind(registry, resolved.pop(name, None) or {}, name, default)
    for name, registry in _KIND_MAPS.items():
        items = resolved.pop(name, None) or {}
        if not isinstance(items, dict):
            raise ConfigError(f"{name}: must be a map of names, not {type(items).__name__}")
        values[name] = {
            key: _build_kind(registry, item, f"{name}.{key}", key if name in _NAMED_AFTER_KIND else None)
            for key, item in items.items()
            if item is not None
        }
    for name, cls in _PLAIN_MAPS.items():
        items = resolved.pop(name, None) or {}
        if not isinstance(items, dict):
            raise ConfigError(f"{name}: must be a map of names, not {type(items).__name__}")
        values[name] = {key: _build(cls, item, f"{name}.{key}") for key, item in items.items() if item is not None}
    for section, value in resolved.items():
        values[str(section)] = _build(hints[str(section)], value or {}, str(section)) if section in _SECTIONS else value
    plain = {k: v for k, v in values.items() if k in _TOP}
    top = {k: v for k, v in vars(_build(_Plain, plain, "")).items() if k in plain}
    config = Config(**{**values, **top})
    check(config)
    return config


_TOP = ("out", "seed", "modules", "resume")


@dataclass
class _Plain:
    """The top-level keys that are no sections, for the type check."""

    out: str = ""
    seed: int = 0
    modules: list[str] = field(default_factory=list)
    resume: str = ""


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


def _read_word(word: str) -> dict[str, Any]:
    try:
        layer = OmegaConf.to_container(OmegaConf.from_dotlist([word]))
    except Exception as error:
        raise ConfigError(f"cannot read {word!r} as key=value: {_first_line(error)}") from error
    assert isinstance(layer, dict)
    return typing.cast(dict[str, Any], layer)


def read_layer(name: str) -> dict[str, Any]:
    """A preset or config file as plain nested dicts. Raises ConfigError."""
    path = Path(name).expanduser()
    if not is_uri(name) and not path.is_file():
        known = presets()
        preset = known.get(name) or known.get(name.removeprefix("conf/").removesuffix(".yaml"))
        if preset is None:
            raise ConfigError(f"{name}: neither a config file nor the name of a preset{nearest(name, known)}")
        path = preset
    try:
        layer = OmegaConf.to_container(OmegaConf.create(read_text(name)) if is_uri(name) else OmegaConf.load(path))
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(layer, dict):
        raise ConfigError(f"{path}: a config file must be a map of sections, not {type(layer).__name__}")
    return typing.cast(dict[str, Any], layer)


def _merge(base: dict[str, Any], layer: dict[str, Any], path: tuple[str, ...]) -> None:
    """Merge ``layer`` into ``base`` in place; where the ``kind`` changes, the layer's item replaces the base's."""
    for key, value in layer.items():
        old = base.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            if "kind" in value and "kind" in old and value["kind"] != old["kind"]:
                base[key] = value
            else:
                _merge(old, value, (*path, key))
        else:
            base[key] = value


@contextmanager
def _no_environment() -> Iterator[None]:
    """Refuse ``${oc.env:...}``: the resolved config is stored with the run, where a secret must never be.

    The resolver is replaced, because texts can spell it in other ways (``${oc.${x}:KEY}``); it is the whole process's.
    """

    def refuse(*_: Any) -> str:
        raise ConfigError(
            "environment variables may not be copied into the config, which is stored with the run; "
            "name the variable instead (e.g. api_key_env: MY_KEY)"
        )

    OmegaConf.register_resolver("oc.env", refuse, replace=True)
    try:
        yield
    finally:
        OmegaConf.register_resolver("oc.env", oc.env, replace=True)


def _resolve(data: dict[str, Any]) -> dict[str, Any]:
    """Fill in references (``${engines.generator}``); refuse values left open (``???``) and secrets."""
    try:
        resolved = OmegaConf.to_container(OmegaConf.create(data), resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key or 'config'}: {_first_line(error)}") from error
    assert isinstance(resolved, dict)
    _refuse_gaps(resolved, "")
    for key in find_secrets(resolved):
        raise ConfigError(
            f"{key}: holds a secret, and the config is stored with the run; put it into an environment variable"
        )
    return typing.cast(dict[str, Any], resolved)


def _refuse_gaps(value: Any, key: str) -> None:
    if isinstance(value, dict):
        for k, v in value.items():
            _refuse_gaps(v, f"{key}.{k}" if key else str(k))
    elif isinstance(value, list):
        for i, v in enumerate(value):
            _refuse_gaps(v, f"{key}[{i}]")
    elif value == "???":
        raise ConfigError(f"{key}: missing; set {key}=...")


def _check_keys(data: dict[str, Any], valid: Sequence[str], key: str) -> None:
    for name in data:
        if name not in valid:
            full = f"{key}.{name}" if key else str(name)
            raise ConfigError(f"unknown config key {full!r}{nearest(str(name), valid)}")


def _build_kind(registry: Registry[Any], item: Any, key: str, default: str | None) -> Any:
    if not isinstance(item, dict):
        raise ConfigError(f"{key}: must be a map with a kind, not {item!r}")
    item = dict(item)
    kind = item.pop("kind", None) or default
    if kind is None:
        raise ConfigError(f"{key}.kind: missing; one of {', '.join(registry)}")
    return _build(registry.get(kind, f"{key}.kind"), item, key)


def _build(cls: type[T], data: Any, key: str) -> T:
    """Strict, typed construction of one dataclass from plain data."""
    if not isinstance(data, dict):
        raise ConfigError(f"{key}: must be a map, not {data!r}")
    _check_nested_keys(cls, data, key)
    try:
        node = OmegaConf.merge(_structured(typing.cast(Any, cls)), data)
        return typing.cast(T, OmegaConf.to_object(node))
    except OmegaConfBaseException as error:
        full = ".".join(part for part in (key, error.full_key or "") if part)
        raise ConfigError(f"{full}: {_first_line(error)}") from error


@functools.cache
def _structured(cls: type) -> Any:
    """The class as OmegaConf sees it, which takes longer than all else about a config; a merge works on a copy."""
    return OmegaConf.structured(cls)


def _check_nested_keys(cls: type, data: dict[str, Any], key: str) -> None:
    hints = typing.get_type_hints(cls)
    names = [f.name for f in dataclasses.fields(cls)]
    _check_keys(data, names, key)
    for name, value in data.items():
        hint = hints[name]
        full = f"{key}.{name}" if key else name
        if dataclasses.is_dataclass(hint) and isinstance(value, dict):
            _check_nested_keys(typing.cast(type, hint), value, full)
        else:
            _check_shape(hint, value, full)


def _check_shape(hint: Any, value: Any, key: str) -> None:
    """Refuse a map, a list or a plain value where another of these belongs; OmegaConf checks and converts the rest.

    Raises:
        ConfigError: naming the key of the very item.
    """
    options = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    if value is None or Any in options:
        return
    kind = next((o for o in options if o is not type(None)), str)
    container, inner = typing.get_origin(kind) or kind, typing.get_args(kind)
    wanted, what = {list: (list, "a list"), dict: (dict, "a map")}.get(container, ((), "one value"))
    is_container = isinstance(value, list | dict)
    if dataclasses.is_dataclass(kind):
        wanted, what = dict, "a map"
    if isinstance(value, wanted) if wanted else not is_container:
        if isinstance(value, list):
            for i, item in enumerate(value):
                if item is None:
                    raise ConfigError(f"{key}[{i}]: is empty")
                _check_shape(inner[0] if inner else Any, item, f"{key}[{i}]")
        elif isinstance(value, dict) and inner:
            for name, item in value.items():
                _check_shape(inner[1], item, f"{key}.{name}")
        return
    found = "a list" if isinstance(value, list) else "a map" if isinstance(value, dict) else repr(value)
    raise ConfigError(f"{key}: must be {what}, not {found}")


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
