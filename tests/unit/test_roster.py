"""Lists take every name of an identity: its key, its 32 bytes, its DID of our own mesh, and that of AGT's."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agentmesh import Agent, Identity, Intent, KnockRefused, SessionEstablished
from agentmesh.agt_identity import AgtIdentityKey, mesh_did_of
from agentmesh.errors import ArgumentInvalid, KnockNotAdmitted, StateMalformed
from agentmesh.policy import ClaimedSender
from agentmesh.testing import SeededEntropy
from agentmesh.trust import AdmissionLists, AdmissionPolicy, Tier

MESH = "example/lists"
ANN, BEN, CAL = WHO = tuple(Identity.generate(SeededEntropy(f"listed {number}")) for number in range(3))
OPEN = (Tier(min_score=500),)


def names_of(who: Identity) -> dict[str, Any]:
    raw = who.key.raw
    return {
        "key": who.key,
        "raw": raw,
        "did": who.did,
        "mesh did": mesh_did_of(raw),
        "agt key": AgtIdentityKey(raw),
    }


KINDS = tuple(names_of(ANN))
calls = st.lists(
    st.tuples(st.booleans(), st.integers(0, len(WHO) - 1), st.sampled_from(KINDS)), min_size=1, max_size=12
)


@given(calls)
@example([(True, 0, "key"), (True, 0, "did"), (False, 0, "mesh did")])
@example([(True, 0, "mesh did"), (True, 0, "did"), (False, 0, "agt key")])
def test_lists_hold_whom_the_model_says(made: list[tuple[bool, int, str]]) -> None:
    lists = AdmissionLists(MESH)
    listed: set[tuple[int, str]] = set()  # who, and by which name: key, did or mesh did
    for adds, who, kind in made:
        name = names_of(WHO[who])[kind]
        stands = kind if "did" in kind else "key"
        if adds:
            lists.block(name)
            listed.add((who, stands))
        else:
            lists.unblock(name)
            knows = stands == "key" or (who, "key") in listed  # without the key a DID says nothing of another
            listed -= {(who, other) for other in ("key", "did", "mesh did") if knows or other == stands}
        expected = [any(at == number for at, _ in listed) for number in range(len(WHO))]
        assert [lists.is_blocked(one.key) for one in WHO] == expected
        assert [lists.is_blocked(AgtIdentityKey(one.key.raw)) for one in WHO] == expected
        again = AdmissionLists.restore(lists.export_state())
        assert [again.is_blocked(one.key.raw) for one in WHO] == expected
        assert again.export_state() == lists.export_state()


@pytest.mark.parametrize("kind", KINDS)
def test_an_agent_of_agts_mesh_is_allowed_and_blocked_by_each_of_its_names(kind: str) -> None:
    peer = AgtIdentityKey(ANN.key.raw)
    name = names_of(ANN)[kind]
    policy = AdmissionPolicy(allow=[name], tiers=OPEN)
    assert policy.still_allowed(peer)
    assert policy.is_known(peer.raw)
    assert not policy.still_allowed(AgtIdentityKey(BEN.key.raw))
    policy.block(name)
    assert not policy.still_allowed(peer)
    assert not policy.may_knock(ClaimedSender(peer.did, peer.raw))
    assert policy.may_knock(ClaimedSender(mesh_did_of(BEN.key.raw), BEN.key.raw))
    policy.unblock(peer)
    assert policy.still_allowed(peer)


def test_lists_by_the_names_of_agts_mesh_decide_on_knocks() -> None:
    ann, ben, cal = (Agent.create(mesh=MESH, identity=who) for who in WHO)
    names = [mesh_did_of(who.key.raw) for who in WHO]
    bob = Agent.create(mesh=MESH, policy=AdmissionPolicy(allow=names[:1], block=names[1:2], tiers=OPEN))
    bundles = bob.publish_bundles(3).one_time
    [event] = bob.receive(ann.knock(bob.did, bundles[0], Intent("read")))
    assert isinstance(event, SessionEstablished)
    with pytest.raises(KnockNotAdmitted):
        bob.receive(ben.knock(bob.did, bundles[1], Intent("read")))
    [event] = bob.receive(cal.knock(bob.did, bundles[2], Intent("read")))
    assert isinstance(event, KnockRefused)


@pytest.mark.parametrize(
    "did",
    [
        "did:mesh:",
        "did:mesh:" + "0" * 31,
        "did:mesh:" + "0" * 33,
        "did:mesh:" + "A" * 32,
        "did:mesh:" + "g" * 32,
        "did:Mesh:" + "0" * 32,
        " did:mesh:" + "0" * 32,
        "did:mesh:" + "0" * 32 + "\n",
        "did:mesh:" + "\u0660" * 32,
        "did:agentmesh:" + "0" * 32,
    ],
)
def test_a_name_in_another_form_is_refused(did: str) -> None:
    lists = AdmissionLists(MESH)
    for call in (lists.allow, lists.disallow, lists.block, lists.unblock):
        with pytest.raises(ArgumentInvalid):
            call(did)
    assert lists.generation == 0


def test_lists_with_a_name_in_another_form_are_damaged() -> None:
    lists = AdmissionLists(MESH)
    lists._allowed.add("did:mesh:" + "A" * 32)
    with pytest.raises(StateMalformed):
        AdmissionLists.restore(lists.export_state())


def test_a_name_of_agts_mesh_is_taken_off_by_the_key() -> None:
    lists = AdmissionLists(MESH)
    lists.allow(mesh_did_of(ANN.key.raw))
    assert lists.is_allowed(ANN.key)
    lists.disallow(ANN.key)
    assert not lists.is_allowed(ANN.key)
