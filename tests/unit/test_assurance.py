"""What a session gives: derived from the peer's name and the bundle's class, held to by a policy."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from agentmesh import (
    Agent,
    AskApplication,
    BundleClass,
    Deny,
    Grant,
    Guarantee,
    Identity,
    IdentityKey,
    Intent,
    KnockRefused,
    KnockRequest,
    Reason,
)
from agentmesh.assurance import AGT, NATIVE, guarantees_of
from agentmesh.audit import AuditJournal, AuditLog, MemorySink, verified_records
from agentmesh.errors import ArgumentInvalid, PeerNotAllowed
from agentmesh.policy import Decision, GuaranteePolicy
from agentmesh.testing import SeededEntropy
from agentmesh.trust import AdmissionPolicy, Tier, Why

NATIVE_PEER = Identity.generate(SeededEntropy("native")).key
AGT_PEER: Any = SimpleNamespace(did="did:mesh:" + "0" * 32, raw=NATIVE_PEER.raw)

guarantees = st.sets(st.sampled_from(Guarantee))
classes = st.sampled_from(BundleClass)
peers = st.sampled_from([NATIVE_PEER, AGT_PEER])


def knock(peer: Any, bundle_class: BundleClass) -> KnockRequest:
    return KnockRequest(
        peer=peer,
        session_id=bytes(16),  # type: ignore[arg-type]
        receipt=bytes(32),  # type: ignore[arg-type]
        intent=Intent("read"),
        bundle_class=bundle_class,
        time_ms=0,
        expires_ms=1,
        has_early_payload=False,
        fresh=True,
        open_sessions=0,
    )


def requiring(*required: Guarantee, **options: Any) -> AdmissionPolicy:
    return AdmissionPolicy(allow=[NATIVE_PEER.raw], tiers=[Tier(min_score=500)], require=required, **options)


def test_whoever_has_no_name_of_ours_is_given_what_agt_gives() -> None:
    for name in (AGT_PEER.did, "", "did:agentmeshes:x", "did:web:example.org"):
        peer: Any = SimpleNamespace(did=name)
        assert guarantees_of(peer, BundleClass.LAST_RESORT) == AGT == frozenset()
        assert guarantees_of(peer, BundleClass.ONE_TIME) == {Guarantee.ONE_TIME_PREKEY}
    assert guarantees_of(NATIVE_PEER, BundleClass.LAST_RESORT) == NATIVE
    assert guarantees_of(NATIVE_PEER, BundleClass.ONE_TIME) == set(Guarantee)


def test_each_guarantee_says_what_is_lost_without_it() -> None:
    losses = [guarantee.lost for guarantee in Guarantee]
    assert len(set(losses)) == len(losses)
    assert all(loss.endswith(".") for loss in losses)


@given(guarantees, peers, classes)
def test_a_policy_denies_exactly_where_something_required_is_missing(
    required: set[Guarantee], peer: Any, bundle_class: BundleClass
) -> None:
    policy = requiring(*required)
    given_ = guarantees_of(peer, bundle_class)
    decision = policy.decide(knock(peer, bundle_class))
    assert isinstance(decision, Grant) is (required <= given_) is policy.may_converse(peer, given_)
    if isinstance(decision, Deny):
        only = required - given_ == {Guarantee.ONE_TIME_PREKEY}
        assert (decision.why, decision.reason) == (
            (Why.LAST_RESORT, Reason.BUNDLE) if only else (Why.GUARANTEE, Reason.POLICY)
        )


@given(guarantees)
def test_a_required_one_time_prekey_is_asked_of_knocks_before_they_open(required: set[Guarantee]) -> None:
    policy = requiring(*required, one_time_per_hour=None)
    assert policy.may_use(NATIVE_PEER, BundleClass.ONE_TIME, 0)
    assert policy.may_use(NATIVE_PEER, BundleClass.LAST_RESORT, 0) is (Guarantee.ONE_TIME_PREKEY not in required)


def test_a_revoked_or_blocked_peer_is_told_apart_from_one_that_lacks_something() -> None:
    policy = requiring(Guarantee.POST_QUANTUM, block=[NATIVE_PEER])
    decision = policy.decide(knock(AGT_PEER, BundleClass.ONE_TIME))
    assert isinstance(decision, Deny)
    assert decision.why == Why.BLOCKED


@pytest.mark.parametrize("answer", [None, 1, object(), "post-quantum", [Guarantee.POST_QUANTUM]])
@pytest.mark.parametrize("required", [(), (Guarantee.POST_QUANTUM,)])
def test_what_is_no_set_of_guarantees_converses_nowhere(answer: Any, required: tuple[Guarantee, ...]) -> None:
    assert requiring(*required).may_converse(NATIVE_PEER, answer) is False


@pytest.mark.parametrize(
    "required", [Guarantee.POST_QUANTUM, "post-quantum", ["post-quantum"], [None], 3, b"post-quantum", None]
)
def test_a_requirement_that_is_none_is_an_error(required: Any) -> None:
    with pytest.raises(ArgumentInvalid) as caught:
        AdmissionPolicy(require=required)
    assert caught.value.argument == "require"


def test_a_policy_is_found_to_answer_for_guarantees() -> None:
    assert isinstance(AdmissionPolicy(), GuaranteePolicy)


class Answering(AskApplication):
    """Asks the application, and answers `may_converse` with this value, or what this callable returns."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.asked: list[tuple[IdentityKey, frozenset[Guarantee]]] = []

    def may_converse(self, peer: IdentityKey, guarantees: frozenset[Guarantee]) -> Any:
        self.asked.append((peer, guarantees))
        return self.answer() if callable(self.answer) else self.answer


