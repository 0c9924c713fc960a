"""What the demo's processes say to one another through the relay: frames on a loopback connection.

A frame is its type (1 byte), the length of its payload (4 bytes, big-endian) and the payload.
"""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from enum import IntEnum
from typing import Final

from agentmesh.limits import Limits

HEAD_BYTES: Final = 5
PAYLOAD_MAX_BYTES: Final = Limits().envelope_max_bytes
# Nothing in a demo takes a minute: a connection that is silent for so long is dead, and waiting on would hang.
_SILENCE_SECONDS: Final = 60
_LOOPBACK: Final = "127.0.0.1"


class FrameType(IntEnum):
    """What a payload is."""

    HELLO = 1  # agent to relay: its DID
    PUBLISH = 2  # agent to relay: one of its bundles, for the shelf
    STORED = 3  # relay to agent: the bundle is on the shelf; empty
    FETCH = 4  # agent to relay: the DID of the agent whose bundle it wants
    BUNDLE = 5  # relay to agent: a bundle, or nothing where the shelf is empty
    ENVELOPE = 6  # both ways


_TYPES: Final = {int(frame_type): frame_type for frame_type in FrameType}


def frame(frame_type: FrameType, payload: bytes) -> bytes:
    """Return the bytes of a frame."""
    return bytes((frame_type,)) + len(payload).to_bytes(4, "big") + payload


class Channel:
    """Frames over one connected socket. One thread may receive; several may send."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(_SILENCE_SECONDS)
        if connection.family in (socket.AF_INET, socket.AF_INET6):
            # Each frame is written whole, so waiting to fill a packet would only delay answers.
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connection = connection
        self._sending = threading.Lock()
        self._reader = connection.makefile("rb", buffering=1 << 16)

    def send(self, data: bytes) -> None:
        """Write the bytes of a frame; this waits until the other side takes them.

        Raises:
            OSError: the connection is broken, or nobody reads.
        """
        with self._sending:
            self._connection.sendall(data)

    def receive(self) -> tuple[FrameType, bytes] | None:
        """Return the next frame, or `None` where the other side has ended.

        Raises:
            OSError: the connection is broken or silent, or what it brings is no frame.
        """
        head = self._reader.read(HEAD_BYTES)
        if not head:
            return None
        size = int.from_bytes(head[1:], "big")
        frame_type = _TYPES.get(head[0])
        if len(head) < HEAD_BYTES or frame_type is None or size > PAYLOAD_MAX_BYTES:
            raise ConnectionError("not a frame")
        payload = self._reader.read(size)
        if len(payload) < size:
            raise ConnectionError("a frame was cut off")
        return frame_type, payload

    def finish(self) -> None:
        """Say that nothing more will be sent; what was sent still arrives."""
        with suppress(OSError):  # the other side may have gone already
            self._connection.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close the connection."""
        self._reader.close()
        self._connection.close()


def listen() -> socket.socket:
    """Return a socket that listens on the loopback interface, at a port that the system chose."""
    return socket.create_server((_LOOPBACK, 0))


def connect(port: int) -> Channel:
    """Return a channel to whoever listens at a port of the loopback interface.

    Raises:
        OSError: nobody does.
    """
    return Channel(socket.create_connection((_LOOPBACK, port), timeout=_SILENCE_SECONDS))
