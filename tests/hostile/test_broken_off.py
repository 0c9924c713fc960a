"""A call on an agent that is broken off, by a signal or by a fork, or made from inside a hook (sections 7 and 8).

Whatever is raised between two byte codes: the next call finds the agent as it was before the call or as it is after it,
state and log agree, the export can be restored, and the same call can be made again with the effect of one.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from itertools import count
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

import pytest

import agentmesh
from agentmesh import Agent, AskApplication, Conditions, Intent, Limits
from agentmesh.audit import AuditJournal, AuditLog, MemorySink, OnFailure
from agentmesh.audit.record import AuditEvent, Record, decode_entry
from agentmesh.engine.outbox import Outbox, Purpose, Waiting
from agentmesh.engine.rows import rows_of
from agentmesh.errors import (
    AgentMeshError,
    CommitFailed,
    DuplicateMessage,
    ForkedChild,
    LocalError,
    ReentrantCall,
    StoreError,
    StoreFailed,
)
from agentmesh.policy import Grant
from agentmesh.primitives.keys import SessionId
from agentmesh.session.established import Session
from agentmesh.store import LogFile
from agentmesh.testing import SeededEntropy, agent_pair, established_pair

DEPTH = int(os.environ.get("AGENTMESH_DEPTH") or "1")
LIMITS = Limits(skipped_key_lifetime_seconds=6 * 3600)


class Plain:
    """A journal that cannot tell what became of a commit that was broken off."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def commit(self, _changes: object, records: tuple[Record, ...], /) -> None:
        self.records += records


class Hesitant(AuditJournal):  # type: ignore[misc]
    """A journal that cannot say what it has, the first two times that it is asked."""

    def __init__(self, log: AuditLog, **kwargs: Any) -> None:
        super().__init__(log, **kwargs)
        self.errors: list[Exception] = [StoreFailed(), OSError("not mounted")]

    def settled(self) -> bool:
        if self.errors:
            raise self.errors.pop()
        return super().settled()


class FullSink:
    """A sink that refuses while it is told to."""

    def __init__(self) -> None:
        self.kept, self.is_full = MemorySink(), False

    def append(self, entries: Sequence[bytes], /) -> None:
        if self.is_full:
            raise StoreFailed
        self.kept.append(entries)

    def entries(self) -> Sequence[bytes]:
        return self.kept.entries()


# Journals whose log may have a step that they then could not vouch for.
LOOSE = {"plain", "carry on"}


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
        if self.kind in {"memory", "carry on", "hesitant"}:
            made.sink = MemorySink()
        elif self.kind == "full":
            made.sink = FullSink()
        elif self.kind == "file":
            for sink in self.opened:  # the last one that was made was not broken off, and nobody closed it
                sink.close()
            self.path.unlink(missing_ok=True)
            made.sink = LogFile(self.path)
            self.opened[:] = [made.sink]
        if made.sink is not None:
            log = AuditLog(made.sink)
            on_failure = OnFailure.CARRY_ON if self.kind == "carry on" else OnFailure.STOP
            kind = Hesitant if self.kind == "hesitant" else AuditJournal
            made.journal = kind(log, on_failure=on_failure)
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
ROOMS: dict[tuple[str, str], tuple[str, ...]] = {
    **{(name, "none"): (*TOLD, *PURE) for name in CALLS if name != "refused"},
    **{(name, "memory"): TOLD for name in CALLS},
    **{(name, journal): TOLD for name in ("receive_message", "send") for journal in ("plain", "file", "carry on")},
}


def look(scene: Scene, *, refusals: bool) -> tuple[Any, ...]:
    """What an application, an auditor and a restart see of the second agent."""
    with suppress(AgentMeshError):
        scene.bob.record_refusals()
    exported = scene.bob.export_state()
    assert Agent.restore(exported, clock=scene.clock).export_state() == exported
    # What a call was refused for, because it was broken off inside a hook, is counted like any refusal.
    told = [record for record in scene.records if refusals or record.event is not AuditEvent.MESSAGE_REFUSED]
    counts = sorted(str(record.event) + str(record.count) for record in told)
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


