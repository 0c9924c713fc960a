"""The programs of the tutorial do what its pages say, as processes of their own, killed and started again."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILE = re.compile(r"^<!-- file: (?P<name>\w+\.py) -->\n\n```python\n(?P<source>.*?)^```$", re.MULTILINE | re.DOTALL)
SQUARES = [f"{number} {number**2}" for number in range(1, 21)]


def save(page: str, folder: Path) -> None:
    """Save the files that a page shows, as a reader would."""
    files = list(FILE.finditer((ROOT / "docs" / page).read_text("utf-8")))
    assert files
    for file in files:
        (folder / file["name"]).write_text(file["source"], "utf-8")


@contextmanager
def running(folder: Path, *command: str) -> Iterator[subprocess.Popen[str]]:
    """Start a program, and kill it at the end: it has no time to tidy up."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
    with subprocess.Popen(
        [sys.executable, *command],
        cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        deadline = threading.Timer(120, process.kill)  # what hangs fails, instead of holding up everything
        deadline.start()
        try:
            yield process
        finally:
            deadline.cancel()
            process.kill()


def line(process: subprocess.Popen[str]) -> str:
    """Return the next line that a program prints; it has ended where there is none."""
    assert process.stdout is not None
    return process.stdout.readline().rstrip("\n")


@pytest.mark.parametrize("command", ["python folder.py serve", "python folder.py ask did:agentmesh:..."])
def test_the_page_says_how_to_start_it(command: str) -> None:
    assert f"```sh\n{command}\n```" in (ROOT / "docs" / "tutorial-broker.md").read_text("utf-8")


def test_two_processes_converse_over_a_folder(tmp_path: Path) -> None:
    save("tutorial-broker.md", tmp_path)
    with running(tmp_path, "folder.py", "serve") as bob, ExitStack() as stack:
        alice = stack.enter_context(running(tmp_path, "folder.py", "ask", line(bob)))
        printed, _ = alice.communicate()
    assert printed.splitlines() == SQUARES
    assert alice.returncode == 0


@pytest.mark.parametrize("killed", ["alice", "bob", "both"])
def test_whoever_is_killed_goes_on_and_nothing_is_lost_or_done_twice(killed: str, tmp_path: Path) -> None:
    save("tutorial-broker.md", tmp_path)
    save("tutorial-crash.md", tmp_path)
    for name in ("alice", "bob"):
        (tmp_path / f"{name}.key").write_bytes(os.urandom(32))
    printed: list[str] = []

    def start(stack: ExitStack, *command: str) -> subprocess.Popen[str]:
        return stack.enter_context(running(tmp_path, "durable.py", *command))

    with ExitStack() as bobs, ExitStack() as alices:
        bob = start(bobs, "bob", "serve")
        did = line(bob)
        alice = start(alices, "alice", "ask", did)
        while said := line(alice):
            printed.append(said)
            if len(printed) not in (3, 7, 12):
                continue
            if killed != "alice":
                bobs.close()
                bob = start(bobs, "bob", "serve")
                assert line(bob) == did
            if killed != "bob":
                assert alice.stdout is not None
                alice.kill()
                printed += alice.stdout.read().splitlines()
                alices.close()
                alice = start(alices, "alice", "ask", did)
        assert alice.wait() == 0
    assert list(dict.fromkeys(printed)) == SQUARES
    assert all(printed.count(said) <= 2 for said in SQUARES)  # a kill may fall between the printing and the commit
