"""Win-rates: over all prompts, and a panel a system by language."""

from __future__ import annotations

from dataclasses import replace

from markupsafe import Markup

from pipeline.report.model import Report
from pipeline.report.plots.svg import Axis, Mark, panel_rows, rate_axis, wide_rows
from pipeline.report.wording import describe, interval, language_label, percent
from pipeline.stats.contests import Contest, Standing
from pipeline.stats.winrate import WinRate


def pooled_plot(report: Report, contest: Contest, ident: str) -> Markup:
    """One line a system: own interval (thick), simultaneous interval (thin)."""
    rates = [s.pooled for s in contest.standings]
    axis = rate_axis(v for r in rates for v in (r.ci_low, r.ci_high, r.joint_low, r.joint_high))
    marks = []
    for s, rate in zip(contest.standings, rates, strict=True):
        span = "" if rate.ci_low is None else f"  ({interval(rate.ci_low, rate.ci_high)})"
        mark = _mark(report.short(s.system) + (" †" if s.self_judged else ""), rate)
        side, kind = s.side, "bound" if s.role else ""
        text = percent(rate.win_rate) + span
        ends = (rate.joint_low, rate.joint_high)
        marks.append(replace(mark, text=text, side=side, kind=kind, joint_low=ends[0], joint_high=ends[1]))
    opponent = report.short(contest.opponent)
    words = " ".join(describe(report, replace(s, languages=[]), opponent) for s in contest.standings)
    return wide_rows(marks, axis, ident, f"Win-rates against {opponent} over all prompts", words)


def language_axis(contest: Contest) -> Axis:
    """The axis that all panels of :func:`language_panel` share."""
    rates = [r for s in contest.standings for r in (s.pooled, s.macro, *s.languages)]
    return rate_axis(v for r in rates for v in (r.win_rate, r.ci_low, r.ci_high))


def language_panel(report: Report, contest: Contest, standing: Standing, axis: Axis, ident: str) -> Markup:
    """One system: pooled, macro and every language, one line each."""
    pooled, macro = (_mark(language_label(r.language), r) for r in (standing.pooled, standing.macro))
    totals = [replace(pooled, kind="total", side=standing.side), replace(macro, kind="total")]
    marks = [*totals, *(_mark(language_label(r.language), r) for r in standing.languages)]
    opponent = report.short(contest.opponent)
    title = f"{report.short(standing.system)}: win-rate against {opponent} by language"
    return panel_rows(marks, axis, ident, title, describe(report, standing, opponent), left=120, head=2)


def _mark(name: str, rate: WinRate) -> Mark:
    return Mark(name, percent(rate.win_rate), rate.side, rate.win_rate, rate.ci_low, rate.ci_high)
