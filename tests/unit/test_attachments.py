"""Attachments: whatever is sealed, however it is cut, comes out again; references are canonical; a sealer goes on."""

from __future__ import annotations

import copy
import pickle
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice, pairwise
from typing import Any

import attrs
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agentmesh.attachments import (
    Attachment,
    AttachmentDisclosure,
    AttachmentOpener,
    AttachmentSealer,
    Layout,
    UnknownReference,
    parse_reference,
    verify_attachment,
)
from agentmesh.attachments.sizes import CHUNK_EXPONENTS, SIZE_MAX, exponent_for
from agentmesh.errors import (
    AgentMeshError,
    ArgumentInvalid,
    AttachmentOutOfTurn,
    DisclosureInvalid,
    Malformed,
    RandomnessFailed,
    StateMalformed,
    StateVersionUnknown,
    TooLarge,
)
from agentmesh.limits import CHUNKS_MAX, REFERENCE_MAX_BYTES, Limits
from agentmesh.primitives import _crypto, _wire
from agentmesh.primitives._labels import ATTACHMENT, BLOB, CHUNK, LEAF
from agentmesh.primitives.aead import open_sealed
from agentmesh.primitives.keys import AttachmentKey, Receipt
from agentmesh.primitives.padding import padded_length
from agentmesh.testing import SeededEntropy