class Case:
    """A call over scenes that are made anew; what it returns, and what is seen after it."""

    def __init__(self, name: str, journal: str, folder: Path, interrupts: ModuleType) -> None:
        self.name, self.journal, self.interrupts = name, journal, interrupts
        self.base = Scene(journal, folder)
        self.call = CALLS[name](self.base)
        self.base.freeze()
        self.alice_exported = self.base.alice.export_state()
        before = self.make()
        first = self.look(before)
        before.close()
        whole = self.make()
        self.expected = without_ids(self.call(whole))
        self.last = self.look(whole)
        whole.close()
        assert name == "refused" or first != self.last

    def make(self) -> Scene:
        return self.base.make()

    def alice(self) -> Agent:
        """The first agent, made again as it was."""
        return Agent.restore(self.alice_exported, clock=self.base.clock, limits=LIMITS)

    def look(self, scene: Scene) -> tuple[Any, ...]:
        return look(scene, refusals=self.name == "refused")

    def check(self, scene: Scene) -> None:
        """The call was broken off: all works, state and log agree, and made again it has the effect of one."""
        assert self.interrupts.is_free(scene.bob._seam.lock)
        exported = scene.bob.export_state()  # first: it finishes what was broken off
        assert Agent.restore(exported, clock=scene.clock).export_state() == exported
        opened = sum(record.event is AuditEvent.MESSAGE_OPENED for record in scene.records)
        if self.journal not in {"none", *LOOSE} and self.name == "receive_message":
            assert opened == scene.counts()[1], "log and state do not agree"
        assert without_ids(self.call(scene)) == self.expected
        self.check_whole(scene)

    def check_whole(self, scene: Scene) -> None:
        """The call took effect, once."""
        seen = self.look(scene)
        if self.journal in LOOSE:
            seen = (seen[0], self.last[1], *seen[2:])
        assert seen == self.last
        if self.name == "receive_message":
            with pytest.raises(DuplicateMessage):
                self.call(scene)
        scene.close()


@pytest.fixture
def case(request: pytest.FixtureRequest, tmp_path: Path, interrupts: ModuleType) -> Iterator[Case]:
    made = Case(*request.param, tmp_path, interrupts)
    yield made
    for sink in made.base.opened:
        sink.close()


def cases(*pairs: tuple[str, str]) -> Any:
    return pytest.mark.parametrize("case", pairs, ids=["-".join(pair) for pair in pairs], indirect=True)


def some(one_in: int, first: int) -> Callable[[int], bool]:
    """Take some of the places; all of them in a deep run."""
    return lambda place: DEPTH > 1 or place % one_in == first % one_in


# --- at each place, once ----------------------------------------------------------------------------------------------

SEAM = ("engine/seam.py", "engine/guard.py")


@cases(*ROOMS)
def test_a_call_that_is_broken_off_did_nothing_or_all_and_can_be_made_again(case: Case, interrupts: ModuleType) -> None:
    for scene in interrupts.each(case.make, case.call, rooms=ROOMS[case.name, case.journal], once=True):
        case.check(scene)


@cases(*((name, "file" if name == "send" else "memory") for name in CALLS))
def test_in_whichever_room_it_is_broken_off(case: Case, interrupts: ModuleType) -> None:
    """One line in ten of the whole library; in a deep run every byte code."""
    places = some(10, [*CALLS].index(case.name))
    for scene in interrupts.each(case.make, case.call, once=True, lines=DEPTH == 1, places=places):
        case.check(scene)


class Softly(Exception):
    """What a signal's handler may raise, as the soft time limit of a task queue does."""


# Without those that call a policy: what is raised in there is the policy's failure, and a policy that fails denies.
HOOKLESS = (*TOLD, *PURE, "engine/knocking.py", "envelope.py", "handshake/", "primitives/", "session/")


@pytest.mark.parametrize("raising", [MemoryError, RecursionError, Softly])
@cases(*((name, kind) for name in ("receive_message", "receive_knock") for kind in ("memory", "plain")))
def test_whatever_is_raised(case: Case, interrupts: ModuleType, raising: type[Exception]) -> None:
    places = some(7, 1)
    for scene in interrupts.each(case.make, case.call, rooms=HOOKLESS, once=True, raising=raising, places=places):
        case.check(scene)


