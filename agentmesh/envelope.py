"""The outer envelope: all that crosses a relay, and all that a relay can read (docs/protocol.md, section 4).

A relay parses the header, rate-limits by sender, routes by recipient and computes the receipt. It needs no key for
that and can do no more.
"""

from __future__ import annotations

import re
from enum import IntEnum
from typing import Final

from attrs import field, frozen

from agentmesh import _crypto, _wire
from agentmesh._labels import RECEIPT
from agentmesh.errors import ArgumentInvalid, Malformed, UnknownVersion
from agentmesh.identity import DID_PREFIX
from agentmesh.keys import Receipt
from agentmesh.limits import DID_MAX_BYTES, MESH_MAX_BYTES, UINT_MAX, Limits

VERSION: Final = 1
_MESH: Final = re.compile(r"[a-z0-9._/-]{1,64}", re.ASCII)
_HEADER_MAX_BYTES: Final = 1 + 1 + 1 + (2 + MESH_MAX_BYTES) + 2 * (2 + DID_MAX_BYTES) + 9
_HEADER: Final = _wire.array(
    _wire.Uint(),
    _wire.Uint(),
    _wire.Text(1, MESH_MAX_BYTES),
    _wire.Text(1, DID_MAX_BYTES),
    _wire.Text(1, DID_MAX_BYTES),
    _wire.Uint(),
)


class Kind(IntEnum):
    """What an envelope carries."""

    KNOCK = 1
    ACCEPT = 2
    REJECT = 3
    MESSAGE = 4


_KINDS: Final = {int(kind): kind for kind in Kind}


def is_mesh_name(mesh: object) -> bool:
    """Say whether `mesh` is a mesh name: 1 to 64 of `a-z 0-9 . _ / -`."""
    return type(mesh) is str and _MESH.fullmatch(mesh) is not None


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
    mesh: str
    sender: str
    recipient: str
    time_ms: int

    def encode(self) -> bytes:
        """Return `msgpack [1, kind, mesh, sender, recipient, time]`.

        Raises:
            ArgumentInvalid: a field that no receiver would take.
        """
        if not is_mesh_name(self.mesh):
            raise ArgumentInvalid("mesh")
        if type(self.time_ms) is not int or not 0 <= self.time_ms <= UINT_MAX:
            raise ArgumentInvalid("time_ms")
        return _wire.encode([VERSION, int(self.kind), self.mesh, self.sender, self.recipient, self.time_ms])

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
        if not (sender.startswith(DID_PREFIX) and recipient.startswith(DID_PREFIX)):
            raise Malformed
        return cls(kind=known, mesh=mesh, sender=sender, recipient=recipient, time_ms=time_ms)


@frozen(kw_only=True)
class OuterEnvelope:
    """An envelope as anybody sees it who holds its bytes and no key.

    Attributes:
        header: The parsed header.
        header_bytes: The header as received: what signatures and contexts cover.
        body: What the kind says, sealed or signed.
        receipt: SHA-256 over the whole envelope; identifies it everywhere.
        size_bytes: The envelope's length.
    """

    header: Header
    header_bytes: bytes = field(repr=False)
    body: bytes = field(repr=False)
    receipt: Receipt = field(repr=lambda receipt: receipt.hex())
    size_bytes: int

    @classmethod
    def parse(cls, envelope: bytes, limits: Limits | None = None) -> OuterEnvelope:
        """Return the outer view of `envelope`.

        Raises:
            ArgumentInvalid: not bytes.
            TooLarge: more than `limits.envelope_max_bytes`; nothing was parsed.
            Malformed: not the canonical encoding of an envelope.
            UnknownVersion: another version or kind.
        """
        if not isinstance(envelope, bytes):
            raise ArgumentInvalid("envelope")
        header_bytes, body = _wire.decode_pair(envelope, (limits or _DEFAULT_LIMITS).envelope_max_bytes)
        return cls(
            header=Header.decode(header_bytes),
            header_bytes=header_bytes,
            body=body,
            receipt=receipt_of(envelope),
            size_bytes=len(envelope),
        )


_DEFAULT_LIMITS: Final = Limits()


def build(header_bytes: bytes, body: bytes) -> bytes:
    """Return the envelope `msgpack [header, body]`."""
    return _wire.encode([header_bytes, body])


def receipt_of(envelope: bytes) -> Receipt:
    """Return SHA-256([receipt] || envelope), 32 bytes. Section 4."""
    return Receipt(_crypto.sha256_of_two(RECEIPT, envelope))
