"""How sessions begin, run side by side and end (sections 5.2, 6.1 and 7), whatever is lost, late or said at once."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from typing import TypeVar

import msgpack
import pytest
from attrs import frozen
from hypothesis import given, settings
from hypothesis import strategies as st

from agentmesh import (
    Agent,
    Conditions,
    Intent,
    KnockReceived,
    KnockRefused,
    Limits,
    MessageReceived,
    PeerClosed,
    Phase,
    Reason,
    SessionEstablished,
    SessionOver,
    SessionRejected,
)
from agentmesh.envelope import Header, Kind, build
from agentmesh.errors import (
    AgentMeshError,
    ClosedSession,
    DuplicateMessage,
    KnockNotPending,
    NoSession,
    NotYet,
    RemoteError,
    SessionNotOpen,
    TooManySessions,
    UnknownSession,
    VerdictUnmatched,
)
from agentmesh.events import Event
from agentmesh.handshake.verdict import UNLIMITED, build_reject_body
from agentmesh.limits import LATE_WINDOW_MS, PENDING_GRACE_MS
from agentmesh.primitives.keys import SessionId
from agentmesh.primitives.padding import pad
from agentmesh.session.established import Session
from agentmesh.testing import Pair, agent_pair, establish, established_pair

Refusal = TypeVar("Refusal", bound=AgentMeshError)
Wanted = TypeVar("Wanted")
DAY_MS = 86_400_000


def refuse(agent: Agent, envelope: bytes, error: type[Refusal]) -> Refusal:
    before = agent.export_state()
    with pytest.raises(error) as caught:
        agent.receive(envelope)
    assert type(caught.value) is error
    assert agent.export_state() == before
    return caught.value


def will_not(agent: Agent, error: type[AgentMeshError], call: Callable[[], object]) -> None:
    before = agent.export_state()
    with pytest.raises(error) as caught:
        call()
    assert type(caught.value) is error
    assert agent.export_state() == before


def one(wanted: type[Wanted], events: tuple[Event, ...]) -> Wanted:
    found = [event for event in events if isinstance(event, wanted)]
    assert len(found) == 1, events
    return found[0]


def delivered(agent: Agent, envelope: bytes) -> bytes:
    return one(MessageReceived, agent.receive(envelope)).plaintext


def phase(agent: Agent, peer: Agent, session_id: SessionId | None = None) -> Phase:
    return agent.session(peer.did, session_id).status.phase


def knock(pair: Pair, *, swapped: bool = False, **more: object) -> tuple[bytes, KnockReceived]:
    """Have Alice knock at Bob, or the other way round."""
    sender, receiver = (pair.bob, pair.alice) if swapped else (pair.alice, pair.bob)
    bundle = receiver.publish_bundles(1, last_resort=False).one_time[0]
    envelope = sender.knock(receiver.did, bundle, Intent("test"), **more).envelope  # type: ignore[arg-type]
    return envelope, one(KnockReceived, receiver.receive(envelope))


# --- closing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alice_closes", [True, False], ids=["A closes", "B closes"])
def test_a_close_is_answered_and_both_are_closed(alice_closes: bool) -> None:
    pair = established_pair(early_payload=b"early")
    closer, other = (pair.alice, pair.bob) if alice_closes else (pair.bob, pair.alice)
    for _ in range(3):
        delivered(other, closer.send(other.did, b"data").envelope)
        delivered(closer, other.send(closer.did, b"data").envelope)
    closed, over = other.receive(closer.close(other.did, "all said"))
    assert isinstance(closed, PeerClosed)
    assert isinstance(over, SessionOver)
    assert (closed.reason, closed.missing, closed.peer_opened) == ("all said", (), 3 + (not alice_closes))
    assert (over.phase, closed.reply is None) == (Phase.CLOSED, False)
    assert phase(closer, other) is Phase.ESTABLISHED
    answered, ended = closer.receive(closed.reply)  # type: ignore[arg-type]
    assert isinstance(answered, PeerClosed)
    assert isinstance(ended, SessionOver)
    assert (answered.missing, answered.peer_opened, answered.reply) == ((), 3 + alice_closes, None)
    for agent, peer in ((closer, other), (other, closer)):
        assert phase(agent, peer) is Phase.CLOSED
        will_not(agent, NoSession, lambda agent=agent, peer=peer: agent.send(peer.did, b"more").envelope)  # type: ignore[misc]
        will_not(agent, NoSession, lambda agent=agent, peer=peer: agent.close(peer.did).envelope)  # type: ignore[misc]
        assert not any(isinstance(event, SessionOver) for event in agent.poll())


def test_both_close_at_once() -> None:
    pair = established_pair()
    late = [pair.alice.send(pair.bob.did, b"late").envelope, pair.bob.send(pair.alice.did, b"late").envelope]
    closes = [pair.alice.close(pair.bob.did).envelope, pair.bob.close(pair.alice.did).envelope]
    for receiver, close, data in ((pair.bob, closes[0], late[0]), (pair.alice, closes[1], late[1])):
        event = one(PeerClosed, receiver.receive(close))
        assert (event.reply, event.missing) == (None, (range(1, 2),))
        message, over = receiver.receive(data)
        assert isinstance(message, MessageReceived)
        assert isinstance(over, SessionOver)
        assert (message.plaintext, over.phase) == (b"late", Phase.CLOSED)
        refuse(receiver, close, ClosedSession)


def test_a_close_waits_for_the_announced_count_and_for_nothing_more() -> None:
    pair = established_pair()
    held = [pair.alice.send(pair.bob.did, b"%d" % number).envelope for number in range(4)]
    assert delivered(pair.bob, held[1]) == b"1"
    closing = pair.alice.close(pair.bob.did).envelope
    event = one(PeerClosed, pair.bob.receive(closing))
    assert event.missing == (range(1, 2), range(3, 5))
    assert event.reply is not None
    assert phase(pair.bob, pair.alice) is Phase.ESTABLISHED
    assert pair.bob.session(pair.alice.did).status.closing
    refuse(pair.bob, closing, DuplicateMessage)
    refuse(pair.bob, held[1], DuplicateMessage)
    assert delivered(pair.bob, held[3]) == b"3"
    assert delivered(pair.bob, held[0]) == b"0"
    last, over = pair.bob.receive(held[2])
    assert isinstance(last, MessageReceived)
    assert isinstance(over, SessionOver)
    assert (last.plaintext, over.phase) == (b"2", Phase.CLOSED)
    status = pair.bob.session(pair.alice.did).status
    assert (status.phase, status.data_opened, status.data_sent) == (Phase.CLOSED, 4, 0)
    one(PeerClosed, pair.alice.receive(event.reply))
    assert phase(pair.alice, pair.bob) is Phase.CLOSED


def test_the_answer_travels_on_the_turn_that_came_with_the_close() -> None:
    pair = established_pair()
    delivered(pair.bob, pair.alice.send(pair.bob.did, b"question").envelope)
    delivered(pair.alice, pair.bob.send(pair.alice.did, b"answer").envelope)
    event = one(PeerClosed, pair.bob.receive(pair.alice.close(pair.bob.did)))  # Alice's turn, with nothing before it
    assert event.reply is not None
    assert one(SessionOver, pair.alice.receive(event.reply)).phase is Phase.CLOSED


def test_a_close_without_an_answer_is_truncated_after_the_window() -> None:
    pair = established_pair()
    pair.alice.close(pair.bob.did)
    assert pair.alice.next_deadline_ms == pair.clock.now_ms + LATE_WINDOW_MS + 1
    late = pair.bob.send(pair.alice.did, b"in the last instant").envelope
    spare = pair.bob.send(pair.alice.did, b"one instant later").envelope
    pair.clock.advance(ms=LATE_WINDOW_MS)
    assert not any(isinstance(event, SessionOver) for event in pair.alice.poll())
    assert delivered(pair.alice, late) == b"in the last instant"
    pair.clock.advance(ms=1)
    refuse(pair.alice, spare, ClosedSession)
    assert phase(pair.alice, pair.bob) is Phase.TRUNCATED
    assert one(SessionOver, pair.alice.poll()).phase is Phase.TRUNCATED
    refuse(pair.alice, spare, ClosedSession)
    assert not any(isinstance(event, SessionOver) for event in pair.alice.poll())


def test_counts_that_are_not_reached_within_the_window_are_truncated() -> None:
    pair = established_pair()
    held = [pair.alice.send(pair.bob.did, b"%d" % number).envelope for number in range(2)]
    event = one(PeerClosed, pair.bob.receive(pair.alice.close(pair.bob.did)))
    assert event.missing == (range(1, 3),)
    pair.clock.advance(ms=LATE_WINDOW_MS)
    assert delivered(pair.bob, held[0]) == b"0"
    pair.clock.advance(ms=1)
    refuse(pair.bob, held[1], ClosedSession)
    assert one(SessionOver, pair.bob.poll()).phase is Phase.TRUNCATED
    status = pair.bob.session(pair.alice.did).status
    assert (status.phase, status.data_opened) == (Phase.TRUNCATED, 1)
    # Alice's side had its answer: what she announced was hers to announce, and nothing of Bob's is missing.
    assert event.reply is not None
    refuse(pair.alice, event.reply.envelope, ClosedSession)
    assert one(SessionOver, pair.alice.poll()).phase is Phase.TRUNCATED


def test_a_lost_answer_truncates_one_side_alone() -> None:
    pair = established_pair()
    one(SessionOver, pair.bob.receive(pair.alice.close(pair.bob.did)))
    assert phase(pair.bob, pair.alice) is Phase.CLOSED
    pair.clock.advance(ms=LATE_WINDOW_MS + 1)
    assert one(SessionOver, pair.alice.poll()).phase is Phase.TRUNCATED


def test_closing_twice_and_sending_after_a_close() -> None:
    pair = established_pair()
    session_id = pair.alice.session(pair.bob.did).session_id
    pair.alice.close(pair.bob.did)
    pair.clock.advance(ms=1)  # a refusal that noted the time would show
    for call in (
        lambda: pair.alice.send(pair.bob.did, b"more", session_id=session_id).envelope,
        lambda: pair.alice.close(pair.bob.did, session_id=session_id).envelope,
    ):
        will_not(pair.alice, SessionNotOpen, call)
    will_not(pair.alice, NoSession, lambda: pair.alice.send(pair.bob.did, b"more").envelope)


def sealed_close(sender: Agent, receiver: Agent, data_sent: int, data_opened: int) -> bytes:
    """Return a close that says what its sender likes."""
    view = sender.session(receiver.did)
    session = sender._core.state.sessions[view.session_id]
    assert isinstance(session, Session)
    facts = session.facts
    header = facts.header(Kind.MESSAGE, sender._core.now_ms())
    plaintext = b"\x02" + msgpack.packb(["", data_sent, data_opened])
    parts, _, after = session.ratchet.seal(pad(plaintext), facts.context(header), os.urandom(24))
    session.ratchet.apply_sealed(after)
    return build(header, facts.session_id, *parts)


@pytest.mark.parametrize("data_sent", [0, 1, 2, 3, 2**32 - 1])
@pytest.mark.parametrize("data_opened", [0, 5, 2**32 - 1])
def test_counts_that_lie_hurt_the_liar_alone(data_sent: int, data_opened: int) -> None:
    pair = established_pair()
    for _ in range(2):
        delivered(pair.bob, pair.alice.send(pair.bob.did, b"data").envelope)
    event = one(PeerClosed, pair.bob.receive(sealed_close(pair.alice, pair.bob, data_sent, data_opened)))
    assert (event.missing, event.peer_opened) == ((range(3, data_sent + 1),) * (data_sent > 2), data_opened)
    assert phase(pair.bob, pair.alice) is (Phase.CLOSED if data_sent <= 2 else Phase.ESTABLISHED)
    pair.clock.advance(ms=LATE_WINDOW_MS + 1)
    overs = [over.phase for over in pair.bob.poll() if isinstance(over, SessionOver)]
    assert overs == ([] if data_sent <= 2 else [Phase.TRUNCATED])
    establish(pair.alice, pair.bob)
    assert delivered(pair.bob, pair.alice.send(pair.bob.did, b"a new session").envelope) == b"a new session"


@given(st.integers(0, 2**32))
@settings(max_examples=settings().max_examples)
def test_however_a_conversation_is_shuffled_and_closed_all_of_it_arrives(seed: int) -> None:
    rng = random.Random(seed)
    pair = established_pair(seed % 7)
    agents = (pair.alice, pair.bob)
    wires: tuple[list[bytes], list[bytes]] = ([], [])
    sent: tuple[list[bytes], list[bytes]] = ([], [])
    came: tuple[list[bytes], list[bytes]] = ([], [])
    overs: list[Phase] = []

    def take(receiver: int, envelope: bytes) -> None:
        for event in agents[receiver].receive(envelope):
            if isinstance(event, MessageReceived):
                came[receiver].append(event.plaintext)
            elif isinstance(event, SessionOver):
                overs.append(event.phase)
            if event.reply is not None:
                wires[1 - receiver].append(event.reply.envelope)

    def may_send(sender: int) -> bool:
        return agents[sender].session(agents[1 - sender].did).status.sends

    for _ in range(rng.randrange(40)):
        side = rng.randrange(2)
        if rng.random() < 0.5 and wires[side]:
            take(side, wires[side].pop(rng.randrange(len(wires[side]))))
        elif may_send(side):
            plaintext = b"%d" % len(sent[1 - side])
            wires[1 - side].append(agents[side].send(agents[1 - side].did, plaintext).envelope)
            sent[1 - side].append(plaintext)
        if rng.random() < 0.05 and may_send(side):
            wires[1 - side].append(agents[side].close(agents[1 - side].did).envelope)
    if may_send(0) and may_send(1):
        wires[1].append(agents[0].close(agents[1].did).envelope)
    lost = rng.random() < 0.3 and any(wires)
    if lost:
        victim = rng.choice([wire for wire in wires if wire])
        victim.pop(rng.randrange(len(victim)))
    while wires[0] or wires[1]:
        side = rng.choice([side for side in (0, 1) if wires[side]])
        take(side, wires[side].pop(rng.randrange(len(wires[side]))))
    if lost:
        pair.clock.advance(ms=LATE_WINDOW_MS + 1)
        for agent in agents:
            overs += [event.phase for event in agent.poll() if isinstance(event, SessionOver)]
        assert len(overs) <= 2
        assert Phase.TRUNCATED in overs
    else:
        assert overs == [Phase.CLOSED, Phase.CLOSED]
        assert [sorted(one_came) for one_came in came] == [sorted(one_sent) for one_sent in sent]
    assert all(len(set(one_came)) == len(one_came) for one_came in came)


# --- a KNOCK that nobody answers -------------------------------------------------------------------------------------


def test_a_pending_knock_ends_a_day_after_its_expiry() -> None:
    pair = agent_pair()
    _, event = knock(pair, expires_in_seconds=3600)
    accept = pair.bob.accept(event).envelope
    end_ms = pair.clock.now_ms + 3_600_000 + PENDING_GRACE_MS
    view = pair.alice.session(pair.bob.did)
    assert (view.status.phase, view.status.ends_at_ms) == (Phase.PENDING, end_ms)
    pair.clock.now_ms = end_ms + 1
    assert phase(pair.alice, pair.bob) is Phase.EXPIRED
    refuse(pair.alice, accept, ClosedSession)
    assert len(pair.alice.pending_envelopes(pair.bob.did)) <= 1
    over = one(SessionOver, pair.alice.poll())
    assert (over.phase, over.session_id) == (Phase.EXPIRED, view.session_id)
    assert pair.alice.pending_envelopes(pair.bob.did) == ()
    refuse(pair.alice, accept, ClosedSession)


def test_an_accept_in_the_last_instant() -> None:
    pair = agent_pair()
    _, event = knock(pair, expires_in_seconds=3600)
    accept = pair.bob.accept(event).envelope
    pair.clock.advance(ms=3_600_000 + PENDING_GRACE_MS)
    assert not any(isinstance(event, SessionOver) for event in pair.alice.poll())
    one(SessionEstablished, pair.alice.receive(accept))
    assert delivered(pair.bob, pair.alice.send(pair.bob.did, b"late, and well").envelope) == b"late, and well"


def test_an_undecided_knock_ends_with_its_expiry() -> None:
    pair = agent_pair()
    _, event = knock(pair, expires_in_seconds=3600)
    pair.clock.advance(ms=3_600_000)
    assert [waiting.session_id for waiting in pair.bob.pending_knocks()] == [event.session_id]
    pair.clock.advance(ms=1)
    assert pair.bob.pending_knocks() == ()
    will_not(pair.bob, KnockNotPending, lambda: pair.bob.accept(event))
    will_not(pair.bob, KnockNotPending, lambda: pair.bob.reject(event).envelope)
    over = one(SessionOver, pair.bob.poll())
    assert over.phase is Phase.EXPIRED
    will_not(pair.bob, KnockNotPending, lambda: pair.bob.accept(event))


def test_a_dropped_knock_stays_dropped() -> None:
    pair = agent_pair()
    _, event = knock(pair)
    session_id = pair.alice.session(pair.bob.did).session_id
    pair.alice.drop(pair.bob.did, session_id)
    assert pair.alice.session(pair.bob.did).status.phase is Phase.EXPIRED
    refuse(pair.alice, pair.bob.accept(event).envelope, ClosedSession)
    will_not(pair.alice, NoSession, lambda: pair.alice.drop(pair.bob.did, session_id))
    establish(pair.alice, pair.bob)
    assert delivered(pair.bob, pair.alice.send(pair.bob.did, b"anew").envelope) == b"anew"


# --- every phase, every call -----------------------------------------------------------------------------------------


@frozen
class Stage:
    """One agent with one session in one phase, and what may still arrive for it."""

    pair: Pair
    agent: Agent
    peer: Agent
    session_id: SessionId
    late: bytes  # genuine data of the peer, made before the session came into this phase
    accept: bytes | None = None
    event: KnockReceived | None = None
    reject: bytes | None = None


def staged(name: str) -> Stage:
    """Bring a session into a phase. The agent is Alice, the initiator, unless the phase is Bob's alone."""
    if name in ("pending", "rejected", "pending, expired", "dropped", "undecided", "undecided, expired"):
        return staged_before_verdict(name)
    pair = agent_pair()
    conditions = Conditions(ttl_seconds=60) if name == "expired" else UNLIMITED
    _, event = knock(pair)
    accept = pair.bob.accept(event, conditions).envelope
    pair.alice.receive(accept)
    late, spare = (pair.bob.send(pair.alice.did, b"late").envelope for _ in range(2))
    stage = Stage(pair, pair.alice, pair.bob, event.session_id, late, accept, event)
    if name == "superseded":
        from_alice = pair.alice.send(pair.bob.did, b"late").envelope
        forgetful = Agent.create(pair.alice.mesh, identity=pair.alice._core.state.identity, clock=pair.clock)
        pair.clock.advance(ms=1)
        establish(forgetful, pair.bob)
        return Stage(Pair(forgetful, pair.bob, pair.clock), pair.bob, forgetful, event.session_id, from_alice)
    if name in ("closing", "closed", "truncated"):
        close = pair.alice.close(pair.bob.did).envelope
        reply = one(PeerClosed, pair.bob.receive(close)).reply.envelope
        assert reply is not None
        if name == "closed":
            delivered(pair.alice, spare)
            delivered(pair.alice, late)
            pair.alice.receive(reply)
        elif name == "truncated":
            pair.clock.advance(ms=LATE_WINDOW_MS + 1)
            pair.alice.poll()
    elif name == "peer closed":
        delivered(pair.alice, spare)
        pair.alice.receive(pair.bob.close(pair.alice.did))
    elif name == "expired":
        pair.clock.advance(ms=60_000 + 300_001)
        pair.alice.poll()
    elif name == "ttl over":
        pass
    else:
        assert name == "established"
    return stage


