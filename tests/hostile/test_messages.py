"""Messages under attack (sections 6, 6.1 and 7): what was altered, spliced, replayed or made by a peer that lies.

A refusal is one exact error, an unchanged export, and a session that goes on.
"""

from __future__ import annotations

import functools
import gc
import os
import random
import struct
import tracemalloc
from collections.abc import Callable
from typing import Any, TypeVar

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentmesh import (
    Agent,
    Conditions,
    Intent,
    KnockReceived,
    Limits,
    MessageReceived,
    OuterEnvelope,
    PeerClosed,
    SessionEstablished,
    SkippedKeysExpired,
)
from agentmesh.envelope import Header, Kind, build
from agentmesh.errors import (
    AgentMeshError,
    ChainExhausted,
    ClosedSession,
    ConditionNotMet,
    ContradictoryHeader,
    DecryptionFailed,
    DuplicateMessage,
    EnvelopeReflected,
    GapTooLarge,
    Malformed,
    MessageAfterClose,
    MessageRefused,
    NotYet,
    PeerConditionBroken,
    PeerNotAllowed,
    RemoteError,
    SenderMismatch,
    TooLarge,
    UnknownSession,
    UnknownVersion,
    VerdictUnmatched,
    WrongMesh,
    WrongRecipient,
)
from agentmesh.handshake.verdict import UNLIMITED, build_accept_content
from agentmesh.limits import COUNTER_MAX
from agentmesh.primitives.keys import MessageKey
from agentmesh.primitives.padding import pad
from agentmesh.session.established import Session
from agentmesh.session.pending import Undecided
from agentmesh.session.suite import SUITE
from agentmesh.testing import ManualClock, Pair, SeededEntropy, agent_pair, establish, established_pair, with_header

Refusal = TypeVar("Refusal", bound=AgentMeshError)


def refuse(agent: Agent, envelope: bytes, error: type[Refusal]) -> Refusal:
    """Offer an envelope that must be refused with exactly this error, and leave no trace."""
    before = agent.export_state()
    with pytest.raises(error) as caught:
        agent.receive(envelope)
    assert type(caught.value) is error
    assert agent.export_state() == before
    return caught.value


def refuse_somehow(agent: Agent, envelope: bytes) -> type[RemoteError]:
    with pytest.raises(RemoteError) as caught:
        agent.receive(envelope)
    return type(caught.value)


def delivered(agent: Agent, envelope: bytes) -> bytes:
    [event] = agent.receive(envelope)
    assert isinstance(event, MessageReceived)
    return event.plaintext


def converses(alice: Agent, bob: Agent) -> None:
    """Check that the session lives, in both directions."""
    for sender, receiver in ((alice, bob), (bob, alice)):
        plaintext = os.urandom(8)
        assert delivered(receiver, sender.send(receiver.did, plaintext).envelope) == plaintext


def session_of(agent: Agent, peer: Agent) -> Session:
    held = agent._core.state.peer(peer.did)
    assert held is not None
    [session] = [one for one in held.sessions if isinstance(one, Session)]
    return session


def sealed_by(
    sender: Agent,
    receiver: Agent,
    plaintext: bytes,
    /,
    *,
    padding: Callable[[bytes], bytes] = pad,
    advance: bool = True,
    **fields: Any,
) -> bytes:
    """Return what a peer with a valid session can make and an honest one would not: any plaintext, any outer header."""
    session = session_of(sender, receiver)
    facts = session.facts
    named = {
        "version": 1,
        "kind": int(Kind.MESSAGE),
        "mesh": facts.mesh,
        "sender": facts.own_did,
        "recipient": facts.peer.did,
        "time_ms": sender._core.now_ms(),
    }
    header = msgpack.packb(list((named | fields).values()))
    parts, _, after = session.ratchet.seal(padding(plaintext), facts.context(header), os.urandom(24))
    if advance:
        session.ratchet.apply_sealed(after)
    return build(header, facts.session_id, *parts)


def with_ratchet_header(sender: Agent, receiver: Agent, **fields: Any) -> bytes:
    """Return a data message whose sealed header says what it should not; sealed with the sender's own keys."""
    session = session_of(sender, receiver)
    facts, ratchet = session.facts, session.ratchet
    chain = ratchet.sending
    assert chain is not None
    genuine = {
        "key": ratchet.public,
        "epoch": ratchet.epochs.epoch,
        "previous_length": chain.previous_length,
        "n": chain.n,
    }
    header = facts.header(Kind.MESSAGE, sender._core.now_ms())
    message_key = ratchet.suite.kdf_chain(chain.key)[1]
    parts = ratchet.suite.seal(
        chain.header_key,
        message_key,
        tuple((genuine | fields).values()),
        facts.context(header),
        pad(DATA + b"\x00data"),
        os.urandom(24),
    )
    return build(header, facts.session_id, *parts)


# --- altered bytes ---------------------------------------------------------------------------------------------------

HEADER_FAULTS = {
    Malformed,
    TooLarge,
    UnknownVersion,
    WrongRecipient,
    WrongMesh,
    SenderMismatch,
    EnvelopeReflected,
    DecryptionFailed,
    MessageRefused,
    VerdictUnmatched,
}


