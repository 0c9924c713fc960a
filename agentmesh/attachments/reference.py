"""References: what names an attachment, and opens it (docs/protocol.md, section 6.6).

    reference = msgpack(1, ak, size, c, receipt, name, media_type, where)

A reference is a secret: whoever has it and the blob has the data. It travels in a message.
"""

from __future__ import annotations

from typing import Final, final

from attrs import evolve, field, frozen

from agentmesh.attachments.sizes import SIZE_MAX, Layout
from agentmesh.errors import ArgumentInvalid, Malformed
from agentmesh.limits import CHUNK_EXPONENT_MAX, REFERENCE_MAX_BYTES
from agentmesh.primitives import _crypto, _wire
from agentmesh.primitives._labels import BLOB
from agentmesh.primitives.arguments import (
    BytesLike,
    bytes_argument,
    frameless,
    frameless_init,
    received_argument,
    text_argument,
)
from agentmesh.primitives.keys import AttachmentKey, Receipt, Redacted

ATTACHMENT: Final = 1  # the kind of reference that names one
NAME_MAX_BYTES: Final = 255
MEDIA_TYPE_MAX_BYTES: Final = 127
WHERE_MAX_BYTES: Final = 2048
RECEIPT_BYTES: Final = 32
BLOB_ID_BYTES: Final = 16
_LAYOUT: Final = _wire.array(
    _wire.Uint(),
    _wire.Bin(_crypto.KEY_BYTES),
    _wire.Uint(SIZE_MAX),
    _wire.Uint(CHUNK_EXPONENT_MAX),
    _wire.Bin(RECEIPT_BYTES),
    _wire.Text(0, NAME_MAX_BYTES),
    _wire.Text(0, MEDIA_TYPE_MAX_BYTES),
    _wire.Text(0, WHERE_MAX_BYTES),
)
_SHORT_ARRAYS: Final = range(0x91, 0xA0)  # the heads of arrays of 1 to 15 elements
_KINDS: Final = range(1, 0x80)  # one byte each


@final
@frameless_init
@frozen(kw_only=True, repr=False, eq=False)
class Attachment(Redacted):
    """A file of any size, sealed on a store that nobody trusts: what names it, and opens it.

    It is as secret as the file, and prints its size and its receipt alone. Section 6.6.

    Attributes:
        key: What the chunks are sealed with.
        size: Bytes of the data.
        chunk_exponent: 16 to 24; a chunk has 2 to the power of it bytes of data.
        receipt: 32 bytes: what fixes every byte of the blob. Not secret.
        name: 0 to 255 bytes. What the peer calls it: hostile text, and never a path.
        media_type: 0 to 127 bytes. What the peer says that it is: hostile text, and no verdict.
        where: 0 to 2048 bytes; where the blob lies, in a form that the two applications know, or nothing. Hostile: who
            fetches from whatever address a peer names is led into its own network. Hold it against a list of your own.

    Raises:
        ArgumentInvalid: a field of another type, length or range.
    """

    key: AttachmentKey
    size: int
    chunk_exponent: int
    receipt: Receipt
    name: str = ""
    media_type: str = ""
    where: str = ""
    layout: Layout = field(init=False)

    def __attrs_post_init__(self) -> None:
        if not isinstance(self.key, AttachmentKey):
            raise ArgumentInvalid("key", "not an AttachmentKey")
        _set(self, "layout", Layout(self.size, self.chunk_exponent))
        _set(self, "receipt", Receipt(bytes_argument("receipt", self.receipt, RECEIPT_BYTES, RECEIPT_BYTES)))
        for name, most in TEXTS.items():
            _set(self, name, text_argument(name, getattr(self, name), 0, most))

    @property
    def padded_bytes(self) -> int:
        """Bytes of data and padding: what the store learns of the size."""
        return self.layout.padded_bytes

    @property
    def chunks(self) -> int:
        """How many chunks there are."""
        return self.layout.chunks

    @property
    def blob_bytes(self) -> int:
        """Bytes of the blob. No more than these are ever to be read of it."""
        return self.layout.blob_bytes

    @property
    def blob_id(self) -> bytes:
        """16 bytes: a name for the blob that both sides know, which tells nothing and cannot be guessed."""
        return blob_id_of(self.key)

    def encode(self) -> bytes:
        """Return the reference. It is as secret as the file."""
        return _wire.encode(
            [
                ATTACHMENT, self.key.reveal(), self.size, self.chunk_exponent,
                self.receipt, self.name, self.media_type, self.where,
            ]
        )  # fmt: skip

    @frameless
    def located(self, where: str) -> Attachment:
        """Return the same attachment with another `where`: an address is often known only once the blob lies there.

        Raises:
            ArgumentInvalid: not text of 0 to 2048 bytes.
        """
        return evolve(self, where=where)

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return _crypto.constant_time_equal(self.encode(), other.encode())

    def __repr__(self) -> str:
        return f"Attachment(size={self.size}, receipt={self.receipt.hex()}, <redacted>)"


TEXTS: Final = {"name": NAME_MAX_BYTES, "media_type": MEDIA_TYPE_MAX_BYTES, "where": WHERE_MAX_BYTES}


def _set(attachment: Attachment, name: str, value: object) -> None:
    object.__setattr__(attachment, name, value)


@final
@frozen(repr=False, eq=False)
class UnknownReference(Redacted):
    """A reference of a kind that this release does not know: handed up as it came. It may hold secrets.

    Attributes:
        kind: 2 to 127.
    """

    kind: int
    _encoded: bytes

    def encode(self) -> bytes:
        """Return the reference as it came."""
        return self._encoded

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return _crypto.constant_time_equal(self._encoded, other._encoded)

    def __repr__(self) -> str:
        return f"UnknownReference(kind={self.kind}, <redacted>)"


Reference = Attachment | UnknownReference


def blob_id_of(key: AttachmentKey) -> bytes:
    """Return the name of the blob of a key, 16 bytes. Section 6.6."""
    return _crypto.kdf(key.reveal(), BLOB, b"", BLOB_ID_BYTES)


@frameless
def parse_reference(encoded: BytesLike) -> Reference:
    """Return what a reference is of: an attachment, or something of an unknown kind.

    What an agent allows in size is not asked here but where it is opened, because a message is not refused for what it
    only names. Section 6.6.

    Raises:
        ArgumentInvalid: not bytes-like.
        TooLarge: more than 4,096 bytes.
        Malformed: no reference, or one that names nothing that can be sealed.
    """
    data = received_argument("encoded", encoded, REFERENCE_MAX_BYTES)
    kind = data[1] if len(data) > 1 and data[0] in _SHORT_ARRAYS and data[1] in _KINDS else None
    if kind is None:
        raise Malformed
    if kind != ATTACHMENT:
        return UnknownReference(kind, data)
    _, key, size, exponent, receipt, name, media_type, where = _wire.decode(data, _LAYOUT, REFERENCE_MAX_BYTES)
    try:
        return Attachment(
            key=AttachmentKey(key), size=size, chunk_exponent=exponent, receipt=receipt,
            name=name, media_type=media_type, where=where,
        )  # fmt: skip
    except ArgumentInvalid:
        pass
    raise Malformed