def staged_before_verdict(name: str) -> Stage:
    pair = agent_pair()
    _, event = knock(pair, expires_in_seconds=3600)
    if name.startswith("undecided"):
        late = naming(event.session_id, pair.alice, pair.bob)
        if name.endswith("expired"):
            pair.clock.advance(ms=3_600_001)
            pair.bob.poll()
        return Stage(pair, pair.bob, pair.alice, event.session_id, late, None, event)
    if name == "rejected":
        reject = pair.bob.reject(event).envelope
        pair.alice.receive(reject)
        late = naming(event.session_id, pair.bob, pair.alice)
        return Stage(pair, pair.alice, pair.bob, event.session_id, late, None, event, reject)
    accept = pair.bob.accept(event).envelope
    late = pair.bob.send(pair.alice.did, b"late").envelope
    if name == "pending, expired":
        pair.clock.advance(ms=3_600_001 + PENDING_GRACE_MS)
        pair.alice.poll()
    elif name == "dropped":
        pair.alice.drop(pair.bob.did, event.session_id)
    return Stage(pair, pair.alice, pair.bob, event.session_id, late, accept, event)


def naming(session_id: SessionId, sender: Agent, recipient: Agent) -> bytes:
    """Return what is nearest to a genuine message where none can be: one that names the session."""
    header = Header(
        kind=Kind.MESSAGE, mesh=sender.mesh, sender=sender.did, recipient=recipient.did, time_ms=sender._core.now_ms()
    )
    return build(header.encode(), session_id, os.urandom(300))


