"""What AGT's clients put into a message: a JSON text, also where an application sends bytes (docs/agt.md)."""

from __future__ import annotations

import json
import re
from typing import Final, NoReturn

from agentmesh.agt.encoding import std64, unbase64
from agentmesh.errors import ArgumentInvalid, Malformed
from agentmesh.primitives.arguments import BytesLike, bytes_argument, frameless

# As a client of kars writes it: no other object is taken for it.
_RAW: Final = re.compile(rb'\s*\{\s*"raw_b64"\s*:\s*"([A-Za-z0-9+/_=-]*)"\s*\}\s*')
_BLANKS: Final = b" \t\r\n"


@frameless
def wrap(data: BytesLike, *, json: bool = False) -> bytes:
    """Return the plaintext of a message.

    Args:
        data: What to send. Text in UTF-8 becomes a JSON string, other bytes an object with their base64; a client in
            Python unwraps both, one in TypeScript gets the string or the object.
        json: `data` is JSON text already, and goes as it is: the peer's application gets its value.

    Raises:
        ArgumentInvalid: not bytes, or no JSON text where it is said to be. The error does not hold it.
    """
    data = bytes_argument("data", data)
    if json:
        if not _is_json(data):
            raise ArgumentInvalid("data", "not JSON text")
        return data
    try:
        return _written(data.decode())
    except UnicodeDecodeError:
        return _written({"raw_b64": std64(data)})


@frameless
def unwrap(plaintext: bytes) -> bytes:
    """Return what a peer sent: a string's UTF-8, the bytes of an object that `wrap` makes, any other JSON as its text.

    That other text is the application's to parse, and is not parsed here: it may be as deep as it likes.

    Raises:
        Malformed: a string that is no JSON, or that UTF-8 cannot carry; base64 that is not in its one form; or no
            UTF-8, so that it is no JSON at all.
    """
    if (raw := _RAW.fullmatch(plaintext)) is not None:
        return unbase64(raw[1].decode("ascii"))
    try:
        text = plaintext.decode()
        if plaintext.lstrip(_BLANKS)[:1] != b'"':
            return plaintext
        return str.encode(json.loads(text))
    except ValueError:
        pass
    raise Malformed


def _written(value: str | dict[str, str]) -> bytes:
    return json.dumps(value).encode("ascii")


def _is_json(data: bytes) -> bool:
    try:
        json.loads(data.decode(), parse_int=str, parse_float=str, parse_constant=_no_number)  # no number is converted
    except (ValueError, RecursionError):
        return False
    return True


def _no_number(_name: str) -> NoReturn:
    raise ValueError
