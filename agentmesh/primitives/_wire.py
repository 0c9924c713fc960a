"""The one importer of msgpack: strict, canonical, size-capped encoding (docs/protocol.md, section 1.3).

A structure's layout is data, a tuple of field kinds, and `decode` holds the bytes to it. What passes is exactly what
`encode` writes: after the layout has been checked, the values are encoded again and compared, so that every structure
has one encoding. (msgpack alone takes longer forms of numbers and lengths, maps with repeated keys, floats, ext types
and trailing bytes.) Nothing is allocated for a length that the input does not have.

A layout that is met thousands of times, as each session's in a store is, says so: `often`. Then a pattern that only
canonical encodings match says the same of most of them, for a sixth of the cost. What it does not match is looked at
as everything else is, so it decides nothing but how long that takes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, Final, NoReturn, final

import msgpack
from attrs import field, frozen

from agentmesh.errors import Malformed, TooLarge
from agentmesh.limits import UINT_MAX
from agentmesh.primitives import _patterns

# --- layouts ---------------------------------------------------------------------------------------------------------


@frozen
class Uint:
    """An unsigned integer up to `maximum`, at most 2^53 - 1."""

    maximum: int = UINT_MAX

    def check(self, value: Any) -> None:
        # type() and not isinstance: True is an int to Python and must not be one on the wire.
        if type(value) is not int or not 0 <= value <= self.maximum:
            raise Malformed

    def pattern(self) -> bytes:
        return _patterns.uint(self.maximum)


@frozen
class Bin:
    """A byte string of `minimum` to `maximum` bytes; `Bin(32)` is exactly 32."""

    minimum: int
    maximum: int = field()

    @maximum.default
    def _exact(self) -> int:
        return self.minimum

    def check(self, value: Any) -> None:
        if type(value) is not bytes or not self.minimum <= len(value) <= self.maximum:
            raise Malformed

    def pattern(self) -> bytes:
        most = self.minimum if self.minimum == self.maximum else min(self.maximum, _patterns.SHORT_STRING)
        return _patterns.strings((_bin_head(size), size) for size in range(self.minimum, most + 1))


@frozen
class Text:
    """A string of `minimum` to `maximum` bytes of UTF-8."""

    minimum: int
    maximum: int

    def check(self, value: Any) -> None:
        if type(value) is not str or not self.minimum <= len(value.encode()) <= self.maximum:
            raise Malformed

    def pattern(self) -> bytes:
        # Whether it is UTF-8 is seen when it is decoded.
        sizes = range(self.minimum, min(self.maximum, _patterns.SHORT_STRING) + 1)
        return _patterns.strings((_text_head(size), size) for size in sizes)


@frozen
class Maybe:
    """The field, or nil."""

    kind: Kind

    def check(self, value: Any) -> None:
        if value is not None:
            self.kind.check(value)

    def pattern(self) -> bytes:
        return _patterns.one_of([_patterns.NIL, self.kind.pattern()])


@frozen
class ArrayOf:
    """An array of at most `maximum` fields of one kind."""

    kind: Kind
    maximum: int

    def check(self, value: Any) -> None:
        if type(value) is not list or len(value) > self.maximum:
            raise Malformed
        for item in value:
            self.kind.check(item)

    def pattern(self) -> bytes:
        return _patterns.arrays(self.kind.pattern(), self.maximum)


@frozen
class Array:
    """An array with exactly these fields.

    Attributes:
        kinds: Its fields.
        most_arrays: How many arrays it can hold, itself included.
        longest_array: How many fields the longest of them can have.
        often: Says of bytes that they are of this layout, if it is met often.
    """

    kinds: tuple[Kind, ...]
    often: Often | None = field(default=None, eq=False, repr=False)
    most_arrays: int = field(init=False)
    longest_array: int = field(init=False)

    @most_arrays.default
    def _most(self) -> int:
        return 1 + sum(_most_arrays(kind) for kind in self.kinds)

    @longest_array.default
    def _longest(self) -> int:
        return max([len(self.kinds), *map(_longest_array, self.kinds)])

    def check(self, value: Any) -> None:
        if type(value) is not list or len(value) != len(self.kinds):
            raise Malformed
        for kind, item in zip(self.kinds, value, strict=True):
            kind.check(item)

    def pattern(self) -> bytes:
        return _patterns.array([kind.pattern() for kind in self.kinds])


Kind = Uint | Bin | Text | Maybe | ArrayOf | Array


def _most_arrays(kind: Kind) -> int:
    if isinstance(kind, Array):
        return kind.most_arrays
    if isinstance(kind, ArrayOf):
        return 1 + kind.maximum * _most_arrays(kind.kind)
    return _most_arrays(kind.kind) if isinstance(kind, Maybe) else 0


def _longest_array(kind: Kind) -> int:
    if isinstance(kind, Array):
        return kind.longest_array
    if isinstance(kind, ArrayOf):
        return max(kind.maximum, _longest_array(kind.kind))
    return _longest_array(kind.kind) if isinstance(kind, Maybe) else 0


def array(*kinds: Kind) -> Array:
    """Return the layout of an array with exactly these fields."""
    return Array(kinds)


_OFTEN: Final = 16  # a pattern takes milliseconds to make, which few encodings give back


@final
class Often:
    """What knows the short encodings of a layout by one pattern, once it was asked often enough to make it."""

    __slots__ = ("_asked", "_layout", "_match")

    def __init__(self, layout: Array) -> None:
        self._layout = layout
        self._asked = 0
        self._match: Callable[[bytes], object] | None = None

    def knows(self, data: bytes) -> bool:
        """Say whether these are the canonical encoding of an array of the layout, its texts apart. It may say no."""
        match = self._match
        if match is None:
            self._asked += 1
            if self._asked <= _OFTEN:
                return False
            match = self._match = re.compile(self._layout.pattern(), re.DOTALL).fullmatch
        return match(data) is not None


def often(*kinds: Kind) -> Array:
    """Return the layout of an array with exactly these fields, fewer than 16, that is met thousands of times."""
    return Array(kinds, Often(Array(kinds)))


# --- codec -----------------------------------------------------------------------------------------------------------


_BUFFER_BYTES: Final = 1024  # to begin with: it grows


def _refuse_ext(_code: int, _data: bytes) -> NoReturn:
    raise Malformed


def _refuse_map(_items: dict[Any, Any]) -> NoReturn:
    raise Malformed


def _check_size(data: bytes, max_bytes: int) -> None:
    if not isinstance(data, bytes):
        raise Malformed
    if len(data) > max_bytes:
        raise TooLarge(len(data), max_bytes)


def _unpack(data: bytes, layout: Array, max_bytes: int) -> Any:
    _check_size(data, max_bytes)
    arrays_left = layout.most_arrays

    def count_array(items: list[Any]) -> list[Any]:
        # An array costs one byte to write and sixty to build, so no more are built than the layout can hold.
        nonlocal arrays_left
        arrays_left -= 1
        if arrays_left < 0:
            raise Malformed
        return items

    try:
        # Every msgpack error for bad bytes is a ValueError, except that its pure-Python fallback may recurse.
        return msgpack.unpackb(
            data,
            raw=False,
            max_array_len=min(layout.longest_array, len(data)),  # an array is built as long as it says it is
            max_map_len=0,
            max_ext_len=0,
            ext_hook=_refuse_ext,
            list_hook=count_array,
        )
    except (ValueError, RecursionError):
        pass
    raise Malformed  # outside the except block, so that no foreign exception hangs on ours


def peek_version(data: bytes) -> int | None:
    """Return the first field of an array, if it is a small number: what says how the rest is to be read."""
    heads = {0xDC: 3, 0xDD: 5}
    at = 1 if data[:1] and data[0] & 0xF0 == 0x90 else heads.get(data[0] if data else 0)
    return data[at] if at is not None and at < len(data) and data[at] < 0x80 else None


def encode(value: Sequence[Any]) -> bytes:
    """Return the canonical encoding of an array of ints, bytes, str, None and arrays of these."""
    packed: bytes = msgpack.packb(value, use_bin_type=True, buf_size=_BUFFER_BYTES)
    return packed


def public_encoder() -> Callable[[Sequence[Any]], bytes]:
    """Return an `encode` for one thread, and for what is no secret: it keeps its buffer, and with it what it wrote."""
    pack: Callable[[Sequence[Any]], bytes] = msgpack.Packer(use_bin_type=True).pack
    return pack


def decode(data: bytes, layout: Array, max_bytes: int) -> list[Any]:
    """Return the fields of `data`, which must be the one encoding of an array of that layout.

    Raises:
        TooLarge: `data` is longer than `max_bytes`; nothing was parsed.
        Malformed: any other shape, or a longer form of the same.
    """
    known = layout.often
    if known is not None and type(data) is bytes and len(data) <= max_bytes and known.knows(data):
        return _unpack_known(data)
    value = _unpack(data, layout, max_bytes)
    layout.check(value)
    if encode(value) != data:
        raise Malformed
    fields: list[Any] = value
    return fields


def decode_rows(parts: Sequence[bytes], width: int) -> list[tuple[Any, ...]]:
    """Return the fields of each part, if each is the one encoding of an array of so many fields; in one go for all.

    For what is read by the million. What the fields are is for the caller to see to, who has bounded the parts.

    Raises:
        Malformed: at least one is anything else; `decode` says of each what it is.
    """
    data = b"".join(parts)

    def check_width(row: tuple[Any, ...]) -> tuple[Any, ...]:
        # A map or an array costs one byte to write and sixty to build, so the first that is no row ends it.
        if len(row) != width:
            raise Malformed
        return row

    try:
        unpacker = msgpack.Unpacker(
            raw=False,
            use_list=False,
            list_hook=check_width,
            object_hook=_refuse_map,
            max_buffer_size=max(1, len(data)),
            max_array_len=width,
            max_map_len=0,
            max_ext_len=0,
            ext_hook=_refuse_ext,
        )
        unpacker.feed(data)
        rows = list(unpacker)
        # Part by part: so no part's end can be the next one's beginning.
        if set(map(type, rows)) == {tuple} and list(map(public_encoder(), rows)) == list(parts):
            return rows
    except (ValueError, RecursionError):
        pass
    raise Malformed


def _unpack_known(data: bytes) -> list[Any]:
    try:
        fields: list[Any] = msgpack.unpackb(data)
        return fields
    except ValueError:  # a text that is not UTF-8
        pass
    raise Malformed


_PAIR: Final = b"\x92"
_PAIR_BYTE: Final = 0x92
_SHORT_BYTE: Final = 0xC4  # begins a byte string of less than 256 bytes


def _bin_at(data: bytes, at: int) -> tuple[int, int]:
    """Return where the byte string whose head is at `at` begins and ends; its end may lie behind the input's."""
    try:
        head = data[at]
        if head == 0xC4:
            return at + 2, at + 2 + data[at + 1]
        if head == 0xC5 and data[at + 1]:
            return at + 3, at + 3 + (data[at + 1] << 8 | data[at + 2])
        if head == 0xC6 and (data[at + 1] or data[at + 2]):
            return at + 5, at + 5 + (data[at + 1] << 24 | data[at + 2] << 16 | data[at + 3] << 8 | data[at + 4])
    except IndexError:
        pass
    raise Malformed


