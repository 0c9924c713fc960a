"""AdmissionPolicy: lists, scores, tiers, and that whatever goes wrong denies (section 5.1)."""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import StrEnum
from typing import Any

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from agentmesh import (
    Agent,
    Ask,
    AskApplication,
    BundleClass,
    ClaimedSender,
    Conditions,
    Deny,
    Grant,
    Identity,
    Intent,
    KnockReceived,
    KnockRefused,
    KnockRequest,
    Policy,
    Reason,
    SessionEstablished,
)
from agentmesh.agt_identity import mesh_did_of
from agentmesh.audit import AuditJournal, AuditLog, MemorySink, owner_of, verified_records
from agentmesh.audit.record import AuditEvent, Outcome, Record
from agentmesh.errors import (
    ArgumentInvalid,
    Busy,
    KnockNotAdmitted,
    KnockNotPending,
    KnockReplayed,
    PeerNotAllowed,
    StatementUnfit,
)
from agentmesh.identity import IdentityKey
from agentmesh.policy import BundleCounter, BundlePolicy, KnownSenders
from agentmesh.primitives.keys import SessionId
from agentmesh.testing import ManualClock, SeededEntropy
from agentmesh.testing.pair import MESH
from agentmesh.trust import (
    AdmissionPolicy,
    RevocationList,
    Successions,
    Tier,
    TrustGraph,
    TrustLedger,
    Why,
    issue_continuity,
    issue_edge,
    issue_revocation,
    issue_trust,
    refusal_record,
    statement_record,
    verify_continuity,
    verify_edge,
    verify_revocation,
    verify_trust,
)

NOW = 1_767_225_600_000
HOUR = 3_600_000
ME, AUDITOR, ANN, BEN = (Identity.generate(SeededEntropy(f"admitted {number}")) for number in range(4))
PEER = ANN.key
OPEN = (Tier(min_score=500),)


def told(value: object) -> str:
    """Return a name for a parameter that is the same in every process."""
    return repr(value).split(" at 0x")[0]


def knock(
    action: str = "read",
    capabilities: tuple[str, ...] = (),
    *,
    peer: IdentityKey = PEER,
    bundle_class: BundleClass = BundleClass.ONE_TIME,
    open_sessions: int = 0,
) -> KnockRequest:
    return KnockRequest(
        peer=peer,
        session_id=bytes(16),  # type: ignore[arg-type]
        receipt=bytes(32),  # type: ignore[arg-type]
        intent=Intent(action, capabilities=capabilities),
        bundle_class=bundle_class,
        time_ms=NOW,
        expires_ms=NOW + 1000,
        has_early_payload=False,
        fresh=True,
        open_sessions=open_sessions,
    )


def claimed(key: IdentityKey = PEER) -> ClaimedSender:
    return ClaimedSender(key.did, key.raw)


def scoring(score: Any, **options: Any) -> AdmissionPolicy:
    """A policy whose score is this value, or what this callable returns."""
    scores = score if callable(score) else lambda _raw: score
    return AdmissionPolicy(scores=scores, **{"tiers": OPEN, **options})


def why(decision: object) -> str:
    assert isinstance(decision, Deny | Grant)
    return decision.why


# --- thresholds -------------------------------------------------------------------------------------------------------


def test_it_is_what_an_agent_asks() -> None:
    policy: Policy = AdmissionPolicy()
    assert isinstance(policy, BundlePolicy)
    assert isinstance(policy, BundleCounter)
    assert isinstance(policy, KnownSenders)


def test_a_newcomer_may_knock_and_does_not_get_in() -> None:
    policy = AdmissionPolicy(tiers=OPEN)
    assert policy.may_knock(claimed()) is True
    assert policy.decide(knock()) == Deny(Reason.POLICY, 0, Why.BELOW_THRESHOLD)
    assert policy.still_allowed(PEER) is False
    assert policy.is_known(PEER.raw) is False


@pytest.mark.parametrize(("score", "gets_in"), [(499, False), (500, True), (1000, True), (0, False)])
def test_the_threshold_at_its_edge(score: int, gets_in: bool) -> None:
    policy = scoring(score)
    assert isinstance(policy.decide(knock()), Grant if gets_in else Deny)
    assert policy.still_allowed(PEER) is gets_in


@pytest.mark.parametrize(("score", "admitted"), [(299, False), (300, True)])
def test_the_knock_floor_at_its_edge(score: int, admitted: bool) -> None:
    assert scoring(score, knock_floor=300).may_knock(claimed()) is admitted


def test_without_a_floor_nobody_is_scored_before_the_signature() -> None:
    policy = scoring(lambda _raw: pytest.fail("scored"))
    assert policy.may_knock(claimed()) is True


def test_without_tiers_nothing_is_accepted_by_itself() -> None:
    assert scoring(1000, tiers=()).decide(knock()) == Ask()
    assert isinstance(scoring(0, tiers=()).decide(knock()), Deny)


def test_a_band_below_the_threshold_is_asked_about_and_kept() -> None:
    for score, decision, kept in ((299, Deny, False), (300, Ask, True), (499, Ask, True), (500, Grant, True)):
        policy = scoring(score, ask_from=300)
        assert isinstance(policy.decide(knock()), decision)
        assert policy.still_allowed(PEER) is kept


# --- lists ------------------------------------------------------------------------------------------------------------


def test_the_allow_list_passes_the_threshold_and_the_floor() -> None:
    policy = AdmissionPolicy(tiers=OPEN, knock_floor=900, allow=[PEER])
    assert policy.may_knock(claimed()) is True
    assert policy.decide(knock()) == Grant(Conditions(), Why.ALLOWED)
    assert policy.still_allowed(PEER)
    assert policy.is_known(PEER.raw)
    assert not policy.may_knock(claimed(BEN.key))
    policy.disallow(PEER)
    assert isinstance(policy.decide(knock()), Deny)
    assert not policy.still_allowed(PEER)


def test_the_allow_list_does_not_lift_to_a_higher_tier() -> None:
    tiers = (Tier(min_score=500, actions=["read"]), Tier(min_score=501, actions=["write"]))
    policy = AdmissionPolicy(tiers=tiers, allow=[PEER])
    assert isinstance(policy.decide(knock("read")), Grant)
    assert why(policy.decide(knock("write"))) == Why.ACTION


