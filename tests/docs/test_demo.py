"""`python -m agentmesh demo` as a newcomer runs it: real processes, from another folder, with files of every size.

That every process has gone is seen by its stderr: all of them share the pipe that the test reads, and it ends only when
the last of them has.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

import agentmesh
from agentmesh.cli import main
from agentmesh.cli.demo import child, parent
from agentmesh.cli.demo.peers import MESSAGE_MAX_BYTES
from agentmesh.cli.text import WIDTH

PACKAGE = Path(agentmesh.__file__).resolve().parent
SAMPLE = PACKAGE / "cli" / "demo" / "sample.txt"
TIMEOUT_SECONDS = 60  # only so that a hang fails; a run takes less than one
COMMAND = ("-m", "agentmesh", "demo")
MEGABYTES = 3_000_000


class Run(NamedTuple):
    status: int
    out: str
    err: str


class Place:
    """A folder to run in that is not the project's, and one for temporary files, which must stay empty."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._temporary = folder / "temporary"
        self._temporary.mkdir()

    def run(self, *arguments: str) -> Run:
        temporary = dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(self._temporary))
        process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=self.folder,
            env={**os.environ, **temporary, "COLUMNS": str(WIDTH), "PYTHONPATH": str(PACKAGE.parent)},
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="ascii",
        )
        try:
            out, err = process.communicate(timeout=TIMEOUT_SECONDS)
        finally:
            process.kill()
        assert list(self._temporary.iterdir()) == []
        return Run(process.returncode, out, err)

    def file(self, data: bytes) -> str:
        (self.folder / "file").write_bytes(data)
        return "file"


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def assert_all_is_well(run: Run, size_bytes: int) -> None:
    assert (run.status, run.err) == (0, "")
    assert all(len(line) <= WIDTH for line in run.out.splitlines())
    checks = ["bytes", "blind", "receipts", "peers", "session"]
    if size_bytes > MESSAGE_MAX_BYTES:
        checks.append("store")
        assert "\nstore  a folder, trusted with nothing" in run.out
    assert re.findall(r"^ok    (\w+)", run.out, re.MULTILINE) == checks
    assert f" {size_bytes:,} byte{'s' if size_bytes != 1 else ''} arrived unchanged" in run.out
    assert re.search(r"^session closed +\d+ envelopes.* session closed$", run.out, re.MULTILINE)
    assert re.search(r" MB/s$", run.out, re.MULTILINE)
    processes = {int(number) for number in re.findall(r"process (\d+):", run.out)}
    assert len(processes) == 3


def test_without_a_file_the_demo_sends_the_sample(place: Place) -> None:
    run = place.run(*COMMAND)
    assert_all_is_well(run, SAMPLE.stat().st_size)
    assert run.out.startswith("sample.txt, ")
    # The table tells sizes, names and receipts; of the text it shows nothing.
    assert not any(line in run.out for line in SAMPLE.read_text(encoding="ascii").splitlines() if line)


@pytest.mark.parametrize("size", [0, 1, MEGABYTES])
def test_a_file_of_any_size_arrives(place: Place, size: int) -> None:
    assert_all_is_well(place.run(*COMMAND, place.file(os.urandom(size))), size)


def test_a_missing_file_is_named_in_one_line(place: Place) -> None:
    assert place.run(*COMMAND, "none") == Run(3, "", "agentmesh: cannot read none: No such file or directory\n")


