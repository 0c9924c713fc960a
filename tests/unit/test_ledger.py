"""The trust ledger: what an update does, what is refused, and what comes back from rest (section 9)."""

from __future__ import annotations

import hashlib
import itertools
import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgpack
import pytest

from agentmesh.errors import (
    AgentMeshError,
    ArgumentInvalid,
    BadSignature,
    Malformed,
    RandomnessFailed,
    StateMalformed,
    StatementStale,
    StatementUnfit,
    StateStale,
    StateVersionUnknown,
    TrustFull,
)
from agentmesh.identity import Identity, IdentityKey
from agentmesh.limits import Limits
from agentmesh.testing import SeededEntropy
from agentmesh.trust import (
    RevocationList,
    StateKey,
    TrustGraph,
    TrustLedger,
    issue_edge,
    issue_revocation,
    issue_trust,
    open_state,
    seal_state,
)

MESH = "example/test"
NOW = 1_767_225_600_000
HOUR = 3_600_000
DAY = 24 * HOUR
TOLERANCE = 300_000
YEAR = 365 * DAY

AUDITOR, OTHER, STRANGER = (Identity.generate(SeededEntropy(f"issuer {name}")) for name in range(3))
PEER, SECOND = (Identity.generate(SeededEntropy(f"peer {name}")).key for name in range(2))
SEQUENCES = itertools.count(1)


def a_ledger(**options: Any) -> TrustLedger:
    """A ledger that believes two issuers."""
    ledger = TrustLedger(MESH, **options)
    for issuer in (AUDITOR, OTHER):
        ledger.believe(issuer.key)
    return ledger


def update(
    signal: int,
    *,
    sequence: int | None = None,
    time_ms: int = NOW,
    issuer: Identity = AUDITOR,
    subject: IdentityKey = PEER,
    mesh: str = MESH,
) -> bytes:
    number = next(SEQUENCES) if sequence is None else sequence
    return issue_trust(issuer, subject, signal, mesh=mesh, sequence=number, time_ms=time_ms)


@contextmanager
def refused(ledger: TrustLedger, error: type[AgentMeshError]) -> Iterator[None]:
    before = ledger.export_state()
    with pytest.raises(AgentMeshError) as caught:
        yield
    assert type(caught.value) is error
    assert ledger.export_state() == before


# --- scores -----------------------------------------------------------------------------------------------------------


def test_whoever_was_never_heard_of_has_the_default() -> None:
    assert TrustLedger(MESH).score(PEER) == 0
    assert not TrustLedger(MESH).knows(PEER)
    assert TrustLedger(MESH, default_score=300).score(PEER.raw) == 300


def test_an_update_moves_its_subject_and_nobody_else() -> None:
    ledger = a_ledger()
    taken = ledger.apply(update(150), now_ms=NOW)
    assert (taken.signal, taken.subject, taken.issuer) == (150, PEER, AUDITOR.key)
    assert (ledger.score(PEER), ledger.score(PEER.raw), ledger.score(SECOND)) == (150, 150, 0)
    assert ledger.knows(PEER)
    assert len(ledger) == 1
    ledger.apply(update(-40), now_ms=NOW)
    assert ledger.score(PEER) == 110


@pytest.mark.parametrize(
    ("signal", "moved"), [(200, 200), (201, 200), (1000, 200), (-200, -200), (-1000, -200), (0, 0)]
)
def test_one_signal_moves_200_at_most(signal: int, moved: int) -> None:
    ledger = a_ledger(default_score=500)
    ledger.apply(update(signal), now_ms=NOW)
    assert ledger.score(PEER) == 500 + moved


@pytest.mark.parametrize(
    ("default", "signal", "score"), [(0, -200, 0), (1000, 200, 1000), (100, -200, 0), (900, 200, 1000)]
)
def test_scores_end_at_0_and_1000(default: int, signal: int, score: int) -> None:
    ledger = a_ledger(default_score=default)
    ledger.apply(update(signal), now_ms=NOW)
    assert ledger.score(PEER) == score
    # What was cut off does not come back with the next one.
    ledger.apply(update(-signal, issuer=OTHER, time_ms=NOW + HOUR), now_ms=NOW + HOUR)
    assert ledger.score(PEER) == score - signal


@pytest.mark.parametrize("sign", [1, -1])
def test_fifty_small_signals_gain_what_one_big_one_does(sign: int) -> None:
    ledger = a_ledger(default_score=500)
    for number in range(50):
        ledger.apply(update(sign * 20, time_ms=NOW + number * 1000), now_ms=NOW + number * 1000)
    assert ledger.score(PEER) == 500 + sign * 200
    # Another issuer has its own.
    ledger.apply(update(sign * 200, issuer=OTHER), now_ms=NOW)
    assert ledger.score(PEER) == 500 + sign * 400


