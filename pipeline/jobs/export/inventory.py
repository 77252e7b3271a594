"""What a run has to export, from the small leaves of its table; and the config's names checked against it."""

from __future__ import annotations

from dataclasses import dataclass, field

from pipeline.config.config import Config
from pipeline.config.sections import PAIRED, TOOLS
from pipeline.core.errors import ConfigError, InputError, nearest
from pipeline.core.folder import RunFolder
from pipeline.core.policy import NAME as POLICY

BASELINES = ("sample", "greedy", "random", "longest", "oracle")
"""Selectors that are compared with, not trained on, unless they are asked for."""

_LEAVES = {"selections": ("plan", "method"), "scores": ("plan", "scorer"), "messages": ("name", "tool_calls")}


@dataclass
class Inventory:
    """What the ``selections`` table holds.

    Attributes:
        systems: (plan, method) of every stored selection.
        scorers: (plan, scorer) of every stored score.
        names: whether any turn has a ``name``.
        tool_calls: whether any turn has tool calls.
        source: names of the source's other columns.
    """

    systems: set[tuple[str, str]] = field(default_factory=set)
    scorers: set[tuple[str, str]] = field(default_factory=set)
    names: bool = False
    tool_calls: bool = False
    source: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, run: RunFolder) -> Inventory:
        """Stream the finished ``selections`` table's names; no text is read.

        Raises:
            UnfinishedTableError: ``select`` has not finished.
        """
        schema = run.dataset("selections").schema
        found = cls(source={f.name for f in schema.field("source").type} if "source" in schema.names else set())
        for batch in run.leaves("selections", lambda top, leaf: leaf in _LEAVES.get(top, ()), 4096):
            columns = {name: batch.column(name) for name in batch.schema.names}
            for column, target, key in (
                ("selections", found.systems, "method"),
                ("scores", found.scorers, "scorer"),
            ):
                if column in columns:
                    items = columns[column].flatten()
                    pairs = zip(items.field("plan").to_pylist(), items.field(key).to_pylist(), strict=True)
                    target.update(pairs)
            turns = columns["messages"].flatten()
            found.names |= turns.field("name").null_count < len(turns)
            found.tool_calls |= turns.field("tool_calls").null_count < len(turns)
        return found


@dataclass
class Choices:
    """The config's choices, resolved.

    Attributes:
        plan, method: the selection that is the answer.
        scorer: the scorer that ranks candidates; ``None`` = the method's own, under a policy that of the row's rule.
        tools: the source column with tool definitions, if there is one.
    """

    plan: str
    method: str
    scorer: str | None
    tools: str | None = None


def resolve(config: Config, found: Inventory) -> Choices:
    """Fill in and check plan, method and scorer.

    Raises:
        ConfigError: one that the run lacks, or an open choice; the message lists what the run has.
        InputError: the run has no selections at all.
    """
    settings = config.export
    if not found.systems:
        raise InputError(f"{config.out}: no selections to export; add selectors and run select")
    plans = sorted({plan for plan, _ in found.systems})
    plan = settings.plan or (POLICY if POLICY in plans else plans[0] if len(plans) == 1 else None)
    if plan is None:
        raise ConfigError(f"export.plan: several candidate sets have selections; choose one of {', '.join(plans)}")
    if plan not in plans:
        raise ConfigError(f"export.plan: the run has no selections of {plan!r}{nearest(plan, plans)}")
    methods = sorted(method for p, method in found.systems if p == plan)
    method = settings.method or _only_method(methods)
    if method is None:
        raise ConfigError(f"export.method: choose one of {', '.join(methods)}")
    if method not in methods:
        raise ConfigError(f"export.method: {plan} has no {method!r}; it has: {', '.join(methods)}")
    if settings.format in PAIRED and settings.rejected == "sample":
        if "sample" not in methods:
            raise ConfigError(f"export.rejected: {plan} has no selection called sample; it has: {', '.join(methods)}")
        if method == "sample":
            raise ConfigError("export.rejected: the method is sample itself; choose lowest or random")
    _check_scorer(config, found, plan, method)
    return Choices(plan, method, settings.scorer, _tools(settings.tools, found.source))


def _tools(name: str | None, columns: set[str]) -> str | None:
    if name in columns or name in (None, TOOLS):
        return name if name in columns else None
    raise ConfigError(f"export.tools: the source has no column {name!r}{nearest(name, columns)}")


def _only_method(methods: list[str]) -> str | None:
    if POLICY in methods:
        return POLICY
    real = [m for m in methods if m not in BASELINES] or methods
    return real[0] if len(real) == 1 else None


def _check_scorer(config: Config, found: Inventory, plan: str, method: str) -> None:
    settings = config.export
    needed = settings.format == "reward" or (settings.format in PAIRED and settings.rejected == "lowest")
    if plan == POLICY:  # each row's scores are under its rule's plan
        scorers = sorted({s for _, s in found.scorers})
        own = bool({r.selector for r in config.policy.values()} & set(scorers))
    else:
        scorers = sorted(s for p, s in found.scorers if p == plan)
        own = method in scorers
    if settings.scorer is not None and settings.scorer not in scorers:
        raise ConfigError(f"export.scorer: {plan} has no scores of {settings.scorer!r}; it has: {_listed(scorers)}")
    if needed and settings.scorer is None and not own:
        raise ConfigError(
            f"export.scorer: {method} stores no scores of its own, which {settings.format} needs; "
            f"{plan} has: {_listed(scorers)}" + ("" if settings.format == "reward" else "; or export.rejected=random")
        )


def _listed(names: list[str]) -> str:
    return ", ".join(names) or "none"
