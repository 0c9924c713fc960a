"""Bytes made wrong: mutations of any bytes, and forgeries of envelopes by somebody who holds no key."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from random import Random
from typing import Final

from attrs import frozen

from agentmesh.envelope import Header, Kind, build
from agentmesh.primitives import _wire

_EXTEND_MAX_BYTES: Final = 64


class Tampering(StrEnum):
    """The ways to alter bytes."""

    FLIP = "flip"
    TRUNCATE = "truncate"
    EXTEND = "extend"
    SWAP = "swap"


@frozen(kw_only=True)
class Mutation:
    """One alteration, which fits bytes of any length.

    Attributes:
        how: Flip one bit, cut the end off, append bytes, or exchange two bytes.
        at: The bit to flip, the length to keep, the value to append, or the first byte to exchange. It counts modulo
            what there is, so that a negative one counts from the end.
        amount: How many bytes to append, or the second byte to exchange; it counts likewise.
    """

    how: Tampering
    at: int
    amount: int = 0

    def apply(self, data: bytes) -> bytes:
        """Return other bytes than `data`, always. Two equal bytes to exchange become one flipped bit."""
        if self.how is Tampering.EXTEND or not data:
            return data + bytes([self.at % 256]) * (1 + self.amount % _EXTEND_MAX_BYTES)
        if self.how is Tampering.TRUNCATE:
            return data[: self.at % len(data)]
        altered = bytearray(data)
        first, second = self.at % len(data), self.amount % len(data)
        if self.how is Tampering.SWAP and data[first] != data[second]:
            altered[first], altered[second] = data[second], data[first]
        else:
            bit = self.at % (8 * len(data))
            altered[bit // 8] ^= 1 << bit % 8
        return bytes(altered)

    @classmethod
    def draw(cls, random: Random) -> Mutation:
        """Return a mutation that depends on `random` alone."""
        how = random.choice(tuple(Tampering))
        return cls(how=how, at=random.getrandbits(32), amount=random.getrandbits(32))


# --- envelopes -------------------------------------------------------------------------------------------------------


def split(envelope: bytes) -> tuple[Header, bytes, bytes]:
    """Return an envelope's header, parsed and as it stands, and its body. Of any size: a test may set its own limits.

    Raises:
        RemoteError: `envelope` is none.
    """
    header_bytes, body = _wire.decode_pair(envelope, len(envelope))
    return Header.decode(header_bytes), header_bytes, body


def with_header(
    envelope: bytes,
    *,
    kind: Kind | None = None,
    mesh: str | None = None,
    sender: str | None = None,
    recipient: str | None = None,
    time_ms: int | None = None,
) -> bytes:
    """Return the envelope with these fields of its header replaced, canonical again, and its body as it was.

    Raises:
        RemoteError: `envelope` is none.
        ArgumentInvalid: no header can have such a field.
    """
    header, _, body = split(envelope)
    altered = Header(
        kind=header.kind if kind is None else kind,
        mesh=header.mesh if mesh is None else mesh,
        sender=header.sender if sender is None else sender,
        recipient=header.recipient if recipient is None else recipient,
        time_ms=header.time_ms if time_ms is None else time_ms,
    )
    return build(altered.encode(), body)


def with_body(envelope: bytes, body: bytes) -> bytes:
    """Return the envelope's header over another body.

    Raises:
        RemoteError: `envelope` is none.
    """
    return build(split(envelope)[1], body)


def forge(random: Random, envelope: bytes, others: Sequence[bytes] = ()) -> bytes:
    """Return something that was made of a genuine envelope and is none: no recipient may take it.

    Args:
        random: What the choice depends on.
        envelope: A genuine envelope.
        others: Genuine envelopes, whose bodies may be put under its header.
    """
    header, header_bytes, body = split(envelope)
    choice = random.randrange(10)
    forged = envelope
    if choice == 0:
        forged = with_header(envelope, kind=random.choice([kind for kind in Kind if kind is not header.kind]))
    elif choice == 1:
        forged = with_header(envelope, sender=header.recipient, recipient=header.sender)
    elif choice == 2:
        forged = with_header(envelope, time_ms=max(0, header.time_ms + random.choice((-1, 1, 60_000))))
    elif choice == 3:
        forged = build(header_bytes, Mutation.draw(random).apply(body))
    elif choice == 4 and others:
        forged = build(header_bytes, split(random.choice(others))[2])
    # Two envelopes of one millisecond have equal headers, so a body under another's header may be genuine.
    if forged == envelope or forged in others:
        return Mutation.draw(random).apply(envelope)
    return forged
