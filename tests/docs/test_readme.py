"""The README has no dead link where a package index shows it."""

from __future__ import annotations

import importlib.util
import re
import sys
import tomllib
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text("utf-8")
LINK = re.compile(r"\]\((?P<target>[^)\s]+)\)")


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Load the hook; hatchling is there while a package is built, and not here."""
    interface = ModuleType("hatchling.metadata.plugin.interface")
    interface.MetadataHookInterface = object  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, interface.__name__, interface)
    for name in ("hatchling", "hatchling.metadata", "hatchling.metadata.plugin"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    spec = importlib.util.spec_from_file_location("hatch_readme", ROOT / "hatch_readme.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def described(hook: Any, urls: dict[str, str]) -> str:
    metadata: dict[str, Any] = {"urls": urls} if urls else {}
    hook.Readme.update(SimpleNamespace(root=str(ROOT)), metadata)
    assert metadata["readme"]["content-type"] == "text/markdown"
    return str(metadata["readme"]["text"])


def test_without_an_address_relative_links_are_words(hook: Any) -> None:
    text = described(hook, {})
    assert all(match["target"].startswith(("https://", "#")) for match in LINK.finditer(text))
    assert "| docs/protocol.md | the protocol, complete enough to implement it |" in text


def test_with_an_address_every_link_is_below_it(hook: Any) -> None:
    source = "https://code.example/agentmesh/blob/v1"
    before = [match["target"] for match in LINK.finditer(README)]
    after = [match["target"] for match in LINK.finditer(described(hook, {"Source": source}))]
    assert after == [target if ":" in target or target[0] == "#" else f"{source}/{target}" for target in before]
    assert len(after) > 20


def test_code_is_as_it_was(hook: Any) -> None:
    blocks = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
    assert blocks.findall(described(hook, {})) == blocks.findall(README)


def test_the_package_uses_the_hook() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    assert "readme" in settings["project"]["dynamic"]
    assert settings["tool"]["hatch"]["metadata"]["hooks"]["custom"]["path"] == "hatch_readme.py"
