"""Messages that came before their KNOCK: held in memory for a while, and bounded, because anybody can send them.

They are not acknowledged to the relay while they are here. So one that it had stored comes again after a restart, and
one that makes room for another is not lost for good.
"""

from __future__ import annotations

from typing import Final, final

from agentmesh.agt.conversation import HeldFrame
from agentmesh.limits import LATE_WINDOW_MS
from agentmesh.primitives.keys import Redacted

PER_PEER: Final = 16  # a relay that reorders swaps a few; AGT's client holds five
IN_ALL: Final = 256
BYTES_PER_PEER: Final = 2 << 20
BYTES_IN_ALL: Final = 16 << 20

_Waiting = tuple[tuple[int, HeldFrame], ...]  # with the time that each came at, oldest first


@final
class EarlyMessages(Redacted):
    """What waits for a KNOCK, by its sender's DID."""

    __slots__ = ("_by_did", "_known")

    def __init__(self) -> None:
        self._by_did: dict[str, _Waiting] = {}  # whoever sent first, first
        self._known: set[str] = set()

    def __len__(self) -> int:
        return sum(map(len, self._by_did.values()))

    @property
    def size_bytes(self) -> int:
        """How many bytes are held."""
        return sum(map(_size, self._by_did.values()))

    def of(self, did: str) -> tuple[HeldFrame, ...]:
        """Return what waits of a sender, oldest first."""
        return tuple(frame for _, frame in self._by_did.get(did, ()))

    def put(self, did: str, frame: HeldFrame, now_ms: int, *, known: bool) -> bool:
        """Hold a message, and say whether it is held. The oldest of its sender makes room, and then of strangers.

        Args:
            did: Who is said to have sent it.
            frame: The message.
            now_ms: The clock.
            known: The policy knows who that is. Strangers make room for the known, and never the other way round.
        """
        self.expire(now_ms)
        size = len(frame.message)
        if size > BYTES_PER_PEER:
            return False
        waiting = tuple(one for one in self._by_did.get(did, ()) if one[1].message != frame.message)
        while len(waiting) >= PER_PEER or size + _size(waiting) > BYTES_PER_PEER:
            waiting = waiting[1:]
        # What makes room is known before any of it goes: a message that cannot be held takes no other's place.
        before = self._by_did.get(did, ())
        count = len(self) - len(before) + len(waiting)
        held_bytes = self.size_bytes - _size(before) + _size(waiting)
        strangers = iter([one for one in self._by_did if one not in self._known and one != did])
        gone: list[str] = []
        while count >= IN_ALL or held_bytes + size > BYTES_IN_ALL:
            stranger = next(strangers, None)
            if stranger is None:
                return False
            gone.append(stranger)
            count -= len(self._by_did[stranger])
            held_bytes -= _size(self._by_did[stranger])
        for stranger in gone:
            self._put(stranger, ())
        self._put(did, (*waiting, (now_ms, frame)))
        if known:
            self._known.add(did)
        return True

    def drop(self, did: str, frames: tuple[HeldFrame, ...]) -> None:
        """Hold these of a sender's no more."""
        self._put(did, tuple(one for one in self._by_did.get(did, ()) if one[1] not in frames))

    def expire(self, now_ms: int) -> None:
        """Hold no more what has waited for ten minutes, or came from the future of a clock that was set back."""
        for did, waiting in tuple(self._by_did.items()):
            self._put(did, tuple(one for one in waiting if one[0] <= now_ms <= one[0] + LATE_WINDOW_MS))

    def _put(self, did: str, waiting: _Waiting) -> None:
        if waiting:
            self._by_did[did] = waiting
            return
        self._by_did.pop(did, None)
        self._known.discard(did)


def _size(waiting: _Waiting) -> int:
    return sum(len(frame.message) for _, frame in waiting)