def test_the_block_list_outweighs_everything_at_once() -> None:
    policy = scoring(1000, allow=[PEER])
    policy.block(PEER.raw)
    assert policy.may_knock(claimed()) is False
    assert why(policy.decide(knock())) == Why.BLOCKED
    assert not policy.still_allowed(PEER)
    assert not policy.is_known(PEER.raw)
    policy.unblock(PEER)
    assert policy.still_allowed(PEER)
    assert AdmissionPolicy(block=[PEER.raw]).may_knock(claimed()) is False


NO_IDENTITIES = [PEER.did.upper(), PEER.did + "0", PEER.did + " ", "ann", "", None, bytes(31), bytearray(33), 5]


@pytest.mark.parametrize("key", NO_IDENTITIES)
def test_lists_hold_identities_and_never_other_names(key: Any) -> None:
    policy = AdmissionPolicy()
    for call in (policy.allow, policy.block, policy.disallow, policy.unblock):
        with pytest.raises(ArgumentInvalid):
            call(key)
    for name in ("allow", "block"):
        for listed in ([key], key):
            with pytest.raises(ArgumentInvalid):
                AdmissionPolicy(**{name: listed})


class Name(StrEnum):
    """A DID as an application may keep it."""

    PEER = PEER.did


NAMED = [PEER, PEER.raw, bytearray(PEER.raw), memoryview(PEER.raw), PEER.did, Name.PEER]


