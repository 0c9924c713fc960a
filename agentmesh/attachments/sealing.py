"""Sealing an attachment: bytes in, chunks out, in constant memory (docs/protocol.md, section 6.6)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, final

from agentmesh.attachments.chunks import leaf_of, open_chunk, receipt_of, seal_chunk
from agentmesh.attachments.reference import TEXTS, Attachment, blob_id_of
from agentmesh.attachments.sizes import LEAF_BYTES, SIZE_MAX, USUAL_EXPONENT, Layout, exponent_argument, exponent_for
from agentmesh.errors import (
    ArgumentInvalid,
    AttachmentOutOfTurn,
    ChunkBroken,
    DecryptionFailed,
    Malformed,
    StateMalformed,
    StateVersionUnknown,
    StoreError,
    TooLarge,
)
from agentmesh.limits import CHUNK_EXPONENT_MAX, CHUNKS_MAX
from agentmesh.primitives import _crypto, _wire
from agentmesh.primitives.aead import OVERHEAD_BYTES
from agentmesh.primitives.arguments import BytesLike, bytes_argument, frameless, text_argument, uint_argument
from agentmesh.primitives.entropy import CheckedEntropy, Entropy, SystemEntropy, check_entropy
from agentmesh.primitives.keys import AttachmentKey, Redacted

_VERSION: Final = 1
_EXPORT_MAX_BYTES: Final = CHUNKS_MAX * LEAF_BYTES + 4096
_EXPORTED: Final = _wire.array(
    _wire.Uint(),
    _wire.Bin(_crypto.KEY_BYTES),
    _wire.Maybe(_wire.Uint(SIZE_MAX)),
    _wire.Uint(CHUNK_EXPONENT_MAX),
    *(_wire.Text(0, most) for most in TEXTS.values()),
    _wire.Bin(0, CHUNKS_MAX * LEAF_BYTES),
)


@final
class AttachmentSealer(Redacted):
    """Seals one attachment: give it the data with `update`, write down the chunks, in order, then those of `finish`.

    It keeps one piece of the data and 32 bytes for each chunk. All chunks and the index, in order, are the blob. Where
    `size` is given, chunks may be made in any order, and in several threads, with `seal_chunk`; `take_leaf` then says
    that one has its place in the blob. All other calls belong to one thread at a time. Section 6.6.

    Sealed bytes are never made a second time: whoever repeats a chunk, after a crash say, makes other bytes, and what
    the index says in the end is what counts. A call that was broken off may have counted what it did not return: go on
    from an `export()` that was made before.
    """

    __slots__ = ("_chunk_exponent", "_entropy", "_index", "_key", "_layout", "_progress", "_texts")

    @frameless
    def __init__(
        self,
        *,
        name: str = "",
        media_type: str = "",
        where: str = "",
        size: int | None = None,
        chunk_exponent: int | None = None,
        entropy: Entropy | None = None,
    ) -> None:
        """Begin an attachment, under a key of its own.

        Args:
            name: What the recipient is to call it, 0 to 255 bytes.
            media_type: What it is, 0 to 127 bytes.
            where: Where the blob will lie, 0 to 2048 bytes; `Attachment.located` says it later.
            size: Bytes of the data, where that is known before; other data is then refused.
            chunk_exponent: 16 to 24, chunks of 64 KiB to 16 MiB; 18, or what `size` needs for 65,536 chunks.
            entropy: A source of randomness; the operating system's if `None`. Threads share it.

        Raises:
            ArgumentInvalid: an argument of another type, length or range; a size that needs more than 2^20 chunks.
            RandomnessFailed: the source is stuck or broken.
        """
        texts = {"name": name, "media_type": media_type, "where": where}
        self._texts = {name: text_argument(name, texts[name], 0, most) for name, most in TEXTS.items()}
        if size is not None:
            uint_argument("size", size, SIZE_MAX)
        if chunk_exponent is None:
            chunk_exponent = USUAL_EXPONENT if size is None else exponent_for(size)
        self._chunk_exponent: int = exponent_argument(chunk_exponent)
        self._layout = None if size is None else Layout(size, chunk_exponent)
        self._entropy = _checked(entropy)
        self._key = AttachmentKey(self._entropy.token(_crypto.KEY_BYTES))
        self._index = bytearray()
        # Chunks that are in the index, and data behind them that is not sealed yet; one value, so that both change at
        # once. What stands in the index behind that many leaves is nothing.
        self._progress: tuple[int, bytes | bytearray] = (0, b"")

    # --- what is known of it -----------------------------------------------------------------------------------------

    @property
    def blob_id(self) -> bytes:
        """16 bytes: a name for the blob that both sides know, before the first chunk is sealed."""
        return blob_id_of(self._key)

    @property
    def chunk_exponent(self) -> int:
        """16 to 24: a chunk has 2 to the power of it bytes of data."""
        return self._chunk_exponent

    @property
    def layout(self) -> Layout | None:
        """How the attachment lies in its blob, once its size is known."""
        return self._layout

    @property
    def chunks_sealed(self) -> int:
        """How many chunks are in the index."""
        return self._progress[0]

    @property
    def position(self) -> int:
        """How many bytes of the data are in those chunks: where to go on in the source after `restore`."""
        reached = self._progress[0] << self._chunk_exponent
        return reached if self._layout is None else min(reached, self._layout.size)

    @property
    def blob_position(self) -> int:
        """How many bytes of the blob those chunks are: where to go on in it."""
        count, overhead = self._progress[0], self._progress[0] * OVERHEAD_BYTES
        reached = count << self._chunk_exponent
        return overhead + (reached if self._layout is None else min(reached, self._layout.padded_bytes))

    @property
    def attachment(self) -> Attachment:
        """The reference, once every chunk is sealed. It must not be sent before the blob can be fetched.

        Raises:
            AttachmentOutOfTurn: there are chunks to come: those of `finish`, if no others.
        """
        layout = self._layout
        if layout is None or self._progress[0] < layout.chunks:
            raise AttachmentOutOfTurn
        return Attachment(
            key=self._key,
            size=layout.size,
            chunk_exponent=layout.chunk_exponent,
            receipt=receipt_of(layout, self._leaves()),
            **self._texts,
        )

    # --- sealing in order --------------------------------------------------------------------------------------------

    @frameless
    def update(self, data: BytesLike) -> list[bytes]:
        """Return the chunks that `data` completes, the next in order; often none.

        Args:
            data: The next bytes of the data, as many as are at hand. A call returns about as much as it was given.

        Raises:
            ArgumentInvalid: not bytes-like, or more data than an attachment of this exponent, or of `size`, has.
            RandomnessFailed: the source of randomness broke.
        """
        data = bytes_argument("data", data)
        count, held = self._progress
        total = self.position + len(held) + len(data)
        most = CHUNKS_MAX << self._chunk_exponent if self._layout is None else self._layout.size
        if total > most:
            raise ArgumentInvalid("data", "over the limit", total, most)
        complete = self._complete_at(total)
        if complete <= count:
            self._hold(held, data)
            return []
        chunks, leaves, at = [], [], 0
        for number in range(count, complete):
            needed = min(total - (number << self._chunk_exponent), 1 << self._chunk_exponent) - len(held)
            chunk = self._seal(number, _joined(held, data, at, at + needed))
            chunks.append(chunk)
            leaves.append(leaf_of(chunk))
            held, at = b"", at + needed
        self._commit(count, leaves, data[at:])
        return chunks

    @frameless
    def finish(self) -> Iterator[bytes]:
        """Return the chunks that are left, and then the index, one by one: all the data has been given.

        There may be many, up to an eighth of all, because the data is padded. An iterator that is left may be asked for
        again, and goes on where the last chunk was taken.

        Raises:
            ArgumentInvalid: `size` was given, and this is not so much data; or the source of a sealer that was restored
                ends where there was more before, and nothing can mark the end any more.
        """
        count, held = self._progress
        total = self.position + len(held)
        layout = Layout(total, self._chunk_exponent) if self._layout is None else self._layout
        if total != layout.size:
            raise ArgumentInvalid("size", "not what the data has", total, layout.size)
        if self._layout is None and count >= layout.chunks:
            raise ArgumentInvalid(
                "data", "less than there was before", total
            )  # the last chunk was sealed as an inner one
        self._layout = layout
        return self._remaining(layout)

    def _remaining(self, layout: Layout) -> Iterator[bytes]:
        while self._progress[0] < layout.chunks:
            yield self._next()
        yield self._leaves()

    @frameless
    def _next(self) -> bytes:
        count, held = self._progress
        chunk = self._seal(count, bytes(held))
        self._commit(count, [leaf_of(chunk)], b"")
        return chunk

    # --- sealing in any order ----------------------------------------------------------------------------------------

    @frameless
    def seal_chunk(self, number: int, piece: BytesLike) -> tuple[bytes, bytes]:
        """Return (chunk, leaf) of one piece; nothing changes, so threads may call it at the same time.

        Args:
            number: Which chunk, from 0.
            piece: All its data: `layout.data_size(number)` bytes. The zeros behind it are made here.

        Raises:
            AttachmentOutOfTurn: the size is not known.
            ArgumentInvalid: no such chunk, not bytes-like, or another length.
            RandomnessFailed: the source of randomness broke.
        """
        layout = self._layout
        if layout is None:
            raise AttachmentOutOfTurn
        uint_argument("number", number, layout.last)
        data_bytes = layout.data_size(number)
        chunk = self._seal(number, bytes_argument("piece", piece, data_bytes, data_bytes))
        return chunk, leaf_of(chunk)

    @frameless
    def leaf_of_kept(self, number: int, piece: BytesLike, chunk: BytesLike) -> bytes:
        """Return the leaf of a chunk that was sealed before a restart, if it is of this very piece; nothing changes.

        Args:
            number: Which chunk, from 0.
            piece: All its data, as it is in the source now.
            chunk: The chunk, from where it was written to.

        Raises:
            AttachmentOutOfTurn: the size is not known.
            ArgumentInvalid: no such chunk, or not bytes-like.
            ChunkBroken: it does not open under this key at this place, or gives something else. Seal the piece again.
        """
        layout = self._layout
        if layout is None:
            raise AttachmentOutOfTurn
        uint_argument("number", number, layout.last)
        piece, chunk = bytes_argument("piece", piece), bytes_argument("chunk", chunk)
        try:
            if open_chunk(self._key, layout, number, chunk) == piece:
                return leaf_of(chunk)
        except DecryptionFailed:
            pass
        raise ChunkBroken(number)

    @frameless
    def take_leaf(self, number: int, leaf: BytesLike) -> None:
        """Take it that a chunk has its place in the blob: the next one, or one that was taken before and is replaced.

        Raises:
            AttachmentOutOfTurn: the size is not known, the chunk is not the next, or `update` holds data of it.
            ArgumentInvalid: no such chunk, or no leaf.
        """
        layout = self._layout
        count, held = self._progress
        if layout is None:
            raise AttachmentOutOfTurn
        uint_argument("number", number, layout.last)
        leaf = bytes_argument("leaf", leaf, LEAF_BYTES, LEAF_BYTES)
        if number > count or (number == count and held):
            raise AttachmentOutOfTurn
        if number == count:
            self._commit(count, [leaf], b"")
        else:
            self._index[number * LEAF_BYTES : (number + 1) * LEAF_BYTES] = leaf

    # --- going on after a restart ------------------------------------------------------------------------------------

    def export(self) -> bytes:
        """Return what `restore` goes on from: key, sizes, texts and index, as secret as the file. Data is not in it."""
        size = None if self._layout is None else self._layout.size
        body = _wire.encode(
            [_VERSION, self._key.reveal(), size, self._chunk_exponent, *self._texts.values(), self._leaves()]
        )
        return _wire.encode_pair(body, _crypto.sha256(body))

    @classmethod
    @frameless
    def restore(cls, exported: BytesLike, *, entropy: Entropy | None = None) -> AttachmentSealer:
        """Return the sealer that was exported: give it the data from `position` on, and write from `blob_position` on.

        The source may have changed: what was sealed stays, and what is sealed from now on is what is there now.

        Raises:
            ArgumentInvalid: not bytes-like.
            StateVersionUnknown: written by a newer release.
            StateMalformed: anything else; nothing was restored.
            RandomnessFailed: the source is stuck or broken.
        """
        exported = bytes_argument("exported", exported)
        wrong: type[StoreError] = StateMalformed
        try:
            body, checksum = _wire.decode_pair(exported, _EXPORT_MAX_BYTES)
            if checksum != _crypto.sha256(body):
                raise Malformed
            if _wire.peek_version(body) != _VERSION:
                wrong = StateVersionUnknown
                raise Malformed
            fields = _wire.decode(body, _EXPORTED, _EXPORT_MAX_BYTES)
            return cls._restored(fields, entropy)
        except (ArgumentInvalid, Malformed, TooLarge):
            pass
        raise wrong

    @classmethod
    def _restored(cls, fields: list[Any], entropy: Entropy | None) -> AttachmentSealer:
        _, key, size, exponent, name, media_type, where, index = fields
        sealer = cls(name=name, media_type=media_type, where=where, size=size, chunk_exponent=exponent, entropy=entropy)
        chunks, left_over = divmod(len(index), LEAF_BYTES)
        if left_over or (sealer._layout is not None and chunks > sealer._layout.chunks):
            raise Malformed
        sealer._key = AttachmentKey(key)
        sealer._index = bytearray(index)
        sealer._progress = (chunks, b"")
        return sealer

    # --- the parts of it ---------------------------------------------------------------------------------------------

    def _complete_at(self, total: int) -> int:
        """Return how many pieces so much data completes. Where more may come, the last one may be the last of all."""
        if self._layout is not None and total == self._layout.size:
            return -(-total >> self._chunk_exponent)
        return (total - (self._layout is None)) >> self._chunk_exponent if total else 0

    def _hold(self, held: bytes | bytearray, data: bytes) -> None:
        if not held:
            self._progress = (self._progress[0], data)  # no copy: often this is all of a piece
        elif isinstance(held, bytearray):
            held += data
        elif data:
            self._progress = (self._progress[0], bytearray(held) + data)

    def _seal(self, number: int, data: bytes) -> bytes:
        """Return a chunk of a piece's data; there are zeros behind it only where the size is known."""
        layout, last_of = self._layout, None
        if layout is not None:
            last_of = layout.size if number == layout.last else None
            zeros = layout.piece_size(number) - len(data)
            data = data + bytes(zeros) if zeros else data
        return seal_chunk(self._key, number, self._chunk_exponent, data, self._entropy, last_of=last_of)

    def _commit(self, count: int, leaves: list[bytes], held: bytes) -> None:
        self._index[count * LEAF_BYTES :] = b"".join(leaves)
        self._progress = (count + len(leaves), held)

    def _leaves(self) -> bytes:
        return bytes(memoryview(self._index)[: self._progress[0] * LEAF_BYTES])


def _joined(held: bytes | bytearray, data: bytes, begin: int, end: int) -> bytes:
    """Return what is held and a part of the data, copied once or, where it is one of the two, not at all."""
    if not held:
        return data[begin:end]
    return b"".join((held, memoryview(data)[begin:end])) if begin < end or type(held) is not bytes else held


def _checked(entropy: Entropy | None) -> CheckedEntropy:
    source = SystemEntropy() if entropy is None else entropy
    check_entropy(source)
    return CheckedEntropy(source)
