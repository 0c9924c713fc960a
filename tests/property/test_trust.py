"""Scores are a function of the set of updates, whatever the order, the clock, or who tries (section 9).

The ledger is held against a model that keeps every update for ever and computes the score from all of them.
AGENTMESH_DEPTH multiplies the examples, and the updates of the long run: 20 makes them 100,000.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import random
from contextlib import suppress
from functools import lru_cache
from typing import Any, NamedTuple

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentmesh.errors import AgentMeshError, StatementStale, StatementUnfit, TrustFull
from agentmesh.identity import Identity
from agentmesh.limits import Limits
from agentmesh.primitives._labels import SIGN_TRUST
from agentmesh.testing import SeededEntropy
from agentmesh.trust import AdmissionPolicy, Tier, TrustGraph, TrustLedger, issue_edge, issue_trust

DEPTH = int(os.environ.get("AGENTMESH_DEPTH") or "1")
MESH = "example/test"
NOW = 1_767_225_600_000
HOUR = 3_600_000
DAY = 24 * HOUR
TOLERANCE = 300_000
REACH = 25  # a window and the tolerance, in slots of an hour
ISSUERS = [Identity.generate(SeededEntropy(f"issuer {number}")) for number in range(3)]
PEER = Identity.generate(SeededEntropy("peer")).key
ME = Identity.generate(SeededEntropy("me"))


# --- the model --------------------------------------------------------------------------------------------------------


class Update(NamedTuple):
    issuer: int
    sequence: int
    time_ms: int
    signal: int

    @property
    def slot(self) -> int:
        return self.time_ms // HOUR

    @property
    def statement(self) -> bytes:
        return signed(self)

    @property
    def digest(self) -> bytes:
        return hashlib.sha256(msgpack.unpackb(self.statement)[0]).digest()

    def beats(self, other: Update) -> bool:
        """Of these two of one issuer only the first counts."""
        if self.sequence == other.sequence:
            return (self.time_ms, self.digest) < (other.time_ms, other.digest)
        return self.sequence > other.sequence and self.slot <= other.slot - 2


@lru_cache(maxsize=100_000)
def signed(update: Update) -> bytes:
    return issue_trust(
        ISSUERS[update.issuer], PEER, update.signal, mesh=MESH, sequence=update.sequence, time_ms=update.time_ms
    )


def movements(updates: list[Update]) -> dict[int, int]:
    """What one issuer moves, by slot."""
    moved: dict[int, int] = {}
    for slot in sorted({update.slot for update in updates}):
        wanted = sum(max(-200, min(200, update.signal)) for update in updates if update.slot == slot)
        since = [sum(moved.get(at, 0) for at in range(first, slot)) for first in range(slot - REACH, slot + 1)]
        moved[slot] = max(-200 - min(since), min(200 - max(since), wanted))
    return moved


def model(updates: set[Update], default: int) -> int:
    """The score that a set of updates gives."""
    totals: dict[int, int] = {}
    for issuer in range(len(ISSUERS)):
        own = [update for update in updates if update.issuer == issuer]
        counting = [update for update in own if not any(other.beats(update) for other in own)]
        for slot, moved in movements(counting).items():
            totals[slot] = totals.get(slot, 0) + moved
    score = default
    for slot in sorted(totals):
        score = max(0, min(1000, score + totals[slot]))
    return score


def believing(**options: Any) -> TrustLedger:
    ledger = TrustLedger(MESH, **options)
    for issuer in ISSUERS:
        ledger.believe(issuer.key)
    return ledger


def offer(ledger: TrustLedger, update: Update, now_ms: int) -> None:
    """Offer an update; that it is beaten or was seen is no fault."""
    before = ledger.export_state()
    try:
        ledger.apply(update.statement, now_ms=now_ms)
    except StatementStale:
        assert ledger.export_state() == before


SIGNALS = st.sampled_from([-1000, -200, -150, -30, 0, 30, 150, 200, 1000])
DEFAULTS = st.sampled_from([0, 0, 500, 1000])


def updates_within(window_ms: int) -> st.SearchStrategy[Update]:
    """Updates that can be in time at NOW, with sequences that repeat and contradict their times."""
    ages = st.one_of(st.integers(-TOLERANCE, window_ms), st.sampled_from([0, window_ms, -TOLERANCE, 2 * HOUR]))
    return st.builds(
        Update,
        issuer=st.integers(0, 2),
        sequence=st.integers(0, 12),
        time_ms=ages.map(lambda age: NOW - age),
        signal=SIGNALS,
    )


# --- orders -----------------------------------------------------------------------------------------------------------


def scores_of_all_orders(updates: list[Update], default: int) -> set[int]:
    scores = set()
    for order in itertools.permutations(updates):
        ledger = believing(default_score=default)
        for update in order:
            with suppress(StatementStale):
                ledger.apply(update.statement, now_ms=NOW)
        scores.add(ledger.score(PEER))
    return scores


@given(updates=st.lists(updates_within(DAY), max_size=4), default=DEFAULTS)
def test_all_permutations_of_a_set_give_one_score(updates: list[Update], default: int) -> None:
    assert scores_of_all_orders(updates, default) == {model(set(updates), default)}


@pytest.mark.parametrize("default", [0, 500, 1000])
def test_all_permutations_of_six_that_contradict_one_another_give_one_score(default: int) -> None:
    updates = [
        Update(0, 5, NOW, 200),
        Update(0, 5, NOW, -200),  # one sequence, one time
        Update(0, 4, NOW - DAY, 150),  # late by a window
        Update(0, 9, NOW - 5 * HOUR, -1000),  # a higher sequence at an earlier time
        Update(1, 1, NOW - HOUR, -200),
        Update(1, 2, NOW + TOLERANCE, 200),
    ]
    assert scores_of_all_orders(updates, default) == {model(set(updates), default)}


@given(
    past=st.lists(updates_within(DAY), max_size=6),
    updates=st.lists(updates_within(DAY), max_size=12),
    later_ms=st.integers(0, 3 * DAY),
    data=st.data(),
)
def test_any_order_gives_one_score_whatever_was_settled_before(
    past: list[Update], updates: list[Update], later_ms: int, data: st.DataObject
) -> None:
    # The past came in its own time, so that the newer updates settle it, sooner or later.
    early = [update._replace(time_ms=update.time_ms - later_ms) for update in past]
    for order in (updates, data.draw(st.permutations(updates))):
        ledger = believing()
        for update in early:
            offer(ledger, update, NOW - later_ms)
        for update in order:
            offer(ledger, update, NOW)
        assert ledger.score(PEER) == model({*early, *updates}, 0)


ARRIVALS = st.lists(
    st.tuples(
        st.one_of(st.just(0), st.integers(0, 2 * HOUR), st.integers(0, 2 * DAY)),  # the clock goes on
        st.one_of(st.integers(-TOLERANCE, 2 * HOUR), st.integers(-TOLERANCE, DAY)),  # the update's age on arrival
        st.integers(0, 2),
        st.integers(0, 20),
        SIGNALS,
        st.sampled_from([False, False, False, True]),  # a restart
    ),
    max_size=25,
)


@given(arrivals=ARRIVALS, default=DEFAULTS)
def test_a_ledger_that_settles_and_restarts_gives_what_one_that_forgets_nothing_gives(
    arrivals: list[tuple[int, int, int, int, int, bool]], default: int
) -> None:
    ledger, now_ms = believing(default_score=default), NOW
    in_time: set[Update] = set()
    for passed_ms, age_ms, issuer, sequence, signal, restart in arrivals:
        now_ms += passed_ms
        update = Update(issuer, sequence, now_ms - age_ms, signal)
        offer(ledger, update, now_ms)
        in_time.add(update)
        if restart:
            ledger = TrustLedger.restore(ledger.export_state(), at_least_generation=ledger.generation)
        assert ledger.score(PEER) == model(in_time, default)


JUMPS = st.one_of(st.integers(-HOUR, DAY), st.integers(-10 * 365 * DAY, 10 * 365 * DAY))


@given(arrivals=ARRIVALS, jumps=st.lists(JUMPS, max_size=25))
def test_whatever_the_clock_does_scores_stay_bounded_and_nothing_counts_twice(
    arrivals: list[tuple[int, int, int, int, int, bool]], jumps: list[int]
) -> None:
    ledger, taken = believing(), set()
    for (_, age_ms, issuer, sequence, signal, _), jump_ms in zip(arrivals, jumps, strict=False):
        update = Update(issuer, sequence, NOW - age_ms, signal)
        try:
            ledger.apply(update.statement, now_ms=NOW + jump_ms)
        except StatementStale:
            continue
        assert update not in taken
        taken.add(update)
        assert 0 <= ledger.score(PEER) <= 1000
    assert ledger.score(PEER) <= 2 * 200 * 3  # what three issuers can move in a day and a bit, however often it came by


# --- caps -------------------------------------------------------------------------------------------------------------

IN_STEP = st.lists(
    st.tuples(st.integers(0, 2), st.one_of(st.integers(0, HOUR), st.integers(0, 30 * HOUR)), SIGNALS), max_size=20
)


@given(steps=IN_STEP, default=DEFAULTS, data=st.data())
def test_no_update_moves_a_score_by_more_than_200(
    steps: list[tuple[int, int, int]], default: int, data: st.DataObject
) -> None:
    # Sequences that go with their times, arriving in any order that is in time.
    time_ms, updates = NOW - DAY, []
    for number, (issuer, passed_ms, signal) in enumerate(steps):
        time_ms = min(NOW, time_ms + passed_ms)
        updates.append(Update(issuer, number, time_ms, signal))
    ledger = believing(default_score=default)
    for update in data.draw(st.permutations(updates)):
        before = ledger.score(PEER)
        ledger.apply(update.statement, now_ms=NOW)
        assert abs(ledger.score(PEER) - before) <= 200
        assert 0 <= ledger.score(PEER) <= 1000


@given(signals=st.lists(st.tuples(st.integers(0, 60 * HOUR), st.integers(-1000, 1000)), max_size=20))
def test_no_issuer_moves_a_subject_by_more_than_200_from_any_slot_to_any_other_of_a_window(
    signals: list[tuple[int, int]],
) -> None:
    ledger = believing(default_score=500)
    ends = {NOW // HOUR - 1: 500}  # the score when a slot was over
    for number, (at_ms, signal) in enumerate(sorted(signals)):
        update = Update(0, number, NOW + at_ms, signal)
        ledger.apply(update.statement, now_ms=NOW + at_ms)
        ends[update.slot] = ledger.score(PEER)
    for (first_slot, first), (last_slot, last) in itertools.combinations(ends.items(), 2):
        if last_slot - first_slot <= REACH + 1:
            assert abs(last - first) <= 200


@given(
    parts=st.lists(
        st.tuples(st.one_of(st.integers(-TOLERANCE, DAY), st.sampled_from([-TOLERANCE, DAY])), st.integers(1, 1000)),
        min_size=1,
        max_size=50,
    ),
    minute=st.integers(0, 59),
    sign=st.sampled_from([1, -1]),
    data=st.data(),
)
def test_whatever_an_issuer_hands_in_at_one_moment_moves_200_at_most(
    parts: list[tuple[int, int]], minute: int, sign: int, data: st.DataObject
) -> None:
    # Dated back and ahead as far as a statement may be, from any minute of a slot.
    ledger, now_ms = believing(default_score=500), NOW + minute * 60_000
    updates = [Update(0, number, now_ms - age_ms, sign * part) for number, (age_ms, part) in enumerate(parts)]
    for update in data.draw(st.permutations(updates)):
        offer(ledger, update, now_ms)
        assert 0 <= sign * (ledger.score(PEER) - 500) <= 200


@given(parts=st.lists(st.integers(1, 200), min_size=1, max_size=50), sign=st.sampled_from([1, -1]))
def test_splitting_a_signal_gains_nothing(parts: list[int], sign: int) -> None:
    whole, split = believing(default_score=500), believing(default_score=500)
    whole.apply(Update(0, 0, NOW, sign * min(1000, sum(parts))).statement, now_ms=NOW)
    for number, part in enumerate(parts):
        split.apply(Update(0, number, NOW + number, sign * part).statement, now_ms=NOW + number)
    assert split.score(PEER) == whole.score(PEER)


# --- what a raising update promises ----------------------------------------------------------------------------------

# An issuer, how old, and a signal. The sequence goes with the time, so that none beats another.
SAID = st.lists(
    st.tuples(st.integers(0, 2), st.one_of(st.integers(0, DAY), st.sampled_from([0, 2 * HOUR, DAY])), SIGNALS),
    max_size=10,
    unique_by=lambda said: said[:2],
)


def said(issuer: int, age_ms: int, signal: int) -> Update:
    return Update(issuer, NOW - age_ms, NOW - age_ms, signal)


def is_cut_off(updates: set[Update], default: int) -> bool:
    """Whether the score would leave 0 to 1000 in some slot."""
    totals: dict[int, int] = {}
    for issuer in range(len(ISSUERS)):
        for slot, moved in movements([update for update in updates if update.issuer == issuer]).items():
            totals[slot] = totals.get(slot, 0) + moved
    scores = itertools.accumulate((totals[slot] for slot in sorted(totals)), initial=default)
    return not all(0 <= score <= 1000 for score in scores)


def moved_by(before: list[Update], update: Update, default: int) -> int:
    """How far an update moves the score, in the direction of its signal."""
    ledger = believing(default_score=default)
    for other in before:
        ledger.apply(other.statement, now_ms=NOW)
    score = ledger.score(PEER)
    ledger.apply(update.statement, now_ms=NOW)
    return (ledger.score(PEER) - score) * (1 if update.signal > 0 else -1)


@given(
    before=SAID, default=DEFAULTS, issuer=st.integers(0, 2), signal=st.sampled_from([-1000, -200, -30, 30, 200, 1000])
)
def test_an_update_in_its_issuers_latest_slot_never_moves_the_score_the_other_way(
    before: list[tuple[int, int, int]], default: int, issuer: int, signal: int
) -> None:
    assert moved_by([said(*one) for one in before], said(issuer, -1, signal), default) >= 0


@given(
    before=SAID,
    default=DEFAULTS,
    issuer=st.integers(0, 2),
    age_ms=st.integers(-TOLERANCE, DAY),
    signal=st.sampled_from([-1000, -200, -30, 30, 200, 1000]),
)
def test_an_update_dated_back_moves_the_other_way_only_where_the_score_is_cut_off_and_by_200_at_most(
    before: list[tuple[int, int, int]], default: int, issuer: int, age_ms: int, signal: int
) -> None:
    updates = [said(*one) for one in before if one[:2] != (issuer, age_ms)]
    update = said(issuer, age_ms, signal)
    moved = moved_by(updates, update, default)
    assert moved >= -200
    if not is_cut_off(set(updates), default) and not is_cut_off({*updates, update}, default):
        assert moved >= 0
    # What its issuer has moved up to any slot is never less than without it.
    own = [other for other in updates if other.issuer == issuer]
    sign = 1 if signal > 0 else -1
    without, with_it = movements(own), movements([*own, update])
    for slot in {*without, *with_it}:
        up_to = [sum(moved for at, moved in moves.items() if at <= slot) for moves in (without, with_it)]
        assert sign * (up_to[1] - up_to[0]) >= 0


def test_at_1000_an_update_dated_back_gains_nothing_and_its_issuers_cap_is_used_up() -> None:
    lowered, raised = said(1, 10 * HOUR, -200), said(0, 8 * HOUR, 200)
    dated_back = said(0, 12 * HOUR, 200)
    assert moved_by([lowered, raised], dated_back, 1000) == -200
    # The same as in its own time, which is why it cannot be otherwise.
    for order in itertools.permutations((lowered, raised, dated_back)):
        ledger = believing(default_score=1000)
        for update in order:
            ledger.apply(update.statement, now_ms=NOW)
        assert ledger.score(PEER) == 800


# --- the long run -----------------------------------------------------------------------------------------------------

HOSTILE = 5_000 * DEPTH


def hostile_statement(chance: random.Random, now_ms: int, genuine: list[bytes]) -> bytes:
    """Something that an attacker, or a believed issuer gone bad, would send."""
    kind = chance.randrange(10)
    issuer, subject = ISSUERS[chance.randrange(3)], SUBJECTS[chance.randrange(len(SUBJECTS))].key
    sequence = chance.randrange(2000) if chance.random() < 0.5 else now_ms // 1000 + chance.randrange(-9, 9)
    time_ms = max(0, now_ms - chance.choice([0, 0, chance.randrange(DAY), chance.randrange(-TOLERANCE, 3 * DAY)]))
    signal = chance.choice([-1000, -200, -1, 0, 1, 200, 1000, chance.randint(-1000, 1000)])
    if kind <= 4:
        return issue_trust(issuer, subject, signal, mesh=MESH, sequence=sequence, time_ms=time_ms)
    if kind == 5 and genuine:
        return genuine[chance.randrange(len(genuine))]  # a replay
    if kind == 6 and genuine:
        altered = bytearray(genuine[-1])
        altered[chance.randrange(len(altered))] ^= 1 << chance.randrange(8)
        return bytes(altered)
    if kind == 7:
        stranger = STRANGERS[chance.randrange(len(STRANGERS))]
        return issue_trust(stranger, subject, signal, mesh=MESH, sequence=sequence, time_ms=time_ms)
    if kind == 8:  # about itself, or with a number that is none
        about = chance.choice([issuer.key.raw, subject.raw])
        amount = chance.choice([-50, 1001, 0.9, float("nan"), True, None, "900", 2**63])
        body = msgpack.packb([1, MESH, issuer.key.raw, about, sequence, time_ms, 1, amount])
        packed: bytes = msgpack.packb([body, issuer.sign(SIGN_TRUST, body)])
        return packed
    return chance.randbytes(chance.randrange(300))


SUBJECTS = [Identity.generate(SeededEntropy(f"subject {number}")) for number in range(8)]
STRANGERS = [Identity.generate(SeededEntropy(f"stranger {number}")) for number in range(20)]


def test_random_and_hostile_updates_keep_all_invariants() -> None:
    chance, now_ms = random.Random(5), NOW
    ledger = believing(limits=Limits(trust_updates_per_issuer=64, trust_subjects=6))
    genuine: list[bytes] = []
    largest, outcomes = 0, {"taken": 0, "refused": 0}
    for number in range(HOSTILE):
        now_ms += chance.choice([0, 0, chance.randrange(60_000), chance.randrange(HOUR)])
        statement = hostile_statement(chance, now_ms, genuine)
        before = [ledger.score(subject.key) for subject in SUBJECTS]
        exported = ledger.export_state() if number % 50 == 0 else None
        generation = ledger.generation
        try:
            update = ledger.apply(statement, now_ms=now_ms)
        except AgentMeshError:
            assert [ledger.score(subject.key) for subject in SUBJECTS] == before
            assert ledger.generation == generation
            assert exported is None or ledger.export_state() == exported
            outcomes["refused"] += 1
            continue
        outcomes["taken"] += 1
        genuine = [*genuine[-30:], statement]
        assert update.issuer in [issuer.key for issuer in ISSUERS]
        assert update.issuer != update.subject
        for subject, old in zip(SUBJECTS, before, strict=True):
            score = ledger.score(subject.key)
            assert type(score) is int
            assert 0 <= score <= 1000
            # An issuer that contradicts itself takes its own word back at the same time: twice 200.
            assert abs(score - old) <= (400 if subject.key == update.subject else 0)
        if number % 200 == 0:
            largest = max(largest, len(ledger.export_state()))
            assert_caps_hold(ledger)
            ledger = TrustLedger.restore(
                ledger.export_state(),
                at_least_generation=ledger.generation,
                limits=Limits(trust_updates_per_issuer=64, trust_subjects=6),
            )
    assert outcomes["taken"] > HOSTILE // 10
    assert outcomes["refused"] > HOSTILE // 3
    assert len(ledger) == 6
    # Six subjects, three issuers, 64 updates of at most 60 bytes and 24 settled slots each.
    assert largest < 6 * 3 * (64 * 60 + 24 * 20 + 60) + 1000


def assert_caps_hold(ledger: TrustLedger) -> None:
    for subject in ledger._subjects.values():
        for voice in subject.voices.values():
            slots = sorted(voice.moved)
            for first, last in itertools.combinations_with_replacement(slots, 2):
                if last - first <= REACH:
                    assert abs(sum(voice.moved[slot] for slot in slots if first <= slot <= last)) <= 200


# --- any number of fresh identities -----------------------------------------------------------------------------------


def sybils(count: int) -> list[bytes]:
    """Keys that nobody has ever trusted. Any 32 bytes will do inside the graph."""
    return [hashlib.sha256(b"sybil %d" % number).digest() for number in range(count)]


@pytest.mark.parametrize("count", [1, 10, 100, 1000])
def test_fresh_identities_cannot_lift_a_peer(count: int) -> None:
    fooled = Identity.generate(SeededEntropy("fooled"))
    graph = TrustGraph(MESH, ME.key, limits=Limits(trust_edges=1_000_000, trust_edges_per_issuer=2000))
    target = PEER.raw
    for number, sybil in enumerate(sybils(count)):
        for subject in (target, sybils(1)[0], ME.key.raw, fooled.key.raw):
            if subject != sybil:
                graph._take(sybil, subject, (1000, number, bytes(32)))
    assert graph.score(target) == 0
    # The root trusts somebody who is fooled by all of them: they stay below the threshold, and lift nobody else.
    graph.apply(issue_edge(ME, fooled.key, 1000, mesh=MESH, sequence=1, time_ms=NOW), now_ms=NOW)
    for sybil in sybils(count):
        graph._put(fooled.key.raw, sybil, (1000, 1, bytes(32)))
    policy = AdmissionPolicy(graph=graph, tiers=[Tier(min_score=500)])
    assert graph.score(target) == 0
    assert {graph.score(sybil) for sybil in sybils(count)} == {499}
    assert {policy._score(sybil) for sybil in sybils(count)} == {499}
    graph.apply(issue_edge(fooled, PEER, 1000, mesh=MESH, sequence=1, time_ms=NOW), now_ms=NOW)
    assert graph.score(target) == 499


def test_a_thousand_fresh_identities_move_no_score_in_the_ledger() -> None:
    ledger = believing()
    ledger.apply(Update(0, 0, NOW, 150).statement, now_ms=NOW)
    before = ledger.export_state()
    for number in range(1000):
        sybil = Identity.from_seed(hashlib.sha256(b"fresh %d" % number).digest())
        with pytest.raises(StatementUnfit):
            ledger.apply(issue_trust(sybil, PEER, 1000, mesh=MESH, sequence=1, time_ms=NOW), now_ms=NOW)
    assert ledger.export_state() == before


EDGES = st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7), st.integers(0, 1000)), max_size=40)


@given(honest=EDGES, added=EDGES)
def test_edges_of_identities_that_the_root_does_not_reach_raise_nobody(
    honest: list[tuple[int, int, int]], added: list[tuple[int, int, int]]
) -> None:
    # 0 is the root; 0 to 7 are honest, and 8 to 15 come in addition, with edges to everybody.
    keys = [ME.key.raw, *sybils(15)]
    graph = TrustGraph(MESH, ME.key)
    for place, (issuer, subject, weight) in enumerate(honest):
        if issuer != subject:
            graph._take(keys[issuer], keys[subject], (weight, place, bytes(32)))
    before = [graph.score(key) for key in keys]
    for place, (issuer, subject, weight) in enumerate(added):
        for target in (subject, 8 + subject):
            if target != 8 + issuer:
                graph._take(keys[8 + issuer], keys[target], (weight, 2 * place + (target == subject), bytes(32)))
    assert [graph.score(key) for key in keys] == before


def test_a_full_memory_is_no_way_around_a_withdrawal() -> None:
    graph = TrustGraph(MESH, ME.key, limits=Limits(trust_edges=8))
    withdrawn = issue_edge(ME, PEER, 900, mesh=MESH, sequence=1, time_ms=NOW)
    graph.apply(withdrawn, now_ms=NOW)
    graph.apply(issue_edge(ME, PEER, 0, mesh=MESH, sequence=2, time_ms=NOW), now_ms=NOW)
    for number, sybil in enumerate(sybils(50)):
        try:
            graph._take(sybil, PEER.raw, (1000, number, bytes(32)))
        except TrustFull:
            continue
    with pytest.raises(StatementStale):
        graph.apply(withdrawn, now_ms=NOW)
    assert graph.score(PEER) == 0