@pytest.mark.parametrize("removed", NAMED, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("named", NAMED, ids=lambda value: type(value).__name__)
def test_an_identity_is_on_a_list_or_not_whatever_names_it(named: Any, removed: Any) -> None:
    policy = AdmissionPolicy(allow=[named])
    assert policy.still_allowed(PEER)
    assert not policy.still_allowed(BEN.key)
    policy.block(named)
    assert not policy.still_allowed(PEER)
    assert policy.may_knock(claimed()) is False
    policy.unblock(removed)
    assert policy.still_allowed(PEER)
    policy.disallow(removed)
    assert not policy.still_allowed(PEER)


def test_of_two_dids_neither_takes_off_the_other_and_the_key_takes_off_both() -> None:
    other = mesh_did_of(PEER.raw)
    policy = AdmissionPolicy(allow=[other])
    policy.disallow(PEER.did)
    assert policy.still_allowed(PEER)
    policy.allow(PEER.did)
    policy.disallow(PEER)
    assert not policy.still_allowed(PEER)


def test_lists_keep_plain_values_of_their_own() -> None:
    raw = bytearray(PEER.raw)
    policy = AdmissionPolicy(allow=[raw, Name.PEER])
    raw[0] ^= 1
    assert policy.still_allowed(PEER)
    allowed = policy._lists._allowed
    assert {type(value) for held in (allowed.keys, allowed.dids) for value in held} == {bytes, str}


def test_following_moves_whoever_is_listed_by_name() -> None:
    for lists, allowed in (({"allow": [PEER.did]}, True), ({"block": [PEER.did], "allow": [BEN.did]}, False)):
        successions = Successions(MESH)
        policy = AdmissionPolicy(successions=successions, **lists)  # type: ignore[arg-type]
        follow(successions, policy)
        assert policy.still_allowed(BEN.key) is allowed
        assert not policy.still_allowed(PEER)


def test_following_twice_is_refused_as_before() -> None:
    successions = Successions(MESH)
    policy = AdmissionPolicy(successions=successions, allow=[PEER])
    follow(successions, policy)
    policy.disallow(BEN.key)
    with pytest.raises(ArgumentInvalid):
        policy.follow(PEER, BEN.key)
    assert not policy.still_allowed(BEN.key)


def test_one_key_has_one_entry_whatever_names_it() -> None:
    policy = AdmissionPolicy(block=[PEER])
    for did in (PEER.did, PEER.did.replace("agentmesh", "mesh"), "", BEN.did):
        assert policy.may_knock(ClaimedSender(did, PEER.raw)) is False


# --- revoked and retired ----------------------------------------------------------------------------------------------


def test_a_revocation_is_asked_at_use() -> None:
    revocations = RevocationList(MESH)
    policy = scoring(1000, revocations=revocations, allow=[PEER])
    assert isinstance(policy.decide(knock()), Grant)
    revocations.apply(issue_revocation(ANN, PEER, mesh=MESH, sequence=0, time_ms=NOW))
    assert policy.may_knock(claimed()) is False
    assert why(policy.decide(knock())) == Why.REVOKED
    assert not policy.still_allowed(PEER)
    assert not policy.is_known(PEER.raw)


def follow(successions: Successions, policy: AdmissionPolicy) -> None:
    successions.know(PEER, "ann")
    successions.offer(issue_continuity(ANN, BEN, mesh=MESH, sequence=0, time_ms=NOW), now_ms=NOW)
    policy.follow(PEER, BEN.key)


def test_following_moves_place_and_score_and_retires_the_old_identity() -> None:
    successions, ledger = Successions(MESH), TrustLedger(MESH)
    ledger.believe(AUDITOR.key)
    ledger.apply(issue_trust(AUDITOR, PEER, 150, mesh=MESH, sequence=1, time_ms=NOW), now_ms=NOW)
    policy = AdmissionPolicy(ledger=ledger, successions=successions, allow=[PEER], tiers=OPEN)
    follow(successions, policy)
    assert why(policy.decide(knock())) == Why.RETIRED
    assert not policy.may_knock(claimed())
    assert policy.decide(knock(peer=BEN.key)) == Grant(Conditions(), Why.ALLOWED)
    assert ledger.score(BEN.key) == 150
    assert (policy._lists.is_allowed(PEER), policy._lists.is_allowed(BEN.key)) == (False, True)


def test_whoever_is_blocked_stays_blocked_under_another_key() -> None:
    successions = Successions(MESH)
    policy = scoring(1000, successions=successions, block=[PEER])
    follow(successions, policy)
    assert why(policy.decide(knock(peer=BEN.key))) == Why.BLOCKED


@pytest.mark.parametrize("revoked", [ANN, BEN], ids=["old", "new"])
def test_nobody_is_followed_from_or_to_a_revoked_identity(revoked: Identity) -> None:
    # Whoever has stolen a key can sign for a successor of its own; the owner has revoked it.
    successions, ledger, revocations = Successions(MESH), TrustLedger(MESH), RevocationList(MESH)
    ledger.believe(AUDITOR.key)
    ledger.apply(issue_trust(AUDITOR, PEER, 150, mesh=MESH, sequence=1, time_ms=NOW), now_ms=NOW)
    policy = AdmissionPolicy(ledger=ledger, successions=successions, revocations=revocations, allow=[PEER], tiers=OPEN)
    revocations.apply(issue_revocation(revoked, revoked.key, mesh=MESH, sequence=0, time_ms=NOW))
    successions.know(PEER)
    successions.offer(issue_continuity(ANN, BEN, mesh=MESH, sequence=0, time_ms=NOW), now_ms=NOW)
    before = (successions.export_state(), ledger.export_state())
    with pytest.raises(ArgumentInvalid) as caught:
        policy.follow(PEER, BEN.key)
    assert caught.value.argument == ("old" if revoked is ANN else "new")
    assert (successions.export_state(), ledger.export_state()) == before
    assert not policy.still_allowed(BEN.key)


def test_a_succession_that_cannot_be_followed_changes_nothing() -> None:
    with pytest.raises(ArgumentInvalid):
        AdmissionPolicy().follow(PEER, BEN.key)
    successions, ledger = Successions(MESH), TrustLedger(MESH)
    ledger.believe(AUDITOR.key)
    for subject in (PEER, BEN.key):
        ledger.apply(issue_trust(AUDITOR, subject, 150, mesh=MESH, sequence=1, time_ms=NOW), now_ms=NOW)
    policy = AdmissionPolicy(ledger=ledger, successions=successions, allow=[PEER], tiers=OPEN)
    ledger_before = ledger.export_state()
    for new in (BEN.key, ME.key):
        with pytest.raises(ArgumentInvalid):
            policy.follow(PEER, new)  # not offered
    assert ledger.export_state() == ledger_before
    successions.know(PEER)
    successions.offer(issue_continuity(ANN, BEN, mesh=MESH, sequence=0, time_ms=NOW), now_ms=NOW)
    before = (successions.export_state(), ledger.export_state())
    with pytest.raises(ArgumentInvalid):
        policy.follow(PEER, BEN.key)  # it has a record of its own, which it must not wash off
    assert (successions.export_state(), ledger.export_state()) == before
    assert isinstance(policy.decide(knock()), Grant)


# --- tiers ------------------------------------------------------------------------------------------------------------

TIERS = (
    Tier(min_score=900, conditions=Conditions(max_messages=9)),
    Tier(min_score=500, actions=["read"], capabilities=["json"], conditions=Conditions(max_messages=5)),
    Tier(min_score=700, actions=["write", "delete"], max_open_sessions=1, conditions=Conditions(max_messages=7)),
)


@pytest.mark.parametrize(
    ("score", "request_", "messages"),
    [
        (500, knock("read"), 5),
        (500, knock("read", ("json",)), 5),
        (500, knock("read", ("json", "xml")), None),
        (500, knock("write"), None),
        (699, knock("write"), None),
        (700, knock("write"), 7),
        (700, knock("read"), 5),
        (899, knock("anything"), None),
        (900, knock("anything", ("xml",)), 9),
        (1000, knock("read"), 9),
    ],
)
def test_the_highest_tier_that_fits_decides(score: int, request_: KnockRequest, messages: int | None) -> None:
    decision = scoring(score, tiers=TIERS).decide(request_)
    if messages is None:
        assert decision == Deny(Reason.POLICY, 0, Why.ACTION)
    else:
        assert isinstance(decision, Grant)
        assert decision.conditions.max_messages == messages
        assert decision.why == Why.TRUSTED


def test_a_session_is_held_to_the_actions_of_its_tier() -> None:
    decision = scoring(700, tiers=TIERS).decide(knock("delete"))
    assert isinstance(decision, Grant)
    assert decision.conditions.allowed_actions == ("write", "delete")
    wider = Tier(min_score=500, actions=["read"], conditions=Conditions(allowed_actions=["read", "list"]))
    assert wider.conditions.allowed_actions == ("read", "list")
    assert Tier(min_score=500).conditions.allowed_actions is None


@pytest.mark.parametrize(("open_sessions", "gets_in"), [(0, True), (1, False), (4, False)])
def test_open_sessions_are_limited(open_sessions: int, gets_in: bool) -> None:
    decision = scoring(700, tiers=TIERS, retry_after_seconds=60).decide(knock("write", open_sessions=open_sessions))
    assert isinstance(decision, Grant) if gets_in else decision == Deny(Reason.BUSY, 60, Why.SESSIONS)


def test_a_tier_can_leave_it_to_the_application() -> None:
    policy = scoring(800, tiers=[Tier(min_score=500, actions=["delete"], ask=True), Tier(min_score=500)])
    assert policy.decide(knock("delete")) == Ask()
    assert isinstance(policy.decide(knock("read")), Grant)


@given(score=st.integers(0, 1000), action=st.sampled_from(["read", "write", "other"]), seed=st.permutations(range(3)))
def test_more_trust_never_opens_less_and_tiers_have_no_order(score: int, action: str, seed: list[int]) -> None:
    tiers = [TIERS[place] for place in seed]
    decision = scoring(score, tiers=tiers).decide(knock(action))
    assert decision == scoring(score, tiers=TIERS).decide(knock(action))
    if isinstance(decision, Grant):
        assert isinstance(scoring(1000, tiers=tiers).decide(knock(action)), Grant)
    if score < 500:
        assert why(decision) == Why.BELOW_THRESHOLD


def test_advice_goes_with_a_rejection() -> None:
    decision = scoring(0, retry_after_seconds=3600).decide(knock())
    assert isinstance(decision, Deny)
    assert decision.retry_after_seconds == 3600


# --- bundles ----------------------------------------------------------------------------------------------------------


def test_last_resort_bundles_can_be_refused() -> None:
    policy = scoring(1000, require_one_time=True)
    assert policy.may_use(PEER, BundleClass.LAST_RESORT, NOW) is False
    assert policy.may_use(PEER, BundleClass.ONE_TIME, NOW) is True
    assert policy.decide(knock(bundle_class=BundleClass.LAST_RESORT)) == Deny(Reason.BUNDLE, 0, Why.LAST_RESORT)
    assert scoring(1000).may_use(PEER, BundleClass.LAST_RESORT, NOW) is True


def uses(policy: AdmissionPolicy, key: IdentityKey, now_ms: int = NOW) -> bool:
    """Ask whether a one-time bundle may serve, and use it if so, as an agent does."""
    if not policy.may_use(key, BundleClass.ONE_TIME, now_ms):
        return False
    policy.used(key, BundleClass.ONE_TIME, now_ms)
    return True


def test_strangers_share_an_hourly_budget_of_one_time_bundles() -> None:
    trusted = IdentityKey(BEN.key.raw)
    policy = AdmissionPolicy(scores=lambda raw: 600 if raw == trusted.raw else 0, one_time_per_hour=3)
    strangers = [Identity.generate(SeededEntropy(f"using {number}")).key for number in range(5)]
    assert [uses(policy, key) for key in strangers] == [True] * 3 + [False] * 2
    assert all(uses(policy, trusted) for _ in range(10))
    assert all(policy.may_use(key, BundleClass.LAST_RESORT, NOW) for key in strangers)
    policy.allow(strangers[4])
    assert policy.may_use(strangers[4], BundleClass.ONE_TIME, NOW)
    assert not uses(policy, strangers[0], NOW + HOUR // 3 - 1)
    assert uses(policy, strangers[0], NOW + HOUR // 3)
    assert not uses(policy, strangers[0], NOW)  # a clock set back gives nothing


def test_asking_charges_nothing_and_only_a_rationed_use_does() -> None:
    policy = scoring(0, one_time_per_hour=1)
    assert all(policy.may_use(PEER, BundleClass.ONE_TIME, NOW) for _ in range(100))
    policy.used(PEER, BundleClass.LAST_RESORT, NOW)
    policy.allow(PEER)
    policy.used(PEER, BundleClass.ONE_TIME, NOW)
    policy.disallow(PEER)
    assert policy.may_use(PEER, BundleClass.ONE_TIME, NOW)
    policy.used(PEER, BundleClass.ONE_TIME, NOW)
    assert not policy.may_use(PEER, BundleClass.ONE_TIME, NOW)


def test_strangers_leave_a_quarter_of_the_one_time_bundles_to_the_known() -> None:
    scores = {BEN.key.raw: 1, AUDITOR.key.raw: 499}
    policy = AdmissionPolicy(scores=lambda raw: scores.get(raw, 0), one_time_per_hour=8, ask_from=0)
    assert sum(uses(policy, PEER) for _ in range(20)) == 6
    assert uses(policy, BEN.key)
    assert uses(policy, AUDITOR.key)
    assert not uses(policy, AUDITOR.key)


def test_the_budget_can_be_nothing_or_anything() -> None:
    assert scoring(0, one_time_per_hour=0).may_use(PEER, BundleClass.ONE_TIME, NOW) is False
    assert scoring(500, one_time_per_hour=0).may_use(PEER, BundleClass.ONE_TIME, NOW) is True
    free = scoring(0, one_time_per_hour=None)
    assert all(uses(free, PEER) for _ in range(1000))


# --- whatever goes wrong denies ---------------------------------------------------------------------------------------


def raising(error: BaseException) -> Callable[[bytes], int]:
    def scores(_raw: bytes) -> int:
        raise error

    return scores


BAD_SCORES = [
    None, True, False, 0.9, 900.0, math.nan, math.inf, -1, 1001, 2**63, "900", b"900", [900], object(),
    raising(ValueError("no")), raising(TimeoutError()), raising(KeyError(PEER)), raising(RecursionError()),
    raising(ArgumentInvalid("x")), raising(StopIteration()),
]  # fmt: skip


@pytest.mark.parametrize("score", BAD_SCORES, ids=told)
@pytest.mark.parametrize("listed", [False, True])
def test_a_score_that_is_none_denies(score: Any, listed: bool) -> None:
    policy = scoring(score, knock_floor=1, ask_from=0, allow=[PEER] if listed else [])
    assert policy.decide(knock()) == Deny(Reason.POLICY, 0, Why.FAILED)
    assert policy.still_allowed(PEER) is False
    assert policy.may_use(PEER, BundleClass.ONE_TIME, NOW) is False
    # The allow list alone decides these two, without a score.
    assert policy.may_knock(claimed()) is listed
    assert policy.is_known(PEER.raw) is listed


@pytest.mark.parametrize("argument", [None, 5, "text", object()])
def test_questions_about_nobody_are_answered_no(argument: Any) -> None:
    policy = scoring(1000)
    assert policy.may_knock(argument) is False
    assert policy.may_knock(ClaimedSender("did", argument)) is False
    assert policy.is_known(argument) is False
    assert isinstance(policy.decide(argument), Deny)
    assert policy.still_allowed(argument) is False
    assert scoring(0).may_use(argument, BundleClass.ONE_TIME, NOW) is False
    assert scoring(0, require_one_time=True).may_use(PEER, argument, NOW) is False


@pytest.mark.parametrize("took_ms", [0, 50, 51, 10**9, -1])
def test_an_answer_that_comes_late_denies(took_ms: int) -> None:
    clock = ManualClock()

    def scores(_raw: bytes) -> int:
        clock.now_ms += took_ms
        return 1000

    policy = scoring(scores, timer=clock, timeout_ms=50)
    in_time = 0 <= took_ms <= 50
    assert isinstance(policy.decide(knock()), Grant) is in_time
    assert policy.still_allowed(PEER) is in_time


def test_a_broken_timer_denies() -> None:
    for timer in (raising(ValueError()), lambda: None, lambda: "now"):
        policy = scoring(1000, timer=timer, timeout_ms=50)
        assert why(policy.decide(knock())) == Why.FAILED


# --- scores -----------------------------------------------------------------------------------------------------------


def test_the_larger_of_ledger_and_graph_counts_live() -> None:
    ledger, graph = TrustLedger(MESH), TrustGraph(MESH, ME.key)
    ledger.believe(AUDITOR.key)
    policy = AdmissionPolicy(ledger=ledger, graph=graph, tiers=OPEN)
    assert why(policy.decide(knock())) == Why.BELOW_THRESHOLD
    graph.apply(issue_edge(ME, PEER, 600, mesh=MESH, sequence=1, time_ms=NOW), now_ms=NOW)
    assert isinstance(policy.decide(knock()), Grant)
    graph.apply(issue_edge(ME, PEER, 0, mesh=MESH, sequence=2, time_ms=NOW), now_ms=NOW)
    assert not policy.still_allowed(PEER)
    for day in range(3):
        time_ms = NOW + day * 2 * 24 * HOUR
        ledger.apply(issue_trust(AUDITOR, PEER, 200, mesh=MESH, sequence=day, time_ms=time_ms), now_ms=time_ms)
    assert policy.still_allowed(PEER)
    assert policy.is_known(PEER.raw)


@pytest.mark.parametrize(("threshold", "cap", "gets_in"), [(500, None, False), (300, None, False), (300, 300, True)])
def test_two_hops_never_pass_the_threshold_unless_the_operator_says_so(
    threshold: int, cap: int | None, gets_in: bool
) -> None:
    graph = TrustGraph(MESH, ME.key)
    for issuer, subject in ((ME, BEN.key), (BEN, PEER)):
        graph.apply(issue_edge(issuer, subject, 1000, mesh=MESH, sequence=1, time_ms=NOW), now_ms=NOW)
    policy = AdmissionPolicy(graph=graph, threshold=threshold, transitive_cap=cap, tiers=[Tier(min_score=threshold)])
    assert isinstance(policy.decide(knock()), Grant) is gets_in
    assert policy.is_known(PEER.raw)


def test_a_score_makes_known_from_one_on() -> None:
    assert [scoring(score).is_known(PEER.raw) for score in (0, 1)] == [False, True]
    whole = AdmissionPolicy(ledger=TrustLedger(MESH, default_score=1000))
    assert not whole.is_known(PEER.raw)
    assert whole.still_allowed(PEER)


@pytest.mark.parametrize("words", ["count", 5])
@pytest.mark.parametrize("name", ["actions", "capabilities"])
def test_one_word_is_no_list_of_words(name: str, words: Any) -> None:
    with pytest.raises(ArgumentInvalid) as caught:
        Tier(min_score=0, **{name: words})
    assert (caught.value.argument, caught.value.why) == (name, "not a list of words")


def test_the_widest_and_the_narrowest_policy() -> None:
    assert AdmissionPolicy(threshold=0).still_allowed(PEER)
    assert not scoring(999, threshold=1000, tiers=()).still_allowed(PEER)
    tier = Tier(min_score=0, actions=["a"], capabilities=[""])
    assert tier.fits(0, "a", ("",))
    newcomers = AdmissionPolicy()
    assert sum(uses(newcomers, PEER) for _ in range(50)) == 15


def test_a_default_score_makes_nobody_known() -> None:
    ledger = TrustLedger(MESH, default_score=300)
    ledger.believe(AUDITOR.key)
    policy = AdmissionPolicy(ledger=ledger, knock_floor=100)
    assert policy.may_knock(claimed())
    assert not policy.is_known(PEER.raw)
    ledger.apply(issue_trust(AUDITOR, PEER, 1, mesh=MESH, sequence=1, time_ms=NOW), now_ms=NOW)
    assert policy.is_known(PEER.raw)
    assert not scoring(600, known_from=601).is_known(PEER.raw)
    assert scoring(601, known_from=601).is_known(PEER.raw)


# --- arguments --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(
            (name, value)
            for name in ("knock_floor", "threshold", "ask_from", "transitive_cap", "known_from")
            for value in (-1, 1002, True, 0.9, math.nan, "500", b"5")
        ),
        ("ask_from", 501),
        ("one_time_per_hour", -1),
        ("one_time_per_hour", "20"),
        ("one_time_per_hour", True),
        ("retry_after_seconds", 1.0),
        ("scores", 5),
        ("ledger", TrustGraph(MESH, PEER)),
        ("graph", TrustLedger(MESH)),
        ("revocations", set()),
        ("successions", {}),
        *((name, value) for name in ("allow", "block", "tiers") for value in (None, 5, 1.5)),
        ("tiers", [None]),
        ("tiers", [Tier(min_score=499)]),
        ("require_one_time", 1),
    ],
    ids=told,
)
def test_a_wrong_argument_makes_no_policy(name: str, value: Any) -> None:
    with pytest.raises(ArgumentInvalid) as caught:
        AdmissionPolicy(**{name: value})
    assert caught.value.argument == name


