"""What all tests share: the Hypothesis profiles, and `interrupts`, which breaks calls off.

AGENTMESH_DEPTH, a positive integer, multiplies how many examples each property tries (100 by default).
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from types import ModuleType

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


@pytest.fixture(scope="session")
def interrupts() -> ModuleType:
    """Give the module beside this one. No path is searched for it: pytest imports test files one by one."""
    spec = importlib.util.spec_from_file_location("interrupts", Path(__file__).with_name("interrupts.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
