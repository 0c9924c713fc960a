"""The navigation of the site: what the tables of index.md link to, in their order; and links that leave the pages."""

from __future__ import annotations

import re
from pathlib import Path

from sphinx.application import Sphinx

HEADING = re.compile(r"## (.+)")
ROW = re.compile(r"\| \[(?P<title>[^\]]+)\]\((?P<page>[\w/-]+)\.md\) \|")
OUTSIDE = re.compile(r"\]\((?P<path>\.\./[^)#\s]+)\)")


def toctrees(index: str) -> str:
    """Return a toctree for each section of `index` that has a table of pages."""
    parts: dict[str, list[str]] = {}
    heading = ""
    for line in index.splitlines():
        if match := HEADING.fullmatch(line):
            heading = match[1]
        elif match := ROW.match(line):
            parts.setdefault(heading, []).append(f"{match['title']} <{match['page']}>")
    return "".join(
        f"\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n" + "\n".join(pages) + "\n```\n"
        for caption, pages in parts.items()
    )


def outside(source: str, page: Path, pages: Path) -> str:
    """Return the page with each link to a file outside of the pages made one that downloads it."""

    def link(match: re.Match[str]) -> str:
        is_page = (page.parent / match["path"]).resolve().is_relative_to(pages)
        return match[0] if is_page else f"](<path:{match['path']}>)"

    return OUTSIDE.sub(link, source)


def _add(app: Sphinx, page: str, source: list[str]) -> None:
    source[0] = outside(source[0], Path(app.env.doc2path(page)), Path(app.srcdir))
    if page == app.config.root_doc:
        source[0] += toctrees(source[0])


def setup(app: Sphinx) -> None:
    app.connect("source-read", _add)