_SHORT_HEADS: Final = tuple(bytes((0xC4, size)) for size in range(0x100))


def _text_head(size: int) -> bytes:
    return bytes((0xA0 | size,)) if size < 0x20 else bytes((0xD9, size))


def _bin_head(size: int) -> bytes:
    if size < 0x100:
        return _SHORT_HEADS[size]
    return b"\xc5" + size.to_bytes(2, "big") if size < 0x10000 else b"\xc6" + size.to_bytes(4, "big")


def pair_head(first_bytes: int) -> bytes:
    """Return what stands before the first byte string of a pair, which is that long."""
    return _PAIR + _bin_head(first_bytes)


def first_at(pair: bytes) -> int:
    """Return where the first byte string of a pair begins, which is shorter than 64 KiB."""
    return 3 if pair[1] == _SHORT_BYTE else 4


def encode_pair(first: bytes, *second: bytes) -> bytes:
    """Return `encode([first, the joined parts of second])`, with one copy: the second may be a megabyte."""
    size = len(second[0]) if len(second) == 1 else sum(map(len, second))
    return b"".join((_PAIR, _bin_head(len(first)), first, _bin_head(size), *second))


def encode_second(before: bytes, second: Sequence[bytes]) -> bytes:
    """Return a pair of which everything `before` its second byte string is encoded already, with one copy."""
    size = 0
    for part in second:
        size += len(part)
    return b"".join((before, _bin_head(size), *second))


