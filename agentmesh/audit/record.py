"""What is recorded of an envelope: who, when, how much, with which receipt; by type never what it says.

A record has no field for plaintext, intent, a key, or a hash of plaintext: short plaintexts can be guessed from one.
Its text is DIDs, a mesh's name and fixed words, all of them printable ASCII without spaces.

    entry = msgpack [1, sequence, previous (32), at, event, mesh, sender, recipient, envelope time, receipt (0 | 32),
                     session id (0 | 16), number, size, class (0 none), decision, reason, count]

`previous` is the entry hash of the entry before (32 zero bytes for the first), so that the entries form a chain; the
entry hash is the leaf hash of RFC 9162, so that one hash serves chain and tree.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from enum import StrEnum
from functools import lru_cache
from sys import intern
from typing import Any, ClassVar, Final, final

from agentmesh.envelope import is_mesh_name
from agentmesh.errors import ArgumentInvalid, Malformed, RemoteError, UnknownVersion
from agentmesh.handshake.prekeys import BundleClass
from agentmesh.limits import DID_MAX_BYTES, MESH_MAX_BYTES, UINT_MAX
from agentmesh.primitives import _wire
from agentmesh.primitives.keys import Receipt, SessionId

_VERSION: Final = 1
ENTRY_MAX_BYTES: Final = 1024  # a genuine one has at most 600
_WORD_MAX_BYTES: Final = 32
_REASON: Final = re.compile(r"[a-z0-9._-]{0,32}", re.ASCII)
# A DID of any method (W3C's syntax), because an agent's log may one day hold what it said to another mesh's agents.
_NAME: Final = re.compile(r"(did:[a-z0-9]{1,32}:[A-Za-z0-9._:%-]{1,120})?", re.ASCII)
_NO_RECEIPT: Final = Receipt(b"")
_NO_SESSION: Final = SessionId(b"")


class AuditEvent(StrEnum):
    """What happened."""

    BUNDLE_PUBLISHED = "bundle.published"
    KNOCK_SENT = "knock.sent"
    KNOCK_RECEIVED = "knock.received"
    KNOCK_ACCEPTED = "knock.accepted"
    KNOCK_REJECTED = "knock.rejected"
    MESSAGE_SEALED = "message.sealed"
    MESSAGE_OPENED = "message.opened"
    MESSAGE_REFUSED = "message.refused"
    MESSAGE_SIGNAL = "message.signal"
    SESSION_CLOSED = "session.closed"
    STOCK_EXHAUSTED = "stock.exhausted"
    TRUST_UPDATED = "trust.updated"
    ENVELOPE_SEEN = "envelope.seen"
    ATTACHMENT_NAMED = "attachment.named"


class Outcome(StrEnum):
    """What was decided: `INFO` where nothing was."""

    ALLOW = "allow"
    DENY = "deny"
    INFO = "info"


_HASH_BYTES: Final = 32
_RECEIPT_BYTES: Final = (0, 32)
_SESSION_BYTES: Final = (0, 16)
_EVENTS: Final = {str(event): event for event in AuditEvent}
_OUTCOMES: Final = {str(outcome): outcome for outcome in Outcome}
_OUTCOME_OF: Final = {
    AuditEvent.KNOCK_ACCEPTED: Outcome.ALLOW,
    AuditEvent.KNOCK_REJECTED: Outcome.DENY,
    AuditEvent.MESSAGE_REFUSED: Outcome.DENY,
}


def outcome_of(event: AuditEvent) -> Outcome:
    """Return what an honest log says was decided where this happened; of trust, either may have been."""
    return _OUTCOME_OF.get(event, Outcome.INFO)


_ENTRY: Final = _wire.array(
    _wire.Uint(),
    _wire.Uint(),
    _wire.Bin(32),
    _wire.Uint(),
    _wire.Text(1, _WORD_MAX_BYTES),
    _wire.Text(1, MESH_MAX_BYTES),
    _wire.Text(0, DID_MAX_BYTES),
    _wire.Text(0, DID_MAX_BYTES),
    _wire.Uint(),
    _wire.Bin(0, 32),
    _wire.Bin(0, 16),
    _wire.Uint(),
    _wire.Uint(),
    _wire.Uint(2),
    _wire.Text(1, _WORD_MAX_BYTES),
    _wire.Text(0, _WORD_MAX_BYTES),
    _wire.Uint(),
)
_KINDS: Final = tuple({_wire.Uint: int, _wire.Bin: bytes, _wire.Text: str}[type(kind)] for kind in _ENTRY.kinds)
_NUMBERS: Final = tuple(at for at, kind in enumerate(_KINDS) if kind is int)
_CLASSES: Final = frozenset({0, 1, 2})
FIELDS: Final = len(_KINDS)


@final
class Record:
    """One line of the audit trail; its sequence number and the hash before it are the log's.

    Slotted and not frozen, because one is made for every message.

    Attributes:
        event: What happened.
        at_ms: The clock of the log's owner.
        mesh: The mesh.
        sender: The envelope's sender, a DID; for an event without an envelope the log's owner.
        recipient: The envelope's recipient, a DID, or empty.
        envelope_time_ms: The envelope's time, or 0 without one.
        receipt: The envelope's receipt, 32 bytes, or empty without one.
        session_id: 16 bytes, or empty.
        number: The number of a message or close in its direction.
        size_bytes: The envelope's length on the wire.
        bundle_class: What the session's KNOCK was made on, or `None`.
        outcome: What was decided.
        reason: A fixed word of ours: how a session ended, why a KNOCK was rejected, the code of a refusal.
        count: How many such events this record stands for, at least one; 1 but for refusals and signals.
    """

    __slots__ = (
        "at_ms",
        "bundle_class",
        "count",
        "envelope_time_ms",
        "event",
        "mesh",
        "number",
        "outcome",
        "reason",
        "receipt",
        "recipient",
        "sender",
        "session_id",
        "size_bytes",
    )

    def __init__(
        self,
        event: AuditEvent,
        # Written by name, but for the two records of a message: a name costs there what the field does.
        at_ms: int,
        mesh: str,
        sender: str,
        recipient: str = "",
        envelope_time_ms: int = 0,
        receipt: Receipt = _NO_RECEIPT,
        session_id: SessionId = _NO_SESSION,
        number: int = 0,
        size_bytes: int = 0,
        bundle_class: BundleClass | None = None,
        outcome: Outcome | None = None,
        reason: str = "",
        count: int = 1,
    ) -> None:
        self.event: AuditEvent = event
        self.at_ms: int = at_ms
        self.mesh: str = mesh
        self.sender: str = sender
        self.recipient: str = recipient
        self.envelope_time_ms: int = envelope_time_ms
        self.receipt: Receipt = receipt
        self.session_id: SessionId = session_id
        self.number: int = number
        self.size_bytes: int = size_bytes
        self.bundle_class: BundleClass | None = bundle_class
        self.outcome: Outcome = _OUTCOME_OF.get(event, Outcome.INFO) if outcome is None else outcome
        self.reason: str = reason
        self.count: int = count

    def encode(self, sequence: int, previous: bytes, encode: Callable[[Sequence[Any]], bytes] = _wire.encode) -> bytes:
        """Return the entry of this record at its place in a log, by a log's own encoder if it has one.

        Raises:
            ArgumentInvalid: a field that no reader would take: written all the same, it would break the log for good.
        """
        # Written out, because it is asked of every record.
        event, outcome, bundle_class = self.event, self.outcome, self.bundle_class
        at_ms, envelope_time_ms, number = self.at_ms, self.envelope_time_ms, self.number
        size_bytes, count = self.size_bytes, self.count
        receipt, session_id = self.receipt, self.session_id
        mesh, sender, recipient, reason = self.mesh, self.sender, self.recipient, self.reason
        if not (
            type(at_ms) is type(envelope_time_ms) is type(number) is type(size_bytes) is type(count) is int
            # Of numbers that have all bits of the largest, all are within it if what they have together is.
            and 0 <= at_ms | envelope_time_ms | number | size_bytes | count <= UINT_MAX
            and count
            and type(event) is AuditEvent
            and type(outcome) is Outcome
            and (bundle_class is None or type(bundle_class) is BundleClass)
            and type(receipt) is bytes
            and type(session_id) is bytes
            and len(receipt) in _RECEIPT_BYTES
            and len(session_id) in _SESSION_BYTES
            and type(mesh) is type(sender) is type(recipient) is type(reason) is str
            and are_words(mesh, sender, recipient, reason)
        ):
            raise ArgumentInvalid("record")
        if type(sequence) is not int or not 0 <= sequence <= UINT_MAX:
            raise ArgumentInvalid("sequence")
        if type(previous) is not bytes or len(previous) != _HASH_BYTES:
            raise ArgumentInvalid("previous")
        return encode(
            [
                _VERSION, sequence, previous, at_ms, event, mesh, sender, recipient, envelope_time_ms, receipt,
                session_id, number, size_bytes, bundle_class or 0, outcome, reason, count,
            ]
        )  # fmt: skip

    def _fields(self) -> tuple[Any, ...]:
        return tuple(getattr(self, name) for name in self.__slots__)

    def __eq__(self, other: object) -> bool:
        return self._fields() == other._fields() if isinstance(other, Record) else NotImplemented

    __hash__: ClassVar[None] = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        # Escaped, because a sender may be whatever an envelope that was refused claimed.
        names = f"{self.sender!a} -> {self.recipient!a}"
        return f"Record({self.event}, {names}, receipt={self.receipt.hex() or '-'})"


def are_words(mesh: str, sender: str, recipient: str, reason: str) -> bool:
    """Say whether these texts are of the form that a record's have."""
    try:
        return _are_sound_words(mesh, sender, recipient, reason)
    except ArgumentInvalid:
        return False


