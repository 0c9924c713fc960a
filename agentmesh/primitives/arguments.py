"""What public calls take: numbers, texts and limits, held to their range."""

from __future__ import annotations

from agentmesh.errors import ArgumentInvalid
from agentmesh.limits import UINT_MAX, Limits

BytesLike = bytes | bytearray | memoryview


def bytes_argument(name: str, value: BytesLike) -> bytes:
    """Return `value` as bytes, copied once where it could change.

    Raises:
        ArgumentInvalid: neither bytes nor a bytearray or memoryview.
    """
    if type(value) is bytes:
        return value
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    raise ArgumentInvalid(name)


def text_argument(name: str, value: object, minimum: int, maximum: int) -> str:
    """Return `value` if it is a str of `minimum` to `maximum` bytes of UTF-8, for arguments of public calls.

    Raises:
        ArgumentInvalid: another type or length, or text that UTF-8 cannot carry.
    """
    if type(value) is str:
        try:
            if minimum <= len(value.encode()) <= maximum:
                return value
        except UnicodeEncodeError:
            pass
    raise ArgumentInvalid(name)


def uint_argument(name: str, value: int, maximum: int = UINT_MAX) -> int:
    """Return `value`. No bool, float, NaN or text is a number here.

    Raises:
        ArgumentInvalid: not an int from 0 to `maximum`.
    """
    if type(value) is not int or not 0 <= value <= maximum:
        raise ArgumentInvalid(name)
    return value


def limits_argument(limits: Limits | None) -> Limits:
    """Return `limits`, the defaults if `None`.

    Raises:
        ArgumentInvalid: not `Limits`.
    """
    if limits is None:
        return Limits()
    if not isinstance(limits, Limits):
        raise ArgumentInvalid("limits")
    return limits
