"""The committing AEAD and the padding (section 1.2), against an implementation written here from the papers."""

from __future__ import annotations

import hashlib
import itertools
import math
import struct
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentmesh.errors import DecryptionFailed
from agentmesh.primitives import _crypto, aead, padding
from agentmesh.primitives._labels import INTENT, KDF_LABELS, MESSAGE, KdfLabel

brisk = settings(max_examples=max(1, settings().max_examples // 2))
keys = st.binary(min_size=32, max_size=32) | st.binary(min_size=64, max_size=64)
nonces = st.binary(min_size=24, max_size=24)
labels = st.sampled_from(KDF_LABELS)
contexts = st.binary(max_size=80)


# --- XSalsa20-Poly1305 from its definition (Bernstein, "Extending the Salsa20 nonce", "The Poly1305-AES MAC") ---------

POLY_PRIME = 2**130 - 5
CLAMP = 0x0FFFFFFC0FFFFFFC0FFFFFFC0FFFFFFF
SIGMA = struct.unpack("<4I", b"expand 32-byte k")


COLUMNS = ((0, 4, 8, 12), (5, 9, 13, 1), (10, 14, 2, 6), (15, 3, 7, 11))
ROWS = ((0, 1, 2, 3), (5, 6, 7, 4), (10, 11, 8, 9), (15, 12, 13, 14))


def salsa20_rounds(block: list[int]) -> list[int]:
    x = list(block)
    for _ in range(10):
        for a, b, c, d in (*COLUMNS, *ROWS):
            for target, first, second, turn in ((b, a, d, 7), (c, b, a, 9), (d, c, b, 13), (a, d, c, 18)):
                total = (x[first] + x[second]) & 0xFFFFFFFF
                x[target] ^= (total << turn | total >> 32 - turn) & 0xFFFFFFFF
    return x


def salsa20_input(key: bytes, tail: bytes) -> list[int]:
    k, n = struct.unpack("<8I", key), struct.unpack("<4I", tail)
    return [SIGMA[0], *k[:4], SIGMA[1], *n, SIGMA[2], *k[4:], SIGMA[3]]


def xsalsa20(key: bytes, nonce: bytes, size: int) -> bytes:
    x = salsa20_rounds(salsa20_input(key, nonce[:16]))
    subkey = struct.pack("<8I", *(x[i] for i in (0, 5, 10, 15, 6, 7, 8, 9)))
    stream = b""
    for counter in range(size // 64 + 1):
        block = salsa20_input(subkey, nonce[16:] + struct.pack("<Q", counter))
        words = zip(block, salsa20_rounds(block), strict=True)
        stream += struct.pack("<16I", *((a + b) & 0xFFFFFFFF for a, b in words))
    return stream[:size]


def poly1305_key(key: bytes, nonce: bytes) -> tuple[int, int]:
    first = xsalsa20(key, nonce, 32)
    return int.from_bytes(first[:16], "little") & CLAMP, int.from_bytes(first[16:], "little")


def poly1305(key: bytes, nonce: bytes, message: bytes) -> bytes:
    r, s = poly1305_key(key, nonce)
    total = 0
    for at in range(0, len(message), 16):
        total = (total + int.from_bytes(message[at : at + 16] + b"\x01", "little")) * r % POLY_PRIME
    return ((total + s) % (1 << 128)).to_bytes(16, "little")


def secretbox(key: bytes, nonce: bytes, plaintext: bytes) -> bytes:
    stream = xsalsa20(key, nonce, 32 + len(plaintext))[32:]
    ciphertext = bytes(a ^ b for a, b in zip(plaintext, stream, strict=True))
    return poly1305(key, nonce, ciphertext) + ciphertext


def derived(key: bytes, label: KdfLabel, nonce: bytes, context: bytes) -> tuple[bytes, bytes]:
    both = hashlib.blake2b(nonce + context, digest_size=64, key=key, person=label).digest()
    return both[:32], both[32:]


@given(keys, labels, contexts, st.binary(max_size=200), nonces)
@brisk
def test_seal_is_the_construction_of_the_protocol(
    key: bytes, label: KdfLabel, context: bytes, plaintext: bytes, nonce: bytes
) -> None:
    ek, kc = derived(key, label, nonce, context)
    assert aead.seal(key, label, context, plaintext, nonce) == nonce + kc + secretbox(ek, nonce, plaintext)
    assert aead.Sealing(key, label).seal(context, plaintext, nonce) == nonce + kc + secretbox(ek, nonce, plaintext)


# --- seal and open ----------------------------------------------------------------------------------------------------


@given(keys, labels, contexts, st.binary(max_size=2000), nonces)
def test_what_is_sealed_opens(key: bytes, label: KdfLabel, context: bytes, plaintext: bytes, nonce: bytes) -> None:
    sealed = aead.seal(key, label, context, plaintext, nonce)
    assert len(sealed) == len(plaintext) + aead.OVERHEAD_BYTES == len(plaintext) + 72
    assert aead.open_sealed(key, label, context, sealed) == plaintext
    sealing = aead.Sealing(key, label)
    assert sealing.open(context, sealed) == sealing.open(context, sealing.seal(context, plaintext, nonce)) == plaintext


KEY, NONCE, CONTEXT, TEXT = bytes(range(32)), bytes(range(100, 124)), b"a header", b"attack at dawn, or a little later"
SEALED = aead.seal(KEY, MESSAGE, CONTEXT, TEXT, NONCE)


def refused(key: bytes, label: KdfLabel, context: bytes, sealed: bytes) -> None:
    for opening in (partial(aead.open_sealed, key, label), aead.Sealing(key, label).open):
        with pytest.raises(DecryptionFailed) as caught:
            opening(context, sealed)
        assert type(caught.value) is DecryptionFailed
        assert str(caught.value) == str(DecryptionFailed())  # one class, one text, whatever differs
        assert vars(caught.value) == {}
        assert caught.value.__context__ is None


def test_every_flipped_bit_is_refused() -> None:
    for bit in range(8 * len(SEALED)):
        altered = bytearray(SEALED)
        altered[bit // 8] ^= 1 << bit % 8
        refused(KEY, MESSAGE, CONTEXT, bytes(altered))
    for bit in range(8 * len(KEY)):
        altered = bytearray(KEY)
        altered[bit // 8] ^= 1 << bit % 8
        refused(bytes(altered), MESSAGE, CONTEXT, SEALED)
    for bit in range(8 * len(CONTEXT)):
        altered = bytearray(CONTEXT)
        altered[bit // 8] ^= 1 << bit % 8
        refused(KEY, MESSAGE, bytes(altered), SEALED)


def test_every_truncation_and_extension_is_refused() -> None:
    for cut in range(len(SEALED)):
        refused(KEY, MESSAGE, CONTEXT, SEALED[:cut])
        refused(KEY, MESSAGE, CONTEXT, SEALED[cut + 1 :])
        refused(KEY, MESSAGE, CONTEXT, SEALED[:cut] + SEALED[cut + 1 :])
    for tail in (b"\x00", b"\x80", SEALED, bytes(16)):
        refused(KEY, MESSAGE, CONTEXT, SEALED + tail)
        refused(KEY, MESSAGE, CONTEXT, tail + SEALED)


def test_the_border_between_nonce_and_context_cannot_move() -> None:
    nonce = SEALED[:24]
    for moved in range(1, 9):
        # The same bytes go into the KDF, cut elsewhere.
        refused(KEY, MESSAGE, nonce[-moved:] + CONTEXT, nonce[:-moved] + SEALED[24:])
        refused(KEY, MESSAGE, CONTEXT[moved:], nonce + CONTEXT[:moved] + SEALED[24:])


@given(keys, keys, labels, labels, contexts, contexts, st.binary(max_size=100), nonces, nonces)
def test_another_key_label_context_or_nonce_is_refused(
    key: bytes, key2: bytes, label: KdfLabel, label2: KdfLabel, context: bytes, context2: bytes, text: bytes,
    nonce: bytes, nonce2: bytes,
) -> None:  # fmt: skip
    sealed = aead.seal(key, label, context, text, nonce)
    if key2 != key:
        refused(key2, label, context, sealed)
    if label2 != label:
        refused(key, label2, context, sealed)
    if context2 != context:
        refused(key, label, context2, sealed)
    if nonce2 != nonce:
        refused(key, label, context, nonce2 + sealed[24:])
        other = aead.seal(key, label, context, text, nonce2)
        # Any mixture of two genuine boxes.
        for a, b, c in itertools.product((sealed, other), repeat=3):
            if not a is b is c:
                refused(key, label, context, a[:24] + b[24:56] + c[56:])


def test_a_key_of_64_bytes_is_not_its_first_half() -> None:
    refused(KEY + bytes(32), MESSAGE, CONTEXT, SEALED)
    refused(KEY + b"\x00", MESSAGE, CONTEXT, SEALED)


def test_one_key_used_twice_does_not_repeat_a_keystream() -> None:
    first = aead.seal(KEY, MESSAGE, CONTEXT, bytes(64), NONCE)
    second = aead.seal(KEY, MESSAGE, CONTEXT, b"\xff" * 64, b"\x01" + NONCE[1:])
    difference = bytes(a ^ b for a, b in zip(first[72:], second[72:], strict=True))
    assert difference != b"\xff" * 64
    elsewhere = aead.seal(KEY, MESSAGE, CONTEXT + b"!", b"\xff" * 64, NONCE)
    assert bytes(a ^ b for a, b in zip(first[72:], elsewhere[72:], strict=True)) != b"\xff" * 64


def test_the_commitment_is_compared_first_and_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    compare, unbox = _crypto.constant_time_equal, _crypto.secretbox_try_open

    def compared(first: bytes, second: bytes) -> bool:
        events.append("compare")
        return compare(first, second)

    def opened(*arguments: bytes) -> bytes | None:
        events.append("open")
        return unbox(*arguments)

    monkeypatch.setattr(_crypto, "constant_time_equal", compared)
    monkeypatch.setattr(_crypto, "secretbox_try_open", opened)
    assert aead.open_sealed(KEY, MESSAGE, CONTEXT, SEALED) == TEXT
    assert aead.Sealing(KEY, MESSAGE).open(CONTEXT, SEALED) == TEXT
    assert events == ["compare", "open"] * 2
    events.clear()
    refused(KEY, INTENT, CONTEXT, SEALED)
    assert events == ["compare"] * 2


# --- a box that opens under two keys ----------------------------------------------------------------------------------


def two_key_box(first: bytes, second: bytes, nonce: bytes) -> bytes:
    """Return one secretbox that opens under both keys.

    Poly1305 is a polynomial over the ciphertext's blocks: for a chosen tag, two blocks are the solution of two linear
    equations, one a key (Dodis, Grubbs, Ristenpart, Woodage, CRYPTO 2018). A block must come out in [2^128, 2^129).
    """
    (r1, s1), (r2, s2) = poly1305_key(first, nonce), poly1305_key(second, nonce)
    inverse = pow(r1 * r2 * (r1 - r2), -1, POLY_PRIME)
    for tag in range(10_000):
        targets = ((tag - s1) % (1 << 128), (tag - s2) % (1 << 128))
        for high1, high2 in itertools.product(range(4), repeat=2):
            t1, t2 = targets[0] + (high1 << 128), targets[1] + (high2 << 128)
            # r1^2 a + r1 b = t1 and r2^2 a + r2 b = t2
            a = (t1 * r2 - t2 * r1) * inverse % POLY_PRIME
            b = (t1 * pow(r1, -1, POLY_PRIME) - r1 * a) % POLY_PRIME
            if a >> 128 == 1 and b >> 128 == 1 and t1 < POLY_PRIME and t2 < POLY_PRIME:
                blocks = (a % (1 << 128)).to_bytes(16, "little") + (b % (1 << 128)).to_bytes(16, "little")
                return tag.to_bytes(16, "little") + blocks
    raise AssertionError("no solution")


@given(keys, keys, contexts, contexts, nonces)
@brisk
def test_a_box_that_opens_under_two_keys_opens_here_under_one_at_most(
    key1: bytes, key2: bytes, context1: bytes, context2: bytes, nonce: bytes
) -> None:
    if (key1, context1) == (key2, context2):
        return
    (ek1, kc1), (ek2, kc2) = derived(key1, MESSAGE, nonce, context1), derived(key2, MESSAGE, nonce, context2)
    box = two_key_box(ek1, ek2, nonce)
    # The attack on the bare box is real: both keys open it, to two texts.
    text1, text2 = _crypto.secretbox_open(box, nonce, ek1), _crypto.secretbox_open(box, nonce, ek2)
    assert text1 != text2
    assert kc1 != kc2
    assert aead.open_sealed(key1, MESSAGE, context1, nonce + kc1 + box) == text1
    refused(key2, MESSAGE, context2, nonce + kc1 + box)
    assert aead.open_sealed(key2, MESSAGE, context2, nonce + kc2 + box) == text2
    refused(key1, MESSAGE, context1, nonce + kc2 + box)


# --- padding ----------------------------------------------------------------------------------------------------------


def padme(length: int) -> int:
    """Padmé as the paper writes it (Nikitin et al., PoPETs 2019, section 4.2)."""
    exponent = math.floor(math.log2(length))
    size = math.floor(math.log2(exponent)) + 1
    last_bits = exponent - size
    return length + -length % (1 << last_bits)


lengths = st.integers(1, 70) | st.integers(1, 1 << 21) | st.integers(6, 40).flatmap(
    lambda e: st.integers((1 << e) - 2, (1 << e) + 2)
)  # fmt: skip


@given(lengths)
@settings(max_examples=3 * settings().max_examples)
def test_padded_lengths_follow_padme_with_a_floor(length: int) -> None:
    padded = padding.padded_length(length)
    assert padded == (64 if length <= 64 else padme(length))
    assert padded >= length
    assert padded <= max(64, length * 1.12)
    assert padding.padded_length(padded) == padded
    assert padding.padded_length(length + 1) >= padded


def test_every_short_length_and_every_boundary() -> None:
    for length in range(1, 5000):
        assert padding.padded_length(length) == max(64, padme(length) if length > 1 else 64)
    assert [padding.padded_length(n) for n in (1, 64, 65, 66, 127, 128, 129, 1 << 20, (1 << 20) + 1)] == [
        64, 64, 72, 72, 128, 128, 144, 1 << 20, (1 << 20) + (1 << 15),
    ]  # fmt: skip


def test_what_padding_costs_at_most() -> None:
    worst = max(padme(n) / n for n in range(64, 1 << 16))
    assert worst < 1.12
    # How little a size tells: 65,535 lengths give few sizes.
    assert len({padding.padded_length(n) for n in range(1, 1 << 16)}) < 150


@given(st.binary(max_size=600) | lengths.filter(lambda n: n < 70_000).map(bytes))
def test_padding_round_trips_at_its_length(plaintext: bytes) -> None:
    padded = padding.pad(plaintext)
    assert len(padded) == padding.padded_length(len(plaintext) + 1)
    assert padded == plaintext + b"\x80" + bytes(len(padded) - len(plaintext) - 1)
    assert padding.unpad(padded) == plaintext


@given(
    st.sampled_from([b"", b"\x80", b"\x00", b"\x80\x00", b"\x00\x80\x00", b"\x80" * 80, bytes(80), b"\x80" + bytes(79)])
)
def test_plaintexts_that_look_like_padding_come_back(plaintext: bytes) -> None:
    assert padding.unpad(padding.pad(plaintext)) == plaintext


@given(st.binary(max_size=300))
@brisk
def test_every_other_length_is_refused(plaintext: bytes) -> None:
    right = padding.padded_length(len(plaintext) + 1)
    for length in range(len(plaintext) + 1, right + 80):
        padded = (plaintext + b"\x80").ljust(length, b"\x00")
        if length == right:
            assert padding.unpad(padded) == plaintext
            continue
        with pytest.raises(DecryptionFailed):
            padding.unpad(padded)


@pytest.mark.parametrize(
    "padded",
    [
        b"",
        b"\x80",
        bytes(64),
        b"a" * 64,
        bytes(63) + b"\x01",
        b"\x80" + bytes(62) + b"\x01",
        b"a\x81" + bytes(62),
        b"a\x00" * 32,
        b"\x80" + bytes(62),
        b"\x80" + bytes(64),
        b"\x80" + bytes(71),
        b"a" * 64 + b"\x80",
        b"a" * 64 + b"\x80" + bytes(6),
        b"a" * 64 + b"\x80" + bytes(8),
    ],
)
def test_bad_padding_is_refused(padded: bytes) -> None:
    for call in (padding.unpad, padding.unpadded_length):
        with pytest.raises(DecryptionFailed) as caught:
            call(padded)
        assert caught.value.__context__ is None


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_or_are_what_pad_gives(padded: bytes) -> None:
    try:
        assert padding.pad(padding.unpad(padded)) == padded
    except DecryptionFailed:
        assert all(padding.pad(padded[:cut]) != padded for cut in range(len(padded)))
