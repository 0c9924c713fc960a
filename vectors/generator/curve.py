"""Points and keys that must be refused, and signatures that satisfy an equation they should not be asked."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Final

from nacl import bindings

P: Final = 2**255 - 19
L: Final = 2**252 + 27742317777372353535851937790883648493
_NEUTRAL: Final = (1).to_bytes(32, "little")


def add(first: bytes, second: bytes) -> bytes:
    """Return the sum of two points of the Edwards curve."""
    total: bytes = bindings.crypto_core_ed25519_add(first, second)
    return total


def _encode(x: int, y: int) -> bytes:
    """Return the encoding of a point, from y and the parity of x."""
    return (y | (x & 1) << 255).to_bytes(32, "little")


_EIGHTH: Final = (
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
)
TORSION: Final = (
    (1, _encode(0, 1)),
    (2, _encode(0, P - 1)),
    (4, _encode(0, 0)),
    (4, _encode(1, 0)),
    *((8, bytes.fromhex(y)) for y in _EIGHTH),
    *((8, (int.from_bytes(bytes.fromhex(y), "little") | 1 << 255).to_bytes(32, "little")) for y in _EIGHTH),
)
"""(order, encoding) of the eight points of small order."""

NON_CANONICAL: Final = (
    ("y = p + 1: the neutral element, written longer", _encode(0, P + 1)),
    ("y = p: a point of order 4, written longer", P.to_bytes(32, "little")),
    ("y = p with the sign bit", (P | 1 << 255).to_bytes(32, "little")),
    ("the neutral element with a sign bit, which x = 0 does not have", (1 | 1 << 255).to_bytes(32, "little")),
    ("y = p - 1 with a sign bit", (P - 1 | 1 << 255).to_bytes(32, "little")),
    ("y = p + 3: on the curve, written longer", (P + 3).to_bytes(32, "little")),
    ("2^255 - 1", (2**255 - 1).to_bytes(32, "little")),
)

_U_EIGHTH: Final = (
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
)
X25519_SMALL_ORDER: Final = tuple(
    (comment, value.to_bytes(32, "little"))
    for comment, value in (
        ("u = 0", 0),
        ("u = 1", 1),
        ("u of order 8, the first", _U_EIGHTH[0]),
        ("u of order 8, the second", _U_EIGHTH[1]),
        ("u = p - 1", P - 1),
        ("u = p, which is 0", P),
        ("u = p + 1, which is 1", P + 1),
        ("u = 0 with the top bit set", 1 << 255),
        ("u = 1 with the top bit set", 1 | 1 << 255),
    )
)


def _secret_scalar(seed: bytes) -> int:
    return int.from_bytes(
        bindings.crypto_sign_ed25519_sk_to_curve25519(bindings.crypto_sign_seed_keypair(seed)[1]), "little"
    )


def _challenge(r: bytes, public: bytes, message: bytes) -> int:
    return int.from_bytes(hashlib.sha512(r + public + message).digest(), "little") % L


def signature_with_small_r(seed: bytes, message: bytes) -> bytes:
    """Return a signature with R = the neutral element and S = k * a, which satisfies [S]B = R + [k]A."""
    public = bindings.crypto_sign_seed_keypair(seed)[0]
    s = _challenge(_NEUTRAL, public, message) * _secret_scalar(seed) % L
    return _NEUTRAL + s.to_bytes(32, "little")


def s_plus_l(signature: bytes) -> bytes:
    """Return a signature with S + L in the place of S: the same number, another encoding."""
    return signature[:32] + (int.from_bytes(signature[32:], "little") + L).to_bytes(32, "little")


def mixed_order_signature(seed: bytes, message: bytes) -> tuple[bytes, bytes]:
    """Return a key of mixed order, and a signature for it that satisfies the equation without the cofactor."""
    torsion = next(point for order, point in TORSION if order == 8)
    public = add(bindings.crypto_sign_seed_keypair(seed)[0], torsion)
    for attempt in range(1, 1000):
        nonce = int.from_bytes(hashlib.sha512(b"mixed order" + attempt.to_bytes(4, "big")).digest(), "little") % L
        r = bindings.crypto_scalarmult_ed25519_base_noclamp(nonce.to_bytes(32, "little"))
        k = _challenge(r, public, message)
        if k % 8 == 0:  # then [k] of the torsion point is the neutral element
            s = (nonce + k * _secret_scalar(seed)) % L
            return public, r + s.to_bytes(32, "little")
    raise ArithmeticError("one attempt of eight succeeds")


def bad_kem_keys(good: bytes) -> Iterator[tuple[str, str, bytes]]:
    """Yield (name, comment, key): encapsulation keys that fail FIPS 203's checks."""
    yield from (
        ("key-short", "1,183 bytes", good[:-1]),
        ("key-long", "1,185 bytes", good + b"\x00"),
        ("key-empty", "no bytes", b""),
        ("key-modulus", "the first coefficient is 3,329: equal to the modulus", _with_coefficient(good, 0, 3329)),
        ("key-4095", "the first coefficient is 4,095, the largest of 12 bits", _with_coefficient(good, 0, 4095)),
        ("key-last-coefficient", "the last coefficient is 3,329", _with_coefficient(good, 767, 3329)),
    )


def _with_coefficient(key: bytes, index: int, value: int) -> bytes:
    at, changed = 3 * (index // 2), bytearray(key)
    if index % 2:
        changed[at + 1] = changed[at + 1] & 0x0F | (value & 0x0F) << 4
        changed[at + 2] = value >> 4
    else:
        changed[at] = value & 0xFF
        changed[at + 1] = changed[at + 1] & 0xF0 | value >> 8
    return bytes(changed)
