"""Batches: the journal is told once, of the same rows; nothing leaves before; a failing end is made again."""

from __future__ import annotations

import errno
import threading
from collections.abc import Mapping
from contextlib import nullcontext
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentmesh import Agent, Intent, MessageReceived, Sealed
from agentmesh.audit import AuditJournal, AuditLog, MemorySink, Record
from agentmesh.engine.rows import RowKey, rows_of, state_of
from agentmesh.engine.state import Changes
from agentmesh.errors import BatchOpen, ClosedSession, CommitFailed, NoSession, TooManySessions
from agentmesh.store.memory import MemoryBackend
from agentmesh.store.store import Store
from agentmesh.testing import ManualClock, SeededEntropy

MESH = "example/batch"


class RowStore:
    """A journal that keeps rows, fails as it is told to, and counts how often it was told."""

    def __init__(self, agent: Agent | None = None) -> None:
        self.rows: dict[RowKey, bytes] = {}
        self.records: list[Record] = []
        self.commits = 0
        self.failure: BaseException | None = None
        self.keeps_first = False  # it fails behind the keeping, not before
        self._kept = 0
        self._told = 0

    def commit(self, changes: Changes, records: tuple[Record, ...], /) -> None:
        self._told += 1
        failure, self.failure = self.failure, None
        if failure is None or self.keeps_first:
            rows: Mapping[RowKey, bytes | None] = changes.rows()
            for key, data in rows.items():
                if data is None:
                    self.rows.pop(key, None)
                else:
                    self.rows[key] = data
            self.records += records
            self.commits += 1
            self._kept = self._told
        if failure is not None:
            raise failure

    def settled(self) -> bool:
        return self._kept == self._told


class Couple:
    """Alice, kept by a store of rows, and Bob; a session between them."""

    def __init__(self, seed: int = 0) -> None:
        self.clock = ManualClock()
        self.bob = Agent.create(MESH, clock=self.clock, entropy=SeededEntropy(f"{seed}/bob"))
        self.store = RowStore()
        self.alice = Agent.create(
            MESH, clock=self.clock, entropy=SeededEntropy(f"{seed}/alice"), journal=self.store, acknowledge=True
        )
        self.store.rows = dict(rows_of(self.alice._core.state))
        bundle = self.bob.publish_bundles(one_time=1).one_time[0]
        [asked] = self.bob.receive(self.alice.knock(self.bob.did, bundle, Intent("work")).envelope)
        self.alice.receive(self.bob.accept(asked).envelope)  # type: ignore[arg-type]

    @property
    def is_kept(self) -> bool:
        return self.store.rows == rows_of(self.alice._core.state) == rows_of(state_of(self.store.rows))


@given(
    st.lists(st.sampled_from(["send", "receive", "skip", "publish", "poll", "knock", "refused", "close"]), max_size=12),
    st.integers(0, 99),
)
def test_a_batch_is_one_commit_of_the_same_rows(calls: list[str], seed: int) -> None:
    couple = Couple(seed)
    alice, bob, store = couple.alice, couple.bob, couple.store
    bundles = bob.publish_bundles(one_time=20).one_time
    commits, generation = store.commits, alice.generation
    with alice.batch():
        before = dict(store.rows)
        for at, call in enumerate(calls):
            _make(couple, call, bundles[at])
        assert store.rows == before
        assert store.commits == commits
    assert store.commits - commits == (alice.generation > generation)
    assert couple.is_kept


def _make(couple: Couple, call: str, bundle: bytes) -> None:
    alice, bob = couple.alice, couple.bob
    try:
        if call == "send":
            alice.send(bob.did, b"numbers")
        elif call == "receive":
            assert alice.receive(bob.send(alice.did, b"answer").envelope) == ()
        elif call == "skip":
            for _ in range(3):
                sealed = bob.send(alice.did, b"late")
            assert alice.receive(sealed.envelope) == ()
        elif call == "publish":
            alice.publish_bundles(one_time=2)
        elif call == "poll":
            couple.clock.now_ms += 3_600_000
            assert alice.poll() == ()
        elif call == "knock":
            alice.knock(bob.did, bundle, Intent("more"))
        elif call == "close":
            alice.close(bob.did)
        else:
            alice.send(Agent.create(MESH).did, b"nobody")
    except (ClosedSession, NoSession, TooManySessions):
        pass


def test_what_it_makes_cannot_be_read_before_its_end() -> None:
    couple = Couple()
    alice, bob = couple.alice, couple.bob
    incoming = [bob.send(alice.did, b"%d" % at).envelope for at in range(3)]
    with alice.batch() as batch:
        sealed = alice.send(bob.did, b"numbers")
        shelf = alice.publish_bundles(one_time=1)
        assert sealed.number == 1
        for read in (
            lambda: sealed.envelope,
            lambda: bytes(sealed),
            lambda: shelf.one_time,
            lambda: shelf.last_resort,
            lambda: batch.events,
        ):
            with pytest.raises(BatchOpen):
                read()
        assert "withheld" in repr(sealed) + repr(shelf)
        assert [alice.receive(envelope) for envelope in incoming] == [(), (), ()]
    assert [event.plaintext for event in batch.events if isinstance(event, MessageReceived)] == [b"0", b"1", b"2"]
    [message, *_] = bob.receive(sealed.envelope)
    assert isinstance(message, MessageReceived)
    assert len(shelf.one_time) == 1
    assert shelf.last_resort is not None


def test_a_call_behind_a_batch_is_as_ever() -> None:
    couple = Couple()
    with couple.alice.batch():
        pass
    assert couple.bob.receive(couple.alice.send(couple.bob.did, b"now").envelope)
    assert couple.is_kept


