"""What a stranger can fill with KNOCKs, and what an honest one meets then (protocol, section 5.1, step 4)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from types import ModuleType
from typing import Any

import attrs
import pytest

from agentmesh import Agent, AnswerRepeated, Deny, Grant, Intent, KnockReceived, KnockRefused, Limits, Phase, Reason
from agentmesh.engine.replay import KnockMemo
from agentmesh.envelope import OuterEnvelope
from agentmesh.errors import AnswerOverdue, Busy, KnockReplayed, KnockUnknownBundle, KnockUnopened, RemoteError
from agentmesh.primitives.keys import Receipt, TranscriptHash
from agentmesh.trust import AdmissionPolicy

SECOND = 1000
DAY = 86_400 * SECOND


def outcome(agent: Agent, envelope: bytes) -> Any:
    """An error's class, a REJECT's reason, or an event's class."""
    try:
        [event] = agent.receive(envelope)
    except RemoteError as error:
        return type(error)
    return event.reason if isinstance(event, KnockRefused) else type(event)


class Garbage:
    """Signed KNOCKs by the thousand, none of which opens: their Diffie-Hellman is borrowed from one of them."""

    def __init__(self, scene: Any, bundle: bytes, *, lifetime_ms: int = 14 * DAY) -> None:
        self._crafted = scene.craft(bundle, lifetime_ms=lifetime_ms)
        self._header = OuterEnvelope.parse(self._crafted.envelope).header
        self._scene = scene

    def by(self, agent: Agent, number: int) -> bytes:
        """One of this agent's; each number is another th."""
        header = attrs.evolve(self._header, sender=agent.did).encode()
        expires_ms = self._crafted.part("expires_ms") - number
        crafted = attrs.evolve(self._crafted, header=header).having(claimed=agent.key.raw, expires_ms=expires_ms)
        envelope: bytes = crafted.signed_by(self._scene.identity(agent)).envelope
        return envelope


# --- KNOCKs that do not open ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limits", [Limits(), Limits(remembered_knocks=100, unopened_knocks=16, tracked_identities=50)])
def test_knocks_that_do_not_open_lock_nobody_out_today_or_later(limits: Limits, forge: ModuleType) -> None:
    scene = forge.new_scene(limits)
    last_resort, garbage = scene.last_resort(), Garbage(scene, scene.last_resort())
    crowd = [forge.another_agent(scene, f"crowd {number}") for number in range(8)]
    before, counts = scene.bob.export_state(), Counter[Any]()
    for number in range(3200):  # eight identities, for more than as many seconds as fit their KNOCKs
        counts[outcome(scene.bob, garbage.by(crowd[number % 8], number))] += 1
        if number % 16 == 15:
            scene.clock.advance(seconds=1)
    # At each one's own rate they reach the opening, and not faster; what is remembered of them is a bounded memory.
    assert counts == {KnockUnopened: 8 * (20 + 200 - 1), Busy: 3200 - 8 * (20 + 200 - 1)}
    assert counts[KnockUnopened] > limits.unopened_knocks
    assert forge.volatile(scene.bob) == (0, 8, limits.unopened_knocks, 0)
    assert scene.bob.export_state() == before
    began_ms = scene.clock.now_ms
    for days in (0, 7, 13):
        scene.clock.now_ms = began_ms + days * DAY
        scene.bob.poll()
        newcomer = forge.another_agent(scene, f"newcomer {days}")
        knock = scene.craft(last_resort, sender=newcomer)
        assert outcome(scene.bob, knock.envelope) is KnockReceived
    assert len(scene.bob._core.state.knocks) == 3


