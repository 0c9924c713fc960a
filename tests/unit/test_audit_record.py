"""Records and entries: one encoding each, nothing that a reader would not take, nothing that tells."""

from __future__ import annotations

import inspect
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

import agentmesh.errors
from agentmesh.audit import AuditEvent, Outcome, Record, decode_entry
from agentmesh.audit.record import ENTRY_MAX_BYTES
from agentmesh.envelope import OuterEnvelope
from agentmesh.errors import AgentMeshError, ArgumentInvalid, Malformed, RemoteError, TooLarge, UnknownVersion
from agentmesh.handshake.prekeys import BundleClass
from agentmesh.handshake.verdict import Reason
from agentmesh.limits import DID_MAX_BYTES, UINT_MAX
from agentmesh.primitives.keys import Receipt, SessionId
from agentmesh.relay import relay_record
from agentmesh.session.phases import Phase
from agentmesh.testing import established_pair

ALICE = "did:agentmesh:2CiZ88hVF4JuQim8nnSuyeiV2HF2"

uints = st.integers(0, UINT_MAX)
names = st.one_of(
    st.just(""), st.just(ALICE), st.from_regex(r"did:[a-z0-9]{1,32}:[A-Za-z0-9._:%-]{1,91}", fullmatch=True)
)
records = st.builds(
    Record,
    st.sampled_from(AuditEvent),
    at_ms=uints,
    mesh=st.from_regex(r"[a-z0-9._/-]{1,64}", fullmatch=True),
    sender=names,
    recipient=names,
    envelope_time_ms=uints,
    receipt=st.one_of(st.just(b""), st.binary(min_size=32, max_size=32)).map(Receipt),
    session_id=st.one_of(st.just(b""), st.binary(min_size=16, max_size=16)).map(SessionId),
    number=uints,
    size_bytes=uints,
    bundle_class=st.one_of(st.none(), st.sampled_from(BundleClass)),
    outcome=st.one_of(st.none(), st.sampled_from(Outcome)),
    reason=st.from_regex(r"[a-z0-9._-]{0,32}", fullmatch=True),
    count=st.integers(1, UINT_MAX),
)


def plain(**fields: Any) -> Record:
    return Record(**{"event": AuditEvent.MESSAGE_SEALED, "at_ms": 1, "mesh": "a/b", "sender": ALICE} | fields)


@given(records, uints, st.binary(min_size=32, max_size=32))
def test_an_entry_is_read_as_it_was_written(record: Record, sequence: int, previous: bytes) -> None:
    entry = record.encode(sequence, previous)
    assert len(entry) <= ENTRY_MAX_BYTES
    assert decode_entry(entry) == (sequence, previous, record)
    assert decode_entry(entry)[2].encode(sequence, previous) == entry
    # Written down a second time, from the table of the protocol.
    assert entry == msgpack.packb(
        [
            1, sequence, previous, record.at_ms, str(record.event), record.mesh, record.sender, record.recipient,
            record.envelope_time_ms, record.receipt, record.session_id, record.number, record.size_bytes,
            0 if record.bundle_class is None else int(record.bundle_class), str(record.outcome), record.reason,
            record.count,
        ]
    )  # fmt: skip


@given(records, records, uints, uints)
def test_different_records_have_different_entries(one: Record, other: Record, first: int, second: int) -> None:
    previous = bytes(32)
    assert (one.encode(first, previous) == other.encode(second, previous)) == (one == other and first == second)


NO_DIDS = [
    "x", "did:", "did:x:", "DID:x:y", "did:X:y", "did:agentmesh:a b", "did:agentmesh:a\n", "did:agentmesh:\x1b[31m",
    "did:agentmesh:\u202e", "did:agentmesh:é", "did:agentmesh:\x00", " did:x:y",
]  # fmt: skip

BAD_FIELDS: list[dict[str, Any]] = [
    *({name: value} for name in ("at_ms", "envelope_time_ms", "number", "size_bytes", "count")
      for value in (-1, UINT_MAX + 1, 1.0, True, None, "1")),
    *({name: value} for name in ("sender", "recipient")
      for value in ("did:x:" + "y" * (DID_MAX_BYTES - 5), "\ud800", b"did", None, *NO_DIDS)),
    *({"mesh": value} for value in ("", "A", "a b", "a" * 65, "a\n", None, b"a", "é")),
    *({"reason": value} for value in ("x" * 33, "Why", "the secret", "a\n", "é", None, b"")),
    *({"receipt": value} for value in (bytes(31), bytes(33), bytearray(32), None, "")),
    *({"session_id": value} for value in (bytes(15), bytes(17), bytearray(16), None, "")),
    *({"bundle_class": value} for value in (1, 3, 0, "1")),
    *({"event": value} for value in ("message.sealed", None, 0)),
    *({"outcome": value} for value in ("allow", 1)),
    {"count": 0},
]  # fmt: skip