def pair_bounds(data: bytes, max_bytes: int) -> tuple[int, int, int]:
    """Return where the first byte string of a pair begins and ends, and where the second begins, which ends `data`.

    For a pair of byte strings the shortest heads are the canonical form, so a megabyte is not encoded again; and it is
    cut by hand, because msgpack would first build whatever arrays stand there instead.

    Raises:
        TooLarge: `data` is longer than `max_bytes`; nothing was parsed.
        Malformed: any other shape, or a longer form of the same.
    """
    if type(data) is not bytes or len(data) > max_bytes:
        _check_size(data, max_bytes)
    if len(data) < 3 or data[0] != _PAIR_BYTE:
        raise Malformed
    # Most begin with a short one, for which no call is made.
    first_at, first_end = (3, 3 + data[2]) if data[1] == _SHORT_BYTE else _bin_at(data, 1)
    second_at, second_end = _bin_at(data, first_end)
    if second_end != len(data):
        raise Malformed
    return first_at, first_end, second_at


def decode_pair(data: bytes, max_bytes: int) -> tuple[bytes, bytes]:
    """Return the two byte strings of an array of exactly two. Raises as `pair_bounds`."""
    first_at, first_end, second_at = pair_bounds(data, max_bytes)
    return data[first_at:first_end], data[second_at:]
