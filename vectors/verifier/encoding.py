"""The restricted msgpack of section 1.3, by hand."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from verifier.common import COUNTER_MAX, UINT_MAX, Refused, Unusable, refuse

Form = Callable[[Any], bool]


def encode(value: Any) -> bytes:
    """The one encoding of an integer, byte string, text, array or nil."""
    if value is None:
        return b"\xc0"
    if type(value) is int and 0 <= value <= UINT_MAX:
        if value < 0x80:
            return bytes([value])
        size, head = next((s, h) for s, h in ((1, 0xCC), (2, 0xCD), (4, 0xCE), (8, 0xCF)) if value < 256**s)
        return bytes([head]) + value.to_bytes(size, "big")
    if isinstance(value, bytes):
        return _head(len(value), (1, 0xC4), (2, 0xC5), (4, 0xC6)) + value
    if isinstance(value, str):
        text = value.encode()
        short = bytes([0xA0 | len(text)]) if len(text) < 32 else b""
        return (short or _head(len(text), (1, 0xD9), (2, 0xDA), (4, 0xDB))) + text
    if isinstance(value, list | tuple):
        short = bytes([0x90 | len(value)]) if len(value) < 16 else b""
        return (short or _head(len(value), (2, 0xDC), (4, 0xDD))) + b"".join(map(encode, value))
    raise Unusable(f"no encoding of {value!r}")


def _head(length: int, *forms: tuple[int, int]) -> bytes:
    size, head = next((s, h) for s, h in forms if length < 256**s)
    return bytes([head]) + length.to_bytes(size, "big")


# first byte: (kind, bytes of the length or number, the least value that needs this form)
LONG_FORMS = {
    0xCC: ("uint", 1, 0x80),
    0xCD: ("uint", 2, 0x100),
    0xCE: ("uint", 4, 0x10000),
    0xCF: ("uint", 8, 0x100000000),
    0xC4: ("bin", 1, 0),
    0xC5: ("bin", 2, 0x100),
    0xC6: ("bin", 4, 0x10000),
    0xD9: ("str", 1, 32),
    0xDA: ("str", 2, 0x100),
    0xDB: ("str", 4, 0x10000),
    0xDC: ("array", 2, 16),
    0xDD: ("array", 4, 0x10000),
}


class Decoder:
    """A strict decoder: anything but the shortest form of a permitted value is `wire.malformed`."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def whole(self) -> list[Any]:
        """The array that is all of the data."""
        value = self._value(1)
        if not isinstance(value, list) or self.at != len(self.data):
            refuse("wire.malformed")
        return value

    def _take(self, size: int) -> bytes:
        if size > len(self.data) - self.at:
            refuse("wire.malformed")
        self.at += size
        return self.data[self.at - size : self.at]

    def _value(self, depth: int) -> Any:
        first = self._take(1)[0]
        if first < 0x80:
            return first
        if first == 0xC0:
            return None
        if 0x90 <= first <= 0x9F:
            kind, number = "array", first & 0x0F
        elif 0xA0 <= first <= 0xBF:
            kind, number = "str", first & 0x1F
        elif first in LONG_FORMS:
            kind, size, least = LONG_FORMS[first]
            number = int.from_bytes(self._take(size), "big")
            if number < least:
                refuse("wire.malformed")
        else:
            refuse("wire.malformed")
        if kind == "uint":
            return number if number <= UINT_MAX else refuse("wire.malformed")
        if kind == "bin":
            return self._take(number)
        if kind == "str":
            try:
                return self._take(number).decode()
            except UnicodeDecodeError:
                refuse("wire.malformed")
        if depth > 4:
            refuse("wire.malformed")
        return [self._value(depth + 1) for _ in range(number)]


def unpack(data: bytes, *forms: Form, code: str = "wire.malformed") -> list[Any]:
    """Decode an array of as many elements as there are forms, each of its form."""
    try:
        values = Decoder(data).whole()
    except Refused:
        refuse(code)
    if len(values) != len(forms) or not all(form(value) for form, value in zip(forms, values, strict=True)):
        refuse(code)
    return values


def is_uint(value: Any) -> bool:
    """An unsigned integer; the decoder has seen to its size."""
    return type(value) is int


def is_counter(value: Any) -> bool:
    """An unsigned integer below 2^32."""
    return is_uint(value) and value <= COUNTER_MAX


def is_bin(value: Any) -> bool:
    """A byte string of any length."""
    return isinstance(value, bytes)


def is_text(value: Any) -> bool:
    """A text of any length."""
    return isinstance(value, str)


def exactly(size: int) -> Form:
    """A byte string of one length."""
    return lambda value: isinstance(value, bytes) and len(value) == size


def at_least(size: int) -> Form:
    """A byte string of some length or more."""
    return lambda value: isinstance(value, bytes) and len(value) >= size


def text_of(least: int, most: int) -> Form:
    """A text of so many bytes."""
    return lambda value: isinstance(value, str) and least <= len(value.encode()) <= most


def or_nil(form: Form) -> Form:
    """A form, or nil."""
    return lambda value: value is None or form(value)


def array_of(form: Form, most: int) -> Form:
    """An array of at most so many elements of a form."""
    return lambda value: isinstance(value, list) and len(value) <= most and all(map(form, value))


is_action = text_of(1, 128)


def is_mesh(value: Any) -> bool:
    """The name of a mesh."""
    return isinstance(value, str) and re.fullmatch(r"[a-z0-9._/-]{1,64}", value) is not None


def u32(number: int) -> bytes:
    """Four bytes, big-endian."""
    return number.to_bytes(4, "big")


def prefixed(*parts: bytes) -> bytes:
    """`list(...)` of the conventions: each part behind its length."""
    return b"".join(u32(len(part)) + part for part in parts)
