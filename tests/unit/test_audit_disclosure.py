"""One message disclosed: to whoever has its record, and with nothing else in its place."""

from __future__ import annotations

import copy
import hashlib
import pickle
import struct
from typing import Any

import pytest
from attrs import frozen
from hypothesis import given
from hypothesis import strategies as st

from agentmesh import Agent, Identity, Intent, Kind, KnockReceived, MessageReceived
from agentmesh.audit import (
    AuditEvent,
    AuditJournal,
    AuditLog,
    Disclosed,
    MemorySink,
    Record,
    verified_records,
    verify_checkpoint,
    verify_disclosure,
    verify_entry,
)
from agentmesh.envelope import Header, OuterEnvelope, build, receipt_of
from agentmesh.errors import ArgumentInvalid, DecryptionFailed, DisclosureInvalid
from agentmesh.handshake.prekeys import BundleClass
from agentmesh.identity import did_of
from agentmesh.limits import Limits
from agentmesh.primitives import _crypto
from agentmesh.primitives._labels import MESSAGE
from agentmesh.primitives.keys import Disclosure, MessageKey
from agentmesh.primitives.padding import padded_length
from agentmesh.relay import relay_record
from agentmesh.session.content import ContentType, parse_content
from agentmesh.session.suite import SUITE
from agentmesh.testing import ManualClock, SeededEntropy

MESH = "example/test"


class Party:
    def __init__(self, name: str, clock: ManualClock) -> None:
        self.log = AuditLog(MemorySink())
        self.identity = Identity.generate(SeededEntropy(name))
        self.agent = Agent.create(
            MESH,
            identity=self.identity,
            clock=clock,
            entropy=SeededEntropy(f"{name}/session"),
            journal=AuditJournal(self.log),
        )

    def record_of(self, envelope: bytes) -> Record:
        [record] = [one for one in verified_records(self.log.entries()) if one.receipt == receipt_of(envelope)]
        return record


def session(alice: Party, bob: Party) -> None:
    bundle = bob.agent.publish_bundles(1, last_resort=False).one_time[0]
    [event] = bob.agent.receive(alice.agent.knock(bob.agent.did, bundle, Intent("test")))
    assert isinstance(event, KnockReceived)
    alice.agent.receive(bob.agent.accept(event).envelope)


@frozen
class Case:
    """Three messages of one session and one of another, each with what discloses it."""

    alice: Party
    bob: Party
    envelopes: tuple[bytes, ...]
    disclosures: tuple[Disclosure, ...]


def new_case() -> Case:
    clock = ManualClock()
    alice, bob = Party("alice", clock), Party("bob", clock)
    session(alice, bob)
    sealed = []
    for number in range(4):
        clock.advance(ms=10)
        if number == 3:
            session(alice, bob)
        sealed.append(
            alice.agent.send(
                bob.agent.did, b"content %d" % number, action="other" if number == 1 else None, disclosable=True
            )
        )
    disclosures = []
    for one in sealed:
        [event] = bob.agent.receive(one.envelope, disclosable=True)
        assert isinstance(event, MessageReceived)
        # Both sides hold the same.
        assert event.disclosure == one.disclosure
        assert event.disclosure is not None
        disclosures.append(event.disclosure)
    return Case(alice, bob, tuple(one.envelope for one in sealed), tuple(disclosures))


CASE = new_case()
ENVELOPE, DISCLOSURE = CASE.envelopes[0], CASE.disclosures[0]
RECORD = CASE.alice.record_of(ENVELOPE)


def refused(envelope: Any, disclosure: Any, record: Any) -> None:
    with pytest.raises(DisclosureInvalid):
        verify_disclosure(envelope, disclosure, record)


# --- what it proves ---------------------------------------------------------------------------------------------------