def failing() -> bool:
    raise KeyError("policy")


@pytest.mark.parametrize("answer", [False, None, 1, "yes", object(), failing], ids=lambda value: type(value).__name__)
def test_a_knock_is_made_only_where_the_policy_says_yes(answer: Any) -> None:
    policy = Answering(answer)
    alice, bob = Agent.create(mesh="m", policy=policy), Agent.create(mesh="m")
    bundle = bob.publish_bundles(1).one_time[0]
    before = alice.export_state()
    with pytest.raises(PeerNotAllowed):
        alice.knock(bob.did, bundle, Intent("read"))
    assert alice.export_state() == before
    assert policy.asked == [(bob.key, frozenset(Guarantee))]
    policy.answer = True
    alice.knock(bob.did, bundle, Intent("read"))


def test_whoever_requires_a_one_time_prekey_knocks_on_no_other() -> None:
    bob = Agent.create(mesh="m")
    shelf = bob.publish_bundles(1)
    assert shelf.last_resort is not None
    policy = AdmissionPolicy(allow=[bob.did], require=[Guarantee.ONE_TIME_PREKEY])
    alice = Agent.create(mesh="m", policy=policy)
    with pytest.raises(PeerNotAllowed):
        alice.knock(bob.did, shelf.last_resort, Intent("read"))
    alice.knock(bob.did, shelf.one_time[0], Intent("read"))


def test_a_knock_without_what_is_required_is_recorded_by_that_word() -> None:
    # A policy that requires what only this file's peer lacks: the agent's own peers give all.
    log = AuditLog(MemorySink())
    policy = AdmissionPolicy(ask_from=0, require=list(Guarantee))
    alice = Agent.create(mesh="m")
    bob = Agent.create(mesh="m", policy=Lacking(policy), journal=AuditJournal(log))
    [event] = bob.receive(alice.knock(bob.did, bob.publish_bundles(1).one_time[0], Intent("read")))
    assert isinstance(event, KnockRefused)
    assert [record.reason for record in verified_records(log.entries())][-1] == Why.GUARANTEE == "guarantee"


class Lacking(AskApplication):
    """Asks another policy of each KNOCK as if its sender had no name of ours."""

    def __init__(self, policy: AdmissionPolicy) -> None:
        self.policy = policy

    def decide(self, knock: KnockRequest, /) -> Decision:
        return self.policy.decide(evolve(knock, peer=AGT_PEER))
