"""What is kept to be offered again: envelopes that `receive` answered with `TryAgain` (docs/how-to/errors.md).

Nobody has vouched for such bytes: any stranger makes them. So what is kept is bounded, in number, in bytes and in age,
and by the senders that the envelopes claim. Where there is no room, the one that takes the most of it loses its oldest,
so that a sender with no more than an even share loses nothing. Pure values: the caller brings the time, and offers.
"""

from __future__ import annotations

from collections import Counter
from typing import Final, final

from agentmesh.envelope import OuterEnvelope
from agentmesh.errors import AgentMeshError
from agentmesh.limits import UINT_MAX, Limits
from agentmesh.primitives.arguments import BytesLike, bytes_argument, uint_argument
from agentmesh.primitives.buckets import Elapsed

_ANY_SIZE: Final = Limits(envelope_max_bytes=UINT_MAX)  # for reading a header alone; `max_bytes` bounds the size


class _Kept:
    """One envelope: whose it says it is, since when it is kept, when and after which pause it is due."""

    __slots__ = ("due_ms", "is_offered", "pause_ms", "sender", "since_ms")

    def __init__(self, sender: str, since_ms: int, pause_ms: int) -> None:
        self.sender = sender
        self.since_ms = since_ms
        self.pause_ms = pause_ms
        self.due_ms = since_ms + pause_ms
        self.is_offered = False


@final
class Retries:
    """Envelopes to offer again, in bounded memory. For one loop: it is not locked, and is lost with the process.

    Attributes:
        dropped: How many were let go for want of room, or because they were too old.
    """

    __slots__ = ("_by_sender", "_bytes", "_elapsed", "_kept", "_max_age_ms", "_max_bytes", "_max_envelopes", "_pauses",
                 "_size", "dropped")  # fmt: skip

    def __init__(
        self,
        *,
        max_envelopes: int = 1000,
        max_bytes: int = 32 << 20,
        max_age_seconds: int = 86_400,
        first_pause_seconds: int = 1,
        longest_pause_seconds: int = 60,
    ) -> None:
        """Keep nothing yet.

        Args:
            max_envelopes: So many are kept at most, 1 or more.
            max_bytes: So many bytes of them together, 1 or more.
            max_age_seconds: So long is one kept, however often it was offered; a KNOCK lives a day by default.
            first_pause_seconds: When one is due for the first time; each later pause is twice as long.
            longest_pause_seconds: No pause is longer.

        Raises:
            ArgumentInvalid: not a number from 1 up.
        """
        self._max_envelopes = uint_argument("max_envelopes", max_envelopes, minimum=1)
        self._max_bytes = uint_argument("max_bytes", max_bytes, minimum=1)
        self._max_age_ms = 1000 * uint_argument("max_age_seconds", max_age_seconds, minimum=1)
        first = 1000 * uint_argument("first_pause_seconds", first_pause_seconds, minimum=1)
        longest = 1000 * uint_argument("longest_pause_seconds", longest_pause_seconds, minimum=1)
        self._pauses = (min(first, longest), longest)
        self._elapsed = Elapsed(self._max_age_ms + 1)
        self._kept: dict[bytes, _Kept] = {}
        self._by_sender: dict[str, dict[bytes, None]] = {}  # each one's own, oldest first
        self._bytes: Counter[str] = Counter()
        self._size = 0
        self.dropped: int = 0

    def __len__(self) -> int:
        return len(self._kept)

    def __contains__(self, envelope: object) -> bool:
        return envelope in self._kept

    @property
    def size_bytes(self) -> int:
        """How many bytes are kept."""
        return self._size

    def hold(self, envelope: BytesLike, now_ms: int) -> None:
        """Keep an envelope that `receive` answered with `TryAgain`; one that came out of `due` waits longer now.

        Args:
            envelope: The bytes as they came.
            now_ms: The time, milliseconds since the epoch.

        Raises:
            ArgumentInvalid: not bytes, or not a time.
        """
        envelope = bytes_argument("envelope", envelope)
        elapsed_ms = self._elapsed.at(uint_argument("now_ms", now_ms))
        kept = self._kept.get(envelope)
        if kept is not None:
            if kept.is_offered:
                kept.is_offered = False
                kept.pause_ms = min(2 * kept.pause_ms, self._pauses[1])
                kept.due_ms = elapsed_ms + kept.pause_ms
            return
        if len(envelope) > self._max_bytes:
            self.dropped += 1
            return
        kept = _Kept(_claimed_sender(envelope), elapsed_ms, self._pauses[0])
        self._kept[envelope] = kept
        self._by_sender.setdefault(kept.sender, {})[envelope] = None
        self._bytes[kept.sender] += len(envelope)
        self._size += len(envelope)
        while self._size > self._max_bytes:
            self._let_go(max(self._bytes, key=self._bytes.__getitem__))
        while len(self._kept) > self._max_envelopes:
            self._let_go(max(self._by_sender, key=lambda sender: len(self._by_sender[sender])))

    def due(self, now_ms: int) -> tuple[bytes, ...]:
        """Return the envelopes whose pause is over, oldest first, to be offered once: `hold` those that fail again.

        What the last call returned, and was not held again, is forgotten: it was taken, or is bad.

        Args:
            now_ms: The time, milliseconds since the epoch.

        Raises:
            ArgumentInvalid: not a time.
        """
        elapsed_ms = self._elapsed.at(uint_argument("now_ms", now_ms))
        due: list[bytes] = []
        for envelope, kept in tuple(self._kept.items()):
            if kept.is_offered:
                self._forget(envelope)
            elif elapsed_ms - kept.since_ms > self._max_age_ms:
                self._forget(envelope)
                self.dropped += 1
            elif elapsed_ms >= kept.due_ms:
                kept.is_offered = True
                due.append(envelope)
        return tuple(due)

    def _let_go(self, sender: str) -> None:
        self._forget(next(iter(self._by_sender[sender])))
        self.dropped += 1

    def _forget(self, envelope: bytes) -> None:
        sender = self._kept.pop(envelope).sender
        self._size -= len(envelope)
        self._bytes[sender] -= len(envelope)
        del self._by_sender[sender][envelope]
        if not self._by_sender[sender]:
            del self._by_sender[sender], self._bytes[sender]

    def __repr__(self) -> str:
        return f"Retries(<{len(self._kept)} envelopes, {self._size} bytes>)"


def _claimed_sender(envelope: bytes) -> str:
    """Return whom an envelope names as its sender, or nothing where it names nobody readably."""
    try:
        return OuterEnvelope(envelope, _ANY_SIZE).header.sender
    except AgentMeshError:
        return ""
