"""msgpack by hand: the canonical forms, and the longer, wrong and foreign ones that a decoder must refuse."""

from __future__ import annotations

from collections.abc import Iterator

NIL = b"\xc0"
TRUE = b"\xc3"


def uint(value: int) -> bytes:
    """Return the shortest form of an unsigned integer."""
    if value < 0x80:
        return bytes([value])
    for head, size in ((0xCC, 1), (0xCD, 2), (0xCE, 4), (0xCF, 8)):
        if value < 1 << (8 * size):
            return bytes([head]) + value.to_bytes(size, "big")
    raise ValueError("no unsigned integer of msgpack")


def uint8(value: int) -> bytes:
    """Return the two-byte form."""
    return b"\xcc" + value.to_bytes(1, "big")


def uint16(value: int) -> bytes:
    """Return the three-byte form."""
    return b"\xcd" + value.to_bytes(2, "big")


def uint32(value: int) -> bytes:
    """Return the five-byte form."""
    return b"\xce" + value.to_bytes(4, "big")


def uint64(value: int) -> bytes:
    """Return the nine-byte form."""
    return b"\xcf" + value.to_bytes(8, "big")


def binary(data: bytes) -> bytes:
    """Return the shortest form of a byte string."""
    if len(data) < 0x100:
        return b"\xc4" + len(data).to_bytes(1, "big") + data
    return (
        b"\xc5" + len(data).to_bytes(2, "big") if len(data) < 0x10000 else b"\xc6" + len(data).to_bytes(4, "big")
    ) + data


def binary16(data: bytes) -> bytes:
    """Return the form with a two-byte length."""
    return b"\xc5" + len(data).to_bytes(2, "big") + data


def binary32(data: bytes) -> bytes:
    """Return the form with a four-byte length."""
    return b"\xc6" + len(data).to_bytes(4, "big") + data


def text(data: bytes) -> bytes:
    """Return the shortest form of a string, given by its bytes."""
    if len(data) < 0x20:
        return bytes([0xA0 | len(data)]) + data
    return (
        b"\xd9" + len(data).to_bytes(1, "big") if len(data) < 0x100 else b"\xda" + len(data).to_bytes(2, "big")
    ) + data


def text8(data: bytes) -> bytes:
    """Return the form with a one-byte length."""
    return b"\xd9" + len(data).to_bytes(1, "big") + data


def text16(data: bytes) -> bytes:
    """Return the form with a two-byte length."""
    return b"\xda" + len(data).to_bytes(2, "big") + data


def text32(data: bytes) -> bytes:
    """Return the form with a four-byte length."""
    return b"\xdb" + len(data).to_bytes(4, "big") + data


def array(*items: bytes) -> bytes:
    """Return the shortest form of an array, given by its encoded items."""
    return (bytes([0x90 | len(items)]) if len(items) < 16 else b"\xdc" + len(items).to_bytes(2, "big")) + b"".join(
        items
    )


def array16(*items: bytes) -> bytes:
    """Return the form with a two-byte length."""
    return b"\xdc" + len(items).to_bytes(2, "big") + b"".join(items)


def pair(first: bytes, second: bytes) -> bytes:
    """Return an array of two byte strings: an envelope, or a body with its signature."""
    return array(binary(first), binary(second))


def replaced(items: list[bytes], index: int, item: bytes) -> list[bytes]:
    """Return the items with one of them replaced."""
    return [*items[:index], item, *items[index + 1 :]]


def with_item(items: list[bytes], index: int, item: bytes) -> bytes:
    """Return the array of the items with one of them replaced."""
    return array(*replaced(items, index, item))


def flipped(data: bytes, index: int, mask: int = 1) -> bytes:
    """Return the data with bits of one byte flipped; a negative index counts from the end."""
    changed = bytearray(data)
    changed[index] ^= mask
    return bytes(changed)


def foreign_arrays(items: list[bytes], *, shortly: bool = False) -> Iterator[tuple[str, str, bytes]]:
    """Yield (name, comment, bytes): an array of these items in forms that no canonical encoder writes.

    The family envelope shows them all; elsewhere, `shortly` shows the commonest.
    """
    plain = array(*items)
    yield "truncated-by-one", "the last byte is missing", plain[:-1]
    yield "trailing-byte", "one byte behind the array", plain + b"\x00"
    yield "array16", "the array's length in the two-byte form", array16(*items)
    yield "one-element-more", "an element too many", array(*items, NIL)
    yield "one-element-less", "an element too few", array(*items[:-1])
    yield "map", "a map in the array's place", b"\x81\x00" + items[0]
    if shortly:
        return
    yield "empty-input", "no bytes at all", b""
    yield "nil", "nil in the array's place", NIL
    yield "nested-deeply", "a hundred arrays, one in the other", b"\x91" * 100 + NIL
    yield "length-beyond-input", "an array that claims 2^32 - 1 elements", b"\xdd\xff\xff\xff\xff" + b"".join(items)
    yield "ext", "an extension type as the first element", array(b"\xd4\x01\x00", *items[1:])
    yield "nil-element", "nil as the first element", array(NIL, *items[1:])
    yield "str-for-bin", "a string where a byte string or a number belongs", array(text(b"1"), *items[1:])
