"""Which rows of the result tables stand together in one plot or table."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from pipeline.report.model import Report
from pipeline.report.plots import shared_axis
from pipeline.report.plots.svg import Axis
from pipeline.report.wording import grade_words, language_label, listing
from pipeline.stats.audit import ALTERED, IDENTICAL, Audit
from pipeline.stats.intervals import MACRO, POOLED
from pipeline.stats.quality import Curve, HopeRisk
from pipeline.tasks.measure import WIN

T = TypeVar("T", Curve, HopeRisk)
_HOPE_RISK = tuple(f"{name}_{end}" for name in ("hope", "risk") for end in ("absolute", "low", "high"))


@dataclass(frozen=True)
class JudgeAudit:
    """One judge's audit.

    Attributes:
        words: its grade over all altered versions, in words, and the languages in which it is not able.
        pooled: rows over all languages, all altered versions first.
        versions: those of them that have an undamaged answer to prefer.
        groups: (version, rows by language).
    """

    name: str
    template: str
    words: str
    pooled: list[Audit]
    versions: list[Audit]
    groups: list[tuple[str, list[Audit]]]


@dataclass(frozen=True)
class Group(Generic[T]):
    """Panels that share an axis: each holds the rows of one language."""

    axis: Axis
    panels: list[list[T]]


@dataclass(frozen=True)
class Panels:
    """The plots of sampling; ``wins``: some are of candidates' games."""

    hope_risk: list[Group[HopeRisk]] = field(default_factory=list)
    curves: list[Group[Curve]] = field(default_factory=list)
    wins: bool = False


def audits(report: Report) -> list[JudgeAudit]:
    """The audit, judge by judge."""
    judges = dict.fromkeys((a.judge, a.template) for a in report.results.audit)
    found = []
    for judge, template in judges:
        mine = [a for a in report.results.audit if (a.judge, a.template) == (judge, template)]
        pooled = [a for a in mine if a.language == POOLED]
        groups: dict[str, list[Audit]] = defaultdict(list)
        for a in mine:
            groups[a.version].append(a)
        versions = [a for a in pooled if a.version != IDENTICAL]
        found.append(JudgeAudit(judge, template, _words(mine), pooled, versions, list(groups.items())))
    return found


def _words(rows: Sequence[Audit]) -> str:
    """The grade over all languages, then those languages whose grade differs."""
    graded = {a.language: grade_words(a) for a in rows if a.version == ALTERED and a.language != MACRO}
    overall = graded.pop(POOLED, "no altered version could be made")
    differing: dict[str, list[str]] = defaultdict(list)
    for language, words in graded.items():
        if words != overall:
            differing[words].append(language_label(language))
    parts = [f"{listing(names)}: {words}" for words, names in differing.items()]
    return f"Over all languages and damages it {overall}." + (f" But {'; '.join(parts)}." if parts else "")


def sampling_panels(report: Report) -> Panels:
    """Hope and risk where several temperatures can be compared; curves of the main metrics and of candidates' games."""
    found = report.results
    curves = [r for r in found.curves if r.language != MACRO]
    return Panels(
        hope_risk=_groups(report, found.hope_risk, _several_temperatures, _HOPE_RISK, 0.0),
        curves=_groups(report, curves, lambda rows: any(r.m > 1 for r in rows), ("best", "worst"), None),
        wins=any(r.metric == WIN for r in found.hope_risk),
    )


def _groups(
    report: Report, rows: Sequence[T], fits: Callable[[list[T]], bool], names: Sequence[str], even: float | None
) -> list[Group[T]]:
    """Per task and metric the panels: the pooled one where all plans saw the same prompts, then the languages.

    With several plans only the languages that more than one was sampled for are worth a panel.
    """
    main = {task.task: task.main for task in report.tasks}
    by_metric: dict[tuple[str, str], dict[str, list[T]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row.metric in (main.get(row.task), WIN):
            by_metric[row.task, row.metric][row.language].append(row)
    found = []
    for languages in by_metric.values():
        pooled = languages.pop(POOLED, [])
        plans = len({r.plan for r in pooled})
        comparable = len({r.n_prompts for r in pooled}) == 1
        several = [own for own in languages.values() if plans == 1 or len({r.plan for r in own}) > 1]
        wanted = [pooled] if comparable and plans == 1 else ([pooled] if comparable else []) + several
        panels = [own for own in wanted if fits(own)]
        if panels:
            found.append(Group(shared_axis([r for own in panels for r in own], names, even), panels))
    return found


def _several_temperatures(rows: list[HopeRisk]) -> bool:
    known = [r.temperature for r in rows]
    return None not in known and len(set(known)) > 1