CALLS: dict[str, Callable[[Stage], object]] = {
    "send": lambda stage: stage.agent.send(stage.peer.did, b"data", session_id=stage.session_id).envelope,
    "send to the peer": lambda stage: stage.agent.send(stage.peer.did, b"data").envelope,
    "seal": lambda stage: stage.agent.send(stage.peer.did, b"data", session_id=stage.session_id, disclosable=True),
    "close": lambda stage: stage.agent.close(stage.peer.did, session_id=stage.session_id).envelope,
    "drop": lambda stage: stage.agent.drop(stage.peer.did, stage.session_id),
    "accept": lambda stage: stage.agent.accept(stage.event),  # type: ignore[arg-type]
    "reject": lambda stage: stage.agent.reject(stage.event).envelope,  # type: ignore[arg-type]
    "late data": lambda stage: stage.agent.receive(stage.late),
    "the ACCEPT": lambda stage: stage.agent.receive(stage.accept),  # type: ignore[arg-type]
    "a verdict too late": lambda stage: stage.agent.receive(too_late(stage)),
}


def too_late(stage: Stage) -> bytes:
    """Return a genuine, signed REJECT of the KNOCK, whatever was said before."""
    if stage.reject is not None:
        return stage.reject
    alice, bob = stage.pair.alice, stage.pair.bob
    assert stage.event is not None
    header = Header(
        kind=Kind.REJECT, mesh=bob.mesh, sender=bob.did, recipient=alice.did, time_ms=stage.pair.clock.now_ms
    ).encode()
    body = build_reject_body(
        bob._core.state.identity, header_bytes=header, knock_receipt=stage.event.receipt, reason=Reason.POLICY
    )
    return build(header, body)


