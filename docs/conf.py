"""Sphinx's settings. Build with scripts/docs.sh; nothing here needs a network."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE / "_ext")]

from pipeline import __version__  # noqa: E402

project = "Lemonpress"
author = "The Lemonpress authors"
copyright = author
release = __version__
extensions = ["myst_parser", "lemonpress_reference"]
myst_enable_extensions = ["deflist", "colon_fence"]
myst_heading_anchors = 3
exclude_patterns = ["_ext", "_static"]
nitpicky = True
smartquotes = False  # it makes a dash of --json
html_theme = "furo"
html_title = "Lemonpress"
html_static_path = ["_static"]
html_css_files = ["lemonpress.css"]
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#8a6d00", "color-brand-content": "#7a5f00"},
    "dark_css_variables": {"color-brand-primary": "#f2cf4a", "color-brand-content": "#f2cf4a"},
}
