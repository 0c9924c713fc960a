"""Messages that came before their KNOCK: held in memory, and bounded, because anybody can send them.

They are not acknowledged to the relay while they are here. So one that it had stored comes again after a restart, and
one that makes room for another is not lost for good.
"""

from __future__ import annotations

from typing import Final, final

from agentmesh.agt.conversation import HeldFrame
from agentmesh.primitives.keys import Redacted

PER_PEER: Final = 16  # a relay that reorders swaps a few; AGT's client holds five
IN_ALL: Final = 256
BYTES_PER_PEER: Final = 2 << 20
BYTES_IN_ALL: Final = 16 << 20


@final
class EarlyMessages(Redacted):
    """What waits for a KNOCK, by its sender's DID."""

    __slots__ = ("_by_did", "_known", "_size")

    def __init__(self) -> None:
        self._by_did: dict[str, tuple[HeldFrame, ...]] = {}  # whoever sent first, first
        self._known: set[str] = set()
        self._size = 0

    def __len__(self) -> int:
        return sum(map(len, self._by_did.values()))

    def of(self, did: str) -> tuple[HeldFrame, ...]:
        """Return what waits of a sender, oldest first."""
        return self._by_did.get(did, ())

    def put(self, did: str, frame: HeldFrame, *, known: bool) -> bool:
        """Hold a message, and say whether it is held: not beyond its sender's share, nor where nobody makes room.

        Args:
            did: Who is said to have sent it.
            frame: The message.
            known: The policy knows who that is. Strangers make room for the known, and never the other way round.
        """
        waiting = self.of(did)
        if any(one.message == frame.message for one in waiting):
            return True
        size = len(frame.message)
        if len(waiting) >= PER_PEER or size + sum(len(one.message) for one in waiting) > BYTES_PER_PEER:
            return False
        while len(self) >= IN_ALL or self._size + size > BYTES_IN_ALL:
            gone = next((one for one in self._by_did if one not in self._known and one != did), None)
            if gone is None:
                return False
            self.drop(gone)
        self._by_did[did] = (*waiting, frame)
        self._size += size
        if known:
            self._known.add(did)
        return True

    def drop(self, did: str, frames: tuple[HeldFrame, ...] | None = None) -> None:
        """Hold these of a sender's no more, or none if `None`."""
        waiting = self.of(did)
        staying = () if frames is None else tuple(one for one in waiting if one not in frames)
        self._size -= sum(len(one.message) for one in waiting) - sum(len(one.message) for one in staying)
        if staying:
            self._by_did[did] = staying
            return
        self._by_did.pop(did, None)
        self._known.discard(did)
