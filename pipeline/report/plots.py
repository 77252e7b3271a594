"""Interval plots as inline SVG. Colours come from the page's stylesheet through classes; text is escaped by Markup."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from markupsafe import Markup

from pipeline.report.collect import MACRO, POOLED, Contest, Report, Standing, WinRate
from pipeline.report.wording import describe, interval, language_label, percent

_WIDTH = 340  # panel units: one column on a phone, a third of the page on a desktop, so that text keeps its size
_LEFT, _RIGHT, _ROW, _TOP = 112, 284, 21, 8


@dataclass(frozen=True)
class Axis:
    """A win-rate axis centred on an even match: 1/2 - ``half`` to 1/2 + ``half``."""

    half: float

    @property
    def low(self) -> float:
        return 0.5 - self.half

    @property
    def high(self) -> float:
        return 0.5 + self.half

    def at(self, value: float) -> float:
        """Position of a win-rate, 0 (left) to 1 (right); values beyond the axis stay on its edge."""
        return min(1.0, max(0.0, (value - self.low) / (2 * self.half)))


def axis_for(values: Iterable[float | None]) -> Axis:
    """The narrowest symmetric axis, in steps of ten points, that holds all ``values``."""
    distance = max((abs(v - 0.5) for v in values if v is not None), default=0.5)
    return Axis(min(0.5, max(0.1, math.ceil(distance * 10 - 1e-9) / 10)))


def pooled_axis(contest: Contest) -> Axis:
    """Axis of :func:`pooled_plot`."""
    return axis_for(v for s in contest.standings for v in (s.pooled.low, s.pooled.high, s.joint_low, s.joint_high))


def language_axis(contest: Contest) -> Axis:
    """The axis that all panels of :func:`language_panel` share."""
    rates = [r for s in contest.standings for r in (s.pooled, s.macro, *s.languages)]
    return axis_for(v for r in rates for v in (r.win_rate, r.low, r.high))


def pooled_plot(report: Report, contest: Contest, ident: str) -> Markup:
    """One line a system: own interval (thick), simultaneous interval (thin).

    Horizontal positions are percentages and there is no viewBox, so the plot is as wide as the page allows while
    its text keeps its size.
    """
    axis = pooled_axis(contest)
    height = 46 * len(contest.standings) + 30
    floor = height - 26
    parts = [_scale(axis, floor)]
    for i, standing in enumerate(contest.standings):
        rate, y = standing.pooled, 46 * i + 16
        span = "" if rate.low is None else f"  ({interval(rate.low, rate.high)})"
        name = _clip(report.short(standing.system), 22) + (" †" if standing.self_judged else "")
        parts.append(Markup('<g class="{}">').format(standing.side))
        parts.append(_text("name", "0", y, name) + _text("value", "100%", y, percent(rate.win_rate) + span))
        y += 14
        if standing.joint_low is not None and standing.joint_high is not None:
            parts.append(_line("joint", f"{_pc(axis, standing.joint_low)}%", f"{_pc(axis, standing.joint_high)}%", y))
        if rate.low is not None and rate.high is not None:
            parts.append(_line("ci", f"{_pc(axis, rate.low)}%", f"{_pc(axis, rate.high)}%", y))
        if rate.win_rate is not None:
            parts.append(_dot(f"{_pc(axis, rate.win_rate)}%", y, 5))
        parts.append(Markup("</g>"))
    opponent = report.short(contest.opponent)
    words = " ".join(describe(report, _pooled_only(s), opponent) for s in contest.standings)
    title = f"Win-rates against {opponent} over all prompts"
    return _svg(ident, title, words, Markup('width="100%" height="{}"').format(height), parts, "plot wide")


def language_panel(report: Report, contest: Contest, standing: Standing, axis: Axis, ident: str) -> Markup:
    """One system: pooled, macro and every language, one line each."""
    rows = [standing.pooled, standing.macro, *standing.languages]
    gap = 8  # between the two summaries and the languages
    height = _TOP + _ROW * len(rows) + gap + 26
    floor = height - 24
    parts = [_scale(axis, floor, _LEFT, _RIGHT)]
    for i, rate in enumerate(rows):
        y = _TOP + _ROW * i + _ROW // 2 + (gap if i > 1 else 0)
        summary = " total" if rate.language in (POOLED, MACRO) else ""
        label = _clip(language_label(rate.language), 17)
        parts.append(Markup('<g class="{}{}">').format(rate.side, summary))
        parts.append(_text("name", "0", y + 4, label) + _text("value", str(_WIDTH), y + 4, percent(rate.win_rate)))
        parts += _marks(rate, axis, y)
        parts.append(Markup("</g>"))
    opponent = report.short(contest.opponent)
    title = f"{report.short(standing.system)}: win-rate against {opponent} by language"
    size = Markup('viewBox="0 0 {} {}"').format(_WIDTH, height)
    return _svg(ident, title, describe(report, standing, opponent), size, parts, "plot panel")


def _marks(rate: WinRate, axis: Axis, y: int) -> list[Markup]:
    def x(value: float) -> str:
        return f"{_LEFT + (_RIGHT - _LEFT) * axis.at(value):.1f}"

    marks = []
    if rate.low is not None and rate.high is not None:
        marks.append(_line("ci", x(rate.low), x(rate.high), y))
    if rate.win_rate is not None:
        marks.append(_dot(x(rate.win_rate), y, 4))
    return marks


def _scale(axis: Axis, floor: int, left: float | None = None, right: float | None = None) -> Markup:
    """Grid lines and ticks; the line at 50% is the reference."""
    parts = []
    for share, anchor in ((0.0, "start"), (0.25, "middle"), (0.5, "middle"), (0.75, "middle"), (1.0, "end")):
        value = axis.low + 2 * axis.half * share
        x = f"{100 * share:g}%" if left is None or right is None else f"{left + (right - left) * share:g}"
        kind = "even-line" if share == 0.5 else "grid"
        parts.append(Markup('<line class="{}" x1="{}" x2="{}" y1="0" y2="{}"/>').format(kind, x, x, floor))
        if share in (0.0, 0.5, 1.0) or left is None:
            label = f"{100 * value:g}" + ("%" if share == 0.5 or left is None else "")
            parts.append(_text(f"tick {anchor}", x, floor + 17, label))
    return Markup("").join(parts)


def _text(kind: str, x: str, y: int, text: str) -> Markup:
    return Markup('<text class="{}" x="{}" y="{}">{}</text>').format(kind, x, y, text)


def _line(kind: str, x1: str, x2: str, y: int) -> Markup:
    return Markup('<line class="{}" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(kind, x1, x2, y, y)


def _dot(x: str, y: int, radius: int) -> Markup:
    return Markup('<circle cx="{}" cy="{}" r="{}"/>').format(x, y, radius)


def _pc(axis: Axis, value: float) -> str:
    return f"{100 * axis.at(value):.2f}"


def _svg(ident: str, title: str, words: str, size: Markup, parts: list[Markup], kind: str) -> Markup:
    head = Markup(
        '<svg class="{}" role="img" aria-labelledby="{}-t {}-d" {}><title id="{}-t">{}</title><desc id="{}-d">{}</desc>'
    ).format(kind, ident, ident, size, ident, title, ident, words)
    return head + Markup("").join(parts) + Markup("</svg>")


def _pooled_only(standing: Standing) -> Standing:
    return Standing(**{**vars(standing), "languages": []})


def _clip(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
