"""Processes of others: AGT's servers, and workers that answer JSON lines. Nothing here waits without a bound."""

from __future__ import annotations

import collections
import contextlib
import json
import re
import select
import subprocess
import threading
from pathlib import Path
from typing import Any

STARTING_SECONDS = 30
ANSWER_SECONDS = 60


class Process:
    """A child process. What it says on its standard error is kept for the message of a failure: the last lines."""

    def __init__(self, command: list[str], variables: dict[str, str]) -> None:
        self._command, self._variables = command, variables
        self._begin()

    def _begin(self) -> None:
        self._said: collections.deque[str] = collections.deque(maxlen=40)
        pipe = subprocess.PIPE
        self._child = subprocess.Popen(
            self._command,
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            text=True,
            bufsize=1,
            env=self._variables,
            cwd="/",  # because `python -m` looks in the working folder first, where our own package may be
        )
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        for line in self._child.stderr or ():
            self._said.append(line)
            self._heard(line)
        self._heard("")

    def _heard(self, line: str) -> None:
        """Take a line of its standard error; an empty one is the end."""

    @property
    def said(self) -> str:
        return "".join(self._said)

    def stop(self, *, kill: bool = False) -> None:
        """End it, as an operator would or, with `kill`, as a fault would. Once more does nothing."""
        child = self._child
        if child.poll() is None:
            (child.kill if kill else child.terminate)()
        try:
            child.wait(10)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait(10)
        self._listener.join(10)
        for pipe in (child.stdin, child.stdout, child.stderr):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


class Worker(Process):
    """A script that answers each line of JSON with one."""

    def ask(self, do: str, *, seconds: float = ANSWER_SECONDS, **arguments: Any) -> Any:
        """Return the answer to a request.

        Raises:
            AssertionError: it answered with an error, not in time, or not at all.
        """
        stdin, stdout = self._child.stdin, self._child.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(json.dumps({"do": do, **arguments}) + "\n")
        answers, _, _ = select.select([stdout], [], [], seconds)
        line = stdout.readline() if answers else ""
        assert line, f"{do}: no answer within {seconds} s\n{self.said}"
        answer = json.loads(line)
        if isinstance(answer, dict):
            assert "error" not in answer, f"{do}: {answer['error']}\n{self.said}"
        return answer


# Their own code under another clock: ahead by the seconds that a file says.
_AHEAD = """
import datetime, pathlib, sys
import agentmesh.relay.app as app
from agentmesh.relay.__main__ import main
file, now = pathlib.Path(sys.argv.pop()), app._utcnow
app._utcnow = lambda: now() + datetime.timedelta(seconds=float(file.read_text()))
main()
"""


class Server(Process):
    """AGT's registry or relay on a loopback port that the system chose, which a restart keeps.

    Args:
        program: The Python of AGT's environment.
        kind: "registry" or "relay".
        variables: Of its process.
        proofs: False turns the relay's demand for proofs of possession off.
        token: What the relay wants in the first frame of a connection.
        clock: A file for the clock of a relay that `advance` sets forward.
    """

    def __init__(
        self,
        program: str,
        kind: str,
        variables: dict[str, str],
        *,
        proofs: bool = True,
        token: str | None = None,
        clock: Path | None = None,
    ) -> None:
        variables = {**variables, "HOST": "127.0.0.1", "PORT": "0", "LOG_LEVEL": "info", "PYTHONUNBUFFERED": "1"}
        if not proofs:
            variables["AGENTMESH_RELAY_ALLOW_UNAUTHED_DID"] = "1"
        if token is not None:
            variables["AGENTMESH_RELAY_TOKEN"] = token
        command = [program, "-m", f"agentmesh.{kind}"]
        self._clock, self._ahead_seconds = clock, 0
        if clock is not None:
            self.advance(0)
            command[1:] = ["-c", _AHEAD, str(clock)]
        self._kind, self._port = kind, 0
        super().__init__(command, variables)
        self._wait()

    def _begin(self) -> None:
        self._listens = threading.Event()
        super()._begin()

    def _heard(self, line: str) -> None:
        if found := re.search(r"running on http://127\.0\.0\.1:(\d+)", line):
            self._port = int(found[1])
        if found or not line:
            self._listens.set()

    def _wait(self) -> None:
        up = self._listens.wait(STARTING_SECONDS) and self._child.poll() is None
        if not up:
            self.stop(kill=True)
        assert up, f"AGT's {self._kind} does not start\n{self.said}"

    @property
    def url(self) -> str:
        scheme, path = ("ws", "/ws") if self._kind == "relay" else ("http", "")
        return f"{scheme}://127.0.0.1:{self._port}{path}"

    def advance(self, seconds: int) -> None:
        """Set the relay's clock forward."""
        assert self._clock is not None
        self._ahead_seconds += seconds
        new = self._clock.with_suffix(".new")
        new.write_text(str(self._ahead_seconds))
        new.replace(self._clock)

    def restart(self) -> None:
        """Start it again on the same port, after `stop`: it has kept nothing."""
        self._variables["PORT"] = str(self._port)
        self._begin()
        self._wait()
