"""Identities of AGT's mesh: one name for each key, found again from its X25519 image, and bare signatures."""

from __future__ import annotations

import copy
import hashlib
import json
import pickle
from enum import StrEnum
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentmesh.agt_identity import (
    MESH_DID_PREFIX,
    AgtIdentity,
    AgtIdentityKey,
    identity_of_dh,
    is_mesh_did,
    key_of,
    mesh_did_argument,
    mesh_did_of,
    parse_mesh_did,
)
from agentmesh.errors import (
    AgentMeshError,
    ArgumentInvalid,
    BadDid,
    BadIdentityKey,
    BadSignature,
    BundleIdentityMismatch,
)
from agentmesh.identity import Identity, IdentityKey
from agentmesh.primitives import _crypto
from agentmesh.primitives.keys import IdentitySeed
from agentmesh.testing import SeededEntropy

VECTORS = Path(__file__).resolve().parents[2] / "vectors" / "agt"
KATS = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(VECTORS.glob("kat-*.json"))]
SIDES = [kat[side] for kat in KATS for side in ("initiator", "responder")]

P = 2**255 - 19
seeds = st.binary(min_size=32, max_size=32)
identities = seeds.map(AgtIdentity.from_seed)
DID = MESH_DID_PREFIX + "0123456789abcdef" * 2


# --- names ------------------------------------------------------------------------------------------------------------


@given(st.binary(min_size=32, max_size=32))
def test_a_did_is_half_of_the_keys_hash(raw: bytes) -> None:
    did = mesh_did_of(raw)
    assert did == "did:mesh:" + hashlib.sha256(raw).hexdigest()[:32]
    assert is_mesh_did(did)
    assert parse_mesh_did(did) == mesh_did_argument("did", did) == did


class Name(StrEnum):
    AGENT = DID


BAD_DIDS = [
    "", DID[:-1], DID + "0", DID.upper(), DID[:-1] + "A", DID[:-1] + "g", DID + "\n", " " + DID, "x" + DID,
    DID[:-1] + "\u0663", "did:agentmesh:" + "2" * 27, "did:mesh:", "did:key:" + "0" * 32, DID.encode(), None, 5,
    ["did"], DID[:-1] + "\ud800",
]  # fmt: skip


@pytest.mark.parametrize("did", BAD_DIDS)
def test_what_is_no_did_of_the_mesh_is_refused(did: Any) -> None:
    assert not is_mesh_did(did)
    with pytest.raises(BadDid):
        parse_mesh_did(did)
    with pytest.raises(ArgumentInvalid) as refused:
        mesh_did_argument("peer", did)
    assert refused.value.argument == "peer"
    for find in (key_of, identity_of_dh):
        with pytest.raises(BadDid):
            find(did, bytes(32))


def test_a_name_that_is_an_enums_member_comes_out_plain() -> None:
    assert type(parse_mesh_did(Name.AGENT)) is type(mesh_did_argument("did", Name.AGENT)) is str


def test_ones_own_did_can_be_forbidden() -> None:
    assert mesh_did_argument("did", DID, own=DID[:-1] + "0") == DID
    with pytest.raises(ArgumentInvalid):
        mesh_did_argument("did", DID, own=DID)


# --- keys -------------------------------------------------------------------------------------------------------------


def test_all_that_was_captured_is_here() -> None:
    # What is read from a folder that is not there would be tested by nothing.
    assert [kat["legacy_kdf"] for kat in KATS] == [False, True, False]


@pytest.mark.parametrize("side", SIDES)
def test_captured_identities_are_derived_alike(side: dict[str, Any]) -> None:
    identity = AgtIdentity.from_seed(bytes.fromhex(side["ed25519_seed"]))
    assert identity.did == identity.key.did == side["did"]
    assert identity.key.raw.hex() == side["ed25519_public"]
    assert identity.key.dh.hex() == side["x25519_public"]
    assert identity.dh_secret.hex() == side["x25519_private"]


@given(identities)
def test_an_identity_is_found_again_from_either_of_its_keys(identity: AgtIdentity) -> None:
    for key in (key_of(identity.did, identity.key.raw), identity_of_dh(identity.did, identity.key.dh)):
        assert type(key) is AgtIdentityKey
        assert (key, key.raw, key.dh, key.did) == (identity.key, identity.key.raw, identity.key.dh, identity.did)


