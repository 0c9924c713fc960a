"""Whether bytes that a relay carried contain plaintext: a search for every run of 16 bytes of it.

Theory of operation. A run of 16 bytes that two texts share contains a block of 8 bytes that begins at a multiple of 8
in one of them. So one text is looked at every 8 bytes, the other at every byte, and only a block that both hold is
looked at closely. Every 8 bytes is enough for a whole plaintext, which keeps its index small; of a sample every byte is
taken, and then every 8 bytes of what was carried, which is the longer by far. Blocks are compared as 64-bit integers,
which keeps the work inside the interpreter's sets.

A plaintext of up to 2 MiB is searched for whole. Of a longer one a sample is taken, about 128 KiB in all: a stretch of
each chunk (of every n-th where there are more than 2,048), at a place that differs from chunk to chunk. So memory stays
flat.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import Final

from attrs import frozen

from agentmesh.cli.text import amount

WINDOW_BYTES: Final = 16
_BLOCK_BYTES: Final = 8
WHOLE_MAX_BYTES: Final = 2 << 20
SAMPLE_BYTES: Final = 128 << 10
_STRETCH_MIN_BYTES: Final = 4 * WINDOW_BYTES


@frozen
class Plaintext:
    """What is searched for.

    Attributes:
        stretches: Pieces of the plaintext.
        is_sample: The stretches are not the whole plaintext.
    """

    stretches: tuple[bytes, ...]
    is_sample: bool

    def describe(self) -> str:
        """Return how much is searched for."""
        count = sum(max(0, len(stretch) - WINDOW_BYTES + 1) for stretch in self.stretches)
        windows = f"{amount(count, 'windows')} of {WINDOW_BYTES} bytes"
        return f"a sample of {windows}" if self.is_sample else windows


class Counted:
    """Pieces of bytes, counted as they are read: a search that saw less than there was has found nothing out."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = pieces
        self.total_bytes: int = 0

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._pieces:
            self.total_bytes += len(piece)
            yield piece


def plaintext_of(chunks: Iterable[bytes], size_bytes: int, chunk_bytes: int) -> Plaintext:
    """Return what to search for of a plaintext that comes in chunks; `chunks` is read to its end.

    Args:
        chunks: The plaintext.
        size_bytes: Its size.
        chunk_bytes: The size of its chunks.
    """
    if size_bytes <= WHOLE_MAX_BYTES:
        return Plaintext((b"".join(chunks),), is_sample=False)
    length = max(_STRETCH_MIN_BYTES, SAMPLE_BYTES * chunk_bytes // size_bytes)
    step = length * size_bytes // (SAMPLE_BYTES * chunk_bytes) or 1
    stretches = []
    for number, chunk in enumerate(chunks):
        if number % step:
            continue
        # Multiples of the golden ratio spread evenly over any interval, so no place is favoured.
        place = number * 40503 % (1 << 16) * max(0, len(chunk) - length) >> 16
        stretches.append(chunk[place : place + length])
    return Plaintext(tuple(stretches), is_sample=True)


def find_leak(carried: Iterable[bytes], plaintext: Plaintext, public: Iterable[bytes] = ()) -> int | None:
    """Return a place in `carried` of 16 bytes that the plaintext holds too, or `None` if there is none.

    A window that is all one byte proves nothing and is passed over; so is one that lies within a public text.

    Args:
        carried: The bytes to search, in pieces.
        plaintext: What to search for.
        public: Texts that may stand in both, such as the agents' names.
    """
    index: set[int] = set()
    for stretch in plaintext.stretches:
        for blocks in _blocks(stretch, every_byte=plaintext.is_sample):
            index.update(blocks)
    innocent = set(_windows(b"".join(public)))
    kept, offset = b"", 0
    for piece in carried:
        data = kept + piece
        for blocks in _blocks(data, every_byte=not plaintext.is_sample):
            for block in index.intersection(blocks):
                place = _confirm(data, block.to_bytes(_BLOCK_BYTES, sys.byteorder), plaintext.stretches, innocent)
                if place is not None:
                    return offset + place
        # What follows may continue a window that begins here.
        kept = data[-2 * WINDOW_BYTES :]
        offset += len(data) - len(kept)
    return None


def _blocks(data: bytes, *, every_byte: bool) -> Iterator[memoryview[int]]:
    """Yield the blocks of `data` as integers: those at multiples of 8, or those at every byte, in eight views."""
    for phase in range(_BLOCK_BYTES if every_byte else 1):
        count = (len(data) - phase) // _BLOCK_BYTES
        if count > 0:
            yield memoryview(data)[phase : phase + count * _BLOCK_BYTES].cast("Q")


def _windows(text: bytes) -> Iterator[bytes]:
    for place in range(len(text) - WINDOW_BYTES + 1):
        yield text[place : place + WINDOW_BYTES]


def _confirm(data: bytes, block: bytes, stretches: tuple[bytes, ...], innocent: set[bytes]) -> int | None:
    """Return where a window around one of the places of `block` in `data` is plaintext; note those that are not."""
    at = data.find(block)
    while at >= 0:
        for place in range(max(0, at - _BLOCK_BYTES), at + 1):
            window = data[place : place + WINDOW_BYTES]
            if len(window) < WINDOW_BYTES or window in innocent:
                continue
            if len(set(window)) > 1 and any(window in stretch for stretch in stretches):
                return place
            innocent.add(window)
        at = data.find(block, at + 1)
    return None
