"""Win-rates: over all prompts, and a panel a system by language."""

from __future__ import annotations

from dataclasses import replace

from markupsafe import Markup

from pipeline.report.model import Contest, Report, Standing, WinRate
from pipeline.report.plots.svg import Axis, Mark, panel_rows, rate_axis, wide_rows
from pipeline.report.wording import describe, interval, language_label, percent


def pooled_plot(report: Report, contest: Contest, ident: str) -> Markup:
    """One line a system: own interval (thick), simultaneous interval (thin)."""
    axis = rate_axis(v for s in contest.standings for v in (s.pooled.low, s.pooled.high, s.joint_low, s.joint_high))
    marks = []
    for s in contest.standings:
        span = "" if s.pooled.low is None else f"  ({interval(s.pooled.low, s.pooled.high)})"
        mark = _mark(report.short(s.system) + (" †" if s.self_judged else ""), s.pooled)
        side, kind = s.side, "bound" if s.role else ""
        text = percent(s.pooled.win_rate) + span
        marks.append(replace(mark, text=text, side=side, joint_low=s.joint_low, joint_high=s.joint_high, kind=kind))
    opponent = report.short(contest.opponent)
    words = " ".join(describe(report, replace(s, languages=[]), opponent) for s in contest.standings)
    return wide_rows(marks, axis, ident, f"Win-rates against {opponent} over all prompts", words)


def language_axis(contest: Contest) -> Axis:
    """The axis that all panels of :func:`language_panel` share."""
    rates = [r for s in contest.standings for r in (s.pooled, s.macro, *s.languages)]
    return rate_axis(v for r in rates for v in (r.win_rate, r.low, r.high))


def language_panel(report: Report, contest: Contest, standing: Standing, axis: Axis, ident: str) -> Markup:
    """One system: pooled, macro and every language, one line each."""
    pooled, macro = (_mark(language_label(r.language), r) for r in (standing.pooled, standing.macro))
    totals = [replace(pooled, kind="total", side=standing.side), replace(macro, kind="total")]
    marks = [*totals, *(_mark(language_label(r.language), r) for r in standing.languages)]
    opponent = report.short(contest.opponent)
    title = f"{report.short(standing.system)}: win-rate against {opponent} by language"
    return panel_rows(marks, axis, ident, title, describe(report, standing, opponent), left=120, head=2)


def _mark(name: str, rate: WinRate) -> Mark:
    return Mark(name, percent(rate.win_rate), rate.side, rate.win_rate, rate.low, rate.high)
