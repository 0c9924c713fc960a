"""Each test that docs/security.md names by file and function exists, and every threat has some."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "security.md"
HEADER = "| what is tried | threat | what answers it | shown by |"
THREATS = {
    "Spoofing",
    "Tampering",
    "Repudiation",
    "Information disclosure",
    "Denial of service",
    "Elevation of privilege",
}


def attacks() -> list[list[str]]:
    """Return the cells of the table's rows."""
    lines = PAGE.read_text("utf-8").splitlines()
    first = lines.index(HEADER) + 2
    found = []
    for line in lines[first:]:
        if not line.startswith("|"):
            break
        found.append([cell.strip() for cell in line.strip("|").split("|")])
    return found


@cache
def functions_of(file: str) -> frozenset[str]:
    """Return the names of a file's test functions."""
    tree = ast.parse((ROOT / file).read_text("utf-8"))
    return frozenset(
        node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    )


@pytest.mark.parametrize("row", attacks(), ids=lambda row: row[0])
def test_an_attack_has_a_mechanism_and_a_test_that_exists(row: list[str]) -> None:
    tried, threat, mechanism, shown_by = row
    assert tried
    assert threat in THREATS
    assert mechanism
    [(file, name)] = re.findall(r"`(tests/[a-z_/]+\.py)::(test_[a-z0-9_]+)`", shown_by)
    assert name in functions_of(file)


def test_every_threat_has_three_attacks_or_more() -> None:
    threats = [threat for _, threat, _, _ in attacks()]
    assert set(threats) == THREATS
    assert min(threats.count(threat) for threat in THREATS) >= 3


def test_no_attack_and_no_test_stands_twice() -> None:
    rows = attacks()
    for column in (0, 3):
        cells = [row[column] for row in rows]
        assert len(cells) == len(set(cells))
