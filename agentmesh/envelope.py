"""The outer envelope: all that crosses a relay, and all that a relay can read (docs/protocol.md, section 4).

A relay parses the header, rate-limits by sender, routes by recipient and computes the receipt. It needs no key for
that and can do no more.
"""

from __future__ import annotations

import re
from enum import IntEnum
from functools import lru_cache
from struct import Struct
from typing import Final, final

from attrs import field, frozen

from agentmesh.errors import ArgumentInvalid, Malformed, UnknownVersion
from agentmesh.identity import DID_PREFIX, is_did_shaped
from agentmesh.limits import DID_MAX_BYTES, MESH_MAX_BYTES, UINT_MAX, Limits
from agentmesh.primitives import _crypto, _wire
from agentmesh.primitives._labels import RECEIPT
from agentmesh.primitives.arguments import BytesLike, limits_argument, plain_text, received_argument, uint_argument
from agentmesh.primitives.keys import Receipt

VERSION: Final = 1
_MESH: Final = re.compile(r"[a-z0-9._/-]{1,64}", re.ASCII)
_HEADER_MAX_BYTES: Final = 1 + 1 + 1 + (2 + MESH_MAX_BYTES) + 2 * (2 + DID_MAX_BYTES) + 9
_HEADER: Final = _wire.often(
    _wire.Uint(),
    _wire.Uint(),
    _wire.Text(1, MESH_MAX_BYTES),
    _wire.Text(1, DID_MAX_BYTES),
    _wire.Text(1, DID_MAX_BYTES),
    _wire.Uint(),
)


# A time from 2^32 ms on (February 1970) is always eight bytes behind its head, at the header's end.
_LONG_TIME_MS: Final = 1 << 32
_TIME: Final = Struct(">Q")
_TIME_BYTES: Final = _TIME.size


class Kind(IntEnum):
    """What an envelope carries."""

    KNOCK = 1
    ACCEPT = 2
    REJECT = 3
    MESSAGE = 4


_KINDS: Final = {int(kind): kind for kind in Kind}


def long_time(time_ms: int) -> bytes | None:
    """Return what stands behind `Header.prefix` for this time, or `None` where the time needs another form."""
    return time_ms.to_bytes(_TIME_BYTES, "big") if _LONG_TIME_MS <= time_ms <= UINT_MAX else None


def is_mesh_name(mesh: object) -> bool:
    """Say whether `mesh` is a mesh name: 1 to 64 of `a-z 0-9 . _ / -`.

    It is a name and must never become a path: `../..` is one, and so is `/etc`. What keeps files by mesh names them by
    a hash of it. Section 4.
    """
    return type(mesh) is str and _MESH.fullmatch(mesh) is not None


def mesh_argument(name: str, value: str) -> str:
    """Return `value`, an argument of a call, as a plain `str` if it is a mesh name.

    Raises:
        ArgumentInvalid: it is none.
    """
    mesh = plain_text(value)
    if not is_mesh_name(mesh):
        raise ArgumentInvalid(name, "not a mesh name, 1 to 64 of a-z 0-9 . _ / -")
    return str(mesh)


@frozen(kw_only=True)
class Header:
    """The outer header: readable by every relay, authenticated end to end by what the body holds.

    Attributes:
        kind: What the body is.
        mesh: The mesh's name.
        sender: The DID that the envelope claims to come from. Only the body proves it.
        recipient: The DID that it is for.
        time_ms: The sender's clock, milliseconds since the epoch.
    """

    kind: Kind
    mesh: str = field(converter=plain_text)
    sender: str = field(converter=plain_text)
    recipient: str = field(converter=plain_text)
    time_ms: int

    def encode(self) -> bytes:
        """Return `msgpack [1, kind, mesh, sender, recipient, time]`.

        Raises:
            ArgumentInvalid: a field that no receiver would take.
        """
        self._check()
        return self._encode(self.time_ms)

    def prefix(self) -> bytes:
        """Return the encoded header without the eight bytes of a `long_time`. Raises as `encode`."""
        self._check()
        return self._encode(_LONG_TIME_MS)[:-_TIME_BYTES]

    def _check(self) -> None:
        if type(self.kind) is not Kind:
            raise ArgumentInvalid("kind", "not a Kind")
        mesh_argument("mesh", self.mesh)
        for name, did in (("sender", self.sender), ("recipient", self.recipient)):
            if not is_did_shaped(did):
                raise ArgumentInvalid(name, "not of the shape of a DID")
        uint_argument("time_ms", self.time_ms)

    def _encode(self, time_ms: int) -> bytes:
        return _wire.encode([VERSION, int(self.kind), self.mesh, self.sender, self.recipient, time_ms])

    @classmethod
    def decode(cls, data: bytes) -> Header:
        """Return the header that `data` is the canonical encoding of.

        Raises:
            TooLarge: more bytes than any header has.
            Malformed: another shape, or a name that is none.
            UnknownVersion: another version or kind.
        """
        version, kind, mesh, sender, recipient, time_ms = _wire.decode(data, _HEADER, _HEADER_MAX_BYTES)
        known = _KINDS.get(kind)
        if version != VERSION or known is None:
            raise UnknownVersion
        if not is_mesh_name(mesh):
            raise Malformed
        # Whether a DID is the right one is decided against a key; here only what could never be one is kept out.
        if not (is_did_shaped(sender) and is_did_shaped(recipient)):
            raise Malformed
        return cls(kind=known, mesh=mesh, sender=sender, recipient=recipient, time_ms=time_ms)


