"""Revocations and successions: signed, monotonic, asked at use, decided by the application (section 9)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import ModuleType
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentmesh.errors import (
    AgentMeshError,
    ArgumentInvalid,
    BadSignature,
    IdentityConflict,
    Malformed,
    StateMalformed,
    StatementStale,
    StatementUnfit,
    StateStale,
    TrustFull,
)
from agentmesh.identity import Identity, IdentityKey
from agentmesh.limits import Limits
from agentmesh.testing import SeededEntropy
from agentmesh.trust import (
    RevocationList,
    Successions,
    TrustGraph,
    TrustLedger,
    issue_continuity,
    issue_edge,
    issue_revocation,
    issue_trust,
)
from agentmesh.trust import revocation as revocation_module

MESH = "example/test"
NOW = 1_767_225_600_000
TOLERANCE = 300_000
OFFICE, ANN, BEN, CAL, DAN = (Identity.generate(SeededEntropy(f"person {number}")) for number in range(5))


def people(count: int) -> list[Identity]:
    return [Identity.generate(SeededEntropy(f"stranger {number}")) for number in range(count)]


def revocation(
    issuer: Identity, subject: Identity | None = None, *, sequence: int = 0, time_ms: int = NOW, mesh: str = MESH
) -> bytes:
    return issue_revocation(issuer, (subject or issuer).key, mesh=mesh, sequence=sequence, time_ms=time_ms)


def continuity(old: Identity, new: Identity, *, sequence: int = 0, time_ms: int = NOW, mesh: str = MESH) -> bytes:
    return issue_continuity(old, new, mesh=mesh, sequence=sequence, time_ms=time_ms)


@contextmanager
def refused(held: RevocationList | Successions, error: type[AgentMeshError]) -> Iterator[None]:
    before = held.export_state()
    with pytest.raises(AgentMeshError) as caught:
        yield
    assert type(caught.value) is error
    assert held.export_state() == before


def with_body(exported: bytes, change: Callable[[list[Any]], list[Any]]) -> bytes:
    """An exported state with other fields, and the checksum that belongs to them."""
    *head, packed = msgpack.unpackb(msgpack.unpackb(exported)[0])
    body = msgpack.packb([*head, msgpack.packb(change(msgpack.unpackb(packed)))])
    whole: bytes = msgpack.packb([body, hashlib.sha256(body).digest()])
    return whole


def damaged(exported: bytes, step: int) -> Iterator[bytes]:
    for bit in range(0, 8 * len(exported), step):
        altered = bytearray(exported)
        altered[bit // 8] ^= 1 << bit % 8
        yield bytes(altered)


# --- revocations ------------------------------------------------------------------------------------------------------


def test_an_identity_revokes_itself_and_an_authority_anybody() -> None:
    listed = RevocationList(MESH)
    assert not listed.is_revoked(ANN.key)
    assert listed.apply(revocation(ANN)).subject == ANN.key
    with refused(listed, StatementUnfit):
        listed.apply(revocation(OFFICE, BEN))
    listed.believe(OFFICE.key)
    listed.apply(revocation(OFFICE, BEN))
    assert [listed.is_revoked(one.key) for one in (ANN, BEN, CAL, OFFICE)] == [True, True, False, False]
    assert listed.is_revoked(ANN.key.raw)
    assert len(listed) == 2


def test_nothing_takes_a_revocation_back() -> None:
    listed = RevocationList(MESH)
    listed.believe(OFFICE.key)
    listed.apply(revocation(OFFICE, ANN))
    listed.disbelieve(OFFICE.key)
    assert listed.is_revoked(ANN.key)
    with refused(listed, StatementUnfit):
        listed.apply(revocation(OFFICE, BEN))
    listed.apply(revocation(OFFICE))  # itself it may still revoke
    with refused(listed, StatementStale):
        listed.apply(revocation(ANN, sequence=5))
    assert RevocationList.restore(listed.export_state()).is_revoked(ANN.key)
    assert not [name for name in dir(listed) if "un" in name and "revoke" in name]


@pytest.mark.parametrize("time_ms", [0, NOW + 10**12])
def test_a_revocation_holds_whatever_its_time_says(time_ms: int) -> None:
    listed = RevocationList(MESH)
    listed.apply(revocation(ANN, time_ms=time_ms))
    assert listed.is_revoked(ANN.key)


def test_forged_foreign_and_other_statements_revoke_nobody() -> None:
    listed = RevocationList(MESH)
    genuine = revocation(ANN)
    with refused(listed, BadSignature):
        listed.apply(genuine[:-1] + bytes([genuine[-1] ^ 1]))
    with refused(listed, StatementUnfit):
        listed.apply(revocation(ANN, mesh="example/other"))
    with refused(listed, Malformed):
        listed.apply(issue_edge(ANN, BEN.key, 0, mesh=MESH, sequence=0, time_ms=NOW))
    with refused(listed, Malformed):
        listed.apply(continuity(ANN, BEN))


def test_whoever_is_asked_may_ask_the_list_itself(interrupts: ModuleType) -> None:
    # As a policy over this list does, from a thread that may wait for another one, which waits for the list.
    free: list[bool] = []
    listed = RevocationList(MESH, is_known=lambda _: free.append(interrupts.is_free(listed._lock)) or True)  # type: ignore[func-returns-value]
    listed.apply(revocation(ANN))
    assert free == [True]


@pytest.mark.parametrize(
    ("issuer", "meanwhile", "error"),
    [(OFFICE, OFFICE, StatementUnfit), (OFFICE, ANN, StatementStale), (ANN, ANN, StatementStale)],
)
def test_what_happened_while_somebody_was_asked_counts(
    issuer: Identity, meanwhile: Identity, error: type[AgentMeshError]
) -> None:
    asked: list[bytes] = []

    def is_known(key: bytes) -> bool:
        if not asked:
            asked.append(key)
            listed.apply(revocation(meanwhile))
        return True

    listed = RevocationList(MESH, is_known=is_known)
    listed.believe(OFFICE.key)
    with pytest.raises(AgentMeshError) as caught:
        listed.apply(revocation(issuer, ANN, sequence=1))
    assert type(caught.value) is error
    assert listed.statements() == (revocation(meanwhile),)


def test_nobody_is_asked_about_what_is_refused_anyway() -> None:
    asked: list[bytes] = []
    listed = RevocationList(MESH, is_known=lambda key: bool(asked.append(key)))  # type: ignore[func-returns-value]
    listed.apply(revocation(ANN))
    assert asked == [ANN.key.raw]
    with refused(listed, StatementStale):
        listed.apply(revocation(ANN, sequence=1))
    with refused(listed, StatementUnfit):
        listed.apply(revocation(OFFICE, BEN))
    assert asked == [ANN.key.raw]


def test_the_list_can_be_handed_on() -> None:
    listed, other = RevocationList(MESH), RevocationList(MESH)
    listed.believe(OFFICE.key)
    other.believe(OFFICE.key)
    for statement in (revocation(ANN), revocation(OFFICE, BEN)):
        listed.apply(statement)
    for statement in listed.statements():
        other.apply(statement)
    assert other.export_state() == listed.export_state()


@given(st.permutations(range(4)))
def test_any_order_gives_one_list(order: list[int]) -> None:
    statements = [revocation(ANN), revocation(BEN), revocation(OFFICE, CAL), revocation(OFFICE, DAN)]
    listed = RevocationList(MESH)
    listed.believe(OFFICE.key)
    for place in order:
        listed.apply(statements[place])
    assert all(listed.is_revoked(one.key) for one in (ANN, BEN, CAL, DAN))
    assert listed.generation == 5


def test_strangers_cannot_fill_the_list() -> None:
    listed = RevocationList(MESH, limits=Limits(revocations=12), is_known=lambda key: key == ANN.key.raw)
    listed.believe(OFFICE.key)
    crowd = people(12)
    for stranger in crowd[:9]:
        listed.apply(revocation(stranger))
    with refused(listed, TrustFull):
        listed.apply(revocation(crowd[9]))
    listed.apply(revocation(ANN))
    listed.apply(revocation(OFFICE, BEN))
    listed.apply(revocation(OFFICE, crowd[9]))
    with refused(listed, TrustFull):
        listed.apply(revocation(OFFICE, CAL))  # the whole list is full
    assert len(listed._strangers) == 9


def test_whatever_goes_wrong_in_knowing_makes_a_stranger() -> None:
    for known in (lambda _: 1, lambda _: None, lambda _: 1 / 0):
        listed = RevocationList(MESH, limits=Limits(revocations=4), is_known=known)  # type: ignore[arg-type]
        for stranger in people(3):
            listed.apply(revocation(stranger))
        with refused(listed, TrustFull):
            listed.apply(revocation(ANN))


def test_a_restored_list_is_verified_again() -> None:
    listed = RevocationList(MESH, limits=Limits(revocations=4))
    listed.believe(OFFICE.key)
    for statement in (revocation(ANN), revocation(CAL), revocation(OFFICE, BEN)):
        listed.apply(statement)
    listed.disbelieve(OFFICE.key)
    exported = listed.export_state()
    restored = RevocationList.restore(exported, at_least_generation=5, limits=Limits(revocations=4))
    assert restored.export_state() == exported
    assert restored._strangers == listed._strangers == {ANN.key.raw, CAL.key.raw}
    for altered in damaged(exported, 5):
        with pytest.raises(StateMalformed):
            RevocationList.restore(altered)
    # A checksum is no signature: what is added or changed does not verify.
    first, second = sorted((revocation(ANN), revocation(CAL)))
    forged = first[:-1] + bytes([first[-1] ^ 1])
    for statements in ([forged, second], [first, first], [first, b"\x00"], sorted((second, first), reverse=True) * 2):
        for place in (1, 2):
            fields = [[], [], []]
            fields[place] = statements
            with pytest.raises(StateMalformed):
                RevocationList.restore(with_body(exported, lambda _, wrong=fields: wrong))
    for fields in ([[], [first], [first]], [[], [], [revocation(OFFICE, BEN)]]):  # twice; and no stranger's
        with pytest.raises(StateMalformed):
            RevocationList.restore(with_body(exported, lambda _, wrong=fields: wrong))
    RevocationList.restore(with_body(exported, lambda _: [[], [revocation(OFFICE, BEN)], [first]]))


def test_who_was_a_stranger_stays_one_and_nobody_becomes_one_later() -> None:
    known = {ANN.key.raw}
    listed = RevocationList(MESH, limits=Limits(revocations=8, reserved_one_in=2), is_known=known.__contains__)
    listed.believe(OFFICE.key)
    for statement in (revocation(ANN), revocation(OFFICE), revocation(BEN)):
        listed.apply(statement)
    # From here on it is all the other way round.
    listed.disbelieve(OFFICE.key)
    known ^= {ANN.key.raw, BEN.key.raw}
    restored = RevocationList.restore(
        listed.export_state(), limits=Limits(revocations=8, reserved_one_in=2), is_known=known.__contains__
    )
    for one in (listed, restored):
        for stranger in people(3):
            one.apply(revocation(stranger))
        with refused(one, TrustFull):
            one.apply(revocation(CAL))


def test_the_generations_count_every_change_once() -> None:
    listed, successions = RevocationList(MESH), Successions(MESH)
    assert RevocationList.restore(listed.export_state()).generation == 0
    assert Successions.restore(successions.export_state()).generation == 0
    for number, change in enumerate(
        (
            lambda: listed.believe(OFFICE.key),
            lambda: listed.apply(revocation(ANN)),
            lambda: listed.disbelieve(OFFICE.key),
        ),
        start=1,
    ):
        change()
        assert listed.generation == number
    for number, change in enumerate(
        (
            lambda: successions.know(ANN.key),
            lambda: successions.know(ANN.key, "n"),
            lambda: successions.offer(continuity(ANN, BEN), now_ms=NOW),
            lambda: successions.follow(ANN.key, BEN.key),
        ),
        start=1,
    ):
        change()
        assert successions.generation == number


def test_an_older_list_is_noticed() -> None:
    listed = RevocationList(MESH)
    old = listed.export_state()
    listed.apply(revocation(ANN))
    with pytest.raises(StateStale):
        RevocationList.restore(old, at_least_generation=listed.generation)
    # Taken out of the file, with a checksum to match, and the count left as it was: the list alone does not show it.
    # That is why the count is kept elsewhere, and the file sealed.
    shorter = with_body(listed.export_state(), lambda fields: [fields[0], [], []])
    assert len(RevocationList.restore(shorter, at_least_generation=listed.generation)) == 0


def restored_with(exported: bytes, **options: Any) -> RevocationList:
    return RevocationList.restore(exported, **options)


def test_arguments_of_the_list() -> None:
    listed = RevocationList(MESH)
    with pytest.raises(ArgumentInvalid):
        RevocationList("Upper")
    for name, wrong in (("limits", 5), ("limits", {}), ("is_known", 5), ("is_known", {ANN.key.raw})):
        for call in (lambda **options: RevocationList(MESH, **options), partial(restored_with, listed.export_state())):
            with pytest.raises(ArgumentInvalid) as caught:
                call(**{name: wrong})
            assert caught.value.argument == name
    for key in (None, ANN, ANN.key.raw):
        for call in (listed.believe, listed.disbelieve):
            with refused(listed, ArgumentInvalid):
                call(key)  # type: ignore[arg-type]
    for identity in (None, "did", bytes(31), ANN):
        with pytest.raises(ArgumentInvalid):
            listed.is_revoked(identity)  # type: ignore[arg-type]
    before = listed.export_state()
    listed.disbelieve(OFFICE.key)
    assert listed.export_state() == before
    listed.believe(OFFICE.key)
    held = listed.export_state()
    listed.believe(OFFICE.key)
    assert listed.export_state() == held


# --- successions ------------------------------------------------------------------------------------------------------


def knowing(*known: tuple[Identity, str | None]) -> Successions:
    successions = Successions(MESH)
    for identity, name in known:
        successions.know(identity.key, name)
    return successions


def test_another_key_under_a_known_name_is_an_error_until_it_was_accepted() -> None:
    successions = knowing((ANN, "ann"), (BEN, "ben"))
    assert successions.check("ann", ANN.key) == ANN.key
    for key in (CAL.key, BEN.key):
        with refused(successions, IdentityConflict):
            successions.check("ann", key)
        with refused(successions, IdentityConflict):
            successions.know(key, "ann")
    successions.offer(continuity(ANN, CAL), now_ms=NOW)
    with refused(successions, IdentityConflict):  # an offer alone changes nothing
        successions.check("ann", CAL.key)
    assert successions.current(ANN.key) == ANN.key
    successions.follow(ANN.key, CAL.key)
    assert successions.check("ann", CAL.key) == CAL.key
    with refused(successions, IdentityConflict):
        successions.check("ann", ANN.key)
    assert successions.is_retired(ANN.key.raw)
    assert not successions.is_retired(CAL.key)
    assert successions.current(ANN.key) == CAL.key


def test_nobody_is_followed_without_an_offer_that_both_signed() -> None:
    successions = knowing((ANN, None))
    for old, new in ((ANN, BEN), (BEN, CAL), (ANN, ANN)):
        with refused(successions, ArgumentInvalid):
            successions.follow(old.key, new.key)
    genuine = continuity(ANN, BEN)
    with refused(successions, BadSignature):
        successions.offer(genuine[:-1] + bytes([genuine[-1] ^ 1]), now_ms=NOW)
    with refused(successions, StatementUnfit):
        successions.offer(continuity(ANN, BEN, mesh="example/other"), now_ms=NOW)
    with refused(successions, StatementStale):
        successions.offer(continuity(ANN, BEN, time_ms=NOW + TOLERANCE + 1), now_ms=NOW)
    with refused(successions, Malformed):
        successions.offer(revocation(ANN), now_ms=NOW)
    successions.offer(continuity(ANN, BEN, time_ms=NOW + TOLERANCE), now_ms=NOW)


def test_strangers_offer_nothing() -> None:
    successions = knowing((ANN, "ann"))
    for stranger in people(3):
        with refused(successions, StatementUnfit):
            successions.offer(continuity(stranger, CAL), now_ms=NOW)


def test_two_successors_are_shown_side_by_side() -> None:
    successions = knowing((ANN, "ann"))
    for new in (BEN, CAL):
        successions.offer(continuity(ANN, new), now_ms=NOW)
    assert {offer.subject for offer in successions.offers(ANN.key)} == {BEN.key, CAL.key}
    assert successions.offers(BEN.key) == ()
    successions.follow(ANN.key, BEN.key)
    assert successions.offers(ANN.key) == ()
    with refused(successions, StatementUnfit):
        successions.offer(continuity(ANN, CAL, sequence=9), now_ms=NOW)
    with refused(successions, ArgumentInvalid):
        successions.follow(ANN.key, CAL.key)


def test_offers_of_one_identity_are_bounded() -> None:
    successions = knowing((ANN, None))
    crowd = people(9)
    for new in crowd[:8]:
        successions.offer(continuity(ANN, new), now_ms=NOW)
    with refused(successions, TrustFull):
        successions.offer(continuity(ANN, crowd[8]), now_ms=NOW)
    successions.offer(continuity(ANN, crowd[0], sequence=1), now_ms=NOW)


def test_an_offer_that_was_made_before_is_stale_and_order_does_not_matter() -> None:
    old, new = continuity(ANN, BEN, sequence=1), continuity(ANN, BEN, sequence=2)
    twin = continuity(ANN, BEN, sequence=2, time_ms=NOW + 1)
    ends = set()
    for order in ((old, new, twin), (twin, old, new), (new, twin, old)):
        successions = knowing((ANN, None))
        for statement in order:
            try:
                successions.offer(statement, now_ms=NOW)
            except StatementStale:
                continue
        [offer] = successions.offers(ANN.key)
        ends.add(offer.digest)
    assert len(ends) == 1
    with refused(successions, StatementStale):
        successions.offer(old, now_ms=NOW)


def test_successors_form_chains_and_never_circles() -> None:
    successions = knowing((ANN, "ann"), (DAN, None))
    for old, new in ((ANN, BEN), (BEN, CAL)):
        successions.offer(continuity(old, new), now_ms=NOW)
        successions.follow(old.key, new.key)
    assert successions.current(ANN.key) == CAL.key
    assert successions.check("ann", CAL.key)
    for old, new in ((CAL, ANN), (CAL, BEN), (DAN, CAL), (DAN, ANN)):
        with refused(successions, StatementUnfit):
            successions.offer(continuity(old, new), now_ms=NOW)
    with refused(successions, ArgumentInvalid):
        successions.know(ANN.key)


def test_no_two_identities_go_on_as_one() -> None:
    successions = knowing((ANN, None), (DAN, None))
    successions.offer(continuity(DAN, BEN), now_ms=NOW)
    successions.offer(continuity(ANN, BEN), now_ms=NOW)
    successions.follow(ANN.key, BEN.key)
    with refused(successions, ArgumentInvalid):
        successions.follow(DAN.key, BEN.key)
    with refused(successions, StatementUnfit):
        successions.offer(continuity(DAN, BEN, sequence=1), now_ms=NOW)
    restored = Successions.restore(successions.export_state())
    with refused(restored, ArgumentInvalid):
        restored.follow(DAN.key, BEN.key)


def test_two_offers_at_once_do_not_make_a_circle() -> None:
    successions = knowing((ANN, None), (BEN, None))
    successions.offer(continuity(ANN, BEN), now_ms=NOW)
    successions.offer(continuity(BEN, ANN), now_ms=NOW)
    successions.follow(ANN.key, BEN.key)
    with refused(successions, ArgumentInvalid):
        successions.follow(BEN.key, ANN.key)


def test_an_identity_with_a_name_is_nobodys_successor() -> None:
    successions = knowing((ANN, "ann"), (BEN, "ben"))
    with refused(successions, StatementUnfit):
        successions.offer(continuity(ANN, BEN), now_ms=NOW)


def test_names_and_keys_stay_with_one_another() -> None:
    successions = knowing((ANN, None))
    held = successions.export_state()
    successions.know(ANN.key)
    assert successions.export_state() == held
    successions.know(ANN.key, "ann")
    held = successions.export_state()
    successions.know(ANN.key, "ann")
    successions.know(ANN.key)
    assert successions.export_state() == held
    with refused(successions, IdentityConflict):
        successions.know(ANN.key, "anna")
    for name in ("", "n" * 129, 5, b"ann"):
        with refused(successions, ArgumentInvalid):
            successions.know(BEN.key, name)  # type: ignore[arg-type]
    for name in ("ben", None, 5, ["ann"]):
        with refused(successions, ArgumentInvalid):
            successions.check(name, ANN.key)  # type: ignore[arg-type]


def test_arguments_of_successions() -> None:
    successions = knowing((ANN, "ann"))
    with pytest.raises(ArgumentInvalid):
        Successions("Upper")
    calls: tuple[Callable[[Any], object], ...] = (
        successions.know,
        successions.offers,
        successions.current,
        lambda key: successions.check("ann", key),
        lambda key: successions.follow(key, BEN.key),
        lambda key: successions.follow(ANN.key, key),
    )
    for key in (None, ANN, ANN.key.raw):
        for call in calls:
            with refused(successions, ArgumentInvalid):
                call(key)
    with pytest.raises(ArgumentInvalid):
        successions.is_retired("did")  # type: ignore[arg-type]
    with refused(successions, ArgumentInvalid):
        successions.offer(continuity(ANN, BEN), now_ms=-1)


def test_successions_come_back_as_they_were() -> None:
    successions = knowing((ANN, "ann"), (DAN, None))
    successions.offer(continuity(ANN, BEN), now_ms=NOW)
    successions.follow(ANN.key, BEN.key)
    for new in (CAL, OFFICE):
        successions.offer(continuity(BEN, new), now_ms=NOW)
    exported = successions.export_state()
    restored = Successions.restore(exported, at_least_generation=successions.generation)
    assert restored.export_state() == exported
    assert restored.current(ANN.key) == BEN.key
    assert restored.check("ann", BEN.key) == BEN.key
    assert len(restored.offers(BEN.key)) == 2
    with pytest.raises(StateStale):
        Successions.restore(exported, at_least_generation=successions.generation + 1)
    for altered in damaged(exported, 7):
        with pytest.raises(StateMalformed):
            Successions.restore(altered)
    with pytest.raises(StateMalformed):
        Successions.restore(TrustLedger(MESH).export_state())


def test_successions_that_contradict_one_another_are_refused() -> None:
    ann, ben, cal, dan = sorted(key.raw for key in (ANN.key, BEN.key, CAL.key, DAN.key))
    offer = continuity(*(one for one in (ANN, BEN)))
    exported = Successions(MESH).export_state()

    def state(known: list[Any], followed: list[Any], offers: list[bytes]) -> bytes:
        return with_body(exported, lambda _: [known, followed, offers])

    Successions.restore(state([[cal, "c"], [dan, None]], [[ann, ben], [ben, cal]], []))
    for wrong in (
        state([[cal, "c"], [dan, "c"]], [], []),  # one name twice
        state([[dan, None], [cal, None]], [], []),  # not in order
        state([[cal, None], [cal, None]], [], []),
        state([[bytes(32), None]], [], []),  # not a key
        state([], [[ann, ben]], []),  # a chain that ends nowhere
        state([[ann, None], [ben, None]], [[ann, ben]], []),  # retired, and known
        state([], [[ann, ben], [ben, ann]], []),  # a circle
        state([[dan, None]], [[ann, ben], [ben, cal], [cal, ann]], []),
        state([[cal, None]], [[ann, cal], [ben, cal]], []),  # two go on as one
        state([[dan, None]], [[ann, ann]], []),
        state([], [], [offer]),  # offered by somebody who is not known
        state([[ANN.key.raw, None]], [], [offer, offer]),
    ):
        with pytest.raises(StateMalformed):
            Successions.restore(wrong)


PEOPLE = st.sampled_from([ANN, BEN, CAL, DAN])
OPERATIONS = st.one_of(
    st.tuples(st.just("know"), PEOPLE, st.sampled_from([None, "a", "b"])),
    st.tuples(st.just("offer"), PEOPLE, PEOPLE),
    st.tuples(st.just("follow"), PEOPLE, PEOPLE),
)


@given(st.lists(OPERATIONS, max_size=20))
def test_whatever_was_done_comes_back(operations: list[tuple[str, Identity, Any]]) -> None:
    successions = Successions(MESH)
    for sequence, (operation, one, other) in enumerate(operations):
        before = successions.export_state()
        try:
            if operation == "know":
                successions.know(one.key, other)
            elif operation == "offer":
                successions.offer(continuity(one, other, sequence=sequence), now_ms=NOW)
            else:
                successions.follow(one.key, other.key)
        except AgentMeshError:
            assert successions.export_state() == before
        exported = successions.export_state()
        restored = Successions.restore(exported)
        assert restored.export_state() == exported
        for person in (ANN, BEN, CAL, DAN):
            current = successions.current(person.key)
            assert restored.current(person.key) == current
            assert not successions.is_retired(current.raw)


def test_keys_that_come_back_are_keys() -> None:
    successions = knowing((ANN, "ann"))
    successions.offer(continuity(ANN, BEN), now_ms=NOW)
    successions.follow(ANN.key, BEN.key)
    current = Successions.restore(successions.export_state()).current(IdentityKey(ANN.key.raw))
    assert current == BEN.key
    assert current.did == BEN.key.did


def test_an_authority_that_revoked_itself_revokes_nobody_else() -> None:
    listed = RevocationList(MESH)
    listed.believe(OFFICE.key)
    listed.apply(revocation(OFFICE, ANN))
    listed.apply(revocation(OFFICE))
    with refused(listed, StatementUnfit):
        listed.apply(revocation(OFFICE, BEN))
    assert [listed.is_revoked(one.key) for one in (ANN, OFFICE, BEN)] == [True, True, False]
    listed.apply(revocation(BEN))
    restored = RevocationList.restore(listed.export_state())
    assert restored.export_state() == listed.export_state()


class Meanwhile:
    """A list that revokes an issuer while its statement is being verified: it says so from the second question on."""

    def __init__(self) -> None:
        self.asked, self.mesh = 0, MESH

    def is_revoked(self, _identity: object) -> bool:
        self.asked += 1
        return self.asked > 1


def test_an_issuer_that_is_revoked_while_its_statement_is_verified_does_not_count() -> None:
    ledger, graph = TrustLedger(MESH), TrustGraph(MESH, ANN.key)
    ledger.believe(OFFICE.key)
    update = issue_trust(OFFICE, BEN.key, 100, mesh=MESH, sequence=1, time_ms=NOW)
    edge = issue_edge(OFFICE, BEN.key, 100, mesh=MESH, sequence=1, time_ms=NOW)
    for held, statement in ((ledger, update), (graph, edge)):
        held._revocations = Meanwhile()  # type: ignore[assignment]
        before = held.export_state()
        with pytest.raises(StatementUnfit):
            held.apply(statement, now_ms=NOW)
        assert held.export_state() == before


def test_an_authority_that_is_revoked_while_its_revocation_is_verified_revokes_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    listed = RevocationList(MESH)
    listed.believe(OFFICE.key)
    verify = revocation_module.verify_revocation

    def slowly(*arguments: Any, **more: Any) -> Any:
        found = verify(*arguments, **more)
        monkeypatch.undo()
        listed.apply(revocation(OFFICE))
        return found

    monkeypatch.setattr(revocation_module, "verify_revocation", slowly)
    with pytest.raises(StatementUnfit):
        listed.apply(revocation(OFFICE, BEN))
    assert listed.is_revoked(OFFICE.key)
    assert not listed.is_revoked(BEN.key)
