"""What was handed up, or is to be, and is not done: events, in the order in which they came about (section 7.3)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, final

from agentmesh.events import MessageReceived, PeerClosed, SessionEstablished
from agentmesh.primitives.keys import Redacted

if TYPE_CHECKING:
    from agentmesh.engine.event_rows import Kept


@final
class HandedUp(Redacted):
    """An event that the application has not done with.

    Attributes:
        sequence: The order in which events came about.
        event: The event, always the same object.
        at_ms: When it came about.
        size_bytes: What of it a peer chose the size of: plaintext, action and reason.
    """

    __slots__ = ("at_ms", "event", "sequence", "size_bytes")

    def __init__(self, sequence: int, event: Kept, at_ms: int) -> None:
        self.sequence: int = sequence
        self.event: Kept = event
        self.at_ms: int = at_ms
        self.size_bytes: int = _size_of(event)


def _size_of(event: Kept) -> int:
    if isinstance(event, MessageReceived):
        return len(event.plaintext) + len(event.action)
    if isinstance(event, PeerClosed):
        return len(event.reason)
    if isinstance(event, SessionEstablished) and event.early_payload is not None:
        return len(event.early_payload)
    return 0


@final
class Inbox:
    """The events that are not done, found by their order and as the objects that they are.

    Attributes:
        size_bytes: The sum of what peers chose the size of.
    """

    __slots__ = ("_by_object", "_entries", "size_bytes")

    def __init__(self) -> None:
        self._entries: dict[int, HandedUp] = {}
        self._by_object: dict[int, int] = {}
        self.size_bytes: int = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[HandedUp]:
        return iter(self._entries.values())

    @property
    def last_sequence(self) -> int:
        """The sequence of the newest, 0 where there is none."""
        return next(reversed(self._entries), 0)

    def get(self, sequence: int) -> HandedUp | None:
        """Return the event of this number, or `None`."""
        return self._entries.get(sequence)

    def find(self, event: object) -> HandedUp | None:
        """Return this very event, or `None` where it is done or was never kept."""
        # By identity: its entry holds the event, so its id is nobody else's as long as it is here.
        sequence = self._by_object.get(id(event))
        return None if sequence is None else self._entries[sequence]

    def put(self, handed: HandedUp) -> None:
        """Keep an event. For changes alone; again changes nothing."""
        if handed.sequence not in self._entries:
            self.size_bytes += handed.size_bytes
        self._entries[handed.sequence] = handed
        self._by_object[id(handed.event)] = handed.sequence

    def remove(self, sequence: int) -> None:
        """Let go of one. For changes alone; again changes nothing."""
        handed = self._entries.get(sequence)
        if handed is None:
            return
        self._by_object.pop(id(handed.event), None)
        self.size_bytes -= handed.size_bytes
        del self._entries[sequence]
