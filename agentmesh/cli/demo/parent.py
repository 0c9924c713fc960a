"""`agentmesh demo [FILE]`: two agents and a blind relay, three processes; a file there, its SHA-256 back.

A file that is larger than a message goes as an attachment, over a folder that stands for a store nobody trusts.
"""

from __future__ import annotations

import argparse
import signal
import stat
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.resources import as_file, files
from pathlib import Path
from types import FrameType
from typing import IO, Any, Final

from attrs import frozen

from agentmesh.cli.command import Commands, add_command, answer
from agentmesh.cli.demo.child import Child, blame
from agentmesh.cli.demo.leaks import Counted, Plaintext, find_leak, plaintext_of
from agentmesh.cli.demo.peers import MESSAGE_MAX_BYTES, intent_of
from agentmesh.cli.demo.report import Reports, Stored, checks, next_steps, page
from agentmesh.cli.streams import overwrite, page_width
from agentmesh.cli.text import WIDTH, Exit, amount, complain, escaped, fail, reason
from agentmesh.primitives._crypto import Sha256Stream

_NAME_MAX: Final = 40
_CHUNK_BYTES: Final = 256 << 10  # what is read at once, and what each has a stretch of that is searched for
_PROGRESS_FROM_BYTES: Final = 16 << 20


def add(commands: Commands) -> None:
    """Add `demo` to the command line."""
    parser = add_command(
        commands, "demo", run,
        what="send a file between two agents over a blind relay, and check what the relay saw",
        description="Start two agents and a blind relay as three processes, send FILE from one agent to the other and "
        "its SHA-256 back, and show what each of the three saw. A FILE larger than a message goes as an attachment, "
        "over a folder for temporary files. Exit status 0 only if all checks pass.",
        example="report.pdf",
    )  # fmt: skip
    parser.add_argument("file", nargs="?", metavar="FILE", help="what to send; a sample if left out")


def run(arguments: argparse.Namespace) -> int:
    """Run the demo and print what it shows; return 0 if every check passed."""
    with ExitStack() as stack:
        stack.enter_context(_ended_by_sigterm())
        if arguments.file is None:
            path = stack.enter_context(as_file(files("agentmesh.cli.demo") / "sample.txt"))
        else:
            path = Path(arguments.file)
        file = _measure(path)
        store = stack.enter_context(tempfile.TemporaryDirectory()) if file.size_bytes > MESSAGE_MAX_BYTES else ""
        reports, pids = _converse(file, store)
    return _show(arguments, reports, pids)


# --- before ----------------------------------------------------------------------------------------------------------


@frozen
class _File:
    """The file to send: what the parent found when it read it."""

    path: Path
    size_bytes: int
    sha256: bytes
    plaintext: Plaintext

    @property
    def name(self) -> str:
        """The file's name as it stands in the KNOCK: the same whatever terminal the demo is started on."""
        return escaped(self.path.name, _NAME_MAX, plain=True)


def _measure(path: Path) -> _File:
    shown = escaped(str(path), 4 * WIDTH)
    sha256 = Sha256Stream()
    size_bytes = 0

    def chunks(file: IO[bytes]) -> Iterator[bytes]:
        nonlocal size_bytes
        while chunk := file.read(_CHUNK_BYTES):
            sha256.update(chunk)
            size_bytes += len(chunk)
            yield chunk

    try:
        # Before it is opened, because opening a named pipe waits for somebody to write.
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            kind = "a directory" if stat.S_ISDIR(status.st_mode) else "not a regular file"
            fail(f"cannot send {shown}: {kind}", Exit.UNREADABLE)
        with path.open("rb") as file:
            plaintext = plaintext_of(chunks(file), status.st_size, _CHUNK_BYTES)
    except OSError as error:
        fail(f"cannot read {shown}: {reason(error)}", Exit.UNREADABLE)
    except ValueError:
        fail(f"cannot read {shown}: not a file name", Exit.UNREADABLE)
    if size_bytes != status.st_size:
        fail(f"cannot send {shown}: it changed while it was read")
    return _File(path, size_bytes, sha256.digest(), plaintext)


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM unwind as Ctrl-C does, so that no child is left."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise SystemExit(Exit.TERMINATED)

    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


