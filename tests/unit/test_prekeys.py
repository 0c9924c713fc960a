"""Prekey bundles: signed whole, bound to one owner, one mesh and one stretch of time (section 3)."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import attrs
import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentmesh.errors import (
    AgentMeshError,
    ArgumentInvalid,
    BadIdentityKey,
    BadPoint,
    BadSignature,
    BundleExpired,
    BundleIdentityMismatch,
    BundleMeshMismatch,
    Malformed,
    RemoteError,
    TooLarge,
    UnknownVersion,
)
from agentmesh.handshake.prekeys import (
    BUNDLE_MAX_BYTES,
    PUBLISHED_LAYOUT,
    Bundle,
    BundleClass,
    PublishedBundle,
    export_published,
    is_valid_at,
    issue_bundle,
    restore_published,
    verify_bundle,
)
from agentmesh.identity import Identity, did_of, sign_statement, split_statement
from agentmesh.limits import CLOCK_TOLERANCE_MS, UINT_MAX
from agentmesh.primitives import _crypto, _wire
from agentmesh.primitives._labels import SIGN_BUNDLE, SIGN_KNOCK, SIGN_TRUST, KdfLabel

P = 2**255 - 19
MESH = "example/prod"
NOT_BEFORE = 1_700_000_000_000
NOT_AFTER = NOT_BEFORE + 30 * 86_400_000
NOW = NOT_BEFORE + 5 * 86_400_000
brisk = settings(max_examples=max(1, settings().max_examples // 2))
classes = st.sampled_from(BundleClass)


class Tape:
    """Randomness that is a function of its seed; counts what it gave."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.drawn: list[bytes] = []

    def token(self, size: int, /) -> bytes:
        place = self.seed.to_bytes(8, "big") + len(self.drawn).to_bytes(8, "big")
        self.drawn.append(_crypto.kdf(b"", KdfLabel(b"tape"), place, 64)[:size])
        return self.drawn[-1]

    def encapsulate(self, public_key: bytes, /) -> tuple[bytes, bytes]:
        return _crypto.kem_encapsulate(public_key)


def issue(identity: Identity, seed: int = 0, **changes: Any) -> tuple[bytes, PublishedBundle]:
    arguments: dict[str, Any] = {
        "bundle_class": BundleClass.ONE_TIME, "mesh": MESH, "not_before_ms": NOT_BEFORE, "not_after_ms": NOT_AFTER,
        "entropy": Tape(seed), **changes,
    }  # fmt: skip
    return issue_bundle(identity, **arguments)


def check(data: bytes, **changes: Any) -> Bundle:
    return verify_bundle(data, **{"did": BOB.did, "mesh": MESH, "now_ms": NOW, **changes})


BOB, MALLORY = Identity.from_seed(b"bob " * 8), Identity.from_seed(b"mal " * 8)
DATA, PUBLISHED = issue(BOB)
BODY, SIGNATURE = split_statement(DATA, BUNDLE_MAX_BYTES)
FIELDS: list[Any] = msgpack.unpackb(BODY)
VERSION, CLASS, MESH_AT, IDENTITY_AT, PREKEY_AT, KEM_AT, NOT_BEFORE_AT, NOT_AFTER_AT = range(8)


def forge(at: int | None = None, value: Any = None, *, signer: Identity = BOB) -> bytes:
    """A bundle with one field altered, signed again over what it now says."""
    fields = list(FIELDS)
    if at is not None:
        fields[at] = value
    return sign_statement(signer, SIGN_BUNDLE, msgpack.packb(fields))


def unsigned(at: int, value: Any) -> bytes:
    """A bundle with one field altered under the old signature."""
    fields = list(FIELDS)
    fields[at] = value
    packed: bytes = msgpack.packb([msgpack.packb(fields), SIGNATURE])
    return packed


def refused(expected: type[AgentMeshError], data: bytes, **changes: Any) -> None:
    before = _wire.encode(export_published(PUBLISHED))
    with pytest.raises(AgentMeshError) as caught:
        check(data, **changes)
    assert type(caught.value) is expected
    assert caught.value.__context__ is None
    assert _wire.encode(export_published(PUBLISHED)) == before


