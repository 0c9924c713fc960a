"""The pieces of a ratchet's state, each replaced whole and never changed, and what one message replaces (section 6)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from struct import Struct
from typing import Any, ClassVar, Final, final

from agentmesh.primitives.keys import ChainKey, HeaderKey, MessageKey, Redacted, RootKey, X25519PublicKey, X25519Secret
from agentmesh.session.epochs import Half

SkippedAt = tuple[int, int]  # (serial of the chain, number in it)


@final
class SendingChain(Redacted):
    """The chain that this side seals with. `start` is how many messages the chains before it had together."""

    __slots__ = ("header_key", "key", "n", "previous_length", "start")

    def __init__(self, key: ChainKey, header_key: HeaderKey, n: int, previous_length: int, start: int) -> None:
        self.key: ChainKey = key
        self.header_key: HeaderKey = header_key
        self.n: int = n
        self.previous_length: int = previous_length
        self.start: int = start


@final
class ReceivingChain(Redacted):
    """The chain that the peer seals with now: `n` is the number that is expected next, `epoch` that of its headers.

    It is all that a message in its order changes, so it stands for an `OpenDelta` of nothing else.
    """

    turn: ClassVar[None] = None
    lost: ClassVar[tuple[int, ...]] = ()
    evicted: ClassVar[tuple[SkippedAt, ...]] = ()
    __slots__ = ("epoch", "header_key", "key", "n", "peer_key", "previous_length", "serial", "start")

    def __init__(
        self,
        key: ChainKey,
        header_key: HeaderKey,
        peer_key: X25519PublicKey,
        epoch: int,
        n: int,
        previous_length: int,
        start: int,
        serial: int,
    ) -> None:
        self.key: ChainKey = key
        self.header_key: HeaderKey = header_key
        self.peer_key: X25519PublicKey = peer_key
        self.epoch: int = epoch
        self.n: int = n
        self.previous_length: int = previous_length
        self.start: int = start
        self.serial: int = serial


@final
class PastChain(Redacted):
    """A receiving chain that the peer has left: its length is known, and late messages find their skipped keys."""

    __slots__ = ("header_key", "length", "serial", "start")

    def __init__(self, header_key: HeaderKey, length: int, start: int, serial: int) -> None:
        self.header_key: HeaderKey = header_key
        self.length: int = length
        self.start: int = start
        self.serial: int = serial


_PAST: Final = Struct(">32sIQQ")  # header key, length, start, serial


def packed(past: Iterable[PastChain]) -> bytes:
    """Return past chains as bytes, as a ratchet keeps them: objects of theirs would be a quarter of what it takes."""
    return b"".join(_PAST.pack(one.header_key, one.length, one.start, one.serial) for one in past)


def unpacked(past: bytes) -> tuple[PastChain, ...]:
    """Return the past chains that were packed."""
    return tuple(PastChain(*fields) for fields in _PAST.iter_unpack(past))


def fields_of(past: bytes) -> list[list[Any]]:
    """Return [header key, length, start, serial] of each past chain that was packed."""
    return [list(fields) for fields in _PAST.iter_unpack(past)]


@final
class Turn(Redacted):
    """What a turn of the peer replaces beside the receiving chain."""

    __slots__ = ("epochs", "next_receiving", "next_sending", "past", "public", "root", "secret", "sending")

    def __init__(
        self,
        root: RootKey,
        secret: X25519Secret,
        public: X25519PublicKey,
        sending: SendingChain,
        next_sending: HeaderKey,
        next_receiving: HeaderKey,
        past: tuple[PastChain, ...],
        epochs: Half,
    ) -> None:
        self.root: RootKey = root
        self.secret: X25519Secret = secret
        self.public: X25519PublicKey = public
        self.sending: SendingChain = sending
        self.next_sending: HeaderKey = next_sending
        self.next_receiving: HeaderKey = next_receiving
        self.past: tuple[PastChain, ...] = past
        self.epochs: Half = epochs


@final
class OpenDelta(Redacted):
    """What opening one message changes. Nothing has changed until `Ratchet.apply` is given it.

    Attributes:
        receiving: The new receiving chain, or `None` where a skipped key served.
        turn: What a turn of the peer replaced, or `None`.
        added: Skipped message keys to keep, oldest first.
        taken: The skipped key that was used.
        evicted: Skipped keys that age, number or the end of their chain removed: those messages are lost.
        lost: The running numbers of those messages, oldest first.
        at_ms: When, for the age of what was added.
        epochs: The half after it, where the message's item moved it; that of a turn stands in `turn`.
    """

    __slots__ = ("added", "at_ms", "epochs", "evicted", "lost", "receiving", "taken", "turn")

    def __init__(
        self,
        receiving: ReceivingChain | None,
        turn: Turn | None,
        added: Sequence[tuple[SkippedAt, MessageKey]],
        taken: SkippedAt | None,
        evicted: Sequence[SkippedAt],
        lost: Sequence[int],
        at_ms: int,
        epochs: Half | None = None,
    ) -> None:
        self.receiving: ReceivingChain | None = receiving
        self.turn: Turn | None = turn
        self.added: Sequence[tuple[SkippedAt, MessageKey]] = added
        self.taken: SkippedAt | None = taken
        self.evicted: Sequence[SkippedAt] = evicted
        self.lost: Sequence[int] = lost
        self.at_ms: int = at_ms
        self.epochs: Half | None = epochs


Delta = ReceivingChain | OpenDelta