def test_a_disclosure_holds_against_either_sides_record() -> None:
    for number, (envelope, disclosure) in enumerate(zip(CASE.envelopes, CASE.disclosures, strict=True)):
        for party, event in ((CASE.alice, AuditEvent.MESSAGE_SEALED), (CASE.bob, AuditEvent.MESSAGE_OPENED)):
            record = party.record_of(envelope)
            assert record.event is event
            disclosed = verify_disclosure(envelope, disclosure, record)
            assert disclosed.data == b"content %d" % number
            assert disclosed.action == ("other" if number == 1 else None)
            assert disclosed.content_type is ContentType.DATA
            assert disclosed.header == OuterEnvelope.parse(envelope).header


def test_the_whole_way_an_auditor_goes() -> None:
    """From bytes alone: entry, proof, checkpoint, envelope and disclosure, and the key that the auditor trusts."""
    party = CASE.alice
    checkpoint = party.log.checkpoint(party.identity, mesh=MESH, time_ms=1)
    [(sequence, entry)] = [
        (place, entry) for place, entry in enumerate(party.log.entries()) if receipt_of(ENVELOPE) in entry
    ]
    proof = party.log.inclusion_proof(sequence, checkpoint.size)
    handed_over = (entry, proof, checkpoint.statement, ENVELOPE, DISCLOSURE.reveal())

    entry, proof, statement, envelope, disclosure = handed_over
    signed = verify_checkpoint(statement, party.identity.key, mesh=MESH)
    record = verify_entry(entry, proof, signed)
    assert (record.event, record.sender) == (AuditEvent.MESSAGE_SEALED, signed.issuer.did)
    assert verify_disclosure(envelope, Disclosure(disclosure), record).data == b"content 0"


def test_without_asking_there_is_nothing_to_disclose() -> None:
    clock = ManualClock()
    alice, bob = Party("alice", clock), Party("bob", clock)
    session(alice, bob)
    envelope = alice.agent.send(bob.agent.did, b"x").envelope
    assert type(envelope) is bytes
    [event] = bob.agent.receive(envelope)
    assert isinstance(event, MessageReceived)
    assert event.disclosure is None
    # Asked for at one end alone, and for one message alone.
    sealed = alice.agent.send(bob.agent.did, b"y", disclosable=True)
    [event] = bob.agent.receive(sealed.envelope)
    assert isinstance(event, MessageReceived)
    assert (event.disclosure, sealed.disclosure is None) == (None, False)
    [event] = bob.agent.receive(alice.agent.send(bob.agent.did, b"z"), disclosable=True)
    assert isinstance(event, MessageReceived)
    assert event.disclosure is not None
    [closed, _] = bob.agent.receive(alice.agent.close(bob.agent.did), disclosable=True)
    assert closed.disclosure is not None
    assert "disclosure=<redacted>" in repr(closed)


# --- anything else in its place ---------------------------------------------------------------------------------------


def test_another_messages_envelope_record_or_disclosure_is_refused() -> None:
    records = [CASE.alice.record_of(envelope) for envelope in CASE.envelopes]
    for e, envelope in enumerate(CASE.envelopes):
        for d, disclosure in enumerate(CASE.disclosures):
            for r, record in enumerate(records):
                if e == d == r:
                    verify_disclosure(envelope, disclosure, record)
                else:
                    refused(envelope, disclosure, record)


def test_another_sessions_transcript_or_another_key_is_refused() -> None:
    raw, other = DISCLOSURE.reveal(), CASE.disclosures[3].reveal()
    assert raw[:64] == CASE.disclosures[1].reveal()[:64] == DISCLOSURE.th != other[:64]
    assert raw[64:] == DISCLOSURE.key.reveal()
    for wrong in (
        other[:64] + raw[64:],
        raw[:64] + other[64:],
        raw[:64] + CASE.disclosures[1].reveal()[64:],
        bytes(96),
    ):
        refused(ENVELOPE, Disclosure(wrong), RECORD)


@given(st.integers(0, 96 * 8 - 1))
def test_every_flipped_bit_of_a_disclosure_is_refused(bit: int) -> None:
    flipped = (int.from_bytes(DISCLOSURE.reveal(), "big") ^ 1 << bit).to_bytes(96, "big")
    refused(ENVELOPE, Disclosure(flipped), RECORD)


