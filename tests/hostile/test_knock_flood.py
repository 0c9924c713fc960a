"""Floods of KNOCKs: budgets, bounded memories, and who is charged (protocol, section 5.1)."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import attrs
import pytest

from agentmesh import Agent, Deny, Grant, Intent, KnockReceived, KnockRefused, Limits, Reason, SessionEstablished
from agentmesh.errors import BadSignature, Busy, KnockUnopened, RemoteError, TooManySessions
from agentmesh.policy import ASK

DAY = 86_400_000


def tally(agent: Agent, envelopes: list[bytes]) -> dict[Any, int]:
    """How often each outcome came: an error's class, a REJECT's reason, or an event's class."""
    counts: dict[Any, int] = {}
    for envelope in envelopes:
        try:
            [event] = agent.receive(envelope)
            what = event.reason if isinstance(event, KnockRefused) else type(event)
        except RemoteError as error:
            what = type(error)
        counts[what] = counts.get(what, 0) + 1
    return counts


def forged(scene: Any, forge: ModuleType, bundle: bytes, number: int) -> bytes:
    """A KNOCK in Alice's name that she never made, each with another time."""
    knock = scene.craft(bundle, time_ms=scene.clock.now_ms - number)
    envelope: bytes = knock.signed_by(scene.identity(scene.mallory)).envelope
    return envelope


def honest(scene: Any, forge: ModuleType, bundles: list[bytes]) -> list[bytes]:
    """One KNOCK of another stranger on each bundle."""
    return [
        bytes(forge.another_agent(scene, number).knock(scene.bob.did, bundle, Intent("honest")).envelope)
        for number, bundle in enumerate(bundles)
    ]


# --- a thousand forgeries, then a hundred honest ones -----------------------------------------------------------------


def test_a_thousand_forgeries_on_every_bundle_consume_nothing_and_a_hundred_honest_knocks_succeed(
    forge: ModuleType,
) -> None:
    scene = forge.new_scene(Limits())
    bundles = scene.one_time(100)
    knocks = honest(scene, forge, bundles)
    before = scene.bob.export_state()
    flood = [forged(scene, forge, bundles[number % 100], number) for number in range(1000)]
    assert tally(scene.bob, flood) == {BadSignature: 1000}
    assert scene.bob.export_state() == before
    assert scene.bob._core.state.unused_one_time() == 100
    assert forge.volatile(scene.bob) == (0, 0, 0, 0)
    assert tally(scene.bob, knocks) == {KnockReceived: 100}
    assert scene.bob._core.state.unused_one_time() == 0
    for event in scene.bob.pending_knocks():
        assert scene.bob.accept(event).envelope


def test_forgeries_between_honest_knocks_stop_none_of_them(forge: ModuleType) -> None:
    scene = forge.new_scene(Limits())
    bundles = scene.one_time(100)
    knocks = honest(scene, forge, bundles)
    for number, (bundle, knock) in enumerate(zip(bundles, knocks, strict=True)):
        flood = [forged(scene, forge, bundle, 10 * number + more) for more in range(7)]
        assert tally(scene.bob, flood) == {BadSignature: 7}
        assert tally(scene.bob, [knock]) == {KnockReceived: 1}


def test_over_the_signature_budget_every_knock_is_busy_and_nothing_is_stored(forge: ModuleType) -> None:
    scene = forge.new_scene(Limits(signature_checks_per_second=50))
    bundles = scene.one_time(100)
    knocks = honest(scene, forge, bundles)
    last_resort = scene.last_resort()
    before = scene.bob.export_state()
    flood = [forged(scene, forge, last_resort, number) for number in range(60)]
    assert tally(scene.bob, flood) == {BadSignature: 50, Busy: 10}
    assert tally(scene.bob, knocks) == {Busy: 100}
    assert scene.bob.export_state() == before
    assert forge.volatile(scene.bob) == (0, 0, 0, 0)
    # The budget comes back with time, and each KNOCK is taken at its next offer.
    taken = 0
    for _ in range(2):
        scene.clock.advance(seconds=1)
        counts = tally(scene.bob, knocks[taken:])
        assert counts[KnockReceived] == 50
        taken += 50
    assert len(scene.bob.pending_knocks()) == 100