def test_arguments_that_belong_together() -> None:
    for options, argument in (
        ({"scores": lambda _: 0, "ledger": TrustLedger(MESH)}, "scores"),
        ({"scores": lambda _: 0, "graph": TrustGraph(MESH, PEER)}, "scores"),
        ({"timer": lambda: 0}, "timeout_ms"),
        ({"timeout_ms": 5}, "timer"),
        ({"timer": lambda: 0, "timeout_ms": -5}, "timeout_ms"),
        ({"timer": 5, "timeout_ms": 5}, "timer"),
        ({"ledger": TrustLedger(MESH), "graph": TrustGraph("example/other", PEER)}, "graph"),
        ({"ledger": TrustLedger(MESH), "revocations": RevocationList("example/other")}, "revocations"),
        ({"revocations": RevocationList(MESH), "successions": Successions("example/other")}, "successions"),
    ):
        with pytest.raises(ArgumentInvalid) as caught:
            AdmissionPolicy(**options)  # type: ignore[arg-type]
        assert caught.value.argument == argument


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("min_score", value) for value in (-1, 1001, True, 0.5, None, "500")),
        *(("max_open_sessions", value) for value in (-1, 6, True, None)),
        *(("actions", value) for value in ("read", 5, [""], ["a" * 129], [b"read"], [None])),
        *(("capabilities", value) for value in ("json", 5, ["a" * 129], [b""])),
        *(("conditions", value) for value in (None, 5, "unlimited")),
        *(("ask", value) for value in (None, 1, "yes")),
    ],
    ids=told,
)
def test_a_wrong_argument_makes_no_tier(name: str, value: Any) -> None:
    with pytest.raises(ArgumentInvalid) as caught:
        Tier(**{"min_score": 500, name: value})
    assert caught.value.argument == name


