"""The strict encoding: one byte string for each value, and a refusal for everything else (section 1.3)."""

from __future__ import annotations

import math
import os
import struct
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentmesh.errors import AgentMeshError, Malformed, TooLarge
from agentmesh.limits import UINT_MAX
from agentmesh.primitives import _wire
from agentmesh.primitives.base58 import base58_decode, base58_encode

AMPLE = 1 << 22
thorough = settings(max_examples=settings().max_examples)
brisk = settings(max_examples=max(1, settings().max_examples // 3))


# --- an encoder that shares nothing with the library: each value in each of its msgpack forms -------------------------


def int_forms(value: int) -> Iterator[bytes]:
    """Every msgpack form of an integer, the shortest first."""
    forms: list[tuple[int, int, bytes]] = []
    if 0 <= value < 128:
        forms.append((0, 127, bytes([value])))
    if -32 <= value < 0:
        forms.append((-32, -1, struct.pack("b", value)))
    for lead, pattern, low, high in (
        (b"\xcc", ">B", 0, 2**8 - 1),
        (b"\xcd", ">H", 0, 2**16 - 1),
        (b"\xce", ">I", 0, 2**32 - 1),
        (b"\xcf", ">Q", 0, 2**64 - 1),
        (b"\xd0", ">b", -(2**7), 2**7 - 1),
        (b"\xd1", ">h", -(2**15), 2**15 - 1),
        (b"\xd2", ">i", -(2**31), 2**31 - 1),
        (b"\xd3", ">q", -(2**63), 2**63 - 1),
    ):
        if low <= value <= high:
            forms.append((low, high, lead + struct.pack(pattern, value)))
    return (form for _, _, form in forms)


def sized_forms(size: int, fix: int | None, fix_below: int, leads: tuple[int | None, int, int]) -> Iterator[bytes]:
    """Every header for a length, the shortest first."""
    if fix is not None and size < fix_below:
        yield bytes([fix | size])
    for lead, pattern, below in zip(leads, (">B", ">H", ">I"), (1 << 8, 1 << 16, 1 << 32), strict=True):
        if lead is not None and size < below:
            yield bytes([lead]) + struct.pack(pattern, size)


def head_forms(value: Any) -> list[bytes]:
    """Every form of a value's head (for a scalar: of the whole value)."""
    if value is None:
        return [b"\xc0"]
    if type(value) is int:
        return list(int_forms(value))
    if type(value) is bytes:
        return [head + value for head in sized_forms(len(value), None, 0, (0xC4, 0xC5, 0xC6))]
    if type(value) is str:
        raw = value.encode()
        return [head + raw for head in sized_forms(len(raw), 0xA0, 32, (0xD9, 0xDA, 0xDB))]
    return list(sized_forms(len(value), 0x90, 16, (None, 0xDC, 0xDD)))


def shortest(value: Any) -> bytes:
    head = head_forms(value)[0]
    return head + b"".join(map(shortest, value)) if type(value) is list else head


def longer(value: Any) -> Iterator[bytes]:
    """Every encoding in which exactly one node stands in a longer form."""
    children = [shortest(child) for child in value] if type(value) is list else []
    heads = head_forms(value)
    for head in heads[1:]:
        yield head + b"".join(children)
    if type(value) is list:
        for index, child in enumerate(value):
            for form in longer(child):
                yield heads[0] + b"".join([*children[:index], form, *children[index + 1 :]])


# --- layouts and values that fit them ---------------------------------------------------------------------------------

edges = st.sampled_from([0, 127, 128, 255, 256, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1, 2**32, UINT_MAX])


@st.composite
def uints(draw: st.DrawFn) -> tuple[_wire.Kind, Any]:
    value = draw(edges | st.integers(0, UINT_MAX))
    return _wire.Uint(draw(st.sampled_from([value, UINT_MAX]))), value


@st.composite
def bins(draw: st.DrawFn) -> tuple[_wire.Kind, Any]:
    value = draw(st.binary(max_size=40) | st.sampled_from([bytes(255), bytes(256), bytes(300)]))
    return draw(st.sampled_from([_wire.Bin(len(value)), _wire.Bin(0, len(value)), _wire.Bin(len(value), 400)])), value


@st.composite
def texts(draw: st.DrawFn) -> tuple[_wire.Kind, Any]:
    value = draw(st.text(max_size=20) | st.sampled_from(["a" * 31, "a" * 32, "é" * 16, "a" * 255, "a" * 256]))
    return _wire.Text(0, draw(st.integers(len(value.encode()), 400))), value


scalars = uints() | bins() | texts()


@st.composite
def maybes(draw: st.DrawFn) -> tuple[_wire.Kind, Any]:
    kind, value = draw(scalars)
    return _wire.Maybe(kind), draw(st.sampled_from([None, value]))


@st.composite
def arrays(draw: st.DrawFn, depth: int = 3) -> tuple[_wire.Array, list[Any]]:
    parts: st.SearchStrategy[tuple[_wire.Kind, Any]] = scalars | maybes() | lists()
    if depth > 1:
        parts |= arrays(depth - 1)
    pairs = draw(st.lists(parts, max_size=5) | st.just([(_wire.Uint(), 7)] * 16))
    return _wire.array(*(kind for kind, _ in pairs)), [value for _, value in pairs]


@st.composite
def lists(draw: st.DrawFn) -> tuple[_wire.Kind, Any]:
    values = draw(st.lists(st.integers(0, UINT_MAX), max_size=18))
    return _wire.ArrayOf(_wire.Uint(), draw(st.integers(len(values), 20))), values


def refusal(call: Callable[[], object]) -> AgentMeshError | None:
    """What the call raises, if it is ours; anything else fails the test by itself."""
    try:
        call()
    except AgentMeshError as error:
        return error
    return None


# --- round trips and the one form -------------------------------------------------------------------------------------


@given(arrays())
@thorough
def test_every_layout_round_trips(pair: tuple[_wire.Array, list[Any]]) -> None:
    layout, value = pair
    data = _wire.encode(value)
    assert data == shortest(value)
    assert _wire.decode(data, layout, len(data)) == value


@given(arrays())
@thorough
def test_every_longer_form_is_refused(pair: tuple[_wire.Array, list[Any]]) -> None:
    layout, value = pair
    for data in longer(value):
        with pytest.raises(Malformed):
            _wire.decode(data, layout, AMPLE)


@pytest.mark.parametrize("value", [0, 1, 127, 128, 255, 256, 65535, 65536, 2**32 - 1, 2**32, UINT_MAX])
def test_every_longer_form_of_an_integer_is_refused(value: int) -> None:
    layout = _wire.array(_wire.Uint())
    forms = list(int_forms(value))
    assert _wire.decode(b"\x91" + forms[0], layout, AMPLE) == [value]
    assert len(forms) > 1
    for form in forms[1:]:
        with pytest.raises(Malformed):
            _wire.decode(b"\x91" + form, layout, AMPLE)


@pytest.mark.parametrize("size", [0, 1, 15, 16, 31, 32, 255, 256, 65535, 65536])
def test_every_longer_form_of_a_length_is_refused(size: int) -> None:
    cases: list[tuple[_wire.Kind, Any, bytes]] = [
        (_wire.Bin(size), bytes(size), b""),
        (_wire.Text(size, size), "a" * size, b""),
        (_wire.ArrayOf(_wire.Uint(), size), [1] * size, b"\x01" * size),
    ]
    for kind, value, rest in cases:
        layout = _wire.array(kind)
        shortest_head, *longer_heads = head_forms(value)
        assert _wire.encode([value]) == b"\x91" + shortest_head + rest
        assert _wire.decode(_wire.encode([value]), layout, AMPLE) == [value]
        for head in longer_heads:
            with pytest.raises(Malformed):
                _wire.decode(b"\x91" + head + rest, layout, AMPLE)


@given(arrays(), st.binary(min_size=1, max_size=9))
@brisk
def test_trailing_bytes_are_refused(pair: tuple[_wire.Array, list[Any]], tail: bytes) -> None:
    layout, value = pair
    for data in (_wire.encode(value) + tail, _wire.encode(value) * 2, _wire.encode(value) + b"\x00"):
        with pytest.raises(Malformed):
            _wire.decode(data, layout, AMPLE)


@given(arrays())
@brisk
def test_every_truncation_is_refused(pair: tuple[_wire.Array, list[Any]]) -> None:
    layout, value = pair
    data = _wire.encode(value)
    for cut in range(len(data)):
        with pytest.raises(Malformed):
            _wire.decode(data[:cut], layout, AMPLE)


@given(arrays(), st.data())
@thorough
def test_what_passes_is_what_encode_writes(pair: tuple[_wire.Array, list[Any]], data: st.DataObject) -> None:
    layout, value = pair
    mutated = bytearray(_wire.encode(value))
    for _ in range(data.draw(st.integers(1, 3))):
        mutated[data.draw(st.integers(0, len(mutated) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        decoded = _wire.decode(bytes(mutated), layout, AMPLE)
    except (Malformed, TooLarge):
        return
    assert shortest(decoded) == bytes(mutated)


@given(st.binary(max_size=200), arrays())
@thorough
def test_random_bytes_raise_only_our_errors(noise: bytes, pair: tuple[_wire.Array, list[Any]]) -> None:
    for call in (lambda: _wire.decode(noise, pair[0], 100), lambda: _wire.decode_pair(noise, 100)):
        error = refusal(call)
        if error is not None:
            assert type(error) is (TooLarge if len(noise) > 100 else Malformed)
            assert error.__cause__ is None
            assert error.__context__ is None


# --- what no field of ours may be -------------------------------------------------------------------------------------

ANY_FIELD: tuple[_wire.Kind, ...] = (
    _wire.Uint(),
    _wire.Bin(0, 100),
    _wire.Text(0, 100),
    _wire.Maybe(_wire.Uint()),
    _wire.ArrayOf(_wire.Uint(), 100),
    _wire.array(_wire.Uint()),
    _wire.array(),
)
FOREIGN = {
    "reserved": "c1",
    "false": "c2",
    "true": "c3",
    "float 1.0": "ca3f800000",
    "double 0.0": "cb0000000000000000",
    "double NaN": "cb7ff8000000000000",
    "minus one": "ff",
    "minus 32": "e0",
    "int8 minus 128": "d080",
    "int16 minus one": "d1ffff",
    "int32 minus one": "d2ffffffff",
    "int64 minimum": "d38000000000000000",
    "2^53": "cf0020000000000000",
    "2^63": "cf8000000000000000",
    "2^64 - 1": "cfffffffffffffffff",
    "empty map": "80",
    "map": "81a16101",
    "map16, empty": "de0000",
    "map32, empty": "df00000000",
    "map with a repeated key": "82a16101a16102",
    "map with a bytes key": "81c4016101",
    "fixext1": "d40100",
    "fixext2": "d5010000",
    "fixext4": "d60100000000",
    "fixext8": "d7010000000000000000",
    "fixext16": "d801" + "00" * 16,
    "ext8, empty": "c70001",
    "ext8": "c7010100",
    "ext16": "c800010100",
    "ext32": "c9000000010100",
    "ext type -128": "d48000",
    "timestamp 32": "d6ff00000001",
    "timestamp 64": "d7ff0000000000000001",
    "timestamp 96": "c70cff000000000000000000000001",
    "timestamp, empty": "c700ff",
    "timestamp, one byte": "d4ff00",
    "invalid UTF-8": "a1ff",
    "overlong UTF-8": "a2c080",
    "lone surrogate": "a3eda080",
    "surrogate pair in UTF-8": "a6eda080edb080",
    "cut UTF-8": "a2c3c3",
    "beyond U+10FFFF": "a4f4908080",
    "fixstr beyond the input": "bf61",
    "str8 beyond the input": "d9ff61",
    "str16 beyond the input": "daffff61",
    "str32 beyond the input": "dbffffffff61",
    "bin8 beyond the input": "c4ff00",
    "bin16 beyond the input": "c5ffff00",
    "bin32 beyond the input": "c6ffffffff00",
    "array beyond the input": "9f01",
    "array16 beyond the input": "dcffff01",
    "array32 beyond the input": "ddffffffff01",
    "map16 beyond the input": "deffff0101",
    "map32 beyond the input": "dfffffffff0101",
    "ext8 beyond the input": "c7ff0100",
    "ext32 beyond the input": "c9ffffffff0100",
}


@pytest.mark.parametrize("encoded", FOREIGN.values(), ids=FOREIGN.keys())
def test_foreign_values_are_refused_in_every_field(encoded: str) -> None:
    item = bytes.fromhex(encoded)
    for kind in ANY_FIELD:
        for data, layout in (
            (b"\x91" + item, _wire.array(kind)),
            (b"\x92\x01" + item, _wire.array(_wire.Uint(), kind)),
            (b"\x91\x91" + item, _wire.array(_wire.array(kind))),
            (b"\x91\x91" + item, _wire.array(_wire.ArrayOf(kind, 9))),
            (item, _wire.array(kind)),
        ):
            with pytest.raises(Malformed) as caught:
                _wire.decode(data, layout, AMPLE)
            assert caught.value.__cause__ is None
            assert caught.value.__context__ is None
    for data in (item, b"\x92" + item + b"\xc4\x00", b"\x92\xc4\x00" + item):
        with pytest.raises(Malformed) as caught:
            _wire.decode_pair(data, AMPLE)
        assert caught.value.__context__ is None


@pytest.mark.parametrize("depth", [600, 1023, 1024, 1025, 100_000])
@pytest.mark.parametrize("lead", ["91", "81", "dc0001", "dd00000001", "81a161", "8191"])
def test_deep_nesting_is_refused(depth: int, lead: str) -> None:
    for tail in (b"", b"\xc0", b"\x90"):
        data = bytes.fromhex(lead) * depth + tail
        with pytest.raises(Malformed):
            _wire.decode(data, _wire.array(_wire.Uint()), AMPLE)
        with pytest.raises(Malformed):
            _wire.decode_pair(data, AMPLE)


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (_wire.Uint(5), [0, 5], [6, -1, b"", "", None, [], True, 5.0]),
        (_wire.Uint(), [0, UINT_MAX], [UINT_MAX + 1]),
        (_wire.Bin(2), [b"ab"], [b"", b"a", b"abc", "ab", None, 2, [1, 2]]),
        (_wire.Bin(1, 3), [b"a", b"abc"], [b"", b"abcd"]),
        (_wire.Text(1, 4), ["a", "éé", "abcd"], ["", "abcde", "ééa", b"a", None, 1]),
        (_wire.Maybe(_wire.Uint(5)), [None, 5], [6, b"", []]),
        (_wire.ArrayOf(_wire.Uint(5), 2), [[], [1], [1, 5]], [[1, 2, 3], [6], [None], None, b"", 1]),
        (_wire.array(_wire.Uint(5), _wire.Bin(1)), [[1, b"a"]], [[], [1], [1, b"a", 1], [b"a", 1], None]),
    ],
)
def test_each_kind_holds_its_bounds(kind: _wire.Kind, good: list[Any], bad: list[Any]) -> None:
    layout = _wire.array(kind)
    for value in good:
        assert _wire.decode(_wire.encode([value]), layout, AMPLE) == [value]
    for value in bad:
        with pytest.raises(Malformed):
            _wire.decode(_wire.encode([value]), layout, AMPLE)


def test_a_top_level_value_that_is_no_array_is_refused() -> None:
    for data in (b"", b"\x00", b"\xc0", b"\xa1a", b"\xc4\x01a", b"\x80", b"\xcb" + struct.pack(">d", math.pi)):
        with pytest.raises(Malformed):
            _wire.decode(data, _wire.array(_wire.Uint()), AMPLE)


@pytest.mark.parametrize("claimed", [100_000, 2**31, 2**32 - 1])
def test_nothing_is_allocated_for_items_that_the_input_does_not_have(claimed: int) -> None:
    layout = _wire.array(_wire.ArrayOf(_wire.Uint(), 1 << 32))
    short = b"\x91\xdd" + struct.pack(">I", claimed) + b"\x01" * 5
    tracemalloc.start()
    try:
        with pytest.raises(Malformed):
            _wire.decode(short, layout, 1 << 32)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < 16_384


def test_the_size_cap_comes_before_parsing() -> None:
    layout = _wire.array(_wire.Bin(0, 100))
    data = _wire.encode([bytes(50)])
    assert _wire.decode(data, layout, len(data)) == [bytes(50)]
    with pytest.raises(TooLarge):
        _wire.decode(data, layout, len(data) - 1)
    with pytest.raises(TooLarge):
        _wire.decode(b"\xc1" * 11, layout, 10)
    with pytest.raises(TooLarge):
        _wire.decode_pair(b"\xc1" * 11, 10)
    with pytest.raises(Malformed):
        _wire.decode_pair(b"\xc1" * 10, 10)


# --- pairs of byte strings --------------------------------------------------------------------------------------------

BOUNDARIES = [0, 1, 255, 256, 257, 65535, 65536, 65537]


@pytest.mark.parametrize("first", BOUNDARIES)
@pytest.mark.parametrize("second", BOUNDARIES)
def test_a_pair_has_one_form_at_every_size(first: int, second: int) -> None:
    value = [b"\x01" * first, b"\xc4" * second]
    data = shortest(value)
    assert _wire.encode(value) == data
    assert _wire.decode_pair(data, len(data)) == (value[0], value[1])
    refused = 0
    for form in longer(value):
        with pytest.raises(Malformed):
            _wire.decode_pair(form, AMPLE)
        refused += 1
    assert refused >= 2


@given(st.binary(max_size=300), st.lists(st.binary(max_size=200), max_size=4), st.sampled_from([0, 255, 65535, 65536]))
@brisk
def test_a_pair_is_encoded_from_its_parts_as_from_the_whole(first: bytes, parts: list[bytes], more: int) -> None:
    parts.append(bytes(more))
    data = _wire.encode_pair(first, *parts)
    assert data == _wire.encode([first, b"".join(parts)]) == shortest([first, b"".join(parts)])
    assert _wire.encode_pair(first) == _wire.encode([first, b""])


@pytest.mark.parametrize("first", BOUNDARIES)
@pytest.mark.parametrize("second", BOUNDARIES)
def test_a_pair_is_encoded_in_its_one_form(first: int, second: int) -> None:
    assert _wire.encode_pair(bytes(first), bytes(second)) == shortest([bytes(first), bytes(second)])


@pytest.mark.parametrize("wrong", [None, "", "data", 5, [b""], bytearray(b"\x90"), memoryview(b"\x90"), bytearray(3)])
def test_only_bytes_are_decoded(wrong: Any) -> None:
    with pytest.raises(Malformed):
        _wire.decode(wrong, _wire.array(), AMPLE)
    with pytest.raises(Malformed):
        _wire.decode_pair(wrong, AMPLE)


@given(st.binary(max_size=300), st.binary(max_size=300))
@brisk
def test_pairs_round_trip_and_refuse_tails(first: bytes, second: bytes) -> None:
    data = _wire.encode([first, second])
    assert _wire.decode_pair(data, len(data)) == (first, second)
    for bad in (data + b"\x00", data[:-1], b"\x93" + data[1:], b"\x91" + data[1:], b"\x93" + data[1:] + b"\xc0"):
        with pytest.raises(Malformed):
            _wire.decode_pair(bad, AMPLE)


def test_a_pair_of_anything_else_is_refused() -> None:
    others: list[list[Any]] = [
        [],
        [b""],
        [b"", b"", b""],
        ["", b""],
        [b"", ""],
        [b"", None],
        [1, b""],
        [[], []],
        [[b"", b""]],
    ]
    for value in others:
        with pytest.raises(Malformed):
            _wire.decode_pair(_wire.encode(value), AMPLE)
    with pytest.raises(Malformed):
        # The lengths cancel out: one header a byte too long cannot be made good by a value that is no byte string.
        _wire.decode_pair(b"\x92\xc5\x00\x00\xa0", AMPLE)


def binary_tree(depth: int) -> bytes:
    data = b"\x90"
    for _ in range(depth):
        data = b"\x92" + data + data
    return data


@pytest.mark.parametrize(
    "data",
    [
        b"\xdd" + struct.pack(">I", 1 << 18) + b"\x90" * (1 << 18),
        b"\x92" + (b"\xdd" + struct.pack(">I", (1 << 18) - 5) + b"\x90" * ((1 << 18) - 5)) + b"\xc4\x00",
        (b"\xdd" + struct.pack(">I", (1 << 18) - 1)) * 1000 + bytes((1 << 18) - 5000),
        binary_tree(17),
    ],
    ids=["a flat array of empty arrays", "the same inside a pair", "nested claims", "a binary tree of arrays"],
)
def test_a_hostile_pair_costs_no_more_memory_than_an_honest_one(data: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(Malformed):
            _wire.decode_pair(data, AMPLE)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2 * len(data)  # an honest pair is sliced into two: its own size once more


# --- layouts that are met often ---------------------------------------------------------------------------------------


def met_often(layout: _wire.Array) -> _wire.Array:
    """The same layout, whose pattern is made already."""
    often = _wire.often(*layout.kinds)
    assert often.often is not None
    while not often.often._match:
        assert not often.often.knows(b"")
    return often


def decoded(data: bytes, layout: _wire.Array) -> list[Any] | None:
    try:
        return _wire.decode(data, layout, AMPLE)
    except Malformed:
        return None


def is_usual(kind: _wire.Kind, value: Any) -> bool:
    """Whether a pattern is to know it: short, and its numbers small, or bounded as most are."""
    if isinstance(kind, _wire.Maybe):
        return value is None or is_usual(kind.kind, value)
    if isinstance(kind, _wire.Uint):
        return value < 128 or kind.maximum == UINT_MAX
    if isinstance(kind, _wire.ArrayOf):
        return len(value) <= 6 and all(is_usual(kind.kind, item) for item in value)
    if isinstance(kind, _wire.Array):
        return len(value) < 16 and all(map(is_usual, kind.kinds, value))
    return len(value) <= 15


@st.composite
def spoiled(draw: st.DrawFn) -> tuple[_wire.Array, bytes]:
    """A layout, and an encoding for it of which some bytes are others, most of them heads of msgpack."""
    layout, value = draw(arrays())
    data = bytearray(shortest(value))
    heads = st.sampled_from(b"\x00\x01\x7f\x80\x90\x91\x92\xa0\xa1\xbf\xc0\xc4\xc5\xcc\xcd\xce\xcf\xd0\xd9\xdc\xff")
    for _ in range(draw(st.integers(1, 3))):
        data[draw(st.integers(0, len(data) - 1))] = draw(heads | st.integers(0, 255))
    return layout, bytes(data)


@given(arrays())
@thorough
def test_a_pattern_knows_the_short_encodings_and_no_longer_form(pair: tuple[_wire.Array, list[Any]]) -> None:
    layout, value = pair
    if len(layout.kinds) > 15:
        return
    often = met_often(layout)
    assert often.often is not None
    assert decoded(shortest(value), often) == value
    if is_usual(layout, value):
        assert often.often.knows(shortest(value))
    for data in longer(value):
        assert not often.often.knows(data)
        assert decoded(data, often) is None


@given(spoiled())
@thorough
def test_what_a_pattern_knows_is_what_the_layout_takes(made: tuple[_wire.Array, bytes]) -> None:
    layout, data = made
    if len(layout.kinds) > 15:
        return
    assert decoded(data, met_often(layout)) == decoded(data, layout)


@pytest.mark.parametrize("maximum", [0, 1, 2, 126, 127, 128, 255, 256, 65535, 65536, 2**32 - 1, 2**32, UINT_MAX])
def test_a_pattern_of_numbers_ends_where_the_layout_does(maximum: int) -> None:
    layout = _wire.array(_wire.Uint(maximum))
    often = met_often(layout)
    near = {at + step for at in (0, 127, 255, 65535, 2**32 - 1, UINT_MAX, maximum) for step in (-1, 0, 1, 2)}
    for value in near:
        for form in int_forms(value):
            data = b"\x91" + form
            assert decoded(data, often) == decoded(data, layout), (maximum, value, form)


def test_a_text_that_a_pattern_knows_is_utf8() -> None:
    often = met_often(_wire.array(_wire.Text(1, 9)))
    assert often.often is not None
    for text in (b"\xff", b"\xc3\x28", b"\xed\xa0\x80", b"\xc0\x80"):
        data = b"\x91" + bytes((0xA0 | len(text),)) + text
        assert often.often.knows(data)
        assert decoded(data, often) is None


# --- base58btc --------------------------------------------------------------------------------------------------------

PUBLISHED_BASE58 = [  # draft-msporny-base58-03, section 5, and Bitcoin Core's base58_encode_decode.json
    (b"Hello World!", "2NEpo7TZRRrLZSi2U"),
    (
        b"The quick brown fox jumps over the lazy dog.",
        "USm3fpXnKG5EUBx2ndxBDMPVciP5hGey2Jh4NDv6gmeo1LkMeiKrLJUUBk6Z",
    ),
    (bytes.fromhex("0000287fb4cd"), "11233QC4"),
    (b"", ""),
    (bytes.fromhex("61"), "2g"),
    (bytes.fromhex("626262"), "a3gV"),
    (bytes.fromhex("636363"), "aPEr"),
    (bytes.fromhex("73696d706c792061206c6f6e6720737472696e67"), "2cFupjhnEsSn59qHXstmK2ffpLv2"),
    (bytes.fromhex("00eb15231dfceb60925886b67d065299925915aeb172c06647"), "1NS17iag9jJgTHD1VXjvLCEnZuQ3rJDE9L"),
    (bytes.fromhex("516b6fcd0f"), "ABnLTmg"),
    (bytes.fromhex("bf4f89001e670274dd"), "3SEo3LWLoPntC"),
    (bytes.fromhex("572e4794"), "3EFU7m"),
    (bytes.fromhex("ecac89cad93923c02321"), "EJDM8drfXA6uyA"),
    (bytes.fromhex("10c8511e"), "Rt5zm"),
    (bytes(10), "1111111111"),
]


@pytest.mark.parametrize(("data", "text"), PUBLISHED_BASE58)
def test_published_base58(data: bytes, text: str) -> None:
    assert base58_encode(data) == text
    assert base58_decode(text, len(data)) == data


zero_led = st.builds(lambda zeros, rest: bytes(zeros) + rest, st.integers(0, 20), st.binary(max_size=20))


@given(st.binary(max_size=40) | zero_led)
@thorough
def test_base58_round_trips_at_its_size_only(data: bytes) -> None:
    text = base58_encode(data)
    assert base58_decode(text, len(data)) == data
    for size in (len(data) - 1, len(data) + 1):
        if size >= 0:
            with pytest.raises(Malformed):
                base58_decode(text, size)
    spaced = [text + " ", " " + text, text + "\n", text + "\x00", "0" + text]
    for bad in ["1" + text, *([text[1:]] if text.startswith("1") else []), *spaced]:
        with pytest.raises(Malformed):
            base58_decode(bad, len(data))


@given(st.text(max_size=60), st.integers(0, 24))
@thorough
def test_base58_of_any_text_is_refused_or_canonical(text: str, size: int) -> None:
    error = refusal(lambda: base58_decode(text, size))
    if error is None:
        assert base58_encode(base58_decode(text, size)) == text
    else:
        assert type(error) is Malformed
        assert error.__context__ is None


def test_base58_refuses_look_alikes_and_oversize() -> None:
    assert base58_decode("2NEpo7TZRRrLZSi2U", 12) == b"Hello World!"
    for bad in "0OIl+/-_ é１²":
        with pytest.raises(Malformed):
            base58_decode(f"2NEpo7TZRRrLZSi2{bad}", 12)
    with pytest.raises(Malformed):
        base58_decode("z" * 28, 20)  # above 256^20 - 1, short enough to be computed
    with pytest.raises(Malformed):
        base58_decode("2", 0)


class Unread(str):
    """A text that must not be read."""

    __slots__ = ()

    def __iter__(self) -> Iterator[str]:
        raise AssertionError("read, though its length alone says that it is wrong")


def test_a_text_of_impossible_length_is_not_read() -> None:
    # The arithmetic is quadratic: over a million digits it would not end.
    for text in (Unread("z" * 41), Unread("1" * 1_000_000)):
        with pytest.raises(Malformed):
            base58_decode(text, 20)
    with pytest.raises(AssertionError):
        base58_decode(Unread("z" * 40), 20)


# --- msgpack's other implementation -----------------------------------------------------------------------------------


@pytest.mark.skipif("MSGPACK_PUREPYTHON" in os.environ, reason="this is the run on msgpack's Python implementation")
def test_refusals_hold_on_the_pure_python_msgpack() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", "-x", __file__,
         "-k", "foreign or nesting or bounds or top_level or cap or longer_form_of or tails"],
        env={**os.environ, "MSGPACK_PUREPYTHON": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-1000:]


@given(st.binary(max_size=600) | st.integers(0, 70_000).map(bytes), st.lists(st.binary(max_size=40), max_size=4))
def test_a_pair_in_pieces_is_the_pair(first: bytes, second: list[bytes]) -> None:
    before = _wire.pair_head(len(first)) + first
    whole = _wire.encode_second(before, second)
    assert whole == _wire.encode([first, b"".join(second)])
    first_at, first_end, second_at = _wire.pair_bounds(whole, AMPLE)
    assert (whole[first_at:first_end], whole[second_at:]) == (first, b"".join(second))
    if len(first) < 2**16:
        assert _wire.first_at(before) == first_at


@given(st.lists(st.integers(0, 2**32) | st.binary(max_size=40) | st.text(max_size=20), max_size=6))
def test_an_encoder_that_is_kept_writes_the_same(value: list[Any]) -> None:
    encode = _wire.public_encoder()
    for _ in range(2):
        assert encode(value) == _wire.encode(value)