def test_the_signature_budget_at_its_edge(forge: ModuleType) -> None:
    scene = forge.new_scene(Limits())
    last_resort = scene.last_resort()
    flood = [forged(scene, forge, last_resort, 0)] * 2000
    assert tally(scene.bob, flood) == {BadSignature: 2000}
    with forge.refused(scene.bob, Busy):
        scene.bob.receive(flood[0])
    scene.clock.advance(ms=1)  # two checks have come back
    assert tally(scene.bob, flood[:3]) == {BadSignature: 2, Busy: 1}


# --- what fails on one bundle -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("last_resort", [False, True])
def test_a_forgery_a_second_on_a_bundle_for_an_hour_holds_up_no_genuine_knock(
    last_resort: bool, scene: Any, forge: ModuleType
) -> None:
    bundle = scene.last_resort() if last_resort else scene.one_time()[0]
    genuine = scene.craft(bundle, lifetime_ms=DAY)
    forgery = genuine.signed_by(scene.identity(scene.mallory)).envelope
    before = scene.bob.export_state()
    for _ in range(3600):
        assert tally(scene.bob, [forgery]) == {BadSignature: 1}
        scene.clock.advance(seconds=1)
    assert forge.volatile(scene.bob) == (0, 0, 0, 0)
    assert scene.bob.export_state() == before
    # Right behind the last one, at once.
    assert tally(scene.bob, [forgery, genuine.envelope]) == {BadSignature: 1, KnockReceived: 1}


def test_what_fails_on_a_bundle_is_held_against_nobody(scene: Any, forge: ModuleType) -> None:
    bundle = scene.one_time()[0]
    genuine = scene.craft(bundle)
    for number in range(30):
        # Signed by its sender, and it does not open.
        knock = scene.craft(bundle, time_ms=scene.clock.now_ms - 2000 - number, content=b"\xc1")
        with forge.refused(scene.bob, KnockUnopened):
            scene.bob.receive(knock.envelope)
    for number in range(50):
        with forge.refused(scene.bob, BadSignature):
            scene.bob.receive(forged(scene, forge, bundle, number))
    assert tally(scene.bob, [genuine.envelope]) == {KnockReceived: 1}


def test_forgeries_on_a_used_and_on_an_unknown_bundle_leave_nothing(scene: Any, forge: ModuleType) -> None:
    bundle = scene.one_time()[0]
    scene.bob.receive(scene.craft(bundle, sender=scene.mallory).envelope)
    before = forge.volatile(scene.bob)
    flood = [forged(scene, forge, bundle, number) for number in range(20)]
    assert tally(scene.bob, flood) == {BadSignature: 20}
    unknown = scene.craft(bundle).having(ref=bytes(32)).envelope
    for _ in range(100):
        with pytest.raises(RemoteError):
            scene.bob.receive(unknown)
    assert forge.volatile(scene.bob) == before


# --- the sender's own rate --------------------------------------------------------------------------------------------