@cases(("receive_message", "carry on"), ("send", "carry on"))
def test_a_journal_that_carries_on_swallows_what_is_raised_inside_it(case: Case, interrupts: ModuleType) -> None:
    returned: list[Any] = []
    swallowed = 0

    def call(scene: Scene) -> None:
        returned[:] = []
        returned.append(case.call(scene))

    for scene in interrupts.each(case.make, call, rooms=("audit/",), raising=Softly):
        if returned:
            swallowed += 1
            assert without_ids(returned[0]) == case.expected
            assert scene.journal.unrecorded == 1
            case.check_whole(scene)
        else:
            case.check(scene)
    assert swallowed > 20


@cases(("receive_message", "hesitant"), ("send", "hesitant"), ("receive_knock", "hesitant"))
def test_as_long_as_the_journal_cannot_say_what_it_has_nothing_is_done(case: Case, interrupts: ModuleType) -> None:
    asked = 0
    for scene in interrupts.each(case.make, case.call, rooms=TOLD, once=True):
        for error in (CommitFailed, StoreFailed):
            try:
                scene.bob.export_state()
            except error:
                asked += 1
            else:
                break  # the journal had not been told, or had answered
        case.check(scene)
    assert asked > 20


# --- more than once ---------------------------------------------------------------------------------------------------


@cases(("receive_message", "memory"), ("receive_knock", "none"), ("send", "memory"), ("poll", "none"))
def test_what_finishes_it_may_be_broken_off_too(case: Case, interrupts: ModuleType) -> None:
    at = partial(interrupts.at, rooms=(*TOLD, "engine/guard.py"), once=True)
    finish = case.call if case.journal == "memory" else lambda scene: scene.bob.export_state()
    for first in filter(some(4, 0), count()):
        for second in filter(some(31, first), count()):
            scene = case.make()
            if not at(first, partial(case.call, scene)):
                scene.close()
                assert first > 9
                return
            if not at(second, partial(finish, scene)):
                scene.close()
                break
            case.check(scene)


class BrokenWait:
    """A lock for which somebody waits when it is taken for the second time; there they are broken off."""

    def __init__(self) -> None:
        self.lock, self.times = threading.RLock(), 0

    def __enter__(self) -> None:
        self.times += 1
        if self.times == 2:
            raise KeyboardInterrupt
        self.lock.acquire()

    def __exit__(self, *_: object) -> None:
        self.lock.release()

    def _is_owned(self) -> bool:
        return self.lock._is_owned()  # type: ignore[attr-defined, no-any-return]


@cases(("receive_message", "memory"), ("send", "none"))
def test_it_may_be_broken_off_again_while_it_waits_for_the_lock_to_keep_its_output(
    case: Case, interrupts: ModuleType
) -> None:
    waited = 0
    for place in count():
        scene = case.make()
        seam, wait = scene.bob._seam, BrokenWait()
        lock, seam.lock = seam.lock, wait  # type: ignore[assignment]
        broken = False
        with suppress(KeyboardInterrupt):
            broken = not interrupts.at(place, partial(case.call, scene), rooms=("engine/guard.py",), once=True)
        seam.lock = lock
        if broken:
            scene.close()
            break
        waited += wait.times == 2
        case.check(scene)
    assert waited


@cases(("receive_message", "memory"), ("send", "memory"), ("receive_accept", "none"))
def test_another_thread_waits_for_the_lock(case: Case, interrupts: ModuleType) -> None:
    beside: list[Any] = []

    def call(scene: Scene) -> None:
        started: list[threading.Thread] = []

        def clock() -> int:  # read with the lock held
            if not started:
                send = lambda: beside.append(scene.bob.send(scene.alice.did, b"beside"))  # noqa: E731
                started.append(threading.Thread(target=send))
                started[0].start()
            now_ms: int = scene.clock()
            return now_ms

        scene.bob._core.now_ms = clock
        try:
            case.call(scene)
        finally:
            scene.bob._core.now_ms = scene.clock
            for thread in started:
                thread.join()

    for scene in interrupts.each(case.make, call, rooms=SEAM, once=True):
        again = case.call(scene)
        sealed = [*beside, *([again] if case.name == "send" else [])]
        beside.clear()
        alice = case.alice()
        opened = [alice.receive(one)[0].plaintext for one in sealed]
        assert opened in ([b"beside"], [b"data"], [b"beside", b"data"], [])
        if case.name != "send":
            assert without_ids(again) == case.expected
        scene.close()


