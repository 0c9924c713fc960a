"""The hybrid handshake: both sides agree, on everything, and with nobody else (section 5)."""

from __future__ import annotations

import hashlib
from typing import Any

import attrs
import msgpack
import pytest
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st

from agentmesh.errors import AgentMeshError, BadPoint
from agentmesh.handshake.agreement import Initiation, SessionKeys, initiate, respond, transcript_hash
from agentmesh.handshake.prekeys import (
    Bundle,
    BundleClass,
    BundleSecrets,
    PublishedBundle,
    export_published,
    issue_bundle,
    restore_published,
    verify_bundle,
)
from agentmesh.identity import Identity, sign_statement, split_statement
from agentmesh.primitives import _crypto, _wire
from agentmesh.primitives._labels import SIGN_BUNDLE, KdfLabel
from agentmesh.primitives.keys import KemPublicKey, TranscriptHash

P = 2**255 - 19
MESH, NOW, EXPIRES = "example/prod", 1_700_000_000_000, 1_700_086_400_000
FIELDS = ("root", "intent_key", "header_key_ba", "header_key_ab", "session_id")
brisk = settings(max_examples=max(1, settings().max_examples // 2))

LOW_ORDER_CANONICAL = [
    0,
    1,
    P - 1,
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
]
NON_CANONICAL = [
    P, P + 1, 2**255 - 1, 2**256 - 1, P | 1 << 255, (P + 1) | 1 << 255, 9 | 1 << 255, P + 9,
    *(u | 1 << 255 for u in LOW_ORDER_CANONICAL),
]  # fmt: skip


def u_bytes(u: int) -> bytes:
    return u.to_bytes(32, "little")


class Tape:
    """Randomness that is a function of its seed; the encapsulation is the backend's own."""

    def __init__(self, seed: int) -> None:
        self.seed, self.count = seed, 0

    def token(self, size: int, /) -> bytes:
        self.count += 1
        place = self.seed.to_bytes(8, "big") + self.count.to_bytes(8, "big")
        return _crypto.kdf(b"", KdfLabel(b"tape"), place, 64)[:size]

    def encapsulate(self, public_key: bytes, /) -> tuple[bytes, bytes]:
        return _crypto.kem_encapsulate(public_key)


@attrs.frozen(kw_only=True)
class Pair:
    """Two agents, a bundle of the second, and the first's half of a handshake."""

    alice: Identity
    bob: Identity
    bundle: Bundle
    published: PublishedBundle
    initiation: Initiation

    @property
    def secrets(self) -> BundleSecrets:
        assert self.published.secrets is not None
        return self.published.secrets

    def th(self, **changes: Any) -> TranscriptHash:
        """The responder's own, from what it knows."""
        return transcript_hash(
            **{
                "mesh": MESH, "initiator": self.alice.key.raw, "responder": self.bob.key.raw,
                "bundle_ref": self.published.ref, "ephemeral": self.initiation.ephemeral,
                "kem_ciphertext": self.initiation.kem_ciphertext, "expires_ms": EXPIRES, **changes,
            }
        )  # fmt: skip

    def respond(self, **changes: Any) -> SessionKeys:
        arguments: dict[str, Any] = {
            "identity": self.bob, "secrets": self.secrets, "initiator": self.alice.key, "th": self.th(),
            "ephemeral": self.initiation.ephemeral, "kem_ciphertext": self.initiation.kem_ciphertext, **changes,
        }  # fmt: skip
        return respond(arguments.pop("identity"), arguments.pop("secrets"), **arguments)


def pair(seed: int, bundle_class: BundleClass = BundleClass.ONE_TIME) -> Pair:
    tape = Tape(seed)
    alice, bob = Identity.generate(tape), Identity.generate(tape)
    data, published = issue_bundle(
        bob, bundle_class=bundle_class, mesh=MESH, not_before_ms=NOW, not_after_ms=NOW + 10**9, entropy=tape
    )
    bundle = verify_bundle(data, did=bob.did, mesh=MESH, now_ms=NOW)
    initiation = initiate(alice, bundle, expires_ms=EXPIRES, entropy=tape)
    return Pair(alice=alice, bob=bob, bundle=bundle, published=published, initiation=initiation)


PAIR = pair(1)


def values(keys: SessionKeys) -> dict[str, bytes]:
    return {name: getattr(keys, name) for name in FIELDS}


def nothing_shared(first: SessionKeys, second: SessionKeys) -> bool:
    return not set(values(first).values()) & set(values(second).values())


# --- agreement --------------------------------------------------------------------------------------------------------


@given(st.integers(0, 2**32), st.sampled_from(BundleClass))
@brisk
def test_both_sides_agree(seed: int, bundle_class: BundleClass) -> None:
    both = pair(seed, bundle_class)
    mine, theirs = both.initiation.keys, both.respond()
    assert values(mine) == values(theirs)
    assert mine.th == theirs.th == both.th()
    assert {name: len(value) for name, value in values(mine).items()} == {
        "root": 32, "intent_key": 32, "header_key_ba": 32, "header_key_ab": 32, "session_id": 16,
    }  # fmt: skip
    assert len(mine.th) == 64
    assert len(set(values(mine).values())) == 5
    assert both.initiation.ephemeral == _crypto.x25519_public(both.initiation.ephemeral_secret)


def test_a_restored_bundle_agrees_too() -> None:
    restored = restore_published(export_published(PAIR.published))
    assert values(PAIR.respond(secrets=restored.secrets)) == values(PAIR.initiation.keys)


def test_two_handshakes_on_one_bundle_share_nothing() -> None:
    again = initiate(PAIR.alice, PAIR.bundle, expires_ms=EXPIRES, entropy=Tape(99))
    assert nothing_shared(again.keys, PAIR.initiation.keys)
    # Even with the ephemeral key drawn twice, the encapsulation is fresh and is in the transcript.
    first = initiate(PAIR.alice, PAIR.bundle, expires_ms=EXPIRES, entropy=Tape(98))
    second = initiate(PAIR.alice, PAIR.bundle, expires_ms=EXPIRES, entropy=Tape(98))
    assert first.ephemeral == second.ephemeral
    assert nothing_shared(first.keys, second.keys)


# --- the whole schedule, computed again from the protocol's text and other libraries ----------------------------------


def blake(key: bytes, person: bytes, data: bytes, size: int) -> bytes:
    return hashlib.blake2b(data, digest_size=size, key=key, person=person).digest()


def exchange(secret: bytes, public: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(secret).exchange(X25519PublicKey.from_public_bytes(public))


def x25519_secret_of(identity: Identity) -> bytes:
    return hashlib.sha512(identity.seed.reveal()).digest()[:32]  # RFC 8032, section 5.1.5; X25519 clamps it itself


def x25519_public_of(ed25519_public: bytes) -> bytes:
    y = int.from_bytes(ed25519_public, "little") & (1 << 255) - 1
    return u_bytes((1 + y) * pow(1 - y, -1, P) % P)


@given(st.integers(0, 2**32))
@brisk
def test_the_key_schedule_is_the_protocol_s(seed: int) -> None:
    both = pair(seed)
    initiation, secrets = both.initiation, both.secrets
    kem = MLKEM768PrivateKey.from_seed_bytes(secrets.kem_seed.reveal())
    prekey_secret = X25519PrivateKey.from_private_bytes(secrets.prekey_secret.reveal())
    prekey = prekey_secret.public_key().public_bytes_raw()
    body = msgpack.packb([1, 1, MESH, both.bob.key.raw, prekey, kem.public_key().public_bytes_raw(), NOW, NOW + 10**9])
    items = [
        MESH.encode(),
        both.alice.key.raw,
        both.bob.key.raw,
        hashlib.sha256(body).digest(),
        initiation.ephemeral,
        initiation.kem_ciphertext,
        EXPIRES.to_bytes(8, "big"),
    ]
    th = blake(b"", b"am1-transcript", b"".join(len(item).to_bytes(4, "big") + item for item in items), 64)
    # As the initiator computes it, and as the responder does.
    ephemeral_secret = initiation.ephemeral_secret
    as_initiator = [
        exchange(x25519_secret_of(both.alice), prekey),
        exchange(ephemeral_secret, x25519_public_of(both.bob.key.raw)),
        exchange(ephemeral_secret, prekey),
    ]
    as_responder = [
        exchange(secrets.prekey_secret.reveal(), x25519_public_of(both.alice.key.raw)),
        exchange(x25519_secret_of(both.bob), initiation.ephemeral),
        exchange(secrets.prekey_secret.reveal(), initiation.ephemeral),
    ]
    assert as_initiator == as_responder
    shared = b"".join(as_initiator) + kem.decapsulate(initiation.kem_ciphertext)
    prk = blake(th, b"am1-extract", shared, 64)
    expected = {
        "root": blake(prk, b"am1-first-root", b"", 32),
        "intent_key": blake(prk, b"am1-knock-key", b"", 32),
        "header_key_ba": blake(prk, b"am1-header-ba", b"", 32),
        "header_key_ab": blake(prk, b"am1-header-ab", b"", 32),
        "session_id": blake(prk, b"am1-session-id", b"", 16),
    }
    for keys in (initiation.keys, both.respond()):
        assert keys.th == th
        assert values(keys) == expected


def test_no_schedule_output_is_a_part_of_another() -> None:
    # Each digest size is its own function: the session id is not the beginning of anything.
    for name in FIELDS[:-1]:
        assert values(PAIR.initiation.keys)[name][:16] != PAIR.initiation.keys.session_id


# --- the transcript ---------------------------------------------------------------------------------------------------


def flipped(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


INPUTS: dict[str, list[Any]] = {
    "mesh": ["example/pro", "example/prod.", "e", "Example/prod"],
    "initiator": [bytes(32), PAIR.bob.key.raw, PAIR.alice.key.dh],
    "responder": [bytes(32), PAIR.alice.key.raw, PAIR.bob.key.dh],
    "bundle_ref": [bytes(32), hashlib.sha256(b"").digest()],
    "ephemeral": [bytes(32), PAIR.bundle.prekey],
    "kem_ciphertext": [bytes(1088), flipped(PAIR.initiation.kem_ciphertext), b""],
    "expires_ms": [0, EXPIRES + 1, EXPIRES - 1, 2**53 - 1],
}


@pytest.mark.parametrize("name", INPUTS)
def test_every_transcript_input_changes_the_hash_and_every_key(name: str) -> None:
    genuine = PAIR.initiation.keys
    for value in INPUTS[name]:
        changed = PAIR.th(**{name: value})
        assert changed != genuine.th
        keys = PAIR.respond(th=changed)
        assert nothing_shared(keys, genuine)
        assert keys.th == changed


def test_every_argument_of_the_transcript_is_tried_above() -> None:
    assert set(INPUTS) == set(transcript_hash.__annotations__) - {"return"}


BYTES_INPUTS = ("initiator", "responder", "bundle_ref", "ephemeral", "kem_ciphertext")


@given(st.lists(st.binary(min_size=1, max_size=8), min_size=5, max_size=5), st.integers(0, 3), st.integers(1, 8))
def test_no_byte_moves_over_a_border_of_the_transcript(items: list[bytes], at: int, moved: int) -> None:
    first: dict[str, Any] = {"mesh": "m", "expires_ms": 1, **dict(zip(BYTES_INPUTS, items, strict=True))}
    left, right = BYTES_INPUTS[at], BYTES_INPUTS[at + 1]
    kept = max(0, len(first[left]) - moved)
    second = {**first, left: first[left][:kept], right: first[left][kept:] + first[right]}
    assert first != second
    assert transcript_hash(**first) != transcript_hash(**second)


def test_roles_are_not_interchangeable() -> None:
    swapped = PAIR.th(initiator=PAIR.bob.key.raw, responder=PAIR.alice.key.raw)
    assert swapped != PAIR.th()


# --- others get other keys --------------------------------------------------------------------------------------------


def test_other_secrets_or_identities_give_other_keys() -> None:
    genuine, stranger = PAIR.initiation.keys, pair(2)
    cases: dict[str, dict[str, Any]] = {
        "another responder": {"identity": stranger.bob},
        "another bundle": {"secrets": stranger.secrets},
        "another bundle's prekey": {"secrets": BundleSecrets(stranger.secrets.prekey_secret, PAIR.secrets.kem_seed)},
        "another bundle's KEM key": {"secrets": BundleSecrets(PAIR.secrets.prekey_secret, stranger.secrets.kem_seed)},
        "another initiator": {"initiator": stranger.alice.key},
        "another ephemeral key": {"ephemeral": stranger.initiation.ephemeral},
        "another ciphertext": {"kem_ciphertext": stranger.initiation.kem_ciphertext},
    }
    for name, changes in cases.items():
        # With the right transcript: each of the four secrets alone decides.
        assert nothing_shared(PAIR.respond(**changes, th=genuine.th), genuine), name
    assert values(PAIR.respond(th=genuine.th)) == values(genuine)


def test_each_of_the_four_shared_secrets_is_in_the_keys() -> None:
    parts = [bytes([n]) * 32 for n in range(1, 5)]
    th = TranscriptHash(bytes(range(64)))
    genuine = SessionKeys(th, b"".join(parts))
    for index in range(4):
        changed = [*parts[:index], bytes(32), *parts[index + 1 :]]
        assert nothing_shared(SessionKeys(th, b"".join(changed)), genuine)
    assert nothing_shared(SessionKeys(th, b"".join(parts[::-1])), genuine)
    assert nothing_shared(SessionKeys(TranscriptHash(bytes(64)), b"".join(parts)), genuine)


def test_a_forged_kem_ciphertext_gives_other_keys_and_no_error() -> None:
    genuine = PAIR.initiation.keys
    before = _wire.encode(export_published(PAIR.published))
    ciphertext = PAIR.initiation.kem_ciphertext
    seen = {genuine.root}
    for at in range(0, len(ciphertext), 8):
        forged = bytearray(ciphertext)
        forged[at] ^= 1 << at // 8 % 8
        # Under the genuine transcript, so that only the decapsulated secret can tell.
        keys = PAIR.respond(kem_ciphertext=bytes(forged), th=genuine.th)
        assert nothing_shared(keys, genuine)
        seen.add(keys.root)
    assert len(seen) == 1 + 1088 // 8
    assert _wire.encode(export_published(PAIR.published)) == before


@pytest.mark.parametrize("size", [0, 1, 1087, 1089, 2176])
def test_a_kem_ciphertext_of_another_length_is_refused(size: int) -> None:
    refused(lambda: PAIR.respond(kem_ciphertext=bytes(size)))


# --- bad points in every slot -----------------------------------------------------------------------------------------


def refused(call: Any, expected: type[AgentMeshError] = BadPoint) -> None:
    before = _wire.encode(export_published(PAIR.published))
    with pytest.raises(AgentMeshError) as caught:
        call()
    assert type(caught.value) is expected
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    assert _wire.encode(export_published(PAIR.published)) == before


@pytest.mark.parametrize("u", LOW_ORDER_CANONICAL + NON_CANONICAL)
def test_a_bad_ephemeral_key_is_refused(u: int) -> None:
    refused(lambda: PAIR.respond(ephemeral=u_bytes(u)))
    assert values(PAIR.respond()) == values(PAIR.initiation.keys)


@pytest.mark.parametrize("size", [0, 1, 31, 33, 64])
def test_an_ephemeral_key_of_another_length_is_refused(size: int) -> None:
    refused(lambda: PAIR.respond(ephemeral=(PAIR.initiation.ephemeral * 2)[:size]))


def signed_with_prekey(prekey: bytes) -> bytes:
    data, _ = issue_bundle(
        PAIR.bob, bundle_class=BundleClass.ONE_TIME, mesh=MESH, not_before_ms=NOW, not_after_ms=NOW, entropy=Tape(5)
    )
    fields = msgpack.unpackb(split_statement(data, 2000)[0])
    fields[4] = prekey
    return sign_statement(PAIR.bob, SIGN_BUNDLE, msgpack.packb(fields))


@pytest.mark.parametrize("u", LOW_ORDER_CANONICAL)
def test_a_low_order_prekey_is_refused_though_its_owner_signed_it(u: int) -> None:
    data = signed_with_prekey(u_bytes(u))

    def knock() -> object:
        bundle = verify_bundle(data, did=PAIR.bob.did, mesh=MESH, now_ms=NOW)
        return initiate(PAIR.alice, bundle, expires_ms=EXPIRES, entropy=Tape(6))

    refused(knock)


@pytest.mark.parametrize("u", NON_CANONICAL)
def test_a_non_canonical_prekey_is_refused_with_its_bundle(u: int) -> None:
    data = signed_with_prekey(u_bytes(u))
    refused(lambda: verify_bundle(data, did=PAIR.bob.did, mesh=MESH, now_ms=NOW))


def test_a_bad_kem_key_is_refused_by_the_initiator_too() -> None:
    bundle = attrs.evolve(PAIR.bundle, kem_key=KemPublicKey(b"\xff" * 1184))
    refused(lambda: initiate(PAIR.alice, bundle, expires_ms=EXPIRES, entropy=Tape(7)))


def test_the_identity_slots_hold_keys_of_prime_order_only() -> None:
    # What stands in the two identity slots of X25519 is the image of a validated key: of small order it cannot be.
    for key in (PAIR.alice.key, PAIR.bob.key, PAIR.bundle.identity):
        assert key.dh == x25519_public_of(key.raw)
        assert int.from_bytes(key.dh, "little") not in LOW_ORDER_CANONICAL