N = None
# What each call gives in each phase: an error, or nothing for what works.
TABLE: dict[str, tuple[Phase, dict[str, type[AgentMeshError] | None]]] = {
    "pending": (
        Phase.PENDING,
        {"send": NoSession, "send to the peer": NoSession, "seal": NoSession, "close": NoSession, "drop": N,
         "accept": KnockNotPending, "reject": KnockNotPending, "late data": NotYet, "the ACCEPT": N,
         "a verdict too late": N},
    ),
    "undecided": (
        Phase.UNDECIDED,
        {"send": NoSession, "send to the peer": NoSession, "seal": NoSession, "close": NoSession, "drop": NoSession,
         "accept": N, "reject": N, "late data": UnknownSession},
    ),
    "established": (
        Phase.ESTABLISHED,
        {"send": N, "send to the peer": N, "seal": N, "close": N, "drop": N, "accept": KnockNotPending,
         "reject": KnockNotPending, "late data": N, "the ACCEPT": DuplicateMessage,
         "a verdict too late": VerdictUnmatched},
    ),
    "closing": (
        Phase.ESTABLISHED,
        {"send": SessionNotOpen, "send to the peer": NoSession, "seal": SessionNotOpen, "close": SessionNotOpen,
         "drop": N, "accept": KnockNotPending, "reject": KnockNotPending, "late data": N,
         "the ACCEPT": DuplicateMessage, "a verdict too late": VerdictUnmatched},
    ),
    "peer closed": (
        Phase.ESTABLISHED,
        {"send": SessionNotOpen, "send to the peer": NoSession, "seal": SessionNotOpen, "close": SessionNotOpen,
         "drop": N, "accept": KnockNotPending, "reject": KnockNotPending, "late data": N,
         "the ACCEPT": DuplicateMessage, "a verdict too late": VerdictUnmatched},
    ),
    "superseded": (
        Phase.ESTABLISHED,
        {"send": SessionNotOpen, "send to the peer": N, "seal": SessionNotOpen, "close": N, "drop": N, "late data": N},
    ),
}  # fmt: skip
OVER: dict[str, type[AgentMeshError] | None] = {
    "send": SessionNotOpen, "send to the peer": NoSession, "seal": SessionNotOpen, "close": SessionNotOpen,
    "drop": NoSession, "accept": KnockNotPending, "reject": KnockNotPending, "late data": ClosedSession,
    "the ACCEPT": ClosedSession, "a verdict too late": VerdictUnmatched,
}  # fmt: skip
TABLE |= {
    "rejected": (Phase.REJECTED, {call: error for call, error in OVER.items() if call != "the ACCEPT"}),
    "closed": (Phase.CLOSED, OVER),
    "truncated": (Phase.TRUNCATED, OVER),
    "expired": (Phase.EXPIRED, OVER),
    "pending, expired": (Phase.EXPIRED, OVER),
    "dropped": (Phase.EXPIRED, OVER),
    "undecided, expired": (
        Phase.EXPIRED,
        {call: error for call, error in OVER.items() if call not in ("the ACCEPT", "a verdict too late")},
    ),
}