@pytest.mark.parametrize("word", ["", "a", "trusted", "a" * 32, "x-y.z_9"])
def test_a_decision_can_say_why(word: str) -> None:
    assert Deny(why=word).why == Grant(why=word).why == word


@pytest.mark.parametrize("word", [None, 5, b"x", "a" * 33, "Upper", "new\nline", "sp ace", "é"])
def test_a_reason_is_one_fixed_word(word: Any) -> None:
    for kind in (Deny, Grant):
        with pytest.raises(ArgumentInvalid) as caught:
            kind(why=word)
        assert caught.value.argument == "why"


# --- with agents ------------------------------------------------------------------------------------------------------


class Journal:
    def __init__(self) -> None:
        self.records: list[Record] = []

    def commit(self, _changes: object, records: tuple[Record, ...], /) -> None:
        self.records += records


def mesh_of(policy: AdmissionPolicy) -> tuple[Agent, Agent, Journal, ManualClock]:
    clock, journal = ManualClock(), Journal()
    ann = Agent.create(MESH, identity=ANN, clock=clock, entropy=SeededEntropy("ann"))
    bob = Agent.create(MESH, identity=ME, clock=clock, entropy=SeededEntropy("bob"), policy=policy, journal=journal)
    return ann, bob, journal, clock


def events(agent: Agent, envelope: bytes) -> Any:
    [event] = agent.receive(envelope)
    return event