def test_the_rate_of_an_identity_at_its_edge_and_one_past_it(forge: ModuleType) -> None:
    scene = forge.new_scene(Limits())
    scene.rules.decides = Deny()
    bundles = scene.one_time(24)
    now_ms = scene.clock.now_ms
    knocks = [scene.craft(bundle, time_ms=now_ms + at).envelope for at, bundle in enumerate(bundles)]
    assert tally(scene.bob, knocks[:20]) == {Reason.POLICY: 20}
    # Over it nothing is stored and nothing signed: the bundle is still there, and the same bytes are taken later.
    held = forge.volatile(scene.bob)
    for _ in range(3):
        with forge.refused(scene.bob, Busy):
            scene.bob.receive(knocks[20])
    assert forge.volatile(scene.bob) == held
    assert scene.bob._core.state.unused_one_time() == 4
    # Others are not charged for her.
    assert tally(scene.bob, [scene.craft(bundles[23], sender=scene.mallory).envelope]) == {Reason.POLICY: 1}
    scene.clock.advance(ms=999)
    assert tally(scene.bob, [knocks[20]]) == {Busy: 1}
    scene.clock.advance(ms=1)
    assert tally(scene.bob, [knocks[20]]) == {Reason.POLICY: 1}


def test_what_cannot_be_remembered_is_not_charged(forge: ModuleType) -> None:
    scene = forge.new_scene(Limits(remembered_knocks=1))
    first, second = scene.one_time(2)
    scene.bob.receive(scene.craft(first, sender=scene.mallory).envelope)
    knock = scene.craft(second).envelope
    assert tally(scene.bob, [knock] * 50) == {Busy: 50}
    assert scene.alice.key.raw not in scene.bob._core.budgets.knocks._debts
    scene.bob._core.limits = Limits()
    assert tally(scene.bob, [knock]) == {KnockReceived: 1}


def test_forgeries_in_anothers_name_do_not_charge_it(forge: ModuleType) -> None:
    scene = forge.new_scene(Limits())
    last_resort = scene.last_resort()
    flood = [forged(scene, forge, last_resort, number) for number in range(500)]
    assert tally(scene.bob, flood) == {BadSignature: 500}
    assert len(scene.bob._core.budgets.knocks) == 0
    scene.rules.decides = Deny()
    knocks = [scene.craft(last_resort, time_ms=scene.clock.now_ms + number).envelope for number in range(20)]
    assert tally(scene.bob, knocks) == {Reason.POLICY: 20}


def test_throwaway_identities_do_not_reset_the_rate_of_a_throttled_one(forge: ModuleType) -> None:
    scene = forge.new_scene(Limits(tracked_identities=30))
    scene.rules.decides = Deny()
    last_resort = scene.last_resort()
    knocks = [scene.craft(last_resort, time_ms=scene.clock.now_ms + number).envelope for number in range(40)]
    assert tally(scene.bob, knocks[:20]) == {Reason.POLICY: 20}
    throwaways = [forge.another_agent(scene, number) for number in range(60)]
    crowd = [scene.craft(last_resort, sender=agent).envelope for agent in throwaways]
    counts = tally(scene.bob, crowd)
    assert counts[Reason.POLICY] == 29
    assert sum(counts.values()) == 60
    assert set(counts) == {Reason.POLICY, Busy}
    assert tally(scene.bob, knocks[20:40]) == {Busy: 20}
    assert len(scene.bob._core.budgets.knocks) <= 30


# --- bounded memories -------------------------------------------------------------------------------------------------


def test_the_memory_of_one_sender_is_bounded_and_fails_closed(forge: ModuleType) -> None:
    scene = forge.new_scene(attrs.evolve(forge.ROOMY, remembered_knocks_per_identity=10))
    scene.rules.decides = Deny()
    last_resort = scene.last_resort()
    now_ms = scene.clock.now_ms
    knocks = [scene.craft(last_resort, time_ms=now_ms + number, lifetime_ms=DAY).envelope for number in range(12)]
    assert tally(scene.bob, knocks[:10]) == {Reason.POLICY: 10}
    for _ in range(3):
        with forge.refused(scene.bob, Busy):
            scene.bob.receive(knocks[10])
    assert len(scene.bob._core.state.knocks) == 10
    assert tally(scene.bob, [scene.craft(last_resort, sender=scene.mallory).envelope]) == {Reason.POLICY: 1}
    # What opened is remembered while its bundle lives, so polling does not make room for it earlier.
    scene.clock.now_ms = now_ms + DAY + 300_000 + 20
    scene.bob.poll()
    with forge.refused(scene.bob, Busy):
        scene.bob.receive(scene.craft(last_resort).envelope)
    scene.clock.now_ms = now_ms + 21 * DAY + 300_001
    scene.bob.poll()
    assert tally(scene.bob, [scene.craft(scene.last_resort()).envelope]) == {Reason.POLICY: 1}


