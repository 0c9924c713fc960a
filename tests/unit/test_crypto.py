"""The primitives behind one door: right values, one strict set of accepted inputs, and errors of our own only."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import itertools
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC
from hypothesis import given, settings
from hypothesis import strategies as st
from nacl.bindings import crypto_core_ed25519_is_valid_point, crypto_generichash_blake2b_salt_personal
from nacl.secret import SecretBox

from agentmesh.errors import AgentMeshError, BadIdentityKey, BadPoint, BadSignature, DecryptionFailed
from agentmesh.primitives import _crypto, _labels

brisk = settings(max_examples=max(1, settings().max_examples // 2))
P = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
seeds = st.binary(min_size=32, max_size=32)

LOW_ORDER_U = [  # canonical encodings: order 1 and 2 (0), 4 (1), 8 (two), 4 on the twist (-1), and the twist's order 8
    0,
    1,
    P - 1,
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
]
NON_CANONICAL_LOW_ORDER_U = [P, P + 1, *(u | 1 << 255 for u in LOW_ORDER_U), P | 1 << 255, (P + 1) | 1 << 255]


def u_bytes(u: int) -> bytes:
    return u.to_bytes(32, "little")


# --- the label table --------------------------------------------------------------------------------------------------


def test_no_label_is_a_prefix_of_another() -> None:
    everything = [*_labels.KDF_LABELS, *_labels.SIGNATURE_LABELS, *_labels.AGT_INFOS, *_labels.KARS_LABELS]
    for first, second in itertools.permutations(everything, 2):
        assert not second.startswith(first)
    for label in _labels.KDF_LABELS:
        # BLAKE2b fills a personalisation with zeros: a label that ends in one would equal a shorter one.
        assert 1 <= len(label) <= hashlib.blake2b.PERSON_SIZE
        assert not label.endswith(b"\x00")
    for signature_label in _labels.SIGNATURE_LABELS:
        assert signature_label.startswith(b"agentmesh/v1/")
        assert signature_label.count(b"\x00") == 1
        assert signature_label.endswith(b"\x00")


def test_the_tables_hold_every_label_of_the_module_once() -> None:
    named = [value for name, value in vars(_labels).items() if type(value) is bytes and name.isupper()]
    foreign = [*_labels.AGT_INFOS, *_labels.KARS_LABELS]
    assert sorted(named) == sorted([*_labels.KDF_LABELS, *_labels.SIGNATURE_LABELS, *foreign])
    assert len(set(named)) == len(named) == 36
    assert _labels.KARS_LABELS == (b"trustgraph.v1\n",)
    assert _labels.AGT_INFOS == (b"AgentMesh_X3DH_v1", b"AgentMesh_Ratchet_v1")  # another protocol's, as it spells them
    assert set(_labels.KDF_LABELS) == {
        b"am1-" + name
        for name in (
            b"transcript", b"extract", b"first-root", b"knock-key", b"session-id", b"header-ba", b"header-ab",
            b"intent", b"ratchet-root", b"ratchet-ck", b"ratchet-hk", b"epoch", b"chain", b"message", b"state",
            b"store-wrap", b"store-key", b"store-name", b"store-set", b"chunk", b"leaf", b"blob",
        )
    }  # fmt: skip
    assert set(_labels.SIGNATURE_LABELS) == {
        b"agentmesh/v1/" + name + b"\x00"
        for name in (
            b"bundle", b"knock", b"accept", b"reject", b"trust", b"edge", b"checkpoint", b"continuity", b"revocation",
            b"receipt", b"attachment",
        )
    }  # fmt: skip


# --- hashes -----------------------------------------------------------------------------------------------------------


@given(st.binary(max_size=64), st.sampled_from(_labels.KDF_LABELS), st.binary(max_size=300), st.integers(1, 64))
def test_kdf_equals_libsodium(key: bytes, label: _labels.KdfLabel, data: bytes, size: int) -> None:
    expected = crypto_generichash_blake2b_salt_personal(
        data, digest_size=size, key=key, person=label.ljust(16, b"\x00")
    )
    assert _crypto.kdf(key, label, data, size) == expected


@given(st.binary(min_size=1, max_size=64), st.binary(max_size=64))
@brisk
def test_kdf_separates_keys_labels_data_and_sizes(key: bytes, data: bytes) -> None:
    outputs = {_crypto.kdf(key, label, data, 32) for label in _labels.KDF_LABELS}
    outputs |= {
        _crypto.kdf(b"", _labels.EXTRACT, data, 32),
        _crypto.kdf(key, _labels.EXTRACT, data + b"\x00", 32),
        _crypto.kdf(key, _labels.EXTRACT, data, 64)[:32],  # the digest size is an input, not a cut
        _crypto.kdf(key, _labels.EXTRACT, data, 64)[32:],
    }
    assert len(outputs) == len(_labels.KDF_LABELS) + 4


@given(st.binary(max_size=300), st.binary(max_size=300))
@brisk
def test_sha256_of_two_is_sha256_of_the_concatenation(first: bytes, second: bytes) -> None:
    assert _crypto.sha256_of_two(first, second) == _crypto.sha256(first + second)
    assert _crypto.sha256(first) == hashlib.sha256(first).digest()


# --- Ed25519 ----------------------------------------------------------------------------------------------------------


@given(seeds, st.binary(max_size=200))
@brisk
def test_ed25519_equals_openssl(seed: bytes, message: bytes) -> None:
    public, signing = _crypto.ed25519_keypair(seed)
    other = Ed25519PrivateKey.from_private_bytes(seed)
    assert public == other.public_key().public_bytes_raw()
    assert signing == seed + public
    signature = _crypto.ed25519_sign(signing, message)
    assert signature == other.sign(message) == _crypto.ed25519_sign(signing, message)
    _crypto.ed25519_verify(public, message, signature)


@given(seeds, st.binary(max_size=60), st.integers(0, 511), st.integers(1, 255))
@brisk
def test_an_altered_signature_message_or_key_is_refused(seed: bytes, message: bytes, bit: int, delta: int) -> None:
    public, signing = _crypto.ed25519_keypair(seed)
    signature = bytearray(_crypto.ed25519_sign(signing, message))
    other, _ = _crypto.ed25519_keypair(bytes([seed[0] ^ delta]) + seed[1:])
    cases = [(other, message, bytes(signature)), (public, message + b"\x00", bytes(signature))]
    if message:
        cases.append((public, bytes([message[0] ^ delta]) + message[1:], bytes(signature)))
        # A byte moved over the border between signature and message: what is verified must not be their concatenation.
        cases.append((public, message[1:], bytes(signature) + message[:1]))
        cases.append((public, bytes(signature[-1:]) + message, bytes(signature[:-1])))
    signature[bit // 8] ^= 1 << bit % 8
    cases.append((public, message, bytes(signature)))
    for key, text, altered in cases:
        with pytest.raises(BadSignature):
            _crypto.ed25519_verify(key, text, altered)


@pytest.mark.parametrize("size", [0, 1, 31, 32, 63, 65, 96, 128])
def test_a_signature_of_another_length_is_refused(size: int) -> None:
    public, signing = _crypto.ed25519_keypair(bytes(32))
    signature = (_crypto.ed25519_sign(signing, b"m") * 2)[:size]
    with pytest.raises(BadSignature):
        _crypto.ed25519_verify(public, b"m", signature)


def test_a_signature_with_s_not_reduced_is_refused() -> None:
    public, signing = _crypto.ed25519_keypair(bytes(32))
    signature = _crypto.ed25519_sign(signing, b"m")
    s = int.from_bytes(signature[32:], "little")
    tried = 0
    for multiple in range(1, 16):
        if s + multiple * ORDER < 1 << 256:
            with pytest.raises(BadSignature):
                _crypto.ed25519_verify(public, b"m", signature[:32] + (s + multiple * ORDER).to_bytes(32, "little"))
            tried += 1
    assert tried >= 14


def test_constant_signatures_are_refused() -> None:
    public, _ = _crypto.ed25519_keypair(bytes(32))
    identity_point = b"\x01" + bytes(31)
    for signature in (bytes(64), identity_point + bytes(32), b"\xff" * 64, public + bytes(32)):
        for message in (b"", b"m", bytes(64)):
            with pytest.raises(BadSignature):
                _crypto.ed25519_verify(public, message, signature)


@given(seeds)
@brisk
def test_conversion_is_the_birational_map_and_agrees_with_the_secret(seed: bytes) -> None:
    public, signing = _crypto.ed25519_keypair(seed)
    y = int.from_bytes(public, "little") & (1 << 255) - 1
    u = (1 + y) * pow(1 - y, -1, P) % P
    assert _crypto.ed25519_to_x25519(public) == u_bytes(u)
    secret = _crypto.ed25519_secret_to_x25519(signing)
    scalar = bytearray(hashlib.sha512(seed).digest()[:32])
    scalar[0] &= 248
    scalar[31] = scalar[31] & 127 | 64
    assert secret == bytes(scalar)
    assert _crypto.x25519_public(secret) == u_bytes(u)


@given(seeds | st.integers(0, 19).map(lambda k: u_bytes(P + k - 1)) | st.integers(0, 300).map(u_bytes))
def test_conversion_takes_exactly_the_valid_points(raw: bytes) -> None:
    # libsodium's own predicate: canonical, on the curve, not of small order, in the prime-order subgroup.
    valid = crypto_core_ed25519_is_valid_point(raw)
    try:
        _crypto.ed25519_to_x25519(raw)
        accepted = True
    except BadIdentityKey:
        accepted = False
    assert accepted is bool(valid)


# --- X25519 -----------------------------------------------------------------------------------------------------------


@given(seeds, seeds)
@brisk
def test_x25519_equals_openssl(secret: bytes, other_secret: bytes) -> None:
    mine = X25519PrivateKey.from_private_bytes(secret)
    assert _crypto.x25519_public(secret) == mine.public_key().public_bytes_raw()
    public = _crypto.x25519_public(other_secret)
    assert _crypto.x25519(secret, public) == mine.exchange(X25519PublicKey.from_public_bytes(public))
    assert _crypto.x25519(secret, public) == _crypto.x25519(other_secret, _crypto.x25519_public(secret))


@pytest.mark.parametrize("u", [*LOW_ORDER_U, *NON_CANONICAL_LOW_ORDER_U])
def test_x25519_refuses_every_low_order_point(u: int) -> None:
    for secret in (bytes(32), b"\x01" * 32, b"\xff" * 32):
        with pytest.raises(BadPoint):
            _crypto.x25519(secret, u_bytes(u))


@pytest.mark.parametrize("size", [0, 1, 31, 33, 64])
def test_x25519_refuses_keys_of_another_length(size: int) -> None:
    # The binding below hands the bytes on unmeasured: a short key would be read past its end.
    public = (_crypto.x25519_public(b"\x01" * 32) * 2)[:size]
    with pytest.raises(BadPoint):
        _crypto.x25519(b"\x02" * 32, public)


def test_only_canonical_encodings_of_x25519_keys_pass() -> None:
    for u in (0, 1, 9, P - 1, *LOW_ORDER_U):
        _crypto.check_x25519_encoding(u_bytes(u))
    for u in (*range(P, 2**255), *NON_CANONICAL_LOW_ORDER_U, 9 | 1 << 255, 2**256 - 1):
        with pytest.raises(BadPoint):
            _crypto.check_x25519_encoding(u_bytes(u))
    for size in (0, 1, 31, 33, 64):
        with pytest.raises(BadPoint):
            _crypto.check_x25519_encoding(b"\x09" + bytes(size)[1:] if size else b"")


@given(seeds)
def test_the_encoding_check_is_u_below_p(public: bytes) -> None:
    if int.from_bytes(public, "little") < P:
        _crypto.check_x25519_encoding(public)
    else:
        with pytest.raises(BadPoint):
            _crypto.check_x25519_encoding(public)


# --- what AGT's protocol takes ----------------------------------------------------------------------------------------


@given(st.binary(max_size=200), st.binary(max_size=200))
@brisk
def test_hmac_equals_openssl(key: bytes, data: bytes) -> None:
    other = HMAC(key, SHA256())
    other.update(data)
    assert _crypto.hmac_sha256(key, data) == other.finalize()


@given(st.binary(max_size=130), st.binary(max_size=64), st.sampled_from(_labels.AGT_INFOS), st.integers(1, 300))
@brisk
def test_hkdf_is_its_definition(ikm: bytes, salt: bytes, info: _labels.HkdfInfo, size: int) -> None:
    prk = hmac.digest(salt, ikm, "sha256")
    blocks, block = b"", b""
    for number in range(1, 12):
        block = hmac.digest(prk, block + info + bytes([number]), "sha256")
        blocks += block
    assert _crypto.hkdf_sha256(ikm, salt, info, size) == blocks[:size]


@given(seeds, st.binary(min_size=12, max_size=12), st.binary(max_size=200), st.binary(max_size=100))
@brisk
def test_chacha20poly1305_equals_openssl(key: bytes, nonce: bytes, plaintext: bytes, aad: bytes) -> None:
    sealed = _crypto.chacha20poly1305_seal(key, nonce, plaintext, aad)
    assert sealed == ChaCha20Poly1305(key).encrypt(nonce, plaintext, aad)
    assert _crypto.chacha20poly1305_open(key, nonce, sealed, aad) == plaintext


def test_what_is_altered_under_chacha20poly1305_is_refused() -> None:
    key, nonce, aad = bytes(32), bytes(12), b"associated"
    sealed = _crypto.chacha20poly1305_seal(key, nonce, b"a plaintext", aad)
    wrong = [(sealed[:cut], aad) for cut in range(len(sealed))] + [(sealed + b"\x00", aad)]
    wrong += [(sealed, aad[:-1]), (sealed, aad + b"\x00"), (sealed, b"")]
    for bit in range(8 * len(sealed)):
        flipped = bytearray(sealed)
        flipped[bit // 8] ^= 1 << bit % 8
        wrong.append((bytes(flipped), aad))
    for box, other in wrong:
        with pytest.raises(DecryptionFailed):
            _crypto.chacha20poly1305_open(key, nonce, box, other)


@given(seeds)
@brisk
def test_the_way_back_from_an_x25519_key_leads_to_the_key_and_its_negative(seed: bytes) -> None:
    public, _ = _crypto.ed25519_keypair(seed)
    candidates = _crypto.ed25519_of_x25519(_crypto.ed25519_to_x25519(public))
    assert public in candidates
    # The other has its sign: both convert to the same, so only what a DID is the hash of tells them apart.
    [other] = set(candidates) - {public}
    assert bytes(a ^ b for a, b in zip(public, other, strict=True)) == bytes(31) + b"\x80"
    assert {_crypto.ed25519_to_x25519(each) for each in candidates} == {_crypto.ed25519_to_x25519(public)}


@given(st.binary(min_size=32, max_size=32) | st.sampled_from([u_bytes(u) for u in LOW_ORDER_U]))
def test_whatever_the_way_back_proposes_is_that_key_or_is_refused_by_libsodium(public: bytes) -> None:
    candidates = _crypto.ed25519_of_x25519(public)
    assert len(candidates) == (2 if int.from_bytes(public, "little") < P - 1 else 0)
    for candidate in candidates:
        with contextlib.suppress(BadIdentityKey):  # on the twist, or of small or mixed order
            assert _crypto.ed25519_to_x25519(candidate) == public


@pytest.mark.parametrize("public", [b"", bytes(31), bytes(33), *map(u_bytes, (P - 1, P, P + 1, 2**255, 2**256 - 1))])
def test_what_can_be_no_image_has_no_way_back(public: bytes) -> None:
    assert _crypto.ed25519_of_x25519(public) == ()


# --- ML-KEM-768 -------------------------------------------------------------------------------------------------------


@given(st.binary(min_size=64, max_size=64))
@brisk
def test_kem_agrees_with_the_backend_used_directly(seed: bytes) -> None:
    key = _crypto.kem_key(seed)
    direct = MLKEM768PrivateKey.from_seed_bytes(seed)
    public = _crypto.kem_public(key)
    assert public == direct.public_key().public_bytes_raw()
    assert len(public) == _crypto.KEM_PUBLIC_BYTES
    _crypto.kem_check(public)
    ciphertext, shared = _crypto.kem_encapsulate(public)
    assert (len(ciphertext), len(shared)) == (_crypto.KEM_CIPHERTEXT_BYTES, 32)
    assert _crypto.kem_decapsulate(key, ciphertext) == shared == direct.decapsulate(ciphertext)
    theirs, their_ciphertext = MLKEM768PublicKey.from_public_bytes(public).encapsulate()
    assert _crypto.kem_decapsulate(key, their_ciphertext) == theirs
    assert _crypto.kem_encapsulate(public) != (ciphertext, shared)


def test_a_forged_ciphertext_gives_a_stable_unrelated_secret() -> None:
    key = _crypto.kem_key(bytes(range(64)))
    ciphertext, shared = _crypto.kem_encapsulate(_crypto.kem_public(key))
    secrets = {shared}
    for bit in range(0, 8 * len(ciphertext), 61):
        forged = bytearray(ciphertext)
        forged[bit // 8] ^= 1 << bit % 8
        secret = _crypto.kem_decapsulate(key, bytes(forged))
        assert secret == _crypto.kem_decapsulate(key, bytes(forged))
        secrets.add(secret)
    assert len(secrets) == 1 + len(range(0, 8 * len(ciphertext), 61))


@pytest.mark.parametrize("size", [0, 1, 1087, 1089, 2000])
def test_a_ciphertext_of_another_length_is_refused(size: int) -> None:
    with pytest.raises(BadPoint):
        _crypto.kem_decapsulate(_crypto.kem_key(bytes(64)), bytes(size))


@pytest.mark.parametrize("size", [0, 1, 32, 1183, 1185, 2400])
def test_an_encapsulation_key_of_another_length_is_refused(size: int) -> None:
    for call in (_crypto.kem_check, _crypto.kem_encapsulate):
        with pytest.raises(BadPoint):
            call(bytes(size))


@given(st.integers(0, 767), st.integers(3329, 4095))
@brisk
def test_every_unreduced_coefficient_is_refused(index: int, coefficient: int) -> None:
    packed = int.from_bytes(_crypto.kem_public(_crypto.kem_key(bytes(64)))[:1152], "little")
    packed = packed & ~(0xFFF << 12 * index) | coefficient << 12 * index
    key = packed.to_bytes(1152, "little") + bytes(32)
    for call in (_crypto.kem_check, _crypto.kem_encapsulate):
        with pytest.raises(BadPoint):
            call(key)


# --- secretbox --------------------------------------------------------------------------------------------------------


@given(seeds, st.binary(min_size=24, max_size=24), st.binary(max_size=200))
@brisk
def test_secretbox_equals_pynacl(key: bytes, nonce: bytes, plaintext: bytes) -> None:
    box = _crypto.secretbox(plaintext, nonce, key)
    assert box == SecretBox(key).encrypt(plaintext, nonce).ciphertext
    assert _crypto.secretbox_open(box, nonce, key) == plaintext


def test_every_altered_box_is_refused() -> None:
    key, nonce = bytes(32), bytes(24)
    box = _crypto.secretbox(b"a plaintext of more than one block", nonce, key)
    altered = [box[:cut] for cut in range(len(box))] + [box + b"\x00"]
    for bit in range(8 * len(box)):
        flipped = bytearray(box)
        flipped[bit // 8] ^= 1 << bit % 8
        altered.append(bytes(flipped))
    for bad in altered:
        with pytest.raises(DecryptionFailed):
            _crypto.secretbox_open(bad, nonce, key)
    with pytest.raises(DecryptionFailed):
        _crypto.secretbox_open(box, b"\x01" + nonce[1:], key)
    with pytest.raises(DecryptionFailed):
        _crypto.secretbox_open(box, nonce, b"\x01" + key[1:])


# --- no foreign exception on ours -------------------------------------------------------------------------------------

REFUSALS: dict[str, tuple[type[AgentMeshError], Callable[[], Any]]] = {
    "signature": (BadSignature, lambda: _crypto.ed25519_verify(_crypto.ed25519_keypair(bytes(32))[0], b"", bytes(64))),
    "short signature": (BadSignature, lambda: _crypto.ed25519_verify(bytes(32), b"", b"")),
    "low-order identity key": (BadIdentityKey, lambda: _crypto.ed25519_to_x25519(bytes(32))),
    "short identity key": (BadIdentityKey, lambda: _crypto.ed25519_to_x25519(b"")),
    "non-canonical identity key": (BadIdentityKey, lambda: _crypto.ed25519_to_x25519(b"\xff" * 32)),
    "low-order point": (BadPoint, lambda: _crypto.x25519(bytes(32), bytes(32))),
    "point encoding": (BadPoint, lambda: _crypto.check_x25519_encoding(b"\xff" * 32)),
    "KEM key": (BadPoint, lambda: _crypto.kem_check(b"\xff" * 1184)),
    "KEM key in use": (BadPoint, lambda: _crypto.kem_encapsulate(b"\xff" * 1184)),
    "KEM ciphertext": (BadPoint, lambda: _crypto.kem_decapsulate(_crypto.kem_key(bytes(64)), b"")),
    "box": (DecryptionFailed, lambda: _crypto.secretbox_open(bytes(40), bytes(24), bytes(32))),
    "AEAD box": (DecryptionFailed, lambda: _crypto.chacha20poly1305_open(bytes(32), bytes(12), bytes(40), b"")),
    "short AEAD box": (DecryptionFailed, lambda: _crypto.chacha20poly1305_open(bytes(32), bytes(12), bytes(15), b"")),
    "short box": (DecryptionFailed, lambda: _crypto.secretbox_open(bytes(15), bytes(24), bytes(32))),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_no_foreign_exception_hangs_on_ours(name: str) -> None:
    expected, call = REFUSALS[name]
    with pytest.raises(AgentMeshError) as caught:
        call()
    assert type(caught.value) is expected
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


NO_KEM_KEYS = [b"", bytes(1183), bytes(1185), bytearray(1184), "k" * 1184, None]


@pytest.mark.parametrize("call", [_crypto.kem_check, _crypto.kem_encapsulate])
@pytest.mark.parametrize("wrong", NO_KEM_KEYS, ids=lambda wrong: f"{type(wrong).__name__}-{len(wrong or ())}")
def test_what_is_no_kem_key_is_refused_as_one_and_not_kept(call: Any, wrong: Any) -> None:
    before = _crypto._parsed_kem_key.cache_info()
    with pytest.raises(BadPoint):
        call(wrong)
    assert _crypto._parsed_kem_key.cache_info() == before
