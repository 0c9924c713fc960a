"""What a peer, a stranger or the relay can try against an agent in AGT's mesh: each refusal leaves it as it was.

KNOCKs are not signed there and headers are in clear. So everything up to a message that opens is a claim.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import suppress
from types import ModuleType
from typing import Any

import pytest

from agentmesh.agt.conversation import HeldFrame
from agentmesh.agt.early import PER_PEER, EarlyMessages
from agentmesh.errors import (
    AgentMeshError,
    ArgumentInvalid,
    BadPoint,
    Busy,
    ClosedSession,
    ConditionNotMet,
    DecryptionFailed,
    DuplicateMessage,
    EnvelopeReflected,
    GapTooLarge,
    InboxFull,
    KnockNotAdmitted,
    KnockNotPending,
    KnockReplayed,
    KnockUnknownBundle,
    LegacyPeer,
    Malformed,
    MessageEarly,
    NoSession,
    PeerConditionBroken,
    PeerNotAllowed,
    ReentrantCall,
    RemoteError,
    SenderMismatch,
    VerdictUnmatched,
    WrongRecipient,
)
from agentmesh.events import KnockReceived, KnockRefused, MessageReceived, SessionEstablished, SessionRejected
from agentmesh.handshake.verdict import Conditions
from agentmesh.limits import CLOCK_TOLERANCE_MS, OPEN_SESSIONS_PER_PEER, PENDING_GRACE_MS, Limits
from agentmesh.policy import Ask, Deny, Grant
from agentmesh.primitives.keys import Receipt

OTHER = bytes(31) + b"o"


@pytest.fixture
def scene(agt_mesh: ModuleType) -> Any:
    return agt_mesh.Scene()


def refuses(agt_mesh: ModuleType, scene: Any, frame: Any, *errors: type[AgentMeshError]) -> None:
    before = agt_mesh.look(scene.bob)
    with pytest.raises(errors):
        scene.bob.receive(agt_mesh.text(frame))
    assert agt_mesh.look(scene.bob) == before


# --- before the KNOCK -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lives", [False, True])
def test_a_message_before_its_knock_is_held_though_another_session_lives(
    scene: Any, agt_mesh: ModuleType, lives: bool
) -> None:
    if lives:
        scene.meet()
    knock = scene.knock()
    first = scene.pete.send(scene.bob.did, "first")
    with pytest.raises(MessageEarly):
        scene.bob.receive(agt_mesh.text(first))
    events = scene.bob.receive(agt_mesh.text(knock))
    assert agt_mesh.said(events) == [b"first"]
    assert len(scene.bob._core.early) == 0
    assert scene.pete.take(scene.bob.send(scene.pete.did, b"back")) == "back"


def test_early_messages_come_in_the_order_of_their_sender(scene: Any, agt_mesh: ModuleType) -> None:
    knock = scene.knock()
    frames = [scene.pete.send(scene.bob.did, str(number)) for number in range(PER_PEER)]
    for frame in reversed(frames):
        with pytest.raises(MessageEarly):
            scene.bob.receive(agt_mesh.text(frame))
    assert agt_mesh.said(scene.bob.receive(agt_mesh.text(knock))) == [str(n).encode() for n in range(PER_PEER)]


def test_an_early_message_without_room_is_not_to_be_acknowledged(
    scene: Any, agt_mesh: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So it comes again, where the relay has it."""
    knock = scene.knock()
    message = scene.pete.send(scene.bob.did, "x")
    monkeypatch.setattr("agentmesh.agt.early.IN_ALL", 0)
    refuses(agt_mesh, scene, message, Busy)
    scene.bob.receive(agt_mesh.text(knock))
    assert agt_mesh.said(scene.bob.receive(agt_mesh.text(message))) == [b"x"]


def test_what_comes_early_twice_is_held_once_and_the_oldest_makes_room(scene: Any, agt_mesh: ModuleType) -> None:
    knock = scene.knock()
    frames = [scene.pete.send(scene.bob.did, str(number)) for number in range(PER_PEER + 2)]
    for frame in (*frames[:2] * PER_PEER, *frames[2:]):
        with pytest.raises(MessageEarly):
            scene.bob.receive(agt_mesh.text(frame))
        if frame is frames[1]:
            assert len(scene.bob._core.early) == 2
    assert len(scene.bob._core.early) == PER_PEER
    handed = agt_mesh.said(scene.bob.receive(agt_mesh.text(knock)))
    assert len(handed) == PER_PEER
    for number, frame in enumerate(frames):  # what made room was not acknowledged, and comes again
        if str(number).encode() not in handed:
            assert agt_mesh.said(scene.bob.receive(agt_mesh.text(frame))) == [b"%d" % number]


def test_what_cannot_be_held_takes_nobodys_place() -> None:
    early = EarlyMessages()

    def held(size: int, number: int) -> HeldFrame:
        return HeldFrame(
            frame_id=str(number), time_ms=0, receipt=Receipt(bytes([number]) * 32), message=bytes([number]) * size
        )

    for number in range(15 * 2):  # 15 MiB of the known
        assert early.put(f"known {number // 4}", held(1 << 19, number), 0, known=True)
    for number in range(8):
        assert early.put("stranger", held(10, number), 0, known=False)
    assert early.put("another", held(10, 0), 0, known=False)
    assert not early.put("stranger", held(2 << 20, 9), 0, known=False)
    assert [len(early.of(did)) for did in ("stranger", "another")] == [8, 1]
    assert early.put("stranger", held(1 << 19, 9), 0, known=False)