def test_every_decision_is_a_record_with_its_reason() -> None:
    policy = AdmissionPolicy(tiers=[Tier(min_score=500, actions=["read"])])
    ann, bob, journal, clock = mesh_of(policy)
    shelf = bob.publish_bundles(4)

    def decide(bundle: bytes, action: str) -> tuple[Any, Record]:
        clock.advance(ms=1)
        event = events(bob, ann.knock(bob.did, bundle, Intent(action)).envelope)
        return event, journal.records[-1]

    event, record = decide(shelf.one_time[0], "read")
    assert isinstance(event, KnockRefused)
    assert (record.event, record.outcome, record.reason) == (AuditEvent.KNOCK_REJECTED, Outcome.DENY, "below-threshold")
    policy.allow(ANN.key)
    event, record = decide(shelf.one_time[1], "delete")
    assert (event.reason, record.reason) == (Reason.POLICY, "action")
    event, record = decide(shelf.one_time[2], "read")
    assert isinstance(event, SessionEstablished)
    assert (record.event, record.outcome, record.reason) == (AuditEvent.KNOCK_ACCEPTED, Outcome.ALLOW, "allow-list")
    # The word is in no envelope.
    assert b"allow-list" not in event.reply.envelope


def test_a_peer_that_is_dropped_or_revoked_is_neither_sent_to_nor_heard() -> None:
    revocations = RevocationList(MESH)
    policy = AdmissionPolicy(tiers=OPEN, allow=[PEER], revocations=revocations)
    ann, bob, _, _ = mesh_of(policy)
    established = events(bob, ann.knock(bob.did, bob.publish_bundles(1).one_time[0], Intent("read")).envelope)
    ann.receive(established.reply)
    message = ann.send(bob.did, b"one").envelope
    policy.disallow(PEER)
    before = bob.export_state()
    for call in (lambda: bob.receive(message), lambda: bob.send(ann.did, b"two").envelope):
        with pytest.raises(PeerNotAllowed):
            call()
    assert bob.export_state() == before
    policy.allow(PEER)
    assert events(bob, message).plaintext == b"one"
    message = ann.send(bob.did, b"three").envelope
    revocations.apply(issue_revocation(ANN, PEER, mesh=MESH, sequence=0, time_ms=NOW))
    again = ann.knock(bob.did, bob.publish_bundles(1).one_time[0], Intent("read")).envelope
    before = bob.export_state()
    for call in (lambda: bob.receive(message), lambda: bob.send(ann.did, b"four").envelope):
        with pytest.raises(PeerNotAllowed):
            call()
    with pytest.raises(KnockNotAdmitted):
        bob.receive(again)
    assert bob.export_state() == before


def test_a_revoked_peer_does_not_get_in_by_an_acceptance_that_waited() -> None:
    revocations = RevocationList(MESH)
    policy = AdmissionPolicy(ask_from=0, revocations=revocations)
    ann, bob, _, _ = mesh_of(policy)
    event = events(bob, ann.knock(bob.did, bob.publish_bundles(1).one_time[0], Intent("read")).envelope)
    assert isinstance(event, KnockReceived)
    revocations.apply(issue_revocation(ANN, PEER, mesh=MESH, sequence=0, time_ms=NOW))
    before = bob.export_state()
    with pytest.raises(PeerNotAllowed):
        bob.accept(event)
    assert bob.export_state() == before


def test_a_peer_that_was_dropped_since_one_knocked_at_it_cannot_accept() -> None:
    policy = AdmissionPolicy(tiers=OPEN, allow=[PEER])
    ann, bob, _, _ = mesh_of(policy)
    knock_out = bob.knock(ann.did, ann.publish_bundles(1).one_time[0], Intent("read")).envelope
    reply = ann.accept(events(ann, knock_out)).envelope
    policy.disallow(PEER)
    before = bob.export_state()
    with pytest.raises(PeerNotAllowed):
        bob.receive(reply)
    assert bob.export_state() == before
    policy.allow(PEER)
    assert isinstance(events(bob, reply), SessionEstablished)


def test_a_bundle_that_may_not_be_used_now_is_kept_and_serves_the_same_knock_later() -> None:
    policy = AdmissionPolicy(ask_from=0, one_time_per_hour=1)
    ann, bob, _, clock = mesh_of(policy)
    shelf = bob.publish_bundles(3)
    assert isinstance(events(bob, ann.knock(bob.did, shelf.one_time[0], Intent("read")).envelope), KnockReceived)
    clock.advance(ms=1)
    before = bob.export_state()
    over = ann.knock(bob.did, shelf.one_time[1], Intent("read")).envelope
    for _ in range(30):  # more than the sender's own rate, which is not used up by it
        with pytest.raises(Busy):
            bob.receive(over)
    assert bob.export_state() == before
    clock.advance(seconds=3600)
    assert isinstance(events(bob, over), KnockReceived)
    assert isinstance(events(bob, ann.knock(bob.did, shelf.last_resort or b"", Intent("read")).envelope), KnockReceived)


