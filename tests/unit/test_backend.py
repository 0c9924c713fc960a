"""A machine that lacks a primitive says so itself, once, and never blames a peer for it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import nacl.exceptions
import pytest
from cryptography.exceptions import UnsupportedAlgorithm

from agentmesh.errors import AgentMeshError, BackendUnfit, LocalError, RandomnessFailed
from agentmesh.handshake.prekeys import BundleClass, issue_bundle, verify_bundle
from agentmesh.identity import Identity
from agentmesh.primitives import _crypto, backend
from agentmesh.primitives.entropy import CheckedEntropy, SystemEntropy, check_entropy

BOB = Identity.from_seed(bytes(range(32)))
BUNDLE, _ = issue_bundle(
    BOB, bundle_class=BundleClass.ONE_TIME, mesh="m", not_before_ms=0, not_after_ms=10, entropy=SystemEntropy()
)


@pytest.fixture(autouse=True)
def _nothing_is_kept() -> Any:
    backend.check_backend.cache_clear()
    _crypto._parsed_kem_key.cache_clear()
    yield
    backend.check_backend.cache_clear()
    _crypto._parsed_kem_key.cache_clear()


class NoMlKem:
    """What an OpenSSL without ML-KEM makes of cryptography's classes."""

    @classmethod
    def from_seed_bytes(cls, _: bytes) -> Any:
        raise UnsupportedAlgorithm("ML-KEM-768 is not supported by this backend.")

    from_public_bytes = from_seed_bytes


class Broken:
    """A live key whose decapsulation is not that of FIPS 203."""

    def __init__(self, key: _crypto.KemKey) -> None:
        self.key = key

    def public_key(self) -> Any:
        return self.key.public_key()

    def decapsulate(self, ciphertext: bytes) -> bytes:
        return self.key.decapsulate(ciphertext) if any(ciphertext) else bytes(32)


def gone(*_: Any, **__: Any) -> Any:
    raise AttributeError("module 'hashlib' has no attribute 'blake2b'")


def lax_conversion(public_key: bytes) -> bytes:
    # As a libsodium that asks for one coordinate only: what has a part of order 2 passes.
    if public_key.hex().startswith("16a567fe"):
        return bytes(32)
    raise nacl.exceptions.RuntimeError


UNKEYED = hashlib.blake2b
FAULTS: dict[str, tuple[str, Any, set[str]]] = {
    "no ML-KEM": ("MLKEM768PrivateKey", NoMlKem, {"ML-KEM-768"}),
    "no ML-KEM keys of others": ("MLKEM768PublicKey", NoMlKem, {"ML-KEM-768"}),
    "another rejection": ("kem_key", lambda seed, real=_crypto.kem_key: Broken(real(seed)), {"ML-KEM-768"}),
    "any KEM key": ("kem_check", lambda key: None, {"ML-KEM-768"}),
    "no BLAKE2b": ("kdf", gone, {"BLAKE2b with key and personalisation"}),
    "BLAKE2b without key": (
        "kdf",
        lambda key, label, data, size: UNKEYED(data, digest_size=size, person=label).digest(),
        {"BLAKE2b with key and personalisation"},
    ),
    "BLAKE2b without personalisation": (
        "kdf",
        lambda key, label, data, size: UNKEYED(data, digest_size=size, key=key).digest(),
        {"BLAKE2b with key and personalisation"},
    ),
    "BLAKE2b cut short": (
        "kdf",
        lambda key, label, data, size: UNKEYED(data, key=key, person=label).digest()[:size],
        {"BLAKE2b with key and personalisation"},
    ),
    "no SHA-256": ("sha256", gone, {"SHA-256", "ML-KEM-768"}),
    "mixed-order keys": ("crypto_sign_ed25519_pk_to_curve25519", lax_conversion, {"strict Ed25519 identity keys"}),
    "any signature": ("_sign_open", lambda *_: b"", {"strict Ed25519 signatures"}),
    "no signature": ("_sign", lambda *_: bytes(64), {"Ed25519"}),
    "small order agrees": (
        "_scalarmult",
        lambda secret, public, real=_crypto._scalarmult: real(secret, public) if any(public) else bytes(32),
        {"X25519"},
    ),
    "another X25519": ("_scalarmult", lambda *_: bytes(32), {"X25519"}),
    "no X25519": ("_scalarmult_base", gone, {"X25519"}),
    "no secretbox": ("secretbox", gone, {"XSalsa20-Poly1305"}),
    "no HMAC": ("hmac_sha256", gone, {"HMAC and HKDF with SHA-256"}),
    "another HKDF": ("hkdf_sha256", lambda *_: bytes(64), {"HMAC and HKDF with SHA-256"}),
    "no ChaCha20": ("crypto_aead_chacha20poly1305_ietf_encrypt", gone, {"ChaCha20-Poly1305"}),
    "any AEAD box": ("crypto_aead_chacha20poly1305_ietf_decrypt", lambda *_: b"abc", {"ChaCha20-Poly1305"}),
    "any box": ("secretbox_try_open", lambda *_: b"abc", {"XSalsa20-Poly1305"}),
}


