"""Two or three logs held against one another, offline and without content (docs/protocol.md, section 8).

Receipts tie the logs together. What a log's owner sent stands in it under the owner's name as sender; what it opened
stands in it under the owner's name as recipient. Verify each log first: a comparison believes what it is given.

What is found is of three sorts. Copies of what arrived are what any transport makes that delivers at least once. A
record without its effect is what a crash leaves, because a step is recorded before it takes effect. Neither is a
finding: two honest agents over an honest network come to them. All else is one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from enum import StrEnum
from typing import Final, final

from attrs import field, frozen

from agentmesh.audit.owner import records_argument
from agentmesh.audit.record import AuditEvent, Record, outcome_of
from agentmesh.errors import ArgumentInvalid, DuplicateMessage
from agentmesh.identity import parse_did
from agentmesh.limits import CLOCK_TOLERANCE_MS, KNOCK_LIFETIME_MAX_MS
from agentmesh.primitives.keys import Receipt

_SENT: Final = {
    AuditEvent.KNOCK_SENT: "knock",
    AuditEvent.KNOCK_ACCEPTED: "accept",
    AuditEvent.KNOCK_REJECTED: "reject",
    AuditEvent.MESSAGE_SEALED: "message",
}
_OPENED: Final = {
    AuditEvent.KNOCK_RECEIVED: "knock",
    AuditEvent.KNOCK_ACCEPTED: "accept",
    AuditEvent.KNOCK_REJECTED: "reject",
    AuditEvent.MESSAGE_OPENED: "message",
}
_KINDS: Final = _SENT | _OPENED

_Grouped = dict[Receipt, list[Record]]


class Finding(StrEnum):
    """What a comparison can say of one envelope."""

    SENT_NOT_SEEN = "sent, not seen by the relay"
    SEEN_NOT_SENT = "seen by the relay, not sent"
    SEEN_NOT_OPENED = "seen by the relay, not opened"
    SENT_NOT_OPENED = "sent, not opened"
    OPENED_NOT_SEEN = "opened, not seen by the relay"
    OPENED_NOT_SENT = "opened, not sent"
    SENT_TWICE = "sent twice"
    SENT_REFUSED = "sent, refused by the recipient"
    REFUSED_NOT_SENT = "refused by the recipient, not sent"
    ALTERED = "recorded differently"
    NAMED_BY_ONE = "attachment named in one log alone"
    # What a transport makes that delivers at least once.
    SEEN_TWICE = "seen twice by the relay"
    COPY_REFUSED = "opened, a copy refused"
    # What a crash leaves.
    OPENED_TWICE = "opened twice"
    SENT_ANEW = "not sent, another in its place"


@frozen
class Found:
    """One thing that a comparison found.

    Attributes:
        finding: What.
        receipt: Of which envelope.
        record: The record that shows it.
        differing: For what was recorded differently, the names of the fields that differ, or that no honest log has so.
    """

    finding: Finding
    receipt: Receipt = field(repr=lambda receipt: receipt.hex())
    record: Record
    differing: tuple[str, ...] = ()


@final
@frozen(kw_only=True)
class Comparison:
    """What a comparison found.

    Attributes:
        found: The findings: kind by kind, and within a kind in the order of the log that shows them.
        copies: What a transport makes that delivers at least once: an envelope seen again by the relay, or refused by
            the recipient that has opened it. The count of a refusal may stand for others of its minute and code.
        crashes: What a crash between log and state can leave: an envelope opened once more by a recipient that had
            forgotten it, and one that never left, because its sender made another in its place.
        matched: How many envelopes were sent and opened, and recorded alike in every log that has them.
        opened_order: For each envelope that was sent and opened, in the order of opening, its place in the order of
            sending: sorted where nothing overtook anything.
        seen_order: The same for what was sent and seen by the relay.
        signals: How many envelopes that the relay saw, or of which the recipient refused a copy, may be signals: these
            are counted and not recorded, so they are in neither log, and no more than the sender counted.
    """

    found: tuple[Found, ...]
    copies: tuple[Found, ...]
    crashes: tuple[Found, ...]
    matched: int
    opened_order: tuple[int, ...]
    seen_order: tuple[int, ...]
    signals: int = 0

    @property
    def in_order(self) -> bool:
        """Say whether every envelope was opened in the order of sending."""
        return all(earlier < later for earlier, later in zip(self.opened_order, self.opened_order[1:], strict=False))


def compare(
    sender: str,
    sender_log: Iterable[Record],
    recipient: str,
    recipient_log: Iterable[Record],
    relay_log: Iterable[Record] | None = None,
) -> Comparison:
    """Compare what one agent sent another with what the other opened, and with what a relay saw.

    Args:
        sender: The DID of the first log's owner.
        sender_log: Its records.
        recipient: The DID of the second log's owner.
        recipient_log: Its records.
        relay_log: A relay's records, if there is one.

    Raises:
        BadDid: a name is no DID.
        ArgumentInvalid: both names are the same, or a log is not of records.
    """
    if parse_did(sender) == parse_did(recipient):
        raise ArgumentInvalid("recipient")
    route = (sender, recipient)
    own = list(records_argument("sender_log", sender_log))
    (sent,) = _by_receipt(own, route, _SENT.keys())
    theirs = list(records_argument("recipient_log", recipient_log))
    opened, refused = _by_receipt(theirs, route, _OPENED.keys(), {AuditEvent.MESSAGE_REFUSED})
    relayed = () if relay_log is None else records_argument("relay_log", relay_log)
    (seen,) = _by_receipt(relayed, route, {AuditEvent.ENVELOPE_SEEN})
    signals = _take_signals(own, route, sent, opened, seen, refused)
    anew = _sent_anew(own, sent, seen, opened)
    left = {receipt: records for receipt, records in sent.items() if receipt not in anew}
    found: list[Found] = []
    if relay_log is not None:
        found += _missing(left, seen, Finding.SENT_NOT_SEEN)
        found += _missing(seen, sent, Finding.SEEN_NOT_SENT)
        found += _missing(seen, opened, Finding.SEEN_NOT_OPENED)
        found += _missing(opened, seen, Finding.OPENED_NOT_SEEN)
    found += _missing(left, opened, Finding.SENT_NOT_OPENED)
    found += _missing(opened, sent, Finding.OPENED_NOT_SENT)
    found += _repeated(sent, Finding.SENT_TWICE)
    copies = _repeated(seen, Finding.SEEN_TWICE)
    for receipt, records in refused.items():
        finding = Finding.SENT_REFUSED if receipt in sent else Finding.REFUSED_NOT_SENT
        if receipt in sent and receipt in opened:
            copies += [Found(Finding.COPY_REFUSED, receipt, record) for record in records]
        else:
            found += [Found(finding, receipt, record) for record in records]
    altered = _altered(sent, seen, opened)
    found += altered + _named_by_one(own, theirs, route, sent, opened)
    differing = {one.receipt for one in altered}
    return Comparison(
        found=tuple(found),
        copies=tuple(copies),
        crashes=(*_repeated(opened, Finding.OPENED_TWICE), *anew.values()),
        matched=sum(1 for receipt in sent if receipt in opened and receipt not in differing),
        opened_order=_order(sent, opened),
        seen_order=_order(sent, seen),
        signals=signals,
    )


def _take_signals(
    own: list[Record], route: tuple[str, str], sent: _Grouped, opened: _Grouped, seen: _Grouped, refused: _Grouped
) -> int:
    """Take out what may be signals of the sender: in neither log as a message, and no more than it counted."""
    counted = sum(
        one.count for one in own if one.event is AuditEvent.MESSAGE_SIGNAL and (one.sender, one.recipient) == route
    )
    likely = {receipt: None for receipt, (record, *_) in seen.items() if record.reason == "message"}
    likely |= {receipt: None for receipt, (record, *_) in refused.items() if record.reason == DuplicateMessage.code}
    signals = [receipt for receipt in likely if receipt not in sent and receipt not in opened][:counted]
    for receipt in signals:
        seen.pop(receipt, None)
        refused.pop(receipt, None)
    return len(signals)


def _sent_anew(own: list[Record], sent: _Grouped, seen: _Grouped, opened: _Grouped) -> dict[Receipt, Found]:
    """Return what was recorded as sent, arrived nowhere, and was made anew later: as after a crash that lost the state.

    A message is made anew at its own place in its session, an answer in its session. A KNOCK begins another session;
    the log of a sender that has not forgotten the first says how that ended.
    """
    named = Counter(record.session_id for record in own)
    later: set[tuple[AuditEvent, bytes, int]] = set()
    anew: dict[Receipt, Found] = {}
    for receipt, (record, *_) in reversed(sent.items()):
        is_knock = record.event is AuditEvent.KNOCK_SENT
        place = (record.event, b"" if is_knock else record.session_id, record.number)
        forgotten = record.session_id and (not is_knock or named[record.session_id] == 1)
        if place in later and forgotten and receipt not in seen and receipt not in opened:
            anew[receipt] = Found(Finding.SENT_ANEW, receipt, record)
        later.add(place)
    return dict(reversed(anew.items()))


def _by_receipt(records: Iterable[Record], route: tuple[str, str], *wanted: Iterable[AuditEvent]) -> list[_Grouped]:
    """Return the records of envelopes of that route by receipt, one dictionary for each set of events."""
    groups: list[_Grouped] = [{} for _ in wanted]
    group_of = {event: group for events, group in zip(wanted, groups, strict=True) for event in events}
    for record in records:
        group = group_of.get(record.event)
        if group is not None and (record.sender, record.recipient) == route and record.receipt:
            group.setdefault(record.receipt, []).append(record)
    return groups


def _missing(there: _Grouped, here: _Grouped, finding: Finding) -> list[Found]:
    return [Found(finding, receipt, records[0]) for receipt, records in there.items() if receipt not in here]


def _named_by_one(
    own: list[Record], theirs: list[Record], route: tuple[str, str], sent: _Grouped, opened: _Grouped
) -> list[Found]:
    """Return what one log says was named and the other does not, of messages that both logs have."""
    ours, others = _named(own, route, _SENT.keys()), _named(theirs, route, _OPENED.keys())
    found: list[Found] = []
    for receipt in sent:
        if receipt in opened:
            there, here = ours.get(receipt, []), others.get(receipt, [])
            found += _unlike(there, here) or _unlike(here, there) or _in_another_order(there, here)
    return found


def _named(records: list[Record], route: tuple[str, str], events: Iterable[AuditEvent]) -> _Grouped:
    """Return what each message names, by the message's receipt: of one that stands twice, what the first of it names.

    An attachment is of the last message before it at its place: one that was made anew after a crash has the same.
    """
    named: _Grouped = {}
    last: dict[tuple[bytes, int], list[Record]] = {}
    messages = frozenset(events)
    for record in records:
        if (record.sender, record.recipient) != route:
            continue
        if record.event is AuditEvent.ATTACHMENT_NAMED:
            last.get(_place(record), []).append(record)
        elif record.event in messages and record.receipt:
            group: list[Record] = []
            last[_place(record)] = group
            named.setdefault(record.receipt, group)
    return named


def _unlike(some: list[Record], others: list[Record]) -> list[Found]:
    """Return those records of one log that the other has not, or not so often."""
    left = Counter(map(_said, others))
    found: list[Found] = []
    for record in some:
        said = _said(record)
        left[said] -= 1
        if left[said] < 0:
            found.append(Found(Finding.NAMED_BY_ONE, record.receipt, record))
    return found


def _in_another_order(some: list[Record], others: list[Record]) -> list[Found]:
    pairs = zip(some, others, strict=True)  # both have the same
    moved = (one for one, other in pairs if _said(one) != _said(other))
    return [Found(Finding.NAMED_BY_ONE, one.receipt, one) for one in moved]


def _said(record: Record) -> tuple[object, ...]:
    """Return all of a record that both sides' agree in."""
    return tuple(getattr(record, name) for name in Record.__slots__ if name != "at_ms")


