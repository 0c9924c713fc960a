"""Eight threads on one session: no key is used twice, and nothing is lost."""

from __future__ import annotations

import queue
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
from hypothesis import settings

from agentmesh import Agent, Intent, KnockReceived, Limits, MessageReceived, OuterEnvelope
from agentmesh.errors import (
    DuplicateMessage,
    KnockNotPending,
    KnockReplayed,
    NoSession,
    SessionNotOpen,
    TooManySessions,
)
from agentmesh.primitives.keys import HeaderKey
from agentmesh.session.established import Session
from agentmesh.session.suite import SUITE
from agentmesh.testing import ManualClock, Pair, agent_pair, established_pair

THREADS = 8
EACH = max(1, 60 * settings().max_examples // 100)


@pytest.fixture(autouse=True)
def _switch_often() -> Iterator[None]:
    """Let threads change places as often as the interpreter can, so that a missing lock shows."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def together(*works: Callable[[], None]) -> None:
    """Run all at once, and raise the first error that one of them ended with."""
    failed: list[BaseException] = []
    start = threading.Barrier(len(works))

    def guarded(work: Callable[[], None]) -> None:
        try:
            start.wait(timeout=30)
            work()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=guarded, args=(work,), daemon=True) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
        assert not thread.is_alive()
    if failed:
        raise failed[0]


def session_of(agent: Agent) -> Session:
    [session] = [held for held in agent._core.state.sessions.values() if isinstance(held, Session)]
    return session


class Names:
    """Every header key that either side has ever sealed with: what decodes sealed headers afterwards."""

    def __init__(self, *agents: Agent) -> None:
        self.agents = agents
        self.keys: set[HeaderKey] = set()
        self.lock = threading.Lock()

    def learn(self) -> None:
        for agent in self.agents:
            ratchet = session_of(agent).ratchet
            found = {ratchet.next_sending, ratchet.next_receiving}
            for chain in (ratchet.sending, ratchet.receiving, *ratchet.past):
                if chain is not None:
                    found.add(chain.header_key)
            with self.lock:
                self.keys |= found

    def header(self, envelope: bytes) -> tuple[bytes, int]:
        frame = SUITE.parse(OuterEnvelope.parse(envelope).body, 16)
        for key in self.keys:
            header = SUITE.open_header(key, frame)
            if header is not None:
                return header[0], header[3]
        raise AssertionError("a header that no key opens")


def test_no_two_envelopes_share_a_ratchet_key_and_number() -> None:
    pair = established_pair()
    names = Names(pair.alice, pair.bob)
    sealed: queue.Queue[bytes] = queue.Queue()
    wires: dict[Agent, queue.Queue[bytes]] = {}
    plaintexts: dict[Agent, list[bytes]] = {pair.alice: [], pair.bob: []}
    sent: dict[Agent, list[bytes]] = {pair.alice: [], pair.bob: []}
    for agent in (pair.alice, pair.bob):
        wires[agent] = queue.Queue()
    lock = threading.Lock()

    def worker(agent: Agent, peer: Agent, number: int) -> Callable[[], None]:
        def work() -> None:
            for step in range(EACH):
                plaintext = b"%d of %d" % (step, number)
                envelope = agent.send(peer.did, plaintext).envelope
                names.learn()
                with lock:
                    sent[peer].append(plaintext)
                sealed.put(envelope)
                wires[peer].put(envelope)
                try:
                    arrived = wires[agent].get_nowait()
                except queue.Empty:
                    continue
                [event] = agent.receive(arrived)
                assert isinstance(event, MessageReceived)
                names.learn()
                with lock:
                    plaintexts[agent].append(event.plaintext)

        return work

    sides = ((pair.alice, pair.bob), (pair.bob, pair.alice))
    together(*(worker(*sides[number % 2], number) for number in range(THREADS)))
    for agent, _ in sides:
        while not wires[agent].empty():
            [event] = agent.receive(wires[agent].get())
            assert isinstance(event, MessageReceived)
            plaintexts[agent].append(event.plaintext)
    headers = Counter(names.header(sealed.get()) for _ in range(sealed.qsize()))
    assert len(headers) == THREADS * EACH
    assert set(headers.values()) == {1}
    for agent, _ in sides:
        assert sorted(plaintexts[agent]) == sorted(sent[agent])
    assert len(sent[pair.alice]) + len(sent[pair.bob]) == THREADS * EACH


def test_each_envelope_is_opened_by_one_thread_alone() -> None:
    pair = established_pair()
    envelopes = [pair.alice.send(pair.bob.did, b"%d" % number).envelope for number in range(100)]
    opened: list[bytes] = []
    refused: list[bytes] = []

    def work() -> None:
        for envelope in envelopes:
            try:
                [event] = pair.bob.receive(envelope)
            except DuplicateMessage:
                refused.append(envelope)
            else:
                assert isinstance(event, MessageReceived)
                opened.append(event.plaintext)

    together(*[work] * THREADS)
    assert sorted(opened) == sorted(b"%d" % number for number in range(100))
    assert Counter(refused) == Counter(dict.fromkeys(envelopes, THREADS - 1))


def test_threads_that_only_look_see_whole_states() -> None:
    pair = established_pair()
    done = threading.Event()

    def converse() -> None:
        for _ in range(150):
            pair.bob.receive(pair.alice.send(pair.bob.did, b"x"))
            pair.alice.receive(pair.bob.send(pair.alice.did, b"y"))
        done.set()

    def look() -> None:
        while not done.is_set():
            for agent, peer in ((pair.alice, pair.bob), (pair.bob, pair.alice)):
                restored = Agent.restore(agent.export_state(), clock=ManualClock(pair.clock.now_ms))
                assert restored.session(peer.did).session_id == agent.session(peer.did).session_id
                agent.poll()
                _ = agent.next_deadline_ms
                agent.pending_knocks()

    together(converse, look, look)


def test_one_verdict_on_a_knock() -> None:
    pair = agent_pair()
    bundle = pair.bob.publish_bundles(1).one_time[0]
    [event] = pair.bob.receive(pair.alice.knock(pair.bob.did, bundle, Intent("race")))
    assert isinstance(event, KnockReceived)
    verdicts: list[bytes] = []

    def accept() -> None:
        try:
            verdicts.append(pair.bob.accept(event).envelope)
        except KnockNotPending:
            return

    def reject() -> None:
        try:
            verdicts.append(pair.bob.reject(event).envelope)
        except KnockNotPending:
            return

    together(*[accept, reject] * 4)
    assert len(verdicts) == 1
    pair.alice.receive(verdicts[0])


def test_one_knock_in_many_threads_is_one_session() -> None:
    pair = agent_pair()
    bundle = pair.bob.publish_bundles(1).one_time[0]
    knock = pair.alice.knock(pair.bob.did, bundle, Intent("race")).envelope
    events: list[object] = []

    def receive() -> None:
        try:
            events.extend(pair.bob.receive(knock))
        except KnockReplayed:
            return

    together(*[receive] * THREADS)
    assert len([event for event in events if isinstance(event, KnockReceived)]) == len(events) == 1


def test_knocks_of_many_threads_stay_within_five() -> None:
    pair = agent_pair()
    bundles = list(pair.bob.publish_bundles(THREADS * 2, last_resort=False).one_time)
    knocks: list[bytes] = []

    def work() -> None:
        for _ in range(2):
            try:
                knocks.append(pair.alice.knock(pair.bob.did, bundles.pop(), Intent("race")).envelope)
            except TooManySessions:
                continue

    together(*[work] * THREADS)
    assert len(knocks) == len(set(knocks)) == 5


def test_closing_while_others_send_loses_nothing() -> None:
    pair: Pair = established_pair(limits=Limits(skipped_keys_per_step=50_000, skipped_keys_per_session=50_000))
    sent: list[bytes] = []
    closed: list[bytes] = []

    def send() -> None:
        try:
            for _ in range(2000):
                sent.append(pair.alice.send(pair.bob.did, b"data").envelope)
        except (NoSession, SessionNotOpen):
            return

    def close() -> None:
        while len(sent) < 50:
            pass
        closed.append(pair.alice.close(pair.bob.did).envelope)

    together(*[send] * (THREADS - 1), close)
    [event] = pair.bob.receive(closed[0])
    assert sum(map(len, event.missing)) == len(sent)  # type: ignore[union-attr]
    opened = sum(isinstance(one, MessageReceived) for envelope in sent for one in pair.bob.receive(envelope))
    assert opened == len(sent)
    assert str(pair.bob.session(pair.alice.did).status.phase) == "closed"