C = 1 << 16
EDGES = [0, 1, 63, 64, 65, C - 1, C, C + 1, 2 * C]
PADDED = 64 * C + 1  # the least size whose last chunk is padding and nothing else
exponents = st.sampled_from(CHUNK_EXPONENTS)
sizes = st.sampled_from(EDGES) | st.integers(0, 300) | st.integers(0, 3 * C)
any_size = st.integers(0, SIZE_MAX) | st.integers(0, 44).map(lambda bits: 1 << bits) | st.sampled_from(EDGES)
brisk = settings(max_examples=max(1, settings().max_examples // 3))


def data_of(size: int) -> bytes:
    return (bytes(range(251)) * (size // 251 + 1))[:size]


def seal(data: bytes, *cuts: int, seed: int = 1, **fields: Any) -> tuple[Attachment, bytes]:
    """Seal data given in the pieces that the cuts make; return the reference and the blob."""
    sealer = AttachmentSealer(chunk_exponent=16, entropy=SeededEntropy(seed), **fields)
    chunks: list[bytes] = []
    for begin, end in pairwise((0, *sorted(min(cut, len(data)) for cut in cuts), len(data))):
        chunks += sealer.update(data[begin:end])
    chunks += sealer.finish()
    return sealer.attachment, b"".join(chunks)


def part(blob: bytes, offset: int, length: int) -> bytes:
    return blob[offset : offset + length]


def opened(attachment: Attachment, blob: bytes) -> AttachmentOpener:
    opener = AttachmentOpener(attachment)
    opener.take_tail(part(blob, *opener.tail_range))
    return opener


def read(attachment: Attachment, blob: bytes) -> bytes:
    opener = opened(attachment, blob)
    return b"".join(opener.open(i, part(blob, *opener.range_of(i))) for i in range(attachment.chunks))


# --- sizes ------------------------------------------------------------------------------------------------------------


@given(any_size, exponents)
def test_chunks_lie_behind_one_another_and_none_is_empty(size: int, exponent: int) -> None:
    if size > CHUNKS_MAX << exponent:
        with pytest.raises(ArgumentInvalid):
            Layout(size, exponent)
        return
    layout = Layout(size, exponent)
    assert layout.padded_bytes == padded_length(max(size, 1)) >= max(size, 64)
    assert 1 <= layout.chunks <= CHUNKS_MAX
    assert 1 <= layout.piece_size(layout.last) <= 1 << exponent
    assert (layout.chunks - 1 << exponent) + layout.piece_size(layout.last) == layout.padded_bytes
    assert layout.blob_bytes == layout.padded_bytes + 104 * layout.chunks
    assert sum(layout.tail_range) == layout.blob_bytes
    for number in {0, layout.last // 2, max(0, layout.last - 1), layout.last}:
        offset, length = layout.range_of(number)
        assert length == layout.piece_size(number) + 72
        following = layout.range_of(number + 1)[0] if number < layout.last else layout.blob_bytes - layout.index_bytes
        assert offset + length == following
        assert layout.data_size(number) == len(range(number << exponent, min(size, number + 1 << exponent)))


@given(sizes, st.integers(0, 4 * C), st.integers(0, 4 * C))
def test_the_chunks_for_a_range_are_those_that_hold_it(size: int, offset: int, length: int) -> None:
    layout = Layout(size, 16)
    wanted = {at >> 16 for at in range(offset, min(offset + length, size), 1000)}
    if min(offset + length, size) > offset:
        wanted.add(min(offset + length, size) - 1 >> 16)
    assert set(layout.chunks_for(offset, length)) == wanted


@pytest.mark.parametrize(
    ("size", "exponent"),
    [(0, 18), (1 << 34, 18), ((1 << 34) + 1, 19), (1 << 36, 20), (1 << 40, 24), (1 << 40 | 1, 24), (SIZE_MAX, 24)],
)
def test_larger_files_have_larger_chunks(size: int, exponent: int) -> None:
    assert exponent_for(size) == exponent
    sealer = AttachmentSealer(size=size)
    assert (sealer.chunk_exponent, sealer.layout) == (exponent, Layout(size, exponent))


@pytest.mark.parametrize(
    ("size", "exponent"),
    [(-1, 18), (1, 15), (1, 25), (SIZE_MAX + 1, 24), ((1 << 36) + 1, 16), (True, 18), (1.0, 18), (1, "18"), (None, 18)],
)
def test_sizes_that_no_attachment_has(size: Any, exponent: Any) -> None:
    with pytest.raises(ArgumentInvalid):
        Layout(size, exponent)


# --- sealed and opened ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", EDGES)
@pytest.mark.parametrize("known", [True, False])
def test_what_is_sealed_is_opened(size: int, known: bool) -> None:
    data = data_of(size)
    attachment, blob = seal(data, **({"size": size} if known else {}))
    assert (attachment.size, attachment.blob_bytes) == (size, len(blob))
    assert read(attachment, blob) == data


@given(sizes, st.lists(st.integers(0, 3 * C), max_size=6), st.booleans())
@brisk
def test_how_the_data_is_cut_makes_no_difference(size: int, cuts: list[int], known: bool) -> None:
    data = data_of(size)
    fields = {"size": size} if known else {}
    assert seal(data, *cuts, **fields) == seal(data)


def test_data_in_single_bytes_and_in_other_types() -> None:
    data = data_of(C + 10)
    sealer = AttachmentSealer(chunk_exponent=16, entropy=SeededEntropy(1))
    chunks = [chunk for at in range(C - 5, C + 10) for chunk in sealer.update(b"")]
    for kind in (bytearray, memoryview):
        chunks += sealer.update(kind(data[: (C - 5) // 2] if kind is bytearray else data[(C - 5) // 2 : C - 5]))
    for at in range(C - 5, C + 10):
        chunks += sealer.update(data[at : at + 1])
    chunks += sealer.finish()
    assert (sealer.attachment, b"".join(chunks)) == seal(data)


@given(sizes)
@example(3 * C)
@brisk
def test_the_blob_is_what_the_protocol_says(size: int) -> None:
    attachment, blob = seal(data_of(size), name="n", media_type="m/t", where="w")
    padded, n = padded_length(max(size, 1)), -(-padded_length(max(size, 1)) // C)
    chunks = [blob[i * (C + 72) : min((i + 1) * (C + 72), padded + 72 * n)] for i in range(n)]
    index = b"".join(_crypto.kdf(b"", LEAF, chunk, 32) for chunk in chunks)
    assert b"".join(chunks) + index == blob
    key, plain = attachment.key.reveal(), b""
    for i, chunk in enumerate(chunks):
        ends = b"\x01" + size.to_bytes(8, "big") if i == n - 1 else b"\x00"
        plain += open_sealed(key, CHUNK, i.to_bytes(8, "big") + b"\x10" + ends, chunk)
    assert plain == data_of(size) + bytes(padded - size)
    assert attachment.receipt == _crypto.sha256(ATTACHMENT + bytes([16]) + padded.to_bytes(8, "big") + index)
    assert attachment.blob_id == _crypto.kdf(key, BLOB, b"", 16)
    assert attachment.encode() == _wire.encode([1, key, size, 16, attachment.receipt, "n", "m/t", "w"])


@given(sizes, st.randoms(use_true_random=False))
@brisk
def test_chunks_open_in_any_order_and_more_than_once(size: int, source: Any) -> None:
    data = data_of(size)
    attachment, blob = seal(data)
    opener = AttachmentOpener(attachment)
    last = opener.take_tail(part(blob, *opener.tail_range))
    assert last == data[(attachment.chunks - 1) * C :]
    for number in source.choices(range(attachment.chunks), k=6):
        assert opener.open(number, part(blob, *opener.range_of(number))) == data[number * C : number * C + C]


def test_a_long_padding_is_made_and_opened_piece_by_piece() -> None:
    for data in (data_of(20 * C + 1), data_of(PADDED)):
        attachment, blob = seal(data)
        assert read(attachment, blob) == data
    assert attachment.layout.data_size(attachment.chunks - 1) == 0
    assert list(opened(attachment, blob).chunks_for(0, 1 << 40)) == list(range(65))


def test_two_attachments_of_one_file_have_nothing_in_common() -> None:
    (one, first), (two, second) = (seal(b"the same", seed=seed) for seed in (1, 2))
    assert one.receipt != two.receipt
    assert one.blob_id != two.blob_id
    assert first[:24] != second[:24]
    assert AttachmentSealer().blob_id != AttachmentSealer().blob_id


def test_memory_is_a_few_chunks_and_the_index() -> None:
    piece, count = data_of(C), 100
    tracemalloc.start()
    sealer = AttachmentSealer(chunk_exponent=16)
    for _ in range(count):
        for chunk in sealer.update(piece):
            assert len(chunk) == C + 72
    assert sum(map(len, sealer.finish())) > C
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * C < count * C


# --- a sealer ---------------------------------------------------------------------------------------------------------


def test_where_a_sealer_stands() -> None:
    data = data_of(5 * C // 2)
    sealer = AttachmentSealer(chunk_exponent=16)
    blob = b""
    assert (sealer.position, sealer.blob_position, sealer.chunks_sealed, sealer.layout) == (0, 0, 0, None)
    for at in range(0, len(data), C // 2):
        blob += b"".join(sealer.update(data[at : at + C // 2]))
        assert sealer.blob_position == len(blob)
        assert sealer.position == sealer.chunks_sealed * C <= at + C // 2
        with pytest.raises(AttachmentOutOfTurn):
            sealer.attachment  # noqa: B018 - it is asked for too early
    for chunk in sealer.finish():
        blob += chunk
    assert sealer.position == len(data)
    assert sealer.blob_position == len(blob) - 32 * sealer.chunks_sealed
    assert sealer.attachment.blob_id == sealer.blob_id
    assert read(sealer.attachment, blob) == data


def test_finish_goes_on_where_it_was_left() -> None:
    sealer = AttachmentSealer(chunk_exponent=16)
    blob = b"".join(sealer.update(data_of(PADDED)))
    rest = sealer.finish()
    blob += next(rest)
    with pytest.raises(AttachmentOutOfTurn):
        sealer.attachment  # noqa: B018 - the last chunk is not sealed
    blob += b"".join(sealer.finish())
    assert read(sealer.attachment, blob) == data_of(PADDED)
    assert [len(one) for one in sealer.finish()] == [32 * sealer.attachment.chunks]  # the index, as often as asked for


@pytest.mark.parametrize("size", [0, 10, C, C + 1])
def test_a_size_that_was_given_is_held_to(size: int) -> None:
    sealer = AttachmentSealer(size=size, chunk_exponent=16)
    if size:
        sealer.update(data_of(size - 1))
        before = sealer.export()
        with pytest.raises(ArgumentInvalid) as caught:
            sealer.finish()
        assert (caught.value.argument, caught.value.got, caught.value.allowed) == ("size", size - 1, size)
        assert sealer.export() == before
        sealer.update(b"x")
    before = sealer.export()
    with pytest.raises(ArgumentInvalid) as caught:
        sealer.update(b"x")
    assert (caught.value.argument, caught.value.got, caught.value.allowed) == ("data", size + 1, size)
    assert sealer.export() == before
    assert list(sealer.finish())


def test_no_data_behind_the_end() -> None:
    sealer = AttachmentSealer(chunk_exponent=16)
    sealer.update(b"all")
    list(sealer.finish())
    with pytest.raises(ArgumentInvalid):
        sealer.update(b"x")
    assert sealer.update(b"") == []


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "x" * 256}, {"name": b"x"}, {"name": "\ud800"}, {"media_type": "x" * 128}, {"where": "x" * 2049},
        {"size": -1}, {"size": SIZE_MAX + 1}, {"size": 1.0}, {"chunk_exponent": 15}, {"chunk_exponent": 25},
        {"chunk_exponent": True}, {"size": (1 << 36) + 1, "chunk_exponent": 16},
    ],
)  # fmt: skip
def test_what_a_sealer_does_not_take(fields: dict[str, Any]) -> None:
    with pytest.raises(ArgumentInvalid):
        AttachmentSealer(**fields)


class Breaks(SeededEntropy):
    """Gives so many draws, and then none."""

    def __init__(self, draws: int) -> None:
        super().__init__(5)
        self.left = draws

    def token(self, size: int, /) -> bytes:
        self.left -= 1
        return super().token(size) if self.left >= 0 else b""


def test_a_source_that_breaks_changes_nothing() -> None:
    with pytest.raises(RandomnessFailed):
        AttachmentSealer(entropy=Breaks(1))
    source = Breaks(4)
    sealer = AttachmentSealer(chunk_exponent=16, entropy=source)
    sealer.update(data_of(C))
    before = sealer.export()
    with pytest.raises(RandomnessFailed) as caught:
        sealer.update(data_of(3 * C)[C:])  # one draw is left, and two chunks are due
    assert caught.value.__traceback__ is not None
    assert sealer.export() == before
    source.left = 100
    blob = b"".join(sealer.update(data_of(3 * C)[C:])) + b"".join(sealer.finish())
    assert read(sealer.attachment, blob) == data_of(3 * C)


# --- threads ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, C, 5 * C + 7, PADDED])
def test_threads_seal_and_open(size: int) -> None:
    data = data_of(size)
    sealer = AttachmentSealer(size=size, chunk_exponent=16)
    layout = sealer.layout
    assert layout is not None
    with ThreadPoolExecutor(4) as pool:

        def make(number: int) -> tuple[bytes, bytes]:
            return sealer.seal_chunk(number, data[number * C : (number + 1) * C])

        chunks = []
        for number, (chunk, leaf) in enumerate(pool.map(make, range(layout.chunks))):
            sealer.take_leaf(number, leaf)
            chunks.append(chunk)
        blob = b"".join([*chunks, *sealer.finish()])
        opener = opened(sealer.attachment, blob)

        def look(number: int) -> bytes:
            return opener.open(number, part(blob, *opener.range_of(number)))

        assert b"".join(pool.map(look, range(layout.chunks))) == data


def test_a_chunk_that_is_sealed_again_takes_the_place_of_the_first() -> None:
    sealer = AttachmentSealer(size=2 * C, chunk_exponent=16)
    old = sealer.update(data_of(2 * C))
    new, leaf = sealer.seal_chunk(0, bytes(C))
    assert new[:24] != old[0][:24]
    sealer.take_leaf(0, leaf)
    assert (sealer.position, sealer.chunks_sealed) == (2 * C, 2)
    blob = b"".join([new, old[1], *sealer.finish()])
    assert read(sealer.attachment, blob) == bytes(C) + data_of(2 * C)[C:]


def test_leaves_are_taken_in_order_and_pieces_whole() -> None:
    unknown = AttachmentSealer(chunk_exponent=16)
    for call in (lambda: unknown.seal_chunk(0, b""), lambda: unknown.take_leaf(0, bytes(32))):
        with pytest.raises(AttachmentOutOfTurn):
            call()
    sealer = AttachmentSealer(size=C + 10, chunk_exponent=16)
    before = sealer.export()
    wrong: list[tuple[type[AgentMeshError], Any]] = [
        (AttachmentOutOfTurn, lambda: sealer.take_leaf(1, bytes(32))),
        (ArgumentInvalid, lambda: sealer.take_leaf(2, bytes(32))),
        (ArgumentInvalid, lambda: sealer.take_leaf(0, bytes(31))),
        (ArgumentInvalid, lambda: sealer.take_leaf(-1, bytes(32))),
        (ArgumentInvalid, lambda: sealer.seal_chunk(2, b"")),
        (ArgumentInvalid, lambda: sealer.seal_chunk(0, bytes(C - 1))),
        (ArgumentInvalid, lambda: sealer.seal_chunk(1, bytes(11))),
        (ArgumentInvalid, lambda: sealer.seal_chunk(1, "text")),
    ]
    for error, call in wrong:
        with pytest.raises(error):
            call()
        assert sealer.export() == before
    sealer.update(b"held")
    with pytest.raises(AttachmentOutOfTurn):
        sealer.take_leaf(0, bytes(32))


# --- a sealer that goes on --------------------------------------------------------------------------------------------


@given(sizes, st.integers(0, 3 * C), st.booleans())
@brisk
def test_a_sealer_goes_on_after_a_restart(size: int, cut: int, known: bool) -> None:
    data = data_of(size)
    sealer = AttachmentSealer(
        chunk_exponent=16, name="n", media_type="m", where="w", **({"size": size} if known else {})
    )
    blob = b"".join(sealer.update(data[:cut]))
    later = AttachmentSealer.restore(sealer.export())
    assert later.export() == sealer.export()
    assert (later.position, later.blob_position) == (sealer.position, len(blob))
    blob += b"".join(later.update(data[later.position :])) + b"".join(later.finish())
    assert (later.attachment.name, later.attachment.media_type, later.attachment.where) == ("n", "m", "w")
    assert read(later.attachment, blob) == data


def test_a_sealer_goes_on_within_its_end() -> None:
    sealer = AttachmentSealer(chunk_exponent=16)
    blob = b"".join([*sealer.update(data_of(PADDED)), *islice(sealer.finish(), 1)])
    later = AttachmentSealer.restore(sealer.export())
    blob += b"".join(later.finish())
    assert read(later.attachment, blob) == data_of(PADDED)


def test_a_source_that_ends_where_more_was_sealed_is_refused() -> None:
    sealer = AttachmentSealer(chunk_exponent=16)
    sealer.update(data_of(C + 1))  # the first chunk is sealed as one that others follow
    later = AttachmentSealer.restore(sealer.export())
    before = later.export()
    with pytest.raises(ArgumentInvalid):
        later.finish()
    assert later.export() == before
    blob = b"".join(later.update(b"x"))  # with one byte more there is a last chunk again
    assert [len(chunk) for chunk in later.finish()] == [2048 + 72, 64]
    assert blob == b""


def body_of(*fields: Any) -> bytes:
    body = _wire.encode(fields)
    return _wire.encode([body, _crypto.sha256(body)])


@pytest.mark.parametrize(
    ("exported", "error"),
    [
        (b"", StateMalformed),
        (body_of(2, "of another form"), StateVersionUnknown),
        (body_of(1, bytes(32), None, 16, "", "", "", bytes(33)), StateMalformed),
        (body_of(1, bytes(32), None, 15, "", "", "", b""), StateMalformed),
        (body_of(1, bytes(32), C, 16, "", "", "", bytes(64)), StateMalformed),
        (body_of(1, bytes(32), (1 << 36) + 1, 16, "", "", "", b""), StateMalformed),
        (body_of(1, bytes(31), None, 16, "", "", "", b""), StateMalformed),
        (body_of(1, bytes(32), None, 16, "x" * 256, "", "", b""), StateMalformed),
        (_wire.encode([_wire.encode([1, bytes(32), None, 16, "", "", "", b""]), bytes(32)]), StateMalformed),
    ],
)
def test_an_export_that_is_none(exported: bytes, error: type[AgentMeshError]) -> None:
    with pytest.raises(error) as caught:
        AttachmentSealer.restore(exported)
    assert caught.value.__context__ is None
    for other in (None, "text", 5):
        with pytest.raises(ArgumentInvalid):
            AttachmentSealer.restore(other)  # type: ignore[arg-type]


def test_a_stuck_source_is_no_fault_of_an_export() -> None:
    exported = AttachmentSealer().export()
    with pytest.raises(RandomnessFailed):
        AttachmentSealer.restore(exported, entropy=Breaks(1))


# --- references -------------------------------------------------------------------------------------------------------

texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=31)
references = st.builds(
    Attachment,
    key=st.binary(min_size=32, max_size=32).map(AttachmentKey),
    size=st.integers(0, CHUNKS_MAX << 16),
    chunk_exponent=exponents,
    receipt=st.binary(min_size=32, max_size=32).map(Receipt),
    name=texts,
    media_type=texts,
    where=texts,
)


@given(references)
def test_a_reference_is_read_as_it_was_written(reference: Attachment) -> None:
    encoded = reference.encode()
    again = parse_reference(encoded)
    assert isinstance(again, Attachment)
    assert again == reference
    assert again.encode() == encoded
    for field in attrs.fields(Attachment):
        assert getattr(again, field.name) == getattr(reference, field.name)
    assert parse_reference(bytearray(encoded)) == reference


def test_the_longest_reference() -> None:
    longest = Attachment(
        key=AttachmentKey(bytes(32)), size=SIZE_MAX, chunk_exponent=24, receipt=Receipt(bytes(32)),
        name="n" * 255, media_type="m" * 127, where="w" * 2048,
    )  # fmt: skip
    assert len(longest.encode()) == 2517 <= REFERENCE_MAX_BYTES
    assert parse_reference(longest.encode()) == longest


def test_a_located_reference_differs_in_that_alone() -> None:
    attachment, blob = seal(b"data", name="n", media_type="m")
    located = attachment.located("https://store.example/x")
    assert located != attachment
    assert (located.where, attachment.where) == ("https://store.example/x", "")
    assert located.located("") == attachment
    assert read(located, blob) == b"data"
    for wrong in ("x" * 2049, b"x", None, "\ud800"):
        with pytest.raises(ArgumentInvalid):
            attachment.located(wrong)  # type: ignore[arg-type]


GOOD: list[Any] = [1, bytes(32), 100, 18, bytes(32), "name", "type", "where"]


def changed(at: int, value: Any) -> list[Any]:
    return [*GOOD[:at], value, *GOOD[at + 1 :]]


@pytest.mark.parametrize(
    "fields",
    [
        changed(0, 0), changed(0, 128), changed(0, "1"), changed(0, None), [], [1], GOOD[:-1], [*GOOD, 0],
        changed(1, bytes(31)), changed(1, bytes(33)), changed(1, "x" * 32),
        changed(2, SIZE_MAX + 1), changed(2, "100"), changed(2, None), changed(2, (1 << 38) + 1),
        changed(3, 15), changed(3, 25), changed(3, 0),
        changed(4, bytes(31)), changed(4, bytes(33)), changed(4, None),
        changed(5, "x" * 256), changed(5, b"name"), changed(6, "x" * 128), changed(7, "x" * 2049),
    ],
)  # fmt: skip
def test_what_is_no_reference(fields: list[Any]) -> None:
    assert isinstance(parse_reference(_wire.encode(GOOD)), Attachment)
    with pytest.raises(Malformed) as caught:
        parse_reference(_wire.encode(fields))
    assert caught.value.__context__ is None


def test_references_of_other_forms() -> None:
    good = _wire.encode(GOOD)
    text = good.replace(b"\xa4name", b"\xd9\x04name")
    not_utf8 = good.replace(b"\xa4name", b"\xa4nam\xff")
    for wrong in (b"", b"\x98", b"\xdc\x00\x08" + good[1:], text, not_utf8, good + b"\x00", good[:-1], b"\x81\x01\x02"):
        with pytest.raises(Malformed):
            parse_reference(wrong)
    with pytest.raises(TooLarge):
        parse_reference(good + bytes(REFERENCE_MAX_BYTES))
    for other in (None, "text", GOOD):
        with pytest.raises(ArgumentInvalid):
            parse_reference(other)  # type: ignore[arg-type]


@given(st.integers(2, 127), st.integers(1, 15), st.binary(max_size=200))
def test_a_kind_that_is_not_known_is_handed_up_as_it_came(kind: int, count: int, rest: bytes) -> None:
    data = bytes([0x90 | count, kind]) + rest
    reference = parse_reference(data)
    assert isinstance(reference, UnknownReference)
    assert (reference.kind, reference.encode()) == (kind, data)
    assert reference == parse_reference(data) != parse_reference(data + b"x")


def test_references_are_secret() -> None:
    attachment = seal(b"data", name="the name", where="the place")[0]
    unknown = parse_reference(b"\x92\x05\xa8a secret")
    sealer = AttachmentSealer(name="the name")
    for value in (attachment, unknown, sealer, AttachmentOpener(attachment), AttachmentDisclosure.of(attachment)):
        for shown in (repr(value), str(value), f"{[value]}"):
            assert "<redacted>" in shown
            for secret in ("the name", "the place", "a secret", attachment.key.reveal().hex()):
                assert secret not in shown
        for copier in (copy.copy, copy.deepcopy, pickle.dumps):
            with pytest.raises(TypeError):
                copier(value)
        assert not hasattr(value, "__dict__")
    for value in (attachment, unknown):
        with pytest.raises(TypeError):
            hash(value)
        assert value != 5
    assert "size=4" in repr(attachment)
    assert attachment.receipt.hex() in repr(attachment)


def test_references_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[bytes] = []

    def spy(first: bytes, second: bytes) -> bool:
        compared.append(first)
        return first == second

    monkeypatch.setattr(_crypto, "constant_time_equal", spy)
    attachment = seal(b"data")[0]
    compared.clear()
    assert attachment != attachment.located("x")
    assert compared == [attachment.encode()]


def test_no_key_leaves_in_a_traceback() -> None:
    def frames(error: BaseException) -> Iterator[dict[str, Any]]:
        trace = error.__traceback__
        while trace is not None:
            yield trace.tb_frame.f_locals if trace.tb_frame.f_code.co_filename != __file__ else {}
            trace = trace.tb_next

    attachment, blob = seal(data_of(100))
    key = attachment.key.reveal()
    opener = opened(attachment, blob)
    fields = {field.name: getattr(attachment, field.name) for field in attrs.fields(Attachment) if field.init}
    for call in (
        lambda: opener.open(0, bytes(136)),
        lambda: opener.take_tail(bytes(168)),
        lambda: parse_reference(attachment.encode() + b"x"),
        lambda: parse_reference(changed_exponent(attachment)),
        lambda: Attachment(**{**fields, "key": key}),
        lambda: attachment.located("x" * 3000),
        lambda: AttachmentSealer.restore(body_of(1, key, C, 16, "", "", "", bytes(64))),
    ):
        with pytest.raises(AgentMeshError) as caught:
            call()
        assert caught.value.__context__ is None
        assert all(key not in repr(local).encode() for frame in frames(caught.value) for local in frame.values())
        assert all(type(local) is not bytes or key not in local for f in frames(caught.value) for local in f.values())


def changed_exponent(attachment: Attachment) -> bytes:
    return _wire.encode([1, attachment.key.reveal(), 1, 15, attachment.receipt, "", "", ""])


# --- an opener --------------------------------------------------------------------------------------------------------


def test_the_tail_comes_first() -> None:
    attachment, blob = seal(data_of(C + 1))
    opener = AttachmentOpener(attachment)
    assert not opener.has_tail
    with pytest.raises(AttachmentOutOfTurn):
        opener.open(0, part(blob, *opener.range_of(0)))
    opener.take_tail(part(blob, *opener.tail_range))
    assert opener.has_tail
    assert opener.open(0, part(blob, *opener.range_of(0))) == data_of(C)


def test_what_an_opener_does_not_take() -> None:
    attachment, blob = seal(data_of(C + 1))
    opener = opened(attachment, blob)
    wrong: list[Any] = [
        lambda: AttachmentOpener(attachment.encode()),  # type: ignore[arg-type]
        lambda: AttachmentOpener(attachment, limits=5),  # type: ignore[arg-type]
        lambda: opener.take_tail("text"),  # type: ignore[arg-type]
        lambda: opener.open(2, b""),
        lambda: opener.open(-1, b""),
        lambda: opener.open(0, None),  # type: ignore[arg-type]
        lambda: opener.range_of(2),
        lambda: opener.range_of(True),
        lambda: opener.chunks_for(-1, 5),
        lambda: opener.chunks_for(0, -1),
    ]
    for call in wrong:
        with pytest.raises(ArgumentInvalid):
            call()


def test_a_size_over_the_limit_is_refused_before_anything_is_fetched() -> None:
    attachment = seal(data_of(1001))[0]
    AttachmentOpener(attachment, limits=Limits(attachment_max_bytes=1001))
    with pytest.raises(TooLarge) as caught:
        AttachmentOpener(attachment, limits=Limits(attachment_max_bytes=1000))
    assert (caught.value.got, caught.value.allowed) == (1001, 1000)


# --- disclosure -------------------------------------------------------------------------------------------------------


@given(sizes)
@brisk
def test_what_is_disclosed_is_the_attachment(size: int) -> None:
    data = data_of(size)
    attachment, blob = seal(data, name="n", where="w")
    disclosure = AttachmentDisclosure.of(attachment)
    key = attachment.key.reveal()
    assert disclosure.reveal() == key + size.to_bytes(8, "big") + bytes([16])
    again = AttachmentDisclosure(disclosure.reveal())
    verified = verify_attachment(
        again, lambda *where: part(blob, *where), receipt=attachment.receipt, size_bytes=len(blob)
    )
    assert (verified.name, verified.where, verified.key, verified.size) == ("", "", attachment.key, size)
    assert read(verified, blob) == data


@pytest.mark.parametrize(
    "wrong", ["key", "size", "exponent", "receipt", "size_bytes", "first", "last", "short", "limit"]
)
def test_a_disclosure_that_does_not_belong(wrong: str) -> None:
    attachment, blob = seal(data_of(2 * C))
    receipt, size_bytes, limits = attachment.receipt, len(blob), None
    disclosure = bytearray(AttachmentDisclosure.of(attachment).reveal())
    if wrong == "key":
        disclosure[0] ^= 1
    elif wrong == "size":
        disclosure[39] ^= 1
    elif wrong == "exponent":
        disclosure[40] = 99
    elif wrong == "receipt":
        receipt = Receipt(bytes(32))
    elif wrong == "size_bytes":
        size_bytes += 1
    elif wrong == "limit":
        limits = Limits(attachment_max_bytes=C)
    elif wrong == "short":
        blob = blob[:-1]
    else:
        at = 100 if wrong == "first" else C + 200
        blob = blob[:at] + bytes([blob[at] ^ 1]) + blob[at + 1 :]
    with pytest.raises(DisclosureInvalid) as caught:
        verify_attachment(
            AttachmentDisclosure(disclosure),
            lambda *where: part(blob, *where),
            receipt=receipt,
            size_bytes=size_bytes,
            limits=limits,
        )
    assert caught.value.__context__ is None


def test_what_fetching_raises_comes_through() -> None:
    attachment = seal(b"data")[0]
    disclosure = AttachmentDisclosure.of(attachment)

    def refuses(_offset: int, _length: int) -> bytes:
        raise OSError("the store is gone")

    with pytest.raises(OSError, match="the store is gone"):
        verify_attachment(disclosure, refuses, receipt=attachment.receipt, size_bytes=attachment.blob_bytes)
    bad: list[dict[str, Any]] = [{"receipt": b"short"}, {"size_bytes": -1}, {"size_bytes": "1"}, {"limits": 5}]
    for fields in bad:
        with pytest.raises(ArgumentInvalid):
            verify_attachment(disclosure, refuses, **{"receipt": attachment.receipt, "size_bytes": 1, **fields})
    for arguments in ((disclosure.reveal(), refuses), (disclosure, None)):
        with pytest.raises(ArgumentInvalid):
            verify_attachment(*arguments, receipt=attachment.receipt, size_bytes=1)  # type: ignore[arg-type]
    with pytest.raises(ArgumentInvalid):
        AttachmentDisclosure.of(attachment.encode())  # type: ignore[arg-type]
