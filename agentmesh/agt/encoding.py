"""How AGT writes bytes, values and times: base64 in its flavours, JSON objects, timestamps (docs/agt.md).

What comes from elsewhere is bounded before it is parsed: in size, and in the values that it can hold, because a value
costs two bytes to write and sixty to build.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NoReturn

from agentmesh.errors import Malformed, TooLarge
from agentmesh.primitives.arguments import uint_argument

_TO_STANDARD: Final = str.maketrans("-_", "+/")

# Of an object's text, strings and all: a full page of the registry's search has 402 brackets.
_BRACKETS_MAX: Final = 1000
_COMMAS_MAX: Final = 1 << 16
_NUMBER_MAX_CHARS: Final = 32  # longer than any number that is meant; Python's own conversion is not linear

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)
_TIME_MAX_MS: Final = 253_402_300_799_999  # the year 9999 ends
_TIME_SHAPE: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,6})?(?:Z|[+-]\d\d:\d\d)", re.ASCII)


# --- base64 ----------------------------------------------------------------------------------------------------------


def url64(data: bytes) -> str:
    """Return base64url without padding, as the registry's texts are."""
    return base64.urlsafe_b64encode(data).decode("ascii").rstrip("=")


def std64(data: bytes) -> str:
    """Return standard base64 with padding, as the relay's texts are."""
    return base64.b64encode(data).decode("ascii")


def unbase64(text: object, size: int | None = None) -> bytes:
    """Return the bytes of a base64 text in either alphabet, padded or not.

    Args:
        text: What came from elsewhere.
        size: How many bytes there must be; any number if `None`.

    Raises:
        Malformed: no text, both alphabets, padding of another length, bits behind the last byte, or another size.
    """
    if type(text) is not str or (size is not None and len(text) > (size + 2) // 3 * 4):
        raise Malformed
    bare = text.rstrip("=")
    padding = "=" * (-len(bare) % 4)
    if len(bare) != len(text) and bare + padding != text:
        raise Malformed
    standard = bare
    if "-" in bare or "_" in bare:
        if "+" in bare or "/" in bare:
            raise Malformed
        standard = bare.translate(_TO_STANDARD)
    try:
        data = binascii.a2b_base64(standard + padding)
    except ValueError:
        data = b""
    # Python passes over what is not of the alphabet, and over bits that should be zero: one text for each bytes.
    if std64(data) != standard + padding or (size is not None and len(data) != size):
        raise Malformed
    return data


# --- JSON ------------------------------------------------------------------------------------------------------------


def write_object(value: dict[str, Any]) -> bytes:
    """Return the compact JSON of an object, in ASCII, its keys in their order."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode("ascii")


def read_object(
    data: bytes, max_bytes: int, *, max_brackets: int = _BRACKETS_MAX, max_commas: int = _COMMAS_MAX
) -> dict[str, Any]:
    """Return the JSON object that `data` holds, read strictly and in bounded time and memory.

    Args:
        data: The JSON.
        max_bytes: How many bytes it may have.
        max_brackets: How many opening brackets, in texts and all: so many lists and objects, and no deeper.
        max_commas: How many commas, in texts and all.

    Raises:
        TooLarge: more than `max_bytes`; nothing was parsed.
        Malformed: no UTF-8, no JSON, no object, a key twice, text that UTF-8 cannot carry, too many values, or a number
            that is not finite or has too many digits.
    """
    if len(data) > max_bytes:
        raise TooLarge(len(data), max_bytes)
    # As many brackets as there are bound the depth too, and with it the stack of the parser.
    if data.count(b"[") + data.count(b"{") > max_brackets or data.count(b",") > max_commas:
        raise Malformed
    try:
        value = _DECODER.decode(data.decode())
        if b"\\u" in data:
            json.dumps(value, ensure_ascii=False).encode()  # half of a surrogate pair, escaped, gets through till here
    except (ValueError, RecursionError):
        value = None
    if type(value) is not dict:
        raise Malformed
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError
    return value


def _integer(digits: str) -> int:
    if len(digits) > _NUMBER_MAX_CHARS:
        raise ValueError
    return int(digits)


def _finite(digits: str) -> float:
    if len(digits) > _NUMBER_MAX_CHARS or not math.isfinite(value := float(digits)):
        raise ValueError
    return value


def _no_number(_name: str) -> NoReturn:
    raise ValueError


_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_once, parse_int=_integer, parse_float=_finite, parse_constant=_no_number
)


# --- time ------------------------------------------------------------------------------------------------------------


def timestamp(now_ms: int) -> str:
    """Return a time as AGT's clients write it: `2026-08-24T06:18:02.472Z`.

    Raises:
        ArgumentInvalid: not milliseconds since the epoch, up to the year 9999.
    """
    moment = _EPOCH + uint_argument("now_ms", now_ms, _TIME_MAX_MS) * _MILLISECOND
    return moment.replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z"


def read_timestamp(text: object) -> int:
    """Return the milliseconds since the epoch of a time with an offset, and up to six digits behind the second.

    Raises:
        Malformed: another form, no such time, no offset, or before 1970.
    """
    if type(text) is not str or _TIME_SHAPE.fullmatch(text) is None:
        raise Malformed
    try:
        time_ms = (datetime.fromisoformat(text) - _EPOCH) // _MILLISECOND
    except ValueError:
        time_ms = -1
    if time_ms < 0:
        raise Malformed
    return time_ms