def test_messages_of_two_knocks_wait_each_for_its_own(scene: Any, agt_mesh: ModuleType) -> None:
    knocks, frames = [], []
    for number in range(2):
        knocks.append(scene.knock())
        frames += [scene.pete.send(scene.bob.did, f"{number} {n}") for n in range(2)]
    for frame in frames:
        with pytest.raises(MessageEarly):
            scene.bob.receive(agt_mesh.text(frame))
    assert agt_mesh.said(scene.bob.receive(agt_mesh.text(knocks[0]))) == [b"0 0", b"0 1"]
    assert agt_mesh.said(scene.bob.receive(agt_mesh.text(knocks[1]))) == [b"1 0", b"1 1"]
    assert len(scene.bob._core.early) == 0


def test_what_cannot_begin_a_session_is_not_held(scene: Any, agt_mesh: ModuleType) -> None:
    scene.knock()
    message = scene.pete.send(scene.bob.did, "x")
    turned = {**message, "header": {**message["header"], "pn": 1}}
    refuses(agt_mesh, scene, turned, DecryptionFailed)
    refuses(agt_mesh, scene, {**message, "header": {**message["header"], "n": 101}}, GapTooLarge)


def test_early_messages_do_not_wait_for_ever(scene: Any, agt_mesh: ModuleType) -> None:
    scene.knock()
    with pytest.raises(MessageEarly):
        scene.bob.receive(agt_mesh.text(scene.pete.send(scene.bob.did, "x")))
    assert scene.bob.next_deadline_ms <= scene.clock.now_ms + 600_001
    scene.clock.advance(ms=600_001)
    scene.bob.poll()
    assert len(scene.bob._core.early) == 0


def test_a_policy_that_changes_its_mind_within_a_step_hands_up_nothing_twice(scene: Any, agt_mesh: ModuleType) -> None:
    knock = scene.knock()
    frames = [scene.pete.send(scene.bob.did, str(number)) for number in range(3)]
    for frame in frames:
        with pytest.raises(MessageEarly):
            scene.bob.receive(agt_mesh.text(frame))
    answers = iter([True, True])  # of the decision, and one more
    scene.rules.allows = lambda _peer: next(answers, False)
    refuses(agt_mesh, scene, knock, PeerNotAllowed)
    scene.rules.allows = True
    assert agt_mesh.said(scene.bob.receive(agt_mesh.text(knock))) == [b"0", b"1", b"2"]
    for frame in frames:
        refuses(agt_mesh, scene, frame, DuplicateMessage)


# --- unbounded work ---------------------------------------------------------------------------------------------------


