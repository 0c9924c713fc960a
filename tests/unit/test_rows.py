"""What a change leads to, said both ways: as rows before it takes effect, and as the state afterwards.

Random schedules over a hostile mesh, with leaps of time, drive every kind of change. At each step of each agent: the
rows alter nothing; a store that keeps them equals the state; a change twice, a step broken off and done again, and a
step done again after it was done are the same as once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentmesh import Agent, AskApplication, Conditions, Identity, IdentityKey, Limits
from agentmesh.engine import changes as change_kinds
from agentmesh.engine.draft import Noted
from agentmesh.engine.export import export_agent, put_peer
from agentmesh.engine.rows import ChangesNoted, ChangesOf, RowKey, Rows, rows_after, rows_of, state_of
from agentmesh.engine.seam import Seam
from agentmesh.engine.state import AgentState, Change, Changes, RowKind, Step
from agentmesh.errors import Malformed, StateMalformed, StateVersionUnknown
from agentmesh.primitives import _wire
from agentmesh.session.at_rest import export_session
from agentmesh.session.established import MessageSent, MessageTaken
from agentmesh.testing import Faults, ManualClock, MeshSimulator, SeededEntropy, established_pair

SCHEDULES = 24
ACTIONS = 60
HOUR = 3600
CHANGE_KINDS = {
    MessageSent,
    MessageTaken,
    *(
        value
        for value in vars(change_kinds).values()
        if isinstance(value, type) and value.__module__ == change_kinds.__name__ and hasattr(value, "apply")
    ),
}


GENERATION = (RowKind.GENERATION, b"")
NOW_MS = 0  # no bundle is past its time: rows are of all that is held


class Witness:
    """Stands at the seam of every agent, and keeps a store of rows for each."""

    def __init__(self) -> None:
        self.seen: set[type] = set()
        self.steps = 0
        self.removed: set[str] = set()
        self._before: tuple[int, Rows] = (0, {})
        self._stores: dict[int, tuple[AgentState, Rows]] = {}  # the state is held, so that its id stays its own

    def store(self, state: AgentState) -> Rows:
        """Return the store of this state; one that a restart has brought begins with what was restored."""
        if id(state) not in self._stores:
            self._stores[id(state)] = state, rows_of(state)
        return self._stores[id(state)][1]

    def before(self, state: AgentState, changes: tuple[Change, ...]) -> None:
        self.steps += bool(changes)
        self.seen |= {type(change) for change in changes}
        store, exported = self.store(state), export_agent(state, NOW_MS)
        rows = rows_after(state, changes)
        assert rows_after(state, [change for change in changes for _ in range(2)]) == rows
        for done in range(1, len(changes) + 1):  # broken off behind so many changes, and done again
            assert rows_after(state, changes[:done] + changes) == rows
        told = ChangesOf(changes, state, state.generation + 1).rows()
        assert told == {**rows, **({GENERATION: (state.generation + 1).to_bytes(8, "big")} if changes else {})}
        assert export_agent(state, NOW_MS) == exported  # and nothing was altered
        self.removed |= {str(kind) for (kind, key), data in rows.items() if data is None and (kind, key) in store}
        keep(store, told)
        self._before = state.generation, _ungenerated(state)

    def after(self, state: AgentState, changes: tuple[Change, ...]) -> None:
        generation, exported = self._before
        # What changes nothing durable does not count, and what counts changes something.
        assert state.generation == generation + bool(changes)
        assert (_ungenerated(state) != exported) == bool(changes), changes
        assert self.store(state) == rows_of(state) == rows_of(state_of(self.store(state)))
        exported = export_agent(state, NOW_MS)
        for change in changes:
            change.apply(state)
        assert export_agent(state, NOW_MS) == exported


def _ungenerated(state: AgentState) -> Rows:
    return {key: data for key, data in rows_of(state).items() if key != GENERATION}


def keep(store: Rows, rows: dict[RowKey, bytes | None]) -> None:
    for key, data in rows.items():
        if data is None:
            store.pop(key, None)
        else:
            store[key] = data


@contextmanager
def witnessed() -> Iterator[Witness]:
    witness, commit = Witness(), Seam._commit

    def watched(seam: Seam, step: Step[Any]) -> None:
        state = seam._core.state
        witness.before(state, step.changes)
        commit(seam, step)
        witness.after(state, step.changes)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Seam, "_commit", watched)
        yield witness


# Not all are likely in one mesh: what is kept for long goes soon here, and a peer may lose its state.
LIMITS = Limits(
    skipped_key_lifetime_seconds=6 * HOUR,
    one_time_lifetime_seconds=2 * 86_400,
    last_resort_lifetime_seconds=4 * 86_400,
    last_resort_rotation_seconds=86_400,
    ended_session_seconds=2 * HOUR,
)


class Moody(AskApplication):
    """A policy that denies a peer now and then, which waives what it is owed."""

    def __init__(self, random: Random) -> None:
        self._random = random

    def still_allowed(self, peer: IdentityKey, /) -> bool:
        return self._random.randrange(20) > 0


def drive(seed: int) -> None:
    """Let agents do what they may, in any order; whether anything arrives is for other tests."""
    random = Random(f"{seed}/rows")
    mesh = MeshSimulator(
        seed,
        one_time=2,
        limits=LIMITS,
        policy=Moody(random),
        acknowledge=True,
        reliable=seed % 3 > 0,
        conditions=Conditions(ttl_seconds=30 * HOUR) if seed % 2 else Conditions(),
        defer_percent=50,
        reject_percent=20,
        late_answers_max=None,
        faults=Faults(drop_percent=12, delay_percent=20, reorder_percent=50, crash_percent=5, lost_state_percent=2),
    )
    for number in range(ACTIONS):
        one, other = random.sample(mesh.names, 2)
        choice = random.randrange(100)
        if choice < 40:
            mesh.send(one, other, b"%d" % number)
        elif choice < 55:
            mesh.knock(one, other, early_payload=b"early %d" % number if choice % 2 else None)
        elif choice < 60:
            mesh.close(one, other)
        elif choice < 65:
            drop_one(mesh, one, other, random)
        elif choice < 72:
            mesh.clock.advance(seconds=random.choice((700, 3 * HOUR, 7 * HOUR)))
        elif choice < 74:
            mesh.clock.advance(seconds=random.choice((2, 20)) * 86_400)
        mesh.run(random.randrange(4))
        mesh.poll(one)
        tend(mesh, one, random)
    mesh.clock.advance(seconds=40 * 86_400)
    for name in mesh.names:
        mesh.poll(name)  # ends what is left; the next poll forgets it
    mesh.clock.advance(seconds=86_400)
    for name in mesh.names:
        mesh.poll(name)


def tend(mesh: MeshSimulator, name: str, random: Random) -> None:
    """Have an application be done with some of what it was told, and its relay take some of what waits."""
    host = mesh._hosts[name]
    for event in host.agent.inbox()[:4]:
        if random.randrange(2):
            host.attempt(lambda agent, event=event: agent.done(event))
    for waiting in host.agent.outbox()[:4]:
        host.attempt(lambda agent, waiting=waiting: agent.sent(waiting.receipt, final=not random.randrange(8)))


def drop_one(mesh: MeshSimulator, name: str, other: str, random: Random) -> None:
    views = mesh.agent(name).sessions(mesh.did(other))
    if views:
        session_id = random.choice(views).session_id
        mesh._hosts[name].attempt(lambda agent: agent.drop(mesh.did(other), session_id))


def test_what_the_rows_say_is_what_the_steps_do() -> None:
    with witnessed() as witness:
        for seed in range(SCHEDULES):
            drive(seed)
    assert witness.seen == CHANGE_KINDS
    assert witness.removed == {"bundle", "inbox", "kept", "knock", "outbox", "peer", "session"}
    assert witness.steps > SCHEDULES * ACTIONS


class Noting:
    """Applies the steps of every agent to its state, noted; now and then it looks at what was noted."""

    def __init__(self, random: Random) -> None:
        self.batches = 0
        self._random = random
        self._noted: dict[int, tuple[Noted, Rows, list[Change]]] = {}

    def apply(self, seam: Seam, step: Step[Any]) -> None:
        state = seam._core.state
        if id(state) not in self._noted:
            self._noted[id(state)] = Noted(state), rows_of(state), []
        noted, before, changes = self._noted[id(state)]
        changes += step.changes
        for change in step.changes:
            change.apply(noted)
        state.generation = step.generation
        if step.afterwards is not None:
            step.afterwards()
            step.afterwards = None
        if self._random.randrange(12) == 0:
            told = ChangesNoted(tuple(changes), noted).rows()
            after = rows_of(state)
            keep(before, told)
            assert before == after
            assert all(after.get(key) == data for key, data in told.items())
            self.batches += bool(changes)
            del self._noted[id(state)]


@pytest.mark.parametrize("seed", range(6))
def test_the_rows_that_are_noted_over_many_steps_are_what_they_come_to(seed: int) -> None:
    noting = Noting(Random(f"{seed}/noting"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Seam, "_apply", lambda seam, step: noting.apply(seam, step))
        drive(seed)
    assert noting.batches > 5


# --- a store that keeps rows -----------------------------------------------------------------------------------------


class RowStore:
    """A journal that keeps rows, in a few lines."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows

    def commit(self, changes: Changes, _records: tuple[object, ...], /) -> None:
        keep(self.rows, dict(changes.rows()))