def test_the_cap_holds_from_any_moment_to_any_other_within_a_window() -> None:
    # Down by 200 first buys nothing: from there it is 200 up again, and no more.
    ledger = a_ledger(default_score=500)
    ledger.apply(update(-200), now_ms=NOW)
    now_ms = NOW + HOUR
    for _ in range(3):
        ledger.apply(update(200, time_ms=now_ms), now_ms=now_ms)
    assert ledger.score(PEER) == 500
    ledger.apply(update(200, time_ms=now_ms + 20 * HOUR), now_ms=now_ms + 20 * HOUR)
    assert ledger.score(PEER) == 500


def test_the_cap_is_lifted_when_the_window_is_over_and_not_before() -> None:
    ledger = a_ledger()
    ledger.apply(update(200), now_ms=NOW)
    # The cap reaches as far as two statements that are due at one moment can lie apart: 25 slots of an hour.
    later_ms = NOW + 26 * HOUR - 1 - NOW % HOUR
    ledger.apply(update(200, time_ms=later_ms), now_ms=later_ms)
    assert ledger.score(PEER) == 200
    later_ms += 1
    ledger.apply(update(200, time_ms=later_ms), now_ms=later_ms)
    assert ledger.score(PEER) == 400


@pytest.mark.parametrize("window_seconds", [1, 60, 600, 3600, 86_400, 7 * 86_400])
def test_what_is_handed_in_at_one_moment_moves_200_whatever_the_window(window_seconds: int) -> None:
    # The oldest and the newest that are due lie a window and the tolerance apart.
    for minute in (0, 58):
        now_ms = NOW + minute * 60_000
        ledger = a_ledger(default_score=500, limits=Limits(trust_window_seconds=window_seconds))
        span_ms = window_seconds * 1000 + TOLERANCE
        for number in range(100):
            time_ms = now_ms + TOLERANCE - span_ms + span_ms * number // 99
            ledger.apply(update(200, time_ms=time_ms), now_ms=now_ms)
        assert ledger.score(PEER) == 700


SLOT = NOW // HOUR


def at_slot(slot: int) -> int:
    """A time within a slot."""
    return (SLOT + slot) * HOUR + HOUR // 2


def with_first_open(ledger: TrustLedger, slot: int) -> int:
    """Have another issuer move the horizon, so that this slot is the first that is not settled. Returns the time."""
    time_ms = (SLOT + slot + 1) * HOUR + DAY + TOLERANCE
    ledger.apply(update(0, issuer=OTHER, time_ms=time_ms), now_ms=time_ms)
    assert ledger._subjects[PEER.raw].first_open == SLOT + slot
    return time_ms


def test_what_is_settled_still_caps_what_is_not() -> None:
    ledger = a_ledger()
    for slot in (0, 25):  # the second is one slot short of being free again
        ledger.apply(update(200, time_ms=at_slot(slot)), now_ms=at_slot(slot))
    now_ms = with_first_open(ledger, 25)
    assert ledger.score(PEER) == 200
    ledger.apply(update(0, time_ms=now_ms), now_ms=now_ms)  # has all of the issuer's slots computed anew
    assert ledger.score(PEER) == 200
    assert TrustLedger.restore(ledger.export_state()).score(PEER) == 200


def test_the_first_open_slot_counts_once_however_often_it_is_computed() -> None:
    ledger = a_ledger()
    ledger.apply(update(-30, time_ms=at_slot(3)), now_ms=at_slot(3))
    ledger.apply(update(150, time_ms=at_slot(4)), now_ms=at_slot(4))
    now_ms = with_first_open(ledger, 4)
    assert ledger._subjects[PEER.raw].base == 0
    for _ in range(3):
        assert ledger.score(PEER) == 150
        assert TrustLedger.restore(ledger.export_state()).score(PEER) == 150
        ledger.apply(update(0, time_ms=now_ms), now_ms=now_ms)
    with_first_open(ledger, 5)
    assert ledger._subjects[PEER.raw].base == 150
    assert ledger.score(PEER) == 150


def test_where_the_clock_was_set_back_what_lies_at_the_horizon_is_refused() -> None:
    ledger = a_ledger()
    with_first_open(ledger, 4)
    for slot in (3, 4):
        with refused(ledger, StatementStale):
            ledger.apply(update(100, time_ms=at_slot(slot)), now_ms=at_slot(slot))
    ledger.apply(update(100, time_ms=at_slot(5)), now_ms=at_slot(5))
    assert ledger.score(PEER) == 100