def test_a_replay_of_an_unopened_knock_that_was_let_go_costs_a_check_and_a_token_and_no_more(
    forge: ModuleType,
) -> None:
    scene = forge.new_scene(Limits(unopened_knocks=4))
    garbage = Garbage(scene, scene.last_resort())
    envelopes = [garbage.by(scene.mallory, number) for number in range(5)]
    assert [outcome(scene.bob, envelope) for envelope in envelopes] == [KnockUnopened] * 5
    before, held = scene.bob.export_state(), forge.volatile(scene.bob)
    budgets = scene.bob._core.budgets

    def owed() -> tuple[int, int]:
        return (budgets.signature_checks._debts[None][0] // SECOND, budgets.knocks._debts[scene.mallory.key.raw][0])

    checks, charged = owed()
    assert outcome(scene.bob, envelopes[4]) is KnockReplayed  # still known: a check
    assert owed() == (checks + 1, charged)
    assert outcome(scene.bob, envelopes[0]) is KnockUnopened  # let go: a check, and a token of its sender's
    assert owed() == (checks + 2, charged + SECOND)
    assert scene.bob.export_state() == before
    assert forge.volatile(scene.bob) == held
    # Whoever replays it faster than its sender may knock is told nothing, and reaches nothing.
    for number in range(40):
        assert outcome(scene.bob, envelopes[number % 5]) in (KnockReplayed, KnockUnopened, Busy)
    assert outcome(scene.bob, envelopes[0]) in (KnockReplayed, Busy)
    assert scene.bob.export_state() == before
    assert forge.volatile(scene.bob) == held


def test_garbage_charges_strangers_nothing_of_the_hour(forge: ModuleType) -> None:
    scene = forge.new_scene(Limits())
    scene.bob._core.policy = AdmissionPolicy(ask_from=0)
    bundles = scene.one_time(20)
    garbage = Garbage(scene, bundles[0])
    mallory = [outcome(scene.bob, garbage.by(scene.mallory, number)) for number in range(15)]
    assert mallory == [KnockUnopened] * 15
    # All fifteen that strangers may use in an hour are there, and the bundle too; then the budget is used up.
    honest = [forge.another_agent(scene, number) for number in range(16)]
    knocks = [scene.craft(bundle, sender=agent).envelope for bundle, agent in zip(bundles, honest, strict=False)]
    assert [outcome(scene.bob, knock) for knock in knocks] == [KnockReceived] * 15 + [Busy]
    assert scene.bob._core.state.unused_one_time(scene.clock.now_ms) == 5


def test_used_bundles_and_their_rejections_fill_nothing_that_another_needs(forge: ModuleType) -> None:
    scene = forge.new_scene(Limits(unopened_knocks=8, remembered_knocks=8, answers_per_knock=1))
    used, other = scene.one_time(2)
    scene.bob.receive(scene.craft(used, sender=scene.mallory).envelope)
    knock = scene.alice.knock(scene.bob.did, other, Intent("honest"))
    answer = scene.bob.accept(*scene.bob.receive(knock)).envelope
    for number in range(40):
        late = scene.craft(used, sender=scene.mallory, time_ms=scene.clock.now_ms - number).envelope
        assert outcome(scene.bob, late) is Reason.BUNDLE
        assert outcome(scene.bob, late) in (AnswerRepeated, AnswerOverdue)
        scene.clock.advance(seconds=1)
    assert forge.volatile(scene.bob)[0] == 2
    # Alice's ACCEPT was lost, and is hers to ask for.
    [again] = scene.bob.receive(knock)
    assert again.reply.envelope == answer


# --- what was signed stays true ---------------------------------------------------------------------------------------

EARLY = b"the early payload"


def _used_bundle(scene: Any, forge: ModuleType) -> bytes:
    bundle: bytes = scene.one_time()[0]
    scene.bob.receive(scene.craft(bundle, sender=scene.mallory).envelope)
    return bundle


def _at_the_rate(scene: Any, forge: ModuleType) -> bytes:
    for _ in range(20):
        scene.bob._core.budgets.knocks.take(scene.alice.key.raw, scene.clock.now_ms)
    return bytes(scene.last_resort())


def _not_valid_yet(scene: Any, forge: ModuleType) -> bytes:
    # Bob's clock was ahead when he published; Alice's is a millisecond before his of now.
    scene.clock.advance(ms=300 * SECOND + 1)
    bundle: bytes = scene.one_time()[0]
    scene.clock.advance(ms=-300 * SECOND)
    return bundle


def _not_for_the_sender(scene: Any, forge: ModuleType) -> bytes:
    scene.rules = scene.bob._core.policy = forge.Rationing(serves=False)
    return bytes(scene.one_time()[0])


def _memory_is_full(scene: Any, forge: ModuleType) -> bytes:
    scene.bob.receive(scene.craft(scene.one_time()[0], sender=scene.mallory).envelope)
    scene.bob._core.limits = Limits(remembered_knocks=1)
    return bytes(scene.last_resort())


def _no_room_for_peers(scene: Any, forge: ModuleType) -> bytes:
    scene.bob.receive(scene.craft(scene.one_time()[0], sender=scene.mallory).envelope)
    scene.bob._core.limits = Limits(tracked_identities=1)
    return bytes(scene.last_resort())


def _out_of_checks(scene: Any, forge: ModuleType) -> bytes:
    while scene.bob._core.budgets.signature_checks.take(None, scene.clock.now_ms):
        pass
    return bytes(scene.last_resort())


def _five_sessions(scene: Any, forge: ModuleType) -> bytes:
    for number in range(5):
        knock = scene.craft(scene.last_resort(), time_ms=scene.clock.now_ms - 100 + number, fresh=False)
        assert outcome(scene.bob, knock.envelope) is KnockReceived
    return bytes(scene.last_resort())


def _no_room_for_sessions(scene: Any, forge: ModuleType) -> bytes:
    scene.bob.receive(scene.craft(scene.one_time()[0], sender=scene.mallory).envelope)
    scene.bob._core.limits = Limits(sessions_max=1)
    return bytes(scene.last_resort())


def _nobody_may_wait(scene: Any, forge: ModuleType) -> bytes:
    scene.bob.receive(scene.craft(scene.one_time()[0], sender=scene.mallory).envelope)
    scene.bob._core.limits = Limits(undecided_knocks=1)
    return bytes(scene.last_resort())


def _stale(scene: Any, forge: ModuleType) -> bytes:
    scene.bob.receive(scene.craft(scene.one_time()[0], time_ms=scene.clock.now_ms).envelope)
    return bytes(scene.last_resort())


def _denied(scene: Any, forge: ModuleType) -> bytes:
    scene.rules.decides = Deny()
    return bytes(scene.last_resort())


def _policy_says_bundle(scene: Any, forge: ModuleType) -> bytes:
    scene.rules.decides = Deny(Reason.BUNDLE)
    return bytes(scene.last_resort())


SIGNED: dict[str, tuple[Callable[[Any, ModuleType], bytes], Reason]] = {
    "used bundle": (_used_bundle, Reason.BUNDLE),
    "five sessions": (_five_sessions, Reason.BUSY),
    "sessions in all": (_no_room_for_sessions, Reason.BUSY),
    "nobody may wait": (_nobody_may_wait, Reason.BUSY),
    "stale": (_stale, Reason.STALE),
    "denied": (_denied, Reason.POLICY),
    "denied for its bundle": (_policy_says_bundle, Reason.BUNDLE),
}
UNSIGNED: dict[str, Callable[[Any, ModuleType], bytes]] = {
    "rate": _at_the_rate,
    "not valid yet": _not_valid_yet,
    "not for the sender": _not_for_the_sender,
    "memory": _memory_is_full,
    "peers": _no_room_for_peers,
    "checks": _out_of_checks,
}


def ease(scene: Any, *, restart: bool) -> None:
    """Take away whatever Bob could have refused for: time goes on, limits widen, everybody is accepted."""
    scene.clock.advance(seconds=600)
    scene.bob._core.limits = Limits()
    scene.rules = scene.bob._core.policy = type(scene.rules)()
    scene.rules.decides = Grant()
    if restart:
        scene.restart_bob()
    for view in [*scene.bob.sessions(scene.alice.did), *scene.bob.sessions(scene.mallory.did)]:
        if view.status.phase is Phase.UNDECIDED:
            for waiting in scene.bob.pending_knocks():
                scene.bob.reject(waiting)


def push_out(scene: Any) -> None:
    """Let go of whatever was remembered that did not open."""
    most = scene.bob._core.limits.unopened_knocks
    for number in range(most):
        th, key = TranscriptHash(number.to_bytes(64, "big")), scene.mallory.key.raw
        memo = KnockMemo(th=th, initiator=key, receipt=Receipt(bytes(32)), expires_ms=0, forget_at_ms=0)
        scene.bob._core.unopened.remember(memo)
    assert len(scene.bob._core.unopened) == most


def not_fresh(scene: Any, bundle: bytes, **changes: Any) -> Any:
    return scene.craft(bundle, time_ms=scene.clock.now_ms, early_payload=EARLY, fresh=False, **changes)


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("evicted", [False, True])
@pytest.mark.parametrize("name", [*SIGNED, "expires after its bundle"])
def test_a_signed_rejection_is_never_contradicted(name: str, evicted: bool, restart: bool, forge: ModuleType) -> None:
    scene = forge.new_scene(Limits())
    if name == "expires after its bundle":
        knock, reason = not_fresh(scene, scene.one_time()[0], lifetime_ms=14 * DAY), Reason.BUNDLE
        ref = knock.part("ref")
        bundles = scene.bob._core.state.bundles
        bundles[ref] = attrs.evolve(bundles[ref], not_after_ms=scene.clock.now_ms + 13 * DAY)
    else:
        prepare, reason = SIGNED[name]
        knock = not_fresh(scene, prepare(scene, forge))
    [refused] = scene.bob.receive(knock.envelope)
    assert refused.reason is reason
    assert refused.reply is not None
    if evicted:
        push_out(scene)
    for _ in range(3):
        ease(scene, restart=restart)
        scene.bob.poll()
        before = scene.bob.export_state()
        answer = outcome(scene.bob, knock.envelope)
        assert answer in (AnswerRepeated, KnockReplayed, reason)
        assert scene.bob.export_state() == before
        assert EARLY not in before
    assert scene.rules.asked.count("decide") == 0


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("name", UNSIGNED)
def test_what_may_be_taken_later_is_not_signed_away(name: str, restart: bool, forge: ModuleType) -> None:
    scene = forge.new_scene(Limits())
    bundle = UNSIGNED[name](scene, forge)
    knock = scene.alice.knock(scene.bob.did, bundle, Intent("early"), early_payload=EARLY, early_with_last_resort=True)
    if name == "not valid yet":
        scene.clock.advance(ms=-1)
    stored = [scene.bob._core.state.knocks, scene.bob._core.unopened, scene.bob._core.budgets.rejections]
    held = [len(memory) for memory in stored]
    owed = scene.bob._core.budgets.knocks._debts.get(scene.alice.key.raw, (0, 0))[0]
    for _ in range(3):
        with forge.refused(scene.bob, Busy):
            scene.bob.receive(knock)
    assert [len(memory) for memory in stored] == held
    assert scene.bob._core.budgets.knocks._debts.get(scene.alice.key.raw, (0, 0))[0] == owed
    ease(scene, restart=restart)
    [event] = scene.bob.receive(knock)
    assert event.early_payload == EARLY
    scene.alice.receive(event.reply)
    forge.chat(scene.alice, scene.bob)


# --- bundles past their time ------------------------------------------------------------------------------------------


def secrets_of(agent: Agent) -> list[bytes]:
    """The secret halves of every bundle that this agent holds."""
    held = [bundle.secrets for bundle in agent._core.state.bundles.values() if bundle.secrets is not None]
    return [secret.reveal() for secrets in held for secret in (secrets.prekey_secret, secrets.kem_seed)]


@pytest.mark.parametrize("last_resort", [False, True])
def test_no_export_no_restore_and_no_use_contains_a_bundle_past_its_time(last_resort: bool, forge: ModuleType) -> None:
    scene = forge.new_scene(Limits())
    bundle = scene.last_resort() if last_resort else scene.one_time()[0]
    secrets = secrets_of(scene.bob)
    assert len(secrets) == 2
    [published] = scene.bob._core.state.bundles.values()
    knock = scene.craft(bundle, time_ms=published.not_after_ms - DAY, expires_ms=published.not_after_ms)
    scene.clock.now_ms = published.not_after_ms + 300 * SECOND
    earlier = scene.bob.export_state()
    assert all(secret in earlier for secret in secrets)  # at the last moment they serve
    assert secrets_of(Agent.restore(earlier, clock=scene.clock, policy=scene.rules)) == secrets
    scene.clock.advance(ms=1)
    # Nobody called `poll`.
    exported = scene.bob.export_state()
    assert not any(secret in exported for secret in secrets)
    restored = Agent.restore(earlier, clock=scene.clock, policy=scene.rules)
    assert secrets_of(restored) == []
    assert restored.export_state() == exported
    for agent in (scene.bob, restored):
        crafted = scene.craft(bundle, time_ms=knock.part("expires_ms") - 1, expires_ms=scene.clock.now_ms + DAY)
        with forge.refused(agent, KnockUnknownBundle):
            agent.receive(crafted.envelope)
    assert secrets_of(scene.bob) == secrets
    scene.bob.poll()
    assert secrets_of(scene.bob) == []
    scene.bob._core.state.generation -= 1  # to forget is a step; nothing else is different
    assert scene.bob.export_state() == exported