def test_the_memory_of_all_senders_is_bounded_and_fails_closed(forge: ModuleType) -> None:
    scene = forge.new_scene(attrs.evolve(forge.ROOMY, remembered_knocks=20))
    scene.rules.decides = Deny()
    last_resort, now_ms = scene.last_resort(), scene.clock.now_ms
    throwaways = [forge.another_agent(scene, number) for number in range(25)]
    flood = [scene.craft(last_resort, sender=agent, lifetime_ms=2000).envelope for agent in throwaways]
    assert tally(scene.bob, flood) == {Reason.POLICY: 20, Busy: 5}
    genuine = scene.craft(last_resort, lifetime_ms=14 * DAY)
    with forge.refused(scene.bob, Busy):
        scene.bob.receive(genuine.envelope)
    assert forge.volatile(scene.bob)[:2] == (20, 20)
    # What did not open has no place in it, however much there is.
    unopened = [scene.craft(last_resort, sender=agent, content=b"", lifetime_ms=2001).envelope for agent in throwaways]
    assert tally(scene.bob, unopened) == {Busy: 25}
    assert len(scene.bob._core.unopened) == 0
    scene.clock.now_ms = now_ms + 21 * DAY + 300_001
    scene.bob.poll()
    assert tally(scene.bob, [scene.craft(scene.last_resort()).envelope]) == {Reason.POLICY: 1}


def test_a_full_memory_still_knows_what_it_holds(forge: ModuleType) -> None:
    scene = forge.new_scene(attrs.evolve(forge.ROOMY, remembered_knocks=1))
    scene.rules.decides = Grant()
    first, second = scene.one_time(2)
    knock = scene.alice.knock(scene.bob.did, first, Intent("first"))
    [established] = scene.bob.receive(knock)
    assert tally(scene.bob, [scene.craft(second, sender=scene.mallory).envelope]) == {Busy: 1}
    [again] = scene.bob.receive(knock)
    assert again.reply.envelope == established.reply.envelope


def test_the_number_of_peers_is_bounded_and_those_that_are_known_still_pass(forge: ModuleType) -> None:
    scene = forge.new_scene(attrs.evolve(forge.ROOMY, tracked_identities=5))
    scene.rules.decides = Deny()
    last_resort = scene.last_resort()
    crowd = [forge.another_agent(scene, number) for number in range(7)]
    knocks = [scene.craft(last_resort, sender=agent).envelope for agent in crowd]
    assert tally(scene.bob, knocks[:5]) == {Reason.POLICY: 5}
    for knock in knocks[5:]:
        with forge.refused(scene.bob, Busy):
            scene.bob.receive(knock)
    known = scene.craft(last_resort, sender=crowd[0], time_ms=scene.clock.now_ms).envelope
    assert tally(scene.bob, [known]) == {Reason.POLICY: 1}
    # Peers of whom nothing is held any more are forgotten, and make room.
    scene.clock.advance(seconds=15 * 86_400)
    scene.bob.poll()
    assert scene.bob._core.state.peers == {}
    late = scene.craft(last_resort, sender=crowd[6]).envelope
    assert tally(scene.bob, [late]) == {Reason.POLICY: 1}