def test_three_believed_issuers_or_three_days_carry_somebody_over_500() -> None:
    ledger = a_ledger()
    ledger.believe(STRANGER.key)
    for issuer in (AUDITOR, OTHER, STRANGER):
        ledger.apply(update(200, issuer=issuer), now_ms=NOW)
    assert ledger.score(PEER) == 600
    for day in range(3):
        time_ms = NOW + day * 2 * DAY
        ledger.apply(update(200, subject=SECOND, time_ms=time_ms), now_ms=time_ms)
    assert ledger.score(SECOND) == 600


# --- who is believed --------------------------------------------------------------------------------------------------


def test_nobody_is_believed_unasked() -> None:
    ledger = a_ledger()
    with refused(ledger, StatementUnfit):
        ledger.apply(update(200, issuer=STRANGER), now_ms=NOW)
    assert not ledger.believes(STRANGER.key)
    ledger.believe(STRANGER.key)
    ledger.apply(update(200, issuer=STRANGER), now_ms=NOW)
    assert ledger.believes(STRANGER.key.raw)
    assert ledger.score(PEER) == 200


def test_a_strangers_statement_costs_no_signature_check(monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = a_ledger()
    monkeypatch.setattr("agentmesh.primitives._crypto.ed25519_verify", lambda *_: pytest.fail("checked"))
    with refused(ledger, StatementUnfit):
        ledger.apply(update(200, issuer=STRANGER), now_ms=NOW)


def test_a_believed_issuer_says_nothing_of_itself() -> None:
    with pytest.raises(ArgumentInvalid):
        update(200, subject=AUDITOR.key)
    ledger = a_ledger()
    body = msgpack.packb([1, MESH, AUDITOR.key.raw, AUDITOR.key.raw, 1, NOW, 1, 200])
    from agentmesh.primitives._labels import SIGN_TRUST

    with refused(ledger, StatementUnfit):
        ledger.apply(msgpack.packb([body, AUDITOR.sign(SIGN_TRUST, body)]), now_ms=NOW)
    # Of another believed one it may.
    ledger.apply(update(200, subject=OTHER.key), now_ms=NOW)
    assert ledger.score(OTHER.key) == 200


def test_a_forged_a_foreign_and_another_statement_are_refused() -> None:
    ledger = a_ledger()
    genuine = update(200)
    with refused(ledger, BadSignature):
        ledger.apply(genuine[:-1] + bytes([genuine[-1] ^ 1]), now_ms=NOW)
    with refused(ledger, StatementUnfit):
        ledger.apply(update(200, mesh="example/other"), now_ms=NOW)
    with refused(ledger, Malformed):
        ledger.apply(issue_edge(AUDITOR, PEER, 200, mesh=MESH, sequence=1, time_ms=NOW), now_ms=NOW)


def test_what_a_disbelieved_issuer_moved_stays_unless_it_is_taken_back() -> None:
    for take_back, score in ((False, 600), (True, 400)):
        ledger = a_ledger()
        early_ms = NOW - 10 * DAY
        for time_ms in (early_ms, early_ms + 3 * DAY, NOW):
            ledger.apply(update(200, time_ms=time_ms), now_ms=time_ms)
        generation = ledger.generation
        ledger.disbelieve(AUDITOR.key, take_back=take_back)
        assert ledger.score(PEER) == score
        assert ledger.generation == generation + 1
        with refused(ledger, StatementUnfit):
            ledger.apply(update(-200), now_ms=NOW)
        assert TrustLedger.restore(ledger.export_state()).score(PEER) == score


def test_a_revoked_issuer_is_believed_no_more() -> None:
    revocations = RevocationList(MESH)
    ledger = a_ledger(revocations=revocations)
    ledger.apply(update(100), now_ms=NOW)
    revocations.apply(issue_revocation(AUDITOR, AUDITOR.key, mesh=MESH, sequence=0, time_ms=NOW))
    with refused(ledger, StatementUnfit):
        ledger.apply(update(100), now_ms=NOW)
    assert ledger.score(PEER) == 100
    restored = TrustLedger.restore(ledger.export_state(), revocations=revocations)
    with refused(restored, StatementUnfit):
        restored.apply(update(100), now_ms=NOW)


def test_taking_back_touches_nobody_else() -> None:
    ledger = a_ledger()
    ledger.apply(update(100, issuer=OTHER), now_ms=NOW)
    ledger.apply(update(100, subject=SECOND), now_ms=NOW)
    ledger.disbelieve(AUDITOR.key, take_back=True)
    assert (ledger.score(PEER), ledger.score(SECOND)) == (100, 0)
    before = ledger.export_state()
    ledger.disbelieve(AUDITOR.key, take_back=True)  # nothing is left to take back
    assert ledger.export_state() == before


def test_by_default_nothing_is_taken_back() -> None:
    ledger = a_ledger()
    ledger.apply(update(100), now_ms=NOW)
    ledger.disbelieve(AUDITOR.key)
    assert ledger.score(PEER) == 100


def test_the_generation_counts_every_change_once() -> None:
    ledger = TrustLedger(MESH)
    assert TrustLedger.restore(ledger.export_state()).generation == ledger.generation == 0
    changes = (
        lambda: ledger.believe(AUDITOR.key),
        lambda: ledger.apply(update(100), now_ms=NOW),
        lambda: ledger.inherit(PEER, SECOND),
        lambda: ledger.disbelieve(AUDITOR.key, take_back=True),
    )
    for number, change in enumerate(changes, start=1):
        change()
        assert ledger.generation == number


def test_saying_twice_whom_to_believe_changes_nothing() -> None:
    ledger = a_ledger()
    before = ledger.export_state()
    ledger.believe(AUDITOR.key)
    ledger.disbelieve(STRANGER.key)
    ledger.disbelieve(STRANGER.key, take_back=True)
    assert ledger.export_state() == before


def made(**options: Any) -> TrustLedger:
    return TrustLedger(MESH, **options)


def restored(**options: Any) -> TrustLedger:
    return TrustLedger.restore(a_ledger().export_state(), **options)


@pytest.mark.parametrize("wrong", [5, "limits", {}, 1.5])
@pytest.mark.parametrize("name", ["limits", "revocations"])
@pytest.mark.parametrize("make", [made, restored])
def test_limits_and_revocations_are_what_they_are_called(make: Any, name: str, wrong: Any) -> None:
    with pytest.raises(ArgumentInvalid) as caught:
        make(**{name: wrong})
    assert caught.value.argument == name


@pytest.mark.parametrize("make", [made, restored])
def test_revocations_of_another_mesh_would_revoke_nobody(make: Any) -> None:
    with pytest.raises(ArgumentInvalid) as caught:
        make(revocations=RevocationList("example/other"))
    assert caught.value.argument == "revocations"


# --- sequences and times ----------------------------------------------------------------------------------------------


def test_a_replay_does_nothing_now_later_or_after_a_restart() -> None:
    ledger = a_ledger()
    first = update(100)
    ledger.apply(first, now_ms=NOW)
    for now_ms in (NOW, NOW + 23 * HOUR):
        with refused(ledger, StatementStale):
            ledger.apply(first, now_ms=now_ms)
    restored = TrustLedger.restore(ledger.export_state())
    with refused(restored, StatementStale):
        restored.apply(first, now_ms=NOW)
    later_ms = NOW + 10 * DAY
    ledger.apply(update(1, time_ms=later_ms), now_ms=later_ms)
    for now_ms in (later_ms, NOW):  # settled by now; and it is not forgotten where the clock is set back
        with refused(ledger, StatementStale):
            ledger.apply(first, now_ms=now_ms)


def test_a_sequence_is_spent_for_good_when_it_is_settled() -> None:
    ledger = a_ledger()
    ledger.apply(update(100, sequence=10), now_ms=NOW)
    for days, highest in ((3, 20), (6, 30), (9, 40)):
        time_ms = NOW + days * DAY
        ledger.apply(update(0, sequence=highest, time_ms=time_ms), now_ms=time_ms)
        # All but the newest lie behind the horizon now.
        [voice] = ledger._subjects[PEER.raw].voices.values()
        assert (voice.settled, list(voice.updates)) == (highest - 10, [highest])
        for sequence in (0, highest - 11, highest - 10):
            with refused(ledger, StatementStale):
                ledger.apply(update(100, sequence=sequence, time_ms=time_ms), now_ms=time_ms)


def test_time_begins_at_zero() -> None:
    ledger = a_ledger()
    ledger.apply(update(100, time_ms=0), now_ms=0)
    assert ledger.score(PEER) == 100


def test_the_first_horizon_that_anything_lies_behind_counts() -> None:
    ledger = a_ledger()
    newest_ms = DAY + TOLERANCE + HOUR
    ledger.apply(update(100, time_ms=newest_ms), now_ms=newest_ms)
    for one in (ledger, TrustLedger.restore(ledger.export_state())):
        with refused(one, StatementStale):
            one.apply(update(100, time_ms=HOUR - 1), now_ms=HOUR)
        one.apply(update(10, time_ms=HOUR, issuer=OTHER), now_ms=HOUR)
        assert one.score(PEER) == 110


def test_a_spent_sequence_does_nothing_however_new_the_statement_is() -> None:
    ledger = a_ledger()
    ledger.apply(update(100, sequence=10), now_ms=NOW)
    for days in (1, 30):
        time_ms = NOW + days * DAY
        for sequence in (10, 9, 0):
            with refused(ledger, StatementStale):
                ledger.apply(update(100, sequence=sequence, time_ms=time_ms), now_ms=time_ms)
        ledger.apply(update(0, sequence=10 + days, time_ms=time_ms), now_ms=time_ms)


@pytest.mark.parametrize(
    ("time_ms", "taken"),
    [(NOW - DAY, True), (NOW - DAY - 1, False), (NOW + TOLERANCE, True), (NOW + TOLERANCE + 1, False)],
)
def test_a_statement_is_due_within_the_window_and_the_tolerance(time_ms: int, taken: bool) -> None:
    ledger = a_ledger()
    if taken:
        ledger.apply(update(100, time_ms=time_ms), now_ms=NOW)
        assert ledger.score(PEER) == 100
    else:
        with refused(ledger, StatementStale):
            ledger.apply(update(100, time_ms=time_ms), now_ms=NOW)


def test_late_by_a_whole_window_counts_as_in_time() -> None:
    early, late = update(150, time_ms=NOW), update(-100, time_ms=NOW + DAY - HOUR)
    in_order, reverse = a_ledger(), a_ledger()
    for statement in (early, late):
        in_order.apply(statement, now_ms=NOW + DAY)
    for statement in (late, early):
        reverse.apply(statement, now_ms=NOW + DAY)
    assert in_order.score(PEER) == reverse.score(PEER) == 50
    assert in_order.export_state() == reverse.export_state()


def test_two_updates_with_one_sequence_count_as_the_earlier_whichever_came_first() -> None:
    earlier, later = update(200, sequence=5, time_ms=NOW - 1), update(-200, sequence=5, time_ms=NOW)
    one, other = a_ledger(default_score=500), a_ledger(default_score=500)
    one.apply(earlier, now_ms=NOW)
    with refused(one, StatementStale):
        one.apply(later, now_ms=NOW)
    other.apply(later, now_ms=NOW)
    other.apply(earlier, now_ms=NOW)
    assert one.score(PEER) == other.score(PEER) == 700


def test_of_one_sequence_and_one_time_the_smaller_digest_counts() -> None:
    pair = [update(200, sequence=5), update(-200, sequence=5)]
    smaller = min(pair, key=lambda statement: hashlib.sha256(msgpack.unpackb(statement)[0]).digest())
    for order in (pair, pair[::-1]):
        ledger = a_ledger(default_score=500)
        for statement in order:
            try:
                ledger.apply(statement, now_ms=NOW)
            except StatementStale:
                assert statement is not smaller
        assert ledger.score(PEER) == (700 if smaller is pair[0] else 300)


def test_sequences_that_contradict_their_times_count_as_the_higher() -> None:
    low_but_late = update(200, sequence=1, time_ms=NOW)
    high_but_early = update(-100, sequence=2, time_ms=NOW - 3 * HOUR)
    one, other = a_ledger(default_score=500), a_ledger(default_score=500)
    one.apply(high_but_early, now_ms=NOW)
    with refused(one, StatementStale):
        one.apply(low_but_late, now_ms=NOW)
    other.apply(low_but_late, now_ms=NOW)
    other.apply(high_but_early, now_ms=NOW)
    assert one.score(PEER) == other.score(PEER) == 400


def test_an_issuers_clock_may_be_set_back_a_little() -> None:
    ledger = a_ledger()
    ledger.apply(update(100, sequence=1, time_ms=NOW), now_ms=NOW)
    ledger.apply(update(50, sequence=2, time_ms=NOW - HOUR), now_ms=NOW)
    assert ledger.score(PEER) == 150


def test_a_clock_that_is_wrong_for_a_while_changes_nothing() -> None:
    ledger = a_ledger()
    ledger.apply(update(100), now_ms=NOW)
    honest = update(50, time_ms=NOW + HOUR)
    for wrong_ms in (NOW + 10 * YEAR, NOW - 10 * YEAR, 0):
        with refused(ledger, StatementStale):
            ledger.apply(honest, now_ms=wrong_ms)
    ledger.apply(honest, now_ms=NOW + HOUR)
    assert ledger.score(PEER) == 150


def test_one_subject_from_the_future_holds_up_no_other() -> None:
    # A believed issuer whose clock, like this one, was ten years ahead spoils the one subject that it spoke of.
    ledger = a_ledger()
    ahead_ms = NOW + 10 * YEAR
    ledger.apply(update(100, time_ms=ahead_ms), now_ms=ahead_ms)
    with refused(ledger, StatementStale):
        ledger.apply(update(100), now_ms=NOW)
    ledger.apply(update(100, subject=SECOND), now_ms=NOW)
    assert (ledger.score(PEER), ledger.score(SECOND)) == (100, 100)


@pytest.mark.parametrize("now_ms", [-1, 2**53, True, 1.0, math.nan, None, "1"])
def test_a_time_that_is_none_is_the_callers_fault(now_ms: Any) -> None:
    ledger = a_ledger()
    with refused(ledger, ArgumentInvalid):
        ledger.apply(update(1), now_ms=now_ms)


def test_the_smallest_window_works() -> None:
    ledger = a_ledger(limits=Limits(trust_window_seconds=1))
    for number in range(20):
        now_ms = NOW + number * 301_100  # a second, the tolerance, and a slot
        ledger.apply(update(50, time_ms=now_ms), now_ms=now_ms)
    assert ledger.score(PEER) == 1000
    with refused(ledger, StatementStale):
        ledger.apply(update(50, time_ms=now_ms - 1001), now_ms=now_ms)


# --- memory -----------------------------------------------------------------------------------------------------------


def test_updates_of_one_issuer_on_one_subject_are_bounded_and_come_free_again() -> None:
    ledger = a_ledger(limits=Limits(trust_updates_per_issuer=5))
    for _ in range(5):
        ledger.apply(update(1), now_ms=NOW)
    with refused(ledger, TrustFull):
        ledger.apply(update(1), now_ms=NOW)
    ledger.apply(update(1, issuer=OTHER), now_ms=NOW)
    ledger.apply(update(1, subject=SECOND), now_ms=NOW)
    # What is settled needs no room: the same issuer goes on for years, in the same memory.
    sizes = set()
    for days in range(30, 300, 30):
        time_ms = NOW + days * DAY
        ledger.apply(update(1, issuer=OTHER, time_ms=time_ms), now_ms=time_ms)  # moves the horizon
        for _ in range(5):
            ledger.apply(update(1, time_ms=time_ms), now_ms=time_ms)
        sizes.add(len(ledger.export_state()))
    assert max(sizes) - min(sizes) < 20


def test_a_conflict_makes_its_own_room() -> None:
    ledger = a_ledger(limits=Limits(trust_updates_per_issuer=1), default_score=500)
    ledger.apply(update(200, sequence=5, time_ms=NOW), now_ms=NOW)
    ledger.apply(update(-200, sequence=5, time_ms=NOW - 1), now_ms=NOW)
    assert ledger.score(PEER) == 300


def test_subjects_are_bounded() -> None:
    ledger = a_ledger(limits=Limits(trust_subjects=1))
    ledger.apply(update(1), now_ms=NOW)
    with refused(ledger, TrustFull):
        ledger.apply(update(1, subject=SECOND), now_ms=NOW)
    with refused(ledger, TrustFull):
        ledger.inherit(PEER, SECOND)
    ledger.apply(update(1), now_ms=NOW)


# --- identities that go on as others ----------------------------------------------------------------------------------


def test_a_successor_begins_with_the_score_and_goes_its_own_way() -> None:
    ledger = a_ledger()
    ledger.apply(update(150), now_ms=NOW)
    ledger.inherit(PEER, SECOND)
    ledger.apply(update(-100, subject=SECOND), now_ms=NOW)
    assert (ledger.score(PEER), ledger.score(SECOND)) == (150, 50)
    assert TrustLedger.restore(ledger.export_state()).score(SECOND) == 50


def test_a_bad_score_is_inherited_and_no_record_is_washed_off() -> None:
    ledger = a_ledger(default_score=500)
    ledger.apply(update(-200), now_ms=NOW)
    ledger.inherit(PEER, SECOND)
    assert ledger.score(SECOND) == 300
    for old, new in ((PEER, SECOND), (PEER, PEER), (STRANGER.key, SECOND)):
        with refused(ledger, ArgumentInvalid):
            ledger.inherit(old, new)
    before = ledger.export_state()
    ledger.inherit(STRANGER.key, OTHER.key)  # nothing is known of it, so nothing is inherited
    assert ledger.export_state() == before


@pytest.mark.parametrize("revoked", [OTHER, STRANGER])
def test_nobody_inherits_from_or_as_whom_the_ledger_holds_for_revoked(revoked: Identity) -> None:
    revocations = RevocationList(MESH)
    ledger = a_ledger(revocations=revocations)
    ledger.apply(update(150, subject=OTHER.key), now_ms=NOW)
    revocations.apply(issue_revocation(revoked, revoked.key, mesh=MESH, sequence=0, time_ms=NOW))
    with refused(ledger, ArgumentInvalid):
        ledger.inherit(OTHER.key, STRANGER.key)
    assert not ledger.knows(STRANGER.key)


# --- arguments --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("identity", [None, 5, "did:agentmesh:x", b"", bytes(31), bytes(33), bytearray(31), AUDITOR])
def test_only_an_identity_has_a_score(identity: Any) -> None:
    ledger = a_ledger()
    for call in (ledger.score, ledger.knows, ledger.believes):
        with pytest.raises(ArgumentInvalid):
            call(identity)


@pytest.mark.parametrize("key", [None, PEER.raw, AUDITOR, "key"])
def test_only_identity_keys_are_believed_or_inherit(key: Any) -> None:
    ledger = a_ledger()
    calls = (
        ledger.believe,
        ledger.disbelieve,
        lambda key: ledger.inherit(key, PEER),
        lambda key: ledger.inherit(PEER, key),
    )
    for call in calls:
        with refused(ledger, ArgumentInvalid):
            call(key)


@pytest.mark.parametrize("score", [-1, 1001, True, 0.9, math.nan, "900", None])
def test_the_default_is_a_score(score: Any) -> None:
    with pytest.raises(ArgumentInvalid) as caught:
        TrustLedger(MESH, default_score=score)
    assert caught.value.argument == "default_score"
    with pytest.raises(ArgumentInvalid):
        TrustLedger("Not a mesh")


# --- at rest ----------------------------------------------------------------------------------------------------------


def a_used_ledger() -> TrustLedger:
    """One with settled and open slots, several issuers and subjects."""
    ledger = a_ledger(default_score=300)
    for day in range(4):
        time_ms = NOW + day * DAY
        for issuer, subject in ((AUDITOR, PEER), (OTHER, PEER), (AUDITOR, SECOND)):
            ledger.apply(update(70 - 50 * day, issuer=issuer, subject=subject, time_ms=time_ms), now_ms=time_ms)
    return ledger


def test_what_comes_back_is_what_was_there() -> None:
    ledger = a_used_ledger()
    exported = ledger.export_state()
    restored = TrustLedger.restore(exported, at_least_generation=ledger.generation)
    assert restored.export_state() == exported
    assert (restored.generation, restored.mesh, restored.default_score) == (ledger.generation, MESH, 300)
    statement = update(-100, time_ms=NOW + 3 * DAY + HOUR)
    for one in (ledger, restored):
        one.apply(statement, now_ms=NOW + 3 * DAY + HOUR)
    assert restored.export_state() == ledger.export_state()
    assert restored.score(PEER) == ledger.score(PEER)


def test_damage_is_an_error_and_never_an_empty_ledger() -> None:
    exported = a_used_ledger().export_state()
    for bit in range(0, 8 * len(exported), 7):
        damaged = bytearray(exported)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(StateMalformed):
            TrustLedger.restore(bytes(damaged))
    for end in range(0, len(exported), 11):
        with pytest.raises(StateMalformed):
            TrustLedger.restore(exported[:end])
    for nothing in (b"", exported + b"\x00"):
        with pytest.raises(StateMalformed):
            TrustLedger.restore(nothing)
    for no_bytes in (None, "text"):  # not a damaged state, but a mistaken call
        with pytest.raises(ArgumentInvalid):
            TrustLedger.restore(no_bytes)  # type: ignore[arg-type]


def reframed(exported: bytes, *, fields: list[Any] | None = None, **head: Any) -> bytes:
    """An exported state with other fields, and the checksum that belongs to them."""
    names = ("kind", "version", "mesh", "generation", "payload")
    held = dict(zip(names, msgpack.unpackb(msgpack.unpackb(exported)[0]), strict=True)) | head
    if fields is not None:
        held["payload"] = msgpack.packb(fields)
    body = msgpack.packb(list(held.values()))
    packed: bytes = msgpack.packb([body, hashlib.sha256(body).digest()])
    return packed


def payload(exported: bytes) -> list[Any]:
    fields: list[Any] = msgpack.unpackb(msgpack.unpackb(msgpack.unpackb(exported)[0])[4])
    return fields


def test_an_older_ledger_is_noticed() -> None:
    ledger = a_used_ledger()
    old = ledger.export_state()
    ledger.disbelieve(OTHER.key)
    with pytest.raises(StateStale):
        TrustLedger.restore(old, at_least_generation=ledger.generation)
    TrustLedger.restore(ledger.export_state(), at_least_generation=ledger.generation)
    for wrong in (-1, True, 1.0, None):
        with pytest.raises(ArgumentInvalid):
            TrustLedger.restore(old, at_least_generation=wrong)  # type: ignore[arg-type]


def test_another_version_kind_mesh_or_window_is_refused() -> None:
    exported = a_used_ledger().export_state()
    assert reframed(exported) == exported
    with pytest.raises(StateVersionUnknown):
        TrustLedger.restore(reframed(exported, version=2))
    for head in ({"kind": "graph"}, {"mesh": "Upper"}, {"version": True}, {"generation": -1}):
        with pytest.raises(StateMalformed):
            TrustLedger.restore(reframed(exported, **head))
    with pytest.raises(StateMalformed):
        TrustLedger.restore(TrustGraph(MESH, PEER).export_state())
    with pytest.raises(ArgumentInvalid) as caught:
        TrustLedger.restore(exported, limits=Limits(trust_window_seconds=3600))
    assert caught.value.argument == "limits"


def test_fields_that_contradict_one_another_are_refused() -> None:
    exported = a_used_ledger().export_state()
    default, window, issuers, subjects = payload(exported)
    peer = subjects[0] if subjects[0][0] == PEER.raw else subjects[1]
    raw, base, horizon, voices = peer
    first_open = horizon - 1
    issuer, settled, moved, updates = voices[0]
    assert moved
    assert updates

    def with_voice(*voice: Any) -> list[Any]:
        return [default, window, issuers, [[raw, base, horizon, [list(voice)]]]]

    # The shape is right in all of them, so that it is the contradiction that is found.
    TrustLedger.restore(reframed(exported, fields=with_voice(issuer, settled, moved, updates)))
    sequence, time_ms, signal, digest = updates[-1]
    for fields in (
        [default, window, issuers[::-1], subjects],
        [default, window, [*issuers, issuers[-1]], subjects],
        [default, window, issuers, subjects[::-1]],
        [default, window, issuers, [*subjects, subjects[-1]]],
        with_voice(issuer, settled, [[first_open, 300]], updates),  # settled, in an open slot
        with_voice(issuer, settled, [[first_open - 26, 300]], updates),  # no open slot reaches it
        with_voice(issuer, settled, moved[::-1] + moved, updates),
        with_voice(issuer, settled, [[moved[0][0], 401]], updates),
        with_voice(issuer, settled, moved, [[sequence, time_ms, 401, digest]]),
        with_voice(issuer, settled, moved, updates[::-1] + updates),
        with_voice(issuer, settled, moved, [[sequence, (first_open - 1) * HOUR, signal, digest]]),
        with_voice(issuer, sequence + 1, moved, [updates[-1]]),  # its sequence is spent
        with_voice(issuer, settled, moved, [*updates, [sequence + 1, time_ms - 3 * HOUR, signal, digest]]),
    ):
        with pytest.raises(StateMalformed):
            TrustLedger.restore(reframed(exported, fields=fields))


def test_a_sealed_ledger_opens_under_its_key_alone() -> None:
    exported = a_used_ledger().export_state()
    key, entropy = StateKey(bytes(range(32))), SeededEntropy("seal")
    sealed = seal_state(exported, key, entropy=entropy)
    assert PEER.raw not in sealed
    assert open_state(sealed, key) == exported
    assert seal_state(exported, key, entropy=entropy) != sealed
    for wrong in (b"", sealed[:40], sealed[:-1], sealed[:-1] + bytes([sealed[-1] ^ 1])):
        with pytest.raises(StateMalformed):
            open_state(wrong, key)
    with pytest.raises(StateMalformed):
        open_state(sealed, StateKey(bytes(32)))
    with pytest.raises(ArgumentInvalid):
        open_state(None, key)  # type: ignore[arg-type]
    for call in (lambda: open_state(sealed, bytes(32)), lambda: seal_state(exported, bytes(32), entropy=entropy)):  # type: ignore[arg-type]
        with pytest.raises(ArgumentInvalid):
            call()
    with pytest.raises(ArgumentInvalid):
        seal_state("text", key, entropy=entropy)  # type: ignore[arg-type]


def test_randomness_that_breaks_its_contract_seals_nothing() -> None:
    class Short:
        def token(self, _size: int, /) -> bytes:
            return bytes(8)

    for source in (Short(), None, 5):
        with pytest.raises(RandomnessFailed):
            seal_state(b"state", StateKey(bytes(32)), entropy=source)  # type: ignore[arg-type]


# --- threads ----------------------------------------------------------------------------------------------------------


def test_eight_threads_give_what_one_gives() -> None:
    statements = [update(3, time_ms=NOW + number * 1000, subject=(PEER, SECOND)[number % 2]) for number in range(160)]
    alone, shared = a_ledger(), a_ledger()
    for statement in statements:
        alone.apply(statement, now_ms=NOW + DAY)
    start = threading.Barrier(8)

    def work(mine: list[bytes]) -> None:
        start.wait()
        for statement in mine:
            shared.apply(statement, now_ms=NOW + DAY)
            shared.score(PEER)

    threads = [threading.Thread(target=work, args=(statements[first::8],)) for first in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert shared.export_state() == alone.export_state()
