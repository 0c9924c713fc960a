"""The command line as a process: with streams missing or broken, without modules, and stopped at any moment."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import agentmesh
from agentmesh import Agent
from agentmesh.audit import AuditLog
from agentmesh.cli.text import Exit
from agentmesh.relay import relay_record
from agentmesh.store import LogFile
from agentmesh.testing import established_pair

PACKAGE = Path(agentmesh.__file__).resolve().parent
needs_posix = pytest.mark.skipif(os.name != "posix", reason="the shell and the signals of POSIX are needed")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a bundle, a log, and what must not be written to."""
    folder = tmp_path_factory.mktemp("process")
    bundle = Agent.create("example/test").publish_bundles(1).one_time[0]
    (folder / "bundle").write_bytes(bundle)
    pair = established_pair(1)
    outer = agentmesh.OuterEnvelope.parse(pair.alice.send(pair.bob.did, b"x").envelope)
    with LogFile(folder / "log", fsync_every=None) as sink:
        AuditLog(sink).append([relay_record(outer, at_ms=1)] * 10_000)
    return folder


def shell(folder: Path, line: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a line of shell in which $agentmesh is the command; what it leaves open of stdout and stderr is returned."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    path = os.pathsep.join(filter(None, (environment.pop("PYTHONPATH", ""), str(PACKAGE.parent))))
    return subprocess.run(
        ["sh", "-c", line.replace("$agentmesh", f"'{sys.executable}' -m agentmesh")],
        cwd=folder,
        env={**kept, **environment, "PYTHONPATH": path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


# --- streams ---------------------------------------------------------------------------------------------------------


@needs_posix
@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("$agentmesh --help >&-", Exit.OK),
        ("$agentmesh inspect bundle >&-", Exit.OK),
        ("$agentmesh inspect bundle >&- 2>&- <&-", Exit.OK),
        ("$agentmesh inspect - <bundle 2>&-", Exit.OK),
        ("$agentmesh demo >&- 2>&- <&-", Exit.OK),
        ("$agentmesh audit verify log 2>&-", Exit.OK),
        ("$agentmesh audit verify log --progress >&- 2>&-", Exit.OK),
        ("$agentmesh audit verify log --progress 2</dev/null", Exit.OK),  # opened for reading
        ("$agentmesh inspect none 2>&-", Exit.UNREADABLE),
        ("$agentmesh inspect none 2</dev/null", Exit.UNREADABLE),
        ("$agentmesh inspect 2>&-", Exit.USAGE),
    ],
)
def test_a_missing_stream_is_the_null_device(folder: Path, line: str, status: Exit) -> None:
    done = shell(folder, line)
    assert (done.returncode, done.stderr) == (status, "")


@needs_posix
def test_a_stream_that_was_filled_in_is_not_complained_of_at_exit(folder: Path) -> None:
    done = shell(folder, "$agentmesh inspect bundle <&-", PYTHONDEVMODE="1")
    assert (done.returncode, done.stderr) == (Exit.OK, "")


@needs_posix
@pytest.mark.parametrize(
    ("line", "status", "said"),
    [
        ("$agentmesh inspect - <&-", Exit.MALFORMED, "wire.malformed"),  # nothing is no envelope
        ("$agentmesh inspect - 0>written", Exit.UNREADABLE, "cannot read -: "),  # opened for writing
        ("$agentmesh inspect bundle 1</dev/null", Exit.FAILED, "cannot write: "),
        ("$agentmesh --help 1</dev/null", Exit.FAILED, "cannot write: "),
        ("$agentmesh audit verify log 1</dev/null", Exit.FAILED, "cannot write: "),
    ],
)
def test_what_a_stream_cannot_do_is_said_in_one_line(folder: Path, line: str, status: Exit, said: str) -> None:
    done = shell(folder, line)
    assert (done.returncode, done.stdout) == (status, "")
    assert done.stderr.startswith("agentmesh: ")
    assert done.stderr.count("\n") == 1
    assert said in done.stderr


@needs_posix
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no device that is full")
def test_a_full_device_fails_what_was_asked_for_and_nothing_else(folder: Path) -> None:
    for line in ("$agentmesh inspect bundle >/dev/full", "$agentmesh --version >/dev/full"):
        done = shell(folder, line)
        assert (done.returncode, done.stderr) == (Exit.FAILED, "agentmesh: cannot write: No space left on device\n")
    assert shell(folder, "$agentmesh audit verify log --progress 2>/dev/full").returncode == Exit.OK
    assert shell(folder, "$agentmesh inspect none 2>/dev/full").returncode == Exit.UNREADABLE


@needs_posix
def test_no_file_takes_the_place_of_a_missing_stream(folder: Path) -> None:
    """Else what is said on stderr would be written into the log that was opened in its place."""
    look = "import os; from agentmesh.cli.streams import *; fill_missing_streams(); os._exit(os.open('log', 0))"
    done = shell(folder, f"'{sys.executable}' -c \"{look}\" <&- >&- 2>&-")
    assert done.returncode > 2


# --- modules ---------------------------------------------------------------------------------------------------------

# A customisation of the site takes them away, in the demo's own processes too.
WITHOUT = """
import sys
for name in ("fcntl", "grp", "pwd", "resource", "syslog", "termios"):
    sys.modules[name] = None
"""


@needs_posix
def test_demo_and_inspect_run_without_the_modules_of_one_system(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(WITHOUT)
    for line in ("$agentmesh --help", "$agentmesh demo", "$agentmesh inspect bundle"):
        done = shell(folder, line, PYTHONPATH=str(tmp_path))
        assert (done.returncode, done.stderr) == (Exit.OK, "")
    done = shell(folder, "$agentmesh audit verify log", PYTHONPATH=str(tmp_path))
    assert "Traceback" not in done.stderr


# --- Ctrl-C ----------------------------------------------------------------------------------------------------------

# Sends SIGINT to its own process when a certain module is about to be imported.
INTERRUPT = """
import os, signal, sys

def interrupt(event, arguments):
    if event == "import" and arguments[0] == os.environ["INTERRUPTED_AT"]:
        os.kill(os.getpid(), signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)
sys.addaudithook(interrupt)
"""


@needs_posix
@pytest.mark.parametrize(
    "module",
    ["agentmesh.agent", "attr", "cryptography", "nacl", "agentmesh.limits", "agentmesh.cli.main", "argparse",
     "agentmesh.cli.demo", "agentmesh.audit.exports"],
)  # fmt: skip
def test_ctrl_c_while_the_command_starts_leaves_no_traceback(folder: Path, module: str, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(INTERRUPT)
    done = shell(folder, "$agentmesh inspect bundle", PYTHONPATH=str(tmp_path), INTERRUPTED_AT=module)
    assert (done.returncode, done.stdout) == (Exit.INTERRUPTED, "")
    assert done.stderr in {"", "agentmesh: interrupted\n"}


@needs_posix
def test_a_library_that_is_imported_passes_ctrl_c_on(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(INTERRUPT)
    line = f"'{sys.executable}' -c 'import agentmesh'"
    done = shell(folder, line, PYTHONPATH=str(tmp_path), INTERRUPTED_AT="agentmesh.limits")
    assert done.returncode in {-signal.SIGINT, 128 + signal.SIGINT}
    assert "KeyboardInterrupt" in done.stderr
