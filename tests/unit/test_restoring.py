"""Restoring (section 7.1): an older export is noticed, and a policy is not lost by mistake."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentmesh import Agent, AskApplication, Deny, Grant, IdentityKey, Intent
from agentmesh.at_rest import StateKind, export_fields
from agentmesh.audit import AuditJournal, AuditLog, MemorySink
from agentmesh.engine.rows import Rows, rows_of, state_of
from agentmesh.engine.state import AgentState, RowKind
from agentmesh.errors import AgentMeshError, ArgumentInvalid, CommitFailed, StateMalformed, StateStale, StoreError
from agentmesh.limits import UINT_MAX
from agentmesh.policy import KnockRequest
from agentmesh.primitives import _wire
from agentmesh.session import at_rest
from agentmesh.testing import ManualClock, Pair, agent_pair, established_pair
from agentmesh.trust import AdmissionPolicy

MESH = "example/test"

# --- how old it is ---------------------------------------------------------------------------------------------------


class Bench:
    """One agent, its peer, and what a random caller may do with it."""

    def __init__(self, seed: int) -> None:
        self.pair: Pair = established_pair(seed)
        self.agent, self.peer, self.clock = self.pair.alice, self.pair.bob, self.pair.clock
        self.letters: list[bytes] = []
        self.bundle = self.peer.publish_bundles(20).one_time

    def call(self, name: str) -> None:
        agent, peer = self.agent, self.peer
        with suppress(AgentMeshError):
            if name == "send":
                agent.send(peer.did, b"x")
            elif name == "receive":
                self.letters.append(peer.send(agent.did, b"y").envelope)
                agent.receive(self.letters[-1])
            elif name == "receive again":
                agent.receive(self.letters[-1] if self.letters else b"")
            elif name == "knock":
                agent.knock(peer.did, self.bundle[agent.generation % 20], Intent("test"))
            elif name == "receive a KNOCK":
                agent.receive(peer.knock(agent.did, agent.publish_bundles(1).one_time[0], Intent("test")).envelope)
            elif name == "accept":
                agent.accept(agent.pending_knocks()[-1] if agent.pending_knocks() else None)  # type: ignore[arg-type]
            elif name == "publish":
                agent.publish_bundles(1)
            elif name == "publish none":
                agent.publish_bundles(0, last_resort=False)
            elif name == "withdraw":
                agent.withdraw_bundles()
            elif name == "rubbish":
                agent.receive(b"rubbish")
            elif name == "close":
                agent.close(peer.did)
            elif name == "much later":
                self.clock.advance(seconds=3 * 86_400)
                agent.poll()
            elif name == "record":
                agent.record_refusals()
            else:
                agent.poll()


def but_the_generation(state: AgentState) -> Rows:
    return {key: row for key, row in rows_of(state).items() if key[0] is not RowKind.GENERATION}


CALLS = (
    "send", "receive", "receive again", "knock", "receive a KNOCK", "accept", "publish", "publish none", "withdraw",
    "rubbish", "close", "much later", "record", "poll",
)  # fmt: skip


@given(st.lists(st.sampled_from(CALLS), max_size=25), st.integers(0, 3))
def test_the_generation_counts_what_changes_the_state_and_nothing_else(calls: list[str], seed: int) -> None:
    bench = Bench(seed)
    state = bench.agent._core.state
    exports = {state.generation: bench.agent.export_state()}
    for name in calls:
        before, durable = bench.agent.generation, but_the_generation(state)
        bench.call(name)
        after = bench.agent.generation
        assert (before < after) == (but_the_generation(state) != durable), name
        assert before <= after
        exports[after] = bench.agent.export_state()
    newest = max(exports)
    for generation, exported in exports.items():
        for known in {0, generation, newest}:
            if known <= generation:
                restored = Agent.restore(exported, at_least_generation=known, clock=bench.clock)
                assert restored.generation == generation
            else:
                with pytest.raises(StateStale):
                    Agent.restore(exported, at_least_generation=known, clock=bench.clock)


def test_an_older_export_is_noticed() -> None:
    pair = established_pair()
    old, generation = pair.alice.export_state(), pair.alice.generation
    pair.alice.send(pair.bob.did, b"x")
    assert pair.alice.generation == generation + 1
    with pytest.raises(StateStale) as caught:
        Agent.restore(old, at_least_generation=pair.alice.generation, clock=pair.clock)
    assert isinstance(caught.value, StoreError)
    assert (caught.value.code, bool(caught.value.hint)) == ("state.stale", True)
    Agent.restore(pair.alice.export_state(), at_least_generation=pair.alice.generation, clock=pair.clock)
    Agent.restore(old, clock=pair.clock)


@pytest.mark.parametrize("wrong", [-1, True, 1.0, None, "1", 2**53])
def test_an_age_that_is_no_count_is_refused(wrong: Any) -> None:
    with pytest.raises(ArgumentInvalid) as caught:
        Agent.restore(established_pair().alice.export_state(), at_least_generation=wrong)
    assert caught.value.argument == "at_least_generation"


def test_a_new_agent_has_changed_nothing() -> None:
    agent = Agent.create(MESH)
    assert agent.generation == 0
    agent.publish_bundles(3)
    assert agent.generation == 1


def test_what_the_journal_does_not_take_does_not_count() -> None:
    class Broken:
        def commit(self, _changes: object, _records: object, /) -> None:
            raise OSError

    pair = established_pair()
    alice = Agent.restore(pair.alice.export_state(), clock=pair.clock, journal=Broken())
    generation = alice.generation
    with pytest.raises(CommitFailed):
        alice.send(pair.bob.did, b"x")
    assert alice.generation == generation


def test_what_is_only_recorded_does_not_count() -> None:
    pair = established_pair()
    log = AuditLog(MemorySink())
    alice = Agent.restore(pair.alice.export_state(), clock=pair.clock, journal=AuditJournal(log))
    generation = alice.generation
    with suppress(AgentMeshError):
        alice.receive(b"rubbish")
    alice.record_refusals()
    assert (len(log), alice.generation) == (1, generation)


def test_the_last_generation_is_exported_restored_and_kept() -> None:
    pair = established_pair()
    pair.alice._core.state.generation = UINT_MAX - 1
    for _ in range(3):
        pair.alice.send(pair.bob.did, b"x")
        exported = pair.alice.export_state()
        again = Agent.restore(exported, at_least_generation=UINT_MAX, clock=pair.clock)
        assert again.generation == UINT_MAX
        assert state_of(rows_of(again._core.state)).generation == UINT_MAX


def test_a_store_of_rows_knows_the_generation() -> None:
    class Store:
        def __init__(self, rows: Rows) -> None:
            self.rows = rows
            self.commits: list[int] = []

        def commit(self, changes: Any, _records: object, /) -> None:
            written = changes.rows()
            self.rows.update(written)
            self.commits.append(state_of({**self.rows}).generation)
            assert changes.rows() == written
            later.append((changes, written))

    later: list[tuple[Any, Any]] = []
    pair = established_pair()
    store = Store(rows_of(pair.alice._core.state))
    alice = Agent.restore(pair.alice.export_state(), clock=pair.clock, journal=store)
    first = alice.generation
    for _ in range(4):
        alice.send(pair.bob.did, b"x")
    assert store.commits == [first + 1, first + 2, first + 3, first + 4]
    assert state_of(store.rows).generation == alice.generation == first + 4
    for changes, written in later[-1:]:  # asked once more after the step took effect
        assert changes.rows() == written
    agents = [key for _, rows in later for key in rows if key[0] is RowKind.AGENT]
    assert agents == []  # the seed is written once


# --- its policy ------------------------------------------------------------------------------------------------------


class Staff(AskApplication):
    """A policy of the application's own, though it inherits."""