def reopened(store: RowStore, clock: ManualClock) -> Agent:
    state = export_agent(state_of(store.rows), NOW_MS)
    return Agent.restore(state, clock=clock, entropy=SeededEntropy("again"), journal=store)


def test_an_agent_that_is_restored_from_its_rows_converses_on() -> None:
    pair = established_pair()
    store = RowStore(rows_of(pair.alice._core.state))
    alice = reopened(store, pair.clock)
    for number in range(4):
        [event] = pair.bob.receive(alice.send(pair.bob.did, b"%d" % number))
        assert event.plaintext == b"%d" % number
        [event] = alice.receive(pair.bob.send(alice.did, b"and %d" % number))
        assert event.plaintext == b"and %d" % number
        assert rows_of(alice._core.state) == store.rows
        alice = reopened(store, pair.clock)
    alice.close(pair.bob.did)
    assert rows_of(alice._core.state) == store.rows


def some_rows() -> Rows:
    """Return the rows of an agent that has one of everything."""
    mesh = MeshSimulator("rows", one_time=2, defer_percent=100, faults=Faults(drop_percent=0), reliable=True)
    for _ in range(2):
        mesh.knock("alice", "bob")
    mesh.knock("bob", "alice")
    mesh.run(20)
    mesh.settle()
    mesh.send("alice", "bob", b"under way")
    mesh.knock("bob", "alice")
    mesh.knock("alice", "bob")
    while mesh.in_flight:
        mesh.deliver()
    mesh.close("alice", "bob")
    while mesh.in_flight:
        mesh.deliver()
    mesh.send("alice", "bob", b"lost")
    mesh.drop()
    mesh.send("alice", "bob", b"so a key is kept")
    mesh.deliver()
    return rows_of(mesh.agent("bob")._core.state)


