"""What was handed up, or is to be, and is not done: events, in the order in which they came about (section 7.3)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeGuard, final

from agentmesh.engine.tally import Sum, Tally
from agentmesh.events import Event, KnockReceived, MessageReceived, PeerClosed, SessionEstablished
from agentmesh.handshake.knock import Intent
from agentmesh.primitives.keys import Redacted, SessionId

FromPeer = KnockReceived | MessageReceived | PeerClosed | SessionEstablished


def is_from_peer(event: Event) -> TypeGuard[FromPeer]:
    """Say whether a peer can make such events as often as it likes: these are bounded."""
    kind = type(event)
    if kind is SessionEstablished:
        return event.intent is not None  # type: ignore[union-attr]
    return kind is MessageReceived or kind is KnockReceived or kind is PeerClosed


def size_of(event: FromPeer) -> int:
    """Return how many bytes of an event its peer chose the size of: data, intent, reason."""
    if type(event) is MessageReceived:
        named = event.attachments
        return len(event.plaintext) + (sum(len(one.encode()) for one in named) if named else 0)
    if isinstance(event, PeerClosed):
        return len(event.reason)
    size = 0 if event.intent is None else _intent_size(event.intent)
    if isinstance(event, SessionEstablished) and event.early_payload is not None:
        size += len(event.early_payload)
    return size


def _intent_size(intent: Intent) -> int:
    return len(intent.detail) + len(intent.action) + sum(map(len, intent.capabilities))


@final
class HandedUp(Redacted):
    """An event that the application has not done with.

    Attributes:
        sequence: The order in which events were handed up, or came where they are held.
        event: The event, always the same object.
        at_ms: When that was.
        is_held: It waits for messages before it, and has not been handed up.
    """

    __slots__ = ("at_ms", "event", "is_held", "sequence")

    def __init__(self, sequence: int, event: Event, at_ms: int, is_held: bool = False) -> None:
        self.sequence: int = sequence
        self.event: Event = event
        self.at_ms: int = at_ms
        self.is_held: bool = is_held


@final
class Inbox:
    """The events that are not done, found by their order and as the objects that they are.

    Attributes:
        held: What waits for messages before it, by session and sequence.
        knocks: The KNOCKs that the application was told of, by session.
    """

    __slots__ = ("_by_object", "_entries", "_tally", "held", "knocks")

    def __init__(self) -> None:
        self._entries: dict[int, HandedUp] = {}
        self._by_object: dict[int, int] = {}
        self._tally = Tally()  # of what peers made, by their DIDs
        self.held: dict[SessionId, dict[int, HandedUp]] = {}
        self.knocks: dict[SessionId, int] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[HandedUp]:
        return iter(self._entries.values())

    @property
    def from_peers(self) -> Sum:
        """How many events peers have made, and how many bytes of them they chose the size of."""
        return self._tally.total

    def from_peer(self, did: str) -> Sum:
        """Return how many of these are one peer's, and how many bytes."""
        return self._tally.of(did)

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

    # An entry comes into `_entries` last, and leaves it last: what is broken off before is done whole again.

    def put(self, handed: HandedUp) -> None:
        """Keep an event. For changes alone; again changes nothing."""
        sequence, event = handed.sequence, handed.event
        self._by_object[id(event)] = sequence
        if type(event) is KnockReceived:
            self.knocks[event.session_id] = sequence
        if handed.is_held and isinstance(event, MessageReceived | PeerClosed):
            self.held.setdefault(event.session_id, {})[sequence] = handed
        if sequence not in self._entries:
            if is_from_peer(event):
                self._tally.come(sequence, event.peer.did, size_of(event))
            self._entries[sequence] = handed

    def remove(self, sequence: int) -> None:
        """Let go of one. For changes alone; again changes nothing."""
        handed = self._entries.get(sequence)
        if handed is None:
            return
        event = handed.event
        self._by_object.pop(id(event), None)  # one that is to come again, held no more, comes behind this
        if type(event) is KnockReceived:
            self.knocks.pop(event.session_id, None)
        if handed.is_held and isinstance(event, MessageReceived | PeerClosed):
            held = self.held.get(event.session_id, {})
            held.pop(sequence, None)
            if not held:
                self.held.pop(event.session_id, None)
        if is_from_peer(event):
            self._tally.go(sequence, event.peer.did, size_of(event))
        del self._entries[sequence]
