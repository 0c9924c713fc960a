"""The pages are a site: each stands in its navigation, tables are the code's, every public name is in the reference.

What needs Sphinx (the extra `docs`) is skipped without it; `.ci/run` has it, and makes the site strictly.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from agentmesh import errors, limits

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT))  # behind the installed library, for `docs`

from docs import tables  # noqa: E402

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
INDEX = (DOCS / "index.md").read_text("utf-8")
PUBLIC = (
    "agentmesh", "agentmesh.agt", "agentmesh.attachments", "agentmesh.audit", "agentmesh.courier", "agentmesh.errors",
    "agentmesh.relay", "agentmesh.retries", "agentmesh.store", "agentmesh.testing", "agentmesh.testing.store_kit",
    "agentmesh.testing.strategies", "agentmesh.testing.transport_kit", "agentmesh.trust",
)  # fmt: skip
NAMES = [(module, name) for module in PUBLIC for name in tables.public_names(module)]
REFERENCE = "\n".join(page.read_text("utf-8") for page in sorted((DOCS / "reference").glob("*.md")))


def page_id(page: Path) -> str:
    return page.relative_to(DOCS).as_posix()


# --- without a site --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_the_tables_of_a_page_are_those_of_the_code(page: Path) -> None:
    text = page.read_text("utf-8")
    assert tables.written(text) == text, "python -m docs.tables"


def test_every_page_is_in_the_index() -> None:
    listed = re.findall(r"^\| \[[^\]]+\]\(([\w/-]+\.md)\) \|", INDEX, re.MULTILINE)
    assert sorted(listed) == sorted({page_id(page) for page in PAGES} - {"index.md"})


@pytest.mark.parametrize("module", PUBLIC)
def test_every_module_of_the_interface_has_its_docstrings_and_its_names_in_the_reference(module: str) -> None:
    assert REFERENCE.count(f"<!-- docstrings: {module} -->\n") == 1
    has_tables_of_its_own = module == "agentmesh.errors"
    assert has_tables_of_its_own or REFERENCE.count(f"<!-- table: names {module} -->\n") == 1


def test_the_reference_has_every_public_module() -> None:
    offered = set()
    for path in sorted((ROOT / "agentmesh").glob("*/__init__.py")):
        module = f"agentmesh.{path.parent.name}"
        if hasattr(importlib.import_module(module), "__all__"):
            offered.add(module)
    assert offered <= set(PUBLIC)


def test_every_error_has_a_row_with_its_hint() -> None:
    text = (DOCS / "reference" / "errors.md").read_text("utf-8")
    for name in tables.public_names("agentmesh.errors"):
        error = getattr(errors, name)
        is_leaf = issubclass(error, errors.AgentMeshError) and error.hint
        hint = error.hint.replace("__cause__", "`__cause__`") if is_leaf else ""
        assert not is_leaf or f"| `{error.code}` | `{name}` | {error.text} | {hint} |\n" in text


def test_every_limit_has_a_row() -> None:
    text = (DOCS / "limits.md").read_text("utf-8")
    fixed = [name for name in vars(limits) if name.isupper() and not name.startswith("_")]
    settable = [field.name for field in limits.Limits.__attrs_attrs__]
    assert re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE) == fixed + settable


def test_every_code_is_on_the_page_of_problems_once() -> None:
    text = (DOCS / "problems.md").read_text("utf-8")
    named = re.findall(r"`([a-z]+\.[a-z_]+)`", "".join(re.findall(r"^\|.*\|$", text, re.MULTILINE)))
    every = [getattr(errors, name) for name in tables.public_names("agentmesh.errors")]
    leaves = [error for error in every if issubclass(error, errors.AgentMeshError) and not error.__subclasses__()]
    assert sorted(named) == sorted(error.code for error in leaves)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("x_bytes", 1 << 20, "1,048,576 (1 MiB)"),
        ("x_bytes", 1000, "1,000"),
        ("x_seconds", 86_400, "86,400 (1 day)"),
        ("x_seconds", 7 * 86_400, "604,800 (7 days)"),
        ("x_ms", 1000, "1,000 (1 s)"),
        ("X_MS", 300_000, "300,000 (5 minutes)"),
        ("sessions", 1 << 20, "1,048,576"),
    ],
)
def test_a_number_is_shown_in_a_unit_where_it_is_a_round_one(name: str, value: int, said: str) -> None:
    assert tables.shown(name, value) == said


# --- the site itself -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the site, strictly: a warning is an error."""
    needed = ("furo", "myst_parser", "sphinx", "sphinx_copybutton")
    if missing := [module for module in needed if importlib.util.find_spec(module) is None]:
        pytest.skip(f"{', '.join(missing)} not installed here: pip install '.[docs]'")
    folder = tmp_path_factory.mktemp("site")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "-n", "--keep-going", "docs", str(folder)]
    made = subprocess.run(command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert (made.returncode, made.stderr) == (0, "")
    return folder


def test_every_public_name_has_its_docstring_on_the_site(site: Path) -> None:
    anchors = set(re.findall(r'<dt[^>]* id="([\w.]+)"', "".join(p.read_text("utf-8") for p in site.rglob("*.html"))))
    homes = ("agentmesh.errors", "agentmesh.attachments")  # of names that the package offers too
    missing = {f"{m}.{n}" for m, n in NAMES if not {f"{home}.{n}" for home in (m, *homes)} & anchors}
    assert missing == set()


def test_the_site_asks_no_other_server(site: Path) -> None:
    loads = {
        ".html": r'<(?:link|script|img|iframe|source)\b[^>]*\b(?:href|src)="(?:https?:)?//[^"]*"',
        ".css": r"url\(['\"]?https?:[^)]*\)|@import[^;]*",
    }
    asked = [
        (path.name, found)
        for path in sorted(site.rglob("*"))
        if path.suffix in loads
        for found in re.findall(loads[path.suffix], path.read_text("utf-8"))
    ]
    assert asked == []


def test_the_search_knows_names_and_words(site: Path) -> None:
    index = (site / "searchindex.js").read_text("utf-8")
    assert all(word in index for word in ("knock", "rekey", "send_many", "AuditLog"))


def test_every_picture_of_a_page_is_on_the_site(site: Path) -> None:
    shown = {
        Path(name).name
        for page in PAGES
        for name in re.findall(r"!\[[^\]]*\]\(([^)]+\.svg)\)", page.read_text("utf-8"))
    }
    assert shown
    assert {name for name in shown if not (site / "_images" / name).is_file()} == set()
