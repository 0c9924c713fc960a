"""What a message's plaintext is: `type || content`, padded (docs/protocol.md, section 6).

0 data    parts (1) || index (4) || [item] || [ack] || [refs] || action length (1; 0: the KNOCK's) || action || data
1 accept  msgpack [conditions, signature], in `agentmesh.handshake.verdict`
2 close   msgpack [reason, index of the last data message sent, data messages opened]
3 signal  parts (1) || [item] || [ack]

Each has one encoding: a part that says nothing is absent.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from struct import Struct
from typing import Final

from agentmesh.attachments.reference import Attachment, UnknownReference, parse_reference
from agentmesh.errors import Malformed, MessageRefused, TooLarge
from agentmesh.limits import ACK_RANGES_MAX, ACTION_MAX_BYTES, COUNTER_MAX, REFERENCES_MAX
from agentmesh.primitives import _wire
from agentmesh.primitives.padding import pad, padding, unpadded_length
from agentmesh.session.epochs import ANSWER_BYTES, OFFER_BYTES
from agentmesh.session.indices import IndexRange

REASON_MAX_BYTES: Final = 128
_INDEX: Final = _wire.Uint(COUNTER_MAX)
_CLOSE_LAYOUT: Final = _wire.array(_wire.Text(0, REASON_MAX_BYTES), _INDEX, _INDEX)
_CLOSE_MAX_BYTES: Final = 256


class ContentType(IntEnum):
    """The first byte of every plaintext."""

    DATA = 0
    ACCEPT = 1
    CLOSE = 2
    SIGNAL = 3


class Part(IntEnum):
    """What data and signals may carry beside what they are: the bits of `parts`."""

    OFFER = 1  # from the initiator alone
    ANSWER = 2  # from the responder alone
    ACK = 4
    REFERENCES = 8  # of data alone


# What a message may carry, by whether it is to the initiator; of either side's, where that is not known.
_ALLOWED: Final = {
    True: Part.ANSWER | Part.ACK,
    False: Part.OFFER | Part.ACK,
    None: Part.OFFER | Part.ANSWER | Part.ACK,
}

_DATA: Final = Struct(">BBIB")  # type, parts, index, length of the action
_DATA_PLAIN_BYTES: Final = _DATA.size
_DATA_PARTS: Final = Struct(">BBI")
_DATA_HEAD_BYTES: Final = _DATA_PARTS.size
_RANGE: Final = Struct(">II")
_ACCEPT_HEAD: Final = bytes([ContentType.ACCEPT])
_CLOSE_HEAD: Final = bytes([ContentType.CLOSE])
_TYPES: Final = {int(content_type): content_type for content_type in ContentType}
# As plain numbers, because every message passes here, and looking up a member costs as much as a call.
_DATA_TYPE: Final = int(ContentType.DATA)
_SIGNAL_TYPE: Final = int(ContentType.SIGNAL)
_SIGNAL_HEAD_BYTES: Final = 2

_REFERENCE_HEAD: Final = Struct(">H")

References = tuple[Attachment | UnknownReference, ...]
# What stands before a message's content: (index or 0, item or nothing, ranges of the ack, references, where the content
# begins). Not a class, because one is made for every message.
Parts = tuple[int, bytes, tuple[IndexRange, ...], References, int]
_NO_RANGES: Final[tuple[IndexRange, ...]] = ()
_NO_REFERENCES: Final[References] = ()


# --- making ----------------------------------------------------------------------------------------------------------


def pad_data(
    index: int,
    action: bytes,
    data: bytes,
    item: bytes = b"",
    ack: tuple[IndexRange, ...] = _NO_RANGES,
    references: Sequence[bytes] = (),
) -> bytes:
    """Return a data message's padded plaintext.

    Args:
        index: The message's number in its direction, 1 to 2^32 - 1.
        action: 0 (the KNOCK's) to 128 bytes of UTF-8.
        data: The data.
        item: An offer or an answer, or nothing.
        ack: Up to 16 ranges of indices of the other direction, or none.
        references: Up to 16 of them, each of 1 to 4,096 bytes, or none.
    """
    if not item and not ack and not references:
        size = len(action)
        head = _DATA.pack(_DATA_TYPE, 0, index, size)
        return b"".join((head, action, data, padding(_DATA_PLAIN_BYTES + size + len(data))))
    parts = _parts_of(item, ack) | (Part.REFERENCES if references else 0)
    head = _DATA_PARTS.pack(_DATA_TYPE, parts, index)
    return pad(head, item, _encode_ack(ack), _encode_references(references), bytes([len(action)]), action, data)


def pad_signal(item: bytes = b"", ack: tuple[IndexRange, ...] = _NO_RANGES) -> bytes:
    """Return a signal's padded plaintext; it has at least one of the two."""
    return pad(bytes([ContentType.SIGNAL, _parts_of(item, ack)]), item, _encode_ack(ack))


def pad_accept(content: bytes) -> bytes:
    """Return an ACCEPT's padded plaintext."""
    return pad(_ACCEPT_HEAD, content)


def pad_close(reason: str, data_sent: int, data_opened: int) -> bytes:
    """Return a close's padded plaintext: the index of the last data message, and how many of the peer's were opened."""
    return pad(_CLOSE_HEAD, _wire.encode([reason, data_sent, data_opened]))


def _parts_of(item: bytes, ack: tuple[IndexRange, ...]) -> int:
    part = 0 if not item else Part.OFFER if len(item) == OFFER_BYTES else Part.ANSWER
    return part | (Part.ACK if ack else 0)


def _encode_ack(ranges: tuple[IndexRange, ...]) -> bytes:
    return bytes([len(ranges)]) + b"".join(_RANGE.pack(*one) for one in ranges) if ranges else b""


def _encode_references(references: Sequence[bytes]) -> bytes:
    if not references:
        return b""
    return bytes([len(references)]) + b"".join(_REFERENCE_HEAD.pack(len(one)) + one for one in references)


# --- reading ---------------------------------------------------------------------------------------------------------


def content_type_of(padded: bytes, length: int) -> ContentType | None:
    """Return the type of a plaintext of this unpadded length, or `None` where there is no such type."""
    return _TYPES.get(padded[0]) if length else None


def parse_parts(padded: bytes, length: int, to_initiator: bool | None) -> Parts:
    """Return index and parts of a data message, or the parts of a signal. The index may be any.

    Args:
        padded: The plaintext.
        length: How much of it is not padding.
        to_initiator: The recipient is the session's initiator; `None` where that is not known.

    An item is cut off and not looked at: `agentmesh.session.epochs` does.

    Raises:
        MessageRefused: a part that may not stand here, or is not well formed; a signal without any, or with more.
    """
    is_signal, index, at = padded[0] == _SIGNAL_TYPE, 0, _SIGNAL_HEAD_BYTES
    if not is_signal:
        if length < _DATA_HEAD_BYTES:
            raise MessageRefused
        _, parts, index = _DATA_PARTS.unpack_from(padded)
        if not parts:
            return index, b"", _NO_RANGES, _NO_REFERENCES, _DATA_HEAD_BYTES
        at = _DATA_HEAD_BYTES
    if length < at:
        raise MessageRefused
    parts = padded[1]
    allowed = _ALLOWED[to_initiator] | (0 if is_signal else Part.REFERENCES)
    if parts & ~allowed or parts == 0 or (parts & Part.OFFER and parts & Part.ANSWER):
        raise MessageRefused
    item, ack, references = b"", _NO_RANGES, _NO_REFERENCES
    if parts & (Part.OFFER | Part.ANSWER):
        end = at + (OFFER_BYTES if parts & Part.OFFER else ANSWER_BYTES)
        if length < end:
            raise MessageRefused
        item, at = padded[at:end], end
    if parts & Part.ACK:
        ack, at = _parse_ack(padded, at, length)
    if parts & Part.REFERENCES:
        references, at = _parse_references(padded, at, length)
    if is_signal and at != length:
        raise MessageRefused
    return index, item, ack, references, at


def _parse_ack(padded: bytes, at: int, length: int) -> tuple[tuple[IndexRange, ...], int]:
    count = padded[at] if at < length else 0
    end = at + 1 + count * _RANGE.size
    if not 1 <= count <= ACK_RANGES_MAX or end > length:
        raise MessageRefused
    ranges: tuple[IndexRange, ...] = tuple(_RANGE.iter_unpack(padded[at + 1 : end]))
    least = 1
    for first, last in ranges:
        if not least <= first <= last:
            raise MessageRefused
        least = last + 2  # what touches is one range
    return ranges, end


def _parse_references(padded: bytes, at: int, length: int) -> tuple[References, int]:
    count, at = (padded[at] if at < length else 0), at + 1
    if not 1 <= count <= REFERENCES_MAX:
        raise MessageRefused
    found: list[Attachment | UnknownReference] = []
    for _ in range(count):
        begin = at + _REFERENCE_HEAD.size
        if begin > length:
            raise MessageRefused
        [size] = _REFERENCE_HEAD.unpack_from(padded, at)
        at = begin + size
        if at > length:
            raise MessageRefused
        found.append(_parse_reference(padded[begin:at]))
    return tuple(found), at


def _parse_reference(encoded: bytes) -> Attachment | UnknownReference:
    try:
        return parse_reference(encoded)
    except (Malformed, TooLarge):
        pass
    raise MessageRefused


def parse_action(padded: bytes, at: int, length: int) -> tuple[str | None, bytes]:
    """Return (action, data) of a data message behind its parts; `None` for the KNOCK's action.

    Raises:
        MessageRefused: the action is not well formed.
    """
    if at < length:
        size = padded[at]
        begin, end = at + 1, at + 1 + size
        if size == 0:
            return None, padded[begin:length]
        if end <= length and size <= ACTION_MAX_BYTES:
            try:
                return padded[begin:end].decode(), padded[end:length]
            except UnicodeDecodeError:
                pass
    raise MessageRefused


def parse_close(content: bytes) -> tuple[str, int, int]:
    """Return (reason, index of the last data message sent, data messages opened) of a close.

    Raises:
        MessageRefused: it is none.
    """
    try:
        reason, data_sent, data_opened = _wire.decode(content, _CLOSE_LAYOUT, _CLOSE_MAX_BYTES)
        return reason, data_sent, data_opened
    except (Malformed, TooLarge):
        pass
    raise MessageRefused


def parse_content(padded: bytes) -> tuple[ContentType, str | None, bytes, References]:
    """Return (type, action, content, references) of a plaintext of either side, index and other parts cut off.

    For data the action is the one that it names (`None` for the KNOCK's) and the content its data; a signal has none.

    Raises:
        DecryptionFailed: the padding is not exactly what `pad` makes.
        MessageRefused: no type, or not well formed; of ACCEPT and close the content is not looked at.
    """
    length = unpadded_length(padded)
    content_type = content_type_of(padded, length)
    if content_type is None:
        raise MessageRefused
    if content_type in (ContentType.ACCEPT, ContentType.CLOSE):
        return content_type, None, padded[1:length], _NO_REFERENCES
    index, _, _, references, at = parse_parts(padded, length, None)
    if content_type is ContentType.SIGNAL:
        return content_type, None, b"", _NO_REFERENCES
    if index == 0:
        raise MessageRefused
    return content_type, *parse_action(padded, at, length), references
