"""The primitives of section 1: Ed25519, X25519, ML-KEM-768, KDF, AEAD and padding."""

from __future__ import annotations

import functools
import hashlib
import hmac

import nacl.bindings
import nacl.exceptions
from cryptography.hazmat.primitives.asymmetric import mlkem

from verifier.common import Trace, refuse

FIELD = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
CURVE_D = -121665 * pow(121666, -1, FIELD) % FIELD
ROOT_OF_MINUS_ONE = pow(2, (FIELD - 1) // 4, FIELD)

Point = tuple[int, int, int, int]  # extended coordinates: X, Y, Z, T with x = X/Z, y = Y/Z, xy = T/Z
NEUTRAL: Point = (0, 1, 1, 0)


def add(p: Point, q: Point) -> Point:
    """The sum of two points; the formula holds for all of them."""
    a = (p[1] - p[0]) * (q[1] - q[0])
    b = (p[1] + p[0]) * (q[1] + q[0])
    c = 2 * p[3] * q[3] * CURVE_D
    d = 2 * p[2] * q[2]
    e, f, g, h = (b - a) % FIELD, (d - c) % FIELD, (d + c) % FIELD, (b + a) % FIELD
    return e * f % FIELD, g * h % FIELD, f * g % FIELD, e * h % FIELD


def double_multiply(m: int, p: Point, n: int, q: Point) -> Point:
    """[m]p + [n]q. Not constant-time: nothing secret comes here."""
    table = (NEUTRAL, p, q, add(p, q))
    total = NEUTRAL
    for bit in range(max(m.bit_length(), n.bit_length()) - 1, -1, -1):
        total = add(total, total)
        if which := (m >> bit & 1) | (n >> bit & 1) << 1:
            total = add(total, table[which])
    return total


def is_neutral(p: Point) -> bool:
    """Whether a point is the identity."""
    return p[0] % FIELD == 0 and (p[1] - p[2]) % FIELD == 0


def encode_point(p: Point) -> bytes:
    """The canonical encoding of a point."""
    inverse = pow(p[2], -1, FIELD)
    x, y = p[0] * inverse % FIELD, p[1] * inverse % FIELD
    return (y | (x & 1) << 255).to_bytes(32, "little")


def decode_point(data: bytes) -> Point | None:
    """The point of a canonical encoding, or None."""
    number = int.from_bytes(data, "little")
    y, sign = number & (1 << 255) - 1, number >> 255
    if len(data) != 32 or y >= FIELD:
        return None
    square = (y * y - 1) * pow(CURVE_D * y * y + 1, -1, FIELD) % FIELD
    x = pow(square, (FIELD + 3) // 8, FIELD)
    if (x * x - square) % FIELD:
        x = x * ROOT_OF_MINUS_ONE % FIELD
    if (x * x - square) % FIELD or (x == 0 and sign):
        return None
    if x & 1 != sign:
        x = FIELD - x
    return x, y, 1, x * y % FIELD


BASE = decode_point((4 * pow(5, -1, FIELD) % FIELD).to_bytes(32, "little")) or NEUTRAL


@functools.cache
def _acceptable(public_key: bytes) -> Point | None:
    point = decode_point(public_key)
    if point is None or is_neutral(point) or not is_neutral(double_multiply(ORDER, point, 0, NEUTRAL)):
        return None
    return point


def identity_point(public_key: bytes) -> Point:
    """The point of an acceptable Ed25519 key: canonical, of prime order."""
    return _acceptable(public_key) or refuse("identity.key")


def to_x25519(public_key: bytes) -> bytes:
    """The X25519 key of an Ed25519 key (section 2): u = (1 + y) / (1 - y)."""
    y = identity_point(public_key)[1]
    return ((1 + y) * pow(1 - y, -1, FIELD) % FIELD).to_bytes(32, "little")


def label_of(name: str) -> bytes:
    """`[name]`, section 1.1."""
    return b"agentmesh/v1/" + name.encode() + b"\x00"


def verify(public_key: bytes, name: str, body: bytes, signature: bytes) -> None:
    """Check an acceptable key's signature over `[name] || body`, as strictly as section 1 says."""
    key = identity_point(public_key)
    if len(signature) != 64:
        refuse("signature.invalid")
    r, s = signature[:32], int.from_bytes(signature[32:], "little")
    if s >= ORDER:
        refuse("signature.invalid")
    k = int.from_bytes(hashlib.sha512(r + public_key + label_of(name) + body).digest(), "little") % ORDER
    minus_key = (FIELD - key[0], key[1], key[2], FIELD - key[3])
    point = double_multiply(s, BASE, k, minus_key)
    if not hmac.compare_digest(encode_point(point), r) or is_neutral(double_multiply(8, point, 0, NEUTRAL)):
        refuse("signature.invalid")


def check_x25519(public: bytes) -> None:
    """A received X25519 key must be the canonical encoding: u < 2^255 - 19, so the top bit is clear."""
    if len(public) != 32 or int.from_bytes(public, "little") >= FIELD:
        refuse("crypto.point")


def agree(secret: bytes, public: bytes) -> bytes:
    """X25519 with a canonical key; an all-zero result is refused."""
    check_x25519(public)
    try:
        shared = nacl.bindings.crypto_scalarmult(secret, public)
    except nacl.exceptions.RuntimeError:
        refuse("crypto.point")
    return shared if shared.strip(b"\x00") else refuse("crypto.point")


def x25519_public(secret: bytes) -> bytes:
    """The public key of an X25519 secret."""
    return nacl.bindings.crypto_scalarmult_base(secret)


def check_kem_key(key: bytes) -> None:
    """FIPS 203, modulus check: each of the 768 coefficients of 12 bits is less than 3329."""
    if len(key) != 1184:
        refuse("crypto.point")
    for i in range(0, 1152, 3):
        pair = int.from_bytes(key[i : i + 3], "little")
        if pair & 0xFFF >= 3329 or pair >> 12 >= 3329:
            refuse("crypto.point")


def kem_public(seed: bytes) -> bytes:
    """The encapsulation key of a seed d || z."""
    return mlkem.MLKEM768PrivateKey.from_seed_bytes(seed).public_key().public_bytes_raw()


def decapsulate(seed: bytes, ciphertext: bytes) -> bytes:
    """ML-KEM-768 decapsulation; only a wrong length is refused."""
    if len(ciphertext) != 1088:
        refuse("crypto.point")
    return mlkem.MLKEM768PrivateKey.from_seed_bytes(seed).decapsulate(ciphertext)


def kdf(key: bytes, label: str, data: bytes, size: int) -> bytes:
    """Section 1.1: keyed, personalised BLAKE2b."""
    return hashlib.blake2b(data, digest_size=size, key=key, person=personalisation(label)).digest()


def personalisation(label: str) -> bytes:
    """The label, padded to 16 bytes."""
    return label.encode("ascii").ljust(16, b"\x00")


def kdf_root(rk: bytes, dh: bytes, pq: bytes) -> tuple[bytes, bytes, bytes]:
    """Section 6: the next root key, a chain key and a next header key."""
    return (
        kdf(rk, "am1-ratchet-root", dh + pq, 32),
        kdf(rk, "am1-ratchet-ck", dh + pq, 32),
        kdf(rk, "am1-ratchet-hk", dh + pq, 32),
    )


def kdf_chain(ck: bytes) -> tuple[bytes, bytes]:
    """Section 6: the next chain key and a message key."""
    both = kdf(ck, "am1-chain", b"", 64)
    return both[:32], both[32:]


def box_keys(key: bytes, label: str, data: bytes, trace: Trace) -> tuple[bytes, bytes]:
    """Box key and commitment of a key (sections 1.2 and 6)."""
    both = kdf(key, label, data, 64)
    trace["bk"], trace["kc"] = both[:32], both[32:]
    return both[:32], both[32:]


def secretbox(plaintext: bytes, nonce: bytes, key: bytes) -> bytes:
    """XSalsa20-Poly1305."""
    return nacl.bindings.crypto_secretbox(plaintext, nonce, key)


def secretbox_open(box: bytes, nonce: bytes, key: bytes) -> bytes | None:
    """The plaintext of a box, or None."""
    try:
        return nacl.bindings.crypto_secretbox_open(box, nonce, key)
    except nacl.exceptions.CryptoError:
        return None


def seal(key: bytes, label: str, context: bytes, plaintext: bytes, nonce: bytes, trace: Trace) -> bytes:
    """Section 1.2, with the nonce given."""
    bk, kc = box_keys(key, label, nonce + context, trace)
    return nonce + kc + secretbox(plaintext, nonce, bk)


def open_sealed(key: bytes, label: str, context: bytes, sealed: bytes, trace: Trace) -> bytes:
    """Section 1.2: the commitment first, then the box."""
    nonce, commitment, box = sealed[:24], sealed[24:56], sealed[56:]
    bk, kc = box_keys(key, label, nonce + context, trace)
    if len(sealed) < 72 or not hmac.compare_digest(kc, commitment):
        refuse("message.unopened")
    plaintext = secretbox_open(box, nonce, bk)
    return plaintext if plaintext is not None else refuse("message.unopened")


def padme(length: int) -> int:
    """Padmé(L), section 1.2."""
    if length <= 64:
        return 64
    e = length.bit_length() - 1
    step = 1 << e - e.bit_length()
    return -(-length // step) * step


def pad(plaintext: bytes) -> bytes:
    """Section 1.2."""
    return (plaintext + b"\x80").ljust(padme(len(plaintext) + 1), b"\x00")


def unpad(padded: bytes) -> bytes:
    """Remove the padding; it must be what the sender had to use."""
    marked = padded.rstrip(b"\x00")
    if marked[-1:] != b"\x80" or padme(len(marked)) != len(padded):
        refuse("message.unopened")
    return marked[:-1]