# --- what is published ------------------------------------------------------------------------------------------------


def test_the_bundle_is_what_the_protocol_says() -> None:
    secrets = PUBLISHED.secrets
    assert secrets is not None
    prekey = _crypto.x25519_public(secrets.prekey_secret.reveal())
    kem_key = _crypto.kem_public(_crypto.kem_key(secrets.kem_seed.reveal()))
    body = msgpack.packb([1, 1, MESH, BOB.key.raw, prekey, kem_key, NOT_BEFORE, NOT_AFTER])
    assert msgpack.packb([body, BOB.sign(SIGN_BUNDLE, body)]) == DATA
    assert hashlib.sha256(body).digest() == PUBLISHED.ref
    bundle = check(DATA)
    assert attrs.asdict(bundle, recurse=False) == {
        "bundle_class": BundleClass.ONE_TIME, "mesh": MESH, "identity": BOB.key, "prekey": prekey, "kem_key": kem_key,
        "not_before_ms": NOT_BEFORE, "not_after_ms": NOT_AFTER, "ref": PUBLISHED.ref,
    }  # fmt: skip


def test_sizes() -> None:
    assert len(MESH) == 12
    assert len(DATA) == 1359
    longest, _ = issue(BOB, mesh="m" * 64)
    assert len(longest) == 1412  # 52 letters more, and one byte more for their length
    assert len(longest) <= BUNDLE_MAX_BYTES
    assert check(longest, mesh="m" * 64).mesh == "m" * 64


@given(classes, st.integers(0, 2**40), st.integers(0, 10**6), st.integers(0, 2**20))
@brisk
def test_what_is_issued_verifies(bundle_class: BundleClass, not_before: int, length: int, seed: int) -> None:
    data, published = issue(
        BOB, seed, bundle_class=bundle_class, not_before_ms=not_before, not_after_ms=not_before + length
    )
    bundle = check(data, now_ms=not_before + length // 2)
    assert bundle.ref == published.ref
    assert bundle.bundle_class is published.bundle_class is bundle_class
    assert (bundle.not_before_ms, bundle.not_after_ms) == (not_before, not_before + length)
    assert bundle.identity == BOB.key
    assert published.forget_at_ms == not_before + length + 300_000


def test_no_two_bundles_share_a_key_or_a_ref() -> None:
    entropy = Tape(1)
    issued = [issue(BOB, entropy=entropy) for _ in range(30)]
    bundles = [check(data) for data, _ in issued]
    for part in ("prekey", "kem_key", "ref"):
        assert len({getattr(bundle, part) for bundle in bundles}) == 30
    assert len(set(entropy.drawn)) == 60


def test_no_private_half_is_published() -> None:
    entropy = Tape(2)
    data, published = issue(BOB, entropy=entropy)
    secrets = published.secrets
    assert secrets is not None
    seed = secrets.kem_seed.reveal()
    private = [
        BOB.seed.reveal(), BOB.dh_secret, hashlib.sha512(BOB.seed.reveal()).digest()[:32],
        hashlib.sha512(BOB.seed.reveal()).digest()[32:], secrets.prekey_secret.reveal(), seed, seed[:32], seed[32:],
        *entropy.drawn,
    ]  # fmt: skip
    for secret in private:
        for form in (secret, secret.hex().encode(), base64.b64encode(secret).rstrip(b"="), secret[::-1], secret[:16]):
            assert form not in data
            assert form not in repr(check(data)).encode()
    assert private[4] == entropy.drawn[0]  # the search looks for what was really drawn


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        *(("mesh", wrong) for wrong in ("", "A", "a b", "a" * 65, None, b"mesh", 5)),
        *(("not_before_ms", wrong) for wrong in (-1, 1.0, True, None, "0", UINT_MAX, NOT_AFTER + 1)),
        *(("not_after_ms", wrong) for wrong in (-1, 1.0, True, None, "0", UINT_MAX, NOT_BEFORE - 1)),
    ],
)
def test_issuing_refuses_what_no_verifier_takes(argument: str, value: Any) -> None:
    entropy = Tape(3)
    with pytest.raises(ArgumentInvalid) as caught:
        issue(BOB, entropy=entropy, **{argument: value})
    expected = "not_after_ms" if value == NOT_AFTER + 1 else argument
    assert caught.value.argument == expected
    assert entropy.drawn == []


