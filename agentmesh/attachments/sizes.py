"""How an attachment of some size lies in its blob: which bytes each chunk has, and where (docs/protocol.md, 6.6).

    blob = chunk_0 || ... || chunk_(n-1) || index        P + 104 * n bytes

Everything is computed from two numbers, the size of the data and the exponent of the chunk size. Nothing is ever found
by looking at what a store has.
"""

from __future__ import annotations

from typing import Final, final

from attrs import field, frozen

from agentmesh.errors import ArgumentInvalid
from agentmesh.limits import CHUNK_EXPONENT_MAX, CHUNK_EXPONENT_MIN, CHUNKS_MAX
from agentmesh.primitives.aead import OVERHEAD_BYTES
from agentmesh.primitives.arguments import uint_argument
from agentmesh.primitives.padding import padded_length

LEAF_BYTES: Final = 32
USUAL_EXPONENT: Final = 18  # 256 KiB: larger buffers are mapped and unmapped by the C library at every call
_USUAL_CHUNKS: Final = 1 << 16  # an index of 2 MiB: a larger file has larger chunks
CHUNK_EXPONENTS: Final = range(CHUNK_EXPONENT_MIN, CHUNK_EXPONENT_MAX + 1)
SIZE_MAX: Final = CHUNKS_MAX << CHUNK_EXPONENT_MAX


def exponent_for(size: int) -> int:
    """Return the exponent of the chunk size for data of a size that is known before: 18, or what 65,536 chunks need."""
    enough = (exponent for exponent in CHUNK_EXPONENTS if size <= _USUAL_CHUNKS << exponent)
    return max(USUAL_EXPONENT, next(enough, CHUNK_EXPONENT_MAX))


def exponent_argument(value: object) -> int:
    """Return `value`, if it is an exponent of a chunk size.

    Raises:
        ArgumentInvalid: not an int from 16 to 24.
    """
    return uint_argument("chunk_exponent", value, CHUNK_EXPONENT_MAX, CHUNK_EXPONENT_MIN)


@final
@frozen
class Layout:
    """Where the chunks of an attachment lie.

    Attributes:
        size: Bytes of the data.
        chunk_exponent: 16 to 24; a piece has 2 to the power of it bytes, the last one fewer.
        padded_bytes: Bytes of data and zeros together: all that a store learns of the size.
        chunks: How many there are, at least 1.

    Raises:
        ArgumentInvalid: another exponent, or a size that needs more than 2^20 chunks.
    """

    size: int = field()
    chunk_exponent: int = field()
    padded_bytes: int = field(init=False)
    chunks: int = field(init=False)

    def __attrs_post_init__(self) -> None:
        exponent_argument(self.chunk_exponent)
        uint_argument("size", self.size, SIZE_MAX)
        padded = padded_length(max(self.size, 1))
        chunks = -(-padded >> self.chunk_exponent)
        if chunks > CHUNKS_MAX:
            raise ArgumentInvalid("size", "over the limit", self.size, CHUNKS_MAX << self.chunk_exponent)
        object.__setattr__(self, "padded_bytes", padded)
        object.__setattr__(self, "chunks", chunks)

    @property
    def piece_bytes(self) -> int:
        """Bytes of every piece but the last."""
        return 1 << self.chunk_exponent

    @property
    def last(self) -> int:
        """The number of the last chunk."""
        return self.chunks - 1

    @property
    def index_bytes(self) -> int:
        """Bytes of the index."""
        return LEAF_BYTES * self.chunks

    @property
    def blob_bytes(self) -> int:
        """Bytes of the whole blob."""
        return self.padded_bytes + (OVERHEAD_BYTES + LEAF_BYTES) * self.chunks

    def piece_size(self, number: int) -> int:
        """Return the bytes of a piece, zeros included: 2^c, of the last 1 to 2^c."""
        return min(self.piece_bytes, self.padded_bytes - (number << self.chunk_exponent))

    def data_size(self, number: int) -> int:
        """Return how many bytes of a piece are data; the rest are zeros."""
        return max(0, min(self.piece_bytes, self.size - (number << self.chunk_exponent)))

    def range_of(self, number: int) -> tuple[int, int]:
        """Return (offset, length) of a chunk in the blob."""
        return number * (self.piece_bytes + OVERHEAD_BYTES), self.piece_size(number) + OVERHEAD_BYTES

    @property
    def tail_range(self) -> tuple[int, int]:
        """(offset, length) in the blob of the last chunk and the index behind it."""
        offset, length = self.range_of(self.last)
        return offset, length + self.index_bytes

    def chunks_for(self, offset: int, length: int) -> range:
        """Return the numbers of the chunks that hold `length` bytes of the data from `offset` on, as far as there are.

        Both are 0 or more. What lies behind the data is zeros, and is never named.
        """
        end = min(offset + length, self.size)
        if offset >= end:
            return range(0)
        return range(offset >> self.chunk_exponent, ((end - 1) >> self.chunk_exponent) + 1)
