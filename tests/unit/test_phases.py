"""The table of phases against the agent: every phase, every happening, by calls that an application makes.

What the table names must happen; what it does not name is refused and changes nothing, or does not touch the session.
Each case starts from exported state. The envelopes are genuine: a verdict and its opposite come from two copies of the
agent that decides.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from itertools import product
from typing import NamedTuple

import pytest

from agentmesh import Agent, Conditions, Deny, Grant, Intent, KnockReceived, Phase, Policy, SessionId
from agentmesh.engine.export import restore_agent
from agentmesh.engine.rows import rows_of
from agentmesh.engine.state import RowKind
from agentmesh.errors import AgentMeshError, NoSession
from agentmesh.policy import AskApplication, Decision, KnockRequest
from agentmesh.session.phases import ENDINGS, TRANSITIONS, Happening
from agentmesh.testing import ManualClock, SeededEntropy, agent_pair

HOUR = 3600
CONDITIONS = Conditions(ttl_seconds=HOUR)
LONG_ENOUGH = 26 * HOUR  # for every deadline: a pending KNOCK of an hour waits a day more
REMEMBERED = 23 * HOUR  # the memory of an ending goes after a day
LATE_WINDOW = 601


class Decides(AskApplication):
    def __init__(self, decision: Decision) -> None:
        self._decision = decision

    def decide(self, _request: KnockRequest, /) -> Decision:
        return self._decision


class Story(NamedTuple):
    """One KNOCK from Alice to Bob, what may become of it, and both agents in every phase that they can be in."""

    states: Mapping[tuple[str, Phase | None], bytes]
    now_ms: Mapping[tuple[str, Phase | None], int]
    dids: Mapping[str, str]
    bundles: Mapping[str, bytes]  # one of each agent that nobody has used
    session_id: SessionId
    asked: KnockReceived
    knock: bytes
    accept: bytes
    reject: bytes
    closes: Mapping[str, bytes]


def restored(state: bytes, now_ms: int, policy: Policy | None = None) -> tuple[Agent, ManualClock]:
    clock = ManualClock(now_ms)
    return Agent.restore(state, clock=clock, entropy=SeededEntropy("restored"), policy=policy), clock


@cache
def story() -> Story:
    pair = agent_pair()
    alice, bob, clock = pair.alice, pair.bob, pair.clock
    bundle, spare = bob.publish_bundles(2).one_time
    bundles = {"alice": alice.publish_bundles(1).one_time[0], "bob": spare}
    states: dict[tuple[str, Phase | None], bytes] = {}
    times: dict[tuple[str, Phase | None], int] = {}

    def keep(name: str, phase: Phase | None, agent: Agent, at: ManualClock = clock) -> bytes:
        times[name, phase] = at()
        return states.setdefault((name, phase), agent.export_state())

    def copy(state: bytes) -> tuple[Agent, ManualClock]:
        return restored(state, clock())

    keep("alice", None, alice)
    keep("bob", None, bob)
    knock = alice.knock(bob.did, bundle, Intent("test"), expires_in_seconds=HOUR)
    pending = keep("alice", Phase.PENDING, alice)
    [asked] = bob.receive(knock)
    assert isinstance(asked, KnockReceived)
    undecided = keep("bob", Phase.UNDECIDED, bob)

    late, later = copy(undecided)
    later.advance(seconds=LONG_ENOUGH)
    late.poll()
    keep("bob", Phase.EXPIRED, late, later)
    refusing, _ = copy(undecided)
    reject = refusing.reject(asked)
    keep("bob", Phase.REJECTED, refusing)
    refused, _ = copy(pending)
    refused.receive(reject)
    keep("alice", Phase.REJECTED, refused)
    impatient, _ = copy(pending)
    impatient.drop(bob.did, knock.session_id)
    keep("alice", Phase.EXPIRED, impatient)

    accept = bob.accept(asked, CONDITIONS)
    alice.receive(accept)
    established = {name: keep(name, Phase.ESTABLISHED, agent) for name, agent in (("alice", alice), ("bob", bob))}
    dids = {"alice": alice.did, "bob": bob.did}
    closes = {}
    for name, other in (("alice", "bob"), ("bob", "alice")):
        ending, _ = copy(established[name])
        ending.drop(dids[other], knock.session_id)
        keep(name, Phase.TRUNCATED, ending)
        closes[name] = copy(established[name])[0].close(dids[other]).envelope
    for name, other in (("alice", "bob"), ("bob", "alice")):
        ending, _ = copy(established[name])
        ending.receive(closes[other])
        keep(name, Phase.CLOSED, ending)
    return Story(
        states, times, dids, bundles, knock.session_id, asked, knock.envelope, accept.envelope, reject.envelope, closes
    )


# --- what can be done about each happening ---------------------------------------------------------------------------


class World(NamedTuple):
    name: str
    agent: Agent
    clock: ManualClock
    story: Story

    @property
    def other(self) -> str:
        return "bob" if self.name == "alice" else "alice"

    @property
    def other_did(self) -> str:
        return self.story.dids[self.other]

    def phase(self, session_id: SessionId) -> Phase | None:
        try:
            return self.agent.session(self.other_did, session_id).status.phase
        except NoSession:
            return None

    def pass_time(self, seconds: int) -> None:
        self.clock.advance(seconds=seconds)
        self.agent.poll()

    def close(self) -> None:
        self.agent.close(self.other_did, session_id=self.story.session_id)


def knocked(world: World) -> list[Callable[[], object]]:
    bundle = world.story.bundles[world.other]
    return [lambda: world.agent.knock(world.other_did, bundle, Intent("test"))]


def asked(world: World) -> list[Callable[[], object]]:
    return [lambda: world.agent.receive(world.story.knock)]


def accepted(world: World) -> list[Callable[[], object]]:
    if world.name == "alice":
        return [lambda: world.agent.receive(world.story.accept)]
    if world.phase(world.story.session_id) is None:  # then the policy does, in the step that opens the KNOCK
        return asked(world)
    return [lambda: world.agent.accept(world.story.asked, CONDITIONS)]


def rejected(world: World) -> list[Callable[[], object]]:
    if world.name == "alice":
        return [lambda: world.agent.receive(world.story.reject)]
    return [lambda: world.agent.reject(world.story.asked)]


def dropped(world: World) -> list[Callable[[], object]]:
    return [lambda: world.agent.drop(world.other_did, world.story.session_id)]


def timed_out(world: World) -> list[Callable[[], object]]:
    is_over = world.phase(world.story.session_id) in ENDINGS
    return [lambda: world.pass_time(REMEMBERED if is_over else LONG_ENOUGH)]


def completed(world: World) -> list[Callable[[], object]]:
    return [world.close, lambda: world.agent.receive(world.story.closes[world.other])]


def cut_off(world: World) -> list[Callable[[], object]]:
    return [world.close, lambda: world.pass_time(LATE_WINDOW)]


CALLS: dict[Happening, Callable[[World], list[Callable[[], object]]]] = {
    Happening.KNOCKED: knocked,
    Happening.ASKED: asked,
    Happening.ACCEPTED: accepted,
    Happening.REJECTED: rejected,
    Happening.DROPPED: dropped,
    Happening.TIMED_OUT: timed_out,
    Happening.COMPLETED: completed,
    Happening.CUT_OFF: cut_off,
}
# Who begins as what: A knocks, B is asked or has a policy that accepts. Whoever holds no session is both.
OF_B_ALONE = {Happening.ASKED, Happening.ACCEPTED}
SUBJECTS = [(name, phase) for name in ("alice", "bob") for phase in (None, *Phase) if (name, phase) in story().states]
CASES = [
    (name, phase, happening)
    for (name, phase), happening in product(SUBJECTS, Happening)
    if phase is not None or (name == "bob") is (happening in OF_B_ALONE)
]


def session_row(agent: Agent, session_id: SessionId) -> bytes | None:
    return rows_of(restore_agent(agent.export_state(), 0)).get((RowKind.SESSION, session_id))


@pytest.mark.parametrize(("name", "phase", "happening"), CASES)
def test_what_happens_leads_where_the_table_says(name: str, phase: Phase | None, happening: Happening) -> None:
    told = story()
    policy = Decides(Grant(CONDITIONS)) if (phase, happening) == (None, Happening.ACCEPTED) else None
    agent, clock = restored(told.states[name, phase], told.now_ms[name, phase], policy)
    world = World(name, agent, clock, told)
    assert world.phase(told.session_id) is phase
    session_id = told.session_id
    is_in_table = (phase, happening) in TRANSITIONS
    for call in CALLS[happening](world):
        before, row = agent.export_state(), session_row(agent, told.session_id)
        result: object = None
        try:
            result = call()
        except AgentMeshError:
            assert agent.export_state() == before
        if happening is Happening.KNOCKED:  # a KNOCK begins a session of its own, beside any that there is
            session_id = getattr(result, "session_id", session_id) if is_in_table else session_id
            assert session_row(agent, told.session_id) == row
        elif not is_in_table:
            assert agent.export_state() == before
    assert world.phase(session_id) is TRANSITIONS.get((phase, happening), phase)


def test_every_phase_and_every_happening_is_tried() -> None:
    assert {phase for _, phase in SUBJECTS} == {None, *Phase}
    assert {(phase, happening) for _, phase, happening in CASES} == set(product((None, *Phase), Happening))


def test_a_policy_that_rejects_leaves_no_session() -> None:
    told = story()
    agent, _ = restored(told.states["bob", None], told.now_ms["bob", None], Decides(Deny()))
    agent.receive(told.knock)
    assert agent.sessions(told.dids["alice"]) == ()
    assert (None, Happening.REJECTED) not in TRANSITIONS


def test_no_ending_is_left_again() -> None:
    assert {Phase.REJECTED, Phase.CLOSED, Phase.EXPIRED, Phase.TRUNCATED} == ENDINGS
    assert not [pair for pair in TRANSITIONS if pair[0] in ENDINGS]
    assert set(TRANSITIONS.values()) == set(Phase)  # and every phase is reached


@pytest.mark.parametrize("name", ["alice", "bob"])
def test_a_verdict_that_comes_too_late_changes_nothing(name: str) -> None:
    """The session has ended by the clock, though nobody polled."""
    told = story()
    phase = Phase.PENDING if name == "alice" else Phase.UNDECIDED
    for happening in (Happening.ACCEPTED, Happening.REJECTED):
        agent, clock = restored(told.states[name, phase], told.now_ms[name, phase])
        world = World(name, agent, clock, told)
        clock.advance(seconds=LONG_ENOUGH)
        assert world.phase(told.session_id) is Phase.EXPIRED
        before = agent.export_state()
        for call in CALLS[happening](world):
            with pytest.raises(AgentMeshError):
                call()
        assert agent.export_state() == before
        agent.poll()
        assert world.phase(told.session_id) is Phase.EXPIRED
