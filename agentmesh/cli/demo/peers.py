"""The demo's two agents, each a process of its own: one sends a file, the other answers with its SHA-256.

A file that fits into a message goes in one. A larger one is sealed into a blob, which is put into a folder that stands
for a store that nobody trusts; the message names it, and the receiver reads it there, verified chunk by chunk.
"""

from __future__ import annotations

import io
import os
import shutil
import sys
import time
from collections.abc import Callable
from typing import Any, Final, Protocol

from agentmesh import Conditions, Intent, Limits
from agentmesh.attachments import Attachment
from agentmesh.cli.demo.child import end_with_parent, say, say_error, told
from agentmesh.cli.demo.frames import connect
from agentmesh.cli.demo.station import Station
from agentmesh.cli.text import short_hex
from agentmesh.errors import AgentMeshError
from agentmesh.events import KnockReceived, MessageReceived, PeerClosed, SessionEstablished
from agentmesh.outgoing import Outgoing
from agentmesh.primitives._crypto import Sha256Stream
from agentmesh.store import open_file, seal_file

MESSAGE_MAX_BYTES: Final = Limits().plaintext_max_bytes
_PIECE_BYTES: Final = 1 << 20
_THREADS: Final = 2
_COUNT_BYTES: Final = 8
_REMOVALS_MAX: Final = 1000

_STORE_FILE: Final = "store-file"
_FILE: Final = "file"
_SUM: Final = "sum"


def intent_of(name: str, size_bytes: int) -> Intent:
    """Return what the sender says in its KNOCK; only the receiver reads it."""
    return Intent(_STORE_FILE, description=f"{name}, {size_bytes} bytes; answer it with its SHA-256")


# --- the sender ------------------------------------------------------------------------------------------------------


class Sender:
    """Alice: knocks, sends the file, compares what the receiver says has come, closes.

    Args:
        station: Her agent, and its connection.
        peer: The receiver's DID.
        store: The folder of blobs; it is not used where the file fits into a message.
    """

    def __init__(self, station: Station, peer: str, store: str) -> None:
        self._station = station
        self._peer = peer
        self._store = store
        self._blob: list[Any] = []

    def run(self, path: str, name: str, size_bytes: int) -> dict[str, Any]:
        """Send the file, and return this side's report.

        Raises:
            OSError: the file cannot be read or has changed, the relay has gone, or the receiver answers wrongly.
            AgentMeshError: an envelope was refused, or the file cannot be sealed.
        """
        station, agent, peer = self._station, self._station.agent, self._peer
        with open(path, "rb", buffering=0) as file:
            answer = _sum_of(file)
        if _parts(answer)["bytes"] != size_bytes:
            raise OSError("the file changed while it was sent")
        knock = agent.knock(peer, station.fetch(peer), intent_of(name, size_bytes), require_one_time=True)
        station.post(knock, f"knocks: {_STORE_FILE}")
        event, receipt = station.take()
        if not isinstance(event, SessionEstablished):
            raise OSError("the receiver did not accept the KNOCK")
        station.note(receipt, "session open")
        began_at = time.perf_counter()
        self._send(path, size_bytes)
        self._take_sum(answer)
        seconds = time.perf_counter() - began_at
        station.post(agent.close(peer, "done"), "closes: 1 sent")
        event, receipt = station.take()
        if not isinstance(event, PeerClosed):
            raise OSError("the receiver did not close the session")
        station.note(receipt, f"closed: {sum(map(len, event.missing))} missing")
        return station.report(peer, knock.session_id, **_parts(answer), blob=self._blob, seconds=seconds)

    def _send(self, path: str, size_bytes: int) -> None:
        if size_bytes > MESSAGE_MAX_BYTES:
            self._station.post(self._named(path), "names a blob")
            return
        with open(path, "rb", buffering=0) as file:
            data = file.read(MESSAGE_MAX_BYTES)
        self._station.post(self._station.agent.send(self._peer, data, action=_FILE), f"file: {size_bytes:,} B")

    def _named(self, path: str) -> Outgoing:
        """Seal the file onto the store, and return the message that names it."""
        upload = os.path.join(self._store, "upload")
        attachment = seal_file(path, upload, name="", threads=_THREADS, progress=lambda done, _: say(sent=done))
        os.rename(upload, os.path.join(self._store, attachment.blob_id.hex()))
        self._blob = _blob_of(attachment)
        return self._station.agent.send(self._peer, b"", action=_FILE, attachments=[attachment])

    def _take_sum(self, expected: bytes) -> None:
        event, receipt = self._station.take()
        if not isinstance(event, MessageReceived) or event.action != _SUM:
            raise OSError("the receiver sent something else than a SHA-256")
        self._station.note(receipt, _shown(event.plaintext))
        if event.plaintext != expected:
            raise OSError("other bytes arrived than were sent")


