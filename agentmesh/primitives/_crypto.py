"""The importer of nacl, cryptography and hashlib: every primitive of section 1, and their errors mapped to ours.

Four more are what AGT's protocol is made of: HMAC and HKDF with SHA-256, ChaCha20-Poly1305, and the way back from an
X25519 key to the Ed25519 keys that it can come from.

Nothing here is home-made: each function is a call into libsodium (`_sodium`), OpenSSL or hashlib with the checks that
its contract asks for. Byte strings come in with the right length (the key types and the wire layouts see to it); what a
peer can choose freely is checked here.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Final

import nacl.exceptions
import nacl.pwhash.argon2id
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from nacl.bindings import (
    crypto_aead_chacha20poly1305_ietf_decrypt,
    crypto_aead_chacha20poly1305_ietf_encrypt,
    crypto_sign_ed25519_pk_to_curve25519,
    crypto_sign_ed25519_sk_to_curve25519,
    crypto_sign_seed_keypair,
)

from agentmesh.errors import ArgumentInvalid, BackendUnfit, BadIdentityKey, BadPoint, BadSignature, DecryptionFailed
from agentmesh.primitives import _sodium, build
from agentmesh.primitives._labels import HkdfInfo, KdfLabel

KEY_BYTES: Final = _sodium.KEY_BYTES
NONCE_BYTES: Final = _sodium.NONCE_BYTES
TAG_BYTES: Final = _sodium.TAG_BYTES
SIGNATURE_BYTES: Final = _sodium.SIGNATURE_BYTES
CHACHA_NONCE_BYTES: Final = 12
ML_KEM: Final = "ML-KEM-768"
KEM_SEED_BYTES: Final = 64
KEM_PUBLIC_BYTES: Final = 1184
KEM_CIPHERTEXT_BYTES: Final = 1088

_FIELD_PRIME: Final = 2**255 - 19
_SIGN_BIT_CLEARED: Final = 2**255 - 1

constant_time_equal = hmac.compare_digest


# --- hashes (RFC 7693, FIPS 180-4) -----------------------------------------------------------------------------------


def _kdf(key: bytes, label: KdfLabel, data: bytes, size: int) -> bytes:
    """Return `size` bytes of BLAKE2b, keyed with `key` (empty for none), personalised with `label`, over `data`.

    `size` is BLAKE2b's own digest size, 1 to 64, not a truncation. Section 1.1; RFC 7693.
    """
    return hashlib.blake2b(data, digest_size=size, key=key, person=label).digest()


_calls, kdf = build.chosen(_sodium.SODIUM, _kdf)
secretbox, secretbox_try_open, _scalarmult, _scalarmult_base, _sign, _sign_open = _calls


def keyed_kdf(key: bytes, label: KdfLabel, size: int) -> Callable[[bytes], bytes]:
    """Return `kdf` with this key, label and size, as a function of `data`: it takes the key in once, for many."""
    begun = hashlib.blake2b(digest_size=size, key=key, person=label)

    def derive(data: bytes) -> bytes:
        state = begun.copy()
        state.update(data)
        return state.digest()

    return derive


def sha256(data: bytes) -> bytes:
    """Return the SHA-256 of `data`, 32 bytes. FIPS 180-4."""
    return hashlib.sha256(data).digest()


def sha256_each(prefix: bytes, parts: Iterable[bytes]) -> list[bytes]:
    """Return the SHA-256 of `prefix` and each part: for what is hashed by the million."""
    sha256 = hashlib.sha256
    return [sha256(prefix + part).digest() for part in parts]


def sha256_of_two(first: bytes, second: bytes) -> bytes:
    """Return the SHA-256 of the concatenation, without building it: the second may be a megabyte."""
    digest = hashlib.sha256(first)
    digest.update(second)
    return digest.digest()


class Sha256Stream:
    """SHA-256 over data that comes in pieces: memory stays flat however much it is. FIPS 180-4."""

    __slots__ = ("_state",)

    def __init__(self) -> None:
        self._state = hashlib.sha256()

    def update(self, piece: bytes) -> None:
        """Take the next piece."""
        self._state.update(piece)

    def digest(self) -> bytes:
        """Return the SHA-256 of all pieces so far, 32 bytes. More may follow."""
        return self._state.digest()


def hmac_sha256(key: bytes, data: bytes) -> bytes:
    """Return the HMAC-SHA-256 of `data`, 32 bytes. RFC 2104."""
    return hmac.digest(key, data, "sha256")


def hkdf_sha256(ikm: bytes, salt: bytes, info: HkdfInfo, size: int) -> bytes:
    """Return `size` bytes, 1 to 8160, of HKDF with SHA-256. An empty salt is one of zeros. RFC 5869."""
    return HKDF(SHA256(), size, salt, info).derive(ikm)


# --- Argon2id (RFC 9106) ---------------------------------------------------------------------------------------------


def argon2id(passphrase: bytes, salt: bytes, passes: int, memory_kib: int) -> bytes:
    """Return 32 bytes of Argon2id version 1.3 over a passphrase and a 16-byte salt, with one lane. RFC 9106.

    It takes that much memory, and time in proportion to memory and passes: the caller has bounded both.

    Raises:
        MemoryError: there is not so much.
    """
    try:
        return nacl.pwhash.argon2id.kdf(KEY_BYTES, passphrase, salt, opslimit=passes, memlimit=memory_kib << 10)
    except nacl.exceptions.CryptoError:
        pass
    del passphrase  # a traceback keeps this frame
    raise MemoryError


# --- Ed25519 (RFC 8032), strict --------------------------------------------------------------------------------------


def ed25519_keypair(seed: bytes) -> tuple[bytes, bytes]:
    """Return the public key (32 bytes) and libsodium's signing key (seed || public key, 64 bytes) of a 32-byte seed."""
    public, signing = crypto_sign_seed_keypair(seed)
    return public, signing