@pytest.mark.parametrize("keeps_first", [False, True])
@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt(), MemoryError()])
def test_an_end_that_fails_is_made_again_before_anything_else(failure: BaseException, keeps_first: bool) -> None:
    couple = Couple()
    alice, bob, store = couple.alice, couple.bob, couple.store
    store.keeps_first = keeps_first
    commits = store.commits
    expected = CommitFailed if isinstance(failure, Exception) else type(failure)
    with pytest.raises(expected), alice.batch() as batch:  # noqa: PT012 - its end raises
        sealed = alice.send(bob.did, b"numbers")
        alice.receive(bob.send(alice.did, b"answer").envelope)
        store.failure = failure
    with pytest.raises(BatchOpen):
        sealed.envelope  # noqa: B018 - reading is the point
    if not keeps_first:
        store.failure = OSError(errno.ENOSPC, "still full")
        for look in (lambda: alice.generation, alice.export_state, lambda: alice.send(bob.did, b"more")):
            store.failure = OSError(errno.ENOSPC, "still full")
            with pytest.raises(CommitFailed):
                look()
        store.failure = None
    assert alice.generation
    assert store.commits == commits + 1
    assert couple.is_kept
    assert len(bob.receive(sealed.envelope)) >= 1
    assert len([event for event in batch.events if isinstance(event, MessageReceived)]) == 1


def test_what_was_done_is_kept_where_the_with_statement_is_left_by_an_error() -> None:
    couple = Couple()
    with pytest.raises(ZeroDivisionError), couple.alice.batch():  # noqa: PT012 - so that it is left by an error
        sealed = couple.alice.send(couple.bob.did, b"numbers")
        1 / 0  # noqa: B018
    assert couple.is_kept
    assert couple.bob.receive(sealed.envelope)


def test_a_batch_is_begun_once_and_other_threads_wait() -> None:
    couple = Couple()
    alice, bob = couple.alice, couple.bob
    done: list[Any] = []
    with alice.batch():
        with pytest.raises(BatchOpen), alice.batch():
            pass
        alice.send(bob.did, b"first")
        other = threading.Thread(target=lambda: done.append(alice.send(bob.did, b"second")))
        other.start()
        other.join(0.05)
        assert not done
    other.join()
    assert len(bob.receive(done[0].envelope)) == 1  # not withheld
    assert couple.is_kept


def test_the_batch_holds_nothing_twice() -> None:
    batch = Couple().alice._seam._new_batch()
    events = (MessageReceived.__new__(MessageReceived),)
    assert batch.hold(events) == batch.hold(events) == ()
    batch.release()
    assert batch.events == events


def test_what_waits_is_not_given_out_in_a_batch() -> None:
    couple = Couple()
    alice, bob = couple.alice, couple.bob
    bundle = bob.publish_bundles(one_time=1).one_time[0]
    asked = bob.knock(alice.did, alice.publish_bundles(one_time=1).one_time[0], Intent("more")).envelope
    with alice.batch():
        alice.knock(bob.did, bundle, Intent("more"))
        alice.receive(asked)
        with pytest.raises(BatchOpen):
            alice.pending_envelopes(bob.did)
        with pytest.raises(BatchOpen):
            alice.pending_knocks()
    assert len(alice.pending_envelopes(bob.did)) == len(alice.pending_knocks()) == 1


@pytest.mark.parametrize("in_batch", [False, True])
def test_broken_off_anywhere_what_counts_is_what_the_store_has(in_batch: bool, interrupts: ModuleType) -> None:
    def make() -> Agent:
        return Store(MemoryBackend(), bytes(32)).open_agent(MESH)

    def publish(agent: Agent) -> None:
        with agent.batch() if in_batch else nullcontext():
            agent.publish_bundles(one_time=0)

    for agent in interrupts.each(make, publish, rooms=("engine/seam.py", "store/keeping.py"), once=True):
        generation = agent.generation  # whatever is called next settles
        assert agent._seam.batch is None
        assert agent._seam._journal._generation == generation  # type: ignore[union-attr]
        assert agent._seam._journal.rows.commit_number == 1 + generation  # type: ignore[union-attr]


def test_broken_off_anywhere_a_step_counts_if_the_log_has_it(interrupts: ModuleType) -> None:
    def make() -> tuple[Agent, AuditLog]:
        log = AuditLog(MemorySink())
        agent = Agent.create(MESH, journal=AuditJournal(log))
        agent.publish_bundles(one_time=0)
        return agent, log

    rooms = ("engine/seam.py", "audit/journal.py")
    for agent, log in interrupts.each(make, lambda made: made[0].publish_bundles(one_time=0), rooms=rooms, once=True):
        assert agent.generation == len(log)  # each publishes one bundle


@pytest.mark.parametrize("in_batch", [False, True])
def test_a_journal_that_cannot_begin_takes_no_step(in_batch: bool) -> None:
    couple = Couple()
    alice, bob, store = couple.alice, couple.bob, couple.store
    failing = [OSError(errno.EIO, "gone")]

    def begin() -> None:
        if failing:
            raise failing.pop()

    alice._seam._begin = begin
    before, commits = alice.export_state(), store.commits
    made: list[Sealed] = []
    with pytest.raises(CommitFailed):  # noqa: PT012 - the end of a batch raises too
        if in_batch:
            with alice.batch():
                made.append(alice.send(bob.did, b"numbers"))
        else:
            alice.send(bob.did, b"numbers")
    assert store.commits == commits
    if in_batch:
        assert alice.generation  # whoever comes next tells it again
    else:
        assert alice.export_state() == before
        made.append(alice.send(bob.did, b"numbers"))
    assert store.commits == commits + 1
    assert couple.is_kept
    assert bob.receive(made[0].envelope)