@lru_cache(maxsize=4096)  # most records of a log name the same few; it raises, because what is returned is kept
def _are_sound_words(mesh: str, sender: str, recipient: str, reason: str) -> bool:
    if is_mesh_name(mesh) and is_name(sender) and is_name(recipient) and _REASON.fullmatch(reason) is not None:
        return True
    raise ArgumentInvalid("record")


def is_name(name: str) -> bool:
    """Say whether a record can name this: a DID of any method, or empty text."""
    return len(name) <= DID_MAX_BYTES and _NAME.fullmatch(name) is not None


def decode_entry(entry: bytes) -> tuple[int, bytes, Record]:
    """Return (sequence, previous entry hash, record) of an entry. Nothing of the chain is verified by it.

    Raises:
        TooLarge, Malformed: not an entry.
        UnknownVersion: written by a newer release.
    """
    fields = _wire.decode(entry, _ENTRY, ENTRY_MAX_BYTES)
    version, sequence, previous, _, event, mesh, sender, recipient, _, receipt, session_id, *rest = fields
    _, _, _, outcome, reason, count = rest
    if version != _VERSION:
        raise UnknownVersion
    if (
        event not in _EVENTS
        or outcome not in _OUTCOMES
        or len(receipt) not in _RECEIPT_BYTES
        or len(session_id) not in _SESSION_BYTES
        or not are_words(mesh, sender, recipient, reason)
        or count == 0
    ):
        raise Malformed
    return sequence, previous, record_of(fields)


