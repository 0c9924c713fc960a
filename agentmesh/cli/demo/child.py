"""How the demo starts its processes, speaks with them, and sees that none outlives it.

Each child reads values from its stdin and writes values to its stdout, one JSON object a line. Its stdin stays open as
long as the parent lives: when it ends, so does the child, however the parent went. Children are in a session of their
own, so that Ctrl-C reaches the parent alone, which then ends them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import TracebackType
from typing import IO, Any, Final, NoReturn

from agentmesh.cli.text import fail, reason
from agentmesh.errors import AgentMeshError, StoreFailed

_PATIENCE_SECONDS: Final = 5  # for a child to end by itself once it has nothing left to do
_LAST_WORDS_SECONDS: Final = 1  # for a child to say why it failed


class Child:
    """A process of the demo, from the parent's side; a context manager that leaves no process behind.

    Args:
        name: What to call it when it fails.
        module: The module to run.
        arguments: What it is told on its command line. Never a secret: other users can read it.
    """

    def __init__(self, name: str, module: str, *arguments: str) -> None:
        self.name: str = name
        try:
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module, no shell
                [sys.executable or "python3", "-P", "-m", module, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=_environment(),
                start_new_session=True,
                creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
            )
        except OSError as error:
            fail(f"cannot start another Python process: {reason(error)}")

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        process = self._process
        try:
            if error_type is None:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(_PATIENCE_SECONDS)
        finally:
            # Even while a second Ctrl-C arrives.
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                with suppress(OSError):
                    _open(stream).close()

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    def tell(self, **values: Any) -> None:
        """Send a line of values. A child that has gone is found out when it is heard."""
        stdin = _open(self._process.stdin)
        with suppress(OSError):
            stdin.write(_line(values))
            stdin.flush()

    def hear(self) -> dict[str, Any]:
        """Return the next line of values; one with `error` where the child failed or has gone."""
        line = _open(self._process.stdout).readline()
        if line.endswith(b"\n"):
            values: dict[str, Any] = json.loads(line)
            return values
        return {"error": f"ended with status {self._process.wait()}", "lost": False}

    def bytes_left(self, piece_bytes: int) -> Iterator[bytes]:
        """Yield what the child writes behind its last line, in pieces."""
        stdout = _open(self._process.stdout)
        while piece := stdout.read(piece_bytes):
            yield piece


def blame(children: list[Child], heard: Child, values: dict[str, Any]) -> str:
    """Return why a demo failed of which one child said `values`: the cause, and not what followed from it.

    When one process goes, the others lose their connections and end; so each is heard, for a while, before one is
    blamed.
    """
    last_words = {heard.name: values}
    others = [threading.Thread(target=_hear_out, args=(child, last_words), daemon=True) for child in children]
    for thread in others:
        thread.start()
    for thread in others:
        thread.join(_LAST_WORDS_SECONDS)
    errors = [(name, said) for name, said in list(last_words.items()) if "error" in said]
    causes = [(name, said) for name, said in errors if not said["lost"]]
    name, said = (causes or errors)[0]
    return f"{name}: {said['error']}"


def _hear_out(child: Child, last_words: dict[str, dict[str, Any]]) -> None:
    # The parent may close the stream under this thread, when its patience has ended.
    with suppress(OSError, ValueError):
        while child.name not in last_words:
            values = child.hear()
            if {"error", "report"} & values.keys():
                last_words[child.name] = values


def _environment() -> dict[str, str]:
    # The child is to find this very package, whatever made this process find it.
    path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)
    return {**os.environ, "PYTHONPATH": path}


def _open(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None, "both streams are pipes"
    return stream


def _line(values: dict[str, Any]) -> bytes:
    return json.dumps(values).encode("ascii") + b"\n"


# --- in the child ----------------------------------------------------------------------------------------------------


def told() -> dict[str, Any]:
    """Return the line of values that the parent sent."""
    line = sys.stdin.buffer.readline()
    if not line:
        sys.exit(1)  # the parent has gone
    values: dict[str, Any] = json.loads(line)
    return values


_last_acts: Final[list[Callable[[], None]]] = []  # what this process does where its parent has gone


def end_with_parent(*acts: Callable[[], None]) -> None:
    """End this process as soon as its stdin ends, and do `acts` before. Nothing may read stdin afterwards."""
    _last_acts.extend(acts)

    def wait() -> None:
        # Not by sys.stdin, whose lock a waiting thread would hold while the interpreter shuts down.
        while os.read(0, 64):
            pass
        _end()

    threading.Thread(target=wait, daemon=True).start()


def say(**values: Any) -> None:
    """Send a line of values to the parent; where the parent has gone, end without a word."""
    try:
        sys.stdout.buffer.write(_line(values))
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        _end()


def _end() -> NoReturn:
    """End this process, in whichever thread it was found out first that the parent has gone."""
    for act in _last_acts:
        act()
    os._exit(1)


def say_error(error: OSError | AgentMeshError) -> None:
    """Tell the parent why this child fails, and whether that only follows from another's failure."""
    if isinstance(error, StoreFailed) and isinstance(error.__cause__, OSError):
        error = error.__cause__
    say(error=reason(error), lost=isinstance(error, ConnectionError | TimeoutError))