@pytest.mark.parametrize(("name", "call"), [(name, call) for name, (_, row) in TABLE.items() for call in row])
def test_every_call_in_every_phase(name: str, call: str) -> None:
    stage = staged(name)
    expected_phase, row = TABLE[name]
    assert phase(stage.agent, stage.peer, stage.session_id) is expected_phase
    error = row[call]
    if error is None:
        before = stage.agent.export_state()
        CALLS[call](stage)
        assert stage.agent.export_state() != before
    else:
        will_not(stage.agent, error, lambda: CALLS[call](stage))
        assert phase(stage.agent, stage.peer, stage.session_id) is expected_phase
    # Whatever was refused, the agent can still be knocked at and conversed with.
    stage.pair.clock.advance(ms=1)
    establish(stage.peer, stage.agent)
    assert delivered(stage.agent, stage.peer.send(stage.agent.did, b"on").envelope) == b"on"
    assert delivered(stage.peer, stage.agent.send(stage.peer.did, b"and on").envelope) == b"and on"


def test_a_session_that_nobody_has() -> None:
    pair = established_pair()
    unknown = SessionId(bytes(16))
    for call in (
        lambda: pair.alice.send(pair.bob.did, b"x", session_id=unknown).envelope,
        lambda: pair.alice.close(pair.bob.did, session_id=unknown).envelope,
        lambda: pair.alice.drop(pair.bob.did, unknown),
        lambda: pair.alice.session(pair.bob.did, unknown),
    ):
        will_not(pair.alice, NoSession, call)