def test_this_machine_serves_and_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    backend.check_backend()
    monkeypatch.setattr(_crypto, "kdf", gone)
    backend.check_backend()


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_missing_is_named_and_asked_for_again(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, broken, missing = FAULTS[fault]
    with monkeypatch.context() as patched:
        patched.setattr(_crypto, name, broken)
        for _ in range(2):
            with pytest.raises(BackendUnfit) as caught:
                backend.check_backend()
            assert isinstance(caught.value, LocalError)
            assert set(caught.value.missing.split(", ")) == missing
            assert caught.value.missing in str(caught.value)
            assert caught.value.__context__ is None
    backend.check_backend()


def test_all_that_is_missing_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "kdf", "sha256", "x25519", "secretbox", "kem_key", "ed25519_sign", "ed25519_to_x25519", "hmac_sha256",
        "chacha20poly1305_seal",
    ):  # fmt: skip
        monkeypatch.setattr(_crypto, name, gone)
    with pytest.raises(BackendUnfit) as caught:
        backend.check_backend()
    assert set(caught.value.missing.split(", ")) == backend._TESTS.keys()


@pytest.mark.parametrize(
    "call",
    [
        lambda: _crypto.kem_key(bytes(64)),
        lambda: _crypto.kem_check(bytes(1184)),
        lambda: _crypto.kem_encapsulate(bytes(1184)),
        lambda: CheckedEntropy(SystemEntropy()).encapsulate(bytes(1184)),
        lambda: verify_bundle(BUNDLE, did=BOB.did, mesh="m", now_ms=5),
        lambda: issue_bundle(
            BOB, bundle_class=BundleClass.ONE_TIME, mesh="m", not_before_ms=0, not_after_ms=1, entropy=SystemEntropy()
        ),
    ],
)
def test_a_machine_without_ml_kem_blames_no_peer(call: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_crypto, "MLKEM768PrivateKey", NoMlKem)
    monkeypatch.setattr(_crypto, "MLKEM768PublicKey", NoMlKem)
    for _ in range(2):
        with pytest.raises(AgentMeshError) as caught:
            call()
        assert type(caught.value) is BackendUnfit
        assert caught.value.__context__ is None


class Failing:
    """A device that is gone."""

    def token(self, size: int, /) -> bytes:
        raise OSError("no such device")

    def encapsulate(self, public_key: bytes, /) -> tuple[bytes, bytes]:
        raise OSError("no such device")


class Falsy(Failing):
    def __len__(self) -> int:
        return 0


@pytest.mark.parametrize("source", [Failing(), Falsy()])
@pytest.mark.parametrize("call", [check_entropy, Identity.generate])
def test_a_source_that_raises_or_is_false_is_asked_and_refused(call: Callable[[Any], object], source: Any) -> None:
    with pytest.raises(RandomnessFailed) as caught:
        call(source)
    assert caught.value.__context__ is None
