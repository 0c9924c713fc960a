"""What applications handed over and what they were given: exactly once, unaltered, in the place where it was sent."""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import final

_TOLD_MAX = 20


@final
class Ledger:
    """The reference model of a run. It is told of each payload by both applications, and never looks into an agent.

    Attributes:
        handed: How many payloads applications wanted to send.
        handed_bytes: Their bytes.
        delivered: How many were given to the right application, for the first time, as they were.
        faults: How often what went wrong, by kind; empty for a good run.
        told: The first faults, in words.
    """

    def __init__(self) -> None:
        self.handed = 0
        self.handed_bytes = 0
        self.delivered = 0
        self.faults: Counter[str] = Counter()
        self.told: list[str] = []
        self._digests: dict[int, bytes] = {}
        self._sent: dict[int, tuple[int, int, bytes, int]] = {}
        self._delivered = bytearray()

    def fault(self, kind: str, text: str) -> None:
        """Note that something went wrong."""
        self.faults[kind] += 1
        if len(self.told) < _TOLD_MAX:
            self.told.append(f"{kind}: {text}")

    def hand(self, payload: int, data: bytes) -> None:
        """Note that an application wants this payload sent. From here on it must arrive."""
        if payload not in self._digests and not self.is_delivered(payload):
            self.handed += 1
            self.handed_bytes += len(data)
            self._digests[payload] = _digest(data)

    def send(self, payload: int, sender: int, recipient: int, session_id: bytes, number: int) -> None:
        """Note in which session, and as which message of its direction, a payload was sealed."""
        self._sent[payload] = (sender, recipient, session_id, number)

    def is_delivered(self, payload: int) -> bool:
        """Say whether a payload has arrived."""
        return payload < len(self._delivered) and self._delivered[payload] > 0

    def deliver(self, payload: int, sender: int, recipient: int, session_id: bytes, number: int, data: bytes) -> bool:
        """Note that an application was given a payload. Return whether it was as it had to be."""
        if self.is_delivered(payload):
            self.fault("twice", f"payload {payload} was delivered again")
            return False
        if payload not in self._digests or payload not in self._sent:
            self.fault("unknown", f"payload {payload} was delivered and never sent")
            return False
        if _digest(data) != self._digests[payload]:
            self.fault("altered", f"payload {payload} has other content")
            return False
        if self._sent[payload] != (sender, recipient, session_id, number):
            kind = "order" if self._sent[payload][:3] == (sender, recipient, session_id) else "misplaced"
            self.fault(kind, f"payload {payload} stands as {number} where it was sent as {self._sent[payload][3]}")
            return False
        if payload >= len(self._delivered):
            self._delivered.extend(bytes(payload + 1024 - len(self._delivered)))
        self._delivered[payload] = 1
        self.delivered += 1
        del self._digests[payload], self._sent[payload]
        return True

    def finish(self) -> None:
        """Note as lost what was handed over and never delivered."""
        for payload in self._digests:
            self.fault("lost", f"payload {payload} was never delivered")


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()
