"""The self-test: whether the libraries of this machine are what section 1 of docs/protocol.md asks for, and AGT's wire.

An old OpenSSL has no ML-KEM, an interpreter may be built without BLAKE2b, and a libsodium of before 2026 takes identity
keys of mixed order (CVE-2025-69277). Found out in the midst of a handshake, each of them looks like a fault of the
peer. So everything is asked once, against known answers, before an agent exists.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Final

from agentmesh.errors import BackendUnfit, BadIdentityKey, BadPoint, BadSignature, DecryptionFailed
from agentmesh.primitives import _crypto
from agentmesh.primitives._labels import AGT_RATCHET, EXTRACT

_COUNTED: Final = bytes(range(64))
_GROUP_ORDER: Final = 2**252 + 27742317777372353535851937790883648493  # RFC 8032, section 5.1


def _sha256() -> bool:
    # FIPS 180-4, its example of one block.
    return _crypto.sha256(b"abc").hex() == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def _blake2b() -> bool:
    # The key, the personalisation and the digest's size each change all of it (RFC 7693).
    keyed = _crypto.kdf(_COUNTED, EXTRACT, b"abc", 64)
    plain = _crypto.kdf(b"", EXTRACT, b"abc", 16)
    return (keyed.hex(), plain.hex()) == (
        "0d97bf98e14de7e05f4a49680e3e9a68f3c4a335dc676ad3c28d42f4955a8add"
        "4481d277e12531f7359fcded257f47cf13954cb24f3a8f1c31e4d735c6cd3689",
        "18cff5396262edd2156b5048dd4f8d6c",
    )


def _ed25519() -> bool:
    # RFC 8032's first test vector.
    public, signing = _crypto.ed25519_keypair(
        bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    )
    signature = _crypto.ed25519_sign(signing, b"")
    _crypto.ed25519_verify(public, b"", signature)
    return (public + signature).hex() == (
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"
        "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"
    )


def _strict_signatures() -> bool:
    public, signing = _crypto.ed25519_keypair(_COUNTED[:32])
    signature = _crypto.ed25519_sign(signing, b"")
    again = (int.from_bytes(signature[32:], "little") + _GROUP_ORDER).to_bytes(32, "little")
    forgeries = ((b"x", signature), (b"", signature[:32] + again), (b"", bytes(64)))
    return all(_refuses(BadSignature, _crypto.ed25519_verify, public, *forgery) for forgery in forgeries)


def _strict_identity_keys() -> bool:
    # The key of RFC 8032's test 1 with the point of order 2 and with one of order 8 added to it, a point of order 4,
    # one that is not on the curve, and y = p + 1 for the point of y = 1.
    wrong = (
        "16a567fe7d4ef5482ab4012c369bf8c5f11e8d0c2559dcda50fde59708f8aee5",  # what a libsodium of before 2026 takes
        "9158312a9a8d6e3b34c891d6d61444f8b8211c5117ebad15bdb0bd68b07e0245",
        "00" * 32,
        "02" + "00" * 31,
        "ee" + "ff" * 30 + "7f",
    )
    return all(_refuses(BadIdentityKey, _crypto.ed25519_to_x25519, bytes.fromhex(key)) for key in wrong)


def _x25519() -> bool:
    # RFC 7748, section 6.1; and a point of small order gives nothing.
    alice = bytes.fromhex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a")
    bob = bytes.fromhex("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f")
    agreed = "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"
    return (
        _crypto.x25519(alice, bob).hex() == agreed
        and _crypto.x25519_public(alice).hex() == "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"
        and _refuses(BadPoint, _crypto.x25519, alice, bytes(32))
    )


def _ml_kem_768() -> bool:
    # FIPS 203: the key of a known seed, a round trip, and the implicit rejection of a forged ciphertext.
    key = _crypto.kem_key(_COUNTED)
    public = _crypto.kem_public(key)
    ciphertext, drawn = _crypto.kem_encapsulate(public)
    return (
        _crypto.sha256(public).hex() == "0b7934c83125c788995e2ba6bd761e33046b3e40571be53e023309a29f398cc9"
        and _crypto.kem_decapsulate(key, ciphertext) == drawn
        and _crypto.kem_decapsulate(key, bytes(_crypto.KEM_CIPHERTEXT_BYTES)).hex()
        == "c8fbeddafdacef2ffeb8b354ea644f11b5c150f3e2c4a74ce38abba8f854ae16"
        and _refuses(BadPoint, _crypto.kem_check, b"\xff" * _crypto.KEM_PUBLIC_BYTES)
    )


def _secretbox() -> bool:
    nonce, key = _COUNTED[:24], _COUNTED[:32]
    box = _crypto.secretbox(b"abc", nonce, key)
    return (
        box.hex() == "b5625640216c5c16f1bece8090cfeacd3f9d5b"
        and _crypto.secretbox_open(box, nonce, key) == b"abc"
        and _refuses(DecryptionFailed, _crypto.secretbox_open, box[:-1] + b"\x00", nonce, key)
    )


def _hmac_and_hkdf() -> bool:
    # RFC 4231's second test case; HKDF over a salt that is a key, as AGT's ratchet has it.
    tag = _crypto.hmac_sha256(b"Jefe", b"what do ya want for nothing?")
    return tag.hex() == "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843" and _crypto.hkdf_sha256(
        _COUNTED[32:], _COUNTED[:32], AGT_RATCHET, 64
    ).hex() == (
        "e17e1e7a6dd981b18d8698a381ff04c9559a34167bcdb2851b72f66c5fc7c3bb"
        "2b25bc7ace81bfa6681e789d45b2c6e1f7186c9bd3bf6a353ae85d5f122817f8"
    )


def _chacha20_poly1305() -> bool:
    nonce, key = _COUNTED[:12], _COUNTED[:32]
    sealed = _crypto.chacha20poly1305_seal(key, nonce, b"abc", b"def")
    return (
        sealed.hex() == "e8996be8c532e140d2c570aaa28cd706b167ca"
        and _crypto.chacha20poly1305_open(key, nonce, sealed, b"def") == b"abc"
        and _refuses(DecryptionFailed, _crypto.chacha20poly1305_open, key, nonce, sealed, b"deg")
    )


def _refuses(error: type[Exception], call: Callable[..., object], *args: bytes) -> bool:
    try:
        call(*args)
    except error:
        return True
    return False


_TESTS: Final[dict[str, Callable[[], bool]]] = {
    "SHA-256": _sha256,
    "BLAKE2b with key and personalisation": _blake2b,
    "Ed25519": _ed25519,
    "strict Ed25519 signatures": _strict_signatures,
    "strict Ed25519 identity keys": _strict_identity_keys,
    "X25519": _x25519,
    _crypto.ML_KEM: _ml_kem_768,
    "XSalsa20-Poly1305": _secretbox,
    "HMAC and HKDF with SHA-256": _hmac_and_hkdf,
    "ChaCha20-Poly1305": _chacha20_poly1305,
}


@lru_cache(maxsize=1)  # a refusal is not kept: it costs nothing to ask again
def check_backend() -> None:
    """Test every primitive against known answers; once in a process.

    Raises:
        BackendUnfit: some are missing or answer wrongly; all of them are named.
    """
    missing = [name for name, passes in _TESTS.items() if not _holds(passes)]
    if missing:
        raise BackendUnfit(", ".join(missing))


def _holds(passes: Callable[[], bool]) -> bool:
    try:
        return passes()
    except Exception:  # whatever it is, this machine cannot do it
        return False
