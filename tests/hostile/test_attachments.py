"""Attachments against whoever keeps the blob, whoever has the key, and whoever sealed it.

What is handed over of a blob is always what its sealer put there, and where a part is missing or another, it is refused
before a byte of it is. AGENTMESH_DEPTH multiplies the inputs of the long runs: 500 makes them a million each.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import attrs
import pytest
from attrs import frozen
from hypothesis import given, settings
from hypothesis import strategies as st

from agentmesh.attachments import (
    Attachment,
    AttachmentOpener,
    AttachmentSealer,
    Layout,
    UnknownReference,
    parse_reference,
)
from agentmesh.attachments.chunks import leaf_of, receipt_of, seal_chunk
from agentmesh.errors import AttachmentBroken, ChunkBroken, IndexBroken, Malformed, TooLarge
from agentmesh.limits import REFERENCE_MAX_BYTES, Limits
from agentmesh.primitives.entropy import CheckedEntropy, SystemEntropy
from agentmesh.primitives.keys import AttachmentKey, Receipt
from agentmesh.testing import SeededEntropy

DEPTH = int(os.environ.get("AGENTMESH_DEPTH") or "1")
INPUTS = 2000 * DEPTH
C = 1 << 16
SEALED = C + 72
ENTROPY = CheckedEntropy(SystemEntropy())
ROOMY = Limits(attachment_max_bytes=1 << 44)
EDGES = [0, 1, 63, 64, 65, C - 1, C, C + 1, 2 * C]
sizes = st.sampled_from(EDGES) | st.integers(0, 3 * C)
brisk = settings(max_examples=max(1, settings().max_examples // 4))


def data_of(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


@frozen
class Blob:
    """An attachment, its data, and its blob in parts."""

    attachment: Attachment
    data: bytes
    chunks: tuple[bytes, ...]
    index: bytes

    @property
    def whole(self) -> bytes:
        return b"".join(self.chunks) + self.index

    def piece(self, number: int) -> bytes:
        return self.data[number * C : (number + 1) * C]

    def with_chunks(self, chunks: tuple[bytes, ...] | list[bytes], *, index: bool = False) -> bytes:
        """The blob with other chunks, and, if asked for, an index that is theirs."""
        return b"".join(chunks) + (b"".join(map(leaf_of, chunks)) if index else self.index)


@cache
def sealed(size: int, seed: int = 0) -> Blob:
    data = data_of(size, seed)
    sealer = AttachmentSealer(chunk_exponent=16, entropy=SeededEntropy(f"{size}/{seed}"))
    *chunks, index = [*sealer.update(data), *sealer.finish()]
    return Blob(sealer.attachment, data, tuple(chunks), index)


def forged(attachment: Attachment, pieces: list[bytes], contexts: Layout | None = None) -> tuple[Attachment, bytes]:
    """What somebody who has the key, and no scruples, can make of any pieces: chunks, index and receipt fit."""
    layout = contexts or attachment.layout
    last = len(pieces) - 1
    chunks = [
        seal_chunk(attachment.key, i, layout.chunk_exponent, piece, ENTROPY, last_of=layout.size if i == last else None)
        for i, piece in enumerate(pieces)
    ]
    index = b"".join(map(leaf_of, chunks))
    return attrs.evolve(attachment, receipt=receipt_of(layout, index)), b"".join(chunks) + index


# --- a reader that trusts nothing -------------------------------------------------------------------------------------

Fetch = Callable[[int, int], bytes]


def fetch_of(blob: bytes) -> Fetch:
    return lambda offset, length: blob[offset : offset + length]


def handed_over(attachment: Attachment, fetch: Fetch) -> Iterator[tuple[int, bytes]]:
    """Every piece that a reader gets, with its number, before what is refused."""
    opener = AttachmentOpener(attachment)
    yield attachment.chunks - 1, opener.take_tail(fetch(*opener.tail_range))
    for number in reversed(range(attachment.chunks)):
        yield number, opener.open(number, fetch(*opener.range_of(number)))


def refused(
    blob: Blob, altered: bytes | Fetch, error: type[AttachmentBroken] = AttachmentBroken, number: int | None = None
) -> None:
    """Assert that a blob is refused, and that what was handed over before was genuine."""
    pieces = handed_over(blob.attachment, altered if callable(altered) else fetch_of(altered))
    got: list[tuple[int, bytes]] = []
    with pytest.raises(error) as caught:
        got.extend(pieces)
    assert all(piece == blob.piece(which) for which, piece in got)
    assert caught.value.__context__ is None
    if number is not None:
        assert isinstance(caught.value, ChunkBroken)
        assert caught.value.number == number
        assert f"chunk {number}" in str(caught.value)


def nothing_handed_over(attachment: Attachment, altered: bytes, error: type[AttachmentBroken]) -> None:
    """Assert that not even the tail is taken, and that chunks are then not opened either."""
    opener = AttachmentOpener(attachment)
    offset, length = opener.tail_range
    with pytest.raises(error):
        opener.take_tail(altered[offset : offset + length])
    assert not opener.has_tail


def test_the_reader_reads_what_is_there() -> None:
    for size in EDGES:
        blob = sealed(size)
        pieces = dict(handed_over(blob.attachment, fetch_of(blob.whole)))
        assert b"".join(pieces[number] for number in sorted(pieces)) == blob.data


# --- a store that cuts, extends, moves and mixes ----------------------------------------------------------------------


@pytest.mark.parametrize("size", EDGES)
def test_truncation_anywhere(size: int) -> None:
    blob = sealed(size)
    whole = blob.whole
    for cut in {0, 1, 31, 32, 33, 64, 71, 72, 135, SEALED, SEALED + 32, len(whole) // 2}:
        if 0 < cut <= len(whole):
            refused(blob, whole[:-cut])
            refused(blob, whole[cut:])


@pytest.mark.parametrize("size", [C + 1, 2 * C, 3 * C])
def test_a_cut_at_a_chunk_with_an_index_to_match(size: int) -> None:
    blob = sealed(size)
    n = len(blob.chunks)
    for fewer in range(1, n):
        kept = blob.chunks[:fewer]
        refused(blob, blob.with_chunks(kept, index=True), IndexBroken)
        refused(blob, blob.with_chunks(kept), IndexBroken)
        # As if the data ended there: what lies at the end is what a shorter attachment would have.
        shorter = attrs.evolve(blob.attachment, size=fewer * C)
        nothing_handed_over(shorter, blob.with_chunks(kept, index=True), IndexBroken)
        # And with a receipt of its own, which only its sealer, or who has the key, could send: still no last chunk.
        index = blob.index[: 32 * fewer]
        lie = attrs.evolve(shorter, receipt=receipt_of(shorter.layout, index))
        nothing_handed_over(lie, b"".join(kept) + index, ChunkBroken)


@pytest.mark.parametrize("size", [3 * C - 5, 3 * C])
def test_chunks_in_another_order_twice_or_dropped(size: int) -> None:
    blob = sealed(size)
    a, b, c = blob.chunks
    for chunks in ([b, a, c], [a, c, b], [a, a, c], [b, b, c], [a, c], [b, c], [a, b, b, c], [a, b, c, c], [c, b, a]):
        for index in (True, False):
            refused(blob, blob.with_chunks(chunks, index=index))
    refused(blob, blob.with_chunks([b, a, c]), ChunkBroken, 1)


@given(sizes, st.binary(min_size=1, max_size=200))
@brisk
def test_what_is_appended_is_never_read(size: int, more: bytes) -> None:
    blob = sealed(size)
    pieces = dict(handed_over(blob.attachment, fetch_of(blob.whole + more)))
    assert b"".join(pieces[number] for number in sorted(pieces)) == blob.data
    nothing_handed_over(blob.attachment, more + blob.whole, IndexBroken)
    opener = AttachmentOpener(blob.attachment)
    tail = blob.whole[opener.tail_range[0] :]
    for altered in (tail + more, tail[: len(tail) - len(blob.index)] + more + blob.index):
        with pytest.raises(IndexBroken):
            opener.take_tail(altered)
    opener.take_tail(tail)
    with pytest.raises(ChunkBroken):
        opener.open(0, blob.chunks[0] + more)


def test_a_chunk_or_a_leaf_of_another_attachment() -> None:
    mine, other = sealed(2 * C + 9), sealed(2 * C + 9, 1)
    for number in range(3):
        chunks = list(mine.chunks)
        chunks[number] = other.chunks[number]
        refused(mine, mine.with_chunks(chunks), ChunkBroken, number)
        refused(mine, mine.with_chunks(chunks, index=True), IndexBroken)
        leaf = other.index[32 * number : 32 * number + 32]
        index = mine.index[: 32 * number] + leaf + mine.index[32 * number + 32 :]
        refused(mine, b"".join(mine.chunks) + index, IndexBroken)
    refused(mine, other.whole, IndexBroken)
    refused(mine, b"".join(other.chunks) + mine.index, ChunkBroken, 2)


@given(sizes, st.data())
@brisk
def test_a_bit_of_the_blob(size: int, data: st.DataObject) -> None:
    blob = sealed(size)
    whole = bytearray(blob.whole)
    at = data.draw(st.integers(0, len(whole) - 1) | st.sampled_from([0, 23, 24, 55, 56, 71, 72, len(whole) - 1]))
    whole[at] ^= 1 << data.draw(st.integers(0, 7))
    if at >= blob.attachment.layout.blob_bytes - len(blob.index):
        refused(blob, bytes(whole), IndexBroken)
    else:
        refused(blob, bytes(whole), ChunkBroken, at // SEALED)


# --- a store that answers otherwise than it was asked -----------------------------------------------------------------


@given(sizes, st.sampled_from(["short", "long", "shifted", "random", "empty", "the beginning"]), st.randoms())
@brisk
def test_answers_that_are_not_what_was_asked(size: int, how: str, source: random.Random) -> None:
    blob = sealed(size)
    whole, left = blob.whole, source.choice([0, 1])  # it begins at the tail, or behind it

    def answers(offset: int, length: int) -> bytes:
        nonlocal left
        left -= 1
        genuine = whole[offset : offset + length]
        if left >= 0:
            return genuine
        if how == "short":
            return genuine[: -source.randint(1, length)]
        if how == "long":
            return genuine + source.randbytes(source.randint(1, 99))
        if how == "shifted":
            shift = source.choice([-72, -1, 1, 72])
            return (whole + bytes(72))[max(0, offset + shift) :][:length] if offset + shift >= 0 else genuine[1:] + b"0"
        if how == "the beginning":
            return whole[:length] if offset else genuine[::-1]
        return b"" if how == "empty" else source.randbytes(length)

    refused(blob, answers)


def test_a_reader_that_was_refused_goes_on_with_the_right_bytes() -> None:
    blob = sealed(2 * C + 9)
    opener = AttachmentOpener(blob.attachment)
    tail = blob.whole[opener.tail_range[0] :]
    for wrong in (b"", tail[:-1], bytes(len(tail)), tail + b"x", blob.chunks[0]):
        with pytest.raises(IndexBroken):
            opener.take_tail(wrong)
    assert opener.take_tail(tail) == blob.piece(2)
    for number, chunk in enumerate(blob.chunks):
        for wrong in (b"", chunk[:-1], bytes(len(chunk)), blob.chunks[(number + 1) % 3]):
            with pytest.raises(ChunkBroken):
                opener.open(number, wrong)
        with pytest.raises(IndexBroken):
            opener.take_tail(bytes(len(tail)))  # what was proved stays proved
        assert opener.open(number, chunk) == blob.piece(number)


# --- whoever has the key ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [100, C + 1, 2 * C])
@pytest.mark.parametrize("with_leaf", [True, False])
def test_a_chunk_sealed_anew_by_who_has_the_key(size: int, with_leaf: bool) -> None:
    blob = sealed(size)
    layout = blob.attachment.layout
    for number in range(layout.chunks):
        for piece in (bytes(layout.piece_size(number)), blob.piece(number).ljust(layout.piece_size(number), b"\0")):
            last_of = size if number == layout.last else None
            chunks = list(blob.chunks)
            chunks[number] = seal_chunk(blob.attachment.key, number, 16, piece, ENTROPY, last_of=last_of)
            if with_leaf:
                refused(blob, blob.with_chunks(chunks, index=True), IndexBroken)
            else:
                refused(blob, blob.with_chunks(chunks), ChunkBroken, number)


@pytest.mark.parametrize(
    ("size", "number", "at"), [(1, 0, 1), (1, 0, 63), (65, 0, 71), (C + 1, 1, 1), (C + 1, 1, 2047)]
)
def test_hidden_bytes_in_the_padding(size: int, number: int, at: int) -> None:
    blob = sealed(size)
    layout = blob.attachment.layout
    pieces = [bytearray(blob.piece(i).ljust(layout.piece_size(i), b"\0")) for i in range(layout.chunks)]
    honest, whole = forged(blob.attachment, [bytes(piece) for piece in pieces])
    assert list(handed_over(honest, fetch_of(whole)))
    pieces[number][at] = 1
    attachment, whole = forged(blob.attachment, [bytes(piece) for piece in pieces])
    nothing_handed_over(attachment, whole, ChunkBroken)


def test_hidden_bytes_in_a_chunk_of_padding_alone() -> None:
    # The one before the last: 128 chunks and a byte have padding of more than two chunks.
    attachment = attrs.evolve(sealed(100).attachment, size=128 * C + 1)
    layout = attachment.layout
    assert layout.data_size(layout.last - 1) == 0
    pieces = [bytes(layout.piece_size(i)) for i in range(layout.chunks)]
    honest, whole = forged(attachment, pieces)
    opener = AttachmentOpener(honest)
    assert opener.take_tail(whole[opener.tail_range[0] :]) == b""
    offset, length = opener.range_of(layout.last - 1)
    assert opener.open(layout.last - 1, whole[offset : offset + length]) == b""
    pieces[-2] = b"\x01" + pieces[-2][1:]
    lie, whole = forged(attachment, pieces)
    opener = AttachmentOpener(lie)
    opener.take_tail(whole[opener.tail_range[0] :])
    with pytest.raises(ChunkBroken):
        opener.open(layout.last - 1, whole[offset : offset + length])


@pytest.mark.parametrize("size", [63, C, C + 1, 2 * C - 1])
def test_a_lie_about_key_size_or_exponent_under_a_fixed_receipt(size: int) -> None:
    blob = sealed(size)
    attachment, whole = blob.attachment, blob.whole
    key = bytearray(attachment.key.reveal())
    key[31] ^= 1
    nothing_handed_over(attrs.evolve(attachment, key=AttachmentKey(key)), whole, ChunkBroken)
    for other in (size + 1, size - 1, 0, 1, size + 64, 2 * size, size + (1 << 32)):
        if other != size and other <= 1 << 36:
            lie = attrs.evolve(attachment, size=other)
            same = lie.padded_bytes == attachment.padded_bytes
            nothing_handed_over(lie, whole, ChunkBroken if same else IndexBroken)
    for exponent in (17, 18, 24):
        nothing_handed_over(attrs.evolve(attachment, chunk_exponent=exponent), whole, IndexBroken)


def test_a_lie_about_the_exponent_with_a_receipt_to_match() -> None:
    # One chunk of 64 bytes lies the same way under every exponent: its context is what tells them apart.
    blob = sealed(10)
    lie = attrs.evolve(blob.attachment, chunk_exponent=20)
    lie = attrs.evolve(lie, receipt=receipt_of(lie.layout, blob.index))
    nothing_handed_over(lie, blob.whole, ChunkBroken)


def test_an_inner_chunk_is_no_last_one_and_a_last_one_no_inner() -> None:
    blob = sealed(2 * C)
    key = blob.attachment.key
    for flags in ((None, None), (2 * C, 2 * C), (2 * C, None), (None, 2 * C - 1), (None, 0)):
        chunks = [seal_chunk(key, i, 16, blob.piece(i), ENTROPY, last_of=last_of) for i, last_of in enumerate(flags)]
        index = b"".join(map(leaf_of, chunks))
        attachment = attrs.evolve(blob.attachment, receipt=receipt_of(blob.attachment.layout, index))
        with pytest.raises(ChunkBroken):
            list(handed_over(attachment, fetch_of(b"".join(chunks) + index)))


def test_no_attachment_has_an_empty_last_chunk() -> None:
    blob = sealed(C)
    attachment, whole = forged(blob.attachment, [blob.data, b""])
    nothing_handed_over(attachment, whole, IndexBroken)


# --- a crash in the middle --------------------------------------------------------------------------------------------


@given(sizes, st.integers(0, 3 * C))
@brisk
def test_two_runs_under_one_key_share_no_keystream_and_no_chunk(size: int, cut: int) -> None:
    data, other = data_of(size), data_of(size, 1)
    sealer = AttachmentSealer(chunk_exponent=16)
    first = sealer.update(data[:cut])
    exported = sealer.export()
    runs = []
    for source in (data, other):  # the source has changed when it goes on
        later = AttachmentSealer.restore(exported)
        chunks = [*first, *later.update(source[later.position :]), *later.finish()]
        runs.append(
            Blob(later.attachment, data[: len(first) * C] + source[len(first) * C :], (*chunks[:-1],), chunks[-1])
        )
    for run in runs:
        pieces = dict(handed_over(run.attachment, fetch_of(run.whole)))
        assert b"".join(pieces[number] for number in sorted(pieces)) == run.data
    one, two = runs
    fresh = range(len(first), len(one.chunks))
    assert not {one.chunks[i][:24] for i in fresh} & {two.chunks[i][:24] for i in fresh}
    for number in fresh:
        chunks = list(one.chunks)
        chunks[number] = two.chunks[number]
        refused(one, one.with_chunks(chunks), ChunkBroken, number)
        refused(one, one.with_chunks(chunks, index=True), IndexBroken)


# --- sizes that a number of 32 bits does not hold ---------------------------------------------------------------------


@pytest.mark.parametrize("size", [1 << 32, (1 << 32) + 1, (1 << 40) + 1, 1 << 44])
def test_nothing_is_counted_modulo_anything(size: int) -> None:
    low = Layout(size % (1 << 32), 24)
    layout = Layout(size, 24)
    assert layout.blob_bytes > size > low.blob_bytes
    assert layout.range_of(layout.last)[0] > size - (1 << 30)
    # The last chunk of so large a file, sealed and opened at its place; and it opens at no smaller one.
    key = AttachmentKey(bytes(range(32)))
    piece = bytes(layout.piece_size(layout.last))
    chunk = seal_chunk(key, layout.last, 24, piece, ENTROPY, last_of=size)
    index = bytes(32 * layout.last) + leaf_of(chunk)
    attachment = Attachment(key=key, size=size, chunk_exponent=24, receipt=receipt_of(layout, index))
    AttachmentOpener(attachment, limits=ROOMY).take_tail(chunk + index)


# --- the long runs ----------------------------------------------------------------------------------------------------

SAMPLES = [
    sealed(100).attachment.encode(),
    attrs.evolve(
        sealed(C + 1).attachment, name="résumé.pdf", media_type="application/pdf", where="https://x/y"
    ).encode(),
    b"\x94\x02" + bytes(40),
]
SPICE = [
    b"",
    b"\x00",
    b"\xc0",
    b"\xd9\xff",
    b"\xda\xff\xff",
    b"\xc4\x20",
    b"\xcf" + b"\xff" * 8,
    b"\xdd\xff\xff\xff\xff",
]


def mutated(source: random.Random, data: bytes) -> bytes:
    altered = bytearray(data)
    for _ in range(source.randint(1, 4)):
        at = source.randrange(len(altered) + 1)
        how = source.randrange(4)
        if how == 0 and at < len(altered):
            altered[at] = source.randrange(256)
        elif how == 1 and at < len(altered):
            altered[at] ^= 1 << source.randrange(8)
        elif how == 2:
            altered[at : at + source.randrange(4)] = source.choice(SPICE)
        else:
            del altered[at : at + source.randrange(1, 20)]
    return bytes(altered)


def test_mutated_references() -> None:
    source = random.Random(15)
    taken = 0
    for number in range(INPUTS):
        data = source.randbytes(source.randrange(300)) if number % 10 == 0 else mutated(source, source.choice(SAMPLES))
        try:
            reference = parse_reference(data)
        except (Malformed, TooLarge):
            continue
        taken += 1
        assert reference.encode() == data  # one encoding of each
        assert isinstance(reference, UnknownReference) or Layout(reference.size, reference.chunk_exponent).chunks
    assert taken > INPUTS // 100
    for bomb in (b"\x98" * 4000, b"\x98\x01\xc6\xff\xff\xff\xff", b"\x98\x01" + b"\x90" * 4000, b"\x98" + bytes(5000)):
        with pytest.raises((Malformed, TooLarge)):
            parse_reference(bomb)
    assert REFERENCE_MAX_BYTES < 5000


def test_mutated_tails() -> None:
    source = random.Random(16)
    blob = sealed(100)
    opener = AttachmentOpener(blob.attachment)
    tail = blob.whole[opener.tail_range[0] :]
    for number in range(INPUTS):
        altered = source.randbytes(len(tail)) if number % 10 == 0 else mutated(source, tail)
        if altered == tail:
            continue
        with pytest.raises(AttachmentBroken):
            opener.take_tail(altered)
        assert not opener.has_tail
    assert opener.take_tail(tail) == blob.data


def test_mutated_chunks() -> None:
    source = random.Random(17)
    blob = sealed(100)
    opener = AttachmentOpener(blob.attachment)
    opener.take_tail(blob.whole)
    [chunk] = blob.chunks
    for number in range(INPUTS):
        altered = source.randbytes(len(chunk)) if number % 10 == 0 else mutated(source, chunk)
        if altered == chunk:
            continue
        with pytest.raises(ChunkBroken):
            opener.open(0, altered)
    assert opener.open(0, chunk) == blob.data


def test_mutated_chunks_whose_leaf_is_right() -> None:
    # The leaf is a hash, so nothing else reaches what is behind it: here whoever seals lies about the leaf as well.
    source = random.Random(18)
    blob = sealed(100)
    [chunk] = blob.chunks
    for number in range(INPUTS // 10):
        altered = source.randbytes(len(chunk)) if number % 10 == 0 else mutated(source, chunk)
        if altered == chunk:
            continue
        index = leaf_of(altered)
        attachment = attrs.evolve(blob.attachment, receipt=receipt_of(blob.attachment.layout, index))
        opener = AttachmentOpener(attachment)
        with pytest.raises(AttachmentBroken):
            opener.take_tail(altered + index)
        assert not opener.has_tail


@given(st.binary(min_size=32, max_size=32))
@brisk
def test_another_receipt(receipt: bytes) -> None:
    blob = sealed(C + 1)
    nothing_handed_over(attrs.evolve(blob.attachment, receipt=Receipt(receipt)), blob.whole, IndexBroken)


def test_a_bit_of_a_reference() -> None:
    blob = sealed(C + 1)
    encoded = blob.attachment.encode()
    outcomes: dict[str, int] = {}
    for bit in range(8 * len(encoded)):
        altered = bytearray(encoded)
        altered[bit // 8] ^= 1 << bit % 8
        try:
            reference: Any = parse_reference(altered)
        except (Malformed, TooLarge):
            outcomes["no reference"] = outcomes.get("no reference", 0) + 1
            continue
        if isinstance(reference, UnknownReference):
            outcomes["another kind"] = outcomes.get("another kind", 0) + 1
            continue
        opener = AttachmentOpener(reference)
        offset, length = opener.tail_range
        with pytest.raises(AttachmentBroken) as caught:
            opener.take_tail(blob.whole[offset : offset + length])
        outcomes[caught.value.code] = outcomes.get(caught.value.code, 0) + 1
    assert set(outcomes) == {"no reference", "another kind", "attachment.index", "attachment.chunk"}