# --- what comes between -----------------------------------------------------------------------------------------------

BETWEEN: dict[str, Callable[[Scene], object]] = {
    "send": lambda scene: scene.bob.send(scene.alice.did, b"between"),
    "publish": lambda scene: scene.bob.publish_bundles(1),
    "withdraw": lambda scene: scene.bob.withdraw_bundles([bytes(32)]),
    "rubbish": lambda scene: scene.bob.receive(b"rubbish"),
    "poll": lambda scene: scene.bob.poll(),
    "views": lambda scene: (scene.bob.sessions(scene.alice.did), scene.bob.next_deadline_ms),
}


@pytest.mark.parametrize("between", BETWEEN)
@cases(
    *((name, "none") for name in ("receive_message", "receive_knock", "receive_close")), ("receive_accept", "memory")
)
def test_events_are_given_whatever_was_called_in_between(case: Case, interrupts: ModuleType, between: str) -> None:
    for scene in interrupts.each(case.make, case.call, rooms=SEAM, once=True):
        with suppress(AgentMeshError):
            BETWEEN[between](scene)
        assert without_ids(case.call(scene)) == case.expected
        with pytest.raises(AgentMeshError):
            case.call(scene)
        scene.close()


@pytest.mark.parametrize("between", ["send", "rubbish", "views"])
@cases(("poll", "none"), ("poll", "memory"))
def test_so_are_those_of_a_poll(case: Case, interrupts: ModuleType, between: str) -> None:
    for scene in interrupts.each(case.make, case.call, rooms=SEAM, once=True):
        with suppress(AgentMeshError):
            BETWEEN[between](scene)
        assert without_ids(case.call(scene)) == case.expected
        assert case.call(scene) == ()
        scene.close()


@cases(("send", "none"), ("send", "memory"))
def test_a_send_that_is_made_again_gives_one_envelope_and_behind_another_call_a_new_one(
    case: Case, interrupts: ModuleType
) -> None:
    left_out = 0
    for scene in interrupts.each(case.make, case.call, rooms=SEAM, once=True):
        first, alice = case.call(scene), case.alice()
        [event] = alice.receive(first)
        assert (event.plaintext, event.number) == (b"data", 1)
        scene.close()
    for scene in interrupts.each(case.make, case.call, rooms=SEAM, once=True):
        between, again, alice = scene.bob.send(scene.alice.did, b"between"), case.call(scene), case.alice()
        events = [event for sealed in (between, again) for event in alice.receive(sealed)]
        assert [event.plaintext for event in events] == [b"between", b"data"]
        assert events[1].number == events[0].number + 1
        left_out += events[0].number - 1  # sealed, and never given to anybody: the peer counts it as missing
        scene.close()
    assert left_out


@cases(("withdraw", "none"))
def test_what_is_published_in_between_is_withdrawn_too(case: Case, interrupts: ModuleType) -> None:
    for scene in interrupts.each(case.make, case.call, rooms=SEAM, once=True):
        scene.bob.publish_bundles(1)
        case.call(scene)
        assert all(bundle.secrets is None for bundle in scene.bob._core.state.bundles.values())
        scene.close()


@cases(("accept", "none"), ("knock", "none"))
def test_what_was_to_leave_can_be_had_by_other_ways(case: Case, interrupts: ModuleType) -> None:
    for scene in interrupts.each(case.make, case.call, rooms=SEAM, once=True):
        scene.bob.publish_bundles(1)
        if case.name == "accept" and scene.bob.pending_knocks():
            case.call(scene)
        pending = {"knock": scene.bob, "accept": case.alice()}[case.name].pending_envelopes(
            {"knock": scene.alice.did, "accept": scene.bob.did}[case.name]
        )
        assert len(pending) == (1 if case.name == "accept" else len(scene.bob._core.state.sessions) - 1)
        for envelope in pending:
            if case.name == "accept":  # the KNOCK again, and its answer is repeated
                [event] = scene.bob.receive(envelope)
                case.alice().receive(event.reply)
            else:
                case.alice().receive(envelope)
        scene.close()


