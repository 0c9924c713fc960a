"""The demo's relay, a process of its own: it routes envelopes by their outer header, and holds no key and no identity.

All that it knows of an envelope is `OuterEnvelope`. It keeps a copy of every byte that agents sent it, so that its
parent can search them for plaintext. A real relay would keep none.
"""

from __future__ import annotations

import shutil
import socket
import sys
import tempfile
import threading
import time
from collections import deque
from typing import IO, Any, Final

from agentmesh.cli.demo.child import end_with_parent, say, say_error
from agentmesh.cli.demo.frames import Channel, FrameType, frame, listen
from agentmesh.cli.demo.tally import Tally
from agentmesh.envelope import OuterEnvelope
from agentmesh.errors import AgentMeshError

_AGENTS: Final = 2
_IN_MEMORY_BYTES: Final = 8 << 20  # of the copy; what is longer goes to an unnamed temporary file


class Relay:
    """Agents by DID, a shelf of bundles for each, and a tally. One thread serves one connection.

    A thread waits until the recipient has taken an envelope before it reads the next, so nothing piles up here; agents
    bound what they have under way, so two threads never wait for one another.
    """

    def __init__(self, copy: IO[bytes]) -> None:
        self._copy = copy
        self._lock = threading.Condition()
        self._channels: dict[str, Channel] = {}
        self._shelves: dict[str, deque[bytes]] = {}
        self._tally = Tally()
        self._copied_bytes = 0
        self._ended = 0
        self._error: OSError | AgentMeshError | None = None
        self._began_at = time.process_time()

    def serve_all(self, listener: socket.socket) -> None:
        """Serve each connection in a thread of its own, without end."""
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=self.serve, args=(Channel(connection),), daemon=True).start()

    def wait(self) -> dict[str, Any]:
        """Return what was seen, once both agents have come and gone.

        Raises:
            OSError, AgentMeshError: an agent was cut off, and why.
        """
        with self._lock:
            self._lock.wait_for(lambda: self._ended == _AGENTS)
            if self._error is not None:
                raise self._error
            cpu_seconds = time.process_time() - self._began_at
            return {**self._tally.report(), "bytes": self._copied_bytes, "cpu_seconds": cpu_seconds}

    def serve(self, channel: Channel) -> None:
        """Carry what one agent sends, to its end."""
        did = None
        try:
            did = self._greet(channel)
            while did is not None and (received := channel.receive()) is not None:
                self._carry(did, channel, *received)
        except (OSError, AgentMeshError) as error:
            if did is not None:  # a stranger who says no hello is dropped, and that is all
                with self._lock:
                    self._error = self._error or error
        finally:
            if did is not None:
                self._leave(did)
            channel.close()

    def _leave(self, did: str) -> None:
        with self._lock:
            del self._channels[did]
            self._ended += 1
            self._lock.notify()
            others = list(self._channels.values())
        for other in others:
            other.finish()

    def _greet(self, channel: Channel) -> str | None:
        received = channel.receive()
        if received is None or received[0] is not FrameType.HELLO:
            return None
        did = received[1].decode("ascii", "replace")
        with self._lock:
            if did in self._channels or len(self._channels) + self._ended == _AGENTS:
                return None
            self._channels[did] = channel
            self._keep(*received)
        return did

    def _carry(self, did: str, channel: Channel, frame_type: FrameType, payload: bytes) -> None:
        if frame_type is FrameType.ENVELOPE:
            outer = OuterEnvelope.parse(payload)
            header = outer.header
            if header.sender != did:
                raise ConnectionError("an envelope names another sender")
            with self._lock:
                target = self._channels.get(header.recipient)
                data = self._keep(frame_type, payload)
                self._tally.note(_seen(header.kind.name.lower(), payload, did, header.recipient, outer.receipt.hex()))
                self._tally.count(did, outer.receipt, outer.size_bytes)
            if target is None:
                raise ConnectionError("an envelope for nobody here")
            target.send(data)
            return
        with self._lock:
            self._keep(frame_type, payload)
            if frame_type is FrameType.PUBLISH:
                self._shelves.setdefault(did, deque()).append(payload)
                self._tally.note(_seen("bundle", payload, did, "", ""))
                answer = frame(FrameType.STORED, b"")
            elif frame_type is FrameType.FETCH:
                owner = payload.decode("ascii", "replace")
                shelf = self._shelves.get(owner)
                bundle = shelf.popleft() if shelf else b""
                self._tally.note(_seen("bundle", bundle, "", did, ""))
                answer = frame(FrameType.BUNDLE, bundle)
            else:
                raise ConnectionError("not a frame for a relay")
        channel.send(answer)

    def _keep(self, frame_type: FrameType, payload: bytes) -> bytes:
        """Copy a frame as it came, and return its bytes. The caller holds the lock."""
        data = frame(frame_type, payload)
        self._copy.write(data)
        self._copied_bytes += len(data)
        return data


def _seen(kind: str, payload: bytes, sender: str, recipient: str, receipt: str) -> dict[str, Any]:
    return {"kind": kind, "size": len(payload), "from": sender, "to": recipient, "receipt": receipt}


def main() -> int:
    """Serve one demo, then hand over what was seen and every byte that was carried."""
    end_with_parent()
    try:
        with listen() as listener, tempfile.SpooledTemporaryFile(_IN_MEMORY_BYTES) as copy:
            relay = Relay(copy)
            threading.Thread(target=relay.serve_all, args=(listener,), daemon=True).start()
            say(port=listener.getsockname()[1])
            say(report=relay.wait())
            copy.seek(0)
            shutil.copyfileobj(copy, sys.stdout.buffer)
            sys.stdout.buffer.flush()
    except (OSError, AgentMeshError) as error:
        say_error(error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