@given(st.integers(0, len(ENVELOPE) * 8 - 1), st.booleans())
def test_every_flipped_bit_of_an_envelope_is_refused(bit: int, follows: bool) -> None:
    flipped = (int.from_bytes(ENVELOPE, "big") ^ 1 << bit).to_bytes(len(ENVELOPE), "big")
    record = copy.copy(RECORD)
    if follows:  # even where somebody makes the record say so too
        record.receipt = receipt_of(flipped)
    refused(flipped, DISCLOSURE, record)


CHANGES: dict[str, list[Any]] = {
    "event": [event for event in AuditEvent if event not in (AuditEvent.MESSAGE_SEALED, AuditEvent.MESSAGE_OPENED)],
    "mesh": ["another"],
    "sender": ["", CASE.bob.agent.did],
    "recipient": ["", CASE.alice.agent.did],
    "envelope_time_ms": [0, RECORD.envelope_time_ms + 1],
    "receipt": [b"", bytes(32), receipt_of(CASE.envelopes[1])],
    "session_id": [b"", bytes(16), CASE.alice.record_of(CASE.envelopes[3]).session_id],
    "size_bytes": [0, RECORD.size_bytes + 1],
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_record_of_anything_else_is_refused(name: str) -> None:
    for value in CHANGES[name]:
        record = copy.copy(RECORD)
        assert getattr(record, name) != value
        setattr(record, name, value)
        refused(ENVELOPE, DISCLOSURE, record)


def test_a_relays_record_is_no_record_of_a_message() -> None:
    refused(ENVELOPE, DISCLOSURE, relay_record(OuterEnvelope.parse(ENVELOPE), at_ms=1))


def test_only_messages_are_disclosed() -> None:
    """A KNOCK or a verdict in an envelope of kind 4, or the other way round: the record has to be of that very one."""
    outer = OuterEnvelope.parse(ENVELOPE)
    for kind in (Kind.KNOCK, Kind.ACCEPT, Kind.REJECT):
        header = Header(
            kind=kind, mesh=MESH, sender=RECORD.sender, recipient=RECORD.recipient, time_ms=RECORD.envelope_time_ms
        )
        envelope = build(header.encode(), outer.body)
        record = copy.copy(RECORD)
        record.receipt, record.size_bytes = receipt_of(envelope), len(envelope)
        refused(envelope, DISCLOSURE, record)
        refused(*crafted(OURS, kind))
    refused(*crafted(b"\x01content"))  # an ACCEPT's type in a message
    refused(*crafted(b"\x03\x04\x01" + bytes(3) + b"\x01" + bytes(3) + b"\x01"))  # a signal, which nobody records
    head = OURS[:6]
    for content in (b"", b"\x04what is that", b"\x00", head[:-1], head, head + b"\x05four", head + b"\x01\xff"):
        refused(*crafted(content))
    assert verify_disclosure(*crafted(OURS)).data == b"ours"


ACK = b"\x01" + bytes(3) + b"\x01" + bytes(3) + b"\x09"


@pytest.mark.parametrize(
    ("parts", "between", "holds"),
    [
        (4, ACK, True),
        (1, bytes(1188), True),  # an item is not looked at: this is no key
        (2, bytes(1124), True),
        (5, bytes(1188) + ACK, True),
        (6, bytes(1124) + ACK, True),
        (4, ACK[:-1], False),  # the ranges go on into the action: 4..., which is not over the one before
        (4, b"\x00", False),
        (4, b"\x01" + bytes(8), False),
        (1, bytes(1124), False),
        (3, bytes(1188 + 1124), False),
        (7, bytes(1188 + 1124) + ACK, False),
        (8, b"", False),
        (16, b"", False),
        (255, b"", False),
    ],
)
def test_parts_are_cut_off_by_their_forms(parts: int, between: bytes, holds: bool) -> None:
    crafting = crafted(bytes([0, parts, 0, 0, 0, 1]) + between + b"\x04listours")
    if holds:
        disclosed = verify_disclosure(*crafting)
        assert (disclosed.action, disclosed.data) == ("list", b"ours")
    else:
        refused(*crafting)


def test_a_message_without_an_index_is_none() -> None:
    refused(*crafted(bytes(7) + b"ours"))


def test_a_close_is_disclosed_where_a_receiver_would_take_it() -> None:
    close = b"\x93\xa4done\x02\x03"
    disclosed = verify_disclosure(*crafted(b"\x02" + close))
    assert (disclosed.content_type, disclosed.action, disclosed.data) == (ContentType.CLOSE, None, close)
    for bad in (b"", b"done", close[:-1], close + b"\x00", b"\x93\xa4done\xcc\x02\x03", b"\x93\xc4\x04done\x02\x03"):
        refused(*crafted(b"\x02" + bad))


def test_rubbish_is_refused_and_mistakes_are_told() -> None:
    for rubbish in (b"", b"\xc0", ENVELOPE[:-1], ENVELOPE + b"\x00", ENVELOPE[:50], bytes(3 << 20)):
        refused(rubbish, DISCLOSURE, RECORD)
    mistakes: list[tuple[Any, Any, Any]] = [
        (ENVELOPE, DISCLOSURE.reveal(), RECORD), (ENVELOPE, DISCLOSURE.key, RECORD), (ENVELOPE, None, RECORD),
        (ENVELOPE, DISCLOSURE, None), (ENVELOPE, DISCLOSURE, RECORD.encode(0, bytes(32))),
        (None, DISCLOSURE, RECORD), ([ENVELOPE], DISCLOSURE, RECORD), ("x", DISCLOSURE, RECORD),
    ]  # fmt: skip
    for mistake in mistakes:
        with pytest.raises(ArgumentInvalid):
            verify_disclosure(*mistake)
    in_a_buffer: Any = bytearray(ENVELOPE)
    assert verify_disclosure(in_a_buffer, DISCLOSURE, RECORD) == verify_disclosure(ENVELOPE, DISCLOSURE, RECORD)


def test_an_envelope_over_the_limit_is_refused_unread() -> None:
    clock = ManualClock()
    alice, bob = Party("alice", clock), Party("bob", clock)
    session(alice, bob)
    sealed = alice.agent.send(bob.agent.did, bytes(8_000), disclosable=True)
    record = alice.record_of(sealed.envelope)
    assert sealed.disclosure is not None
    small = Limits(envelope_max_bytes=5_000, plaintext_max_bytes=1, intent_detail_max_bytes=1, capabilities_max=1)
    with pytest.raises(DisclosureInvalid):
        verify_disclosure(sealed.envelope, sealed.disclosure, record, limits=small)
    assert verify_disclosure(sealed.envelope, sealed.disclosure, record).data == bytes(8_000)


# --- a box that opens under two keys ----------------------------------------------------------------------------------

POLY_PRIME = 2**130 - 5
CLAMP = 0x0FFFFFFC0FFFFFFC0FFFFFFC0FFFFFFF
QUARTERS = (
    (0, 4, 8, 12), (5, 9, 13, 1), (10, 14, 2, 6), (15, 3, 7, 11),
    (0, 1, 2, 3), (5, 6, 7, 4), (10, 11, 8, 9), (15, 12, 13, 14),
)  # fmt: skip


def salsa20(key: bytes, tail: bytes) -> tuple[list[int], list[int]]:
    k, n, c = struct.unpack("<8I", key), struct.unpack("<4I", tail), struct.unpack("<4I", b"expand 32-byte k")
    block = [c[0], *k[:4], c[1], *n, c[2], *k[4:], c[3]]
    x = list(block)
    for a, b, c_, d in QUARTERS * 10:
        for target, first, second, turn in ((b, a, d, 7), (c_, b, a, 9), (d, c_, b, 13), (a, d, c_, 18)):
            total = (x[first] + x[second]) & 0xFFFFFFFF
            x[target] ^= (total << turn | total >> 32 - turn) & 0xFFFFFFFF
    return block, x


def stream(key: bytes, nonce: bytes) -> bytes:
    """Return 128 bytes of XSalsa20: the Poly1305 key, and what a message of up to 96 bytes is masked with."""
    _, x = salsa20(key, nonce[:16])
    subkey = struct.pack("<8I", *(x[i] for i in (0, 5, 10, 15, 6, 7, 8, 9)))
    blocks = [salsa20(subkey, nonce[16:] + struct.pack("<Q", counter)) for counter in (0, 1)]
    return b"".join(struct.pack("<16I", *((a + b) & 0xFFFFFFFF for a, b in zip(*pair, strict=True))) for pair in blocks)


def two_key_box(first: bytes, second: bytes, nonce: bytes) -> bytes:
    """Return one box of 64 bytes that opens under both keys, each time to a well-formed, padded data message.

    Both streams agree where a message is not free: type, parts and action length at its beginning, the padding's marker
    at its end. Poly1305 is a polynomial over the blocks: the two in the middle are the solution of two linear
    equations, one for each key (Dodis, Grubbs, Ristenpart, Woodage, CRYPTO 2018). A block is to be in [2^128, 2^129).
    """
    streams = [stream(key, nonce) for key in (first, second)]
    masks = [one[32:96] for one in streams]
    for at in (0, 1, 6, 63):
        assert masks[0][at] == masks[1][at]
    (r1, s1), (r2, s2) = (
        (int.from_bytes(one[:16], "little") & CLAMP, int.from_bytes(one[16:32], "little")) for one in streams
    )
    inverse = pow(pow(r1, 3) * pow(r2, 2) - pow(r2, 3) * pow(r1, 2), -1, POLY_PRIME)
    for attempt in range(100_000):
        tag = attempt.to_bytes(16, "little")
        head = masks[0][:2] + bytes(4) + masks[0][6:7] + bytes(9)
        tail = bytes(15) + bytes([masks[0][63] ^ 0x80])
        h, t = (int.from_bytes(block + b"\x01", "little") for block in (head, tail))
        wanted = [
            ((attempt - s) % (1 << 128) - h * pow(r, 4, POLY_PRIME) - t * r) % POLY_PRIME
            for r, s in ((r1, s1), (r2, s2))
        ]
        a = (wanted[0] * pow(r2, 2) - wanted[1] * pow(r1, 2)) * inverse % POLY_PRIME
        b = (wanted[1] * pow(r1, 3) - wanted[0] * pow(r2, 3)) * inverse % POLY_PRIME
        if a >> 128 == b >> 128 == 1:
            middle = b"".join((block % (1 << 128)).to_bytes(16, "little") for block in (a, b))
            return tag + head + middle + tail
    raise AssertionError("no solution")


OURS = b"\x00\x00\x00\x00\x00\x01\x00ours"
SENDER, RECIPIENT = did_of(bytes(32)), did_of(bytes([1]) * 32)
HEADERS = {
    kind: Header(kind=kind, mesh=MESH, sender=SENDER, recipient=RECIPIENT, time_ms=1_767_225_600_000).encode()
    for kind in Kind
}
HEADER = HEADERS[Kind.MESSAGE]
NONCE, SEALED_HEADER, SESSION_ID, TH = bytes(range(24)), bytes(60), bytes(16), bytes(64)
# Found by search: the streams of these two message keys agree in the four bytes that are not free.
MESSAGE_KEYS = ((81_911).to_bytes(32, "big"), (133_606).to_bytes(32, "big"))


def derived(message_key: bytes, kind: Kind = Kind.MESSAGE) -> tuple[bytes, bytes]:
    both = hashlib.blake2b(
        NONCE + SEALED_HEADER + SESSION_ID + TH + HEADERS[kind], digest_size=64, key=message_key, person=MESSAGE
    ).digest()
    return both[:32], both[32:]


def with_box(kc: bytes, box: bytes, kind: Kind = Kind.MESSAGE) -> tuple[bytes, Record]:
    """Return an envelope with that commitment and box, and the record that the log of its maker would have of it."""
    envelope = build(HEADERS[kind], SESSION_ID, NONCE, SEALED_HEADER, kc, box)
    record = Record(
        AuditEvent.MESSAGE_SEALED, at_ms=1, mesh=MESH, sender=SENDER, recipient=RECIPIENT,
        envelope_time_ms=1_767_225_600_000, receipt=receipt_of(envelope), session_id=SESSION_ID, number=1,
        size_bytes=len(envelope), bundle_class=BundleClass.ONE_TIME,
    )  # fmt: skip
    return envelope, record


def crafted(content: bytes, kind: Kind = Kind.MESSAGE) -> tuple[bytes, Disclosure, Record]:
    """Return (envelope, disclosure, record) of a message that anybody could make."""
    ek, kc = derived(MESSAGE_KEYS[0], kind)
    padded = content + b"\x80" + bytes(padded_length(len(content) + 1) - len(content) - 1)
    envelope, record = with_box(kc, _crypto.secretbox(padded, NONCE, ek), kind)
    return envelope, Disclosure(TH + MESSAGE_KEYS[0]), record


def test_a_box_that_opens_under_two_keys_is_disclosed_under_one_at_most() -> None:
    (ek1, kc1), (ek2, kc2) = map(derived, MESSAGE_KEYS)
    box = two_key_box(ek1, ek2, NONCE)
    # The attack on the bare box is real: it opens under both keys, to two well-formed messages.
    texts = [parse_content(_crypto.secretbox_open(box, NONCE, ek)) for ek in (ek1, ek2)]
    assert [content_type for content_type, *_ in texts] == [ContentType.DATA] * 2
    assert texts[0] != texts[1]
    # The envelope names one key, whichever its maker chose, and there it stays.
    for kc, mine, other in ((kc1, 0, 1), (kc2, 1, 0)):
        envelope, record = with_box(kc, box)
        disclosed = verify_disclosure(envelope, Disclosure(TH + MESSAGE_KEYS[mine]), record)
        assert disclosed.data == texts[mine][2]
        refused(envelope, Disclosure(TH + MESSAGE_KEYS[other]), record)
        frame = SUITE.parse(OuterEnvelope.parse(envelope).body, 16)
        with pytest.raises(DecryptionFailed):
            SUITE.open_body(MessageKey(MESSAGE_KEYS[other]), frame, SESSION_ID + TH + HEADER)
    envelope, record = with_box(bytes(a ^ b for a, b in zip(kc1, kc2, strict=True)), box)
    for message_key in MESSAGE_KEYS:
        refused(envelope, Disclosure(TH + message_key), record)


# --- what shows -------------------------------------------------------------------------------------------------------


def test_a_disclosure_is_kept_like_a_secret() -> None:
    raw = DISCLOSURE.reveal()
    assert Disclosure(raw) == DISCLOSURE
    assert Disclosure(raw) != CASE.disclosures[1]
    for shown in (repr(DISCLOSURE), str(DISCLOSURE), f"{DISCLOSURE}"):
        assert shown == "Disclosure(<redacted>)"
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(TypeError):
            pickle.dumps(DISCLOSURE, protocol)
    for size in (0, 32, 64, 95, 97):
        with pytest.raises(ArgumentInvalid):
            Disclosure(bytes(size))
    with pytest.raises(ArgumentInvalid):
        Disclosure(bytearray(95))  # type: ignore[arg-type]
    assert Disclosure(bytearray(raw)) == DISCLOSURE  # type: ignore[arg-type]


def test_what_was_disclosed_does_not_print_itself() -> None:
    disclosed = verify_disclosure(CASE.envelopes[1], CASE.disclosures[1], CASE.alice.record_of(CASE.envelopes[1]))
    assert type(disclosed) is Disclosed
    assert "content" not in repr(disclosed).replace("content_type", "")
    assert "other" not in repr(disclosed)
    event_shown = repr(CASE.disclosures) + repr(disclosed)
    assert CASE.disclosures[1].key.reveal().hex() not in event_shown
