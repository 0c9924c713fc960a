"""base58btc, for DIDs (docs/protocol.md, section 2; draft-msporny-base58-03)."""

from __future__ import annotations

from typing import Final

from agentmesh.errors import Malformed

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
