"""A call on an agent that is broken off, by a signal or by a fork, or made from inside a hook (sections 7 and 8).

Whatever is raised between two byte codes: the next call finds the agent as it was before the call or as it is after it,
state and log agree, the export can be restored, and the same call can be made again with the effect of one.
"""

from __future__ import annotations

import os
import signal
import threading
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from agentmesh import Agent, AskApplication, Conditions, Intent, Limits
from agentmesh.audit import AuditJournal, AuditLog, MemorySink
from agentmesh.audit.record import AuditEvent, Record, decode_entry
from agentmesh.engine.rows import rows_of
from agentmesh.errors import AgentMeshError, DuplicateMessage, ForkedChild, ReentrantCall
from agentmesh.session.established import Session
from agentmesh.store import LogFile
from agentmesh.testing import SeededEntropy, agent_pair, established_pair

LIMITS = Limits(skipped_key_lifetime_seconds=6 * 3600)


class Plain:
    """A journal that cannot tell what became of a commit that was broken off."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def commit(self, _changes: object, records: tuple[Record, ...], /) -> None:
        self.records += records


class Scene:
    """Two agents with one session; the second has a journal, and can be made again as it was, which is quick."""

    def __init__(self, journal: str, folder: Path) -> None:
        pair = established_pair(limits=LIMITS)
        self.clock, self.alice, self.kind = pair.clock, pair.alice, journal
        self.path = folder / "bob.log"
        self.journal: Any = None
        self.sink: Any = None
        self.bob = pair.bob
        self.refusals = 0
        self.opened: list[LogFile] = []

    def make(self) -> Scene:
        """Return this scene with a second agent and a journal of its own."""
        made = object.__new__(Scene)
        made.__dict__.update(self.__dict__)
        made.sink = made.journal = None
        if self.kind == "memory":
            made.sink = MemorySink()
        elif self.kind == "file":
            for sink in self.opened:  # the last one that was made was not broken off, and nobody closed it
                sink.close()
            self.path.unlink(missing_ok=True)
            made.sink = LogFile(self.path)
            self.opened[:] = [made.sink]
        if made.sink is not None:
            made.journal = AuditJournal(AuditLog(made.sink))
        if self.kind == "plain":
            made.journal = Plain()
        made.bob = Agent.restore(
            self.exported, clock=self.clock, entropy=SeededEntropy("broken off"), journal=made.journal, limits=LIMITS
        )
        for _ in range(self.refusals):
            with suppress(AgentMeshError):
                made.bob.receive(b"rubbish")
        return made

    def freeze(self) -> None:
        self.exported = self.bob.export_state()

    @property
    def records(self) -> list[Record]:
        if isinstance(self.journal, Plain):
            return self.journal.records
        return [] if self.sink is None else [decode_entry(entry)[2] for entry in self.sink.entries()]

    def close(self) -> None:
        if isinstance(self.sink, LogFile):
            self.sink.close()

    def counts(self) -> tuple[int, int]:
        sessions = [held for held in self.bob._core.state.sessions.values() if isinstance(held, Session)]
        return sum(held.data_sent for held in sessions), sum(held.data_opened for held in sessions)


# --- the calls: each prepares a scene and gives what is called --------------------------------------------------------

Prepare = Callable[[Scene], Callable[[Scene], Any]]


def receive_message(scene: Scene) -> Callable[[Scene], Any]:
    envelope = scene.alice.send(scene.bob.did, b"once").envelope
    return lambda scene: scene.bob.receive(envelope)


def receive_turn(scene: Scene) -> Callable[[Scene], Any]:
    scene.alice.receive(scene.bob.send(scene.alice.did, b"a turn"))
    scene.alice.send(scene.bob.did, b"never comes")
    return receive_message(scene)


def receive_close(scene: Scene) -> Callable[[Scene], Any]:
    envelope = scene.alice.close(scene.bob.did, "done").envelope
    return lambda scene: scene.bob.receive(envelope)


def receive_knock(scene: Scene) -> Callable[[Scene], Any]:
    bundle = scene.bob.publish_bundles(1).one_time[0]
    envelope = scene.alice.knock(scene.bob.did, bundle, Intent("again")).envelope
    return lambda scene: scene.bob.receive(envelope)


def receive_accept(scene: Scene) -> Callable[[Scene], Any]:
    bundle = scene.alice.publish_bundles(1).one_time[0]
    [event] = scene.alice.receive(scene.bob.knock(scene.alice.did, bundle, Intent("back")))
    envelope = scene.alice.accept(event).envelope
    return lambda scene: scene.bob.receive(envelope)


def receive_reject(scene: Scene) -> Callable[[Scene], Any]:
    bundle = scene.alice.publish_bundles(1).one_time[0]
    [event] = scene.alice.receive(scene.bob.knock(scene.alice.did, bundle, Intent("back")))
    envelope = scene.alice.reject(event).envelope
    return lambda scene: scene.bob.receive(envelope)


def receive_used_bundle(scene: Scene) -> Callable[[Scene], Any]:
    bundle = scene.bob.publish_bundles(1).one_time[0]
    scene.bob.receive(scene.alice.knock(scene.bob.did, bundle, Intent("first")))
    scene.clock.advance(ms=5)
    envelope = scene.alice.knock(scene.bob.did, bundle, Intent("second")).envelope
    return lambda scene: scene.bob.receive(envelope)


def send(scene: Scene) -> Callable[[Scene], Any]:
    return lambda scene: scene.bob.send(scene.alice.did, b"data", disclosable=True)


def send_bytearray(scene: Scene) -> Callable[[Scene], Any]:
    return lambda scene: scene.bob.send(scene.alice.did, bytearray(b"data"))


def knock(scene: Scene) -> Callable[[Scene], Any]:
    bundle = scene.alice.publish_bundles(1).one_time[0]
    return lambda scene: scene.bob.knock(scene.alice.did, bundle, Intent("x"), early_payload=b"early")


def waiting(scene: Scene) -> Any:
    receive_knock(scene)(scene)
    return scene.bob.pending_knocks()[0]


def accept(scene: Scene) -> Callable[[Scene], Any]:
    event = waiting(scene)
    return lambda scene: scene.bob.accept(event, Conditions(max_messages=9))


def reject(scene: Scene) -> Callable[[Scene], Any]:
    event = waiting(scene)
    return lambda scene: scene.bob.reject(event)


def close(scene: Scene) -> Callable[[Scene], Any]:
    return lambda scene: scene.bob.close(scene.alice.did, "done")


def drop(scene: Scene) -> Callable[[Scene], Any]:
    for _ in range(9):  # so that an older ending makes room
        bundle = scene.alice.publish_bundles(1, last_resort=False).one_time[0]
        last = scene.bob.knock(scene.alice.did, bundle, Intent("x")).session_id
        if _ < 8:
            scene.bob.drop(scene.alice.did, last)
        scene.clock.advance(ms=5)
    return lambda scene: scene.bob.drop(scene.alice.did, last)


def poll(scene: Scene) -> Callable[[Scene], Any]:
    scene.bob.publish_bundles(2)
    knock(scene)(scene)
    scene.alice.send(scene.bob.did, b"lost")
    scene.bob.receive(scene.alice.send(scene.bob.did, b"behind it"))
    scene.clock.advance(seconds=40 * 86_400)
    return lambda scene: scene.bob.poll()


def publish(scene: Scene) -> Callable[[Scene], Any]:
    return lambda scene: scene.bob.publish_bundles(1)


def withdraw(scene: Scene) -> Callable[[Scene], Any]:
    scene.bob.publish_bundles(2)
    return lambda scene: scene.bob.withdraw_bundles()


def refused(scene: Scene) -> Callable[[Scene], Any]:
    scene.refusals = 3
    return lambda scene: scene.bob.record_refusals()


CALLS: dict[str, Prepare] = {
    call.__name__: call
    for call in (
        receive_message, receive_turn, receive_close, receive_knock, receive_accept, receive_reject,
        receive_used_bundle, send, send_bytearray, knock, accept, reject, close, drop, poll, publish, withdraw, refused,
    )
}  # fmt: skip
# With a journal what it is told in, and what is done behind it.
TOLD = (
    "engine/seam.py",
    "engine/changes.py",
    "engine/replay.py",
    "engine/state.py",
    "audit/journal.py",
    "audit/log.py",
)
PURE = ("agent.py", "engine/conversing.py", "engine/verdicts.py", "engine/upkeep.py", "session/established.py")
CASES = [
    *((name, "none", (*TOLD, *PURE)) for name in CALLS if name != "refused"),
    *((name, "memory", TOLD) for name in CALLS),
    *((name, journal, TOLD) for name in ("receive_message", "send") for journal in ("plain", "file")),
]


def look(scene: Scene) -> tuple[Any, ...]:
    """What an application, an auditor and a restart see of the second agent."""
    with suppress(AgentMeshError):
        scene.bob.record_refusals()
    exported = scene.bob.export_state()
    assert Agent.restore(exported, clock=scene.clock).export_state() == exported
    counts = sorted(str(record.event) + str(record.count) for record in scene.records)
    kinds = sorted(kind for kind, _ in rows_of(scene.bob._core.state))
    statuses = [repr(view.status) for view in scene.bob.sessions(scene.alice.did)]
    core = scene.bob._core
    unused = sum(bundle.secrets is not None for bundle in core.state.bundles.values())
    held = len(core.state.knocks), len(core.unopened), unused
    return scene.counts(), counts, kinds, held, statuses, scene.bob.generation


def without_ids(output: Any) -> Any:
    if isinstance(output, tuple):
        return tuple(without_ids(one) for one in output)
    return type(output), getattr(output, "plaintext", None), getattr(output, "number", None)


@pytest.mark.parametrize(("name", "journal", "rooms"), CASES, ids=[f"{name}-{kind}" for name, kind, _ in CASES])
def test_a_call_that_is_broken_off_did_nothing_or_all_and_can_be_made_again(
    name: str, journal: str, rooms: tuple[str, ...], interrupts: ModuleType, tmp_path: Path
) -> None:
    base = Scene(journal, tmp_path)
    call = CALLS[name](base)
    base.freeze()
    before = base.make()
    first = look(before)
    before.close()
    whole = base.make()
    expected = without_ids(call(whole))
    last = look(whole)
    whole.close()
    assert name == "refused" or first != last
    for scene in interrupts.each(base.make, call, rooms=rooms, once=True):
        assert interrupts.is_free(scene.bob._seam.lock)
        exported = scene.bob.export_state()  # first: it finishes what was broken off
        assert Agent.restore(exported, clock=scene.clock).export_state() == exported
        opened = sum(record.event is AuditEvent.MESSAGE_OPENED for record in scene.records)
        if journal in {"memory", "file"} and name == "receive_message":
            assert opened == scene.counts()[1], "log and state do not agree"
        assert without_ids(call(scene)) == expected
        seen = look(scene)
        if journal == "plain":  # it may have noted a step that it then could not vouch for
            seen = (seen[0], last[1], *seen[2:])
        assert seen == last
        if name == "receive_message":
            with pytest.raises(DuplicateMessage):
                call(scene)
        scene.close()
    for sink in base.opened:
        sink.close()


# --- forks and hooks --------------------------------------------------------------------------------------------------


def in_a_child(call: Callable[[], object]) -> str:
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # that there are threads is what is tried
        child = os.fork()
    if child == 0:
        signal.alarm(20)  # ends one that waits for a lock
        try:
            call()
            name = "nothing"
        except BaseException as error:
            name = type(error).__name__
        os.write(writing, name.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as answer:
        name = answer.read().decode()
    os.waitpid(child, 0)
    return name


def test_a_child_of_a_fork_is_refused_by_every_call_before_any_lock(tmp_path: Path) -> None:
    scene = Scene("none", tmp_path)
    bob, did = scene.bob, scene.alice.did
    event = waiting(scene)
    log = AuditLog(MemorySink())
    session_id = bob.session(did).session_id
    bundle = scene.alice.publish_bundles(1).one_time[0]
    calls: dict[str, Callable[[], object]] = {
        "identity": lambda: bob.identity,
        "publish_bundles": lambda: bob.publish_bundles(1),
        "withdraw_bundles": bob.withdraw_bundles,
        "knock": lambda: bob.knock(did, bundle, Intent("x")),
        "accept": lambda: bob.accept(event),
        "reject": lambda: bob.reject(event),
        "pending_knocks": bob.pending_knocks,
        "pending_envelopes": lambda: bob.pending_envelopes(did),
        "send": lambda: bob.send(did, b""),
        "close": lambda: bob.close(did),
        "drop": lambda: bob.drop(did, session_id),
        "receive": lambda: bob.receive(b""),
        "poll": bob.poll,
        "generation": lambda: bob.generation,
        "next_deadline_ms": lambda: bob.next_deadline_ms,
        "record_refusals": bob.record_refusals,
        "checkpoint": lambda: bob.checkpoint(log),
        "session": lambda: bob.session(did),
        "sessions": lambda: bob.sessions(did),
        "export_state": bob.export_state,
    }
    public = {name for name in dir(Agent) if not name.startswith("_")}
    assert public - calls.keys() == {"create", "restore", "did", "key", "mesh"}
    taken, done = threading.Event(), threading.Event()

    def hold() -> None:
        with bob._seam.lock:
            taken.set()
            done.wait()

    thread = threading.Thread(target=hold)  # as a thread of the parent may, at the moment of the fork
    thread.start()
    taken.wait()
    try:
        for name, call in calls.items():
            assert in_a_child(call) == ForkedChild.__name__, name
    finally:
        done.set()
        thread.join()
    assert scene.alice.receive(bob.send(did, b"the parent goes on"))


def test_a_policy_cannot_call_another_agent() -> None:
    outcomes: list[type[BaseException]] = []
    other = agent_pair(7).alice

    class Looking(AskApplication):
        def still_allowed(self, peer: Any, /) -> bool:
            for call in (other.export_state, other.poll, lambda: other.sessions(peer.did)):
                with pytest.raises(ReentrantCall) as caught:
                    call()
                outcomes.append(caught.type)
            return True

    pair = established_pair()
    bob = Agent.restore(pair.bob.export_state(), clock=pair.clock, policy=Looking())
    assert bob.receive(pair.alice.send(bob.did, b"x"))
    assert outcomes == [ReentrantCall] * 3
    assert other.poll() is not None
