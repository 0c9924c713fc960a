"""Plaintexts of data, signals and closes: section 6."""

from __future__ import annotations

from dataclasses import dataclass

from verifier.acks import Range
from verifier.attachment import read_reference
from verifier.common import (
    ACK_RANGES_MAX,
    ACTION_MAX_BYTES,
    CLOSE_TYPE,
    DATA_TYPE,
    REFERENCES_MAX,
    SIGNAL_TYPE,
    Refused,
    refuse,
)
from verifier.encoding import encode, is_counter, text_of, u32, unpack
from verifier.epochs import ANSWER_BYTES, OFFER_BYTES
from verifier.primitives import check_kem_key

OFFER, ANSWER, ACK, REFS = 1, 2, 4, 8  # bits of `parts`
ITEM_BYTES = {0: 0, OFFER: OFFER_BYTES, ANSWER: ANSWER_BYTES}


@dataclass(frozen=True)
class Parts:
    """The parts of data or a signal, and what stands behind them; in data, its index too."""

    item: bytes
    ack: tuple[Range, ...]
    rest: bytes
    index: int = 0
    references: tuple[bytes, ...] = ()


def read_data(content: bytes, items: int) -> Parts:
    """Parts and index of data; `items` has the bits of those that may stand in it."""
    if len(content) < 5:
        refuse("message.refused")
    item, ack, rest = _read_parts(content[0] & ~REFS, content[5:], items)
    references, rest = _read_references(rest) if content[0] & REFS else ((), rest)
    return Parts(item, ack, rest, int.from_bytes(content[1:5], "big"), references)


def read_signal(content: bytes, items: int) -> Parts:
    """The parts of a signal: at least one, and nothing behind them."""
    if not content or content[0] == 0:
        refuse("message.refused")
    item, ack, rest = _read_parts(content[0], content[1:], items)
    if rest:
        refuse("message.refused")
    return Parts(item, ack, rest)


def _read_parts(parts: int, content: bytes, items: int) -> tuple[bytes, tuple[Range, ...], bytes]:
    """The item, the ranges of the ack, and what follows."""
    if parts & ~(items | ACK) or parts & (OFFER | ANSWER) == OFFER | ANSWER:
        refuse("message.refused")
    size = ITEM_BYTES[parts & (OFFER | ANSWER)]
    item, content = content[:size], content[size:]
    if len(item) < size:
        refuse("message.refused")
    if not parts & ACK:
        return item, (), content
    count = content[0] if content else 0
    if not 1 <= count <= ACK_RANGES_MAX or len(content) < 1 + 8 * count:
        refuse("message.refused")
    numbers = [int.from_bytes(content[at : at + 4], "big") for at in range(1, 1 + 8 * count, 4)]
    ranges = tuple(zip(numbers[::2], numbers[1::2], strict=True))
    least = 1
    for first, last in ranges:
        if not least <= first <= last:
            refuse("message.refused")
        least = last + 2
    return item, ranges, content[1 + 8 * count :]


def _read_references(content: bytes) -> tuple[tuple[bytes, ...], bytes]:
    """The references of data, each held to its form, and what follows."""
    count = content[0] if content else 0
    if not 1 <= count <= REFERENCES_MAX:
        refuse("message.refused")
    references, at = [], 1
    for _ in range(count):
        begin = at + 2
        at = begin + int.from_bytes(content[at:begin], "big")
        if begin > len(content) or at > len(content):
            refuse("message.refused")
        references.append(content[begin:at])
    for reference in references:
        try:
            read_reference(reference)
        except Refused:
            refuse("message.refused")
    return tuple(references), content[at:]


def check_offer(item: bytes) -> None:
    """The modulus check of an offered key; an answer has nothing to check."""
    if len(item) == OFFER_BYTES:
        check_kem_key(item[4:])


def read_action(rest: bytes) -> tuple[str, bytes]:
    """The action of data, empty for the KNOCK's, and the data."""
    size = rest[0] if rest else refuse("message.refused")
    if size > ACTION_MAX_BYTES or len(rest) < 1 + size:
        refuse("message.refused")
    try:
        return rest[1 : 1 + size].decode(), rest[1 + size :]
    except UnicodeDecodeError:
        refuse("message.refused")


def read_close(content: bytes) -> tuple[str, int, int]:
    """Reason and counts of a close."""
    reason, sent, opened = unpack(content, text_of(0, 128), is_counter, is_counter, code="message.refused")
    return reason, sent, opened


def _parts_of(item: bytes, ack: bytes) -> int:
    kind = {0: 0, OFFER_BYTES: OFFER, ANSWER_BYTES: ANSWER}[len(item)]
    return kind | (ACK if ack else 0)


def data_plaintext(index: int, item: bytes, ack: bytes, references: list[bytes], action: str, data: bytes) -> bytes:
    """The plaintext of data."""
    named, refs = action.encode(), b""
    if references:
        refs = bytes([len(references)]) + b"".join(len(one).to_bytes(2, "big") + one for one in references)
    head = bytes([DATA_TYPE, _parts_of(item, ack) | (REFS if refs else 0)]) + u32(index)
    return head + item + ack + refs + bytes([len(named)]) + named + data


def signal_plaintext(item: bytes, ack: bytes) -> bytes:
    """The plaintext of a signal."""
    return bytes([SIGNAL_TYPE, _parts_of(item, ack)]) + item + ack


def close_plaintext(reason: str, sent: int, opened: int) -> bytes:
    """The plaintext of a close."""
    return bytes([CLOSE_TYPE]) + encode([reason, sent, opened])
