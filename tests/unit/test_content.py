"""Plaintexts (section 6): every encoding parses back, no value has two, and whatever else there is is refused typed."""

from __future__ import annotations

import contextlib
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentmesh.attachments.reference import Attachment
from agentmesh.errors import DecryptionFailed, MessageRefused
from agentmesh.limits import COUNTER_MAX
from agentmesh.primitives import _wire
from agentmesh.primitives.keys import AttachmentKey, Receipt
from agentmesh.primitives.padding import pad, unpadded_length
from agentmesh.session.content import (
    ContentType,
    content_type_of,
    pad_accept,
    pad_close,
    pad_data,
    pad_signal,
    parse_action,
    parse_close,
    parse_content,
    parse_parts,
)
from agentmesh.session.epochs import ANSWER_BYTES, OFFER_BYTES

Ranges = tuple[tuple[int, int], ...]
INDICES = st.one_of(st.integers(1, 300), st.integers(1, COUNTER_MAX))
ACTIONS = st.one_of(
    st.just(""), st.text(st.characters(codec="utf-8"), min_size=1, max_size=32), st.just("x" * 128)
).filter(lambda text: len(text.encode()) <= 128)


@st.composite
def acks(draw: st.DrawFn) -> Ranges:
    """Return up to 16 ranges, ascending, that do not touch."""
    ranges, least = [], draw(st.sampled_from((1, 1, 7, 2**31)))
    for gap, more in draw(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=16)):
        ranges.append((least + gap, least + gap + more))
        least += gap + more + 2
    if ranges and draw(st.booleans()):
        ranges[-1] = (ranges[-1][0], COUNTER_MAX)
    return tuple(ranges)


ITEMS = {True: st.sampled_from((b"", bytes(ANSWER_BYTES))), False: st.sampled_from((b"", bytes(OFFER_BYTES)))}


REFERENCES = st.lists(
    st.builds(
        Attachment,
        key=st.binary(min_size=32, max_size=32).map(AttachmentKey),
        size=st.integers(0, 2**34),
        chunk_exponent=st.integers(16, 24),
        receipt=st.binary(min_size=32, max_size=32).map(Receipt),
        name=st.text(st.characters(codec="utf-8"), max_size=40),
        where=st.text(st.characters(codec="utf-8"), max_size=400),
    ).map(Attachment.encode)
    | st.builds(lambda kind, rest: _wire.encode([kind, rest]), st.integers(2, 127), st.binary(max_size=4000)),
    max_size=16,
)


def read_data(padded: bytes, to_initiator: bool) -> tuple[int, bytes, Ranges, list[bytes], str | None, bytes]:
    length = unpadded_length(padded)
    assert content_type_of(padded, length) is ContentType.DATA
    index, item, ack, references, at = parse_parts(padded, length, to_initiator)
    return index, item, ack, [one.encode() for one in references], *parse_action(padded, at, length)


@given(INDICES, ACTIONS, st.binary(max_size=200), acks(), REFERENCES, st.booleans(), st.data())
def test_data_parses_back(
    index: int,
    action: str,
    data: bytes,
    ack: Ranges,
    references: list[bytes],
    to_initiator: bool,
    drawn: st.DataObject,
) -> None:
    item = drawn.draw(ITEMS[to_initiator])
    padded = pad_data(index, action.encode(), data, item, ack, references)
    assert read_data(padded, to_initiator) == (index, item, ack, references, action or None, data)
    *content, named = parse_content(padded)
    assert (tuple(content), [one.encode() for one in named]) == ((ContentType.DATA, action or None, data), references)
    if item:
        with pytest.raises(MessageRefused):  # the other side's kind of item
            read_data(padded, not to_initiator)


@given(acks(), st.booleans(), st.data())
def test_a_signal_parses_back(ack: Ranges, to_initiator: bool, drawn: st.DataObject) -> None:
    item = drawn.draw(ITEMS[to_initiator])
    padded = pad_signal(item, ack)
    length = unpadded_length(padded)
    assert content_type_of(padded, length) is ContentType.SIGNAL
    if not item and not ack:
        with pytest.raises(MessageRefused):
            parse_parts(padded, length, to_initiator)
        return
    assert parse_parts(padded, length, to_initiator) == (0, item, ack, (), length)
    assert parse_content(padded) == (ContentType.SIGNAL, None, b"", ())


@given(st.text(st.characters(codec="utf-8"), max_size=32), INDICES, INDICES)
def test_a_close_parses_back(reason: str, data_sent: int, data_opened: int) -> None:
    kind, _, content, _ = parse_content(pad_close(reason, data_sent, data_opened))
    assert (kind, parse_close(content)) == (ContentType.CLOSE, (reason, data_sent, data_opened))


@pytest.mark.parametrize("counts", [(2**32, 0), (0, 2**32), (2**53 - 1, 2**53 - 1)])
def test_the_counts_of_a_close_are_indices(counts: tuple[int, int]) -> None:
    with pytest.raises(MessageRefused):
        parse_close(parse_content(pad_close("", *counts))[2])


def test_an_accept_is_its_content() -> None:
    assert parse_content(pad_accept(b"content")) == (ContentType.ACCEPT, None, b"content", ())


