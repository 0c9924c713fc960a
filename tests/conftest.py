"""What all tests share: the Hypothesis profiles, `interrupts`, which breaks calls off, a PostgreSQL server, AGT's mesh.

AGENTMESH_DEPTH, a positive integer, multiplies how many examples each property tries (100 by default).
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import Phase, settings


def _depth() -> int:
    text = os.environ.get("AGENTMESH_DEPTH") or "1"
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise pytest.UsageError(f"AGENTMESH_DEPTH must be a positive integer, not {text!r}")
    return int(text)


# No deadline, because a slow machine is not a fault of the code. Derandomised in CI, because what fails there must fail
# again; elsewhere new examples are tried each time.
_COMMON = settings(deadline=None, derandomize=bool(os.environ.get("CI")))
settings.register_profile("fast", _COMMON, max_examples=100)
settings.register_profile("deep", _COMMON, max_examples=100 * _depth())
# For tests that are to fail, once: the first counterexample is enough.
settings.register_profile("first", _COMMON, max_examples=100, phases=[Phase.explicit, Phase.generate], database=None)
settings.load_profile("deep" if _depth() > 1 else "fast")


def _beside(name: str) -> ModuleType:
    """Give a module beside this one. No path is searched for it: pytest imports test files one by one."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def interrupts() -> ModuleType:
    """Give the module that breaks calls off."""
    return _beside("interrupts")


@pytest.fixture(scope="session")
def agt_mesh() -> ModuleType:
    """Give the module that has a mesh of AGT's, and a peer in it that is not ours."""
    return _beside("agt_mesh")


@pytest.fixture(scope="session")
def agt_servers() -> ModuleType:
    """Give the module that has a registry and a relay as AGT's."""
    return _beside("agt_servers")


@pytest.fixture(scope="session")
def agt_example() -> ModuleType:
    """Give the module that runs examples/agt_agent.py; what asks for it is skipped where that cannot run."""
    pytest.importorskip("websockets", reason="needs websockets: pip install '.[examples]'")
    return _beside("agt_example")


@pytest.fixture(scope="session")
def brokers() -> ModuleType:
    """Give the module that has brokers, and runs the examples over them."""
    return _beside("brokers")


@pytest.fixture
def broker_of(brokers: ModuleType) -> Iterator[Callable[[str], Any]]:
    """Return what starts a broker of a kind.

    A test that asks is skipped where that cannot run; with AGENTMESH_BROKERS=1 it fails.
    """
    made = []

    def start(kind: str) -> Any:
        if what := brokers.KINDS[kind].missing():
            (pytest.fail if os.environ.get("AGENTMESH_BROKERS") == "1" else pytest.skip)(what)
        made.append(brokers.KINDS[kind]())
        return made[-1]

    yield start
    for one in made:
        one.stop()


@pytest.fixture(scope="session")
def postgres() -> ModuleType:
    """Give the module that has servers and proxies.

    A test that asks for it is skipped where there can be no server; with AGENTMESH_POSTGRES=1 it fails.
    """
    module = _beside("postgres")
    if what := module.missing():
        (pytest.fail if os.environ.get("AGENTMESH_POSTGRES") == "1" else pytest.skip)(what)
    return module


@pytest.fixture(scope="session")
def cluster(postgres: ModuleType) -> Iterator[Any]:
    """Give a PostgreSQL server: one for each process of pytest that asks."""
    made = postgres.Cluster()
    yield made
    made.stop()


@pytest.fixture
def conninfo(cluster: Any) -> str:
    """Give how to connect to a database that is empty."""
    return str(cluster.empty())
