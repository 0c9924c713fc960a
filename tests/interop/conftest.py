"""The environment of a peer's own code: PyPI's agent-governance-toolkit-core, apart from ours.

It ships a package that is called `agentmesh` too, so it can never be imported beside ours: the tests run it as another
process, in a virtual environment of its own under `tests/interop/.venv`, or where AGENTMESH_INTEROP_VENV says.
AGENTMESH_INTEROP=1 makes that environment once (pip, some 120 MB); without it, the tests that need it run where it
exists and are skipped elsewhere.
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

REQUIREMENT = "agent-governance-toolkit-core==5.0.0"
HERE = Path(__file__).parent
FOLDER = Path(os.environ.get("AGENTMESH_INTEROP_VENV") or HERE / ".venv")
READY = FOLDER / "agt" / f"ready-{REQUIREMENT}"
PYTHON = FOLDER / "agt" / "bin" / "python"


def _make() -> str:
    """Make the environment, and return why it could not be made, or nothing."""
    for command in (
        [sys.executable, "-m", "venv", "--clear", str(FOLDER / "agt")],
        [str(PYTHON), "-m", "pip", "install", "--quiet", "--timeout", "60", "--retries", "2", REQUIREMENT],
    ):
        done = subprocess.run(command, capture_output=True, text=True, env=_environment())
        if done.returncode:
            lines = (done.stderr or done.stdout).strip().splitlines()
            return lines[-1] if lines else f"exit status {done.returncode}"
    READY.touch()
    return ""


def _environment() -> dict[str, str]:
    ours = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    return {name: value for name, value in os.environ.items() if name not in ours}


@pytest.fixture(scope="session")
def agt() -> Callable[[str, Any], Any]:
    """Return what runs a script of this folder in the peer's environment: JSON in, JSON out."""
    if not READY.exists() and os.environ.get("AGENTMESH_INTEROP") == "1":
        FOLDER.mkdir(parents=True, exist_ok=True)
        with (FOLDER / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # because test workers make it side by side
            failure = "" if READY.exists() else _make()
        if failure:
            pytest.skip(f"{REQUIREMENT} could not be installed: {failure}")
    if not READY.exists():
        pytest.skip(f"needs {REQUIREMENT} in an environment of its own: AGENTMESH_INTEROP=1 makes it")

    def run(script: str, value: Any) -> Any:
        done = subprocess.run(
            [str(PYTHON), "-I", str(HERE / script)],
            input=json.dumps(value),
            capture_output=True,
            text=True,
            env=_environment(),
            cwd=FOLDER,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run
