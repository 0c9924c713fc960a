"""What a message's plaintext is: `type || content`, padded (docs/protocol.md, section 6).

0 data    action length (1; 0 for the KNOCK's action) || action || data
1 accept  msgpack [conditions, signature], in `agentmesh.handshake.verdict`
2 close   msgpack [reason, data messages sent, data messages opened]
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from agentmesh.errors import Malformed, MessageRefused, TooLarge
from agentmesh.limits import ACTION_MAX_BYTES
from agentmesh.primitives import _wire
from agentmesh.primitives.padding import pad, unpadded_length

REASON_MAX_BYTES: Final = 128
_CLOSE_LAYOUT: Final = _wire.array(_wire.Text(0, REASON_MAX_BYTES), _wire.Uint(), _wire.Uint())
_CLOSE_MAX_BYTES: Final = 256


class ContentType(IntEnum):
    """The first byte of every plaintext."""

    DATA = 0
    ACCEPT = 1
    CLOSE = 2


_DATA_HEAD: Final = bytes([ContentType.DATA])
_DATA_HEAD_WITHOUT_ACTION: Final = _DATA_HEAD + b"\x00"
_ACCEPT_HEAD: Final = bytes([ContentType.ACCEPT])
_CLOSE_HEAD: Final = bytes([ContentType.CLOSE])
_TYPES: Final = {int(content_type): content_type for content_type in ContentType}


def pad_data(action: bytes, data: bytes) -> bytes:
    """Return a data message's padded plaintext; `action` is 0 (the KNOCK's) to 128 bytes of UTF-8."""
    if not action:
        return pad(_DATA_HEAD_WITHOUT_ACTION, data)
    return pad(_DATA_HEAD, bytes([len(action)]), action, data)


def pad_accept(content: bytes) -> bytes:
    """Return an ACCEPT's padded plaintext."""
    return pad(_ACCEPT_HEAD, content)


def pad_close(reason: str, data_sent: int, data_opened: int) -> bytes:
    """Return a close's padded plaintext; both counts with the early payload, without ACCEPT and close."""
    return pad(_CLOSE_HEAD, _wire.encode([reason, data_sent, data_opened]))


def parse_content(padded: bytes) -> tuple[ContentType, str | None, bytes]:
    """Return (type, action, content): for data the action it names (`None` for the KNOCK's) and the data.

    Raises:
        DecryptionFailed: the padding is not exactly what `pad` makes.
        MessageRefused: no type, or a data message whose action is not well formed.
    """
    length = unpadded_length(padded)
    content_type = _TYPES.get(padded[0]) if length else None
    if content_type is None:
        raise MessageRefused
    if content_type is not ContentType.DATA:
        return content_type, None, padded[1:length]
    if length >= 2:
        end = 2 + padded[1]
        if end == 2:
            return content_type, None, padded[2:length]
        if end <= length and padded[1] <= ACTION_MAX_BYTES:
            try:
                return content_type, padded[2:end].decode(), padded[end:length]
            except UnicodeDecodeError:
                pass
    raise MessageRefused


def parse_close(content: bytes) -> tuple[str, int, int]:
    """Return (reason, data messages sent, data messages opened) of a close.

    Raises:
        MessageRefused: it is none.
    """
    try:
        reason, data_sent, data_opened = _wire.decode(content, _CLOSE_LAYOUT, _CLOSE_MAX_BYTES)
        return reason, data_sent, data_opened
    except (Malformed, TooLarge):
        pass
    raise MessageRefused