@pytest.mark.parametrize("answer", [False, None, 1, "yes", raising(ValueError()), raising(TimeoutError())], ids=told)
def test_whatever_goes_wrong_about_a_bundle_lets_it_serve_nobody(answer: Any) -> None:
    policy = AdmissionPolicy(ask_from=0)
    ann, bob, _, _ = mesh_of(policy)
    policy.may_use = (lambda *_: answer(b"")) if callable(answer) else (lambda *_: answer)  # type: ignore[method-assign]
    knock = ann.knock(bob.did, bob.publish_bundles(1).one_time[0], Intent("read")).envelope
    before = bob.export_state()
    with pytest.raises(Busy):
        bob.receive(knock)
    assert bob.export_state() == before
    assert bob._core.state.unused_one_time(bob._core.now_ms()) == 1


@pytest.mark.parametrize("counts", [None, 5, raising(ValueError()), raising(TimeoutError())], ids=told)
def test_a_policy_that_cannot_count_changes_nothing_of_what_happened(counts: Any) -> None:
    policy = AdmissionPolicy(ask_from=0)
    ann, bob, _, _ = mesh_of(policy)
    policy.used = (lambda *_: counts(b"")) if callable(counts) else counts  # type: ignore[method-assign]
    knock = ann.knock(bob.did, bob.publish_bundles(1).one_time[0], Intent("read")).envelope
    assert isinstance(events(bob, knock), KnockReceived)
    assert bob._core.state.unused_one_time(bob._core.now_ms()) == 0


# --- records of statements --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reason", "statement"),
    [
        ("raised", verify_trust(issue_trust(ANN, BEN.key, 5, mesh=MESH, sequence=3, time_ms=NOW), mesh=MESH)),
        ("lowered", verify_trust(issue_trust(ANN, BEN.key, -5, mesh=MESH, sequence=3, time_ms=NOW), mesh=MESH)),
        ("unchanged", verify_trust(issue_trust(ANN, BEN.key, 0, mesh=MESH, sequence=3, time_ms=NOW), mesh=MESH)),
        ("edge", verify_edge(issue_edge(ANN, BEN.key, 5, mesh=MESH, sequence=3, time_ms=NOW), mesh=MESH)),
        ("edge-withdrawn", verify_edge(issue_edge(ANN, BEN.key, 0, mesh=MESH, sequence=3, time_ms=NOW), mesh=MESH)),
        ("continuity", verify_continuity(issue_continuity(ANN, BEN, mesh=MESH, sequence=3, time_ms=NOW), mesh=MESH)),
        (
            "revocation",
            verify_revocation(issue_revocation(ANN, BEN.key, mesh=MESH, sequence=3, time_ms=NOW), mesh=MESH),
        ),
    ],
)
def test_a_statement_has_a_record(reason: str, statement: Any) -> None:
    record = statement_record(statement, at_ms=NOW + 1)
    assert record.event is AuditEvent.TRUST_UPDATED
    assert (record.sender, record.recipient, record.mesh) == (ANN.did, BEN.did, MESH)
    assert (record.receipt, record.number, record.envelope_time_ms) == (statement.digest, 3, NOW)
    assert (record.reason, record.outcome, record.at_ms) == (reason, Outcome.INFO, NOW + 1)
    assert record.encode(0, bytes(32))


def test_following_has_a_record_of_its_own() -> None:
    offer = verify_continuity(issue_continuity(ANN, BEN, mesh=MESH, sequence=3, time_ms=NOW), mesh=MESH)
    record = statement_record(offer, at_ms=NOW, followed=True)
    assert (record.sender, record.recipient, record.receipt) == (ANN.did, BEN.did, offer.digest)
    assert record.reason == "followed"
    edge = verify_edge(issue_edge(ANN, BEN.key, 5, mesh=MESH, sequence=3, time_ms=NOW), mesh=MESH)
    with pytest.raises(ArgumentInvalid):
        statement_record(edge, at_ms=NOW, followed=True)


def test_refused_statements_have_one_record_together() -> None:
    record = refusal_record(StatementUnfit(), owner=ME.did, mesh=MESH, at_ms=NOW, count=40)
    assert (record.event, record.outcome, record.reason) == (AuditEvent.TRUST_UPDATED, Outcome.DENY, "trust.unfit")
    assert (record.sender, record.recipient, record.count) == (ME.did, "", 40)
    assert record.encode(0, bytes(32))
    for wrong in (None, ValueError(), ArgumentInvalid("x"), StatementUnfit):
        with pytest.raises(ArgumentInvalid):
            refusal_record(wrong, owner=ME.did, mesh=MESH, at_ms=NOW)  # type: ignore[arg-type]


def test_what_is_no_statement_has_no_record() -> None:
    for wrong in (None, 5, ANN.key):
        with pytest.raises(ArgumentInvalid):
            statement_record(wrong, at_ms=NOW)  # type: ignore[arg-type]


def test_a_policy_says_nothing_of_itself() -> None:
    policy = AdmissionPolicy(allow=[PEER])
    assert PEER.raw.hex() not in repr(policy)
    assert PEER.did not in repr(evolve(Tier(min_score=500), ask=True))


# --- what a dropped peer gets, and what is written of it --------------------------------------------------------------


def test_a_dropped_peer_is_not_sent_a_close_either_and_each_word_of_the_policy_is_counted() -> None:
    policy = AdmissionPolicy(tiers=OPEN, allow=[PEER])
    ann, bob, journal, clock = mesh_of(policy)
    established = events(bob, ann.knock(bob.did, bob.publish_bundles(1).one_time[0], Intent("read")).envelope)
    ann.receive(established.reply)
    policy.disallow(PEER)
    before, told = bob.export_state(), len(journal.records)
    for call in (
        lambda: bob.close(ann.did).envelope,
        lambda: bob.send(ann.did, b"two").envelope,
        lambda: bob.send(ann.did, b"three", disclosable=True),
    ):
        with pytest.raises(PeerNotAllowed):
            call()
    with pytest.raises(PeerNotAllowed):
        bob.knock(ann.did, ann.publish_bundles(1).one_time[0], Intent("read"))
    assert bob.export_state() == before
    assert journal.records[told:] == []
    clock.advance(seconds=60)
    bob.poll()
    [record] = journal.records[told:]
    assert (record.event, record.sender, record.recipient) == (AuditEvent.MESSAGE_REFUSED, bob.did, ann.did)
    assert (record.reason, record.count, record.receipt) == (PeerNotAllowed.code, 4, b"")
    assert owner_of(journal.records) == bob.did
    bob.drop(ann.did, established.session_id)


