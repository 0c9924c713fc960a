"""How Sphinx makes the site of these pages: `sphinx-build -W -n --keep-going docs build/site`. Nothing is fetched.

The pages are plain Markdown, and read as such. What a site needs besides is in `docs/site/`.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # `docs.site`, and `agentmesh` where it is not installed

import agentmesh  # noqa: E402

project = "AgentMesh"
author = "AgentMesh contributors"
copyright = "AgentMesh contributors, Apache-2.0"  # noqa: A001 - Sphinx calls it so
version = release = agentmesh.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton", "docs.site"]
nitpicky = True
default_role = "py:ticked"
nitpick_ignore = [  # in signatures of public classes, and given by the library alone
    ("py:class", "agentmesh.engine.state.Step"),
    ("py:class", "agentmesh.handshake.prekeys.BundleSecrets"),
    ("py:class", "agentmesh.primitives._labels.SignatureLabel"),
    ("py:class", "agentmesh.primitives.entropy.CheckedEntropy"),
    ("py:class", "agentmesh.primitives.forked.Birthplace"),
    ("py:class", "agentmesh.store.sqlite_rows.File"),
    ("py:class", "agentmesh.trust.steps.Stepwise"),
]

# Headings get the anchors that code hosts give them, so that one link serves both.
myst_heading_anchors = 6
myst_url_schemes = ["http", "https", "mailto"]

autodoc_preserve_defaults = True
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # fields of a class are listed once, with their class
napoleon_use_rtype = False
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
toc_object_entries_show_parents = "hide"

pygments_dark_style = "github-dark"

html_theme = "furo"
html_title = f"AgentMesh {release}"
html_static_path = ["site/static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
copybutton_exclude = ".linenos, .gp, .go"
