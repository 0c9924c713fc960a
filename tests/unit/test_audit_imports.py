"""What is loaded when: an agent that keeps no log loads none of its files; the package offers its names anyhow."""

from __future__ import annotations

import subprocess
import sys

import pytest

from agentmesh import audit

LOADS = "import sys, agentmesh; print(*[name for name in sys.modules if name.startswith('agentmesh.')])"


def loaded(script: str) -> set[str]:
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(ran.stdout.split())


def test_an_agent_loads_neither_the_log_nor_trust() -> None:
    names = loaded(LOADS)
    assert {name for name in names if name.startswith("agentmesh.audit")} == {
        "agentmesh.audit", "agentmesh.audit.record", "agentmesh.audit.counts"
    }  # fmt: skip
    assert not [name for name in names if name.startswith(("agentmesh.trust", "agentmesh.store", "agentmesh.cli"))]


def test_every_name_of_the_package_is_there_when_it_is_asked_for() -> None:
    assert dir(audit) == sorted(audit.__all__)
    for name in audit.__all__:
        assert getattr(audit, name).__module__.startswith("agentmesh.audit") or name in ("EntryHash", "RootHash")
    with pytest.raises(AttributeError, match="nothing"):
        audit.nothing  # noqa: B018


@pytest.mark.parametrize("module", ["comparison", "log", "verification", "exports", "owner"])
def test_a_module_that_is_loaded_first_hides_no_name(module: str) -> None:
    script = f"import agentmesh.audit.{module}; from agentmesh.audit import *; print(type(compare).__name__)"
    assert loaded(script) == {"function"}
