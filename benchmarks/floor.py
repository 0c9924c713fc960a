"""The floor: the primitives that the protocol needs, called bare, with nothing around them.

No encoding, no state, no checks, no policy: only libsodium through PyNaCl's bindings, OpenSSL and hashlib, called as
often as version 1 of the protocol needs them and no more. The library reaches libsodium by a shorter way than PyNaCl's
bindings, so what is above the floor is more than the difference. What each workload counts:

    seal             24 random bytes; BLAKE2b of a chain key, BLAKE2b over nonce, header and context; secretbox of the
                     header (44 bytes) and of the padded plaintext
    open             the same two BLAKE2b; secretbox opened of both; the commitment compared
    with audit       SHA-256 of the envelope (its receipt), of the entry (its leaf) and of one node, on each side
    a turn           seal and open; one opening that fails; 2 X25519, 1 key pair, 6 BLAKE2b; not what an epoch costs,
                     which is the sender's own setting
    establish, warm  3 Ed25519 verifications, 2 signatures, 3 X25519 key pairs, 9 X25519, ML-KEM-768 encapsulated and
                     decapsulated, 14 BLAKE2b for the keys, the intent sealed and opened, 3 root steps of 3 BLAKE2b,
                     one message sealed and opened, SHA-256 of bundle and KNOCK
    establish, cold  also 2 conversions from Ed25519 to X25519, and the ML-KEM key from its seed
    bundle           an ML-KEM-768 key from a seed, an X25519 key pair, a signature, SHA-256
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Iterator
from contextlib import suppress
from functools import partial

from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from nacl import bindings
from nacl.exceptions import CryptoError

from benchmarks.peers.serve import Call, Workload
from benchmarks.sizes import CONTEXT_BYTES, ENTRY_BYTES, SIZES, padded_bytes, wire_bytes

_HEADER = bytes(44)
_CONTEXT = bytes(CONTEXT_BYTES)
_ENTRY = bytes(ENTRY_BYTES)
_NODE = bytes(65)
_KEY = os.urandom(32)
_PUBLIC, _SIGNING = bindings.crypto_sign_seed_keypair(os.urandom(32))
_PEER = bindings.crypto_scalarmult_base(os.urandom(32))


def kdf(key: bytes, data: bytes, size: int = 64) -> bytes:
    return hashlib.blake2b(data, digest_size=size, key=key, person=b"benchmark").digest()


def seal(data: bytes) -> tuple[bytes, bytes, bytes, bytes]:
    nonce = os.urandom(24)
    kdf(_KEY, b"")
    header = bindings.crypto_secretbox_easy(_HEADER, nonce, _KEY)
    derived = kdf(_KEY, nonce + header + _CONTEXT)
    return nonce, header, derived[32:], bindings.crypto_secretbox_easy(data, nonce, derived[:32])


def unseal(message: tuple[bytes, bytes, bytes, bytes]) -> bytes:
    nonce, header, commitment, box = message
    bindings.crypto_secretbox_open_easy(header, nonce, _KEY)
    kdf(_KEY, b"")
    derived = kdf(_KEY, nonce + header + _CONTEXT)
    hmac.compare_digest(derived[32:], commitment)
    plaintext: bytes = bindings.crypto_secretbox_open_easy(box, nonce, derived[:32])
    return plaintext


def audit(envelope: bytes) -> None:
    hashlib.sha256(envelope).digest()
    hashlib.sha256(_ENTRY).digest()
    hashlib.sha256(_NODE).digest()


def agree() -> bytes:
    shared: bytes = bindings.crypto_scalarmult(_KEY, _PEER)
    return shared


def root_step() -> None:
    shared = agree()
    for _ in range(3):
        kdf(_KEY, shared, 32)


def turn(data: bytes) -> None:
    message = seal(data)
    with suppress(CryptoError):
        bindings.crypto_secretbox_open_easy(message[1], message[0], bytes(32))
    root_step()
    unseal(message)
    bindings.crypto_scalarmult_base(os.urandom(32))
    root_step()


class Pair:
    """What an establishment starts from."""

    def __init__(self) -> None:
        self.seed = os.urandom(64)
        self.kem = MLKEM768PrivateKey.from_seed_bytes(self.seed)
        self.kem_public = self.kem.public_key().public_bytes_raw()
        self.bundle = bindings.crypto_sign(bytes(1300), _SIGNING)

    def establish(self, *, cold: bool) -> None:
        if cold:  # either side meets the other's identity, and the responder's KEM key is at rest
            for _ in range(2):
                bindings.crypto_sign_ed25519_pk_to_curve25519(_PUBLIC)
        # The initiator, up to the KNOCK.
        bindings.crypto_sign_open(self.bundle, _PUBLIC)
        hashlib.sha256(self.bundle).digest()
        bindings.crypto_scalarmult_base(os.urandom(32))
        shared, ciphertext = MLKEM768PublicKey.from_public_bytes(self.kem_public).encapsulate()
        self._keys(shared, ciphertext)
        nonce = os.urandom(24)
        intent = bindings.crypto_secretbox_easy(bytes(64), nonce, kdf(_KEY, nonce + _CONTEXT)[:32])
        knock = bindings.crypto_sign(ciphertext + intent + _CONTEXT, _SIGNING)
        # The responder, up to the ACCEPT.
        bindings.crypto_sign_open(knock, _PUBLIC)
        hashlib.sha256(knock).digest()
        kem = MLKEM768PrivateKey.from_seed_bytes(self.seed) if cold else self.kem
        self._keys(kem.decapsulate(ciphertext), ciphertext)
        bindings.crypto_secretbox_open_easy(intent, nonce, kdf(_KEY, nonce + _CONTEXT)[:32])
        bindings.crypto_scalarmult_base(os.urandom(32))
        root_step()
        accept = bindings.crypto_sign(_CONTEXT, _SIGNING)
        message = seal(accept)
        # The initiator.
        root_step()
        unseal(message)
        bindings.crypto_sign_open(accept, _PUBLIC)
        bindings.crypto_scalarmult_base(os.urandom(32))
        root_step()

    @staticmethod
    def _keys(shared: bytes, ciphertext: bytes) -> None:
        transcript = kdf(b"", ciphertext + _CONTEXT)
        extracted = kdf(transcript, agree() + agree() + agree() + shared)
        for _ in range(5):
            kdf(extracted, b"", 32)


def bundle() -> None:
    key = MLKEM768PrivateKey.from_seed_bytes(os.urandom(64))
    bindings.crypto_scalarmult_base(os.urandom(32))
    hashlib.sha256(bindings.crypto_sign(key.public_key().public_bytes_raw() + _HEADER, _SIGNING)).digest()


# --- as workloads ----------------------------------------------------------------------------------------------------


def _always(call: Call) -> Workload:
    def calls() -> Iterator[Call]:
        while True:
            yield call

    return Workload(calls)


def _opening(size: int) -> Workload:
    message = seal(bytes(padded_bytes(size)))
    return _always(lambda: unseal(message))


def _there(size: int, audited: bool) -> Workload:
    data, envelope = bytes(padded_bytes(size)), bytes(wire_bytes(size))

    def there() -> None:
        message = seal(data)
        if audited:
            audit(envelope)
        unseal(message)
        if audited:
            audit(envelope)

    return _always(there)


def _box_and_hash(size: int) -> Workload:
    """Secretbox and SHA-256 on both sides and nothing else: what no implementation of a large message can avoid."""
    data, nonce = bytes(padded_bytes(size)), os.urandom(24)

    def there() -> None:
        box = bindings.crypto_secretbox_easy(data, nonce, _KEY)
        hashlib.sha256(box).digest()
        bindings.crypto_secretbox_open_easy(box, nonce, _KEY)
        hashlib.sha256(box).digest()

    return _always(there)


def workloads() -> dict[str, Workload]:
    """Return the floor's workloads, under the names of ours."""
    pair, data = Pair(), bytes(padded_bytes(256))
    signed = bindings.crypto_sign(bytes(160), _SIGNING)
    found = {
        "handshake_pair": _always(lambda: pair.establish(cold=False)),
        "handshake_pair_cold": _always(lambda: pair.establish(cold=True)),
        "bundle_batch": _always(bundle),
        "pingpong": _always(lambda: turn(data)),
        "inorder100": _opening(256),
        "reverse100": _opening(256),
        "audit_append_1k": _always(lambda: (hashlib.sha256(_ENTRY).digest(), hashlib.sha256(_NODE).digest())),
        "audit_verify_1k": _always(lambda: (hashlib.sha256(_ENTRY).digest(), hashlib.sha256(_NODE).digest())),
        "trust_update_1000": _always(lambda: bindings.crypto_sign_open(signed, _PUBLIC)),
        "trust_update_10000": _always(lambda: bindings.crypto_sign_open(signed, _PUBLIC)),
        "box_and_hash_1048576": _box_and_hash(1 << 20),
    }
    for size in SIZES:
        sealing = _always(partial(seal, bytes(padded_bytes(size))))
        found |= {
            f"enc_{size}": sealing,
            f"dec_{size}": _opening(size),
            f"frame_out_{size}": sealing,
            f"frame_in_{size}": _opening(size),
            f"frame_{size}": _there(size, audited=False),
            f"frameaudit_{size}": _there(size, audited=True),
        }
    return found
