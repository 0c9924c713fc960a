"""One chunk: what it is sealed under, its leaf in the index, and how it opens (docs/protocol.md, section 6.6)."""

from __future__ import annotations

from struct import Struct
from typing import Final

from agentmesh.attachments.sizes import LEAF_BYTES, Layout
from agentmesh.errors import DecryptionFailed
from agentmesh.primitives import _crypto
from agentmesh.primitives._labels import ATTACHMENT, CHUNK, LEAF
from agentmesh.primitives.aead import open_sealed, seal
from agentmesh.primitives.entropy import CheckedEntropy
from agentmesh.primitives.keys import AttachmentKey, Receipt

_INNER: Final = Struct(">QBB")  # number, exponent, 0
_LAST: Final = Struct(">QBBQ")  # number, exponent, 1, size of the data
_RECEIPT_HEAD: Final = Struct(">BQ")  # exponent, padded size


def seal_chunk(
    key: AttachmentKey, number: int, exponent: int, piece: bytes, entropy: CheckedEntropy, *, last_of: int | None
) -> bytes:
    """Return a chunk, 72 bytes longer than its piece; the nonce is fresh, whatever was sealed before.

    `last_of` is the size of the data where this is the last chunk, and `None` for every other.
    """
    nonce = entropy.token(_crypto.NONCE_BYTES)
    return seal(key.reveal(), CHUNK, _context(number, exponent, last_of), piece, nonce)


def open_chunk(key: AttachmentKey, layout: Layout, number: int, chunk: bytes) -> bytes:
    """Return the data of a chunk, without the zeros behind it. The caller has compared its leaf.

    Raises:
        DecryptionFailed: another length, key, place, exponent, number of chunks or size, or no zeros behind the data.
    """
    if len(chunk) == layout.range_of(number)[1]:
        context = _context(number, layout.chunk_exponent, layout.size if number == layout.last else None)
        piece = open_sealed(key.reveal(), CHUNK, context, chunk)
        data_bytes = layout.data_size(number)
        if piece.count(b"\x00", data_bytes) == len(piece) - data_bytes:
            return piece[:data_bytes]
        del piece  # a traceback keeps this frame
    raise DecryptionFailed


def chunk_again(key: AttachmentKey, layout: Layout, number: int, data: bytes, nonce: bytes) -> bytes:
    """Return the chunk that this data makes under this nonce, which must not leave: its nonce may have served another.

    It is only compared, through its leaf, with a chunk that was sealed.
    """
    context = _context(number, layout.chunk_exponent, layout.size if number == layout.last else None)
    zeros = bytes(layout.piece_size(number) - len(data))
    return seal(key.reveal(), CHUNK, context, data + zeros if zeros else data, nonce)


def leaf_of(chunk: bytes) -> bytes:
    """Return what stands for a chunk in the index: a hash of its sealed bytes, 32 bytes."""
    return _crypto.kdf(b"", LEAF, chunk, LEAF_BYTES)


def receipt_of(layout: Layout, index: bytes) -> Receipt:
    """Return the receipt of an attachment, 32 bytes: it fixes every byte of the blob, and needs no key."""
    head = ATTACHMENT + _RECEIPT_HEAD.pack(layout.chunk_exponent, layout.padded_bytes)
    return Receipt(_crypto.sha256_of_two(head, index))


def _context(number: int, exponent: int, last_of: int | None) -> bytes:
    return _INNER.pack(number, exponent, 0) if last_of is None else _LAST.pack(number, exponent, 1, last_of)