def encoded_again(plaintext: bytes, to_initiator: bool) -> bytes:
    """Return what the parsed value of a plaintext encodes to; whatever is refused raises."""
    padded = pad(plaintext)
    length = unpadded_length(padded)
    kind = content_type_of(padded, length)
    if kind is ContentType.DATA:
        index, item, ack, references, action, data = read_data(padded, to_initiator)
        return pad_data(index, (action or "").encode(), data, item, ack, references)
    if kind is ContentType.SIGNAL:
        _, item, ack, _, _ = parse_parts(padded, length, to_initiator)
        return pad_signal(item, ack)
    if kind is ContentType.CLOSE:
        return pad_close(*parse_close(padded[1:length]))
    raise MessageRefused


@st.composite
def nearly_content(draw: st.DrawFn) -> bytes:
    """Return bytes that begin like content: a type, parts that may be none, ranges that may touch, an odd length."""
    kind, parts = draw(st.integers(0, 4)), draw(st.integers(0, 16))
    content = bytes([kind, parts]) + (draw(st.binary(min_size=4, max_size=4)) if kind == 0 else b"")
    content += bytes(draw(st.sampled_from((0, 0, OFFER_BYTES, ANSWER_BYTES, ANSWER_BYTES - 1))))
    numbers = draw(st.lists(st.integers(0, 6), max_size=8))
    content += bytes([draw(st.integers(0, 5))]) + b"".join(struct.pack(">I", number) for number in numbers)
    return content + draw(st.binary(max_size=6))


@given(st.one_of(st.binary(max_size=64), nearly_content()), st.booleans())
def test_no_value_has_two_encodings_and_the_rest_is_refused(plaintext: bytes, to_initiator: bool) -> None:
    try:
        again = encoded_again(plaintext, to_initiator)
    except MessageRefused:
        return
    assert again == pad(plaintext)


@given(st.binary(max_size=200))
def test_noise_is_refused_typed(noise: bytes) -> None:
    with contextlib.suppress(MessageRefused, DecryptionFailed):
        parse_content(noise)


def ack_bytes(*numbers: int) -> bytes:
    return bytes([len(numbers) // 2]) + b"".join(struct.pack(">I", number) for number in numbers)


def references_bytes(*references: bytes) -> bytes:
    return bytes([len(references)]) + b"".join(struct.pack(">H", len(one)) + one for one in references)


NAMING = b"\x00\x08\x00\x00\x00\x01"
SOME = Attachment(key=AttachmentKey(bytes(32)), size=1, chunk_exponent=18, receipt=Receipt(bytes(32))).encode()

REFUSED: dict[str, bytes] = {
    "nothing": b"",
    "an unknown type": b"\x04\x04" + ack_bytes(1, 1),
    "data without a head": b"\x00\x00\x00\x00\x00",
    "data without an action": b"\x00\x00\x00\x00\x00\x01",
    "a signal without parts": b"\x03\x00",
    "a signal of its type alone": b"\x03",
    "a signal with data behind it": b"\x03\x04" + ack_bytes(1, 1) + b"x",
    "a signal with references": b"\x03\x08",
    "a signal with a whole reference": b"\x03\x08" + references_bytes(SOME),
    "no reference": NAMING + references_bytes() + b"\x00x",
    "seventeen references": NAMING + references_bytes(*[SOME] * 17) + b"\x00x",
    "an empty reference": NAMING + references_bytes(b"") + b"\x00x",
    "a reference over the limit": NAMING + references_bytes(_wire.encode([2, bytes(4096)])) + b"\x00x",
    "a reference that is none": NAMING + references_bytes(b"\x90") + b"\x00x",
    "a reference with a field too many": NAMING + references_bytes(b"\x99" + SOME[1:] + b"\x00") + b"\x00x",
    "a reference that is cut": NAMING + references_bytes(SOME)[:-1],
    "a reference's length that is cut": NAMING + b"\x01\x00",
    "a count of references alone": NAMING + b"\x01",
    "nothing where references are": NAMING,
    "references without an action": NAMING + references_bytes(SOME),
    "an unknown part": b"\x00\x10\x00\x00\x00\x01\x00x",
    "both items": b"\x00\x03\x00\x00\x00\x01" + bytes(OFFER_BYTES + ANSWER_BYTES) + b"\x00x",
    "an item that is short": b"\x00\x01\x00\x00\x00\x01" + bytes(OFFER_BYTES - 1),
    "an ack without ranges": b"\x00\x04\x00\x00\x00\x01\x00\x00x",
    "an ack of seventeen": b"\x03\x04" + ack_bytes(*range(1, 67, 2), 67),
    "an ack that is cut": b"\x03\x04" + ack_bytes(1, 1)[:-1],
    "an ack of index 0": b"\x03\x04" + ack_bytes(0, 1),
    "a range that ends before it begins": b"\x03\x04" + ack_bytes(2, 1),
    "ranges that touch": b"\x03\x04" + ack_bytes(1, 1, 2, 2),
    "ranges that overlap": b"\x03\x04" + ack_bytes(1, 3, 3, 4),
    "ranges that descend": b"\x03\x04" + ack_bytes(5, 5, 1, 1),
}


@pytest.mark.parametrize("to_initiator", [False, True])
@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_of_the_form_is_refused(name: str, to_initiator: bool) -> None:
    with pytest.raises(MessageRefused):
        encoded_again(REFUSED[name], to_initiator)
    with pytest.raises(MessageRefused):
        parse_content(pad(REFUSED[name]))


def test_sixteen_ranges_that_just_do_not_touch_are_taken() -> None:
    ranges: Any = tuple((number, number) for number in range(1, 33, 2))
    padded = pad_signal(b"", ranges)
    assert parse_parts(padded, unpadded_length(padded), True)[2] == ranges
