"""The page's plots, as inline SVG."""

from pipeline.report.plots.curves import cost_plot, curves_panel, hope_risk_panel, shared_axis
from pipeline.report.plots.load import load_panel
from pipeline.report.plots.scores import audit_plot, gains_plot, scores_axis, scores_panel
from pipeline.report.plots.winrates import language_axis, language_panel, pooled_plot

__all__ = [
    "audit_plot",
    "cost_plot",
    "curves_panel",
    "gains_plot",
    "hope_risk_panel",
    "language_axis",
    "language_panel",
    "load_panel",
    "pooled_plot",
    "scores_axis",
    "scores_panel",
    "shared_axis",
]
