"""The other half of a run: workers as subprocesses, ours and the peers', each peer in an environment of its own."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

ROOT: Final = Path(__file__).resolve().parents[1]
DEFAULT_CACHE: Final = Path(tempfile.gettempdir()) / f"agentmesh-benchmarks-{os.getuid()}"
# glibc gives large buffers back to the system and takes them anew at every message, which triples the cost of a
# megabyte and is none of ours or theirs. Raised for every worker, and said on the page.
MALLOC: Final = {"MALLOC_TRIM_THRESHOLD_": str(1 << 30), "MALLOC_MMAP_THRESHOLD_": str(1 << 30)}
OURS: Final = (sys.executable, "-m", "benchmarks.ours")
# Workers run the library's pure Python, whatever is installed, unless their command begins so.
PURE: Final = {"AGENTMESH_PURE": "1"}
MAYBE_COMPILED: Final = ("env", "-u", "AGENTMESH_PURE")
COMPILED: Final = (*MAYBE_COMPILED, *OURS)


def environment() -> dict[str, str]:
    """Return the variables that every worker is started with."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")} | MALLOC | PURE


class WorkerFailed(Exception):
    """A worker said that it cannot, or is gone."""


class Peer(NamedTuple):
    """A library that stands beside us, and how to get it."""

    name: str
    title: str
    script: str
    requirements: tuple[str, ...]


PEERS: Final = (
    Peer("agt", "AGT Python", "agt.py", ("agentmesh-platform==3.7.0",)),
    Peer("vodozemac", "vodozemac", "olm.py", ("vodozemac==0.10.0",)),
    Peer("omemo", "DoubleRatchet + X3DH", "omemo.py", ("DoubleRatchet==1.3.0", "X3DH==1.3.0")),
)


class Worker:
    """One subprocess that answers requests."""

    def __init__(self, command: Sequence[str]) -> None:
        self.command = tuple(command)
        self._process = subprocess.Popen(
            self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment()
        )
        about = self.ask(do="about")
        self.facts: dict[str, str] = about["facts"]
        self.workloads = frozenset(about["workloads"])
        self.figures = frozenset(about["figures"])

    def ask(self, **request: Any) -> dict[str, Any]:
        """Return the answer to a request.

        Raises:
            WorkerFailed: it answered with an error, or not at all.
        """
        pipe_in, pipe_out = self._process.stdin, self._process.stdout
        if pipe_in is None or pipe_out is None:
            raise WorkerFailed("no pipes")
        try:
            print(json.dumps(request), file=pipe_in, flush=True)
            line = pipe_out.readline()
        except OSError as error:
            raise WorkerFailed(str(error)) from error
        if not line:
            raise WorkerFailed(f"exited with {self._process.wait()} at {request}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise WorkerFailed(f"{answer['error']} at {request}")
        return answer

    def run(self, workload: str, times: int) -> list[float]:
        """Return the microseconds of so many calls."""
        found: list[float] = self.ask(do="run", workload=workload, times=times)["microseconds"]
        return found

    def close(self) -> None:
        """End it."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def figure(command: Sequence[str], name: str, **arguments: Any) -> Any:
    """Return a figure, taken in a fresh process: nothing that ran before is in its memory."""
    with Worker(command) as worker:
        return worker.ask(do="figure", figure=name, arguments=arguments)["value"]


def peer_command(peer: Peer, cache: Path) -> tuple[str, ...]:
    """Return the command of a peer's worker, in an environment that is made if it is not there.

    Raises:
        WorkerFailed: it cannot be made; says why.
    """
    key = hashlib.sha256(repr((peer.requirements, sys.version)).encode()).hexdigest()[:12]
    folder = cache / f"{peer.name}-{key}"
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        shutil.rmtree(folder, ignore_errors=True)
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        _quietly(sys.executable, "-m", "venv", str(folder))
        _quietly(str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *peer.requirements)
        (folder / "complete").touch()
    return str(python), str(ROOT / "benchmarks" / "peers" / peer.script)


def _quietly(*command: str) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    except subprocess.CalledProcessError as error:
        lines = (error.stderr or error.stdout or "").strip().splitlines() or ["no reason given"]
        raise WorkerFailed(lines[-1]) from error
    except OSError as error:
        raise WorkerFailed(str(error)) from error