def test_the_demo_leaves_no_child_and_no_zombie(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if not hasattr(os, "waitpid") or not hasattr(os, "WNOHANG"):
        pytest.skip("this system cannot wait for a child by its number")
    started = []

    class Remembered(child.Child):
        def __init__(self, *arguments: str) -> None:
            super().__init__(*arguments)
            started.append(self.pid)

    monkeypatch.setattr(parent, "Child", Remembered)
    assert main.main(["demo"]) == 0
    assert "FAIL" not in capsys.readouterr().out
    assert len(started) == 3
    for number in started:
        with pytest.raises(ChildProcessError):  # neither running nor waiting to be waited for
            os.waitpid(number, os.WNOHANG)


# --- when it is stopped, or goes wrong -------------------------------------------------------------------------------

# Runs the demo and sends a signal: to its parent while the file is under way, to another before Alice knows of Bob.
MEDDLE = """
import os, signal, sys
from agentmesh.cli import main
from agentmesh.cli.demo import parent

victim, number, file = sys.argv[1:]
children = {}
# A shell's `&` lets SIGINT be ignored, and whatever is started below inherits it.
signal.signal(signal.SIGINT, signal.default_int_handler)
PARENT = {"parent": os.getpid(), "group": 0}  # as `kill` does it, and as Ctrl-C in a terminal does

class Meddled(parent.Child):
    def __init__(self, name, *arguments):
        super().__init__(name, *arguments)
        children[name] = self.pid

    def hear(self):
        values = super().hear()
        if self.name == "Bob" and "did" in values and victim in children:
            os.kill(children[victim], int(number))
        if self.name == "Alice" and "sent" in values and victim in PARENT:
            os.kill(PARENT[victim], int(number))
        return values

parent.Child = Meddled
sys.exit(main.main(["demo", file]))
"""

# Alice as a traitor: besides sealing the file she puts a piece of it on the relay's shelf, in clear.
LEAK = """
import subprocess, sys
from agentmesh.cli import main
from agentmesh.cli.demo import child, parent

start = subprocess.Popen

def betrayed(command, **how):
    if command[-1] == "send":
        command = [command[0], "-c", TRAITOR, *command[-1:]]
    return start(command, **how)

TRAITOR = '''
import sys
from agentmesh.cli.demo import peers

send = peers.Sender._send

def leaky(sender, path, size_bytes):
    with open(path, "rb") as file:
        sender._station.publish(file.read()[100:120])
    send(sender, path, size_bytes)

peers.Sender._send = leaky
sys.exit(peers.main(sys.argv[1]))
'''

subprocess.Popen = betrayed
sys.exit(main.main(["demo", sys.argv[1]]))
"""

needs_posix = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX are needed to stop a process so")


@needs_posix
@pytest.mark.parametrize(
    ("victim", "name", "status", "err"),
    [
        ("group", "SIGINT", 130, "agentmesh: interrupted\n"),
        ("parent", "SIGTERM", 128 + signal.SIGTERM, ""),
        ("parent", "SIGKILL", -9, ""),
    ],
)
def test_however_the_demo_is_stopped_its_processes_go_with_it(
    place: Place, victim: str, name: str, status: int, err: str
) -> None:
    number = getattr(signal, name)
    run = place.run("-c", MEDDLE, victim, str(int(number)), place.file(os.urandom(MEGABYTES)))
    assert run == Run(status, "", err)


@needs_posix
def test_what_this_test_run_ignores_does_not_keep_the_demo_from_stopping(place: Place) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        run = place.run("-c", MEDDLE, "group", str(int(signal.SIGINT)), place.file(os.urandom(MEGABYTES)))
    finally:
        signal.signal(signal.SIGINT, before)
    assert run == Run(130, "", "agentmesh: interrupted\n")


@needs_posix
@pytest.mark.parametrize("victim", ["Alice", "relay", "Bob"])
def test_a_process_that_dies_is_named(place: Place, victim: str) -> None:
    run = place.run("-c", MEDDLE, victim, "9", place.file(b"any"))
    assert run == Run(1, "", f"agentmesh: {victim}: ended with status -9\n")


def test_a_relay_that_carried_plaintext_is_found_out(place: Place) -> None:
    run = place.run("-c", LEAK, place.file(os.urandom(1000)))
    assert (run.status, run.err) == (6, "agentmesh: 1 check failed: blind\n")
    assert "\nFAIL  blind     the relay carried plaintext, at byte " in run.out
