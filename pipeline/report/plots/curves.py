"""Hope and risk by temperature, best and worst of m by temperature, gain against cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from pipeline.core.safety import isolated
from pipeline.report.model import Report
from pipeline.report.plots.svg import WIDTH, Axis, clip, nice_axis, spread, svg, text
from pipeline.report.wording import language_label, metric_label, signed, signed_interval
from pipeline.stats.quality import Curve, HopeRisk
from pipeline.stats.system_costs import SystemCost

_LEFT, _RIGHT, _TOP, _FLOOR, _HEIGHT = 38, 286, 12, 186, 222


def hope_risk_panel(rows: Sequence[HopeRisk], axis: Axis, ident: str) -> Markup:
    """Hope (best of N over greedy, triangles up) and risk (worst of N, triangles down) by temperature.

    Args:
        rows: of the hope and risk table, one language and metric, a row a temperature.
        axis: shared by the panels, in the metric's unit.
    """
    rows = sorted(rows, key=lambda r: r.temperature or 0.0)
    temperatures = [r.temperature or 0.0 for r in rows]
    low, high = min(temperatures) - 0.1, max(temperatures) + 0.1
    at = [_LEFT + (_RIGHT - _LEFT) * (t - low) / (high - low) for t in temperatures]
    parts = [_y_scale(axis)]
    for x, t in zip(at, temperatures, strict=True):
        parts.append(text("tick middle", f"{x:.1f}", _FLOOR + 16, f"{t:g}"))
    parts.append(text("tick middle", f"{(_LEFT + _RIGHT) / 2:.1f}", _FLOOR + 32, "temperature"))
    ends, said = [], []
    for name, kind in (("hope", "above"), ("risk", "below")):
        points = [(x, _y(axis, getattr(r, f"{name}_absolute"))) for x, r in zip(at, rows, strict=True)]
        parts.append(Markup('<g class="{}">').format(kind) + _path(points, "l0"))
        for (x, y), r in zip(points, rows, strict=True):
            if getattr(r, f"{name}_low") is not None:
                parts.append(_bar(x, _y(axis, getattr(r, f"{name}_low")), _y(axis, getattr(r, f"{name}_high"))))
            parts.append(_triangle(x, y, up=name == "hope"))
            span = signed_interval(getattr(r, f"{name}_low"), getattr(r, f"{name}_high"))
            said.append(f"{name} at {r.temperature:g}: {signed(getattr(r, f'{name}_absolute'))} ({span})")
        parts.append(Markup("</g>"))
        ends.append((name, points[-1][1]))
    for (name, _), y in zip(ends, spread([y for _, y in ends], 14, _TOP, _FLOOR), strict=True):
        parts.append(text("name", str(_RIGHT + 6), y + 4, name))
    where = language_label(rows[0].language)
    title = f"Hope and risk in points of {metric_label(rows[0].metric)}, {where}"
    return _panel(ident, title, f"{title}: {'; '.join(said)}.", parts)


def curves_panel(rows: Sequence[Curve], axis: Axis, ident: str) -> Markup:
    """Expected best (upper line), worst (lower) and mean (thin) of m candidates, a pair of lines a plan.

    Args:
        rows: of the table of curves, one language and metric.
    """
    plans = list(dict.fromkeys(r.plan for r in sorted(rows, key=lambda r: (r.temperature or 0.0, r.plan))))
    longest = max(r.m for r in rows)
    parts = [_y_scale(axis)]
    for m in range(1, longest + 1):
        if m in (1, longest) or (m % max(1, longest // 4) == 0 and longest - m > longest // 8):
            parts.append(text("tick middle", f"{_x_of(m, longest):.1f}", _FLOOR + 16, str(m)))
    parts.append(text("tick middle", f"{(_LEFT + _RIGHT) / 2:.1f}", _FLOOR + 32, "candidates (m)"))
    ends: list[tuple[str, float]] = []
    said = []
    for i, plan in enumerate(plans):
        mine = sorted((r for r in rows if r.plan == plan), key=lambda r: r.m)
        name = _temperature(mine[0])
        parts.append(Markup('<g class="c{}">').format(i % 4))
        for value in ("best", "worst", "mean"):
            points = [(_x_of(r.m, longest), _y(axis, getattr(r, value))) for r in mine]
            parts.append(_path(points, "thin" if value == "mean" else f"l{i % 4}"))
            if value != "mean" and len(mine) > 1:
                ends.append((value if len(plans) == 1 else name, points[-1][1]))
        parts.append(Markup("</g>"))
        last = mine[-1]
        numbers = [f"{value} {100 * getattr(last, value):.1f}" for value in ("best", "mean", "worst")]
        said.append(f"{name}, of {last.m}: {', '.join(numbers)}")
    for (name, _), y in zip(ends, spread([y for _, y in ends], 14, _TOP, _FLOOR), strict=True):
        parts.append(text("name", str(_RIGHT + 6), y + 4, name))
    where = language_label(rows[0].language)
    title = f"Best, mean and worst of m candidates, {metric_label(rows[0].metric)}, {where}"
    return _panel(ident, title, f"{title}: {'; '.join(said)}.", parts)


def cost_plot(report: Report, costs: Sequence[SystemCost], ident: str) -> Markup:
    """Gain over the base (points, with interval) against tokens per prompt; the base is the point on the zero line."""
    most = max(c.n_prompts for c in costs)  # gains on other prompts do not compare
    shown = [c for c in costs if c.gain is not None and c.tokens is not None and c.n_prompts == most]
    axis = nice_axis(
        (None if v is None else v / 100 for c in shown for v in (c.gain, c.gain_low, c.gain_high)), 0.0, signed=True
    )
    tokens = [c.tokens or 0.0 for c in shown]
    ticks, place = _token_axis(tokens)
    parts = [_y_scale(axis)]
    for value, label in ticks:
        parts.append(text("tick middle", f"{place(value):.1f}", _FLOOR + 16, label))
    parts.append(text("tick middle", f"{(_LEFT + _RIGHT) / 2:.1f}", _FLOOR + 32, "tokens per prompt"))
    points = [(place(t), _y(axis, (c.gain or 0.0) / 100)) for t, c in zip(tokens, shown, strict=True)]
    middle = (_LEFT + _RIGHT) / 2
    label_y = spread([y for _, y in points], 14, _TOP, _FLOOR)
    for i, (c, (x, y)) in enumerate(zip(shown, points, strict=True)):
        sure = c.tokens_per_point is not None
        parts.append(Markup('<g class="{}">').format("above" if sure else "bound" if report.role(c.system) else "even"))
        if c.gain_low is not None and c.gain_high is not None:
            parts.append(_bar(x, _y(axis, c.gain_low / 100), _y(axis, c.gain_high / 100)))
        step, kind = (-1, "name end") if x > middle else (1, "name")
        parts.append(_lead(x, y, x + 8 * step, label_y[i]))
        parts.append(Markup('<circle cx="{:.1f}" cy="{:.1f}" r="4"/>').format(x, y))
        name = isolated(clip(report.short(c.system).strip("\u2068\u2069"), 22))
        parts.append(text(kind, f"{x + 10 * step:.1f}", label_y[i] + 4, name))
        parts.append(Markup("</g>"))
    unit = metric_label(shown[0].unit)
    title = f"Gain in points of {unit} against tokens per prompt"
    said = [f"{report.short(c.system)}: {c.tokens:,.0f} tokens, {signed((c.gain or 0) / 100)} points" for c in shown]
    return _panel(ident, title, f"{title}: {'; '.join(said)}.", parts)


def shared_axis(rows: Sequence[Curve] | Sequence[HopeRisk], names: Sequence[str], even: float | None = None) -> Axis:
    """The axis that several panels share."""
    return nice_axis((getattr(r, name) for r in rows for name in names), even, signed=even is not None)


def _lead(x1: float, y1: float, x2: float, y2: float) -> Markup:
    return Markup('<line class="lead" x1="{:.1f}" x2="{:.1f}" y1="{:.1f}" y2="{:.1f}"/>').format(x1, x2, y1, y2)


def _token_axis(tokens: Sequence[float]) -> tuple[list[tuple[float, str]], Any]:
    """Ticks and positions: logarithmic when the dearest costs more than 20 times the cheapest."""
    low, high = max(min(tokens), 1.0), max(*tokens, 2.0)
    if high / low > 20:
        first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
        ticks = [(10.0**k, f"{10**k:,}") for k in range(first, last + 1)]
        return ticks, lambda v: _LEFT + (_RIGHT - _LEFT) * (math.log10(max(v, 1.0)) - first) / (last - first)
    axis = nice_axis([0.0, high / 100])
    return [
        (100 * v, f"{100 * v:,.0f}") for v in axis.ticks()
    ], lambda v: _LEFT + 8 + (_RIGHT - _LEFT - 8) * axis.at(v / 100)


def _temperature(row: Curve) -> str:
    return clip(row.plan, 7) if row.temperature is None else f"τ {row.temperature:g}"


def _x_of(m: int, longest: int) -> float:
    return _LEFT + 8 + (_RIGHT - _LEFT - 14) * (m - 1) / max(longest - 1, 1)


def _y(axis: Axis, value: float) -> float:
    return _FLOOR - (_FLOOR - _TOP) * axis.at(value)


def _y_scale(axis: Axis) -> Markup:
    parts = []
    for value in axis.ticks():
        y = _y(axis, value)
        kind = "even-line" if axis.even is not None and abs(value - axis.even) < axis.step * 1e-6 else "grid"
        parts.append(
            Markup('<line class="{}" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>').format(kind, _LEFT, _RIGHT, y, y)
        )
        parts.append(text("tick end", str(_LEFT - 6), round(y + 4, 1), axis.label(value)))
    return Markup("").join(parts)


def _path(points: Sequence[tuple[float, float]], kind: str) -> Markup:
    joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return Markup('<polyline class="{}" points="{}"/>').format(kind, joined)


def _bar(x: float, low: float, high: float) -> Markup:
    return Markup('<line class="bar" x1="{:.1f}" x2="{:.1f}" y1="{:.1f}" y2="{:.1f}"/>').format(x, x, low, high)


def _triangle(x: float, y: float, up: bool) -> Markup:
    d = -5 if up else 5
    return Markup('<polygon points="{:.1f},{:.1f} {:.1f},{:.1f} {:.1f},{:.1f}"/>').format(
        x, y + d, x - 5, y - d * 0.7, x + 5, y - d * 0.7
    )


def _panel(ident: str, title: str, words: str, parts: Sequence[Markup]) -> Markup:
    return svg(ident, title, words, Markup('viewBox="0 0 {} {}"').format(WIDTH, _HEIGHT), parts, "plot panel chart")
