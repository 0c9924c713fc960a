"""The one importer of msgpack: strict, canonical, size-capped encoding; and base58btc (docs/protocol.md, section 1.3).

A structure's layout is data, a tuple of field kinds, and `decode` holds the bytes to it. What passes is exactly what
`encode` writes: after the layout has been checked, the values are encoded again and compared, so that every structure
has one encoding. (msgpack alone takes longer forms of numbers and lengths, maps with repeated keys, floats, ext types
and trailing bytes.) Nothing is allocated for a length that the input does not have.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NoReturn

import msgpack
from attrs import field, frozen

from agentmesh.errors import Malformed, TooLarge
from agentmesh.limits import UINT_MAX

# --- layouts ---------------------------------------------------------------------------------------------------------


@frozen
class Uint:
    """An unsigned integer up to `maximum`, at most 2^53 - 1."""

    maximum: int = UINT_MAX

    def check(self, value: Any) -> None:
        # type() and not isinstance: True is an int to Python and must not be one on the wire.
        if type(value) is not int or not 0 <= value <= self.maximum:
            raise Malformed


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


@frozen
class Text:
    """A string of `minimum` to `maximum` bytes of UTF-8."""

    minimum: int
    maximum: int

    def check(self, value: Any) -> None:
        if type(value) is not str or not self.minimum <= len(value.encode()) <= self.maximum:
            raise Malformed


@frozen
class Maybe:
    """The field, or nil."""

    kind: Kind

    def check(self, value: Any) -> None:
        if value is not None:
            self.kind.check(value)


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


@frozen
class Array:
    """An array with exactly these fields."""

    kinds: tuple[Kind, ...]

    def check(self, value: Any) -> None:
        if type(value) is not list or len(value) != len(self.kinds):
            raise Malformed
        for kind, item in zip(self.kinds, value, strict=True):
            kind.check(item)


Kind = Uint | Bin | Text | Maybe | ArrayOf | Array


def array(*kinds: Kind) -> Array:
    """Return the layout of an array with exactly these fields."""
    return Array(kinds)


# --- codec -----------------------------------------------------------------------------------------------------------


def _refuse_ext(_code: int, _data: bytes) -> NoReturn:
    raise Malformed


def _unpack(data: bytes, max_bytes: int) -> Any:
    if not isinstance(data, bytes):
        raise Malformed
    if len(data) > max_bytes:
        raise TooLarge
    try:
        # Every msgpack error for bad bytes is a ValueError, except that its pure-Python fallback may recurse.
        return msgpack.unpackb(data, raw=False, max_map_len=0, max_ext_len=0, ext_hook=_refuse_ext)
    except (ValueError, RecursionError):
        pass
    raise Malformed  # outside the except block, so that no foreign exception hangs on ours


def encode(value: Sequence[Any]) -> bytes:
    """Return the canonical encoding of an array of ints, bytes, str, None and arrays of these."""
    packed: bytes = msgpack.packb(value, use_bin_type=True)
    return packed


def decode(data: bytes, layout: Array, max_bytes: int) -> list[Any]:
    """Return the fields of `data`, which must be the one encoding of an array of that layout.

    Raises:
        TooLarge: `data` is longer than `max_bytes`; nothing was parsed.
        Malformed: any other shape, or a longer form of the same.
    """
    value = _unpack(data, max_bytes)
    layout.check(value)
    if encode(value) != data:
        raise Malformed
    fields: list[Any] = value
    return fields


def _bin_length(size: int) -> int:
    return size + (2 if size < 0x100 else 3 if size < 0x10000 else 5)


def _bin_head(size: int) -> bytes:
    if size < 0x100:
        return b"\xc4" + size.to_bytes(1, "big")
    return b"\xc5" + size.to_bytes(2, "big") if size < 0x10000 else b"\xc6" + size.to_bytes(4, "big")


def encode_pair(first: bytes, *second: bytes) -> bytes:
    """Return `encode([first, the joined parts of second])`, with one copy: the second may be a megabyte."""
    size = sum(map(len, second))
    return b"".join((b"\x92", _bin_head(len(first)), first, _bin_head(size), *second))


def decode_pair(data: bytes, max_bytes: int) -> tuple[bytes, bytes]:
    """Return the two byte strings of an array of exactly two.

    For a pair of byte strings the shortest length is the canonical form, so a megabyte is not encoded again.

    Raises:
        TooLarge: `data` is longer than `max_bytes`; nothing was parsed.
        Malformed: any other shape, or a longer form of the same.
    """
    value = _unpack(data, max_bytes)
    if type(value) is not list or len(value) != 2:
        raise Malformed
    first, second = value
    if type(first) is not bytes or type(second) is not bytes:
        raise Malformed
    if len(data) != 1 + _bin_length(len(first)) + _bin_length(len(second)):
        raise Malformed
    return first, second


# --- base58btc -------------------------------------------------------------------------------------------------------

_ALPHABET: Final = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_DIGITS: Final = {character: index for index, character in enumerate(_ALPHABET)}


def base58_encode(data: bytes) -> str:
    """Return `data` in base58btc (draft-msporny-base58-03): one `1` for each leading zero byte."""
    zeros = len(data) - len(data.lstrip(b"\x00"))
    number = int.from_bytes(data, "big")
    digits: list[str] = []
    while number:
        number, digit = divmod(number, 58)
        digits.append(_ALPHABET[digit])
    return "1" * zeros + "".join(reversed(digits))


def base58_decode(text: str, size: int) -> bytes:
    """Return the `size` bytes that `text` is the base58btc of.

    Raises:
        Malformed: a character outside the alphabet, or not the one encoding of `size` bytes.
    """
    if len(text) > 2 * size:  # log(256) / log(58) is 1.37: longer cannot be right, and the arithmetic is quadratic
        raise Malformed
    number = 0
    for character in text:
        digit = _DIGITS.get(character)
        if digit is None:
            raise Malformed
        number = number * 58 + digit
    if number >> (8 * size):
        raise Malformed
    data = number.to_bytes(size, "big")
    if base58_encode(data) != text:
        raise Malformed
    return data
