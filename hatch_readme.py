"""The metadata hook: the README as a package index shows it, where a relative link leads nowhere.

Links lead below `Source` of `[project.urls]`; while the project names no such address, their words stand alone.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

RELATIVE = re.compile(r"\[(?P<words>[^\]]+)\]\((?!#|[a-z]+:)(?P<path>[^)\s]+)\)")


def absolute(text: str, source: str | None) -> str:
    """Return Markdown with each relative link made absolute, or plain words where there is no `source`."""
    return RELATIVE.sub(r"\g<words>" if source is None else rf"[\g<words>]({source}/\g<path>)", text)


class Readme(MetadataHookInterface):
    """Gives the metadata their description."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Set `readme`, which pyproject.toml says is dynamic."""
        text = (Path(self.root) / "README.md").read_text("utf-8")
        text = absolute(text, metadata.get("urls", {}).get("Source"))
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