ROWS = some_rows()


def test_the_rows_have_one_of_everything() -> None:
    kinds = {kind for kind, _ in ROWS}
    assert kinds == set(RowKind)
    assert {_wire.peek_version(data) for (kind, _), data in ROWS.items() if kind is RowKind.SESSION} == {1, 2, 3, 4}


@given(st.permutations(sorted(ROWS)))
def test_the_state_of_rows_has_these_rows_whatever_their_order(keys: list[RowKey]) -> None:
    restored = state_of({key: ROWS[key] for key in keys})
    assert rows_of(restored) == ROWS
    assert rows_of(state_of(rows_of(restored))) == ROWS


@given(st.data())
def test_damaged_rows_are_refused(data: st.DataObject) -> None:
    rows = dict(ROWS)
    key = data.draw(st.sampled_from(sorted(rows)))
    how = data.draw(st.sampled_from(["cut", "longer", "another's", "gone", "not bytes"]))
    if how == "cut":
        rows[key] = rows[key][: data.draw(st.integers(0, len(rows[key]) - 1))]
    elif how == "longer":
        rows[key] += data.draw(st.binary(min_size=1, max_size=4))
    elif how == "another's":
        rows[key] = rows[data.draw(st.sampled_from(sorted(key_ for key_ in rows if key_ != key)))]
    elif how == "not bytes":
        rows[key] = data.draw(st.sampled_from([None, 7, "text", bytearray(rows[key])]))  # type: ignore[assignment]
    else:
        del rows[key]
        if key[0] in {RowKind.BUNDLE, RowKind.INBOX, RowKind.KEPT, RowKind.KNOCK, RowKind.OUTBOX}:
            return  # nothing here says that there was one more: a store's hash over all of them does
    # What stands at the front of another row may read as a version.
    versioned = key[0] is RowKind.AGENT and how == "another's"
    with pytest.raises((StateMalformed, StateVersionUnknown) if versioned else StateMalformed):
        state_of(rows)


