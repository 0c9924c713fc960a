"""Hypothesis knows the types of the library wherever both are installed, and nobody else pays for it."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import _agentmesh_hypothesis as entry
import agentmesh
from agentmesh.testing import strategies as am

ROOT = Path(__file__).resolve().parents[2]


def run(folder: Path, code: str) -> str:
    """Run a program in whose environment the entry point is installed."""
    info = folder / "made_up-0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: made-up\nVersion: 0\n")
    (info / "entry_points.txt").write_text("[hypothesis]\nmade-up = _agentmesh_hypothesis:register\n")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(folder), str(ROOT)))},
        cwd=folder, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_entry_point_is_declared_and_its_module_is_in_the_wheel() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    assert settings["project"]["entry-points"]["hypothesis"] == {"agentmesh": "_agentmesh_hypothesis:register"}
    targets = settings["tool"]["hatch"]["build"]["targets"]
    assert "_agentmesh_hypothesis.py" in targets["wheel"]["only-include"]
    assert "/_agentmesh_hypothesis.py" in targets["sdist"]["include"]


@pytest.mark.parametrize("first", ["hypothesis", "agentmesh"])
def test_types_are_known_whichever_is_imported_first(tmp_path: Path, first: str) -> None:
    out = run(
        tmp_path,
        f"""
import {first}
import agentmesh, hypothesis
from hypothesis import given, settings, strategies as st

@given(st.from_type(agentmesh.Intent), st.from_type(agentmesh.Limits), st.from_type(agentmesh.OuterEnvelope))
@settings(max_examples=5, database=None, deadline=None)
def test(intent, limits, envelope):
    assert isinstance(intent, agentmesh.Intent)

test()
print(agentmesh.__spec__.loader is agentmesh.__loader__, type(agentmesh.__loader__).__name__)
""",
    )
    assert out == "True SourceFileLoader\n"


def test_who_imports_hypothesis_alone_imports_nothing_of_the_library(tmp_path: Path) -> None:
    out = run(
        tmp_path,
        """
import sys, hypothesis
print([name for name in sys.modules if name.partition(".")[0] in ("agentmesh", "nacl", "cryptography", "msgpack")])
import agentmesh
print("agentmesh.testing" in sys.modules, [f for f in sys.meta_path if "_agentmesh" in type(f).__module__])
""",
    )
    assert out == "[]\nFalse []\n"


def test_another_package_of_that_name_and_one_that_does_not_start_are_left_alone(tmp_path: Path) -> None:
    other = tmp_path / "agentmesh"
    other.mkdir()
    (other / "__init__.py").write_text("Intent = 'no type'\nclass Limits: pass\n")
    assert run(tmp_path, "import hypothesis, agentmesh; print(agentmesh.Intent)") == "no type\n"
    (other / "__init__.py").write_text("import no_such_core")
    (tmp_path / "made_up-0.dist-info").rename(tmp_path / "gone")
    out = run(
        tmp_path,
        """
import hypothesis
try:
    import agentmesh
except ImportError as error:
    print(error.name)
""",
    )
    assert out == "no_such_core\n"


def test_waiting_twice_waits_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "agentmesh")
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    before = len(sys.meta_path)
    entry.register()
    entry.register()
    assert len(sys.meta_path) == before + 1
    assert sys.meta_path[0].find_spec("json", None) is None


def test_every_name_is_public_and_has_its_strategy() -> None:
    for name, strategy in entry._STRATEGIES.items():
        assert name in agentmesh.__all__
        assert isinstance(getattr(am, strategy)(), st.SearchStrategy)


@pytest.mark.parametrize("name", entry._STRATEGIES)
def test_each_type_draws_its_own(name: str) -> None:
    entry.register()
    kind = getattr(agentmesh, name)

    @given(st.from_type(kind))
    def drawn(value: object) -> None:
        assert isinstance(value, kind)

    drawn()


@pytest.mark.parametrize("of_theirs", ["no type", type("Intent", (), {})])
def test_another_package_of_this_name_is_left_alone(of_theirs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def registered(*given: Any) -> None:
        raise AssertionError(given)

    monkeypatch.setattr(st, "register_type_strategy", registered)
    package = ModuleType("agentmesh")
    package.Intent = of_theirs  # type: ignore[attr-defined]
    entry._register_types(package)