# --- several sessions with a peer ------------------------------------------------------------------------------------


def test_the_session_of_the_latest_knock_sends_and_all_receive() -> None:
    pair = established_pair()
    first = pair.alice.session(pair.bob.did).session_id
    spare = pair.alice.send(pair.bob.did, b"on the first").envelope
    pair.clock.advance(ms=10)
    establish(pair.bob, pair.alice)
    second = pair.bob.session(pair.alice.did).session_id
    pair.clock.advance(ms=10)
    establish(pair.alice, pair.bob)  # not fresh: Alice holds the first
    third = pair.alice.session(pair.bob.did).session_id
    # Each prefers what it knows the other to hold: which that is shows as soon as each has been heard.
    for agent, peer in ((pair.alice, pair.bob), (pair.bob, pair.alice)):
        peer.receive(agent.send(peer.did, b"heard"))
    assert len({first, second, third}) == 3
    for agent, peer in ((pair.alice, pair.bob), (pair.bob, pair.alice)):
        assert [view.session_id for view in agent.sessions(peer.did) if view.status.sends] == [third]
        event = one(MessageReceived, peer.receive(agent.send(peer.did, b"x")))
        assert event.session_id == third
        for session_id in (first, second):
            event = one(MessageReceived, peer.receive(agent.send(peer.did, b"named", session_id=session_id)))
            assert event.session_id == session_id
    assert delivered(pair.bob, spare) == b"on the first"
    pair.bob.receive(pair.alice.close(pair.bob.did))
    assert pair.alice.session(pair.bob.did).session_id == second


@pytest.mark.parametrize("seed", range(6))
def test_both_knock_at_once_and_agree_which_session_sends(seed: int) -> None:
    pair = agent_pair(seed)
    for_alice = pair.alice.publish_bundles(1).one_time[0]
    for_bob = pair.bob.publish_bundles(1).one_time[0]
    at_bob = pair.alice.knock(pair.bob.did, for_bob, Intent("both")).envelope
    at_alice = pair.bob.knock(pair.alice.did, for_alice, Intent("both")).envelope
    accepts = [
        pair.bob.accept(one(KnockReceived, pair.bob.receive(at_bob))).envelope,
        pair.alice.accept(one(KnockReceived, pair.alice.receive(at_alice))).envelope,
    ]
    order = [(pair.alice, accepts[0]), (pair.bob, accepts[1])]
    for receiver, accept in order if seed % 2 else reversed(order):
        one(SessionEstablished, receiver.receive(accept))
    # Each sends at first where the other is known to be: in its own.
    for agent, peer in ((pair.alice, pair.bob), (pair.bob, pair.alice)):
        assert [view.status.initiated for view in agent.sessions(peer.did) if view.status.sends] == [True]
    crossing = [
        (peer, agent.send(peer.did, b"heard")) for agent, peer in ((pair.alice, pair.bob), (pair.bob, pair.alice))
    ]
    for receiver, sealed in crossing:
        receiver.receive(sealed)
    sending = [
        [view.session_id for view in agent.sessions(peer.did) if view.status.sends]
        for agent, peer in ((pair.alice, pair.bob), (pair.bob, pair.alice))
    ]
    assert sending[0] == sending[1]
    ths = {held.facts.th: held.facts.session_id for held in pair.alice._core.state.sessions.values()}  # type: ignore[union-attr]
    assert sending[0] == [ths[min(ths)]]
    for sender, receiver in ((pair.alice, pair.bob), (pair.bob, pair.alice)):
        assert delivered(receiver, sender.send(receiver.did, b"x").envelope) == b"x"