def ed25519_sign(signing_key: bytes, message: bytes) -> bytes:
    """Return the 64-byte signature. Deterministic, RFC 8032 section 5.1.6."""
    signature = _sign(message, signing_key)
    if signature is None:
        size = len(signing_key)
        del signing_key  # a traceback keeps this frame
        raise ArgumentInvalid("signing_key", "of another length", size, _sodium.SIGNING_KEY_BYTES)
    return signature


def ed25519_verify(public_key: bytes, message: bytes, signature: bytes) -> None:
    """Verify a signature by the strict rules of section 1.

    The caller has converted `public_key` (`ed25519_to_x25519`), which is where keys of small or mixed order and
    non-canonical keys are refused: libsodium's verification alone takes mixed-order keys. Verification itself refuses
    S >= L and an R of small order, and compares R byte for byte.

    Raises:
        BadSignature: the signature does not verify.
    """
    if len(signature) != SIGNATURE_BYTES or _sign_open(signature + message, public_key) is None:
        raise BadSignature


def ed25519_to_x25519(public_key: bytes) -> bytes:
    """Return the birational image of an Ed25519 public key, after strict validation of the key.

    Raises:
        BadIdentityKey: not 32 bytes, not canonical, not on the curve, of small order, or outside the prime-order
            subgroup.
    """
    # libsodium checks the curve and the subgroup, but reduces y silently (RFC 8032, section 5.1.3 says to refuse).
    if len(public_key) != KEY_BYTES or (int.from_bytes(public_key, "little") & _SIGN_BIT_CLEARED) >= _FIELD_PRIME:
        raise BadIdentityKey
    try:
        converted: bytes = crypto_sign_ed25519_pk_to_curve25519(public_key)
        return converted
    except nacl.exceptions.RuntimeError:
        pass
    raise BadIdentityKey


def ed25519_of_x25519(public: bytes) -> tuple[bytes, ...]:
    """Return the encodings of Ed25519 keys that `ed25519_to_x25519` may give this X25519 key for: two, or none.

    It only proposes. Neither need be an acceptable key, or even a point: the caller validates what it takes, and has
    what it takes converted again by libsodium. RFC 7748, section 4.1: y = (u - 1) / (u + 1); u says nothing of the sign
    of x. Only for public keys, because Python's arithmetic takes time that depends on its numbers.
    """
    u = int.from_bytes(public, "little")
    if len(public) != KEY_BYTES or u >= _FIELD_PRIME - 1:  # not canonical; and -1 has no image
        return ()
    y = (u - 1) * pow(u + 1, -1, _FIELD_PRIME) % _FIELD_PRIME
    return y.to_bytes(KEY_BYTES, "little"), (y | 1 << 255).to_bytes(KEY_BYTES, "little")


def is_x25519_prime_order(public: bytes) -> bool:
    """Say whether an X25519 key is canonical and in the prime-order subgroup, as every key is that has a secret.

    X25519 answers alike for a key and for its sum with a point of small order (RFC 7748, section 5: a secret is a
    multiple of eight). So where a key also names something, one that fails this is another name of the same.
    """
    proposed = ed25519_of_x25519(public)  # both, or neither, because one is the other's negative
    if not proposed:
        return False
    try:
        return ed25519_to_x25519(proposed[0]) == public
    except BadIdentityKey:
        return False


def ed25519_secret_to_x25519(signing_key: bytes) -> bytes:
    """Return the X25519 secret (clamped, 32 bytes) of a 64-byte signing key."""
    secret: bytes = crypto_sign_ed25519_sk_to_curve25519(signing_key)
    return secret


# --- X25519 (RFC 7748) -----------------------------------------------------------------------------------------------


def x25519_public(secret: bytes) -> bytes:
    """Return the X25519 public key of a 32-byte secret.

    Raises:
        BadPoint: `secret` is not 32 bytes.
    """
    public = _scalarmult_base(secret)
    if public is None:
        del secret  # a traceback keeps this frame
        raise BadPoint
    return public


def x25519(secret: bytes, public: bytes) -> bytes:
    """Return the 32-byte shared secret.

    Raises:
        BadPoint: the result is all zero, so `public` has small order (RFC 7748, section 6.1); or one is not 32 bytes.
    """
    shared = _scalarmult(secret, public)
    if shared is None:
        del secret  # a traceback keeps this frame
        raise BadPoint
    return shared


