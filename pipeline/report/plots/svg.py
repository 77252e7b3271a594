"""Small parts of inline SVG plots. Colours come from the page's stylesheet through classes; Markup escapes text."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from pipeline.core.safety import on_page

WIDTH = 340
"""Panel units: one column on a phone, a third of the page on a desktop, so that text keeps its size."""

_STEPS = (1.0, 2.0, 5.0, 10.0)


@dataclass(frozen=True)
class Axis:
    """A linear axis from ``low`` to ``high`` with a tick every ``step``.

    Attributes:
        even: where neither side is better; drawn as the reference line.
        unit: behind the labels; the labels are the values x 100.
        signed: write a plus before positive labels.
    """

    low: float
    high: float
    step: float
    even: float | None = None
    unit: str = ""
    signed: bool = False

    def at(self, value: float) -> float:
        """Position of a value, 0 (start) to 1 (end); values beyond the axis stay on its edge."""
        return min(1.0, max(0.0, (value - self.low) / (self.high - self.low)))

    def ticks(self) -> list[float]:
        """The values with a tick."""
        return [self.low + i * self.step for i in range(round((self.high - self.low) / self.step) + 1)]

    def label(self, value: float) -> str:
        """A tick's text."""
        text = f"{100 * value:{'+' if self.signed and abs(value) > 1e-9 else ''}.4g}{self.unit}"
        return ("0" + self.unit if abs(value) < 1e-9 else text).replace("-", "−")


def rate_axis(values: Iterable[float | None]) -> Axis:
    """The narrowest axis centred on an even match, in steps of ten points, that holds all ``values``."""
    distance = max((abs(v - 0.5) for v in values if v is not None), default=0.5)
    half = min(0.5, max(0.1, math.ceil(distance * 10 - 1e-9) / 10))
    return Axis(0.5 - half, 0.5 + half, half / 2, even=0.5, unit="%")


def nice_axis(values: Iterable[float | None], even: float | None = None, unit: str = "", signed: bool = False) -> Axis:
    """An axis with round ticks that holds all ``values`` (and ``even``)."""
    known = [v for v in [*values, even] if v is not None] or [0.0, 1.0]
    low, high = min(known), max(known)
    span = max(high - low, 0.01)
    size = 10.0 ** math.floor(math.log10(span / 4))
    step = next(size * s for s in _STEPS if span / (size * s) <= 5)
    start = math.floor(low / step + 1e-9) * step
    end = max(math.ceil(high / step - 1e-9) * step, start + step)
    return Axis(start, end, step, even, unit, signed)


@dataclass(frozen=True)
class Mark:
    """One line of a plot: a name, a value with its interval, and the number in words.

    Attributes:
        kind: further classes: ``total``, ``bound`` (an upper bound or an outside answer).
        side: ``above``, ``below``, ``even`` or ``none``: colour, and a filled dot where a difference is claimed.
        joint_low, joint_high: the simultaneous interval, thin.
    """

    name: str
    text: str
    side: str
    value: float | None
    low: float | None = None
    high: float | None = None
    joint_low: float | None = None
    joint_high: float | None = None
    kind: str = ""


def wide_rows(marks: Sequence[Mark], axis: Axis, ident: str, title: str, words: str) -> Markup:
    """Two text lines a mark over the whole width.

    Horizontal positions are percentages and there is no viewBox, so the plot is as wide as the page allows while
    its text keeps its size.
    """
    height = 46 * len(marks) + 30
    floor = height - 26
    parts = [_percent_scale(axis, floor)]
    for i, mark in enumerate(marks):
        y = 46 * i + 16
        parts.append(Markup('<g class="{} {}">').format(mark.side, mark.kind))
        parts.append(text("name", "0", y, clip(mark.name, 22)) + text("value", "100%", y, mark.text))
        y += 14
        if mark.joint_low is not None and mark.joint_high is not None:
            parts.append(line("joint", pc(axis, mark.joint_low), pc(axis, mark.joint_high), y))
        if mark.low is not None and mark.high is not None:
            parts.append(line("ci", pc(axis, mark.low), pc(axis, mark.high), y))
        if mark.value is not None:
            parts.append(dot(pc(axis, mark.value), y, 5))
        parts.append(Markup("</g>"))
    return svg(ident, title, words, Markup('width="100%" height="{}"').format(height), parts, "plot wide")