@cases(("receive_message", "full"))
def test_what_the_journal_refuses_in_between_takes_no_events_with_it(case: Case, interrupts: ModuleType) -> None:
    """The journal's word on the last step that it was told of is about that step alone."""
    at = partial(interrupts.at, rooms=SEAM, once=True)
    for first in filter(some(4, 0), count()):
        for second in filter(some(5, first), count()):
            scene = case.make()
            if not at(first, partial(case.call, scene)):
                assert first > 9
                return
            scene.sink.is_full = True
            with pytest.raises(StoreFailed):
                scene.bob.send(scene.alice.did, b"refused")
            scene.sink.is_full = False
            if not at(second, partial(case.call, scene)):
                break
            case.check(scene)


# --- by real signals, and in deep recursion ---------------------------------------------------------------------------


class Rings(BaseException):
    """What the timer's handler raises."""


class Timer:
    """A real timer, whose handler raises where it rings inside the library: outside, the call has returned."""

    library = str(Path(agentmesh.__file__).parent)

    def __init__(self) -> None:
        self.raising: type[BaseException] = Rings

    def ring(self, _number: int, frame: FrameType | None) -> None:
        # Not in what a garbage collector calls: nobody would see it raise.
        if frame is None or not frame.f_code.co_filename.startswith(self.library):
            return
        while frame is not None:
            if frame.f_code.co_name == "__del__":
                return
            frame = frame.f_back
        raise self.raising

    def breaks_off(self, call: Callable[[], object], seconds: float) -> bool:
        """Make a call, let the timer ring after a while, and say whether the call was broken off."""
        try:
            signal.setitimer(signal.ITIMER_REAL, seconds)
            call()
        except self.raising:
            return True
        except AgentMeshError:  # a hook of the caller's failed
            assert self.raising is Softly
            return True
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        return False


@pytest.fixture
def timer() -> Iterator[Timer]:
    made = Timer()
    before = signal.signal(signal.SIGALRM, made.ring)
    yield made
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


SIGNALLED = (
    *((name, "memory") for name in ("receive_knock", "receive_accept", "receive_message", "send", "poll", "knock")),
    ("accept", "memory"), ("receive_message", "file"), ("send", "file"), ("receive_close", "none"),
)  # fmt: skip


@pytest.mark.parametrize("raising", [Rings, Softly])
@cases(*SIGNALLED)
def test_a_timers_signal_breaks_it_off(case: Case, timer: Timer, raising: type[BaseException]) -> None:
    """A few hundred calls in all; in a deep run so many times as many."""
    if case.name == "receive_knock":  # what the handler raises in a policy is no permission: the KNOCK is rejected
        raising = Rings
    timer.raising, chance = raising, random.Random(case.name)
    scene = case.make()
    begun = time.perf_counter()
    case.call(scene)
    longest = 1.5 * (time.perf_counter() - begun)  # only says where the timer is to ring, about
    scene.close()
    for _ in range(20 * DEPTH):
        scene = case.make()
        if timer.breaks_off(partial(case.call, scene), chance.uniform(1e-6, longest)):
            case.check(scene)
        else:
            case.check_whole(scene)


def deep(levels: int, call: Callable[[], object]) -> object:
    return deep(levels - 1, call) if levels else call()


@cases(*((name, "memory") for name in CALLS if name != "receive_knock"), ("send", "file"))
def test_a_call_from_too_deep_a_recursion(case: Case) -> None:
    frame, depth = sys._getframe(), 0
    while frame.f_back is not None:
        frame, depth = frame.f_back, depth + 1
    ends = set()
    for levels in range(sys.getrecursionlimit() - depth - 60, sys.getrecursionlimit() - depth):
        scene = case.make()
        try:
            deep(levels, partial(case.call, scene))
        except (RecursionError, LocalError, StoreError):  # a RemoteError would say that good bytes are to be dropped
            ends.add("broken off")
            case.check(scene)
        else:
            ends.add("whole")
            case.check_whole(scene)
    assert ends == {"broken off", "whole"}


# --- what is counted --------------------------------------------------------------------------------------------------


class Counting(AskApplication):
    """A policy that grants, and counts which bundles served."""

    def __init__(self) -> None:
        self.uses = 0

    def decide(self, _knock: Any, /) -> Grant:
        return Grant()

    def used(self, *_: object) -> None:
        self.uses += 1


