"""One secretbox whose tag is good under two keys: what a box that commits to no key allows.

XSalsa20 and Poly1305 are written out here because no library hands out the one-time key of a box. They make one vector
and protect nothing. Source: Dodis, Grubbs, Ristenpart, Woodage, CRYPTO 2018, section 3.
"""

from __future__ import annotations

from agentmesh.primitives import _crypto
from agentmesh.primitives._labels import KdfLabel

_SIGMA = b"expand 32-byte k"
_P1305 = 2**130 - 5
_CLAMP = 0x0FFFFFFC0FFFFFFC0FFFFFFC0FFFFFFF


def _rounds(state: list[int]) -> list[int]:
    x = list(state)
    columns = ((0, 4, 8, 12), (5, 9, 13, 1), (10, 14, 2, 6), (15, 3, 7, 11))
    rows = ((0, 1, 2, 3), (5, 6, 7, 4), (10, 11, 8, 9), (15, 12, 13, 14))
    for _ in range(10):
        for a, b, c, d in columns + rows:
            for target, first, second, turn in ((b, a, d, 7), (c, b, a, 9), (d, c, b, 13), (a, d, c, 18)):
                value = (x[first] + x[second]) & 0xFFFFFFFF
                x[target] ^= (value << turn | value >> (32 - turn)) & 0xFFFFFFFF
    return x


def _words(data: bytes) -> list[int]:
    return [int.from_bytes(data[at : at + 4], "little") for at in range(0, len(data), 4)]


def _state(key: bytes, block: bytes) -> list[int]:
    k, s, n = _words(key), _words(_SIGMA), _words(block)
    return [s[0], *k[:4], s[1], *n, s[2], *k[4:], s[3]]


def _hsalsa20(key: bytes, block: bytes) -> bytes:
    x = _rounds(_state(key, block))
    return b"".join(x[index].to_bytes(4, "little") for index in (0, 5, 10, 15, 6, 7, 8, 9))


def one_time_key(key: bytes, nonce: bytes) -> bytes:
    """Return the Poly1305 key of a secretbox: the first 32 bytes of its XSalsa20 stream."""
    state = _state(_hsalsa20(key, nonce[:16]), nonce[16:] + bytes(8))
    words = [(a + b) & 0xFFFFFFFF for a, b in zip(state, _rounds(state), strict=True)]
    return b"".join(word.to_bytes(4, "little") for word in words[:8])


def _polynomial(r: int, blocks: list[int]) -> int:
    total = 0
    for block in blocks:
        total = (total + block) * r % _P1305
    return total


def sealed_for_two(key_one: bytes, key_two: bytes, label: KdfLabel, context: bytes, nonce: bytes) -> bytes:
    """Return `nonce || kc of the first key || a box that opens under the box key of both keys`."""
    derived = [_crypto.kdf(key, label, nonce + context, 64) for key in (key_one, key_two)]
    one_time = [one_time_key(keys[:32], nonce) for keys in derived]
    r1, r2 = (int.from_bytes(key[:16], "little") & _CLAMP for key in one_time)
    s1, s2 = (int.from_bytes(key[16:], "little") for key in one_time)
    for attempt in range(1000):
        first = attempt.to_bytes(16, "little")
        # tag = (c1 r^2 + c2 r + s) mod 2^128 is one linear equation in the second block c2.
        c1 = int.from_bytes(first, "little") + (1 << 128)
        for carry in range(-4, 5):
            wanted = s2 - s1 + c1 * (r2 * r2 - r1 * r1) + (carry << 128)
            c2 = wanted * pow(r1 - r2, -1, _P1305) % _P1305
            if not 1 << 128 <= c2 < 1 << 129:
                continue
            tags = {(_polynomial(r, [c1, c2]) + s) % (1 << 128) for r, s in ((r1, s1), (r2, s2))}
            if len(tags) == 1:
                box = tags.pop().to_bytes(16, "little") + first + (c2 - (1 << 128)).to_bytes(16, "little")
                for keys in derived:
                    _crypto.secretbox_open(box, nonce, keys[:32])
                return nonce + derived[0][32:] + box
    raise ArithmeticError("one attempt of a few succeeds")