def test_five_sessions_and_no_sixth() -> None:
    pair = agent_pair()
    bundles = list(pair.bob.publish_bundles(12).one_time)
    events = []
    for _ in range(5):
        events.append(one(KnockReceived, pair.bob.receive(pair.alice.knock(pair.bob.did, bundles.pop(), Intent("t")))))
    will_not(pair.alice, TooManySessions, lambda: pair.alice.knock(pair.bob.did, bundles[-1], Intent("t")))
    # A peer that counts otherwise is told so.
    pair.alice.drop(pair.bob.did, events[0].session_id)
    sixth = one(KnockRefused, pair.bob.receive(pair.alice.knock(pair.bob.did, bundles.pop(), Intent("t"))))
    assert sixth.reason is Reason.BUSY
    rejected = one(SessionRejected, pair.alice.receive(sixth.reply))
    assert rejected.reason is Reason.BUSY
    # Roles count together, and what is over counts no more.
    pair.alice.receive(pair.bob.reject(events[1]))
    establish(pair.bob, pair.alice)
    assert len([view for view in pair.bob.sessions(pair.alice.did) if view.status.phase is Phase.UNDECIDED]) == 4


def test_a_sixth_knock_takes_the_place_of_the_oldest_whose_accept_may_never_have_come() -> None:
    pair = established_pair()
    bundles = list(pair.bob.publish_bundles(5).one_time)
    assert delivered(pair.bob, pair.alice.send(pair.bob.did, b"heard").envelope) == b"heard"
    working = pair.bob.session(pair.alice.did).session_id
    unheard = []
    for _ in range(4):
        pair.clock.advance(ms=1)
        knock = pair.alice.knock(pair.bob.did, bundles.pop(), Intent("t"))
        pair.bob.accept(one(KnockReceived, pair.bob.receive(knock)))  # and the ACCEPT is lost
        pair.alice.drop(pair.bob.did, knock.session_id)
        unheard.append(knock.session_id)
    pair.clock.advance(ms=1)
    sixth = one(KnockReceived, pair.bob.receive(pair.alice.knock(pair.bob.did, bundles.pop(), Intent("t"))))
    assert not sixth.fresh
    pair.alice.receive(pair.bob.accept(sixth))
    closing = {view.session_id for view in pair.bob.sessions(pair.alice.did) if view.status.closing}
    assert closing == {unheard[0]}
    assert pair.bob.session(pair.alice.did).session_id == working
    assert delivered(pair.alice, pair.bob.send(pair.alice.did, b"where she is").envelope) == b"where she is"


def lost_state(pair: Pair) -> Agent:
    """Return Alice as she comes back with her identity and nothing else."""
    return Agent.create(pair.alice.mesh, identity=pair.alice._core.state.identity, clock=pair.clock)


def test_a_peer_that_lost_its_state_lets_its_older_sessions_end() -> None:
    pair = established_pair()
    establish(pair.bob, pair.alice)
    begun_by_alice, begun_by_bob = (view.session_id for view in pair.bob.sessions(pair.alice.did))
    in_flight = [pair.alice.send(pair.bob.did, b"in flight", session_id=begun_by_alice).envelope for _ in range(2)]
    pair.clock.advance(ms=1)
    returned = lost_state(pair)
    establish(returned, pair.bob)
    views = {view.session_id: view.status for view in pair.bob.sessions(returned.did)}
    assert views[begun_by_alice].closing
    assert views[begun_by_bob].closing  # she accepted it before, and holds none
    assert [status.sends for status in views.values()] == [False, False, True]
    assert delivered(pair.bob, returned.send(pair.bob.did, b"new").envelope) == b"new"
    assert delivered(returned, pair.bob.send(returned.did, b"new too").envelope) == b"new too"
    pair.clock.advance(ms=LATE_WINDOW_MS)
    assert delivered(pair.bob, in_flight[0]) == b"in flight"
    pair.clock.advance(ms=1)
    refuse(pair.bob, in_flight[1], ClosedSession)
    overs = [event for event in pair.bob.poll() if isinstance(event, SessionOver)]
    assert {over.session_id for over in overs} == {begun_by_alice, begun_by_bob}
    assert {(over.phase, over.detail) for over in overs} == {(Phase.TRUNCATED, "superseded")}


def test_superseded_sessions_do_not_count_towards_five() -> None:
    pair = agent_pair()
    for _ in range(5):
        establish(pair.alice, pair.bob)
        pair.clock.advance(ms=1)
    returned = lost_state(pair)
    establish(returned, pair.bob)
    statuses = [view.status for view in pair.bob.sessions(returned.did)]
    assert [status.closing for status in statuses] == [True] * 5 + [False]
    for _ in range(4):
        pair.clock.advance(ms=1)
        establish(returned, pair.bob)
    assert len(pair.bob.sessions(returned.did)) == 10
    assert delivered(pair.bob, returned.send(pair.bob.did, b"x").envelope) == b"x"