def test_a_policy_is_told_once_that_a_bundle_served(interrupts: ModuleType) -> None:
    pair = agent_pair(3)
    knock = pair.alice.knock(pair.bob.did, pair.bob.publish_bundles(1).one_time[0], Intent("x"))
    exported = pair.bob.export_state()

    def make() -> tuple[Agent, Counting]:
        policy = Counting()
        return Agent.restore(exported, clock=pair.clock, policy=policy), policy

    for bob, policy in interrupts.each(make, lambda made: made[0].receive(knock), rooms=("engine/guard.py",)):
        [event] = bob.receive(knock)
        assert event.reply is not None
        assert policy.uses == 1


@contextmanager
def limit(broken: list[bool]) -> Iterator[None]:
    """A time limit as applications write it: around a call, by a generator that turns one exception into another."""
    try:
        yield
    except KeyboardInterrupt:
        broken.append(True)
        raise TimeoutError from None


@cases(("receive_message", "memory"), ("send", "none"))
def test_a_time_limit_made_of_a_generator(case: Case, interrupts: ModuleType) -> None:
    broken: list[bool] = []

    def call(scene: Scene) -> None:
        with suppress(TimeoutError), limit(broken):
            case.call(scene)

    for number, scene in enumerate(interrupts.each(case.make, call, rooms=SEAM, once=True), 1):
        assert len(broken) == number
        case.check(scene)


def test_a_receipt_that_was_looked_for_and_broken_off_is_of_its_envelope_alone(interrupts: ModuleType) -> None:
    def waiting_at(sequence: int, envelope: bytes) -> Waiting:
        return Waiting(sequence, Purpose.KNOCK, "did", SessionId(bytes(16)), 0, b"", envelope)

    first, second = waiting_at(1, b"first"), waiting_at(1, b"second")

    def make() -> Outbox:
        outbox = Outbox()
        outbox.put(first)
        return outbox

    places = 0
    for outbox in interrupts.each(make, lambda outbox: outbox.find(first.receipt), rooms=("engine/outbox.py",)):
        places += 1
        outbox.remove(1)
        assert outbox.find(first.receipt) is None
        outbox.put(second)  # a number whose envelope was let go of is another's
        assert outbox.find(first.receipt) is None
        assert outbox.find(second.receipt) is second
    assert places > 10


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
        "send_many": lambda: bob.send_many([did], b""),
        "close": lambda: bob.close(did),
        "drop": lambda: bob.drop(did, session_id),
        "receive": lambda: bob.receive(b""),
        "poll": bob.poll,
        "outbox": bob.outbox,
        "sent": lambda: bob.sent(bytes(32)),
        "inbox": bob.inbox,
        "done": lambda: bob.done(event),
        "batch": lambda: bob.batch().__enter__(),
        "generation": lambda: bob.generation,
        "next_deadline_ms": lambda: bob.next_deadline_ms,
        "record_refusals": bob.record_refusals,
        "checkpoint": lambda: bob.checkpoint(log),
        "session": lambda: bob.session(did),
        "sessions": lambda: bob.sessions(did),
        "export_state": bob.export_state,
    }
    public = {name for name in dir(Agent) if not name.startswith("_")}
    assert public - calls.keys() == {"create", "restore", "did", "is_reliable", "key", "mesh"}
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


def test_a_child_of_a_fork_commits_no_batch_of_its_parents() -> None:
    for leaves in (False, True):
        pair = established_pair()
        journal = Plain()
        alice = Agent.restore(pair.alice.export_state(), clock=pair.clock, journal=journal)

        def child(leaves: bool = leaves, alice: Agent = alice, journal: Plain = journal) -> None:
            # What leaves the with statement in a child is what would commit there.
            try:
                stack.__exit__(*((SystemExit, SystemExit(), None) if leaves else (None, None, None)))
            finally:
                assert journal.records == []

        with ExitStack() as stack:
            stack.enter_context(alice.batch())
            sealed = alice.send(pair.bob.did, b"of the parent")
            assert in_a_child(child) == ("nothing" if leaves else "ForkedChild")
        assert len(journal.records) == 1
        [event] = pair.bob.receive(sealed.envelope)
        assert event.plaintext == b"of the parent"  # type: ignore[union-attr]


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