@final
class OuterEnvelope:
    """An envelope as anybody sees it who holds its bytes and no key.

    It keeps the bytes whole, and where in them its parts begin: a body may be a megabyte.

    Attributes:
        envelope: The bytes.
        body_at: Where the body begins; it ends the envelope.
    """

    __slots__ = ("_header", "_header_at", "_header_end", "_receipt", "body_at", "envelope")

    def __init__(self, envelope: BytesLike, limits: Limits) -> None:
        self._header: Header | None = None
        self._receipt: Receipt | None = None
        self.envelope: bytes = b""
        if type(envelope) is not bytes:
            envelope = received_argument("envelope", envelope, limits.envelope_max_bytes)
        self.envelope = envelope
        self.body_at: int
        self._header_at, self._header_end, self.body_at = _wire.pair_bounds(envelope, limits.envelope_max_bytes)

    @classmethod
    def parse(cls, envelope: BytesLike, limits: Limits | None = None) -> OuterEnvelope:
        """Return the outer view of `envelope`.

        Raises:
            ArgumentInvalid: not bytes-like, or not `Limits`.
            TooLarge: more than `limits.envelope_max_bytes`; nothing was parsed.
            Malformed: not the canonical encoding of an envelope.
            UnknownVersion: another version or kind.
        """
        outer = cls(envelope, limits_argument(limits))
        outer.header  # noqa: B018 - a header that is none is refused here
        return outer

    @property
    def header_bytes(self) -> bytes:
        """The header as received: what signatures and contexts cover."""
        return self.envelope[self._header_at : self._header_end]

    @property
    def body(self) -> bytes:
        """What the kind says, sealed or signed: a copy."""
        return self.envelope[self.body_at :]

    def time_behind(self, before: bytes) -> int | None:
        """Return the header's time, if `before` is all that stands before it and it is in canonical long form."""
        envelope, time_at = self.envelope, self._header_end - _TIME_BYTES
        if envelope[:time_at] != before:
            return None
        [time_ms] = _TIME.unpack_from(envelope, time_at)
        return time_ms if _LONG_TIME_MS <= time_ms <= UINT_MAX else None

    @property
    def header(self) -> Header:
        """The parsed header; decoded when asked for, since a session knows the headers of its peer by their bytes.

        Raises:
            TooLarge, Malformed, UnknownVersion: not a header.
        """
        if self._header is None:
            self._header = Header.decode(self.header_bytes)
        return self._header

    @property
    def receipt(self) -> Receipt:
        """The envelope's receipt: it identifies it everywhere. Computed when asked for, since it hashes the whole."""
        if self._receipt is None:
            self._receipt = receipt_of(self.envelope)
        return self._receipt

    @property
    def size_bytes(self) -> int:
        """The envelope's length."""
        return len(self.envelope)

    def __repr__(self) -> str:
        return f"OuterEnvelope({self._header!r}, receipt={self.receipt.hex()}, size_bytes={self.size_bytes})"


def build(header_bytes: bytes, *body: bytes) -> bytes:
    """Return the envelope `msgpack [header, body]`; the parts of the body are joined once."""
    return _wire.encode_pair(header_bytes, *body)


def build_behind(head: bytes, *body: bytes) -> bytes:
    """Return the envelope of this `envelope_head`; the parts of the body are joined once."""
    return _wire.encode_second(head, body)


def envelope_head(header_bytes: bytes) -> bytes:
    """Return an envelope up to its body."""
    return _wire.pair_head(len(header_bytes)) + header_bytes


@frozen
class MessageHeads:
    """How the messages between an agent and a peer begin, but for the peer's DID: what all its sessions share.

    Attributes:
        outwards: What stands before the DID in what the agent sends.
        before_time: What stands behind it there, up to the eight bytes of a `long_time`.
        inwards: What stands before the DID in what the agent receives.
        behind: What stands behind it there, up to the time.
        header_at: Where the header begins.
    """

    outwards: bytes
    before_time: bytes
    inwards: bytes
    behind: bytes
    header_at: int


@lru_cache(maxsize=1024)  # public: of agents in this process, for each length that a peer's DID has
def message_heads(mesh: str, own_did: str, peer_did_bytes: int) -> MessageHeads:
    """Return the heads of messages between an agent and a peer whose DID has this length.

    Raises:
        ArgumentInvalid: a name that no receiver would take.
    """
    peer_did = DID_PREFIX.ljust(peer_did_bytes, "1")  # the place of one
    outwards, _, before_time = _message_prefix(mesh, own_did, peer_did).rpartition(peer_did.encode())
    inwards, _, behind = _message_prefix(mesh, peer_did, own_did).partition(peer_did.encode())
    return MessageHeads(outwards, before_time, inwards, behind, _wire.first_at(outwards))


def _message_prefix(mesh: str, sender: str, recipient: str) -> bytes:
    header = Header(kind=Kind.MESSAGE, mesh=mesh, sender=sender, recipient=recipient, time_ms=0)
    return envelope_prefix(header.prefix())


def envelope_prefix(prefix: bytes) -> bytes:
    """Return an envelope's head up to the time, for a header of this `Header.prefix` and a `long_time`."""
    return _wire.pair_head(len(prefix) + _TIME_BYTES) + prefix


def receipt_of(envelope: bytes) -> Receipt:
    """Return SHA-256([receipt] || envelope), 32 bytes. Section 4."""
    return Receipt(_crypto.sha256_of_two(RECEIPT, envelope))
