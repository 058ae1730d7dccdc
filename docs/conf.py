"""Build the documentation with Sphinx: `make docs`."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from generate import write_reference

import raypipe

project = "raypipe"
author = "The raypipe developers"
release = version = raypipe.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.mathjax"]
exclude_patterns = ["_build"]
source_suffix = {".md": "markdown"}

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

autodoc_typehints = "description"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
default_role = "code"
add_module_names = False

html_theme = "pydata_sphinx_theme"
html_title = "raypipe"
html_theme_options = {
    "show_prev_next": False,
    "header_links_before_dropdown": 6,
    "secondary_sidebar_items": ["page-toc"],
}
html_show_sourcelink = False

write_reference(Path(__file__).parent / "generated")
