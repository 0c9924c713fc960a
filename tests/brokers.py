"""Brokers of the tests' own on loopback, and the processes of examples over them, which are killed and started again.

Tests reach this module through the fixture `brokers`. Nothing here sleeps for a result: what is awaited has a deadline,
so that a hang fails.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import selectors
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import agentmesh

EXAMPLES: Final = Path(__file__).resolve().parents[1] / "examples"
PACKAGE: Final = Path(agentmesh.__file__).resolve().parent
DEADLINE_SECONDS: Final = 120  # only so that a hang fails

# An example that ends, as by kill -9, around the n-th call of some function of its own or of the library.
_KILLED = """
import importlib, inspect, os, runpy, signal, sys
folder, example, where, number, when, *rest = sys.argv[1:]
sys.path.insert(0, folder)
sys.argv = [example, *rest]
if where:
    module, _, path = where.partition(":")
    holder = importlib.import_module(module)
    *outer, name = path.split(".")
    for part in outer:
        holder = getattr(holder, part)
    original, calls = getattr(holder, name), [0]
    def kill(moment):
        if moment == when and calls[0] >= int(number):
            os.kill(os.getpid(), signal.SIGKILL)
    def patched(*arguments, **named):
        calls[0] += 1
        kill("before")
        made = original(*arguments, **named)
        kill("after")
        return made
    setattr(holder, name, patched)