def test_unsent_envelopes_do_not_crowd_the_log() -> None:
    _, bob, journal, clock = mesh_of(AdmissionPolicy(tiers=OPEN, block=[PEER]))
    others = [Agent.create(MESH, clock=clock) for _ in range(70)]
    bob._core.policy = AdmissionPolicy(tiers=OPEN, block=[other.key for other in others])
    for other in others:
        with pytest.raises(PeerNotAllowed):
            bob.knock(other.did, other.publish_bundles(1, last_resort=False).one_time[0], Intent("read"))
    bob.record_refusals()
    assert len(journal.records) == 65
    assert sum(record.count for record in journal.records) == 70
    assert [record.recipient for record in journal.records if record.count > 1] == [""]


def test_an_acceptance_is_not_repeated_to_who_was_dropped_since() -> None:
    policy = AdmissionPolicy(tiers=OPEN, allow=[PEER])
    ann, bob, _, _ = mesh_of(policy)
    knock = ann.knock(bob.did, bob.publish_bundles(1).one_time[0], Intent("read")).envelope
    established = events(bob, knock)
    assert events(bob, knock).reply.envelope == established.reply.envelope
    policy.disallow(PEER)
    before = bob.export_state()
    with pytest.raises(PeerNotAllowed):
        bob.receive(knock)
    assert bob.export_state() == before
    policy.allow(PEER)
    assert events(bob, knock).reply.envelope == established.reply.envelope


def test_a_rejection_is_repeated_to_anybody() -> None:
    policy = AdmissionPolicy(tiers=OPEN)
    ann, bob, _, _ = mesh_of(policy)
    knock = ann.knock(bob.did, bob.publish_bundles(1).one_time[0], Intent("read")).envelope
    rejected = events(bob, knock)
    assert isinstance(rejected, KnockRefused)
    assert events(bob, knock).reply.envelope == rejected.reply.envelope


def test_a_peer_that_lost_its_state_is_not_held_to_the_session_that_it_lost() -> None:
    tiers = [Tier(min_score=500, actions=["read"], max_open_sessions=1)]
    policy = AdmissionPolicy(tiers=tiers, allow=[PEER])
    ann, bob, _, clock = mesh_of(policy)
    shelf = bob.publish_bundles(3)
    assert isinstance(events(bob, ann.knock(bob.did, shelf.one_time[0], Intent("read")).envelope), SessionEstablished)
    clock.advance(ms=1)
    lost = Agent.create(MESH, identity=ANN, clock=clock)
    assert isinstance(events(bob, lost.knock(bob.did, shelf.one_time[1], Intent("read")).envelope), SessionEstablished)
    clock.advance(ms=1)
    # One that holds its session all the same has as many as it may.
    refused = events(bob, lost.knock(bob.did, shelf.one_time[2], Intent("read")).envelope)
    assert isinstance(refused, KnockRefused)
    assert refused.reason is Reason.BUSY


def test_a_knock_that_is_left_to_the_application_says_so_in_the_trail() -> None:
    ann, bob, journal, _ = mesh_of(AdmissionPolicy())
    bob._core.policy = AskApplication()
    event = events(bob, ann.knock(bob.did, bob.publish_bundles(1).one_time[0], Intent("read")).envelope)
    assert [record.reason for record in journal.records if record.event is AuditEvent.KNOCK_RECEIVED] == ["asked"]
    bob.accept(event)
    assert (journal.records[-1].event, journal.records[-1].reason) == (AuditEvent.KNOCK_ACCEPTED, "application")


def test_a_policy_without_a_word_is_named_as_such() -> None:
    ann, bob, journal, _ = mesh_of(AdmissionPolicy())

    class Everybody(AskApplication):
        def decide(self, _knock: object, /) -> Grant:
            return Grant()

    bob._core.policy = Everybody()
    events(bob, ann.knock(bob.did, bob.publish_bundles(1).one_time[0], Intent("read")).envelope)
    received, accepted = journal.records[-2:]
    assert (received.reason, accepted.reason) == ("", "policy")


class Word(StrEnum):
    LISTED = "listed"


@pytest.mark.parametrize("decision", [Grant(why=Word.LISTED), Deny(why=Word.LISTED)], ids=["grant", "deny"])
def test_a_policys_word_may_be_of_an_enumeration(decision: Grant | Deny) -> None:
    ann, bob, _, clock = mesh_of(AdmissionPolicy())

    class Everybody(AskApplication):
        def decide(self, _knock: object, /) -> Grant | Deny:
            return decision

    log = AuditLog(MemorySink())
    bob = Agent.create(MESH, clock=clock, policy=Everybody(), journal=AuditJournal(log))
    events(bob, ann.knock(bob.did, bob.publish_bundles(1).one_time[0], Intent("read")).envelope)
    *_, last = verified_records(log.entries())
    assert (last.reason, type(last.reason)) == ("listed", str)


def test_an_acceptance_is_not_repeated_once_its_session_has_ended() -> None:
    ann, bob, _, clock = mesh_of(AdmissionPolicy(tiers=OPEN, allow=[PEER]))
    knock = ann.knock(bob.did, bob.publish_bundles(1).one_time[0], Intent("read")).envelope
    established = events(bob, knock)
    bob.close(ann.did)
    assert events(bob, knock).reply.envelope == established.reply.envelope  # it is awaited still, and may be answered
    clock.advance(seconds=601)
    for _ in range(2):  # whether or not the end was told
        before = bob.export_state()
        with pytest.raises(KnockReplayed):
            bob.receive(knock)
        assert bob.export_state() == before
        bob.poll()


def test_a_request_that_no_agent_made_accepts_nothing() -> None:
    _, bob, journal, _ = mesh_of(AdmissionPolicy(tiers=OPEN, block=[PEER]))
    made = dict.fromkeys(("peer", "receipt", "intent", "bundle_class"))
    numbers = dict.fromkeys(("time_ms", "expires_ms", "has_early_payload", "fresh", "open_sessions"), 0)
    request = KnockRequest(session_id=SessionId(bytes(16)), **made, **numbers)  # type: ignore[arg-type]
    for call in (lambda: bob.accept(request), lambda: bob.reject(request).envelope):
        with pytest.raises(KnockNotPending):
            call()
    bob.record_refusals()
    assert journal.records == []