def _place(record: Record) -> tuple[bytes, int]:
    return record.session_id, record.number


def _repeated(grouped: _Grouped, finding: Finding) -> list[Found]:
    return [Found(finding, receipt, record) for receipt, records in grouped.items() for record in records[1:]]


def _altered(sent: _Grouped, seen: _Grouped, opened: _Grouped) -> list[Found]:
    """Hold each record of an envelope against the first that there is of it, in the order of the logs."""
    found: list[Found] = []
    first: dict[Receipt, Record] = {}
    for grouped, unlikely in ((sent, _unlike_a_sender), (seen, _unlike_anybody), (opened, _unlike_a_recipient)):
        for receipt, records in grouped.items():
            for record in records:
                differing = _differing(first.setdefault(receipt, record), record) + unlikely(record)
                if differing:
                    found.append(Found(Finding.ALTERED, receipt, record, differing))
    return found


def _unlike_anybody(record: Record) -> tuple[str, ...]:
    """Return the fields that follow from the event, and are not so here: each side can be held to them alone."""
    wrong = ("outcome",) if record.outcome is not outcome_of(record.event) else ()
    return (*wrong, "count") if record.count != 1 else wrong


def _unlike_a_sender(record: Record) -> tuple[str, ...]:
    # The envelope has the time of its making; a KNOCK a later one, where its sender's clock went back.
    late = record.at_ms != record.envelope_time_ms
    if record.event is AuditEvent.KNOCK_SENT:
        late = record.at_ms > record.envelope_time_ms
    # A maker of verdicts gives its reasons; of other envelopes there are none to give.
    given = record.event in (AuditEvent.KNOCK_SENT, AuditEvent.MESSAGE_SEALED) and record.reason
    return ("at_ms",) * late + ("reason",) * bool(given) + _unlike_anybody(record)


