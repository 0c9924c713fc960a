"""What numbers were taken on: the machine, and the versions of what ran on it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import ssl
import subprocess
import sys
from pathlib import Path

import agentmesh
from agentmesh.primitives import build
from benchmarks.workers import MAYBE_COMPILED, ROOT, environment


def machine() -> dict[str, str]:
    """Return what the numbers were taken on."""
    model = "unknown"
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model)
    except OSError:
        pass
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return {"processor": model, "cores": str(os.cpu_count()), "load before": load}


def facts() -> dict[str, str]:
    """Return the versions that the numbers belong to."""
    return {
        "agentmesh-e2ee": agentmesh.__version__,
        "build": build.BUILD,
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "machine": f"{platform.system()} {platform.machine()}",
        **{name: importlib.metadata.version(name) for name in ("pynacl", "cryptography", "msgpack")},
        "hashlib": ssl.OPENSSL_VERSION,
    }


def is_compiled() -> bool:
    """Return whether the compiled build is installed: whether that runs where nothing turns it off."""
    done = subprocess.run(
        (*MAYBE_COMPILED, sys.executable, "-c", "from agentmesh.primitives import _crypto, build; print(build.BUILD)"),
        cwd=ROOT, env=environment(), capture_output=True, text=True, stdin=subprocess.DEVNULL, check=True,
    )  # fmt: skip
    return done.stdout.strip() == "compiled"