# --- what is refused --------------------------------------------------------------------------------------------------


def test_every_flipped_bit_is_refused() -> None:
    # A field that is checked before the signature may name itself; everything else is the signature's.
    early = (Malformed, UnknownVersion, BundleIdentityMismatch, BundleMeshMismatch, BadSignature)
    before = _wire.encode(export_published(PUBLISHED))
    found = set()
    for bit in range(8 * len(DATA)):
        altered = bytearray(DATA)
        altered[bit // 8] ^= 1 << bit % 8
        with pytest.raises(early) as caught:
            check(bytes(altered))
        found.add(type(caught.value))
    assert found == set(early)
    assert _wire.encode(export_published(PUBLISHED)) == before


def test_every_truncation_and_extension_is_refused() -> None:
    for cut in range(len(DATA)):
        refused(Malformed, DATA[:cut])
    for tail in (b"\x00", b"\xc0", bytes(100)):
        refused(Malformed, DATA + tail)
    refused(TooLarge, DATA + DATA)
    refused(TooLarge, b"\xc1" * (BUNDLE_MAX_BYTES + 1))
    refused(Malformed, b"\xc1" * BUNDLE_MAX_BYTES)
    refused(TooLarge, bytes(50_000_000))


def test_longer_forms_are_refused_though_correctly_signed() -> None:
    head = BODY[:1]
    assert head == b"\x98"
    forms = [
        b"\xdc\x00\x08" + BODY[1:],
        head + b"\xcc\x01" + BODY[2:],
        head + b"\x01\xcd\x00\x01" + BODY[3:],
        head + b"\x01\x01\xd9" + bytes([len(MESH)]) + BODY[4:],
        BODY + b"\x00",
    ]
    for body in forms:
        refused(Malformed, sign_statement(BOB, SIGN_BUNDLE, body))
    assert check(sign_statement(BOB, SIGN_BUNDLE, BODY)).ref == PUBLISHED.ref
    refused(Malformed, b"\xdc\x00\x02" + DATA[1:])


ALTERED: list[tuple[int, Any, type[AgentMeshError], type[AgentMeshError] | None]] = [
    # field, value, refusal under the old signature, refusal though signed again by the owner (None: it is good)
    (VERSION, 0, UnknownVersion, UnknownVersion),
    (VERSION, 2, UnknownVersion, UnknownVersion),
    (CLASS, 0, UnknownVersion, UnknownVersion),
    (CLASS, 2, BadSignature, None),
    (CLASS, 3, UnknownVersion, UnknownVersion),
    (CLASS, UINT_MAX, UnknownVersion, UnknownVersion),
    (CLASS, True, Malformed, Malformed),
    (CLASS, -1, Malformed, Malformed),
    (CLASS, 2**64 - 1, Malformed, Malformed),
    (CLASS, 1.0, Malformed, Malformed),
    (CLASS, None, Malformed, Malformed),
    (MESH_AT, "example/test", BundleMeshMismatch, BundleMeshMismatch),
    (MESH_AT, "example/prod/", BundleMeshMismatch, BundleMeshMismatch),
    (MESH_AT, "", Malformed, Malformed),
    (MESH_AT, "m" * 65, Malformed, Malformed),
    (MESH_AT, MESH.encode(), Malformed, Malformed),
    (IDENTITY_AT, MALLORY.key.raw, BundleIdentityMismatch, BundleIdentityMismatch),
    (IDENTITY_AT, BOB.key.dh, BundleIdentityMismatch, BundleIdentityMismatch),
    (IDENTITY_AT, BOB.key.raw[:31], Malformed, Malformed),
    (IDENTITY_AT, b"", Malformed, Malformed),
    (PREKEY_AT, MALLORY.key.dh, BadSignature, None),
    (PREKEY_AT, (P - 1 + 1).to_bytes(32, "little"), BadSignature, BadPoint),
    (PREKEY_AT, (P + 9).to_bytes(32, "little"), BadSignature, BadPoint),
    (PREKEY_AT, (9 | 1 << 255).to_bytes(32, "little"), BadSignature, BadPoint),
    (PREKEY_AT, b"\xff" * 32, BadSignature, BadPoint),
    (PREKEY_AT, bytes(31), Malformed, Malformed),
    (PREKEY_AT, bytes(33), Malformed, Malformed),
    (PREKEY_AT, None, Malformed, Malformed),
    (KEM_AT, b"\xff" * 1184, BadSignature, BadPoint),
    (KEM_AT, b"\x01\x0d" + bytes(1182), BadSignature, BadPoint),  # one coefficient of 3329
    (KEM_AT, b"", Malformed, Malformed),
    (KEM_AT, None, Malformed, Malformed),
    (KEM_AT, bytes(32), Malformed, Malformed),
    (KEM_AT, bytes(1183), Malformed, Malformed),
    (KEM_AT, bytes(1185), Malformed, Malformed),
    (NOT_BEFORE_AT, NOT_BEFORE - 1, BadSignature, None),
    (NOT_BEFORE_AT, NOW + CLOCK_TOLERANCE_MS + 1, BadSignature, BundleExpired),
    (NOT_BEFORE_AT, -1, Malformed, Malformed),
    (NOT_BEFORE_AT, UINT_MAX + 1, Malformed, Malformed),
    (NOT_BEFORE_AT, None, Malformed, Malformed),
    (NOT_AFTER_AT, NOT_AFTER + 1, BadSignature, None),
    (NOT_AFTER_AT, UINT_MAX, BadSignature, None),
    (NOT_AFTER_AT, NOW - CLOCK_TOLERANCE_MS - 1, BadSignature, BundleExpired),
    (NOT_AFTER_AT, 2**64 - 1, Malformed, Malformed),
    (NOT_AFTER_AT, 1.5, Malformed, Malformed),
]


@pytest.mark.parametrize(("at", "value", "as_was", "signed_again"), ALTERED)
def test_each_field_altered(
    at: int, value: Any, as_was: type[AgentMeshError], signed_again: type[AgentMeshError] | None
) -> None:
    refused(as_was, unsigned(at, value))
    if signed_again is None:
        assert check(forge(at, value)).ref != PUBLISHED.ref
    else:
        refused(signed_again, forge(at, value))
    by_another = forge(at, value, signer=MALLORY)
    with pytest.raises(AgentMeshError) as caught:
        check(by_another)
    # Another's signature never gets further than the signature check.
    early = (Malformed, UnknownVersion, BundleIdentityMismatch, BundleMeshMismatch)
    assert type(caught.value) is (as_was if as_was in early else BadSignature)


def test_every_field_is_altered_above() -> None:
    assert {at for at, *_ in ALTERED} == set(range(8))
    assert FIELDS[0] == 1
    assert forge() == DATA


@pytest.mark.parametrize("index", range(8))
def test_a_missing_or_extra_field_is_refused(index: int) -> None:
    refused(Malformed, sign_statement(BOB, SIGN_BUNDLE, msgpack.packb(FIELDS[:index] + FIELDS[index + 1 :])))
    doubled = sign_statement(BOB, SIGN_BUNDLE, msgpack.packb([*FIELDS[:index], FIELDS[index], *FIELDS[index:]]))
    refused(TooLarge if index == KEM_AT else Malformed, doubled)


@pytest.mark.parametrize(
    "signature",
    [b"", bytes(63), bytes(64), bytes(65), b"\xff" * 64, SIGNATURE[:32], SIGNATURE + b"\x00", SIGNATURE[::-1]],
)
def test_a_missing_short_zero_or_long_signature_is_refused(signature: bytes) -> None:
    refused(BadSignature, msgpack.packb([BODY, signature]))


def test_a_foreign_signature_or_one_for_another_purpose_is_refused() -> None:
    refused(BadSignature, sign_statement(MALLORY, SIGN_BUNDLE, BODY))
    refused(BadSignature, sign_statement(BOB, SIGN_TRUST, BODY))
    refused(BadSignature, sign_statement(BOB, SIGN_KNOCK, BODY))
    bare = _crypto.ed25519_sign(_crypto.ed25519_keypair(BOB.seed.reveal())[1], BODY)
    refused(BadSignature, msgpack.packb([BODY, bare]))
    other_data, _ = issue(BOB, 9)
    refused(BadSignature, msgpack.packb([BODY, split_statement(other_data, 2000)[1]]))


def test_parts_of_two_bundles_of_one_owner_cannot_be_mixed() -> None:
    other_data, _ = issue(BOB, 7, bundle_class=BundleClass.LAST_RESORT, not_after_ms=NOT_AFTER + 1)
    other = msgpack.unpackb(split_statement(other_data, 2000)[0])
    other_signature = split_statement(other_data, 2000)[1]
    assert check(other_data).bundle_class is BundleClass.LAST_RESORT
    mixed = 0
    for chosen in range(1, 255):
        fields = [
            theirs if chosen >> at & 1 else ours for at, (ours, theirs) in enumerate(zip(FIELDS, other, strict=True))
        ]
        if fields in (FIELDS, other):
            continue
        mixed += 1
        for signature in (SIGNATURE, other_signature):
            refused(BadSignature, msgpack.packb([msgpack.packb(fields), signature]))
    assert mixed > 200


def test_another_owner_or_mesh_is_refused() -> None:
    for did in (MALLORY.did, BOB.did.lower(), BOB.did + " ", BOB.did[:-1], "", BOB.did.upper()):
        refused(BundleIdentityMismatch, DATA, did=did)
    for mesh in ("example/test", "example/prod ", "EXAMPLE/PROD", "example/pro", ""):
        refused(BundleMeshMismatch, DATA, mesh=mesh)
    # A bundle that Mallory signed in Bob's name, and a genuine one of Mallory's.
    refused(BadSignature, forge(signer=MALLORY))
    theirs, _ = issue(MALLORY)
    refused(BundleIdentityMismatch, theirs)
    assert check(theirs, did=MALLORY.did).identity == MALLORY.key


@pytest.mark.parametrize(
    "key",
    [
        bytes(32),
        b"\x01" + bytes(31),
        (P - 1).to_bytes(32, "little"),
        (P + 1).to_bytes(32, "little"),
        b"\xff" * 32,
        bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"),
    ],
)
def test_an_unacceptable_identity_key_is_refused_under_its_own_did(key: bytes) -> None:
    # For the identity point and R = identity, S = 0 some verifiers take one signature for every message.
    for signature in (SIGNATURE, bytes(64), b"\x01" + bytes(63)):
        fields = list(FIELDS)
        fields[IDENTITY_AT] = key
        data = msgpack.packb([msgpack.packb(fields), signature])
        refused(BadIdentityKey, data, did=did_of(key))


@pytest.mark.parametrize("wrong", [None, "", 5, [DATA], object()])
def test_a_bundle_is_bytes(wrong: Any) -> None:
    with pytest.raises(ArgumentInvalid) as caught:
        check(wrong)
    assert caught.value.argument == "bundle"


@pytest.mark.parametrize("kind", [bytearray, memoryview, lambda data: memoryview(bytearray(data))])
def test_a_bundle_may_stand_in_a_buffer(kind: Any) -> None:
    assert check(kind(DATA)) == check(DATA)
    with pytest.raises(TooLarge) as caught:
        check(kind(bytes(BUNDLE_MAX_BYTES + 1)))
    assert (caught.value.got, caught.value.allowed) == (BUNDLE_MAX_BYTES + 1, BUNDLE_MAX_BYTES)


@given(st.binary(max_size=1600))
def test_random_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(RemoteError) as caught:
        check(data)
    assert type(caught.value) in (Malformed, TooLarge)


# --- time -------------------------------------------------------------------------------------------------------------


def test_the_edges_of_the_validity() -> None:
    assert CLOCK_TOLERANCE_MS == 300_000
    for good in (NOT_BEFORE - 300_000, NOT_BEFORE, NOT_AFTER, NOT_AFTER + 300_000):
        assert check(DATA, now_ms=good).ref == PUBLISHED.ref
    for bad in (0, NOT_BEFORE - 300_001, NOT_AFTER + 300_001, UINT_MAX):
        refused(BundleExpired, DATA, now_ms=bad)


@given(st.integers(0, UINT_MAX), st.integers(0, UINT_MAX), st.integers(0, UINT_MAX))
def test_validity_is_an_interval_with_tolerance(now: int, not_before: int, not_after: int) -> None:
    expected = now in range(not_before - 300_000, not_after + 300_001)
    assert is_valid_at(now, not_before, not_after) is expected


def test_expiry_is_said_only_of_a_genuine_bundle() -> None:
    # An old forgery is a forgery: whoever reads the reason learns nothing of the clock from bytes that anybody made.
    refused(BadSignature, unsigned(CLASS, 2), now_ms=UINT_MAX)


# --- what the owner keeps ---------------------------------------------------------------------------------------------


@given(classes, st.integers(0, 2**40), st.integers(0, 2**40), st.integers(0, 2**20))
@brisk
def test_export_and_restore(bundle_class: BundleClass, not_before: int, length: int, seed: int) -> None:
    _, published = issue(
        BOB, seed, bundle_class=bundle_class, not_before_ms=not_before, not_after_ms=not_before + length
    )
    kept = [published] + ([published.used()] if bundle_class is BundleClass.ONE_TIME else [])
    for each in kept:
        data = _wire.encode(export_published(each))
        restored = restore_published(_wire.decode(data, PUBLISHED_LAYOUT, 1000))
        assert restored == each
        assert _wire.encode(export_published(restored)) == data
        assert (restored.secrets is None) is (each.secrets is None)


def test_a_restored_bundle_decapsulates() -> None:
    restored = restore_published(export_published(PUBLISHED))
    assert restored.secrets is not None
    ciphertext, shared = _crypto.kem_encapsulate(check(DATA).kem_key)
    for _ in range(2):  # the second time from the key that the first one expanded
        assert _crypto.kem_decapsulate(restored.secrets.kem_key, ciphertext) == shared
    assert restored == PUBLISHED


def test_a_used_bundle_has_no_secrets() -> None:
    used = PUBLISHED.used()
    assert used.secrets is None
    assert attrs.asdict(used, recurse=False) == {**attrs.asdict(PUBLISHED, recurse=False), "secrets": None}
    assert used.used() == used
    assert used != PUBLISHED
    exported = _wire.encode(export_published(used))
    assert PUBLISHED.secrets is not None
    for secret in (PUBLISHED.secrets.prekey_secret.reveal(), PUBLISHED.secrets.kem_seed.reveal()):
        assert secret in _wire.encode(export_published(PUBLISHED))
        assert secret not in exported
        assert secret[:32] not in exported


def test_export_of_contradictions_is_refused() -> None:
    fields = export_published(PUBLISHED)
    for class_number in (0, 3):
        with pytest.raises(Malformed):
            restore_published([fields[0], class_number, *fields[2:]])
    assert restore_published([fields[0], 2, *fields[2:4], None]).secrets is None  # it was withdrawn


def test_secrets_compare_by_both_halves() -> None:
    assert PUBLISHED.secrets is not None
    _, other = issue(BOB, 4)
    assert other.secrets is not None
    again = restore_published(export_published(PUBLISHED)).secrets
    assert again == PUBLISHED.secrets
    assert other.secrets != PUBLISHED.secrets
    assert PUBLISHED.secrets != None  # noqa: E711
    half = restore_published([*export_published(PUBLISHED)[:4], [
        PUBLISHED.secrets.prekey_secret.reveal(), other.secrets.kem_seed.reveal(),
    ]])  # fmt: skip
    assert half.secrets != PUBLISHED.secrets
