"""Environments of what others publish, each apart from ours, and the processes that run in them.

AGT's package is called `agentmesh` too, so it can never be imported beside ours: it runs in virtual environments of its
own under `tests/interop/.venv`, or where AGENTMESH_INTEROP_VENV says. They are made once, where pip and npm can within
a minute or two, and the tests that need one which cannot be made are skipped, saying why. With AGENTMESH_INTEROP=1 such
a test fails; with AGENTMESH_INTEROP=0 nothing is made, and what is there is used.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest

from agentmesh.engine.hooks import system_clock_ms
from agentmesh.testing import ManualClock

HERE = Path(__file__).parent
FOLDER = Path(os.environ.get("AGENTMESH_INTEROP_VENV") or HERE / ".venv")
# Bounds a plain run that meets a slow network; whoever asks for the environments waits longer.
MAKING_SECONDS = 600 if os.environ.get("AGENTMESH_INTEROP") == "1" else 120


class Environment(NamedTuple):
    """What is installed beside what, and how."""

    name: str
    requirements: tuple[str, ...]
    npm: bool = False

    @property
    def folder(self) -> Path:
        return FOLDER / self.name

    @property
    def program(self) -> str:
        """Return what runs a script of this environment, or nothing where that is not to be had."""
        if not self.npm:
            return str(self.folder / "bin" / "python")
        return (shutil.which("npm") and shutil.which("node")) or ""

    def variables(self) -> dict[str, str]:
        """Return the variables of its processes: nothing of ours leaks in."""
        ours = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "NODE_OPTIONS")
        kept = {name: value for name, value in os.environ.items() if name not in ours}
        return {**kept, "NODE_PATH": str(self.folder / "node_modules")} if self.npm else kept

    def missing(self) -> str:
        """Return why it is not there, or nothing. It is made first, where that is wanted and can be."""
        if not self.program:
            return "needs node and npm, which are not here"
        text = repr((self.requirements, "" if self.npm else sys.version))
        ready = self.folder / f"ready-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
        if ready.exists():
            return ""
        if os.environ.get("AGENTMESH_INTEROP") == "0":
            return f"needs {self.requirements[0]} in an environment of its own: AGENTMESH_INTEROP=1 makes it"
        try:
            failure = self._made(ready)
        except (OSError, subprocess.SubprocessError) as error:
            failure = str(error)
        return f"{self.requirements[0]} could not be installed: {failure}" if failure else ""

    def _made(self, ready: Path) -> str:
        FOLDER.mkdir(parents=True, exist_ok=True)
        # A lock, because test workers make it side by side; what failed once fails for all the workers of a run.
        with (FOLDER / f"{self.name}.lock").open("a+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if ready.exists():
                return ""
            this_run = os.environ.get("PYTEST_XDIST_TESTRUNUID") or str(os.getpid())
            lock.seek(0)
            run, _, failure = lock.read().partition(":")
            if run != this_run:
                lock.truncate(0)
                lock.write(f"{this_run}:it failed in another worker")
                lock.flush()
                failure = self._install()
                lock.truncate(0)
                lock.write(f"{this_run}:{failure}")
            if not failure:
                ready.touch()
        return failure

    def _install(self) -> str:
        shutil.rmtree(self.folder, ignore_errors=True)
        if self.npm:
            self.folder.mkdir()
            flags = ["--no-audit", "--no-fund", "--ignore-scripts", "--no-save"]
            commands = [["npm", "install", *flags, "--prefix", str(self.folder), *self.requirements]]
        else:
            pip = [self.program, "-m", "pip", "install", "--quiet", "--timeout", "30", "--retries", "1"]
            commands = [[sys.executable, "-m", "venv", str(self.folder)], [*pip, *self.requirements]]
        for command in commands:
            done = subprocess.run(
                command, capture_output=True, text=True, env=self.variables(), timeout=MAKING_SECONDS, check=False
            )
            if done.returncode:
                lines = (done.stderr or done.stdout).strip().splitlines()
                return lines[-1] if lines else f"exit status {done.returncode}"
        return ""


AGT = Environment("agt", ("agent-governance-toolkit-core[server,websocket]==5.0.0",))
REFEREE = Environment("referee", ("DoubleRatchet==1.3.0", "X3DH==1.3.0"))
# Node has had a WebSocket of its own only since version 22: `ws` is what the client is given.
NPM = Environment("npm", ("@microsoft/agent-governance-sdk@4.0.0", "ws@8"), npm=True)


def beside(name: str) -> ModuleType:
    """Give a module beside this one. No path is searched for it: pytest imports test files one by one."""
    spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


processes = beside("processes")
applications = beside("ours")


def ready(wanted: Environment) -> Environment:
    if what := wanted.missing():
        asked = os.environ.get("AGENTMESH_INTEROP") == "1"
        (pytest.fail if asked and wanted.program else pytest.skip)(what)
    return wanted


@pytest.fixture(scope="session")
def agt_environment() -> Environment:
    return ready(AGT)


@pytest.fixture(scope="session")
def referee_environment() -> Environment:
    return ready(REFEREE)


@pytest.fixture(scope="session")
def npm_environment() -> Environment:
    return ready(NPM)


@pytest.fixture(scope="session")
def agt(agt_environment: Environment) -> Callable[[str, Any], Any]:
    """Return what runs a script of this folder in AGT's environment: JSON in, JSON out."""

    def run(script: str, value: Any) -> Any:
        done = subprocess.run(
            [agt_environment.program, "-I", str(HERE / script)],
            input=json.dumps(value),
            capture_output=True,
            text=True,
            env=agt_environment.variables(),
            cwd=FOLDER,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


class Started:
    """The processes of a test or a module: `stop` ends them all."""

    def __init__(self) -> None:
        self._running: list[Any] = []

    def worker(self, wanted: Environment, script: str) -> Any:
        """Start a script of this folder, which answers JSON lines."""
        return self.keep(processes.Worker([wanted.program, str(HERE / script)], wanted.variables()))

    def server(self, wanted: Environment, kind: str, **options: Any) -> Any:
        """Start AGT's "registry" or "relay" on a port of its own. `processes.Server` has the options."""
        return self.keep(processes.Server(wanted.program, kind, wanted.variables(), **options))

    def keep(self, made: Any) -> Any:
        """Return what is to be stopped with the others."""
        self._running.append(made)
        return made

    def stop(self) -> None:
        for made in reversed(self._running):
            made.stop()


@pytest.fixture
def started() -> Iterator[Started]:
    made = Started()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def lasting() -> Iterator[Started]:
    """Start what all tests of a module share."""
    made = Started()
    yield made
    made.stop()


class Mesh(NamedTuple):
    """AGT's two servers, as it runs them."""

    registry: Any
    relay: Any


@pytest.fixture(scope="module")
def mesh(agt_environment: Environment, lasting: Started) -> Mesh:
    """Give AGT's registry and relay, for all tests of a module: each uses agents of its own."""
    return Mesh(*(lasting.server(agt_environment, kind) for kind in ("registry", "relay")))


@pytest.fixture
def peer(mesh: Mesh, started: Started, agt_environment: Environment) -> Callable[..., tuple[Any, str]]:
    """Return what starts an agent of theirs: the process, and its DID."""

    def start(**options: Any) -> tuple[Any, str]:
        worker = started.worker(agt_environment, "agt_peer.py")
        return worker, worker.ask("start", **{"registry": mesh.registry.url, "relay": mesh.relay.url, **options})["did"]

    return start


@pytest.fixture
def make_ours(started: Started, agt_environment: Environment) -> Callable[..., Any]:
    """Return what starts an agent of ours on servers of theirs: registered, with prekeys, and connected."""

    def start(
        registry: str,
        relay: str,
        *,
        echo: bool = False,
        one_time: int = 20,
        clock: Any = system_clock_ms,
        file: Path | None = None,
    ) -> Any:
        life = started.keep(applications.Life(file, clock))
        made = applications.Ours(started.worker(agt_environment, "agt_wire.py"), registry, relay, life, echo=echo)
        made.register(one_time)
        made.connect()
        return made

    return start


@pytest.fixture
def ours(make_ours: Callable[..., Any], mesh: Mesh) -> Callable[..., Any]:
    """Return what starts an agent of ours on the servers of the module."""

    def start(*, registry: str = mesh.registry.url, relay: str = mesh.relay.url, **options: Any) -> Any:
        return make_ours(registry, relay, **options)

    return start


@pytest.fixture
def clock() -> ManualClock:
    """Give a clock that shows the time of the servers until it is set forward."""
    return ManualClock(time.time_ns() // 1_000_000)