class Nobody:
    """A policy that is falsy and lets nobody in."""

    def __len__(self) -> int:
        return 0

    def may_knock(self, _sender: object, /) -> bool:
        return False

    def decide(self, _knock: KnockRequest, /) -> Grant | Deny:
        return Deny()

    def still_allowed(self, _peer: IdentityKey, /) -> bool:
        return False


OWN: dict[str, Callable[[], Any]] = {"staff": Staff, "nobody": Nobody, "admission": AdmissionPolicy}
NONE: dict[str, Callable[[], Any]] = {"none": lambda: None, "the default": AskApplication}


@pytest.mark.parametrize("make", OWN.values(), ids=OWN)
def test_an_agent_with_a_policy_does_not_come_back_without_one(make: Callable[[], Any]) -> None:
    clock = ManualClock()
    exported = Agent.create(MESH, clock=clock, policy=make()).export_state()
    with pytest.raises(ArgumentInvalid) as caught:
        Agent.restore(exported, clock=clock)
    assert caught.value.argument == "policy"
    assert "AskApplication()" in str(caught.value)
    kept = Agent.restore(exported, clock=clock, policy=make())
    assert kept.export_state() == exported
    # Given up on purpose, and from then on there is none to be missed.
    given_up = Agent.restore(exported, clock=clock, policy=AskApplication()).export_state()
    assert Agent.restore(given_up, clock=clock).export_state() == given_up