def _unlike_a_recipient(record: Record) -> tuple[str, ...]:
    # Clocks differ, by more than the tolerance too; but a KNOCK is refused before its time and after its longest life.
    since_ms = record.at_ms - record.envelope_time_ms
    is_knock = record.event is AuditEvent.KNOCK_RECEIVED
    out = is_knock and not -CLOCK_TOLERANCE_MS <= since_ms <= KNOCK_LIFETIME_MAX_MS + CLOCK_TOLERANCE_MS
    # What it takes of a REJECT's reason is the REJECT's; the maker's own may be finer.
    given = (
        record.reason and record.event is not AuditEvent.KNOCK_REJECTED and not (is_knock and record.reason == "asked")
    )
    return ("at_ms",) * out + ("reason",) * bool(given) + _unlike_anybody(record)


def _kind(record: Record) -> str:
    return record.reason if record.event is AuditEvent.ENVELOPE_SEEN else _KINDS[record.event]


def _differing(one: Record, other: Record) -> tuple[str, ...]:
    if one is other:
        return ()
    names = ["mesh", "envelope_time_ms", "size_bytes"]
    if AuditEvent.ENVELOPE_SEEN not in (one.event, other.event):
        # A relay sees no more than the outer header. A REJECT names no session, and what its maker records as its
        # reason may be finer than the one that it tells.
        names += [] if one.event is AuditEvent.KNOCK_REJECTED else ["session_id", "number", "bundle_class"]
    differing = [name for name in names if getattr(one, name) != getattr(other, name)]
    return tuple(["kind"] * (_kind(one) != _kind(other)) + differing)


def _order(sent: _Grouped, arrived: _Grouped) -> tuple[int, ...]:
    places = {receipt: place for place, receipt in enumerate(sent)}
    return tuple(places[receipt] for receipt in arrived if receipt in places)
