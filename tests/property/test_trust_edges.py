"""Whatever is allowed can be exported, and what was exported can be restored: every value at its edges (section 9)."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentmesh.audit import AuditLog, MemorySink, verified_records
from agentmesh.errors import AgentMeshError, StatementStale
from agentmesh.identity import Identity
from agentmesh.limits import UINT_MAX, Limits
from agentmesh.testing import SeededEntropy
from agentmesh.trust import (
    RevocationList,
    Statement,
    Successions,
    TrustGraph,
    TrustLedger,
    issue_continuity,
    issue_edge,
    issue_revocation,
    issue_trust,
    statement_record,
)

DAY = 86_400_000
TOLERANCE = 300_000
PEOPLE = [Identity.generate(SeededEntropy(f"at the edge {number}")) for number in range(4)]
ME, ANN, BEN, CAL = PEOPLE

MESHES = st.sampled_from(["m", "m" * 64, "../..", "a/b_c.d-e"])
NUMBERS = st.sampled_from([0, 1, 255, 256, 65_535, 2**32 - 1, 2**32, UINT_MAX - 1, UINT_MAX])
SCORES = st.sampled_from([0, 1, 499, 500, 999, 1000])
WHO = st.sampled_from(PEOPLE)


def restored(state: Any, **options: Any) -> Any:
    """What comes back from rest, which is what went there."""
    exported = state.export_state()
    extra = (ME.key,) if type(state) is TrustGraph else ()
    again = type(state).restore(exported, *extra, at_least_generation=state.generation, **options)
    assert again.export_state() == exported
    assert again.generation == state.generation
    return again


def with_generation(state: Any, generation: int) -> Any:
    """The same state, as one that has changed so often."""
    kind, version, mesh, _, fields = msgpack.unpackb(msgpack.unpackb(state.export_state())[0])
    body = msgpack.packb([kind, version, mesh, generation, fields])
    data = msgpack.packb([body, hashlib.sha256(body).digest()])
    extra = (ME.key,) if type(state) is TrustGraph else ()
    return type(state).restore(data, *extra)


def recorded(statement: Statement, at_ms: int) -> None:
    """Its record is one."""
    log = AuditLog(MemorySink())
    log.append([statement_record(statement, at_ms=at_ms)])
    [record] = verified_records(log.entries())
    assert (record.number, record.envelope_time_ms) == (statement.sequence, statement.time_ms)


# --- the ledger -------------------------------------------------------------------------------------------------------

WINDOWS = st.sampled_from([1, 23, 24, 25, 86_400, UINT_MAX // 1000, UINT_MAX])
SIGNALS = st.sampled_from([-1000, -201, -200, -1, 0, 1, 200, 201, 1000])
TIMES = st.one_of(NUMBERS, st.sampled_from([DAY, 2 * DAY, UINT_MAX - DAY, UINT_MAX - 2 * DAY - TOLERANCE]))
# Who says it, of whom, its time and how far ahead of now that is, its sequence and signal.
UPDATES = st.lists(
    st.tuples(
        st.sampled_from([ME, CAL]),
        st.sampled_from([ANN, ANN, BEN]),
        TIMES,
        st.sampled_from([0, 0, -TOLERANCE, DAY, 1]),
        st.sampled_from([0, UINT_MAX - 1, UINT_MAX, UINT_MAX]),
        SIGNALS,
    ),
    min_size=2,
    max_size=12,
)


@given(mesh=MESHES, default=SCORES, window=WINDOWS, updates=UPDATES, in_order=st.booleans())
def test_a_ledger_comes_back_from_any_edge(
    mesh: str, default: int, window: int, updates: list[Any], in_order: bool
) -> None:
    limits = Limits(trust_window_seconds=window)
    ledger = TrustLedger(mesh, default_score=default, limits=limits)
    for person in PEOPLE:
        ledger.believe(person.key)
    for issuer, subject, time_ms, late_ms, sequence, signal in sorted(updates, key=_by_time) if in_order else updates:
        statement = issue_trust(issuer, subject.key, signal, mesh=mesh, sequence=sequence, time_ms=time_ms)
        now_ms = max(0, min(UINT_MAX, time_ms + late_ms))
        try:
            update = ledger.apply(statement, now_ms=now_ms)
        except StatementStale:
            continue
        recorded(update, now_ms)
        again = restored(ledger, limits=limits)
        assert [again.score(person.key) for person in PEOPLE] == [ledger.score(person.key) for person in PEOPLE]
        ledger = again
    for heir in PEOPLE:
        with suppress(AgentMeshError):
            ledger.inherit(ANN.key, heir.key)
    ledger.disbelieve(ME.key, take_back=True)
    restored(ledger, limits=limits)


def _by_time(update: tuple[Any, ...]) -> int:
    time_ms: int = update[2]
    return time_ms


def test_the_last_sequence_is_settled_like_any_other() -> None:
    ledger = TrustLedger("m")
    ledger.believe(ME.key)
    last = issue_trust(ME, ANN.key, 150, mesh="m", sequence=UINT_MAX, time_ms=0)
    ledger.apply(last, now_ms=0)
    other = issue_trust(BEN, ANN.key, 50, mesh="m", sequence=0, time_ms=9 * DAY)
    ledger.believe(BEN.key)
    ledger.apply(other, now_ms=9 * DAY)
    again = restored(ledger)
    assert again.score(ANN.key) == 200
    # It is spent, and so is every one before it.
    for sequence in (0, UINT_MAX):
        with pytest.raises(StatementStale):
            again.apply(issue_trust(ME, ANN.key, 1, mesh="m", sequence=sequence, time_ms=9 * DAY), now_ms=9 * DAY)


# --- the graph, the list, successions ---------------------------------------------------------------------------------


@given(mesh=MESHES, edges=st.lists(st.tuples(WHO, WHO, SCORES, NUMBERS, NUMBERS), min_size=1, max_size=12))
def test_a_graph_comes_back_from_any_edge(mesh: str, edges: list[Any]) -> None:
    graph = TrustGraph(mesh, ME.key)
    for issuer, subject, weight, sequence, time_ms in edges:
        if issuer is subject:
            continue
        statement = issue_edge(issuer, subject.key, weight, mesh=mesh, sequence=sequence, time_ms=time_ms)
        try:
            recorded(graph.apply(statement, now_ms=UINT_MAX), UINT_MAX)
        except StatementStale:
            continue
        again = restored(graph)
        # What is not exported is computed anew: who counts as a stranger decides who finds room.
        assert (len(again), again._strangers, again._by_subject) == (len(graph), graph._strangers, graph._by_subject)
        assert [again.score(person.key) for person in PEOPLE] == [graph.score(person.key) for person in PEOPLE]
        graph = again


@given(mesh=MESHES, revocations=st.lists(st.tuples(WHO, WHO, NUMBERS, NUMBERS), min_size=1, max_size=8))
def test_a_list_comes_back_from_any_edge(mesh: str, revocations: list[Any]) -> None:
    held = RevocationList(mesh)
    held.believe(ME.key)
    for issuer, subject, sequence, time_ms in revocations:
        with suppress(AgentMeshError):
            recorded(
                held.apply(issue_revocation(issuer, subject.key, mesh=mesh, sequence=sequence, time_ms=time_ms)), 0
            )
        again = restored(held)
        assert [again.is_revoked(person.key) for person in PEOPLE] == [held.is_revoked(one.key) for one in PEOPLE]
        held = again


NAMES = st.one_of(
    st.none(),
    st.sampled_from(["n", "n" * 128, "\x00", "\U0010ffff" * 32, "é" * 64, "\ud7ff", "\u202e", " ", "\ufeff"]),
)


@given(
    mesh=MESHES,
    names=st.tuples(NAMES, NAMES),
    offers=st.lists(st.tuples(WHO, WHO, NUMBERS, NUMBERS, st.booleans()), min_size=1, max_size=8),
)
def test_successions_come_back_from_any_edge(mesh: str, names: tuple[Any, Any], offers: list[Any]) -> None:
    held = Successions(mesh)
    for person, name in zip((ANN, BEN), names, strict=True):
        with suppress(AgentMeshError):  # one name twice
            held.know(person.key, name)
    for old, new, sequence, time_ms, follows in offers:
        if old is new:
            continue
        statement = issue_continuity(old, new, mesh=mesh, sequence=sequence, time_ms=time_ms)
        with suppress(AgentMeshError):
            recorded(held.offer(statement, now_ms=UINT_MAX), 0)
            if follows:
                held.follow(old.key, new.key)
        again = restored(held)
        assert [again.current(person.key) for person in PEOPLE] == [held.current(person.key) for person in PEOPLE]
        held = again


def test_whoever_has_changed_as_often_as_can_be_counted_can_still_be_kept() -> None:
    graph, ledger, held, successions = TrustGraph("m", ME.key), TrustLedger("m"), RevocationList("m"), Successions("m")
    changes: tuple[tuple[Any, Any], ...] = (
        (graph, lambda s, who: s.apply(issue_edge(ME, who, 1, mesh="m", sequence=0, time_ms=0), now_ms=0)),
        (ledger, lambda s, who: s.believe(who)),
        (held, lambda s, who: s.believe(who)),
        (successions, lambda s, who: s.know(who)),
    )
    for empty, change in changes:
        state = with_generation(empty, UINT_MAX - 1)
        for who in (ANN.key, BEN.key):
            change(state, who)
            assert restored(state).generation == UINT_MAX