@pytest.mark.parametrize("make", NONE.values(), ids=NONE)
def test_an_agent_without_a_policy_comes_back_with_or_without_one(make: Callable[[], Any]) -> None:
    exported = Agent.create(MESH, policy=make()).export_state()
    assert Agent.restore(exported).export_state() == exported
    taken_up = Agent.restore(exported, policy=Nobody()).export_state()
    with pytest.raises(ArgumentInvalid):
        Agent.restore(taken_up)


@given(st.lists(st.sampled_from([*OWN, *NONE]), min_size=1, max_size=6))
def test_through_any_restarts_the_last_word_on_the_policy_counts(names: list[str]) -> None:
    makers = {**OWN, **NONE}
    exported = Agent.create(MESH, policy=makers[names[0]]()).export_state()
    had = names[0] in OWN
    for name in names[1:]:
        if had and name == "none":
            with pytest.raises(ArgumentInvalid):
                Agent.restore(exported)
            continue
        exported = Agent.restore(exported, policy=makers[name]()).export_state()
        had = name in OWN
        assert state_of(rows_of(Agent.restore(exported, policy=Nobody())._core.state)).has_policy


def test_rows_say_whether_there_was_a_policy() -> None:
    for policy, had in ((None, False), (AskApplication(), False), (Nobody(), True), (Staff(), True)):
        state = Agent.create(MESH, policy=policy)._core.state
        assert state_of(rows_of(state)).has_policy is had


def test_a_state_is_told_stale_before_its_policy_is_missed() -> None:
    exported = Agent.create(MESH, policy=Nobody()).export_state()
    with pytest.raises(StateStale):
        Agent.restore(exported, at_least_generation=1)


def test_no_generation_and_no_flag_of_another_kind_is_taken() -> None:
    agent = agent_pair().alice
    seed = agent.identity.seed.reveal()
    fields = [seed, 0, [], [], []]
    assert Agent.restore(export_fields(StateKind.AGENT, MESH, 0, fields)).did == agent.did
    for wrong in (True, False, 2, None, b"\x01", "1", -1):
        with pytest.raises(StoreError):
            Agent.restore(export_fields(StateKind.AGENT, MESH, 0, [seed, wrong, [], [], []]))
        with pytest.raises(StoreError):
            Agent.restore(export_fields(StateKind.AGENT, MESH, -1 if wrong == 2 else wrong, fields))  # type: ignore[arg-type]


# --- the pattern of a session ----------------------------------------------------------------------------------------


def restored(data: bytes, agent: Agent, layout: _wire.Array) -> bytes | None:
    """What is exported again of a session that is restored by this layout; `None` where it is refused."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(at_rest, "_TAGS", {**at_rest._TAGS, 3: layout})
        patched.setattr(at_rest, "_SESSION", layout)
        try:
            return at_rest.export_session(at_rest.restore_session(data, mesh=agent.mesh, own_did=agent.did))
        except StateMalformed:
            return None


@given(st.integers(0, 7), st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=3))
def test_a_session_is_restored_alike_by_its_pattern_and_by_its_fields(
    turns: int, spoiled: list[tuple[int, int]]
) -> None:
    by_pattern, by_fields = at_rest._SESSION, _wire.array(*at_rest._SESSION.kinds)
    pair = established_pair(turns)
    for _ in range(turns):
        pair.bob.receive(pair.alice.send(pair.bob.did, b"x"))
        pair.alice.receive(pair.bob.send(pair.alice.did, b"y"))
    for agent in (pair.alice, pair.bob):
        [held] = agent._core.state.sessions.values()
        data = bytearray(at_rest.export_session(held))
        for at, byte in spoiled:
            data[at % len(data)] = byte
        for _ in range(20):  # the pattern is made once the layout was met so often
            found = restored(bytes(data), agent, by_pattern)
        assert found == restored(bytes(data), agent, by_fields)
        assert found in (None, bytes(data))
        if not spoiled:
            assert found is not None
            assert by_pattern.often is not None
            assert by_pattern.often.knows(bytes(data))