def number_in(entry: bytes) -> int | None:
    """Return the sequence number of an entry, or `None` where it is none."""
    try:
        return decode_entry(entry)[0]
    except RemoteError:
        return None


def are_rows(columns: Sequence[Sequence[Any]]) -> bool:
    """Say whether `decode_entry` takes each of many entries, field by field of all of them.

    Not asked is whether each previous hash is 32 bytes long, because a page compares them.

    Args:
        columns: Of each of the seventeen fields what the entries have there: numbers, texts or byte strings.
    """
    versions, _, _, _, events, meshes, senders, recipients, _, receipts, sessions, *rest = columns
    _, _, classes, outcomes, reasons, counts = rest
    return (
        all(set(map(type, columns[at])) == {kind} for at, kind in enumerate(_KINDS))
        and all(min(columns[at]) >= 0 and max(columns[at]) <= UINT_MAX for at in _NUMBERS)
        and set(versions) == {_VERSION}
        and _EVENTS.keys() >= set(events)
        and set(classes) <= _CLASSES
        and _OUTCOMES.keys() >= set(outcomes)
        and set(map(len, receipts)).issubset(_RECEIPT_BYTES)
        and set(map(len, sessions)).issubset(_SESSION_BYTES)
        and all(are_words(*words) for words in set(zip(meshes, senders, recipients, reasons, strict=True)))
        and min(counts) > 0
    )


def record_of(row: Sequence[Any]) -> Record:
    """Return the record of an entry's seventeen fields, which were found good."""
    _, _, _, at_ms, event, mesh, sender, recipient, envelope_time_ms, receipt, *rest = row
    session_id, number, size_bytes, bundle_class, outcome, reason, count = rest
    return Record(
        _EVENTS[event],
        at_ms=at_ms,
        # One string for all records that name it: a log of a million names a few.
        mesh=intern(mesh),
        sender=intern(sender),
        recipient=intern(recipient),
        envelope_time_ms=envelope_time_ms,
        receipt=Receipt(receipt),
        session_id=SessionId(session_id),
        number=number,
        size_bytes=size_bytes,
        bundle_class=BundleClass(bundle_class) if bundle_class else None,
        outcome=_OUTCOMES[outcome],
        reason=intern(reason),
        count=count,
    )