runpy.run_path(os.path.join(folder, example), run_name="__main__")
"""


def until(is_so: Callable[[], bool], what: str, seconds: float = DEADLINE_SECONDS) -> None:
    """Wait for a condition."""
    last = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < last, f"waited in vain: {what}"
        time.sleep(0.01)


def example(name: str) -> ModuleType:
    """Give a module of the examples."""
    sys.path.insert(0, str(EXAMPLES))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(EXAMPLES))


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


class Broker:
    """A process that listens on loopback, and keeps what it keeps in a folder of its own."""

    example: str  # of the agents that speak to it
    scheme: str
    package: str
    program: str = ""
    advice: str = ""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="agentmesh-broker-"))
        self.port = free_port()
        self.url = f"{self.scheme}://127.0.0.1:{self.port}"
        self._child: subprocess.Popen[bytes] | None = None
        self.start()

    @classmethod
    def missing(cls) -> str:
        """Say what is missing to run it, and how to get it; nothing, where nothing is."""
        if cls.program and shutil.which(cls.program) is None:
            return f"there is no {cls.program} here: {cls.advice}"
        for package in cls.package.split():
            if find_spec(package) is None:
                return f"{package} is not installed: pip install '.[examples]'"
        return ""

    def command(self) -> list[str]:
        raise NotImplementedError

    def start(self) -> None:
        with (self.folder / "log").open("ab") as log:
            self._child = subprocess.Popen(
                self.command(),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)},
            )
        until(self._listens, f"{type(self).__name__} listens: {(self.folder / 'log').read_text()[-500:]}")

    def _listens(self) -> bool:
        assert self._child is not None
        assert self._child.poll() is None, (self.folder / "log").read_text()[-2000:]
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
            return True
        return False

    def kill(self) -> None:
        assert self._child is not None
        self._child.kill()
        self._child.wait(10)

    def stop(self) -> None:
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


class Nats(Broker):
    example, scheme, package = "nats_agent.py", "nats", "nats"
    program, advice = "nats-server", "apt-get install nats-server"

    def command(self) -> list[str]:
        options = self.folder / "options"
        options.write_text("max_payload: 3MB\n")  # the largest envelope; the server's own bound is 1 MiB
        return [self.program, "-js", "-sd", str(self.folder / "kept"), "-a", "127.0.0.1", "-p", str(self.port),
                "-c", str(options)]  # fmt: skip


class Redis(Broker):
    example, scheme, package = "redis_agent.py", "redis", "redis"
    program, advice = "redis-server", "apt-get install redis-server"

    def command(self) -> list[str]:
        return [self.program, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder),
                "--appendonly", "yes", "--save", ""]  # fmt: skip


class WebSocket(Broker):
    """The relay of the examples: it keeps nothing but in memory."""

    example, scheme, package = "websocket_agent.py", "ws", "websockets"

    def command(self) -> list[str]:
        return [sys.executable, str(EXAMPLES / "websocket_relay.py"), str(self.port)]


class Http(Broker):
    """The endpoint of the examples: it keeps its log, and all else in memory."""

    example, scheme, package = "http_agent.py", "http", "fastapi uvicorn httpx"
    rate = 50  # of all agents here, which come from one address

    def command(self) -> list[str]:
        return [sys.executable, str(EXAMPLES / "fastapi_relay.py"), "--port", str(self.port),
                "--log", str(self.folder / "relay.log"), "--rate", str(self.rate)]  # fmt: skip


KINDS: Final = {kind.__name__: kind for kind in (Nats, Redis, WebSocket, Http)}


class Point:
    """Where a process is killed: around the n-th call of a function."""

    def __init__(self, where: str = "", number: int = 0, when: str = "after") -> None:
        self.arguments = (where, str(number), when)

    def __repr__(self) -> str:
        return f"{self.arguments[2]} call {self.arguments[1]} of {self.arguments[0]}"


class Process:
    """One of the two agents: killed at one point after another, and each time started again."""

    def __init__(
        self, broker: Broker, name: str, folder: Path, *options: str, points: list[Point] | None = None
    ) -> None:
        self.table = folder / f"{name}.rows"
        self.store = folder / f"{name}.mesh"
        key = folder / "key"
        if not key.exists():
            key.write_bytes(bytes(range(32)))
        self._given = [broker.url, "--store", str(self.store), "--key-file", str(key), "--table", str(self.table),
                       *options]  # fmt: skip
        self._example = broker.example
        self._errors = (folder / f"{name}.errors").open("w+")
        self.points = list(points or [])
        self.reached: list[Point] = []
        self._point = Point()
        self._lines: list[dict[str, Any]] = []
        self._start()

    def _start(self) -> None:
        self._point = self.points.pop(0) if self.points else Point()
        self._child = subprocess.Popen(
            [sys.executable, "-c", _KILLED, str(EXAMPLES), self._example, *self._point.arguments, *self._given],
            env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            bufsize=0,
        )

    def look(self) -> int | None:
        """Start it again where it was killed; return what it has ended with otherwise."""
        status = self._child.poll()
        if status == -signal.SIGKILL and self._point.arguments[0]:
            self.reached.append(self._point)
            self._again()
            return None
        return status

    def kill(self) -> None:
        """Kill it wherever it is, and start it again."""
        self._child.kill()
        self._child.wait(10)
        self._again()

    def _again(self) -> None:
        self._read()
        assert self._child.stdout is not None
        self._child.stdout.close()
        self._start()

    def lines(self, event: str) -> list[dict[str, Any]]:
        """Return the lines of one kind that it has printed."""
        self._read()
        return [line for line in self._lines if line["event"] == event]

    def _read(self) -> None:
        assert self._child.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._child.stdout, selectors.EVENT_READ)
            while selector.select(0):
                line = self._child.stdout.readline()
                if not line:
                    return
                self._lines.append(json.loads(line))

    def rows(self) -> list[str]:
        """Return what its application has kept."""
        with contextlib.closing(sqlite3.connect(f"file:{self.table}?mode=ro", uri=True, timeout=10)) as file:
            return [row for (row,) in file.execute("SELECT row FROM done")]

    def said(self) -> str:
        self._errors.flush()
        return Path(self._errors.name).read_text()[-3000:]

    def terminate(self) -> int:
        """Tell it to stop, and return what it ends with."""
        self._child.terminate()
        return self._child.wait(DEADLINE_SECONDS)

    def stop(self) -> None:
        self._child.kill()
        self._child.wait(10)
        assert self._child.stdout is not None
        self._child.stdout.close()
        self._errors.close()


class Pair:
    """A reader, a writer, and the broker between them."""

    def __init__(self, broker: Broker, folder: Path, count: int) -> None:
        self.broker = broker
        self._folder = folder
        self.count = count
        self._processes: list[Process] = []

    def reader(self, *points: Point) -> Process:
        return self._started(Process(self.broker, "reader", self._folder, points=list(points)))

    def writer(self, did: str, *points: Point) -> Process:
        options = ("--peer", did, "--count", str(self.count))
        return self._started(Process(self.broker, "writer", self._folder, *options, points=list(points)))

    def _started(self, process: Process) -> Process:
        self._processes.append(process)
        return process

    def until(self, is_so: Callable[[], bool], what: str) -> None:
        """Wait for a condition, and start again who was killed meanwhile."""

        def look() -> bool:
            for process in self._processes:
                status = process.look()
                assert status in (None, 0), process.said()
            return is_so()

        try:
            until(look, what)
        except AssertionError:
            for process in self._processes:
                sys.stderr.write(f"--- {process.store.name}: {process.reached}\n{process.said()}\n")
            raise

    def stop(self) -> None:
        for process in self._processes:
            process.stop()


@contextlib.contextmanager
def pair(broker: Broker, folder: Path, count: int) -> Iterator[Pair]:
    made = Pair(broker, folder, count)
    try:
        yield made
    finally:
        made.stop()
