"""How full the engines of a pass were over time."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from pipeline.report.plots.svg import WIDTH, svg, text
from pipeline.report.wording import share
from pipeline.stats.costs import Load

_LEFT, _RIGHT, _TOP, _FLOOR, _HEIGHT = 34, 334, 16, 116, 150
_UNITS = ((1, "s"), (60, "min"), (3600, "h"))
_STEPS = (1, 2, 5, 10, 15, 20, 30, 60, 120, 240, 480, 960)
_MOST_TICKS = 6


def load_panel(load: Load, name: str, ident: str) -> Markup:
    """Sequences that run per engine (line; the band reaches from the emptiest to the fullest moment) over time."""
    seconds = load.width * len(load.mean)
    parts = []
    for value in (0, load.capacity):
        y = _y(load, value)
        kind = "even-line" if value else "grid"
        parts.append(
            Markup('<line class="{}" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>').format(kind, _LEFT, _RIGHT, y, y)
        )
        parts.append(text("tick end", str(_LEFT - 6), round(y + 4, 1), f"{value:,}"))
    unit, ticks = _ticks(seconds)
    for at, label in ticks:
        parts.append(text("tick middle", f"{_LEFT + (_RIGHT - _LEFT) * at / seconds:.1f}", _FLOOR + 16, label))
    parts.append(text("tick middle", f"{(_LEFT + _RIGHT) / 2:.1f}", _FLOOR + 32, f"time ({unit})"))
    known = [i for i, value in enumerate(load.mean) if value is not None]
    edges = [_LEFT + (_RIGHT - _LEFT) * i / len(load.mean) for i in range(len(load.mean) + 1)]
    # every bin is a step; one without a sample (its workers were busy elsewhere) is bridged
    xs = [x for i in known for x in (edges[i], edges[i + 1])]
    steps = [[_y(load, values[i] or 0) for i in known for _ in range(2)] for values in (load.mean, load.low, load.high)]
    mean, low, high = (list(zip(xs, ys, strict=True)) for ys in steps)
    floor = [(xs[-1], _y(load, 0)), (xs[0], _y(load, 0))]
    parts.append(Markup('<polygon class="area" points="{}"/>').format(_points([*mean, *floor])))
    parts.append(Markup('<polygon class="band" points="{}"/>').format(_points([*high, *reversed(low)])))
    parts.append(Markup('<polyline points="{}"/>').format(_points(mean)))
    title = f"Sequences running per engine over time, {name}"
    words = f"{title}: full ({load.capacity:,}) {share(load.full)} of the time, over {seconds / 60:.1f} minutes."
    return svg(ident, title, words, Markup('viewBox="0 0 {} {}"').format(WIDTH, _HEIGHT), parts, "plot panel load")


def _y(load: Load, value: float) -> float:
    return _FLOOR - (_FLOOR - _TOP) * min(1.0, value / max(load.capacity, 1))


def _points(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _ticks(seconds: float) -> tuple[str, list[tuple[float, str]]]:
    """(unit, [(seconds, label)]): at most six steps of a round number of seconds, minutes or hours."""
    size, unit = next((u for u in reversed(_UNITS) if seconds >= 3 * u[0]), _UNITS[0])
    step = next((s for s in _STEPS if seconds / (s * size) <= _MOST_TICKS), _STEPS[-1])
    return unit, [(i * step * size, f"{i * step:,}") for i in range(int(seconds / (step * size)) + 1)]