def test_every_flipped_bit_of_a_message_is_refused() -> None:
    pair = established_pair()
    envelope = pair.alice.send(pair.bob.did, b"genuine").envelope
    body_at = len(envelope) - len(OuterEnvelope.parse(envelope).body)
    before = pair.bob.export_state()
    for bit in range(8 * len(envelope)):
        flipped = bytearray(envelope)
        flipped[bit // 8] ^= 1 << bit % 8
        error = refuse_somehow(pair.bob, bytes(flipped))
        if bit // 8 >= body_at + 16:
            assert error is DecryptionFailed
        elif bit // 8 >= body_at:
            assert error is UnknownSession
        else:
            assert error in HEADER_FAULTS
    assert pair.bob.export_state() == before
    assert delivered(pair.bob, envelope) == b"genuine"


def test_every_flipped_bit_of_an_accept_is_refused() -> None:
    pair, accept = knocked_and_accepted()
    body_at = len(accept) - len(OuterEnvelope.parse(accept).body)
    before = pair.alice.export_state()
    for bit in range(8 * len(accept)):
        flipped = bytearray(accept)
        flipped[bit // 8] ^= 1 << bit % 8
        error = refuse_somehow(pair.alice, bytes(flipped))
        if bit // 8 >= body_at + 16:
            assert error is DecryptionFailed
        elif bit // 8 >= body_at:
            assert error is UnknownSession
        else:
            # A kind 4 over an ACCEPT's body has the awaited header: it may come again, and never opens.
            assert error in HEADER_FAULTS | {NotYet}
    assert pair.alice.export_state() == before
    [event] = pair.alice.receive(accept)
    assert isinstance(event, SessionEstablished)
    converses(pair.alice, pair.bob)


def test_every_prefix_and_every_appended_byte_is_refused() -> None:
    pair = established_pair()
    envelope = pair.alice.send(pair.bob.did, b"genuine").envelope
    outer = OuterEnvelope.parse(envelope)
    before = pair.bob.export_state()
    for length in range(len(envelope)):
        assert refuse_somehow(pair.bob, envelope[:length]) is Malformed
    for byte in range(256):
        assert refuse_somehow(pair.bob, envelope + bytes([byte])) is Malformed
    for length in range(len(outer.body)):
        error = refuse_somehow(pair.bob, build(outer.header_bytes, outer.body[:length]))
        assert error is (Malformed if length < 16 + 132 else DecryptionFailed)
    for byte in range(256):
        assert refuse_somehow(pair.bob, build(outer.header_bytes, outer.body, bytes([byte]))) is DecryptionFailed
    assert pair.bob.export_state() == before
    assert delivered(pair.bob, envelope) == b"genuine"


# nonce, sealed header, commitment, tag, box
CUTS = (0, 16, 40, 100, 132, 148)


@pytest.mark.parametrize("turn_between", [False, True], ids=["one chain", "two chains"])
def test_parts_of_two_messages_cannot_be_spliced(turn_between: bool) -> None:
    pair = established_pair()
    first = pair.alice.send(pair.bob.did, b"first message").envelope
    if turn_between:
        delivered(pair.bob, pair.alice.send(pair.bob.did, b"between").envelope)
        delivered(pair.alice, pair.bob.send(pair.alice.did, b"turn").envelope)
    pair.clock.advance(ms=1)
    second = pair.alice.send(pair.bob.did, b"second messag").envelope
    one, two = OuterEnvelope.parse(first), OuterEnvelope.parse(second)
    assert one.header_bytes != two.header_bytes
    assert len(one.body) == len(two.body)
    ends = (*CUTS[1:], len(one.body))
    for start, end in zip(CUTS, ends, strict=True):
        for mine, other in ((one, two), (two, one)):
            spliced = mine.body[:start] + other.body[start:end] + mine.body[end:]
            if spliced != mine.body:
                refuse(pair.bob, build(mine.header_bytes, spliced), DecryptionFailed)
            refuse(pair.bob, build(mine.header_bytes, other.body), DecryptionFailed)
    assert delivered(pair.bob, second) == b"second messag"
    assert delivered(pair.bob, first) == b"first message"


def test_session_ids_of_two_sessions_cannot_be_swapped() -> None:
    pair = established_pair()
    establish(pair.alice, pair.bob)
    ids = [view.session_id for view in pair.alice.sessions(pair.bob.did)]
    envelopes = [pair.alice.send(pair.bob.did, b"to session", session_id=session_id).envelope for session_id in ids]
    for envelope, other in zip(envelopes, reversed(ids), strict=True):
        outer = OuterEnvelope.parse(envelope)
        refuse(pair.bob, build(outer.header_bytes, other, outer.body[16:]), DecryptionFailed)
        refuse(pair.bob, build(outer.header_bytes, os.urandom(16), outer.body[16:]), UnknownSession)
        refuse(pair.bob, build(outer.header_bytes, outer.body[16:]), UnknownSession)
    assert [delivered(pair.bob, envelope) for envelope in envelopes] == [b"to session"] * 2


@pytest.mark.parametrize(
    ("kind", "error"), [(Kind.KNOCK, Malformed), (Kind.ACCEPT, DecryptionFailed), (Kind.REJECT, Malformed)]
)
def test_the_kind_is_authenticated(kind: Kind, error: type[AgentMeshError]) -> None:
    pair = established_pair()
    envelope = pair.alice.send(pair.bob.did, b"genuine").envelope
    refuse(pair.bob, with_header(envelope, kind=kind), error)
    assert delivered(pair.bob, envelope) == b"genuine"


def test_the_time_is_authenticated() -> None:
    pair = established_pair()
    envelope = pair.alice.send(pair.bob.did, b"genuine").envelope
    for time_ms in (0, pair.clock.now_ms - 1, pair.clock.now_ms + 1, 2**53 - 1):
        refuse(pair.bob, with_header(envelope, time_ms=time_ms), DecryptionFailed)
    assert delivered(pair.bob, envelope) == b"genuine"


def test_reflections() -> None:
    pair = established_pair()
    envelope = pair.alice.send(pair.bob.did, b"genuine").envelope
    refuse(pair.alice, envelope, WrongRecipient)
    refuse(pair.alice, with_header(envelope, recipient=pair.alice.did), EnvelopeReflected)
    refuse(pair.alice, with_header(envelope, sender=pair.bob.did, recipient=pair.alice.did), DecryptionFailed)
    assert delivered(pair.bob, envelope) == b"genuine"
    converses(pair.alice, pair.bob)


# --- an authentic message with a header that lies --------------------------------------------------------------------


def stranger(pair: Pair, seed: str = "carol") -> Agent:
    return Agent.create(pair.alice.mesh, clock=pair.clock, entropy=SeededEntropy(seed))


def test_a_peer_cannot_write_another_agents_name() -> None:
    pair = established_pair()
    carol = stranger(pair)
    establish(carol, pair.bob)
    for lie, error in (
        ({"sender": carol.did}, SenderMismatch),
        ({"sender": stranger(pair, "nobody").did}, SenderMismatch),
        ({"sender": pair.alice.did + " "}, Malformed),
        ({"sender": pair.alice.did.swapcase()}, Malformed),
        ({"sender": "did:agentmesh:" + "1" * 100}, SenderMismatch),
        ({"sender": pair.bob.did}, EnvelopeReflected),
        ({"mesh": "example/other"}, WrongMesh),
        ({"mesh": "example/test/"}, WrongMesh),
        ({"recipient": carol.did}, WrongRecipient),
    ):
        # The AEAD's context is the peer's own lie: only a comparison with the session's facts finds it.
        refuse(pair.bob, sealed_by(pair.alice, pair.bob, DATA + b"\x00forged", advance=False, **lie), error)  # type: ignore[arg-type]
    converses(pair.alice, pair.bob)
    converses(carol, pair.bob)


def test_a_peers_session_does_not_carry_another_peers_keys() -> None:
    pair = established_pair()
    carol = stranger(pair)
    establish(carol, pair.bob)
    theirs = OuterEnvelope.parse(carol.send(pair.bob.did, b"mine").envelope)
    alices_id = session_of(pair.alice, pair.bob).facts.session_id
    refuse(pair.bob, build(theirs.header_bytes, alices_id, theirs.body[16:]), SenderMismatch)
    as_alice = Header(
        kind=Kind.MESSAGE, mesh=carol.mesh, sender=pair.alice.did, recipient=pair.bob.did, time_ms=pair.clock.now_ms
    ).encode()
    refuse(pair.bob, build(as_alice, theirs.body), SenderMismatch)
    refuse(pair.bob, build(as_alice, alices_id, theirs.body[16:]), DecryptionFailed)
    converses(pair.alice, pair.bob)


def test_an_accept_under_another_name_or_mesh_is_refused() -> None:
    pair, accept = knocked_and_accepted()
    carol = stranger(pair)
    for lie, error in (
        ({"sender": carol.did}, SenderMismatch),
        ({"mesh": "example/other"}, WrongMesh),
        ({"sender": pair.alice.did}, EnvelopeReflected),
    ):
        refuse(pair.alice, with_header(accept, **lie), error)  # type: ignore[arg-type]
    pair.alice.receive(accept)
    converses(pair.alice, pair.bob)


# --- one error for whatever does not open ----------------------------------------------------------------------------


def test_what_does_not_open_gives_one_error_and_one_text() -> None:
    pair = established_pair()
    alice, bob = pair.alice, pair.bob
    genuine = alice.send(bob.did, b"genuine").envelope
    outer = OuterEnvelope.parse(genuine)
    establish(alice, bob)
    other_id = alice.sessions(bob.did)[-1].session_id
    other = OuterEnvelope.parse(alice.send(bob.did, b"genuine", session_id=other_id).envelope)
    first_id = outer.body[:16]

    def unpadded(plaintext: bytes) -> bytes:
        return plaintext

    pair_of_first = {"advance": False}
    session = alice._core.state.sessions[first_id]  # type: ignore[index]
    assert isinstance(session, Session)
    faults = {
        "bad tag": genuine[:-1] + bytes([genuine[-1] ^ 1]),
        "bad commitment": build(outer.header_bytes, flipped_at(outer.body, 100)),
        "bad sealed header": build(outer.header_bytes, flipped_at(outer.body, 60)),
        "bad nonce": build(outer.header_bytes, flipped_at(outer.body, 20)),
        "another session's keys": build(outer.header_bytes, first_id, other.body[16:]),
        "another context": with_header(genuine, time_ms=5),
        "random": build(outer.header_bytes, first_id, os.urandom(300)),
    }
    single = established_pair(1)
    for name, padding in (
        ("no marker", lambda _plaintext: bytes(64)),
        ("no padding at all", unpadded),
        ("one block too long", lambda plaintext: pad(plaintext) + bytes(64)),
        ("one byte too long", lambda plaintext: pad(plaintext) + b"\x00"),
        ("one byte too short", lambda plaintext: pad(plaintext)[:-1]),
        ("no bytes", lambda _plaintext: b""),
        ("bytes behind the marker", lambda plaintext: pad(plaintext)[:-1] + b"\x01"),
    ):
        faults[name] = b""
        envelope = sealed_by(single.alice, single.bob, DATA + b"\x00data", padding=padding, **pair_of_first)
        error = refuse(single.bob, envelope, DecryptionFailed)
        assert (str(error), repr(error), error.args, vars(error)) == texts(DecryptionFailed())
    for name, envelope in faults.items():
        if envelope:
            error = refuse(bob, envelope, DecryptionFailed)
            assert (str(error), repr(error), error.args, vars(error)) == texts(DecryptionFailed()), name
    assert delivered(bob, genuine) == b"genuine"
    converses(single.alice, single.bob)


def texts(error: AgentMeshError) -> tuple[str, str, tuple[Any, ...], dict[str, Any]]:
    return str(error), repr(error), error.args, vars(error)


def flipped_at(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


# --- authentic and malformed -----------------------------------------------------------------------------------------


def close_content(*fields: Any) -> bytes:
    return b"\x02" + bytes(msgpack.packb(list(fields), use_bin_type=True))


DATA = b"\x00\x00\x00\x00\x00\x01"  # data without parts, of index 1; the action and what is said come behind it


def ranges(count: int, *, apart: int = 2) -> bytes:
    return b"".join(struct.pack(">II", number, number) for number in range(1, 1 + count * apart, apart))


MALFORMED = {
    "empty": b"",
    "a type alone": b"\x00",
    "data without an index": b"\x00\x00\x00\x00\x00",
    "data without an action": DATA,
    "an unknown type": b"\x04\x00data",
    "the type of an unknown release": b"\xff",
    "an ACCEPT in an established session": b"\x01" + msgpack.packb([b"\x93\xc0\xc0\xc0", bytes(64)]),
    "an ACCEPT that reads as a close": b"\x01" + close_content("", 0, 0)[1:],
    "an unknown type that reads as a close": b"\x04" + close_content("", 0, 0)[1:],
    "an action beyond the end": DATA + b"\x05four",
    "an action of 129 bytes": DATA + b"\x81" + b"a" * 129 + b"data",
    "an action of 255 bytes": DATA + b"\xff" + b"a" * 255 + b"data",
    "an action that is not UTF-8": DATA + b"\x02\xff\xfedata",
    "an action cut in a character": DATA + b"\x01\xce\xb1data",
    "an action of a surrogate": DATA + b"\x03\xed\xa0\x80data",
    "an overlong action": DATA + b"\x02\xc0\x80data",
    "an unknown part": b"\x00\x10" + DATA[2:] + b"\x00data",
    "references, which nobody takes yet": b"\x00\x08" + DATA[2:] + bytes(5) + b"data",
    "an answer to who is not the initiator": b"\x00\x02" + DATA[2:] + bytes(1124) + b"\x00data",
    "an offer that is short": b"\x00\x01" + DATA[2:] + bytes(1187),
    "an offer and an answer": b"\x00\x03" + DATA[2:] + bytes(1188 + 1124) + b"\x00data",
    "an acknowledgement without ranges": b"\x00\x04" + DATA[2:] + DATA + b"\x00data",
    "an acknowledgement of seventeen": b"\x00\x04" + DATA[2:] + b"\x11" + ranges(17) + b"\x00data",
    "an acknowledgement that is cut": b"\x00\x04" + DATA[2:] + b"\x02" + ranges(1),
    "an acknowledgement of nothing": b"\x00\x04" + DATA[2:] + b"\x01" + bytes(8) + b"\x00data",
    "an acknowledgement of ranges that touch": b"\x00\x04" + DATA[2:] + b"\x02" + ranges(2, apart=1) + b"\x00data",
    "a signal without parts": b"\x03\x00",
    "a signal with references": b"\x03\x08" + bytes(5),
    "a signal with data": b"\x03\x04\x01" + ranges(1) + b"\x00data",
    "a signal with an answer to who is not the initiator": b"\x03\x02" + bytes(1124),
    "a close without content": b"\x02",
    "a close that is not msgpack": b"\x02\xc1",
    "a close with two fields": close_content("", 0),
    "a close with four fields": close_content("", 0, 0, 0),
    "a close with a negative count": close_content("", -1, 0),
    "a close with a count beyond 2^53": close_content("", 2**53, 0),
    "a close with a count beyond an index": close_content("", 2**32, 0),
    "a close with an opened count beyond an index": close_content("", 0, 2**32),
    "a close with a float": close_content("", 0.0, 0),
    "a close with a bool": close_content("", True, False),
    "a close with a bin reason": close_content(b"", 0, 0),
    "a close with a long reason": close_content("x" * 129, 0, 0),
    "a close with a longer form": b"\x02\x93\xd9\x00\x00\x00",
    "a close with a byte behind": close_content("", 0, 0) + b"\x00",
    "a close as a map": b"\x02" + msgpack.packb({"reason": "", "sent": 0, "opened": 0}),
    "a large close": close_content("x" * 5000, 0, 0),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_authentic_content_that_may_not_stand_there_is_refused_and_skipped(name: str) -> None:
    pair = established_pair()
    refuse(pair.bob, sealed_by(pair.alice, pair.bob, MALFORMED[name]), MessageRefused)
    refuse(pair.bob, sealed_by(pair.alice, pair.bob, MALFORMED[name]), MessageRefused)
    assert delivered(pair.bob, pair.alice.send(pair.bob.did, b"later messages skip over it").envelope) == (
        b"later messages skip over it"
    )
    delivered(pair.alice, pair.bob.send(pair.alice.did, b"and the other way").envelope)
    [view] = pair.bob.sessions(pair.alice.did)
    assert (view.status.kept_keys, view.status.missing, view.status.data_opened) == (2, (), 1)


@pytest.mark.parametrize("plaintext", [DATA + b"\x00data", b"\x01", b"\x02" + msgpack.packb(["", 0, 0]), b"\x07", b""])
def test_a_kind_2_has_no_place_in_an_established_session(plaintext: bytes) -> None:
    pair = established_pair()
    for sender, receiver in ((pair.alice, pair.bob), (pair.bob, pair.alice)):
        refuse(receiver, sealed_by(sender, receiver, plaintext, kind=Kind.ACCEPT), MessageRefused)
    converses(pair.alice, pair.bob)


def test_the_accept_again_is_a_duplicate() -> None:
    pair, accept = knocked_and_accepted()
    pair.alice.receive(accept)
    refuse(pair.alice, accept, DuplicateMessage)
    converses(pair.alice, pair.bob)
    refuse(pair.alice, accept, DuplicateMessage)


def test_authentic_ratchet_headers_that_lie() -> None:
    pair = established_pair()
    converses(pair.alice, pair.bob)
    converses(pair.alice, pair.bob)
    chain = session_of(pair.alice, pair.bob).ratchet.sending
    assert chain is not None
    alice, bob = pair.alice, pair.bob
    delivered(bob, alice.send(bob.did, b"a turn is taken").envelope)
    for fields in (
        {"previous_length": 99},
        {"previous_length": 0},
        {"key": os.urandom(31) + b"\x00"},
        {"n": 2**32 - 1},
    ):
        refuse(bob, with_ratchet_header(alice, bob, **fields), ContradictoryHeader)
    for n in (1002 + 5, 2**31, 2**32 - 2):
        error = refuse(bob, with_ratchet_header(alice, bob, n=n), GapTooLarge)
        assert error.session_id == session_of(bob, alice).facts.session_id
    refuse(bob, with_ratchet_header(alice, bob, n=0), DuplicateMessage)
    converses(alice, bob)


# --- conditions, at the receiver -------------------------------------------------------------------------------------


def careless(sender: Agent, receiver: Agent) -> None:
    """Let a sender forget the session's conditions, as a modified one would."""
    session_of(sender, receiver).conditions = UNLIMITED


@pytest.mark.parametrize("early", [False, True], ids=["no early payload", "early payload"])
@pytest.mark.parametrize("limit", [0, 1, 3])
@pytest.mark.parametrize("from_alice", [True, False], ids=["A", "B"])
def test_max_messages_is_counted_by_index_at_both_ends(limit: int, early: bool, from_alice: bool) -> None:
    pair = established_pair(
        conditions=Conditions(max_messages=limit), early_payload=b"early" if early else None
    )  # fmt: skip
    sender, receiver = (pair.alice, pair.bob) if from_alice else (pair.bob, pair.alice)
    allowed = max(0, limit - (early and from_alice))
    within = [sender.send(receiver.did, b"within").envelope for _ in range(allowed)]
    before = sender.export_state()
    with pytest.raises(ConditionNotMet) as caught:
        sender.send(receiver.did, b"beyond")
    assert caught.value.condition == "max_messages"
    assert sender.export_state() == before
    careless(sender, receiver)
    beyond = [sender.send(receiver.did, b"beyond").envelope for _ in range(2)]
    # Nothing has arrived yet: it is the index that counts, whatever was dropped or comes in which order.
    for envelope in beyond:
        assert refuse(receiver, envelope, PeerConditionBroken).condition == "max_messages"
    for envelope in reversed(within):
        assert delivered(receiver, envelope) == b"within"
        refuse(receiver, envelope, DuplicateMessage)
        refuse(receiver, beyond[0], PeerConditionBroken)
    [event, *_] = receiver.receive(sender.close(receiver.did, "always allowed"))
    assert isinstance(event, PeerClosed)


def test_dropped_messages_count_as_much_as_those_that_came() -> None:
    pair = established_pair(conditions=Conditions(max_messages=3))
    sent = [pair.alice.send(pair.bob.did, b"%d" % number).envelope for number in range(3)]
    assert delivered(pair.bob, sent[2]) == b"2"
    careless(pair.alice, pair.bob)
    fourth = pair.alice.send(pair.bob.did, b"the fourth, though one came").envelope
    refuse(pair.bob, fourth, PeerConditionBroken)
    assert pair.bob.session(pair.alice.did).status.messages_left_in == 0


def test_the_time_to_live_at_the_receiver() -> None:
    pair = established_pair(conditions=Conditions(ttl_seconds=60))
    end_ms = pair.clock.now_ms + 60_000
    careless(pair.alice, pair.bob)
    data = DATA + b"\x00data"
    another = DATA[:-1] + b"\x02\x00data"
    spare, last = (sealed_by(pair.alice, pair.bob, one, time_ms=end_ms) for one in (data, another))
    late = sealed_by(pair.alice, pair.bob, data, time_ms=end_ms + 1)
    late_close = sealed_by(pair.alice, pair.bob, close_content("", 0, 0), time_ms=end_ms + 1)
    for envelope in (late, late_close):
        assert refuse(pair.bob, envelope, PeerConditionBroken).condition == "ttl_seconds"
    pair.clock.now_ms = end_ms + 300_000
    assert delivered(pair.bob, last) == b"data"
    pair.clock.advance(ms=1)
    refuse(pair.bob, spare, ClosedSession)
    pair.clock.now_ms = end_ms  # a clock set back
    assert delivered(pair.bob, spare) == b"data"


@pytest.mark.parametrize("action", [None, "write", "Read", "read\x00"])
def test_allowed_actions_at_the_receiver(action: str | None) -> None:
    pair = established_pair(conditions=Conditions(allowed_actions=["read", "list"]))
    assert delivered(pair.bob, pair.alice.send(pair.bob.did, b"x", action="read").envelope) == b"x"
    for sender, receiver in ((pair.alice, pair.bob), (pair.bob, pair.alice)):
        session = session_of(sender, receiver)
        careful, session.conditions = session.conditions, UNLIMITED
        envelope = sender.send(receiver.did, b"x", action=action).envelope
        session.conditions = careful
        assert refuse(receiver, envelope, PeerConditionBroken).condition == "allowed_actions"
        assert delivered(receiver, sender.send(receiver.did, b"y", action="list").envelope) == b"y"


def test_content_comes_before_conditions() -> None:
    # Step 5 before step 6: what is malformed is told as such, even where a condition is broken too.
    pair = established_pair(conditions=Conditions(max_messages=0))
    refuse(pair.bob, sealed_by(pair.alice, pair.bob, DATA + b"\x05four"), MessageRefused)


# --- order, loss, floods ---------------------------------------------------------------------------------------------


def test_a_gap_over_the_limit_names_the_session_and_ends_nothing() -> None:
    pair = established_pair(limits=Limits(skipped_keys_per_step=20, skipped_keys_per_session=50))
    held = [pair.alice.send(pair.bob.did, b"%d" % number).envelope for number in range(22)]
    error = refuse(pair.bob, held[21], GapTooLarge)
    assert error.session_id == session_of(pair.bob, pair.alice).facts.session_id
    assert (
        delivered(pair.alice, pair.bob.send(pair.alice.did, b"the other way works").envelope) == b"the other way works"
    )
    assert delivered(pair.bob, held[20]) == b"20"
    assert delivered(pair.bob, held[21]) == b"21"
    assert [delivered(pair.bob, envelope) for envelope in held[:20]] == [b"%d" % number for number in range(20)]


def test_a_chain_ends_with_an_error_and_a_turn_begins_another() -> None:
    pair = established_pair()
    delivered(pair.bob, pair.alice.send(pair.bob.did, b"both know the chain").envelope)
    for sender, receiver, chain_of in ((pair.alice, pair.bob, "sending"), (pair.bob, pair.alice, "receiving")):
        ratchet = session_of(sender, receiver).ratchet
        chain = getattr(ratchet, chain_of)
        chain.n = COUNTER_MAX - 1
    last = pair.alice.send(pair.bob.did, b"the last").envelope
    before = pair.alice.export_state()
    for call in (
        lambda: pair.alice.send(pair.bob.did, b"one too many").envelope,
        lambda: pair.alice.close(pair.bob.did).envelope,
    ):
        with pytest.raises(ChainExhausted):
            call()
    assert pair.alice.export_state() == before
    assert delivered(pair.bob, last) == b"the last"
    converses(pair.bob, pair.alice)
    for agent in (pair.alice, pair.bob):  # numbers beyond 32 bits are positions, and come back from an export
        again = Agent.restore(agent.export_state(), clock=pair.clock)
        assert again.export_state() == agent.export_state()


def test_an_evicted_key_is_told_with_the_message_that_took_its_place() -> None:
    pair = established_pair(limits=Limits(skipped_keys_per_step=2, skipped_keys_per_session=3))
    lost = [pair.alice.send(pair.bob.did, b"lost").envelope for _ in range(2)]
    [first] = pair.bob.receive(pair.alice.send(pair.bob.did, b"first gap"))
    lost += [pair.alice.send(pair.bob.did, b"lost").envelope for _ in range(2)]
    [second] = pair.bob.receive(pair.alice.send(pair.bob.did, b"second gap"))
    assert isinstance(first, MessageReceived)
    assert isinstance(second, MessageReceived)
    assert (first.lost, second.lost) == (0, 1)
    assert (first.lost_at, second.lost_at) == ((), (range(1, 2),))
    status = pair.bob.session(pair.alice.did).status
    assert status.kept_at == (range(2, 3), range(4, 6))
    assert status.missing == (range(1, 3), range(4, 6))  # what is lost stays named
    refuse(pair.bob, lost[0], DuplicateMessage)
    assert [delivered(pair.bob, envelope) for envelope in lost[1:]] == [b"lost"] * 3


def test_a_close_and_the_passing_of_time_say_which_keys_went() -> None:
    limits = Limits(skipped_keys_per_step=2, skipped_keys_per_session=3, skipped_key_lifetime_seconds=60)
    pair = established_pair(limits=limits)
    send = functools.partial(pair.alice.send, pair.bob.did, b"x")
    for last in (send, functools.partial(pair.alice.close, pair.bob.did)):
        for _ in range(2):
            send()  # never arrives
        [event] = pair.bob.receive(last())
    assert isinstance(event, PeerClosed)
    assert (event.lost, event.lost_at) == (1, (range(1, 2),))
    assert event.missing == (range(1, 3), range(4, 6))
    pair.clock.advance(seconds=61)
    [expired] = [event for event in pair.bob.poll() if isinstance(event, SkippedKeysExpired)]
    assert (expired.lost, expired.lost_at) == (3, (range(2, 3), range(4, 6)))
    status = pair.bob.session(pair.alice.did).status
    assert (status.kept_at, status.missing) == ((), event.missing)


@pytest.mark.parametrize("seed", range(3))
def test_everything_delivered_three_times_in_shuffled_windows_arrives_once(seed: int) -> None:
    pair = established_pair(seed)
    rng = random.Random(seed)
    agents = (pair.alice, pair.bob)
    inbox: tuple[list[bytes], list[bytes]] = ([], [])
    for window in range(30):
        sent: list[tuple[int, bytes]] = []
        for sender in rng.choices((0, 1), k=rng.randrange(1, 9)):
            plaintext = b"%d from %d in %d" % (len(sent), sender, window)
            sent.append((1 - sender, agents[sender].send(agents[1 - sender].did, plaintext).envelope))
            inbox[1 - sender].append(plaintext)
        copies = sent * 3
        rng.shuffle(copies)
        opened: set[bytes] = set()
        for receiver, envelope in copies:
            if envelope in opened:
                refuse(agents[receiver], envelope, DuplicateMessage)
                continue
            opened.add(envelope)
            inbox[receiver].remove(delivered(agents[receiver], envelope))
        for late_receiver, envelope in rng.sample(sent, 1):
            refuse(agents[late_receiver], envelope, DuplicateMessage)
    assert inbox == ([], [])


def test_three_hundred_messages_arrive_through_twenty_forgeries_each() -> None:
    pair = established_pair()
    rng = random.Random(3)
    agents = (pair.alice, pair.bob)
    for number in range(300):
        sender, receiver = rng.sample(agents, 2)
        plaintext = b"genuine %d" % number
        envelope = sender.send(receiver.did, plaintext).envelope
        before = receiver.export_state()
        for attempt in range(20):
            forged = bytearray(envelope)
            for _ in range(1 + attempt % 3):
                forged[rng.randrange(len(forged))] ^= rng.randrange(1, 256)
            if bytes(forged) != envelope:
                refuse_somehow(receiver, bytes(forged))
        assert receiver.export_state() == before
        assert delivered(receiver, envelope) == plaintext


def test_late_messages_survive_forgeries_of_each_of_their_headers() -> None:
    pair = established_pair()
    late = [pair.alice.send(pair.bob.did, b"late %d" % number).envelope for number in range(30)]
    assert delivered(pair.bob, pair.alice.send(pair.bob.did, b"overtook them all").envelope) == b"overtook them all"
    for envelope in late:
        outer = OuterEnvelope.parse(envelope)
        for end in (100, 132, len(outer.body) - 1):  # from the commitment, the tag or the last byte on, other bytes
            forged = outer.body[:end] + bytes(byte ^ 0x55 for byte in outer.body[end:])
            refuse(pair.bob, build(outer.header_bytes, forged), DecryptionFailed)
    assert [delivered(pair.bob, envelope) for envelope in late] == [b"late %d" % number for number in range(30)]


def test_ten_thousand_forgeries_leave_memory_flat() -> None:
    pair = established_pair()
    held = [pair.alice.send(pair.bob.did, b"held back %d" % number).envelope for number in range(200)]
    outer = OuterEnvelope.parse(held[-1])
    rng = random.Random(5)

    def flood(times: int) -> None:
        for number in range(times):
            if number % 20:  # a random header derives nothing
                body = outer.body[:16] + rng.randbytes(len(outer.body) - 16)
            else:  # a copied one derives, and stores nothing
                body = outer.body[:-8] + rng.randbytes(8)
            with pytest.raises(DecryptionFailed):
                pair.bob.receive(build(outer.header_bytes, body))

    before = pair.bob.export_state()
    flood(500)
    tracemalloc.start()
    try:
        start, _ = tracemalloc.get_traced_memory()
        flood(4500)
        gc.collect()
        end, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    flood(5000)
    assert end - start < 32_768
    assert peak - start < 262_144
    assert pair.bob.export_state() == before
    assert [delivered(pair.bob, envelope) for envelope in held] == [b"held back %d" % number for number in range(200)]


# --- before the ACCEPT -----------------------------------------------------------------------------------------------


def knocked_and_accepted(seed: int = 0, conditions: Conditions = UNLIMITED) -> tuple[Pair, bytes]:
    pair = agent_pair(seed)
    bundle = pair.bob.publish_bundles(1).one_time[0]
    [event] = pair.bob.receive(pair.alice.knock(pair.bob.did, bundle, Intent("test")))
    return pair, pair.bob.accept(event, conditions).envelope  # type: ignore[arg-type]


def test_a_message_that_overtakes_the_accept_waits_outside() -> None:
    pair, accept = knocked_and_accepted()
    early = [pair.bob.send(pair.alice.did, b"%d" % number).envelope for number in range(3)]
    for envelope in reversed(early):
        refuse(pair.alice, envelope, NotYet)
        refuse(pair.alice, envelope, NotYet)
    # A forged one is refused for good, unless it copies a genuine header: that much nobody can tell yet.
    outer = OuterEnvelope.parse(early[0])
    refuse(pair.alice, build(outer.header_bytes, outer.body[:16] + os.urandom(200)), DecryptionFailed)
    refuse(pair.alice, build(outer.header_bytes, flipped_at(outer.body, 60)), DecryptionFailed)
    refuse(pair.alice, build(outer.header_bytes, outer.body[: 16 + 100]), Malformed)
    refuse(pair.alice, build(outer.header_bytes, outer.body[:-1] + b"x"), NotYet)
    pair.alice.receive(accept)
    for number, envelope in enumerate(early):
        assert delivered(pair.alice, envelope) == b"%d" % number


@pytest.mark.parametrize(
    "plaintext", [b"", DATA + b"\x00data", close_content("", 0, 0), b"\x01", b"\x01\x00", b"\x01\x92\xc4\x00"]
)
def test_an_authentic_first_message_that_is_no_accept(plaintext: bytes) -> None:
    pair = agent_pair()
    bundle = pair.bob.publish_bundles(1).one_time[0]
    [event] = pair.bob.receive(pair.alice.knock(pair.bob.did, bundle, Intent("test")))
    assert isinstance(event, KnockReceived)
    [undecided] = pair.bob._core.state.undecided.values()
    session, _ = undecided.accept(
        pair.bob._core.state.identity, UNLIMITED, now_ms=pair.clock.now_ms, entropy=SeededEntropy("another first")
    )
    chain = session.ratchet.sending
    assert chain is not None
    header = session.facts.header(Kind.ACCEPT, pair.clock.now_ms)
    for n in (0, 1):  # in the ACCEPT's own place, and behind it
        parts = SUITE.seal(
            chain.header_key,
            # The chain's first key is gone from the session; the root gives it again.
            first_key(undecided, session) if n == 0 else SUITE.kdf_chain(chain.key)[1],
            (session.ratchet.public, 0, 0, n),
            session.facts.context(header),
            pad(plaintext),
            os.urandom(24),
        )
        refuse(pair.alice, build(header, session.facts.session_id, *parts), MessageRefused)
    pair.alice.receive(pair.bob.accept(event).envelope)
    converses(pair.alice, pair.bob)


@pytest.mark.parametrize("n", [1, 2, 900])
def test_a_genuine_accept_in_another_place_is_refused(n: int) -> None:
    pair = agent_pair()
    bundle = pair.bob.publish_bundles(1).one_time[0]
    [event] = pair.bob.receive(pair.alice.knock(pair.bob.did, bundle, Intent("test")))
    assert isinstance(event, KnockReceived)
    identity = pair.bob._core.state.identity
    [undecided] = pair.bob._core.state.undecided.values()
    session, _ = undecided.accept(identity, UNLIMITED, now_ms=pair.clock.now_ms, entropy=SeededEntropy("elsewhere"))
    facts, ratchet = session.facts, session.ratchet
    header = facts.header(Kind.ACCEPT, pair.clock.now_ms)
    content = build_accept_content(
        identity,
        UNLIMITED,
        header_bytes=header,
        th=facts.th,
        knock_receipt=facts.knock_receipt,
        ratchet_key=ratchet.public,
    )
    while ratchet.sending is not None and ratchet.sending.n < n:
        ratchet.apply_sealed(ratchet.seal(b"", b"", os.urandom(24))[2])
    parts, _, _ = ratchet.seal(pad(b"\x01", content), facts.context(header), os.urandom(24))
    refuse(pair.alice, build(header, facts.session_id, *parts), MessageRefused)
    pair.alice.receive(pair.bob.accept(event).envelope)
    converses(pair.alice, pair.bob)


def first_key(undecided: Undecided, session: Session) -> MessageKey:
    shared = SUITE.dh(session.ratchet.secret, undecided.ephemeral)
    return SUITE.kdf_chain(SUITE.kdf_root(undecided.root, shared)[1])[1]


def test_an_accept_far_ahead_is_refused_with_its_session() -> None:
    pair, accept = knocked_and_accepted()
    session = session_of(pair.bob, pair.alice)
    facts, ratchet = session.facts, session.ratchet
    chain = ratchet.sending
    assert chain is not None
    header = facts.header(Kind.ACCEPT, pair.clock.now_ms)
    parts = ratchet.suite.seal(
        chain.header_key,
        ratchet.suite.kdf_chain(chain.key)[1],
        (ratchet.public, 0, 0, 5000),
        facts.context(header),
        pad(b"\x01"),
        os.urandom(24),
    )
    before = pair.alice.export_state()
    with pytest.raises(RemoteError) as caught:
        pair.alice.receive(build(header, facts.session_id, *parts))
    assert type(caught.value) in (MessageRefused, GapTooLarge)
    assert getattr(caught.value, "session_id", facts.session_id) == facts.session_id
    assert pair.alice.export_state() == before
    pair.alice.receive(accept)
    converses(pair.alice, pair.bob)


def test_an_accept_whose_time_is_over_is_refused() -> None:
    pair, accept = knocked_and_accepted(conditions=Conditions(ttl_seconds=10))
    pair.clock.advance(seconds=10 + 300, ms=1)
    refuse(pair.alice, accept, PeerConditionBroken)
    pair.clock.advance(ms=-1)
    [event] = pair.alice.receive(accept)
    assert isinstance(event, SessionEstablished)


# --- who may be heard ------------------------------------------------------------------------------------------------


class Fickle:
    """A policy whose mind can be changed."""

    def __init__(self) -> None:
        self.answer: Any = True

    def may_knock(self, _sender: object) -> bool:
        return True

    def decide(self, _knock: object) -> Any:
        from agentmesh import Ask

        return Ask()

    def still_allowed(self, _peer: object) -> Any:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.mark.parametrize("answer", [False, None, 1, "yes", float("nan"), ValueError("policy"), KeyError("policy")])
def test_a_peer_that_is_not_allowed_any_more_is_neither_heard_nor_sent_to(answer: Any) -> None:
    policy = Fickle()
    pair = agent_pair(bob_policy=policy)
    establish(pair.alice, pair.bob)
    envelope = pair.alice.send(pair.bob.did, b"in flight").envelope
    policy.answer = answer
    refuse(pair.bob, envelope, PeerNotAllowed)
    before = pair.bob.export_state()
    with pytest.raises(PeerNotAllowed):
        pair.bob.send(pair.alice.did, b"no")
    assert pair.bob.export_state() == before
    policy.answer = True
    assert delivered(pair.bob, envelope) == b"in flight"
    converses(pair.alice, pair.bob)


# --- limits of size --------------------------------------------------------------------------------------------------


def test_a_receiver_with_smaller_limits_refuses_by_size() -> None:
    clock = ManualClock()
    small = Limits(plaintext_max_bytes=2000, envelope_max_bytes=20_000, intent_detail_max_bytes=100, capabilities_max=4)
    alice = Agent.create("example/test", clock=clock, entropy=SeededEntropy("a"))
    bob = Agent.create("example/test", clock=clock, entropy=SeededEntropy("b"), limits=small)
    establish(alice, bob)
    assert len(delivered(bob, alice.send(bob.did, b"x" * 2000).envelope)) == 2000
    refuse(bob, alice.send(bob.did, b"x" * 20_000).envelope, TooLarge)
    refuse(bob, alice.send(bob.did, b"x" * 2001).envelope, TooLarge)
    assert delivered(bob, alice.send(bob.did, b"on it goes").envelope) == b"on it goes"


@given(st.lists(st.tuples(st.integers(0, 7), st.binary(min_size=1, max_size=40)), min_size=1, max_size=6))
@settings(max_examples=max(1, settings().max_examples // 2))
def test_any_rewriting_of_the_body_is_refused(edits: list[tuple[int, bytes]]) -> None:
    pair = WELL_KNOWN
    envelope = GENUINE
    outer = OuterEnvelope.parse(envelope)
    body = bytearray(outer.body)
    for where, what in edits:
        at = 16 + where * (len(body) - 16) // 8
        body[at : at + len(what)] = what
    if bytes(body) != outer.body:
        refuse(pair.bob, build(outer.header_bytes, bytes(body)), DecryptionFailed)


WELL_KNOWN = established_pair(77)
GENUINE = WELL_KNOWN.alice.send(WELL_KNOWN.bob.did, b"genuine").envelope


def test_messages_after_a_close_that_still_waits_are_refused() -> None:
    pair = established_pair()
    alice, bob = pair.alice, pair.bob
    held = [alice.send(bob.did, b"held back").envelope for _ in range(3)]
    skipped_close = sealed_by(alice, bob, close_content("a close out of its place", 3, 0))
    announced = alice.send(bob.did, b"the fourth").envelope
    closing = sealed_by(alice, bob, close_content("", 4, 0))
    contents = (DATA + b"\x00after", close_content("", 5, 0), DATA + b"\x01\xff", b"\x07of no type", b"\x02no close")
    after = [sealed_by(alice, bob, content) for content in contents]
    refuse(bob, closing[:-1] + bytes([closing[-1] ^ 1]), DecryptionFailed)
    assert delivered(bob, announced) == b"the fourth"
    refuse(bob, skipped_close, MessageRefused)  # numbered before a message that was opened
    [event] = bob.receive(closing)
    assert isinstance(event, PeerClosed)
    assert event.missing == (range(1, 4),)
    for envelope in after:
        refuse(bob, envelope, MessageAfterClose)
    refuse(bob, skipped_close, MessageRefused)  # a second close
    refuse(bob, closing, DuplicateMessage)
    for envelope in held[:2]:
        assert delivered(bob, envelope) == b"held back"
    [last, over] = bob.receive(held[2])
    assert isinstance(last, MessageReceived)
    assert str(over.phase) == "closed"  # type: ignore[union-attr]
    for envelope in (*held, *after, closing):
        refuse(bob, envelope, ClosedSession)