def test_a_forged_message_costs_little_before_it_is_authentic(
    scene: Any, agt_mesh: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(OPEN_SESSIONS_PER_PEER):
        scene.meet()
    for _ in range(4):
        scene.bob.receive(agt_mesh.text(scene.knock()))
    forged = scene.pete.send(scene.bob.did, "x")
    count = agt_mesh.counting(monkeypatch, "hmac_sha256", "x25519")
    for n in (100, 1000, 2**32 - 1):
        with pytest.raises(RemoteError):
            scene.bob.receive(agt_mesh.text({**forged, "header": {"dh": agt_mesh.std64(OTHER), "pn": 5, "n": n}}))
        with pytest.raises(RemoteError):
            scene.bob.receive(agt_mesh.text({**forged, "header": {"dh": agt_mesh.std64(OTHER), "pn": 0, "n": n}}))
    assert count() < 8000


@pytest.mark.parametrize("genuine", [False, True])
def test_so_do_early_ones_that_wait_for_a_knock(
    scene: Any, agt_mesh: ModuleType, monkeypatch: pytest.MonkeyPatch, genuine: bool
) -> None:
    for _ in range(OPEN_SESSIONS_PER_PEER):
        scene.meet()
    forged = scene.pete.send(scene.bob.did, "x")
    knock = scene.knock()
    if genuine:
        with pytest.raises(MessageEarly):
            scene.bob.receive(agt_mesh.text(scene.pete.send(scene.bob.did, "genuine")))
    for number in range(PER_PEER - genuine):
        key = agt_mesh.public_of(bytes(31) + bytes([number + 1]))
        with pytest.raises(RemoteError):
            scene.bob.receive(agt_mesh.text({**forged, "header": {"dh": agt_mesh.std64(key), "pn": 0, "n": 100}}))
    count = agt_mesh.counting(monkeypatch, "hmac_sha256", "x25519")
    assert agt_mesh.said(scene.bob.receive(agt_mesh.text(knock))) == [b"genuine"] * genuine
    assert count() < (50 if genuine else 4500)


# --- who fills what ---------------------------------------------------------------------------------------------------


def test_one_peer_cannot_fill_the_room_of_those_who_wait(scene: Any, agt_mesh: ModuleType) -> None:
    scene.ask()
    for _ in range(OPEN_SESSIONS_PER_PEER):
        [event] = scene.meet()
        assert isinstance(event, KnockReceived)
    [event] = scene.meet()
    assert isinstance(event, KnockRefused)
    [event] = scene.meet(agt_mesh.Peer(OTHER))
    assert isinstance(event, KnockReceived)


def test_what_waits_for_the_application_is_bounded_in_all(agt_mesh: ModuleType) -> None:
    scene = agt_mesh.Scene(Limits(inbox_max_bytes=3000))
    scene.ask()
    [event] = scene.meet(data="x" * 1500)
    refuses(agt_mesh, scene, scene.pete.send(scene.bob.did, "x" * 1500), Busy)
    [refused] = scene.meet(agt_mesh.Peer(OTHER), "x" * 1500)
    assert isinstance(refused, KnockRefused)
    assert agt_mesh.said(scene.bob.accept(event)) == [b"x" * 1500]


def test_unproved_knocks_of_a_peer_make_room_for_its_own(scene: Any, agt_mesh: ModuleType) -> None:
    knocks = [scene.knock() for _ in range(6)]
    for knock in knocks:
        scene.bob.receive(agt_mesh.text(knock))
    assert len(scene.bob._core.state.candidates()) == 4
    assert agt_mesh.said(scene.bob.receive(agt_mesh.text(scene.pete.send(scene.bob.did, "last")))) == [b"last"]


def test_a_flood_of_strangers_knocks_leaves_those_of_the_known(agt_mesh: ModuleType) -> None:
    scene = agt_mesh.Scene(Limits(undecided_knocks=8))
    scene.rules.knows = lambda key: key == scene.pete.raw
    scene.bob.receive(agt_mesh.text(scene.knock()))
    for number in range(12):
        stranger = agt_mesh.Peer(bytes(31) + bytes([number]))
        scene.bob.receive(agt_mesh.text(scene.knock(stranger)))
    assert len(scene.bob._core.state.candidates()) == 8
    assert agt_mesh.said(scene.bob.receive(agt_mesh.text(scene.pete.send(scene.bob.did, "in")))) == [b"in"]


def test_knocks_in_one_name_are_rationed_and_those_in_another_are_not(agt_mesh: ModuleType) -> None:
    scene = agt_mesh.Scene(Limits(knocks_per_identity=5))
    scene.publish(scene.bob, one_time=0)
    for _ in range(5):
        scene.bob.receive(agt_mesh.text(scene.knock()))
    knock = scene.knock()
    refuses(agt_mesh, scene, knock, Busy)
    scene.bob.receive(agt_mesh.text(scene.knock(agt_mesh.Peer(OTHER))))
    scene.clock.advance(seconds=1)
    scene.bob.receive(agt_mesh.text(knock))
    assert agt_mesh.said(scene.bob.receive(agt_mesh.text(scene.pete.send(scene.bob.did, "in")))) == [b"in"]


def test_a_knock_that_is_refused_charges_nobody(scene: Any, agt_mesh: ModuleType) -> None:
    knock = scene.knock()
    small = {**knock, "establishment": {**knock["establishment"], "ek": agt_mesh.std64(bytes(32))}}
    for _ in range(60):
        refuses(agt_mesh, scene, small, BadPoint)
    scene.bob.receive(agt_mesh.text(knock))


# --- what a session must give -----------------------------------------------------------------------------------------


def test_a_session_that_gives_too_little_does_not_lock_its_peer_out(scene: Any, agt_mesh: ModuleType) -> None:
    scene.publish(scene.bob, one_time=0)
    scene.meet()  # without a one-time prekey
    scene.rules.converses = lambda _peer, guarantees: bool(guarantees)
    refuses(agt_mesh, scene, scene.pete.send(scene.bob.did, "old"), PeerNotAllowed)
    with pytest.raises(PeerNotAllowed):
        scene.bob.send(scene.pete.did, b"x")
    scene.publish(scene.bob)
    assert agt_mesh.said(scene.meet(data="new")) == [b"new"]
    assert scene.pete.take(scene.bob.send(scene.pete.did, b"back")) == "back"


def test_a_blocked_peer_is_not_heard_nor_held(scene: Any, agt_mesh: ModuleType) -> None:
    scene.meet()
    message = scene.pete.send(scene.bob.did, "x")
    scene.rules.allows = False
    refuses(agt_mesh, scene, message, PeerNotAllowed)
    forged = {**message, "header": {**message["header"], "dh": agt_mesh.std64(OTHER)}}
    refuses(agt_mesh, scene, forged, PeerNotAllowed)
    # A KNOCK is a candidate, and nothing is opened under it.
    assert scene.bob.receive(agt_mesh.text(scene.knock())) == ()
    refuses(agt_mesh, scene, scene.pete.send(scene.bob.did, "may I?"), PeerNotAllowed)
    assert len(scene.bob.sessions(scene.pete.did)) == 1
    scene.rules.allows = True
    assert agt_mesh.said(scene.bob.receive(agt_mesh.text(message))) == [b"x"]


def test_what_waits_of_a_peer_that_is_blocked_then_grows_no_more(scene: Any, agt_mesh: ModuleType) -> None:
    scene.ask()
    [event] = scene.meet()
    scene.rules.allows = False
    refuses(agt_mesh, scene, scene.pete.send(scene.bob.did, "x"), PeerNotAllowed)
    before = agt_mesh.look(scene.bob)
    with pytest.raises(PeerNotAllowed):
        scene.bob.accept(event)
    assert agt_mesh.look(scene.bob) == before
    scene.rules.allows = True
    assert agt_mesh.said(scene.bob.accept(event)) == [b"hello"]


# --- conditions -------------------------------------------------------------------------------------------------------


def test_actions_that_no_message_here_can_carry_are_not_granted(scene: Any, agt_mesh: ModuleType) -> None:
    scene.rules.decides = Grant(Conditions(allowed_actions=("read",)))
    [event] = scene.meet()
    assert isinstance(event, KnockRefused)
    scene.ask()
    [event] = scene.meet()
    before = agt_mesh.look(scene.bob)
    with pytest.raises(ArgumentInvalid):
        scene.bob.accept(event, Conditions(allowed_actions=("read",)))
    assert agt_mesh.look(scene.bob) == before
    scene.bob.accept(event, Conditions(allowed_actions=("read", "establish_session")))
    assert scene.pete.take(scene.bob.send(scene.pete.did, b"x")) == "x"


def test_a_limit_on_messages_holds_from_the_first_one_on(scene: Any, agt_mesh: ModuleType) -> None:
    scene.rules.decides = Grant(Conditions(max_messages=2))
    scene.meet()
    scene.bob.receive(agt_mesh.text(scene.pete.send(scene.bob.did, "2")))
    refuses(agt_mesh, scene, scene.pete.send(scene.bob.did, "3"), PeerConditionBroken)
    scene.bob.send(scene.pete.did, b"1")
    scene.bob.send(scene.pete.did, b"2")
    with pytest.raises(ConditionNotMet):
        scene.bob.send(scene.pete.did, b"3")


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("what", ["payload", "messages"])
def test_a_first_message_that_is_refused_begins_nothing(
    scene: Any, agt_mesh: ModuleType, early: bool, what: str
) -> None:
    scene.rules.decides = Grant(Conditions(max_messages=0)) if what == "messages" else Grant()
    knock = scene.knock()
    first = scene.pete.send(scene.bob.did, "x", raw=b'"half' if what == "payload" else None)
    frames = [first, knock] if early else [knock, first]
    events: list[Any] = []
    for frame in frames:
        with suppress(MessageEarly, Malformed, PeerConditionBroken):
            events += scene.bob.receive(agt_mesh.text(frame))
    assert events == []
    assert scene.bob.sessions(scene.pete.did) == ()
    assert len(scene.bob._core.state.candidates()) == 1
    if what == "payload":
        assert agt_mesh.said(scene.bob.receive(agt_mesh.text(scene.pete.send(scene.bob.did, "well")))) == [b"well"]
        assert scene.pete.take(scene.bob.send(scene.pete.did, b"x")) == "x"


def test_a_session_that_can_be_sent_on_is_found_behind_one_that_is_over(scene: Any, agt_mesh: ModuleType) -> None:
    scene.meet()
    old = scene.pete.sessions[scene.bob.did]
    scene.rules.decides = Grant(Conditions(ttl_seconds=60))
    scene.meet()
    scene.clock.advance(seconds=61)
    sealed = scene.bob.send(scene.pete.did, b"x")
    scene.pete.sessions[scene.bob.did] = old
    assert scene.pete.take(sealed) == "x"


def test_a_session_is_over_though_nobody_polls(scene: Any, agt_mesh: ModuleType) -> None:
    scene.rules.decides = Grant(Conditions(ttl_seconds=60))
    scene.meet()
    scene.clock.advance(ms=60_000 + CLOCK_TOLERANCE_MS + 1)
    refuses(agt_mesh, scene, scene.pete.send(scene.bob.did, "late"), ClosedSession)


def test_a_knock_cannot_be_decided_once_it_has_expired(scene: Any) -> None:
    scene.ask()
    [event] = scene.meet()
    scene.clock.now_ms = event.expires_ms + 1
    with pytest.raises(KnockNotPending):
        scene.bob.accept(event)
    with pytest.raises(KnockNotPending):
        scene.bob.reject(event)


# --- replays ----------------------------------------------------------------------------------------------------------


def under_another_name(knock: dict[str, Any]) -> dict[str, Any]:
    """A KNOCK with the point of order two added to its ephemeral key: u becomes 1/u, and X25519 answers alike."""
    establishment = knock["establishment"]
    field = 2**255 - 19
    turned = pow(int.from_bytes(base64.b64decode(establishment["ek"]), "little"), -1, field).to_bytes(32, "little")
    return {**knock, "establishment": {**establishment, "ek": base64.b64encode(turned).decode()}}


def test_a_knock_under_another_name_is_none(scene: Any, agt_mesh: ModuleType) -> None:
    scene.publish(scene.bob, one_time=0)
    scene.rules.decides = Ask()
    knock = scene.knock()
    refuses(agt_mesh, scene, under_another_name(knock), BadPoint)
    scene.bob.receive(agt_mesh.text(knock))
    first = scene.pete.send(scene.bob.did, "pay once")
    scene.bob.receive(agt_mesh.text(first))
    refuses(agt_mesh, scene, under_another_name(knock), BadPoint)
    assert len(scene.bob.pending_knocks()) == 1


@pytest.mark.parametrize("one_time", [0, 20])
@pytest.mark.parametrize("decision", ["grant", "deny", "ask"])
@pytest.mark.parametrize("then", ["nothing", "restart", "rotate", "drop", "replace", "rotate twice"])
def test_a_replayed_knock_and_its_first_message_do_nothing_again(
    scene: Any, agt_mesh: ModuleType, one_time: int, decision: str, then: str
) -> None:
    scene.publish(scene.bob, one_time=one_time)
    scene.rules.decides = {"grant": Grant(), "deny": Deny(), "ask": Ask()}[decision]
    knock = scene.knock()
    first = scene.pete.send(scene.bob.did, "pay once")
    scene.bob.receive(agt_mesh.text(knock))
    [event, *_] = scene.bob.receive(agt_mesh.text(first))
    if decision == "ask":
        scene.bob.accept(event)
    sessions = scene.bob.sessions(scene.pete.did)
    if then.startswith("rotate"):
        for _ in range(1 + then.endswith("twice")):
            scene.publish(scene.bob, one_time=one_time, rotate=True)
    elif then == "drop" and sessions:
        scene.bob.drop(scene.pete.did, sessions[0].session_id)
    elif then == "replace":
        for _ in range(OPEN_SESSIONS_PER_PEER):
            scene.meet()
    if then != "nothing":
        scene.restart()
    asked = len(scene.rules.requests)
    turned = under_another_name(knock)
    replays = [knock, first, turned, first, knock, turned, first]
    handed: list[Any] = []
    for frame in replays:
        with suppress(RemoteError):
            handed += scene.bob.receive(agt_mesh.text(frame))
    assert handed == []
    assert len(scene.rules.requests) == asked


def test_a_duplicate_of_a_chain_that_is_long_past_awaits_no_knock(scene: Any, agt_mesh: ModuleType) -> None:
    scene.bob.receive(agt_mesh.text(scene.knock()))
    first = scene.pete.send(scene.bob.did, "first")
    scene.bob.receive(agt_mesh.text(first))
    for _ in range(8):
        scene.pete.take(scene.bob.send(scene.pete.did, b"x"))
        scene.bob.receive(agt_mesh.text(scene.pete.send(scene.bob.did, "x")))
    refuses(agt_mesh, scene, first, DuplicateMessage)
    scene.restart()
    refuses(agt_mesh, scene, first, DuplicateMessage)


def test_two_knocks_on_one_one_time_prekey(scene: Any, agt_mesh: ModuleType) -> None:
    answer = scene.registry.answer(scene.bob.did)
    peers = [scene.pete, agt_mesh.Peer(OTHER)]
    for peer in peers:
        scene.bob.receive(agt_mesh.text(peer.knock(scene.bob.did, answer)))
    messages = [peer.send(scene.bob.did, "x") for peer in peers]
    assert agt_mesh.said(scene.bob.receive(agt_mesh.text(messages[0]))) == [b"x"]
    with pytest.raises(MessageEarly):
        scene.bob.receive(agt_mesh.text(messages[1]))
    refuses(agt_mesh, scene, peers[1].knock(scene.bob.did, answer), KnockUnknownBundle)
    assert scene.bob.sessions(peers[1].did) == ()
    assert scene.bob._core.state.candidates() == []


def test_forged_knocks_on_each_prekey_use_up_none(scene: Any, agt_mesh: ModuleType) -> None:
    unused = scene.bob._core.state.unused
    for number in range(20):
        stranger = agt_mesh.Peer(bytes(31) + bytes([number]))
        knock = scene.knock(stranger) if number == 0 else stranger.frame(
            "knock",
            scene.bob.did,
            establishment={"ik": agt_mesh.std64(stranger.dh), "ek": agt_mesh.std64(stranger.dh), "otk": number},
        )  # fmt: skip
        scene.bob.receive(agt_mesh.text(knock))
    assert scene.bob._core.state.unused == unused
    scene.publish(scene.bob)
    assert agt_mesh.said(scene.meet()) == [b"hello"]


# --- whose KNOCK it is ------------------------------------------------------------------------------------------------


def test_a_knock_with_the_key_of_another_is_refused(scene: Any, agt_mesh: ModuleType) -> None:
    mallory, knock = agt_mesh.Peer(OTHER), scene.knock()
    refuses(agt_mesh, scene, {**knock, "from": mallory.did}, SenderMismatch)
    for key in (mallory.dh, agt_mesh.public_of(bytes(31) + b"q")):
        wrong = {**knock["establishment"], "ik": agt_mesh.std64(key)}
        refuses(agt_mesh, scene, {**knock, "establishment": wrong}, SenderMismatch)
    for point in (bytes(32), b"\x01" + bytes(31)):
        wrong = {**knock["establishment"], "ik": agt_mesh.std64(point)}
        refuses(agt_mesh, scene, {**knock, "establishment": wrong}, SenderMismatch)
        wrong = {**knock["establishment"], "ek": agt_mesh.std64(point)}
        refuses(agt_mesh, scene, {**knock, "establishment": wrong}, BadPoint)
    refuses(agt_mesh, scene, {**knock, "to": mallory.did}, WrongRecipient)
    refuses(agt_mesh, scene, {**knock, "from": scene.bob.did}, EnvelopeReflected)
    otk = {**knock["establishment"], "otk": 4000}
    refuses(agt_mesh, scene, {**knock, "establishment": otk}, KnockUnknownBundle)
    for otk_id in (-1, 2**32, True, 0.0, "0", [0]):
        otk = {**knock["establishment"], "otk": otk_id}
        refuses(agt_mesh, scene, {**knock, "establishment": otk}, Malformed)
    scene.rules.admits = False
    refuses(agt_mesh, scene, knock, KnockNotAdmitted)
    scene.rules.admits = True
    scene.bob.receive(agt_mesh.text(knock))
    refuses(agt_mesh, scene, knock, KnockReplayed)


def test_a_forged_knock_replaces_no_session(scene: Any, agt_mesh: ModuleType) -> None:
    scene.meet()
    live = scene.pete.sessions[scene.bob.did]
    for _ in range(6):
        scene.bob.receive(agt_mesh.text(scene.knock()))
        scene.pete.sessions[scene.bob.did] = live
    assert agt_mesh.said(scene.bob.receive(agt_mesh.text(scene.pete.send(scene.bob.did, "on")))) == [b"on"]
    assert scene.pete.take(scene.bob.send(scene.pete.did, b"on")) == "on"


# --- forged messages --------------------------------------------------------------------------------------------------


def altered(agt_mesh: ModuleType, message: Any) -> Iterator[Any]:
    header, sealed = message["header"], agt_mesh.un64(message["ciphertext"])
    yield {**message, "ciphertext": agt_mesh.std64(bytes([sealed[0] ^ 1]) + sealed[1:])}
    yield {**message, "ciphertext": agt_mesh.std64(sealed[:-1] + bytes([sealed[-1] ^ 1]))}
    yield {**message, "ciphertext": agt_mesh.std64(sealed[:28])}
    for number in (1, 2, 99, 100, 101, 1000, 1001, 2**31, 2**32 - 2, 2**32 - 1):
        yield {**message, "header": {**header, "n": header["n"] + number & 2**32 - 1}}
        yield {**message, "header": {**header, "pn": header["pn"] + number & 2**32 - 1}}
    for key in (OTHER, bytes(32), b"\x01" + bytes(31), agt_mesh.public_of(OTHER)):
        yield {**message, "header": {**header, "dh": agt_mesh.std64(key)}}


@pytest.mark.parametrize("turn", [False, True])
def test_forgeries_leave_a_session_as_it_was(scene: Any, agt_mesh: ModuleType, turn: bool) -> None:
    scene.meet()
    if turn:
        scene.pete.take(scene.bob.send(scene.pete.did, b"x"))
    message = scene.pete.send(scene.bob.did, "genuine")
    before = scene.bob.export_state()
    for forged in altered(agt_mesh, message):
        with pytest.raises(RemoteError):
            scene.bob.receive(agt_mesh.text(forged))
        assert scene.bob.export_state() == before
    assert agt_mesh.said(scene.bob.receive(agt_mesh.text(message))) == [b"genuine"]
    refuses(agt_mesh, scene, message, DuplicateMessage)


def test_a_message_that_is_no_payload_leaves_its_session_as_it_was(scene: Any, agt_mesh: ModuleType) -> None:
    scene.meet()
    for raw in (b'"half', b"\xff", b'{"raw_b64":"A"}'):
        refuses(agt_mesh, scene, scene.pete.send(scene.bob.did, "", raw=raw), Malformed)
    assert agt_mesh.said(scene.bob.receive(agt_mesh.text(scene.pete.send(scene.bob.did, "well")))) == [b"well"]
    assert scene.pete.take(scene.bob.send(scene.pete.did, b"x")) == "x"


def test_messages_of_another_are_not_taken_for_the_peers(scene: Any, agt_mesh: ModuleType) -> None:
    mallory = agt_mesh.Peer(OTHER)
    scene.meet()
    scene.meet(mallory)
    message = mallory.send(scene.bob.did, "x")
    before = scene.bob.export_state()
    with pytest.raises((MessageEarly, DecryptionFailed)):
        scene.bob.receive(agt_mesh.text({**message, "from": scene.pete.did}))
    assert scene.bob.export_state() == before
    assert agt_mesh.said(scene.bob.receive(agt_mesh.text(message))) == [b"x"]


def test_verdicts_are_nobodys_word(scene: Any, agt_mesh: ModuleType) -> None:
    scene.rules.converses = True
    knock = scene.bob.knock(scene.pete.did, scene.pete.bundle())
    mallory = agt_mesh.Peer(OTHER)
    for kind in ("knock_accept", "knock_reject"):
        refuses(agt_mesh, scene, mallory.frame(kind, scene.bob.did, knock_id=knock.frame_id), VerdictUnmatched)
        refuses(agt_mesh, scene, scene.pete.frame(kind, scene.bob.did, knock_id="another"), VerdictUnmatched)
    accept = scene.pete.frame("knock_accept", scene.bob.did, knock_id=knock.frame_id)
    before = agt_mesh.look(scene.bob)
    assert scene.bob.receive(agt_mesh.text(accept)) == ()
    assert agt_mesh.look(scene.bob)[0] == before[0]
    scene.pete.take(knock)
    scene.pete.take(scene.bob.send(scene.pete.did, b"x"))
    answer = scene.pete.send(scene.bob.did, "heard")
    reject = scene.pete.frame("knock_reject", scene.bob.did, knock_id=knock.frame_id)
    scene.bob.receive(agt_mesh.text(answer))
    refuses(agt_mesh, scene, reject, VerdictUnmatched)
    second = scene.bob.knock(scene.pete.did, scene.pete.bundle())
    [event] = scene.bob.receive(
        agt_mesh.text(scene.pete.frame("knock_reject", scene.bob.did, knock_id=second.frame_id))
    )
    assert isinstance(event, SessionRejected)
    assert scene.bob.send(scene.pete.did, b"on the first one")


@pytest.mark.parametrize("early", [False, True])
def test_the_old_key_agreement_is_named_and_not_spoken(scene: Any, agt_mesh: ModuleType, early: bool) -> None:
    knock = scene.knock(legacy=True)
    first = scene.pete.send(scene.bob.did, "x")
    if early:
        with pytest.raises(MessageEarly):
            scene.bob.receive(agt_mesh.text(first))
        refuses(agt_mesh, scene, knock, LegacyPeer)
    else:
        scene.bob.receive(agt_mesh.text(knock))
        refuses(agt_mesh, scene, first, LegacyPeer)
    assert scene.bob.sessions(scene.pete.did) == ()
    assert scene.rules.requests == []


def test_the_old_key_agreement_is_tried_once_for_a_knock_whatever_comes_of_it(
    scene: Any, agt_mesh: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.bob.receive(agt_mesh.text(scene.knock(legacy=True)))
    frames = [scene.pete.send(scene.bob.did, "x") for _ in range(3)]
    mallory = agt_mesh.Peer(OTHER)
    scene.bob.receive(agt_mesh.text(scene.knock(mallory)))
    message = mallory.send(scene.bob.did, "x")
    forged = [{**message, "header": {**message["header"], "dh": agt_mesh.std64(mallory.dh)}}] * 3
    for tried, error in ((frames, LegacyPeer), (forged, MessageEarly)):
        costs = []
        for frame in tried:
            with monkeypatch.context() as counted:
                count = agt_mesh.counting(counted, "x25519")
                with pytest.raises(error):
                    scene.bob.receive(agt_mesh.text(frame))
                costs.append(count())
        assert costs[0] > 4 > costs[1] == costs[2]  # it costs as much as the KNOCK itself


# --- an application that is slow, a policy that fails -----------------------------------------------------------------


def test_a_full_inbox_loses_no_message_and_no_knock(agt_mesh: ModuleType) -> None:
    scene = agt_mesh.Scene(Limits(inbox_max_events=8), reliable=True)
    knock = scene.knock()
    frames = [scene.pete.send(scene.bob.did, str(number)) for number in range(6)]
    for frame in frames[:4]:
        with pytest.raises(MessageEarly):
            scene.bob.receive(agt_mesh.text(frame))
    for _ in range(30):  # which costs its sender nothing
        # An established session, and four messages: over a quarter of eight.
        refuses(agt_mesh, scene, knock, InboxFull)
    scene.bob._core.early.drop(scene.pete.did, scene.bob._core.early.of(scene.pete.did))
    scene.bob.receive(agt_mesh.text(knock))
    handed: list[bytes] = []
    for frame in frames:
        while True:
            before = agt_mesh.look(scene.bob)
            try:
                handed += agt_mesh.said(scene.bob.receive(agt_mesh.text(frame)))
                break
            except InboxFull:
                assert agt_mesh.look(scene.bob) == before
                scene.bob.done(scene.bob.inbox()[0])
                scene.restart()
    assert handed == [str(number).encode() for number in range(6)]


class Broken(Exception):
    """What a policy raises."""


def fail(*_: Any) -> Any:
    raise Broken


@pytest.mark.parametrize("question", ["admits", "decides", "allows", "converses"])
def test_a_policy_that_fails_denies(scene: Any, agt_mesh: ModuleType, question: str) -> None:
    setattr(scene.rules, question, fail)
    knock = scene.knock()
    events: list[Any] = []
    for frame in (knock, scene.pete.send(scene.bob.did, "x")):
        with suppress(AgentMeshError):
            events += scene.bob.receive(agt_mesh.text(frame))
    assert [type(event) for event in events] in ([], [KnockRefused])
    assert scene.bob.sessions(scene.pete.did) == ()


def test_a_policy_that_calls_the_agent_is_refused(scene: Any, agt_mesh: ModuleType) -> None:
    raised: list[AgentMeshError] = []

    def call(*_: Any) -> Any:
        for attempt in (
            lambda: scene.bob.send(scene.pete.did, b"x"),
            lambda: scene.bob.receive("{}"),
            scene.bob.publish_prekeys,
            scene.bob.poll,
        ):
            with pytest.raises(ReentrantCall) as caught:
                attempt()
            raised.append(caught.value)
        assert scene.bob.sessions(scene.pete.did) == ()
        return Grant()

    scene.rules.decides = call
    [event, message] = scene.meet()
    assert isinstance(event, SessionEstablished)
    assert isinstance(message, MessageReceived)
    assert len(raised) == 4


def test_a_journal_that_fails_leaves_all_as_it_was(scene: Any, agt_mesh: ModuleType) -> None:
    knock = scene.knock()
    first = scene.pete.send(scene.bob.did, "x")
    for frame in (knock, first):
        scene.log.failing = True
        before = agt_mesh.look(scene.bob)
        for _ in range(30):
            with pytest.raises(AgentMeshError):
                scene.bob.receive(agt_mesh.text(frame))
        assert agt_mesh.look(scene.bob) == before
        scene.log.failing = False
        scene.bob.receive(agt_mesh.text(frame))
    scene.log.failing = True
    before = agt_mesh.look(scene.bob)
    with pytest.raises(AgentMeshError):
        scene.bob.send(scene.pete.did, b"lost")
    assert agt_mesh.look(scene.bob) == before


# --- time and glare ---------------------------------------------------------------------------------------------------


def test_a_knock_that_nobody_decides_is_told_when_it_is_over(agt_mesh: ModuleType) -> None:
    scene = agt_mesh.Scene(reliable=True)
    scene.ask()
    scene.meet()
    scene.clock.advance(ms=PENDING_GRACE_MS + 1)
    scene.bob.poll()
    assert scene.bob.pending_knocks() == ()
    assert not any(isinstance(event, KnockReceived) for event in scene.bob.inbox())
    scene.restart()


@pytest.mark.parametrize("first", ["alice", "bob"])
def test_both_knock_at_once_and_can_talk(scene: Any, agt_mesh: ModuleType, first: str) -> None:
    alice, bob = scene.alice, scene.bob
    frames: list[Any] = []
    for one, other in ((alice, bob), (bob, alice)) if first == "alice" else ((bob, alice), (alice, bob)):
        frames.append((other, one.knock(other.did, scene.registry.answer(other.did))))
        frames.append((other, one.send(other.did, b"at once")))
    handed: list[bytes] = []
    for to, frame in frames:
        handed += agt_mesh.said(to.receive(frame))
    assert handed == [b"at once"] * 2
    for turn in range(6):
        one, other = (alice, bob) if turn % 2 else (bob, alice)
        assert agt_mesh.said(other.receive(one.send(other.did, b"%d" % turn))) == [b"%d" % turn]


def test_a_peer_that_lost_its_state_knocks_anew(scene: Any, agt_mesh: ModuleType) -> None:
    scene.meet()
    again = agt_mesh.Peer(bytes(31) + b"p")
    assert agt_mesh.said(scene.meet(again, "again")) == [b"again"]
    assert again.take(scene.bob.send(again.did, b"x")) == "x"


def test_an_agent_that_lost_its_state_knocks_anew(scene: Any, agt_mesh: ModuleType) -> None:
    scene.meet()
    scene.bob = scene.agent("bob", policy=scene.rules)
    with pytest.raises(NoSession):
        scene.bob.send(scene.pete.did, b"x")
    scene.pete.take(scene.bob.knock(scene.pete.did, scene.pete.bundle()))
    assert scene.pete.take(scene.bob.send(scene.pete.did, b"x")) == "x"
    assert agt_mesh.said(scene.bob.receive(agt_mesh.text(scene.pete.send(scene.bob.did, "y")))) == [b"y"]


def test_however_their_messages_cross_both_agree_on_a_session_again(scene: Any, agt_mesh: ModuleType) -> None:
    """Or neither direction would ever turn: a theft of keys would not heal."""
    alice, bob = scene.alice, scene.bob
    pairs = ((alice, bob), (bob, alice))
    crossing: list[Any] = []
    for one, other in pairs:
        crossing += [
            (other, one.knock(other.did, scene.registry.answer(other.did))),
            (other, one.send(other.did, b"0")),
        ]
    for _ in range(3):
        for to, frame in crossing:
            to.receive(frame)
        crossing = [(other, one.send(other.did, b"crossing")) for one, other in pairs]
    for to, frame in crossing:
        to.receive(frame)
    keys = []
    for _ in range(6):
        for one, other in pairs:
            sealed = one.send(other.did, b"in turn")
            other.receive(sealed)
            keys.append(agt_mesh.json.loads(sealed.text)["header"]["dh"])
    assert len(set(keys)) >= 10


# --- what is over -----------------------------------------------------------------------------------------------------


def test_what_a_peer_goes_on_sending_on_what_is_over_is_refused_and_not_held(scene: Any, agt_mesh: ModuleType) -> None:
    scene.ask()
    [asked] = scene.meet()
    scene.bob.reject(asked)
    refuses(agt_mesh, scene, scene.pete.send(scene.bob.did, "still here"), ClosedSession)
    scene.rules.decides = Grant()
    scene.meet()
    [view] = scene.bob.sessions(scene.pete.did)
    scene.bob.drop(scene.pete.did, view.session_id)
    refuses(agt_mesh, scene, scene.pete.send(scene.bob.did, "and here"), ClosedSession)
    assert len(scene.bob._core.early) == 0


def test_what_is_denied_fills_half_of_the_memory_of_knocks_at_most(scene: Any, agt_mesh: ModuleType) -> None:
    most = scene.bob._core.limits.remembered_knocks
    scene.bob._core.state.known.update({number.to_bytes(16, "big"): 0 for number in range(most // 2)})
    scene.rules.decides = Deny()
    scene.publish(scene.bob, one_time=0)
    for _ in range(3):
        scene.bob.receive(agt_mesh.text(scene.knock()))
        [refused] = scene.bob.receive(agt_mesh.text(scene.pete.send(scene.bob.did, "may I?")))
        assert isinstance(refused, KnockRefused)
    assert len(scene.bob._core.state.known) == most // 2
