"""Task scores: differences to the base over all prompts, and a panel a language; the judge's audit."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from pipeline.report.model import Report
from pipeline.report.plots.svg import Axis, Mark, nice_axis, panel_rows, rate_axis, wide_rows
from pipeline.report.wording import (
    describe_gains,
    describe_scores,
    interval,
    language_label,
    metric_label,
    percent,
    quality,
    signed,
    signed_interval,
    version_label,
)
from pipeline.stats.audit import Audit
from pipeline.stats.intervals import MACRO, side
from pipeline.stats.task_scores import TaskScores


def gains_plot(report: Report, task: TaskScores, ident: str) -> Markup:
    """Paired differences to the base, a line a system: own interval (thick), simultaneous interval (thin)."""
    marks = []
    for system in task.systems:
        score = task.get(system)
        if score is None or score.difference is None or system in task.far_below:
            continue
        bound = bool(task.roles[system])
        marks.append(
            Mark(
                name=report.short(system),
                text=f"{signed(score.difference)}  ({signed_interval(score.difference_low, score.difference_high)})",
                side="none" if bound else task.side(system),
                value=score.difference,
                low=score.difference_low,
                high=score.difference_high,
                joint_low=score.joint_low,
                joint_high=score.joint_high,
                kind="bound" if bound else "",
            )
        )
    axis = nice_axis((v for m in marks for v in (m.low, m.high, m.joint_low, m.joint_high, m.value)), 0.0, signed=True)
    title = f"Points of {metric_label(task.main)} over {report.short(task.base or '')}, all prompts"
    return wide_rows(marks, axis, ident, title, describe_gains(report, task))


def scores_axis(task: TaskScores) -> Axis:
    """The axis that all panels of :func:`scores_panel` share."""
    mine = [s for (metric, _, language), s in task.scores.items() if metric == task.main and language != MACRO]
    unit = "" if quality(task.main, 0.5) == "50.0" else "%"
    return nice_axis((v for s in mine for v in (s.ci_low, s.ci_high, s.mean)), unit=unit)


def scores_panel(report: Report, task: TaskScores, language: str, axis: Axis, ident: str) -> Markup:
    """One language: every system's mean of the main metric with its interval."""
    marks = []
    for system in task.systems:
        score = task.get(system, language)
        if score is None or score.mean is None:
            continue
        bound = bool(task.roles[system])
        marks.append(
            Mark(
                name=report.short(system),
                text=quality(task.main, score.mean),
                side="none" if bound else task.side(system, language),
                value=score.mean,
                low=score.ci_low,
                high=score.ci_high,
                kind="bound" if bound else "total" if system == score.base else "",
            )
        )
    title = f"{metric_label(task.main)} by system, {language_label(language)}"
    return panel_rows(marks, axis, ident, title, describe_scores(report, task, language), left=140)


def audit_plot(rows: Sequence[Audit], ident: str, order: bool = False) -> Markup:
    """One line a row: how often the undamaged answer wins, or (``order``) the answer that is shown first."""
    found = [(a, (a.first_share, a.first_low, a.first_high) if order else _sensitivity(a)) for a in rows]
    marks = []
    for a, (value, low, high) in found:
        span = "" if low is None else f"  ({interval(low, high)})"
        where = side(low, high, a.effective_clusters)
        # an order effect misleads whichever position it favours
        where = "below" if order and where == "above" else where
        marks.append(Mark(version_label(a.version), percent(value) + span, where, value, low, high))
    axis = rate_axis(v for m in marks for v in (m.value, m.low, m.high))
    title = "How often the answer shown first wins" if order else "How often the undamaged answer wins"
    words = "; ".join(f"{m.name} {m.text}" for m in marks)
    return wide_rows(marks, axis, ident, title, f"{title}: {words}.")


def _sensitivity(a: Audit) -> tuple[float | None, float | None, float | None]:
    return a.sensitivity, a.ci_low, a.ci_high
