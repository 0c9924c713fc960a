"""The process of examples/agt_agent.py, as a test starts it and sees it end.

Tests reach this module through the fixture `agt_example`.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import agentmesh

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "agt_agent.py"
PACKAGE = Path(agentmesh.__file__).resolve().parent
ENDING_SECONDS = 120  # only so that a hang fails

# The example with other constants: what it waits for is its own business, and not a test's.
_CHANGED = """
import sys
sys.path.insert(0, {folder!r})
{changes}
import agt_agent
sys.exit(agt_agent.main())
"""


def module(name: str) -> ModuleType:
    """Give a module of the example, for a test that looks into it."""
    sys.path.insert(0, str(EXAMPLE.parent))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(EXAMPLE.parent))


class Ended(NamedTuple):
    status: int
    result: dict[str, Any]
    said: str


class Running:
    """A process of the example."""

    def __init__(self, command: list[str]) -> None:
        self._child = subprocess.Popen(
            command,
            env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,  # so that the line which is read takes none with it that `communicate` would miss
        )
        self.lines: list[dict[str, Any]] = []

    def ready(self) -> str:
        """Return its DID, once it can be reached."""
        assert self._child.stdout is not None
        self.lines.append(json.loads(self._child.stdout.readline()))
        assert self.lines[0]["event"] == "ready"
        return str(self.lines[0]["did"])

    def signal(self, number: int) -> None:
        self._child.send_signal(number)

    def kill(self) -> None:
        self._child.kill()
        self._child.wait(10)

    def end(self) -> Ended:
        """Wait for its end; standard output is the two lines and nothing else."""
        out, err = self._child.communicate(timeout=ENDING_SECONDS)
        said = err.decode()
        self.lines += [json.loads(line) for line in out.splitlines()]
        assert [line["event"] for line in self.lines] in (["ready", "result"], ["result"]), said
        return Ended(self._child.returncode, self.lines[-1], said)

    def stop(self) -> None:
        self.kill()
        for pipe in (self._child.stdout, self._child.stderr):
            if pipe is not None:
                pipe.close()


class Examples:
    """All processes of a test, and the servers that they are started with."""

    def __init__(self, registry: str, relay: str) -> None:
        self._given = ("--registry", registry, "--relay", relay)
        self._running: list[Running] = []

    def start(self, role: str, *options: str, name: str = "agent", count: int = 10, changes: str = "") -> Running:
        """Start one; `changes` are lines of Python that run in it first."""
        script = [str(EXAMPLE)]
        if changes:
            script = ["-c", _CHANGED.format(folder=str(EXAMPLE.parent), changes=changes)]
        command = [sys.executable, *script, "--role", role, *self._given, "--name", name, "--count", str(count)]
        self._running.append(Running([*command, *options]))
        return self._running[-1]

    def stop(self) -> None:
        for one in self._running:
            one.stop()
