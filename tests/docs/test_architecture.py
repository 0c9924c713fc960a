"""docs/architecture.md is drawn from the code: its pictures, its tables, and the files that it names."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "architecture.md"
TEXT = PAGE.read_text(encoding="utf-8")
PICTURES = sorted((PAGE.parent / "diagrams").glob("*.svg"))


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # In a process of its own: what other tests have cached would be missing from a recorded path.
    folder = tmp_path_factory.mktemp("diagrams")
    command = [sys.executable, "-m", "docs.diagrams.draw", str(folder)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
    subprocess.run(command, cwd=ROOT, check=True, env=environment, stdin=subprocess.DEVNULL)
    return folder


@pytest.mark.parametrize("picture", PICTURES, ids=lambda picture: picture.stem)
def test_a_picture_shows_the_code_as_it_is(picture: Path, drawn: Path) -> None:
    again = "python -m docs.diagrams.draw"
    assert (drawn / picture.name).read_text(encoding="utf-8") == picture.read_text(encoding="utf-8"), again


def test_every_picture_is_drawn_and_shown(drawn: Path) -> None:
    assert {path.name for path in drawn.iterdir()} == {picture.name for picture in PICTURES}
    assert set(re.findall(r"\]\(diagrams/([\w.]+)\)", TEXT)) == {picture.name for picture in PICTURES}


@pytest.mark.parametrize("picture", PICTURES, ids=lambda picture: picture.stem)
def test_a_picture_asks_no_server(picture: Path) -> None:
    addresses = re.findall(r"https?://[^\"]+", picture.read_text(encoding="utf-8"))
    assert addresses == ["http://www.w3.org/2000/svg"]  # the name of the language, which nobody fetches


def test_the_files_that_the_page_names_are_there() -> None:
    named = set(re.findall(r"`((?:[\w.]+/)*[\w]+\.(?:py|md|toml))`", TEXT))
    assert len(named) > 20
    missing = {name for name in named if not any((ROOT / base / name).is_file() for base in ("", "agentmesh", "docs"))}
    assert missing == set()


# --- which classes are frozen ----------------------------------------------------------------------------------------

WAY = ("identity.py", "envelope.py", "outgoing.py", "policy.py", "events.py", "handshake", "session", "engine")
NO_INSTANCES = {"Protocol", "StrEnum", "IntEnum", "Enum", "NamedTuple"}


def classes_that_are_not_frozen() -> set[str]:
    found = set()
    for room in WAY:
        path = ROOT / "agentmesh" / room
        for module in [path] if path.suffix else sorted(path.glob("*.py")):
            for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
                if not isinstance(node, ast.ClassDef) or node.name.startswith("_"):
                    continue
                decorators = {ast.unparse(decorator).partition("(")[0] for decorator in node.decorator_list}
                bases = {ast.unparse(base).partition("[")[0] for base in node.bases}
                if "frozen" not in decorators and not bases & NO_INSTANCES:
                    found.add(node.name)
    return found


def test_the_page_names_every_class_that_is_not_frozen() -> None:
    table = TEXT.split("<!-- not frozen -->")[1]
    named = re.findall(r"`(\w+)`", "".join(line.split("|")[2] for line in table.splitlines() if line.startswith("|")))
    assert sorted(named) == sorted(classes_that_are_not_frozen())
