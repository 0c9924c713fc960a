"""Opening an attachment: any chunk, in any order, each proved before a byte of it is handed over (section 6.6)."""

from __future__ import annotations

from typing import final

from agentmesh.attachments.chunks import chunk_again, leaf_of, open_chunk, receipt_of
from agentmesh.attachments.reference import Attachment
from agentmesh.attachments.sizes import LEAF_BYTES, Layout
from agentmesh.errors import (
    ArgumentInvalid,
    AttachmentOutOfTurn,
    ChunkBroken,
    DecryptionFailed,
    IndexBroken,
    TooLarge,
)
from agentmesh.limits import Limits
from agentmesh.primitives import _crypto
from agentmesh.primitives.arguments import BytesLike, bytes_argument, frameless, limits_argument, uint_argument
from agentmesh.primitives.keys import Redacted


@final
class AttachmentOpener(Redacted):
    """Opens one attachment from ranges of its blob: first the tail, then any chunk, in any order, as often as wanted.

    It says which bytes of the blob it needs; whoever has it fetches them, reads no others, and gives them to it. Where
    they are wrong, the error says so of *these bytes*, and nothing has changed: fetch them again, or elsewhere. Once
    the tail is taken, threads may open chunks at the same time. Section 6.6.
    """

    __slots__ = ("_attachment", "_index")

    @frameless
    def __init__(self, attachment: Attachment, *, limits: Limits | None = None) -> None:
        """Begin to open an attachment.

        Raises:
            ArgumentInvalid: not an `Attachment`, or not `Limits`.
            TooLarge: its data is larger than `limits.attachment_max_bytes`; nothing is to be fetched.
        """
        if not isinstance(attachment, Attachment):
            raise ArgumentInvalid("attachment", "not an Attachment")
        allowed = limits_argument(limits).attachment_max_bytes
        if attachment.size > allowed:
            raise TooLarge(attachment.size, allowed)
        self._attachment = attachment
        self._index: bytes | None = None

    @property
    def attachment(self) -> Attachment:
        """What is opened."""
        return self._attachment

    @property
    def layout(self) -> Layout:
        """How it lies in its blob."""
        return self._attachment.layout

    @property
    def tail_range(self) -> tuple[int, int]:
        """(offset, length) in the blob of the tail: the last chunk, and the index behind it."""
        return self._attachment.layout.tail_range

    @property
    def has_tail(self) -> bool:
        """Whether the tail was taken, so that chunks open."""
        return self._index is not None

    @frameless
    def take_tail(self, tail: BytesLike) -> bytes:
        """Take the bytes of `tail_range`, and return the data of the last chunk: all of it, for a small attachment.

        It proves key, size, chunk size and number of chunks, and that this is the index. It may be taken again.

        Raises:
            ArgumentInvalid: not bytes-like.
            IndexBroken: another length, or an index that does not give the receipt.
            ChunkBroken: the last chunk does not open.
        """
        layout = self._attachment.layout
        tail = bytes_argument("tail", tail)
        chunk_bytes = layout.range_of(layout.last)[1]
        index = tail[chunk_bytes:]
        if len(tail) != chunk_bytes + layout.index_bytes or not _crypto.constant_time_equal(
            receipt_of(layout, index), self._attachment.receipt
        ):
            raise IndexBroken
        data = self._open(layout.last, tail[:chunk_bytes], index)
        self._index = index
        return data

    def range_of(self, number: int) -> tuple[int, int]:
        """Return (offset, length) in the blob of a chunk.

        Raises:
            ArgumentInvalid: there is no such chunk.
        """
        layout = self._attachment.layout
        return layout.range_of(uint_argument("number", number, layout.last))

    def chunks_for(self, offset: int, length: int) -> range:
        """Return the numbers of the chunks that hold `length` bytes of the data from `offset` on, as far as there are.

        Raises:
            ArgumentInvalid: not two numbers from 0 up.
        """
        return self._attachment.layout.chunks_for(uint_argument("offset", offset), uint_argument("length", length))

    @frameless
    def open(self, number: int, chunk: BytesLike) -> bytes:
        """Return the data of a chunk, from the bytes of `range_of(number)`; nothing for one of padding alone.

        Raises:
            AttachmentOutOfTurn: the tail was not taken.
            ArgumentInvalid: there is no such chunk, or not bytes-like.
            ChunkBroken: these bytes are not that chunk.
        """
        uint_argument("number", number, self._attachment.layout.last)
        chunk = bytes_argument("chunk", chunk)
        if self._index is None:
            raise AttachmentOutOfTurn
        return self._open(number, chunk, self._index)

    @frameless
    def check(self, number: int, data: BytesLike, nonce: BytesLike) -> bytes:
        """Return data that a chunk gave before, if it still is what the chunk gave: made again, it has the same leaf.

        So a reader that kept data where others may write verifies it without the chunk, of which it kept the nonce.

        Args:
            number: Which chunk, from 0.
            data: What `open` gave for it.
            nonce: The first 24 bytes of the chunk.

        Raises:
            AttachmentOutOfTurn: the tail was not taken.
            ArgumentInvalid: there is no such chunk, not bytes-like, or a nonce of another length.
            ChunkBroken: it is not what that chunk gives, or not its nonce.
        """
        layout = self._attachment.layout
        uint_argument("number", number, layout.last)
        data = bytes_argument("data", data)
        nonce = bytes_argument("nonce", nonce, _crypto.NONCE_BYTES, _crypto.NONCE_BYTES)
        if self._index is None:
            raise AttachmentOutOfTurn
        if len(data) == layout.data_size(number):
            chunk = chunk_again(self._attachment.key, layout, number, data, nonce)
            if leaf_of(chunk) == self._index[number * LEAF_BYTES : (number + 1) * LEAF_BYTES]:
                return data
        raise ChunkBroken(number)

    def _open(self, number: int, chunk: bytes, index: bytes) -> bytes:
        leaf = index[number * LEAF_BYTES : (number + 1) * LEAF_BYTES]
        if len(chunk) == self._attachment.layout.range_of(number)[1] and leaf_of(chunk) == leaf:
            try:
                return open_chunk(self._attachment.key, self._attachment.layout, number, chunk)
            except DecryptionFailed:
                pass
        raise ChunkBroken(number)