def test_undecided_knocks_are_bounded_in_all(forge: ModuleType) -> None:
    scene = forge.new_scene(attrs.evolve(forge.ROOMY, undecided_knocks=7))
    bundles = scene.one_time(10)
    crowd = [forge.another_agent(scene, number) for number in range(10)]
    knocks = [scene.craft(bundle, sender=agent).envelope for bundle, agent in zip(bundles, crowd, strict=True)]
    assert tally(scene.bob, knocks[:8]) == {KnockReceived: 7, Reason.BUSY: 1}
    # A policy that decides needs no room to wait.
    scene.rules.decides = Grant()
    assert tally(scene.bob, knocks[8:9]) == {SessionEstablished: 1}
    scene.rules.decides = ASK
    scene.bob.reject(scene.bob.pending_knocks()[0])
    assert tally(scene.bob, knocks[9:]) == {KnockReceived: 1}


def test_knocks_that_ran_out_wait_for_nobody_whether_or_not_time_was_told(forge: ModuleType) -> None:
    scene = forge.new_scene(attrs.evolve(forge.ROOMY, undecided_knocks=2))
    bundles = scene.one_time(4)
    crowd = [forge.another_agent(scene, number) for number in range(3)]
    first = [
        scene.craft(bundle, sender=agent, lifetime_ms=60_000) for bundle, agent in zip(bundles, crowd, strict=False)
    ]
    assert tally(scene.bob, [knock.envelope for knock in first]) == {KnockReceived: 2, Reason.BUSY: 1}
    scene.clock.now_ms = first[0].part("expires_ms")
    assert tally(scene.bob, [scene.craft(bundles[3], lifetime_ms=DAY).envelope]) == {Reason.BUSY: 1}
    scene.clock.advance(ms=1)
    assert scene.bob.pending_knocks() == ()
    last = scene.craft(scene.one_time()[0], sender=scene.mallory)
    assert tally(scene.bob, [last.envelope]) == {KnockReceived: 1}


def test_sessions_are_bounded_in_all(forge: ModuleType) -> None:
    scene = forge.new_scene(attrs.evolve(forge.ROOMY, sessions_max=3))
    last_resort = scene.last_resort()
    crowd = [forge.another_agent(scene, number) for number in range(4)]
    knocks = [scene.craft(last_resort, sender=agent).envelope for agent in crowd]
    assert tally(scene.bob, knocks) == {KnockReceived: 3, Reason.BUSY: 1}
    bundle = scene.alice.publish_bundles(1).one_time[0]
    with forge.refused(scene.bob, TooManySessions):
        scene.bob.knock(scene.alice.did, bundle, Intent("one more"))


def test_a_flood_of_strangers_leaves_established_sessions_alone(forge: ModuleType) -> None:
    scene = forge.new_scene(attrs.evolve(forge.ROOMY, undecided_knocks=5, remembered_knocks=50, tracked_identities=40))
    forge.converse(scene.alice, scene.bob)
    last_resort = scene.last_resort()
    for number in range(60):
        stranger = forge.another_agent(scene, number)
        tally(scene.bob, [scene.craft(last_resort, sender=stranger, content=b"" if number % 2 else None).envelope])
        if number % 10 == 0:
            forge.chat(scene.alice, scene.bob)
    state = scene.bob._core.state
    assert len(state.knocks) <= 50
    assert len(state.peers) <= 40
    assert len(state.undecided) == 5
    forge.chat(scene.alice, scene.bob)


def test_draining_the_stock_leaves_the_last_resort_and_tells(forge: ModuleType) -> None:
    scene = forge.new_scene()
    scene.rules.decides = Deny()
    shelf = scene.bob.publish_bundles(30)
    drain = [
        scene.craft(bundle, sender=forge.another_agent(scene, number)).envelope
        for number, bundle in enumerate(shelf.one_time)
    ]
    assert tally(scene.bob, drain) == {Reason.POLICY: 30}
    assert [type(event).__name__ for event in scene.bob.poll()] == ["StockLow"]
    scene.rules.decides = ASK
    assert tally(scene.bob, [scene.craft(shelf.last_resort).envelope]) == {KnockReceived: 1}
    assert scene.bob.publish_bundles(30).one_time
