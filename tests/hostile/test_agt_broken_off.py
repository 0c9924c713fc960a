"""A call on an agent in AGT's mesh that is broken off between any two byte codes.

As in test_broken_off.py, of a native agent: the next call finds the agent as it was before the call or as it is after
it, state and journal agree, the export can be restored, and the call made again has the effect of one. And here
besides: no frame is ever made of a key that another one was made of, because a peer's receiver loses its session over
it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from itertools import count
from types import ModuleType
from typing import Any

import pytest

from agentmesh.agt import AgtAgent
from agentmesh.agt.conversation import Candidate
from agentmesh.agt.rows import rows_of, state_of
from agentmesh.audit.record import AuditEvent
from agentmesh.errors import AgentMeshError, DuplicateMessage, KnockReplayed, MessageEarly
from agentmesh.handshake.verdict import Conditions
from agentmesh.limits import Limits
from agentmesh.policy import Deny, Grant
from agentmesh.testing import SeededEntropy

DEPTH = int(os.environ.get("AGENTMESH_DEPTH") or "1")
LIMITS = Limits(skipped_key_lifetime_seconds=6 * 3600)

Prepare = Callable[[ModuleType, Any], Callable[[Any], Any]]


def receive_message(agt_mesh: ModuleType, scene: Any) -> Callable[[Any], Any]:
    frame = agt_mesh.text(scene.pete.send(scene.bob.did, "once"))
    return lambda scene: scene.bob.receive(frame)


def receive_turn(agt_mesh: ModuleType, scene: Any) -> Callable[[Any], Any]:
    scene.pete.take(scene.bob.send(scene.pete.did, b"a turn"))
    scene.pete.send(scene.bob.did, "never comes")
    return receive_message(agt_mesh, scene)


def receive_knock(agt_mesh: ModuleType, scene: Any) -> Callable[[Any], Any]:
    frame = agt_mesh.text(scene.knock())
    return lambda scene: scene.bob.receive(frame)


def receive_knock_with_early(agt_mesh: ModuleType, scene: Any) -> Callable[[Any], Any]:
    frame = agt_mesh.text(scene.knock())
    scene.early += [agt_mesh.text(scene.pete.send(scene.bob.did, str(number))) for number in range(3)]
    return lambda scene: scene.bob.receive(frame)


def receive_first(agt_mesh: ModuleType, scene: Any) -> Callable[[Any], Any]:
    scene.bob.receive(agt_mesh.text(scene.knock()))
    return receive_message(agt_mesh, scene)


def receive_first_without_one_time(agt_mesh: ModuleType, scene: Any) -> Callable[[Any], Any]:
    scene.publish(scene.bob, one_time=0)
    return receive_first(agt_mesh, scene)


def receive_denied(agt_mesh: ModuleType, scene: Any) -> Callable[[Any], Any]:
    call = receive_first(agt_mesh, scene)
    scene.rules.decides = Deny()
    return call


def receive_asked(agt_mesh: ModuleType, scene: Any) -> Callable[[Any], Any]:
    scene.ask()
    return receive_first(agt_mesh, scene)


def receive_held(agt_mesh: ModuleType, scene: Any) -> Callable[[Any], Any]:
    receive_asked(agt_mesh, scene)(scene)
    frame = agt_mesh.text(scene.pete.send(scene.bob.did, "held"))
    return lambda scene: scene.bob.receive(frame)


def receive_early(agt_mesh: ModuleType, scene: Any) -> Callable[[Any], Any]:
    scene.knock()
    frame = agt_mesh.text(scene.pete.send(scene.bob.did, "early"))

    def call(scene: Any) -> Any:
        with pytest.raises(MessageEarly):
            scene.bob.receive(frame)

    return call


def receive_reject(agt_mesh: ModuleType, scene: Any) -> Callable[[Any], Any]:
    knock = scene.bob.knock(scene.pete.did, scene.pete.bundle())
    frame = agt_mesh.text(scene.pete.frame("knock_reject", scene.bob.did, knock_id=knock.frame_id))
    return lambda scene: scene.bob.receive(frame)


def accept(agt_mesh: ModuleType, scene: Any) -> Callable[[Any], Any]:
    receive_held(agt_mesh, scene)(scene)
    [event] = scene.bob.pending_knocks()
    return lambda scene: scene.bob.accept(event, Conditions(max_messages=9))


def reject(agt_mesh: ModuleType, scene: Any) -> Callable[[Any], Any]:
    receive_held(agt_mesh, scene)(scene)
    [event] = scene.bob.pending_knocks()
    return lambda scene: scene.bob.reject(event)


def send(_: ModuleType, scene: Any) -> Callable[[Any], Any]:
    return lambda scene: scene.bob.send(scene.pete.did, b"data")


def knock(_: ModuleType, scene: Any) -> Callable[[Any], Any]:
    bundle = scene.pete.bundle()
    return lambda scene: scene.bob.knock(scene.pete.did, bundle)


def drop(_: ModuleType, scene: Any) -> Callable[[Any], Any]:
    [view] = scene.bob.sessions(scene.pete.did)
    return lambda scene: scene.bob.drop(scene.pete.did, view.session_id)


def publish(_: ModuleType, scene: Any) -> Callable[[Any], Any]:
    scene.publish(scene.bob, one_time=0)
    scene.meet()
    scene.publish(scene.bob, one_time=2, rotate=True)
    return lambda scene: scene.bob.publish_prekeys(2, rotate=True)


def poll(agt_mesh: ModuleType, scene: Any) -> Callable[[Any], Any]:
    receive_asked(agt_mesh, scene)(scene)
    scene.rules.decides = Grant(Conditions(ttl_seconds=60))
    scene.meet()
    scene.pete.send(scene.bob.did, "lost")
    scene.bob.receive(agt_mesh.text(scene.pete.send(scene.bob.did, "behind it")))
    scene.clock.advance(seconds=40 * 86_400)
    return lambda scene: scene.bob.poll()


def done(agt_mesh: ModuleType, scene: Any) -> Callable[[Any], Any]:
    return lambda scene: scene.bob.done(scene.bob.inbox()[0]) if len(scene.bob.inbox()) == 2 else None


CALLS: dict[str, Prepare] = {
    call.__name__: call
    for call in (
        receive_message, receive_turn, receive_knock, receive_knock_with_early, receive_first,
        receive_first_without_one_time, receive_denied, receive_asked, receive_held, receive_early, receive_reject,
        accept, reject, send, knock, drop, publish, poll, done,
    )
}  # fmt: skip
ROOMS = (
    "engine/seam.py",
    "engine/guard.py",
    "engine/inbox.py",
    "engine/state.py",
    "agt/state.py",
    "agt/core.py",
    "agt/early.py",
)
STEPS = ("agt/agent.py", "agt/stage.py", "agt/conversing.py", "agt/knocking.py", "agt/upkeep.py", "agt/rows.py")


class Case:
    """A call over scenes that are made anew; what it returns, and what is seen after it."""

    def __init__(self, name: str, agt_mesh: ModuleType, interrupts: ModuleType) -> None:
        self.agt_mesh, self.interrupts, self.name = agt_mesh, interrupts, name
        self.base = agt_mesh.Scene(LIMITS, reliable=True)
        self.base.early = []
        self.base.meet()
        self.call = CALLS[name](agt_mesh, self.base)
        self.exported = self.base.bob.export_state()
        before = self.make()
        first = self.look(before)
        whole = self.make()
        self.expected = without_ids(self.call(whole))
        self.last = self.look(whole)
        assert first != self.last

    def make(self) -> Any:
        made = object.__new__(self.agt_mesh.Scene)
        made.__dict__.update(self.base.__dict__)
        made.log = self.agt_mesh.Log()
        made.bob = AgtAgent.restore(
            self.exported,
            clock=made.clock,
            entropy=SeededEntropy("broken off"),
            policy=made.rules,
            limits=LIMITS,
            journal=made.log,
            reliable=True,
        )
        made.log.rows = rows_of(made.bob._core.state)
        for frame in made.early:
            with pytest.raises(MessageEarly):
                made.bob.receive(frame)
        return made

    def look(self, scene: Any) -> tuple[Any, ...]:
        """What an application, an auditor and a restart see."""
        bob = scene.bob
        exported = bob.export_state()
        agent = AgtAgent.restore(exported, clock=scene.clock, policy=scene.rules, reliable=True)
        assert agent.export_state() == exported
        assert rows_of(state_of(scene.log.rows)) == rows_of(bob._core.state), "journal and state do not agree"
        core = bob._core
        waiting = [held for held in core.state.held.values() if isinstance(held, Candidate)]
        assert core.state.candidates() == waiting
        counts = sorted(str(one.event) for one in scene.log.records if one.event is not AuditEvent.MESSAGE_REFUSED)
        views = [repr(view.status) for view in bob.sessions(scene.pete.did)]
        held = sorted(core.state.prekeys), len(core.state.known), len(core.state.candidates()), len(core.early)
        return counts, views, held, bob.generation, len(bob.inbox()), core.early.size_bytes

    def check(self, scene: Any) -> None:
        assert self.interrupts.is_free(scene.bob._seam.lock)
        self.look(scene)  # first: it finishes what was broken off
        assert without_ids(self.call(scene)) == self.expected
        self.check_whole(scene)

    def check_whole(self, scene: Any) -> None:
        assert self.look(scene) == self.last
        if self.name.startswith("receive") and self.name != "receive_early":
            with pytest.raises(AgentMeshError):
                self.call(scene)
        assert scene.bob._seam.step is None


def without_ids(output: Any) -> Any:
    if isinstance(output, tuple):
        return tuple(without_ids(one) for one in output)
    return type(output), getattr(output, "plaintext", None), getattr(output, "number", None)


@pytest.fixture
def case(request: pytest.FixtureRequest, agt_mesh: ModuleType, interrupts: ModuleType) -> Case:
    return Case(request.param, agt_mesh, interrupts)


def some(one_in: int, first: int) -> Callable[[int], bool]:
    """Take some of the places; all of them in a deep run."""
    return lambda place: DEPTH > 1 or place % one_in == first % one_in


@pytest.mark.parametrize("case", CALLS, indirect=True)
def test_a_call_that_is_broken_off_did_nothing_or_all_and_can_be_made_again(case: Case, interrupts: ModuleType) -> None:
    # No signal comes where an error leaves a with block, and `interrupts` knows of blocks that ran to their end alone.
    rooms = tuple(room for room in ROOMS if case.name != "receive_early" or not room.startswith("engine/"))
    places = some(3, [*CALLS].index(case.name))
    for scene in interrupts.each(case.make, case.call, rooms=rooms, once=True, places=places):
        case.check(scene)


@pytest.mark.parametrize("case", CALLS, indirect=True)
def test_in_whichever_step_it_is_broken_off(case: Case, interrupts: ModuleType) -> None:
    places = some(12, [*CALLS].index(case.name))
    for scene in interrupts.each(case.make, case.call, rooms=STEPS, once=True, places=places):
        case.check(scene)


@pytest.mark.parametrize("case", CALLS, indirect=True)
def test_in_whichever_room_it_is_broken_off(case: Case, interrupts: ModuleType) -> None:
    places = some(25, [*CALLS].index(case.name))
    for scene in interrupts.each(case.make, case.call, once=True, lines=DEPTH == 1, places=places):
        case.check(scene)


@pytest.mark.parametrize("case", ["receive_first", "poll", "accept", "receive_knock_with_early"], indirect=True)
def test_what_finishes_it_may_be_broken_off_too(case: Case, interrupts: ModuleType) -> None:
    at = partial(interrupts.at, rooms=(*ROOMS, "agt/rows.py"), once=True)
    for first in filter(some(61, 7), count()):
        for second in filter(some(67, first), count()):
            scene = case.make()
            if not at(first, partial(case.call, scene)):
                assert first > 9
                return
            if not at(second, partial(case.call, scene)):
                break
            case.check(scene)


# --- keys -------------------------------------------------------------------------------------------------------------


def name_of(frame: Any) -> tuple[str, int]:
    header = json.loads(bytes(frame))["header"]
    return header["dh"], header["n"]


@pytest.mark.parametrize("case", ["send"], indirect=True)
@pytest.mark.parametrize("between", ["nothing", "send", "restart"])
def test_no_two_frames_are_made_of_one_key(case: Case, interrupts: ModuleType, between: str) -> None:
    for scene in interrupts.each(case.make, case.call, rooms=(*ROOMS, *STEPS), once=True, places=some(7, 0)):
        made = []
        if between == "send":
            made.append(scene.bob.send(scene.pete.did, b"between"))
        if between == "restart":
            scene.bob = AgtAgent.restore(
                scene.bob.export_state(), clock=scene.clock, policy=scene.rules, limits=LIMITS, reliable=True
            )
        made += [case.call(scene), scene.bob.send(scene.pete.did, b"behind")]
        assert len({name_of(frame) for frame in made}) == len(made)


@pytest.mark.parametrize("case", ["receive_first", "accept"], indirect=True)
def test_events_are_given_whatever_was_called_in_between(case: Case, interrupts: ModuleType) -> None:
    for scene in interrupts.each(case.make, case.call, rooms=ROOMS, once=True, places=some(3, 1)):
        with suppress(AgentMeshError):
            scene.bob.receive("rubbish")
        scene.bob.publish_prekeys(1)
        with suppress(DuplicateMessage, KnockReplayed):
            assert without_ids(case.call(scene)) == case.expected


# --- batches ----------------------------------------------------------------------------------------------------------


def test_a_batch_that_is_broken_off_is_whole_in_the_end(agt_mesh: ModuleType, interrupts: ModuleType) -> None:
    scene = agt_mesh.Scene(LIMITS, reliable=True)
    knock = agt_mesh.text(scene.knock())
    frames = [agt_mesh.text(scene.pete.send(scene.bob.did, str(number))) for number in range(3)]
    exported = scene.bob.export_state()

    def make() -> Any:
        log = agt_mesh.Log()
        made = AgtAgent.restore(
            exported, clock=scene.clock, policy=scene.rules, limits=LIMITS, journal=log, reliable=True
        )
        log.rows = rows_of(made._core.state)
        return made, log

    def call(made: Any) -> None:
        bob, _ = made
        with bob.batch():
            for frame in (knock, *frames):
                bob.receive(frame)
            bob.send(scene.pete.did, b"answer")

    rooms = ("engine/seam.py", "agt/core.py", "agt/rows.py")
    for bob, log in interrupts.each(make, call, rooms=rooms, once=True, places=some(5, 2)):
        bob.export_state()
        assert rows_of(state_of(log.rows)) == rows_of(bob._core.state)
        for frame in (knock, *frames):
            with suppress(AgentMeshError):
                bob.receive(frame)
        heard = [event.plaintext for event in bob.inbox() if hasattr(event, "plaintext")]
        assert heard == [b"0", b"1", b"2"]
        assert rows_of(state_of(log.rows)) == rows_of(bob._core.state)
