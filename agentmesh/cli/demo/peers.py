"""The demo's two agents, each a process of its own: one sends a file in chunks, the other answers with its SHA-256.

Every 8 chunks, and at the end, the receiver sends the SHA-256 of all that has come so far, with the count of its bytes.
The sender compares each with its own, and has at most 16 chunks under way: so memory stays flat, and no process waits
for another that waits for it. Each answer is a turn of the ratchet.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from agentmesh import Conditions, Intent
from agentmesh.cli.demo.child import end_with_parent, say, say_error, told
from agentmesh.cli.demo.frames import connect
from agentmesh.cli.demo.station import Station
from agentmesh.cli.text import short_hex
from agentmesh.errors import AgentMeshError
from agentmesh.events import KnockReceived, MessageReceived, PeerClosed, SessionEstablished
from agentmesh.primitives._crypto import Sha256Stream

CHUNK_BYTES: Final = 256 << 10
CHUNKS_PER_SUM: Final = 8
_SUMS_UNDER_WAY: Final = 2
_COUNT_BYTES: Final = 8

_STORE_FILE: Final = "store-file"
_CHUNK: Final = "chunk"
_END: Final = "end"
_SUM: Final = "sum"


def intent_of(name: str, size_bytes: int) -> Intent:
    """Return what the sender says in its KNOCK; only the receiver reads it."""
    return Intent(
        _STORE_FILE, description=f"{name}, {size_bytes} bytes, in chunks; answer each with its SHA-256 so far"
    )


# --- the sender ------------------------------------------------------------------------------------------------------


class Sender:
    """Alice: knocks, sends the file in chunks, compares what the receiver says has come, closes."""

    def __init__(self, station: Station, peer: str) -> None:
        self._station = station
        self._peer = peer
        self._sha256 = Sha256Stream()
        self._count = 0
        self._under_way: deque[bytes] = deque()

    def run(self, path: str, name: str, size_bytes: int) -> dict[str, Any]:
        """Send the file, and return this side's report.

        Raises:
            OSError: the file cannot be read or has changed, the relay has gone, or the receiver answers wrongly.
            AgentMeshError: an envelope was refused.
        """
        station, agent, peer = self._station, self._station.agent, self._peer
        with open(path, "rb", buffering=0) as file:
            knock = agent.knock(peer, station.fetch(peer), intent_of(name, size_bytes), require_one_time=True)
            station.post(knock, f"knocks: {_STORE_FILE}")
            event, receipt = station.take()
            if not isinstance(event, SessionEstablished):
                raise OSError("the receiver did not accept the KNOCK")
            station.note(receipt, "session open")
            began_at = time.perf_counter()
            number = 0
            while piece := file.read(CHUNK_BYTES):
                number += 1
                self._send(piece, number)
        if self._count != size_bytes:
            raise OSError("the file changed while it was sent")
        station.post(agent.send(peer, b"", action=_END), "end of file")
        self._expect_sum()
        while self._under_way:
            self._take_sum()
        seconds = time.perf_counter() - began_at
        station.post(agent.close(peer, "done"), f"closes: {number + 1:,} sent")
        event, receipt = station.take()
        if not isinstance(event, PeerClosed):
            raise OSError("the receiver did not close the session")
        station.note(receipt, f"closed: {sum(map(len, event.missing))} missing")
        sha256 = self._sha256.digest().hex()
        return station.report(peer, knock.session_id, bytes=self._count, sha256=sha256, seconds=seconds)

    def _send(self, piece: bytes, number: int) -> None:
        self._sha256.update(piece)
        self._count += len(piece)
        self._station.post(
            self._station.agent.send(self._peer, piece, action=_CHUNK), f"chunk {number}: {len(piece):,} B"
        )
        if number % CHUNKS_PER_SUM == 0:
            self._expect_sum()
            while len(self._under_way) >= _SUMS_UNDER_WAY:
                self._take_sum()
            say(sent=self._count)

    def _expect_sum(self) -> None:
        self._under_way.append(_sum_of(self._count, self._sha256))

    def _take_sum(self) -> None:
        event, receipt = self._station.take()
        if not isinstance(event, MessageReceived) or event.action != _SUM:
            raise OSError("the receiver sent something else than a SHA-256")
        self._station.note(receipt, _shown(event.plaintext))
        if event.plaintext != self._under_way.popleft():
            raise OSError("other bytes arrived than were sent")


# --- the receiver ----------------------------------------------------------------------------------------------------


class Receiver:
    """Bob: publishes a bundle, accepts one KNOCK, answers chunks with the SHA-256 so far, closes when the peer does."""

    def __init__(self, station: Station) -> None:
        self._station = station
        self._sha256 = Sha256Stream()
        self._count = 0

    def run(self) -> dict[str, Any]:
        """Receive one file, and return this side's report.

        Raises:
            OSError: the relay has gone, or the sender does not keep to the demo.
            AgentMeshError: an envelope was refused.
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
        accepted = agent.accept(event, Conditions(allowed_actions=(_CHUNK, _END, _SUM)))
        station.post(accepted, "accepts: 3 actions")
        number = 0
        while True:
            event, receipt = station.take()
            if isinstance(event, PeerClosed):
                break
            if not isinstance(event, MessageReceived):
                raise OSError("the sender sent something else than a chunk")
            if event.action == _CHUNK:
                number += 1
                self._sha256.update(event.plaintext)
                self._count += len(event.plaintext)
                station.note(receipt, f"chunk {number}: {len(event.plaintext):,} B")
            else:
                station.note(receipt, "end of file")
            if event.action == _END or number % CHUNKS_PER_SUM == 0:
                answer = _sum_of(self._count, self._sha256)
                station.post(agent.send(peer, answer, action=_SUM), _shown(answer))
        station.note(receipt, f"closed: {sum(map(len, event.missing))} missing")
        if event.reply is not None:
            station.post(event.reply, f"closes: {agent.session(peer, accepted.session_id).status.data_sent:,} sent")
        return station.report(peer, accepted.session_id, bytes=self._count, sha256=self._sha256.digest().hex())


def _sum_of(count: int, sha256: Sha256Stream) -> bytes:
    return count.to_bytes(_COUNT_BYTES, "big") + sha256.digest()


def _shown(answer: bytes) -> str:
    return f"SHA-256 {short_hex(answer[_COUNT_BYTES:].hex())}"


# --- processes -------------------------------------------------------------------------------------------------------


def _send() -> dict[str, Any]:
    values = told()
    end_with_parent()
    station = Station(connect(values["port"]))
    say(did=station.agent.did)
    return Sender(station, values["peer"]).run(values["path"], values["name"], values["size"])


def _receive() -> dict[str, Any]:
    values = told()
    end_with_parent()
    station = Station(connect(values["port"]))
    station.publish(station.agent.publish_bundles(1, last_resort=False).one_time[0])
    say(did=station.agent.did)
    return Receiver(station).run()


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
