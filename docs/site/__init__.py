"""What the site adds to the pages: a Sphinx extension. The pages themselves stay plain Markdown."""

from __future__ import annotations

from typing import Any

from sphinx.application import Sphinx

from docs.site import names, navigation


def setup(app: Sphinx) -> dict[str, Any]:
    """Register it. Nothing is kept between pages, so they may be read in any order and side by side."""
    navigation.setup(app)
    names.setup(app)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