@given(identities, identities)
def test_anothers_keys_are_not_the_dids(one: AgtIdentity, other: AgtIdentity) -> None:
    if one.did != other.did:
        with pytest.raises(BundleIdentityMismatch):
            key_of(one.did, other.key.raw)
        with pytest.raises(BundleIdentityMismatch):
            identity_of_dh(one.did, other.key.dh)


@given(identities, st.binary(max_size=40))
def test_a_key_that_is_none_is_refused_typed(identity: AgtIdentity, dh: bytes) -> None:
    if dh != identity.key.dh:
        with pytest.raises(BundleIdentityMismatch):
            identity_of_dh(identity.did, dh)


@given(identities)
def test_another_encoding_of_the_same_point_is_another_key(identity: AgtIdentity) -> None:
    u = int.from_bytes(identity.key.dh, "little")
    others = [u | 1 << 255] + ([u + P] if u + P < 2**256 else [])
    for other in others:
        with pytest.raises(BundleIdentityMismatch):
            identity_of_dh(identity.did, other.to_bytes(32, "little"))


@pytest.mark.parametrize("u", [0, 1, P - 1, 9, 2, P, P + 1, 2**256 - 1])
def test_the_hash_alone_makes_no_identity(u: int) -> None:
    # A forger is free to name himself by any key's hash: small order, off the curve, mixed order.
    dh = u.to_bytes(32, "little")
    for raw in _crypto.ed25519_of_x25519(dh):
        try:
            expected: AgtIdentityKey | None = AgtIdentityKey(raw)
        except BadIdentityKey:
            expected = None
        if expected is None:
            with pytest.raises(BadIdentityKey):
                identity_of_dh(mesh_did_of(raw), dh)
            with pytest.raises(BadIdentityKey):
                key_of(mesh_did_of(raw), raw)
        else:
            assert identity_of_dh(mesh_did_of(raw), dh) == expected


def test_keys_of_the_mesh_are_equal_by_what_they_hold() -> None:
    mesh, native = AgtIdentity.from_seed(bytes(32)).key, Identity.from_seed(bytes(32)).key
    assert mesh == AgtIdentityKey(mesh.raw)
    assert hash(mesh) == hash(AgtIdentityKey(bytearray(mesh.raw)))
    assert mesh == native  # one key, under two names
    assert (mesh.did, native.did) != (native.did, mesh.did)
    assert mesh != AgtIdentity.from_seed(b"1" * 32).key
    assert repr(mesh) == f"AgtIdentityKey({mesh.did})"
    assert repr(native) == f"IdentityKey({native.did})"
    assert repr(AgtIdentityKey.__new__(AgtIdentityKey)) == "AgtIdentityKey(<refused>)"
    assert isinstance(mesh, IdentityKey)


# --- signatures and secrets -------------------------------------------------------------------------------------------


@given(identities, st.binary(max_size=100), st.binary(max_size=100))
def test_a_signature_is_over_the_message_alone(identity: AgtIdentity, message: bytes, other: bytes) -> None:
    signature = identity.sign(message)
    identity.key.verify_bare(message, signature)
    _crypto.ed25519_verify(identity.key.raw, message, signature)
    if other != message:
        with pytest.raises(BadSignature):
            identity.key.verify_bare(other, signature)
    for broken in (signature[:-1], signature[:-1] + bytes([signature[-1] ^ 1]), b""):
        with pytest.raises(BadSignature):
            identity.key.verify_bare(message, broken)


def test_an_identity_shows_its_did_alone() -> None:
    seed = b"an identity's seed of 32 bytes.."
    identity = AgtIdentity.from_seed(seed)
    assert repr(identity) == f"AgtIdentity({identity.did}, <redacted>)"
    assert identity.seed == IdentitySeed(seed)
    for spread in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError):
            spread(identity)


def test_a_fresh_identity_comes_from_the_randomness_given() -> None:
    one, same = (AgtIdentity.generate(SeededEntropy(7)) for _ in range(2))
    assert one.did == same.did
    assert AgtIdentity.generate().did != AgtIdentity.generate().did


@pytest.mark.parametrize("seed", [b"", bytes(31), bytes(33), "0" * 32, None])
def test_what_is_no_seed_is_refused(seed: Any) -> None:
    with pytest.raises(ArgumentInvalid):
        AgtIdentity.from_seed(seed)
    with pytest.raises(AgentMeshError):
        AgtIdentity(seed)