# --- the receiver ----------------------------------------------------------------------------------------------------


class Receiver:
    """Bob: publishes a bundle, accepts one KNOCK, answers the file with its SHA-256, closes when the peer does.

    Args:
        station: His agent, and its connection.
        store: The folder of blobs. Which one of them he reads is told by its reference, and no path that a peer chose.
    """

    def __init__(self, station: Station, store: str) -> None:
        self._station = station
        self._store = store
        self._blob: list[Any] = []

    def run(self) -> dict[str, Any]:
        """Receive one file, and return this side's report.

        Raises:
            OSError: the relay has gone, or the sender does not keep to the demo.
            AgentMeshError: an envelope was refused, or a chunk of the blob.
        """
        station, agent = self._station, self._station.agent
        event, receipt = station.take()
        if not isinstance(event, KnockReceived):
            raise OSError("the first envelope is no KNOCK")
        station.note(receipt, f"knock: {event.intent.action}")
        peer = event.peer.did
        if event.intent.action != _STORE_FILE:
            station.post(agent.reject(event), "rejects")
            raise OSError("the KNOCK asks for something else than this demo does")
        accepted = agent.accept(event, Conditions(allowed_actions=(_FILE, _SUM)))
        station.post(accepted, "accepts: 2 actions")
        event, receipt = station.take()
        if not isinstance(event, MessageReceived):
            raise OSError("the sender sent something else than a file")
        answer = self._taken(event, receipt)
        station.post(agent.send(peer, answer, action=_SUM), _shown(answer))
        event, receipt = station.take()
        if not isinstance(event, PeerClosed):
            raise OSError("the sender did not close the session")
        station.note(receipt, f"closed: {sum(map(len, event.missing))} missing")
        if event.reply is not None:
            station.post(event.reply, f"closes: {agent.session(peer, accepted.session_id).status.data_sent:,} sent")
        return station.report(peer, accepted.session_id, **_parts(answer), blob=self._blob)

    def _taken(self, event: MessageReceived, receipt: str) -> bytes:
        """Return the answer to a message that holds a file, or names one."""
        if not event.attachments:
            self._station.note(receipt, f"file: {len(event.plaintext):,} B")
            return _sum_of(io.BytesIO(event.plaintext))
        attachment = event.attachments[0]
        if not isinstance(attachment, Attachment):
            raise OSError("the sender named something else than a file")
        self._blob = _blob_of(attachment)
        self._station.note(receipt, f"opens {attachment.chunks:,} chunks")
        with open_file(attachment, os.path.join(self._store, attachment.blob_id.hex())) as file:
            return _sum_of(file)


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes | None: ...


def _sum_of(file: _Readable) -> bytes:
    """Return the count of the bytes of a file, and their SHA-256."""
    sha256, count = Sha256Stream(), 0
    while piece := file.read(_PIECE_BYTES):
        sha256.update(piece)
        count += len(piece)
    return count.to_bytes(_COUNT_BYTES, "big") + sha256.digest()


def _parts(answer: bytes) -> dict[str, Any]:
    return {"bytes": int.from_bytes(answer[:_COUNT_BYTES], "big"), "sha256": answer[_COUNT_BYTES:].hex()}


def _shown(answer: bytes) -> str:
    return f"SHA-256 {short_hex(answer[_COUNT_BYTES:].hex())}"


def _blob_of(attachment: Attachment) -> list[Any]:
    """Return what both sides must say of a blob: what anybody who has it can compute, and no more."""
    return [attachment.receipt.hex(), attachment.blob_bytes]


# --- processes -------------------------------------------------------------------------------------------------------


def _send() -> dict[str, Any]:
    values = told()
    end_with_parent(lambda: _remove(values["store"]))
    station = Station(connect(values["port"]))
    say(did=station.agent.did)
    return Sender(station, values["peer"], values["store"]).run(values["path"], values["name"], values["size"])


def _receive() -> dict[str, Any]:
    values = told()
    end_with_parent(lambda: _remove(values["store"]))
    station = Station(connect(values["port"]))
    station.publish(station.agent.publish_bundles(1, last_resort=False).one_time[0])
    say(did=station.agent.did)
    return Receiver(station, values["store"]).run()


def _remove(store: str) -> None:
    """Remove the folder of blobs, which its maker has gone from; the other agent may be writing to it still."""
    for _ in range(_REMOVALS_MAX):
        shutil.rmtree(store, ignore_errors=True)
        if not os.path.lexists(store):
            break


ROLES: Final[dict[str, Callable[[], dict[str, Any]]]] = {"send": _send, "receive": _receive}


def main(role: str) -> int:
    """Run one agent and report to the parent."""
    try:
        report = ROLES[role]()
    except (OSError, AgentMeshError) as error:
        say_error(error)
        return 1
    say(report=report)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
