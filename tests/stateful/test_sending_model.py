"""Which session sends (docs/protocol.md, section 7): all small schedules of two agents, exhaustively.

A schedule is a session that works, or none, and then KNOCKs of either side. Of each KNOCK any part may be lost or late,
its maker may drop it, and may have lost its state before. AGENTMESH_DEPTH above 1 makes them one KNOCK longer.
"""

from __future__ import annotations

import contextlib
import itertools
import os

import pytest

from agentmesh import Agent, Intent, KnockReceived, Limits
from agentmesh.envelope import OuterEnvelope
from agentmesh.errors import NoSession
from agentmesh.session.established import Session
from agentmesh.session.pending import Pending
from agentmesh.testing import ManualClock, Pair, SeededEntropy, agent_pair, establish

KNOCKS = 2 if int(os.environ.get("AGENTMESH_DEPTH") or "1") == 1 else 3
FATES = ("answered", "answer late", "answer lost", "answer lost, dropped", "lost", "late")
STEPS = tuple(itertools.product(("alice", "bob"), (False, True), FATES))


class Scene:
    """Two agents, and what is still under way."""

    def __init__(self, *, working: bool) -> None:
        pair: Pair = agent_pair()
        self.clock: ManualClock = pair.clock
        self.sides = {"alice": pair.alice, "bob": pair.bob}
        self.late: list[tuple[Agent, bytes]] = []
        self.losses = 0
        if working:
            establish(pair.alice, pair.bob)
            self.tell("alice", "bob")

    def held(self, name: str) -> dict[bytes, Session]:
        """The sessions that a side could receive in."""
        sessions = self.sides[name]._core.state.sessions.values()
        return {
            one.facts.session_id: one
            for one in sessions
            if isinstance(one, Session) and one.ending(self.clock.now_ms) is None
        }

    def choice(self, name: str, other: str) -> bytes | None:
        peer = self.sides[name]._core.state.peer(self.sides[other].did)
        session = None if peer is None else self.sides[name]._core.sending_session(peer, self.clock.now_ms)
        return None if session is None else session.facts.session_id

    def tell(self, *names: str) -> None:
        """Each side says something at once, in the session of its choice; it arrives where it can."""
        sent = []
        for name in names:
            [other] = set(self.sides) - {name}
            with contextlib.suppress(NoSession):
                sent.append((other, self.sides[name].send(self.sides[other].did, b"heard")))
        for other, sealed in sent:
            if session_of(sealed.envelope) in self.held(other):
                self.sides[other].receive(sealed)

    def lose_state(self, name: str) -> None:
        before = self.sides[name]
        self.losses += 1
        self.sides[name] = Agent.create(
            before.mesh,
            identity=before.identity,
            clock=self.clock,
            entropy=SeededEntropy(f"{name}/{self.losses}"),
        )

    def knock(self, name: str, fate: str) -> None:
        [other] = set(self.sides) - {name}
        knocker, peer = self.sides[name], self.sides[other]
        knock = knocker.knock(peer.did, peer.publish_bundles(1, last_resort=False).one_time[0], Intent("model"))
        earlier, self.late = self.late, []
        if fate == "late":
            self.late.append((peer, knock.envelope))
        elif fate != "lost":
            [event] = peer.receive(knock)
            assert isinstance(event, KnockReceived)
            answer = peer.accept(event).envelope
            if fate == "answered":
                knocker.receive(answer)
            elif fate == "answer late":
                self.late.append((knocker, answer))
            elif fate == "answer lost, dropped":
                knocker.drop(peer.did, knock.session_id)
        self.arrive(earlier)

    def arrive(self, envelopes: list[tuple[Agent, bytes]]) -> None:
        """What was late comes, and so does the answer to a KNOCK; an answer to whom lost its state is for nobody."""
        for agent, envelope in envelopes:
            if agent not in self.sides.values():
                continue
            [event, *_] = agent.receive(envelope)
            if isinstance(event, KnockReceived):
                envelope = agent.accept(event).envelope
            elif event.reply is not None:
                envelope = event.reply.envelope
            else:
                continue
            [knocker] = [one for one in self.sides.values() if one is not agent]
            if any(held.facts.knock_receipt == event.receipt for held in pending(knocker)):
                knocker.receive(envelope)

    def check(self) -> None:
        """No side sends where the other holds nothing, while a session that both hold and know of would do."""
        held = {name: self.held(name) for name in self.sides}
        known = [
            session_id
            for session_id in held["alice"].keys() & held["bob"].keys()
            if all(held[name][session_id].confirmed and held[name][session_id].may_send(0) for name in held)
        ]
        for session_id in held["alice"].keys() & held["bob"].keys():
            for name in held:
                assert held[name][session_id].superseded_at_ms is None, (name, "supersedes what the other holds")
        for name, other in (("alice", "bob"), ("bob", "alice")):
            chosen = self.choice(name, other)
            assert not known or chosen in held[other], (name, "sends where nobody is")


def pending(agent: Agent) -> list[Pending]:
    return [held for held in agent._core.state.sessions.values() if isinstance(held, Pending)]


def session_of(envelope: bytes) -> bytes:
    return OuterEnvelope(envelope, Limits()).body[:16]


def run(steps: tuple[tuple[str, bool, str], ...], *, working: bool, talking: bool) -> None:
    scene = Scene(working=working)
    for name, loses, fate in steps:
        scene.clock.advance(seconds=1)
        if loses:
            scene.lose_state(name)
        late = bool(scene.late)
        scene.knock(name, fate)
        scene.check()
        # A fresh KNOCK, accepted: nothing is left of what its maker has lost, but what comes only now.
        if loses and not late and fate not in ("lost", "late"):
            [other] = set(scene.sides) - {name}
            open_ones = {one for one, session in scene.held(other).items() if session.may_send(scene.clock.now_ms)}
            entered = {knock for knock, session in scene.held(other).items() if not session.confirmed}
            assert open_ones <= scene.held(name).keys() | entered, "sessions that its maker lost"
        if talking:
            scene.tell("alice", "bob")
            scene.check()
    # Silence: what is under way arrives, and each side is heard as often as it takes a turn.
    scene.arrive(scene.late)
    for _ in range(2):
        scene.tell("alice", "bob")
    scene.check()
    held = {name: scene.held(name) for name in scene.sides}
    both = [one for one in held["alice"].keys() & held["bob"].keys() if all(h[one].may_send(0) for h in held.values())]
    if both:
        chosen = {scene.choice("alice", "bob"), scene.choice("bob", "alice")}
        assert len(chosen) == 1, "they do not agree"
        assert chosen <= set(both), "they agree on what one of them does not hold"


@pytest.mark.parametrize("first", STEPS, ids=str)
def test_no_side_sends_where_nobody_is_and_both_agree(first: tuple[str, bool, str]) -> None:
    for rest in itertools.product(STEPS, repeat=KNOCKS - 1):
        for working, talking in itertools.product((False, True), repeat=2):
            try:
                run((first, *rest), working=working, talking=talking)
            except Exception as error:
                raise AssertionError((first, *rest), working, talking) from error
