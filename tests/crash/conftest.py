"""What the tests of this folder share: the module beside this one that kills."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


@pytest.fixture(scope="session")
def harness() -> ModuleType:
    """Give the harness; a test that asks for it is skipped where processes cannot be forked and killed."""
    if not hasattr(os, "fork"):
        pytest.skip("this system does not fork")
    name = "crash_harness"
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name("harness.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def nursery(harness: ModuleType) -> Iterator[Any]:
    """Give the process that workers are forked from: one for each process of pytest."""
    made = harness.Nursery()
    yield made
    made.close()