# --- meanwhile -------------------------------------------------------------------------------------------------------


def _converse(file: _File, store: str) -> tuple[Reports, dict[str, int]]:
    """Run the three processes to their end; return what they tell, and their process ids.

    `store` is the folder of blobs, empty where none is needed.
    """
    with (
        Child("relay", "agentmesh.cli.demo.relay") as relay,
        Child("Bob", "agentmesh.cli.demo.peers", "receive") as bob,
        Child("Alice", "agentmesh.cli.demo.peers", "send") as alice,
    ):
        children = [relay, bob, alice]

        def hear(child: Child, key: str) -> Any:
            values = child.hear()
            if "error" in values:
                fail(blame(children, child, values))
            return values.get(key)

        port = hear(relay, "port")
        bob.tell(port=port, store=store)
        bob_did = hear(bob, "did")
        alice.tell(port=port, peer=bob_did, store=store, path=str(file.path), name=file.name, size=file.size_bytes)
        alice_did = hear(alice, "did")
        with _progress(file.size_bytes) as show:
            while True:
                values = alice.hear()
                if "sent" not in values:
                    break
                show(values["sent"])
        if "error" in values:
            fail(blame(children, alice, values))
        receiver = hear(bob, "report")
        carried = hear(relay, "report")
        names = (alice_did.encode("ascii"), bob_did.encode("ascii"))
        copy = Counted(relay.bytes_left(_CHUNK_BYTES))
        leak = find_leak(copy, _secrets(file), names)
        reports = Reports(
            name=escaped(file.path.name, _NAME_MAX),
            size_bytes=file.size_bytes,
            sha256=file.sha256.hex(),
            alice=alice_did,
            bob=bob_did,
            sender=values["report"],
            receiver=receiver,
            relay=carried,
            leak=leak,
            searched_bytes=copy.total_bytes,
            searched_for=f"{file.plaintext.describe()} of the file; its intent and its SHA-256",
            store=_stored(store, file) if store else None,
        )
        return reports, {child.name: child.pid for child in children}


def _secrets(file: _File) -> Plaintext:
    """Return all that the two agents say to one another: the file, the intent and the answer."""
    intent = intent_of(file.name, file.size_bytes)
    more = (intent.detail, file.sha256, file.sha256.hex().encode("ascii"))
    return Plaintext((*file.plaintext.stretches, *more), file.plaintext.is_sample)


def _stored(store: str, file: _File) -> Stored:
    """Search all that the store has for plaintext."""

    def pieces() -> Iterator[bytes]:
        for path in sorted(Path(store).iterdir()):
            with path.open("rb") as blob:
                while piece := blob.read(_CHUNK_BYTES):
                    yield piece

    had = Counted(pieces())
    leak = find_leak(had, _secrets(file))
    return Stored(had.total_bytes, leak)


@contextmanager
def _progress(size_bytes: int) -> Iterator[Callable[[int], None]]:
    """Yield what shows a count of bytes on stderr, where somebody watches and it takes long enough."""
    watched = size_bytes >= _PROGRESS_FROM_BYTES and sys.stderr.isatty()

    def show(sent: int) -> None:
        if watched:
            overwrite(f"sealing {sent * 100 // size_bytes:3d} %  {sent:,} of {amount(size_bytes, 'bytes')}")

    try:
        yield show
    finally:
        if watched:
            overwrite("")


# --- afterwards ------------------------------------------------------------------------------------------------------


def _show(arguments: argparse.Namespace, reports: Reports, pids: dict[str, int]) -> int:
    width = page_width()
    results = checks(reports)
    passed = all(check.passed for check in results)
    lines = page(reports, pids, width)
    if passed:
        lines += ["", *next_steps(width)]
    value = {
        "passed": passed,
        "name": reports.name,
        "size_bytes": reports.size_bytes,
        "sha256": reports.sha256,
        "sender": reports.alice,
        "recipient": reports.bob,
        "checks": [{"name": check.name, "passed": check.passed, "found": check.text} for check in results],
    }
    answer(arguments, value, lines)
    sys.stdout.flush()
    if not passed:
        failed = [check.name for check in results if not check.passed]
        complain(f"{amount(len(failed), 'checks')} failed: {', '.join(failed)}")
    return Exit.OK if passed else Exit.FOUND
