"""Axes and labels of the plots."""

from __future__ import annotations

import pytest

from pipeline.report.plots.svg import Axis, Mark, nice_axis, panel_rows, rate_axis, spread


def half(axis: Axis) -> float:
    return axis.high - 0.5


def test_rate_axis_is_centred_on_an_even_match() -> None:
    assert half(rate_axis([0.45, 0.58])) == pytest.approx(0.1)
    assert half(rate_axis([0.3, None])) == pytest.approx(0.2)
    assert half(rate_axis([0.0])) == half(rate_axis([])) == 0.5
    axis = rate_axis([0.45])
    assert axis.at(0.5) == pytest.approx(0.5) and axis.at(0.9) == 1.0
    assert [axis.label(t) for t in axis.ticks()] == ["40%", "45%", "50%", "55%", "60%"]


def test_nice_axis_has_round_ticks_and_holds_its_values() -> None:
    axis = nice_axis([0.0123, -0.047, None], even=0.0, signed=True)
    assert axis.low <= -0.047 and axis.high >= 0.0123
    assert [axis.label(t) for t in axis.ticks()] == ["−6", "−4", "−2", "0", "+2"]
    flat = nice_axis([0.3, 0.3])
    assert flat.low <= 0.3 <= flat.high and flat.at(0.3) == pytest.approx((0.3 - flat.low) / (flat.high - flat.low))
    assert nice_axis([]).ticks()[0] == 0.0


def test_labels_are_kept_apart_and_near_their_points() -> None:
    placed = spread([100.0, 101.0, 20.0], gap=14, low=10, high=190)
    assert placed[2] == 20.0 and abs(placed[1] - placed[0]) >= 14
    assert spread([189.0, 188.0], gap=14, low=10, high=190) == [190.0, 176.0]


def test_names_are_escaped_and_a_claim_is_more_than_a_colour() -> None:
    marks = [Mark("<b>x</b>", "60%", "above", 0.6, 0.55, 0.65), Mark("y", "50%", "even", 0.5, 0.4, 0.6)]
    shown = panel_rows(marks, rate_axis([0.6]), "p", "A <i>", "words")
    assert "<b>" not in shown and "&lt;b&gt;x" in shown and "<i>" not in shown
    assert '<g class="above ">' in shown and '<g class="even ">' in shown  # page.css fills the first and not the second