def panel_rows(
    marks: Sequence[Mark], axis: Axis, ident: str, title: str, words: str, left: int = 112, head: int = 0
) -> Markup:
    """One text line a mark, in a panel.

    Args:
        left: width of the names.
        head: marks at the top that stand a little apart.
    """
    top, row, right, gap = 8, 21, 284, 8 if head else 0
    height = top + row * len(marks) + gap + 26
    floor = height - 24
    parts = [_panel_scale(axis, floor, left, right)]
    for i, mark in enumerate(marks):
        y = top + row * i + row // 2 + (gap if i >= head else 0)
        parts.append(Markup('<g class="{} {}">').format(mark.side, mark.kind))
        parts.append(text("name", "0", y + 4, clip(mark.name, left // 7 + 1)))
        parts.append(text("value", str(WIDTH), y + 4, mark.text))
        if mark.low is not None and mark.high is not None:
            ends = [f"{left + (right - left) * axis.at(v):.1f}" for v in (mark.low, mark.high)]
            parts.append(line("ci", ends[0], ends[1], y))
        if mark.value is not None:
            parts.append(dot(f"{left + (right - left) * axis.at(mark.value):.1f}", y, 4))
        parts.append(Markup("</g>"))
    size = Markup('viewBox="0 0 {} {}"').format(WIDTH, height)
    return svg(ident, title, words, size, parts, "plot panel")


def _percent_scale(axis: Axis, floor: int) -> Markup:
    parts = []
    ticks = axis.ticks()
    for i, value in enumerate(ticks):
        parts.append(_grid(axis, value, pc(axis, value), floor))
        anchor = "start" if i == 0 else "end" if i == len(ticks) - 1 else "middle"
        parts.append(text(f"tick {anchor}", pc(axis, value), floor + 17, axis.label(value)))
    return Markup("").join(parts)


def _panel_scale(axis: Axis, floor: int, left: int, right: int) -> Markup:
    parts = []
    ticks = axis.ticks()
    for i, value in enumerate(ticks):
        x = f"{left + (right - left) * axis.at(value):.1f}"
        parts.append(_grid(axis, value, x, floor))
        if i in (0, len(ticks) - 1) or _is_even(axis, value) or (axis.even is None and len(ticks) <= 5):
            parts.append(text("tick middle", x, floor + 17, axis.label(value)))
    return Markup("").join(parts)


def _grid(axis: Axis, value: float, x: str, floor: int) -> Markup:
    kind = "even-line" if _is_even(axis, value) else "grid"
    return Markup('<line class="{}" x1="{}" x2="{}" y1="0" y2="{}"/>').format(kind, x, x, floor)


def _is_even(axis: Axis, value: float) -> bool:
    return axis.even is not None and abs(value - axis.even) < axis.step * 1e-6


def text(kind: str, x: str, y: float, words: str) -> Markup:
    """A text at (x, y)."""
    return Markup('<text class="{}" x="{}" y="{:g}">{}</text>').format(kind, x, y, on_page(words))


def line(kind: str, x1: str, x2: str, y: float) -> Markup:
    """A horizontal line."""
    return Markup('<line class="{}" x1="{}" x2="{}" y1="{:g}" y2="{:g}"/>').format(kind, x1, x2, y, y)


def dot(x: str, y: float, radius: int) -> Markup:
    """A point."""
    return Markup('<circle cx="{}" cy="{:g}" r="{}"/>').format(x, y, radius)


def pc(axis: Axis, value: float) -> str:
    """A value's position in percent of the width."""
    return f"{100 * axis.at(value):.2f}%"


def svg(ident: str, title: str, words: str, size: Markup, parts: Iterable[Markup], kind: str) -> Markup:
    """The whole image, with its title and description for those who cannot see it."""
    head = Markup(
        '<svg class="{}" role="img" aria-labelledby="{}-t {}-d" {}><title id="{}-t">{}</title><desc id="{}-d">{}</desc>'
    ).format(kind, ident, ident, size, ident, on_page(title), ident, on_page(words))
    return head + Markup("").join(parts) + Markup("</svg>")


def clip(words: str, length: int) -> str:
    """At most ``length`` characters."""
    return words if len(words) <= length else words[: length - 1] + "…"


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Positions near the ``wanted`` ones, at least ``gap`` apart, in ``low`` .. ``high`` where they fit: for labels."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    placed: dict[int, float] = {}
    at = low - gap
    for i in order:
        at = placed[i] = max(wanted[i], at + gap)
    limit = high + gap
    for i in reversed(order):
        limit = placed[i] = min(placed[i], limit - gap)
    return [placed[i] for i in range(len(wanted))]