def check_x25519_encoding(public: bytes) -> None:
    """Refuse an X25519 public key that no honest implementation encodes so.

    RFC 7748 has receivers mask the top bit and reduce u. Two encodings of one point would be two names for one key, so
    here only the canonical one passes.

    Raises:
        BadPoint: not 32 bytes, or u >= 2^255 - 19.
    """
    if len(public) != KEY_BYTES or int.from_bytes(public, "little") >= _FIELD_PRIME:
        raise BadPoint


# --- ML-KEM-768 (FIPS 203) -------------------------------------------------------------------------------------------

KemKey = MLKEM768PrivateKey  # a live, expanded decapsulation key; at rest it is its 64-byte seed


def kem_key(seed: bytes) -> KemKey:
    """Return the live decapsulation key of a 64-byte seed d || z. FIPS 203 section 7.1.

    Raises:
        BackendUnfit: this OpenSSL has no ML-KEM.
    """
    try:
        return MLKEM768PrivateKey.from_seed_bytes(seed)
    except UnsupportedAlgorithm:
        pass
    del seed  # a traceback keeps this frame
    raise BackendUnfit(ML_KEM)


def kem_public(key: KemKey) -> bytes:
    """Return the 1184-byte encapsulation key."""
    return key.public_key().public_bytes_raw()


def _kem_public_key(public_key: bytes) -> MLKEM768PublicKey:
    # Nothing of another type or length gets into the cache.
    key = _parsed_kem_key(public_key) if type(public_key) is bytes and len(public_key) == KEM_PUBLIC_BYTES else None
    if key is None:
        raise BadPoint
    return key


@lru_cache(maxsize=64)  # because a key that was just checked is the one that is encapsulated to next
def _parsed_kem_key(public_key: bytes) -> MLKEM768PublicKey | None:
    try:
        return MLKEM768PublicKey.from_public_bytes(public_key)
    except ValueError:
        return None
    except UnsupportedAlgorithm:
        pass
    raise BackendUnfit(ML_KEM)  # this machine's fault, and not that of whoever made the key


def kem_encapsulate(public_key: bytes) -> tuple[bytes, bytes]:
    """Return (ciphertext, 1088 bytes; shared secret, 32 bytes), with OpenSSL's own randomness. FIPS 203 section 7.2.

    Raises:
        BadPoint: `public_key` fails the length or modulus check.
        BackendUnfit: this OpenSSL has no ML-KEM.
    """
    shared, ciphertext = _kem_public_key(public_key).encapsulate()
    return ciphertext, shared


def kem_check(public_key: bytes) -> None:
    """Check an encapsulation key (length, modulus). FIPS 203 section 7.2.

    Raises:
        BadPoint: the check fails.
        BackendUnfit: this OpenSSL has no ML-KEM.
    """
    _kem_public_key(public_key)


def kem_decapsulate(key: KemKey, ciphertext: bytes) -> bytes:
    """Return the 32-byte shared secret; a forged ciphertext gives an unrelated one (implicit rejection).

    FIPS 203 section 7.3.

    Raises:
        BadPoint: `ciphertext` is not 1088 bytes.
    """
    try:
        return key.decapsulate(ciphertext)
    except ValueError:
        pass
    raise BadPoint


# --- XSalsa20-Poly1305 (NaCl secretbox) ------------------------------------------------------------------------------


# `secretbox` returns tag (16 bytes) || ciphertext of (plaintext, 24-byte nonce, 32-byte key). `secretbox_try_open`
# returns the plaintext of (box, nonce, key) or `None`, for trial opening: there failing is the usual case, and an error
# of ours would only be thrown away.


def secretbox_open(box: bytes, nonce: bytes, key: bytes, start: int = 0) -> bytes:
    """Return the plaintext of a box, which may be the end of something longer, from `start` on.

    Raises:
        DecryptionFailed: the tag does not verify, or there is none.
    """
    plaintext = secretbox_try_open(box, nonce, key, start)
    if plaintext is None:
        raise DecryptionFailed
    return plaintext


# --- ChaCha20-Poly1305 (RFC 8439) ------------------------------------------------------------------------------------


def chacha20poly1305_seal(key: bytes, nonce: bytes, plaintext: bytes, aad: bytes) -> bytes:
    """Return ciphertext || tag (16 bytes), by a 32-byte key and a 12-byte nonce. RFC 8439, section 2.8."""
    sealed: bytes = crypto_aead_chacha20poly1305_ietf_encrypt(plaintext, aad, nonce, key)
    return sealed


def chacha20poly1305_open(key: bytes, nonce: bytes, sealed: bytes, aad: bytes) -> bytes:
    """Return the plaintext of ciphertext || tag.

    Raises:
        DecryptionFailed: the tag does not verify, or there is none.
    """
    if len(sealed) >= TAG_BYTES:
        try:
            plaintext: bytes = crypto_aead_chacha20poly1305_ietf_decrypt(sealed, aad, nonce, key)
            return plaintext
        except nacl.exceptions.CryptoError:
            pass
    raise DecryptionFailed