def test_the_memory_of_endings_is_short() -> None:
    pair = established_pair(limits=Limits(ended_session_seconds=60))
    in_flight = pair.alice.send(pair.bob.did, b"in flight").envelope
    first = pair.bob.session(pair.alice.did).session_id
    pair.bob.drop(pair.alice.did, first)
    refuse(pair.bob, in_flight, ClosedSession)
    pair.clock.advance(seconds=60)
    pair.bob.poll()
    assert pair.bob.session(pair.alice.did).status.phase is Phase.TRUNCATED
    pair.clock.advance(ms=1)
    pair.bob.poll()
    will_not(pair.bob, NoSession, lambda: pair.bob.session(pair.alice.did))
    refuse(pair.bob, in_flight, UnknownSession)


def test_eight_endings_of_a_peer_are_remembered() -> None:
    pair = agent_pair()
    ids = []
    for _ in range(10):
        pair.clock.advance(ms=1)
        establish(pair.alice, pair.bob)
        ids.append(pair.bob.session(pair.alice.did).session_id)
        pair.bob.drop(pair.alice.did, ids[-1])
        pair.alice.drop(pair.bob.did, ids[-1])
    assert [view.session_id for view in pair.bob.sessions(pair.alice.did)] == ids[2:]


def test_sessions_come_oldest_first_whatever_has_ended() -> None:
    pair = agent_pair()
    ids = []
    for _ in range(3):
        pair.clock.advance(ms=1)
        establish(pair.alice, pair.bob)
        ids.append(pair.alice.session(pair.bob.did).session_id)
    pair.alice.drop(pair.bob.did, ids[0])
    assert [view.session_id for view in pair.alice.sessions(pair.bob.did)] == ids
    restored = Agent.restore(pair.alice.export_state(), clock=pair.clock)
    assert [view.session_id for view in restored.sessions(pair.bob.did)] == ids


def test_without_a_session_that_sends_the_newest_is_shown() -> None:
    pair = agent_pair()
    establish(pair.alice, pair.bob)
    old = pair.alice.session(pair.bob.did).session_id
    pair.clock.advance(ms=1)
    _, event = knock(pair)
    pair.alice.drop(pair.bob.did, old)
    view = pair.alice.session(pair.bob.did)
    assert (view.session_id, view.status.phase) == (event.session_id, Phase.PENDING)


# --- time ------------------------------------------------------------------------------------------------------------


def test_a_session_expires_with_its_time_to_live() -> None:
    pair = established_pair(conditions=Conditions(ttl_seconds=60))
    session_id = pair.alice.session(pair.bob.did).session_id
    end_ms = pair.clock.now_ms + 60_000
    pair.clock.now_ms = end_ms
    last = pair.alice.send(pair.bob.did, b"last").envelope
    pair.clock.advance(ms=1)
    will_not(pair.alice, NoSession, lambda: pair.alice.send(pair.bob.did, b"over").envelope)
    will_not(pair.alice, SessionNotOpen, lambda: pair.alice.send(pair.bob.did, b"over", session_id=session_id).envelope)
    will_not(pair.alice, SessionNotOpen, lambda: pair.alice.close(pair.bob.did, session_id=session_id).envelope)
    pair.clock.now_ms = end_ms + 300_000
    assert not any(isinstance(event, SessionOver) for agent in (pair.alice, pair.bob) for event in agent.poll())
    assert delivered(pair.bob, last) == b"last"
    pair.clock.advance(ms=1)
    for agent in (pair.alice, pair.bob):
        assert one(SessionOver, agent.poll()).phase is Phase.EXPIRED


@pytest.mark.parametrize("moment", ["pending", "established", "closing", "superseded"])
def test_the_next_deadline_is_when_poll_has_something_to_say(moment: str) -> None:
    stage = staged(moment)
    agent = stage.agent
    agent.poll()  # a low stock is told once
    for _ in range(40):
        deadline_ms = agent.next_deadline_ms
        if deadline_ms is None:
            break
        before = agent.export_state()
        if deadline_ms - 1 > stage.pair.clock.now_ms:
            stage.pair.clock.now_ms = deadline_ms - 1
            assert agent.poll() == ()
            assert agent.export_state() == before
        stage.pair.clock.now_ms = max(deadline_ms, stage.pair.clock.now_ms)
        events = agent.poll()
        assert events or agent.export_state() != before
    # What was superseded or closing is over, and forgotten.
    assert all(view.status.phase is Phase.ESTABLISHED for view in agent.sessions(stage.peer.did))


def test_a_clock_set_back_ends_nothing_early_and_revives_nothing() -> None:
    pair = established_pair()
    one(SessionOver, pair.bob.receive(pair.alice.close(pair.bob.did)))
    pair.clock.advance(ms=LATE_WINDOW_MS + 1)
    one(SessionOver, pair.alice.poll())
    pair.clock.advance(ms=-10 * DAY_MS)
    assert phase(pair.alice, pair.bob) is Phase.TRUNCATED
    assert phase(pair.bob, pair.alice) is Phase.CLOSED
    for agent in (pair.alice, pair.bob):
        agent.poll()
    with pytest.raises((NoSession, RemoteError)):
        pair.alice.send(pair.bob.did, b"x")
