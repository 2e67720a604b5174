"""Sphinx configuration of the manual."""

from __future__ import annotations

from importlib.metadata import version as installed_version

project = "Atomfoundry"
author = "The Atomfoundry developers"
copyright = "The Atomfoundry developers"
version = release = installed_version("atomfoundry")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode", "sphinx_copybutton"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

autodoc_typehints = "none"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_google_docstring = False
napoleon_use_rtype = False

html_theme = "furo"
html_title = "Atomfoundry"
html_show_sourcelink = False
