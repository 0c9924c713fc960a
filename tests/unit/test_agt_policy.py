"""Who may converse with an agent of AGT's mesh: lists by its names, a live projection, and what a session must give."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from agentmesh import BundleClass, Guarantee, Identity, KnockRefused, MessageReceived, SessionEstablished
from agentmesh.agt import AgtAgent, AgtIdentity, HttpRequest
from agentmesh.agt.projection import TrustProjection
from agentmesh.audit import AuditJournal, AuditLog, MemorySink, verified_records
from agentmesh.errors import PeerNotAllowed
from agentmesh.primitives._labels import KARS_EDGE
from agentmesh.trust import AdmissionPolicy, Tier, Why

MESH = "agt"
NOW = 1_785_000_000_000
OPEN = (Tier(min_score=500),)
ALICE, BOB = AgtIdentity.from_seed(bytes([1]) * 32), AgtIdentity.from_seed(bytes([2]) * 32)
AUDITOR = Identity.from_seed(bytes([3]) * 32)


def agent(identity: AgtIdentity, policy: AdmissionPolicy | None = None, **options: Any) -> AgtAgent:
    return AgtAgent.create(MESH, identity=identity, policy=policy, clock=lambda: NOW, **options)


def fetched(upload: HttpRequest, *, one_time: bool = True) -> bytes:
    """Return what a registry answers to the first fetch after this upload, or to one when no one-time key is left."""
    body = json.loads(upload.body)
    keys = body.pop("one_time_pre_keys")
    return json.dumps({**body, "one_time_pre_key": keys[0] if one_time else None}).encode()


def conversed(at: AgtAgent, by: AgtAgent, *, one_time: bool = True) -> tuple[object, ...]:
    """Return what a KNOCK and its first message tell whom they are for."""
    knock = by.knock(at.did, fetched(at.publish_prekeys(2), one_time=one_time))
    message = by.send(at.did, b"hello")
    return (*at.receive(knock.envelope), *at.receive(message.envelope))


def projected(score: int | None) -> bytes:
    def b64(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).decode().rstrip("=")

    vertices = [{"id": name, "alg": "EdDSA", "publicKeyB64u": b64(key.raw)}
                for name, key in (("auditor", AUDITOR.key), ("alice", ALICE.key))]  # fmt: skip
    edge = {"from": "auditor", "to": "alice", "score": score, "issuedAt": NOW // 1000}
    text = f"auditor\nalice\n{score}\n{NOW // 1000}\n\n".encode()
    edges = [] if score is None else [{**edge, "signature": b64(AUDITOR.sign(KARS_EDGE, text))}]
    return json.dumps({"vertices": vertices, "edges": edges}).encode()


def kinds(events: tuple[object, ...]) -> list[type]:
    return [type(event) for event in events]


# --- a live projection ------------------------------------------------------------------------------------------------


def test_a_changed_projection_changes_who_may_knock_and_converse_without_a_restart() -> None:
    graph = TrustProjection(MESH, AUDITOR.key)
    alice, bob = agent(ALICE), agent(BOB, AdmissionPolicy(graph=graph, tiers=OPEN))
    assert kinds(conversed(bob, alice)) == [KnockRefused]

    graph.load(projected(700), now_ms=NOW)
    alice = agent(ALICE)
    assert kinds(conversed(bob, alice)) == [SessionEstablished, MessageReceived]
    later = alice.send(bob.did, b"later")

    graph.load(projected(None), now_ms=NOW)
    before = bob.export_state()
    with pytest.raises(PeerNotAllowed):
        bob.receive(later.envelope)
    with pytest.raises(PeerNotAllowed):
        bob.send(alice.did, b"no")
    assert bob.export_state() == before

    graph.load(projected(700), now_ms=NOW)
    [event] = bob.receive(later.envelope)
    assert isinstance(event, MessageReceived)
    assert event.plaintext == b"later"


# --- lists ------------------------------------------------------------------------------------------------------------


def test_lists_by_the_only_name_that_an_agent_of_agts_has() -> None:
    policy = AdmissionPolicy(allow=[ALICE.did], tiers=OPEN)
    alice, bob = agent(ALICE), agent(BOB, policy)
    assert kinds(conversed(bob, alice)) == [SessionEstablished, MessageReceived]
    policy.block(ALICE.did)
    with pytest.raises(PeerNotAllowed):
        bob.send(alice.did, b"no")
    policy.unblock(ALICE.did)
    bob.send(alice.did, b"yes")


# --- what a session must give -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("one_time", [True, False])
def test_what_a_session_gives_is_shown_on_both_sides(one_time: bool) -> None:
    alice, bob = agent(ALICE), agent(BOB, AdmissionPolicy(allow=[ALICE.did], tiers=OPEN))
    [established, _] = conversed(bob, alice, one_time=one_time)
    assert isinstance(established, SessionEstablished)
    expected = {Guarantee.ONE_TIME_PREKEY} if one_time else set()
    assert established.guarantees == expected
    assert established.bundle_class is (BundleClass.ONE_TIME if one_time else BundleClass.LAST_RESORT)
    assert [view.guarantees for view in (*alice.sessions(bob.did), *bob.sessions(alice.did))] == [expected] * 2


NOT_OF_AGTS = sorted(set(Guarantee) - {Guarantee.ONE_TIME_PREKEY})


@pytest.mark.parametrize("required", NOT_OF_AGTS)
def test_whoever_requires_what_agt_does_not_give_converses_with_nobody_there(required: Guarantee) -> None:
    log = AuditLog(MemorySink())
    strict = AdmissionPolicy(allow=[ALICE.did, BOB.did], tiers=OPEN, require=[required])
    alice, bob = agent(ALICE), agent(BOB, strict, journal=AuditJournal(log))
    before = bob.export_state()
    with pytest.raises(PeerNotAllowed):
        bob.knock(alice.did, fetched(alice.publish_prekeys(1)))
    assert bob.export_state() == before
    assert kinds(conversed(bob, alice)) == [KnockRefused]
    assert [record.reason for record in verified_records(log.entries())][-1] == f"agt.{Why.GUARANTEE}"


def test_a_one_time_prekey_alone_can_be_required() -> None:
    strict = AdmissionPolicy(allow=[ALICE.did], tiers=OPEN, require=[Guarantee.ONE_TIME_PREKEY])
    alice, bob = agent(ALICE), agent(BOB, strict)
    assert kinds(conversed(bob, alice)) == [SessionEstablished, MessageReceived]


def test_a_stricter_policy_takes_effect_in_the_middle_of_a_session() -> None:
    alice, bob = agent(ALICE), agent(BOB, AdmissionPolicy(allow=[ALICE.did], tiers=OPEN))
    conversed(bob, alice)
    later = alice.send(bob.did, b"later")
    strict = AdmissionPolicy(allow=[ALICE.did], tiers=OPEN, require=[Guarantee.SEALED_HEADERS])
    bob = AgtAgent.restore(bob.export_state(), policy=strict, clock=lambda: NOW)
    with pytest.raises(PeerNotAllowed):
        bob.receive(later.envelope)
    with pytest.raises(PeerNotAllowed):
        bob.send(alice.did, b"no")