@pytest.mark.parametrize("fields", BAD_FIELDS, ids=str)
def test_what_no_reader_would_take_is_not_written(fields: dict[str, Any]) -> None:
    record = plain(**fields)
    with pytest.raises(ArgumentInvalid) as caught:
        record.encode(0, bytes(32))
    assert caught.value.argument == "record"


ENTRY = plain().encode(7, bytes(32))
FIELDS: list[Any] = msgpack.unpackb(ENTRY)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        *((place, value) for place in (1, 3, 8, 11, 12, 16) for value in (-1, UINT_MAX + 1, 1.0, True, None, "1", b"")),
        *(
            (place, value)
            for place in (2, 9, 10)
            for value in (bytes(31), bytes(33), bytes(15), bytes(17), "x", 1, None)
        ),
        *((place, value) for place in (6, 7) for value in ("did:x:" + "y" * 123, b"x", None, 1, *NO_DIDS)),
        *((4, value) for value in ("", "message.made_up", "MESSAGE.SEALED", b"message.sealed", 1)),
        *((5, value) for value in ("", "A", "a" * 65, "a\n", b"a", None)),
        *((13, value) for value in (3, -1, True, None, "1")),
        *((14, value) for value in ("", "maybe", "ALLOW", b"allow", None)),
        *((15, value) for value in ("x" * 33, "Two Words", "a\x1b[31m", b"", None)),
        (16, 0),
    ],
)
def test_an_entry_with_one_bad_field_is_refused(place: int, value: Any) -> None:
    fields = list(FIELDS)
    fields[place] = value
    with pytest.raises((Malformed, TooLarge)):
        decode_entry(msgpack.packb(fields))


def test_an_entry_of_another_shape_is_refused() -> None:
    for wrong in (
        b"", ENTRY + b"\x00", ENTRY[:-1], msgpack.packb(FIELDS[:-1]), msgpack.packb([*FIELDS, 0]), msgpack.packb({}),
        msgpack.packb(None), b"\xdd\x00\x00\x00\x11" + ENTRY[3:], ENTRY.replace(b"\xa0", b"\xd9\x00", 1), bytes(32),
        None, "entry", bytearray(ENTRY),
    ):  # fmt: skip
        with pytest.raises(Malformed):
            decode_entry(wrong)  # type: ignore[arg-type]
    with pytest.raises(TooLarge):
        decode_entry(bytes(ENTRY_MAX_BYTES + 1))
    with pytest.raises(UnknownVersion):
        decode_entry(msgpack.packb([2, *FIELDS[1:]]))


@given(st.binary(max_size=300), st.integers(0, len(ENTRY) * 8 - 1), st.integers(0, len(ENTRY)))
def test_hostile_bytes_are_refused_by_our_errors_alone(noise: bytes, bit: int, cut: int) -> None:
    flipped = bytearray(ENTRY)
    flipped[bit // 8] ^= 1 << bit % 8
    for data in (noise, bytes(flipped), ENTRY[:cut], ENTRY[:cut] + noise):
        try:
            sequence, previous, record = decode_entry(data)
        except RemoteError:
            continue
        assert record.encode(sequence, previous) == data


def test_every_word_that_a_record_may_carry_fits() -> None:
    codes = {
        error.code
        for _, error in inspect.getmembers(agentmesh.errors, inspect.isclass)
        if issubclass(error, AgentMeshError)
    }
    words = codes | set(map(str, Reason)) | set(map(str, Phase)) | {"knock", "accept", "reject", "message"}
    assert len(words) > 60
    for word in words:
        plain(reason=word).encode(0, bytes(32))


def test_a_record_has_no_field_for_what_was_said() -> None:
    assert set(Record.__slots__) == {
        "at_ms", "bundle_class", "count", "envelope_time_ms", "event", "mesh", "number", "outcome", "reason", "receipt",
        "recipient", "sender", "session_id", "size_bytes",
    }  # fmt: skip
    with pytest.raises(AttributeError):
        plain().plaintext = b"x"  # type: ignore[attr-defined]
    with pytest.raises(TypeError):
        hash(plain())
    assert plain() != object()


def test_what_a_peer_claims_cannot_act_on_a_terminal() -> None:
    shown = repr(plain(sender="did:agentmesh:\x1b[31m\n\u202eevil", recipient="\x07"))
    assert shown.isascii()
    assert shown.isprintable()


def test_a_relay_records_what_it_sees_and_needs_no_key() -> None:
    pair = established_pair()
    envelope = pair.alice.send(pair.bob.did, b"secret").envelope
    outer = OuterEnvelope.parse(envelope)
    record = relay_record(outer, at_ms=5)
    assert record == Record(
        AuditEvent.ENVELOPE_SEEN,
        at_ms=5,
        mesh=pair.alice.mesh,
        sender=pair.alice.did,
        recipient=pair.bob.did,
        envelope_time_ms=outer.header.time_ms,
        receipt=outer.receipt,
        size_bytes=len(envelope),
        reason="message",
    )
    assert record.outcome is Outcome.INFO
