"""Identities: one name for each key, one strict set of keys, and signatures that serve one purpose (section 2)."""

from __future__ import annotations

import copy
import hashlib
import itertools
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nacl.bindings import crypto_core_ed25519_add, crypto_core_ed25519_is_valid_point

from agentmesh.errors import (
    AgentMeshError,
    ArgumentInvalid,
    BadDid,
    BadIdentityKey,
    BadSignature,
    LocalError,
    Malformed,
    TooLarge,
)
from agentmesh.identity import (
    DID_PREFIX,
    Identity,
    IdentityKey,
    did_argument,
    did_of,
    parse_did,
    sign_statement,
    split_statement,
    verify_statement,
)
from agentmesh.primitives import _crypto, _wire
from agentmesh.primitives._labels import SIGN_BUNDLE, SIGN_TRUST, SIGNATURE_LABELS, SignatureLabel
from agentmesh.primitives.base58 import base58_decode, base58_encode
from agentmesh.primitives.keys import IdentitySeed, PrekeySecret

brisk = settings(max_examples=max(1, settings().max_examples // 2))
seeds = st.binary(min_size=32, max_size=32)
identities = seeds.map(Identity.from_seed)
P = 2**255 - 19
ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"

TORSION = [  # the eight points of small order, canonical
    "0100000000000000000000000000000000000000000000000000000000000000",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0000000000000000000000000000000000000000000000000000000000000080",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
]
NON_CANONICAL_TORSION = [
    "0100000000000000000000000000000000000000000000000000000000000080",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
]


# --- DIDs -------------------------------------------------------------------------------------------------------------


def base58_of(data: bytes) -> str:
    """base58btc, written from its definition."""
    number, text = int.from_bytes(data, "big"), ""
    while number:
        number, digit = divmod(number, 58)
        text = ALPHABET[digit] + text
    return "1" * (len(data) - len(data.lstrip(b"\x00"))) + text


@given(identities)
def test_the_did_is_the_name_of_the_key(identity: Identity) -> None:
    expected = "did:agentmesh:" + base58_of(hashlib.sha256(identity.key.raw).digest()[:20])
    assert identity.did == identity.key.did == did_of(identity.key.raw) == expected
    assert parse_did(identity.did) == identity.did
    assert IdentityKey(identity.key.raw).did == identity.did


@given(
    st.binary(min_size=20, max_size=20) | st.integers(0, 20).map(lambda zeros: bytes(zeros) + b"\xff" * (20 - zeros))
)
def test_every_hash_has_one_did(digest: bytes) -> None:
    did = DID_PREFIX + base58_encode(digest)
    assert parse_did(did) == did
    assert len(did) <= len(DID_PREFIX) + 28


def variants(did: str) -> dict[str, Any]:
    name = did.removeprefix(DID_PREFIX)
    return {
        "empty": "",
        "the prefix alone": DID_PREFIX,
        "the name alone": name,
        "upper case": did.upper(),
        "upper-case scheme": did.replace("did:", "DID:"),
        "upper-case method": did.replace("agentmesh", "AgentMesh"),
        "leading space": " " + did,
        "trailing space": did + " ",
        "trailing newline": did + "\n",
        "trailing return": did + "\r",
        "inner space": DID_PREFIX + " " + name,
        "trailing NUL": did + "\x00",
        "inner NUL": did[:20] + "\x00" + did[20:],
        "zero-width space": did + "\u200b",
        "byte-order mark": "\ufeff" + did,
        "full-width letter": did[:-1] + "\uff21",
        "combining mark": did + "\u0301",
        "lone surrogate": did + "\ud800",
        "percent form": did.replace(":", "%3A"),
        "percent letter": did[:-1] + f"%{ord(did[-1]):02X}",
        "fragment": did + "#key-1",
        "query": did + "?a=b",
        "path": did + "/",
        "multibase prefix": DID_PREFIX + "z" + name,
        "another method": "did:mesh:" + name,
        "another method still": "did:key:z" + name,
        "method with a suffix": "did:agentmesh2:" + name,
        "method twice": DID_PREFIX + did,
        "no method": "did::" + name,
        "leading 1 added": DID_PREFIX + "1" + name,
        "two leading 1s added": DID_PREFIX + "11" + name,
        "cut": did[:-2],
        "one more": did + "2",
        "zero for a digit": did[:-1] + "0",
        "capital O": did[:-1] + "O",
        "capital I": did[:-1] + "I",
        "small l": did[:-1] + "l",
        "underscore": did[:-1] + "_",
        "as bytes": did.encode(),
        "None": None,
        "a number": 0,
        "a list": [did],
        "a million characters": did + "2" * 1_000_000,
        "a million ones": DID_PREFIX + "1" * 1_000_000,
        "a million zeds": DID_PREFIX + "z" * 1_000_000,
    }


NAMED = Identity.from_seed(bytes(range(32)))


@pytest.mark.parametrize("variant", variants(NAMED.did))
def test_every_variant_of_a_did_is_refused(variant: str) -> None:
    with pytest.raises(BadDid) as caught:
        parse_did(variants(NAMED.did)[variant])
    assert caught.value.__context__ is None
    assert str(caught.value).isascii()


@given(identities)
def test_another_case_never_names_the_same_key(identity: Identity) -> None:
    for changed in (identity.did.lower(), DID_PREFIX + identity.did.removeprefix(DID_PREFIX).upper()):
        try:
            assert parse_did(changed) != identity.did
        except BadDid:
            continue
        assert parse_did(changed) == changed != did_of(identity.key.raw)


class Sneaky(str):
    """Says what it likes of itself."""

    __slots__ = ("said",)
    said: str

    def startswith(self, *_: Any) -> bool:
        return True

    def __str__(self) -> str:
        return self.said

    __getitem__ = __format__ = __str__  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return hash(self.said)


def test_of_a_subclass_of_str_only_the_text_counts() -> None:
    # An enum of DIDs is taken, and nothing that a class says of its text is believed.
    good, bad = Sneaky(NAMED.did), Sneaky("did:other:x")
    good.said, bad.said = "did:other:x", NAMED.did
    for call in (parse_did, partial(did_argument, "did")):
        assert type(call(good)) is str
        assert call(good) == NAMED.did
    with pytest.raises(BadDid):
        parse_did(bad)
    with pytest.raises(ArgumentInvalid):
        did_argument("did", bad)


@pytest.mark.parametrize("variant", variants(NAMED.did))
def test_a_call_s_own_did_is_a_local_matter(variant: str) -> None:
    # Because "drop the bytes", which a RemoteError says, is no advice to whoever wrote the name.
    wrong = variants(NAMED.did)[variant]
    with pytest.raises(ArgumentInvalid) as caught:
        did_argument("did", wrong)
    assert isinstance(caught.value, LocalError)
    assert (caught.value.argument, caught.value.why) == ("did", "not a did:agentmesh DID in its one form")
    assert len(str(caught.value)) < 300
    with pytest.raises(BadDid):
        parse_did(wrong)


def test_one_s_own_did_is_refused_where_it_may_not_stand() -> None:
    other = Identity.from_seed(bytes(32)).did
    assert did_argument("did", other, own=NAMED.did) == other
    assert did_argument("did", NAMED.did) == NAMED.did
    with pytest.raises(ArgumentInvalid) as caught:
        did_argument("to", NAMED.did, own=NAMED.did)
    assert (caught.value.argument, caught.value.why) == ("to", "this agent's own DID")


@given(identities, st.data())
def test_a_changed_character_never_names_the_same_key(identity: Identity, data: st.DataObject) -> None:
    did = identity.did
    at = data.draw(st.integers(0, len(did) - 1))
    changed = did[:at] + data.draw(st.sampled_from(ALPHABET + "0OIl: _")) + did[at + 1 :]
    if changed == did:
        return
    try:
        assert parse_did(changed) != did
    except BadDid:
        return
    assert at >= len(DID_PREFIX)
    assert changed[at] in ALPHABET


def test_leading_ones_are_counted() -> None:
    for zeros in range(21):
        digest = bytes(zeros) + b"\xff" * (20 - zeros)
        name = base58_encode(digest)
        assert parse_did(DID_PREFIX + name)
        for wrong in ("1" + name, *([name[1:]] if zeros else [])):
            with pytest.raises(BadDid):
                parse_did(DID_PREFIX + wrong)


@given(st.text(max_size=60))
def test_any_text_is_a_canonical_did_or_refused(text: str) -> None:
    for candidate in (text, DID_PREFIX + text):
        try:
            assert parse_did(candidate) == candidate
        except BadDid:
            continue
        raw = candidate.removeprefix(DID_PREFIX)
        assert base58_of(base58_decode(raw, 20)) == raw


# --- keys -------------------------------------------------------------------------------------------------------------


@given(identities)
@brisk
def test_the_dh_key_is_derived_on_both_sides(identity: Identity) -> None:
    theirs = IdentityKey(identity.key.raw)
    y = int.from_bytes(identity.key.raw, "little") & (1 << 255) - 1
    assert theirs.dh == ((1 + y) * pow(1 - y, -1, P) % P).to_bytes(32, "little")
    assert theirs.dh == identity.key.dh == _crypto.x25519_public(identity.dh_secret)


@pytest.mark.parametrize("encoded", TORSION + NON_CANONICAL_TORSION)
def test_keys_of_small_order_are_refused(encoded: str) -> None:
    with pytest.raises(BadIdentityKey) as caught:
        IdentityKey(bytes.fromhex(encoded))
    assert caught.value.__context__ is None


@given(identities)
@brisk
def test_keys_of_mixed_order_are_refused(identity: Identity) -> None:
    seen: set[bytes] = {identity.key.raw}
    for encoded in TORSION[1:]:
        mixed = crypto_core_ed25519_add(identity.key.raw, bytes.fromhex(encoded))
        seen.add(mixed)
        with pytest.raises(BadIdentityKey):
            IdentityKey(mixed)
    assert len(seen) == 8


def test_non_canonical_keys_are_refused() -> None:
    for y in range(P, 1 << 255):
        for sign in (0, 1 << 255):
            with pytest.raises(BadIdentityKey):
                IdentityKey((y | sign).to_bytes(32, "little"))


@given(seeds)
def test_any_32_bytes_are_a_valid_point_or_refused(raw: bytes) -> None:
    valid = bool(crypto_core_ed25519_is_valid_point(raw))
    try:
        assert IdentityKey(raw).raw == raw
        accepted = True
    except BadIdentityKey:
        accepted = False
    assert accepted is valid


@pytest.mark.parametrize("size", [0, 1, 31, 33, 64])
def test_keys_of_another_length_are_refused(size: int) -> None:
    with pytest.raises(BadIdentityKey):
        IdentityKey((NAMED.key.raw * 2)[:size])


def test_a_refused_key_stays_refused_and_a_good_one_good() -> None:
    bad = bytes.fromhex(TORSION[4])
    for _ in range(3):
        with pytest.raises(BadIdentityKey):
            IdentityKey(bad)
        assert IdentityKey(NAMED.key.raw).dh == NAMED.key.dh


@given(identities, identities)
@brisk
def test_equal_keys_are_equal_and_hash_alike(first: Identity, second: Identity) -> None:
    again = IdentityKey(first.key.raw)
    assert again == first.key
    assert hash(again) == hash(first.key)
    assert (first.key == second.key) is (first.key.raw == second.key.raw)
    assert first.key != first.key.raw
    assert repr(again) == f"IdentityKey({first.did})"
    assert copy.copy(again) == again == copy.deepcopy(again)


# --- own identities ---------------------------------------------------------------------------------------------------


@given(seeds)
@brisk
def test_an_identity_comes_back_from_its_seed(seed: bytes) -> None:
    identity = Identity.from_seed(seed)
    again = Identity(identity.seed)
    assert again.key == identity.key
    assert again.dh_secret == identity.dh_secret
    assert identity.seed.reveal() == seed
    assert repr(identity) == str(identity) == f"Identity({identity.did}, <redacted>)"


def test_an_identity_takes_a_seed_only() -> None:
    for wrong in (b"", bytes(31), bytes(33), bytearray(31), "0" * 32, None, 5):
        with pytest.raises(ArgumentInvalid):
            Identity.from_seed(wrong)  # type: ignore[arg-type]
    assert Identity.from_seed(bytearray(32)).key == Identity.from_seed(bytes(32)).key  # type: ignore[arg-type]
    for wrong_type in (bytes(32), PrekeySecret(bytes(32)), None):
        with pytest.raises(ArgumentInvalid):
            Identity(wrong_type)  # type: ignore[arg-type]
    assert Identity(IdentitySeed(bytes(32))).key == Identity.from_seed(bytes(32)).key


def test_generated_identities_differ() -> None:
    assert len({Identity.generate().did for _ in range(200)}) == 200


# --- signatures and statements ----------------------------------------------------------------------------------------


@given(identities, st.sampled_from(SIGNATURE_LABELS), st.binary(max_size=100))
@brisk
def test_a_signature_verifies_for_its_signer_label_and_body(
    identity: Identity, label: SignatureLabel, body: bytes
) -> None:
    signature = identity.sign(label, body)
    assert len(signature) == 64
    IdentityKey(identity.key.raw).verify(label, body, signature)
    with pytest.raises(BadSignature):
        NAMED.key.verify(label, body, signature)
    with pytest.raises(BadSignature):
        identity.key.verify(label, body + b"\x00", signature)


def test_no_signature_passes_for_another_purpose() -> None:
    for made, offered in itertools.product(SIGNATURE_LABELS, repeat=2):
        signature = NAMED.sign(made, b"body")
        if made == offered:
            NAMED.key.verify(offered, b"body", signature)
            continue
        with pytest.raises(BadSignature):
            NAMED.key.verify(offered, b"body", signature)


@given(identities, st.sampled_from(SIGNATURE_LABELS), st.binary(max_size=200))
@brisk
def test_a_statement_round_trips(identity: Identity, label: SignatureLabel, body: bytes) -> None:
    data = sign_statement(identity, label, body)
    parsed, signature = split_statement(data, len(data))
    assert parsed == body
    assert verify_statement(identity.key, label, parsed, signature) == body
    with pytest.raises(TooLarge):
        split_statement(data, len(data) - 1)


def verified(data: bytes) -> bytes:
    body, signature = split_statement(data, 1000)
    return verify_statement(NAMED.key, SIGN_TRUST, body, signature)


def test_every_altered_statement_is_refused() -> None:
    data = sign_statement(NAMED, SIGN_TRUST, b"a body of some length")
    assert verified(data) == b"a body of some length"
    for bit in range(8 * len(data)):
        altered = bytearray(data)
        altered[bit // 8] ^= 1 << bit % 8
        with pytest.raises((Malformed, BadSignature)):
            verified(bytes(altered))
    for cut in range(len(data)):
        with pytest.raises(Malformed):
            verified(data[:cut])
    with pytest.raises(Malformed):
        verified(data + b"\x00")


@pytest.mark.parametrize("signature", [b"", bytes(63), bytes(64), bytes(65), b"\xff" * 64])
def test_a_missing_short_or_constant_signature_is_refused(signature: bytes) -> None:
    with pytest.raises(BadSignature):
        verified(_wire.encode([b"body", signature]))


def test_a_statement_of_another_signer_or_label_is_refused() -> None:
    other = Identity.from_seed(bytes(32))
    for data in (sign_statement(other, SIGN_TRUST, b"body"), sign_statement(NAMED, SIGN_BUNDLE, b"body")):
        with pytest.raises(BadSignature):
            verified(data)


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_by_errors_of_ours(data: bytes) -> None:
    with pytest.raises(AgentMeshError) as caught:
        verified(data)
    assert type(caught.value) in (Malformed, BadSignature)
    assert caught.value.__context__ is None