@pytest.mark.parametrize("key", sorted(ROWS), ids=lambda key: f"{key[0]}-{key[1].hex()[:8]}")
def test_a_row_under_another_key_is_refused(key: RowKey) -> None:
    rows = dict(ROWS)
    rows[key[0], key[1][:-1] + bytes([key[1][-1] ^ 1]) if key[1] else b"key"] = rows.pop(key)
    if key[0] is RowKind.KEPT:  # only its key says whose it is: a store seals it under that
        assert rows_of(state_of(rows)) == rows
        return
    with pytest.raises(StateMalformed):
        state_of(rows)


@given(st.data())
def test_a_bit_that_flips_is_refused_or_makes_another_state(data: st.DataObject) -> None:
    rows = dict(ROWS)
    key = data.draw(st.sampled_from(sorted(rows)))
    at = data.draw(st.integers(0, 8 * len(rows[key]) - 1))
    flipped = bytearray(rows[key])
    flipped[at // 8] ^= 1 << at % 8
    rows[key] = bytes(flipped)
    try:
        restored = state_of(rows)
    except (StateMalformed, StateVersionUnknown):
        return
    assert rows_of(restored) == rows  # nothing is repaired in silence


def test_a_session_that_no_peer_names_is_refused() -> None:
    rows = dict(ROWS)
    key = next(key for key in rows if key[0] is RowKind.PEER)
    raw, latest_ms, own_ms, session_ids = _wire.decode(
        rows[key], _wire.array(_wire.Bin(32), _wire.Maybe(_wire.Uint()), _wire.Maybe(_wire.Uint()), IDS), 1 << 16
    )
    for ids in (session_ids[1:], [*session_ids, session_ids[0]], [*session_ids, bytes(16)]):
        with pytest.raises(StateMalformed):
            state_of({**rows, key: _wire.encode([raw, latest_ms, own_ms, ids])})


@pytest.mark.parametrize("name", [(RowKind.AGENT, b"x"), (RowKind.GENERATION, b"x"), ("tail", b"")])
def test_a_row_that_is_none_of_a_state_is_refused(name: Any) -> None:
    copied = ROWS.get((name[0], b""), b"x")
    with pytest.raises(StateMalformed):
        state_of({**ROWS, name: copied})


def test_two_peers_do_not_have_one_session() -> None:
    state = established_pair().alice._core.state
    [(session_id, held)] = state.sessions.items()
    [own] = state.peers
    other = Identity.generate(SeededEntropy(b"another")).key.raw
    put_peer(restored := AgentState(state.identity, state.mesh), own, None, None, [(export_session(held), ())])
    exported = export_session(held).replace(own, other)
    with pytest.raises(Malformed):
        put_peer(restored, other, None, None, [(exported, ())])
    assert restored.sessions.keys() == {session_id}


IDS = _wire.ArrayOf(_wire.Bin(16), 100)


def test_the_rows_of_a_newer_release_say_so() -> None:
    key = (RowKind.AGENT, b"")
    layout = _wire.array(_wire.Uint(), _wire.Text(1, 64), _wire.Bin(32), _wire.Uint(1))
    _, *fields = _wire.decode(ROWS[key], layout, 1 << 10)
    with pytest.raises(StateVersionUnknown):
        state_of({**ROWS, key: _wire.encode([2, *fields])})
    with pytest.raises(StateVersionUnknown):
        state_of({**ROWS, key: _wire.encode([2, "another", "shape"])})
