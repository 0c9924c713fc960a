#!/usr/bin/env python3
"""Check the test vectors with a second implementation, written from docs/protocol.md and README.md alone.

    python vectors/verify.py [PATH...]

Each PATH is a vector or a folder of them; without one, all of vectors/v1 is checked. Nothing of the library is
imported: only Python's standard library, PyNaCl (X25519, secretbox, signing) and cryptography (ML-KEM-768).
Signatures are verified by the arithmetic below. Sections in docstrings are those of docs/protocol.md.

The exit status is 0 if every file passed, 1 if one did not or there was none, 2 for a mistaken call.
"""

from __future__ import annotations

import argparse
import copy
import functools
import hashlib
import hmac
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

import nacl.bindings
import nacl.exceptions
import nacl.signing
from cryptography.hazmat.primitives.asymmetric import mlkem

Json = dict[str, Any]
Trace = dict[str, Any]

TOLERANCE_MS = 300_000
KNOCK_LIFETIME_MAX_MS = 1_209_600_000
PENDING_GRACE_MS = 86_400_000
LATE_WINDOW_MS = 600_000
KEPT_CHAINS = 5
OPEN_SESSIONS_PER_PEER = 5
UINT_MAX = 2**53 - 1
COUNTER_MAX = 2**32 - 1
BUNDLE_MAX_BYTES = 1500
HEADER_MAX_BYTES = 338
REJECT_MAX_BYTES = 256
KNOCK, ACCEPT, REJECT, MESSAGE = 1, 2, 3, 4
DATA_TYPE, ACCEPT_TYPE, CLOSE_TYPE = 0, 1, 2

# Section 11: those of the limits that a vector can depend on.
LIMITS = {
    "plaintext_max_bytes": 1_048_576,
    "envelope_max_bytes": 2_097_152,
    "intent_detail_max_bytes": 65_536,
    "capabilities_max": 64,
    "skipped_keys_per_step": 1000,
    "skipped_keys_per_session": 2000,
    "skipped_key_lifetime_seconds": 2_592_000,
    "signature_checks_per_second": 2000,
    "failed_checks_per_bundle": 8,
    "failed_checks_refill_seconds": 1,
    "knocks_per_identity": 20,
    "knock_refill_seconds": 1,
    "answers_per_knock": 5,
    "answer_refill_seconds": 60,
    "remembered_knocks": 65_536,
    "remembered_knocks_per_identity": 8192,
    "undecided_knocks": 1024,
    "sessions_max": 100_000,
}


class Refused(Exception):
    """The operation refuses, with a code of section 13 or of README.md, "Codes of this side"."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class Unusable(Exception):
    """The vector itself cannot be run: an unknown operation, or an input that lacks something."""


def refuse(code: str) -> NoReturn:
    """Refuse with a code."""
    raise Refused(code)


def limits_of(given: Json) -> dict[str, int]:
    """The limits of an operation: those of its input in the place of the defaults."""
    changed = given.get("limits", {})
    if unknown := set(changed) - set(LIMITS):
        raise Unusable(f"unknown limits: {', '.join(sorted(unknown))}")
    return LIMITS | changed


# -- Encoding, section 1.3 -------------------------------------------------------------------------------------------

Form = Callable[[Any], bool]


def encode(value: Any) -> bytes:
    """The one encoding of an integer, byte string, text, array or nil."""
    if value is None:
        return b"\xc0"
    if type(value) is int and 0 <= value <= UINT_MAX:
        if value < 0x80:
            return bytes([value])
        size, head = next((s, h) for s, h in ((1, 0xCC), (2, 0xCD), (4, 0xCE), (8, 0xCF)) if value < 256**s)
        return bytes([head]) + value.to_bytes(size, "big")
    if isinstance(value, bytes):
        return _head(len(value), (1, 0xC4), (2, 0xC5), (4, 0xC6)) + value
    if isinstance(value, str):
        text = value.encode()
        short = bytes([0xA0 | len(text)]) if len(text) < 32 else b""
        return (short or _head(len(text), (1, 0xD9), (2, 0xDA), (4, 0xDB))) + text
    if isinstance(value, list | tuple):
        short = bytes([0x90 | len(value)]) if len(value) < 16 else b""
        return (short or _head(len(value), (2, 0xDC), (4, 0xDD))) + b"".join(map(encode, value))
    raise Unusable(f"no encoding of {value!r}")


def _head(length: int, *forms: tuple[int, int]) -> bytes:
    size, head = next((s, h) for s, h in forms if length < 256**s)
    return bytes([head]) + length.to_bytes(size, "big")


class Decoder:
    """A strict decoder: anything but the shortest form of a permitted value is `wire.malformed`."""

    # first byte: (kind, bytes of the length or number, the least value that needs this form)
    FORMS = {
        0xCC: ("uint", 1, 0x80),
        0xCD: ("uint", 2, 0x100),
        0xCE: ("uint", 4, 0x10000),
        0xCF: ("uint", 8, 0x100000000),
        0xC4: ("bin", 1, 0),
        0xC5: ("bin", 2, 0x100),
        0xC6: ("bin", 4, 0x10000),
        0xD9: ("str", 1, 32),
        0xDA: ("str", 2, 0x100),
        0xDB: ("str", 4, 0x10000),
        0xDC: ("array", 2, 16),
        0xDD: ("array", 4, 0x10000),
    }

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def whole(self) -> list[Any]:
        """The array that is all of the data."""
        value = self._value(1)
        if not isinstance(value, list) or self.at != len(self.data):
            refuse("wire.malformed")
        return value

    def _take(self, size: int) -> bytes:
        if size > len(self.data) - self.at:
            refuse("wire.malformed")
        self.at += size
        return self.data[self.at - size : self.at]

    def _value(self, depth: int) -> Any:
        first = self._take(1)[0]
        if first < 0x80:
            return first
        if first == 0xC0:
            return None
        if 0x90 <= first <= 0x9F:
            kind, number = "array", first & 0x0F
        elif 0xA0 <= first <= 0xBF:
            kind, number = "str", first & 0x1F
        elif first in self.FORMS:
            kind, size, least = self.FORMS[first]
            number = int.from_bytes(self._take(size), "big")
            if number < least:
                refuse("wire.malformed")
        else:
            refuse("wire.malformed")
        if kind == "uint":
            return number if number <= UINT_MAX else refuse("wire.malformed")
        if kind == "bin":
            return self._take(number)
        if kind == "str":
            try:
                return self._take(number).decode()
            except UnicodeDecodeError:
                refuse("wire.malformed")
        if depth > 4:
            refuse("wire.malformed")
        return [self._value(depth + 1) for _ in range(number)]


def unpack(data: bytes, *forms: Form, code: str = "wire.malformed") -> list[Any]:
    """Decode an array of as many elements as there are forms, each of its form."""
    try:
        values = Decoder(data).whole()
    except Refused:
        refuse(code)
    if len(values) != len(forms) or not all(form(value) for form, value in zip(forms, values, strict=True)):
        refuse(code)
    return values


def is_uint(value: Any) -> bool:
    """An unsigned integer; the decoder has seen to its size."""
    return type(value) is int


def is_bin(value: Any) -> bool:
    """A byte string of any length."""
    return isinstance(value, bytes)


def is_text(value: Any) -> bool:
    """A text of any length."""
    return isinstance(value, str)


def exactly(size: int) -> Form:
    """A byte string of one length."""
    return lambda value: isinstance(value, bytes) and len(value) == size


def text_of(least: int, most: int) -> Form:
    """A text of so many bytes."""
    return lambda value: isinstance(value, str) and least <= len(value.encode()) <= most


def or_nil(form: Form) -> Form:
    """A form, or nil."""
    return lambda value: value is None or form(value)


def array_of(form: Form, most: int) -> Form:
    """An array of at most so many elements of a form."""
    return lambda value: isinstance(value, list) and len(value) <= most and all(map(form, value))


is_action = text_of(1, 128)


def is_mesh(value: Any) -> bool:
    """The name of a mesh."""
    return isinstance(value, str) and re.fullmatch(r"[a-z0-9._/-]{1,64}", value) is not None


def u32(number: int) -> bytes:
    """Four bytes, big-endian."""
    return number.to_bytes(4, "big")


def prefixed(*parts: bytes) -> bytes:
    """`list(...)` of the conventions: each part behind its length."""
    return b"".join(u32(len(part)) + part for part in parts)


# -- Ed25519, section 1 ----------------------------------------------------------------------------------------------

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


# -- X25519, ML-KEM, KDF, AEAD and padding: sections 1 to 1.2 --------------------------------------------------------


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


def kdf_root(rk: bytes, dh: bytes) -> tuple[bytes, bytes, bytes]:
    """Section 6: the next root key, a chain key and a next header key."""
    return (
        kdf(rk, "am1-ratchet-root", dh, 32),
        kdf(rk, "am1-ratchet-ck", dh, 32),
        kdf(rk, "am1-ratchet-hk", dh, 32),
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


# -- Identity, bundle, envelope: sections 2 to 4 ---------------------------------------------------------------------

ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
DID_PREFIX = "did:agentmesh:"


def base58(data: bytes) -> str:
    """base58btc: a `1` for each leading zero byte, then the number."""
    number, text = int.from_bytes(data, "big"), ""
    while number:
        number, digit = divmod(number, 58)
        text = ALPHABET[digit] + text
    return "1" * (len(data) - len(data.lstrip(b"\x00"))) + text


def did_of(public_key: bytes) -> str:
    """The DID of an identity key, section 2."""
    return DID_PREFIX + base58(hashlib.sha256(public_key).digest()[:20])


def parse_did(did: str) -> bytes:
    """The 20 bytes that a DID names; only the canonical form has any."""
    text = did.removeprefix(DID_PREFIX)
    if text == did or not is_did(did):
        refuse("identity.did")
    number = 0
    for character in text:
        number = number * 58 + ALPHABET.index(character)
    if number >> 160 or base58(number.to_bytes(20, "big")) != text:
        refuse("identity.did")
    return number.to_bytes(20, "big")


def is_did(value: Any) -> bool:
    """The form of a DID on the wire, section 1.3."""
    return isinstance(value, str) and re.fullmatch(f"{DID_PREFIX}[{ALPHABET}]{{1,114}}", value) is not None


@dataclass(frozen=True)
class Identity:
    """An Ed25519 seed and what is derived from it (section 2)."""

    seed: bytes

    @functools.cached_property
    def key(self) -> bytes:
        """IK."""
        return bytes(nacl.signing.SigningKey(self.seed).verify_key)

    @functools.cached_property
    def did(self) -> str:
        """The name of IK."""
        return did_of(self.key)

    @functools.cached_property
    def dh_secret(self) -> bytes:
        """The secret xk: the first half of SHA-512 of the seed, clamped."""
        half = bytearray(hashlib.sha512(self.seed).digest()[:32])
        half[0] &= 248
        half[31] = half[31] & 127 | 64
        return bytes(half)

    def sign(self, name: str, body: bytes) -> bytes:
        """Sign(ik, [name] || body)."""
        return nacl.signing.SigningKey(self.seed).sign(label_of(name) + body).signature


@dataclass(frozen=True)
class Bundle:
    """A bundle that was verified."""

    bundle_class: int
    identity: bytes
    prekey: bytes
    kem_key: bytes
    not_before: int
    not_after: int
    ref: bytes


def verify_bundle(data: bytes, did: str, mesh: str, now: int) -> Bundle:
    """The table of section 3, in its order."""
    if len(data) > BUNDLE_MAX_BYTES:
        refuse("wire.too_large")
    body, signature = unpack(data, is_bin, is_bin)
    version, bundle_class, its_mesh, identity, prekey, kem_key, not_before, not_after = unpack(
        body, is_uint, is_uint, is_mesh, exactly(32), exactly(32), exactly(1184), is_uint, is_uint
    )
    if version != 1 or bundle_class not in (1, 2):
        refuse("wire.version")
    if not_before > not_after:
        refuse("wire.malformed")
    if did_of(identity) != did:
        refuse("bundle.identity")
    if its_mesh != mesh:
        refuse("bundle.mesh")
    verify(identity, "bundle", body, signature)
    check_x25519(prekey)
    check_kem_key(kem_key)
    if not not_before - TOLERANCE_MS <= now <= not_after + TOLERANCE_MS:
        refuse("bundle.expired")
    return Bundle(bundle_class, identity, prekey, kem_key, not_before, not_after, hashlib.sha256(body).digest())


@dataclass(frozen=True)
class Envelope:
    """An outer envelope, parsed."""

    kind: int
    mesh: str
    sender: str
    recipient: str
    time: int
    header: bytes
    body: bytes
    data: bytes

    @property
    def receipt(self) -> bytes:
        """Section 4: what identifies the envelope."""
        return hashlib.sha256(label_of("receipt") + self.data).digest()


def encode_header(kind: int, mesh: str, sender: str, recipient: str, time: int) -> bytes:
    """The outer header, section 4."""
    return encode([1, kind, mesh, sender, recipient, time])


def parse_envelope(data: bytes, limits: dict[str, int]) -> Envelope:
    """What a relay checks, section 4."""
    if len(data) > limits["envelope_max_bytes"]:
        refuse("wire.too_large")
    header, body = unpack(data, is_bin, is_bin)
    if len(header) > HEADER_MAX_BYTES:
        refuse("wire.too_large")
    version, kind, mesh, sender, recipient, time = unpack(header, is_uint, is_uint, is_text, is_text, is_text, is_uint)
    if version != 1 or kind not in (KNOCK, ACCEPT, REJECT, MESSAGE):
        refuse("wire.version")
    if not (is_mesh(mesh) and is_did(sender) and is_did(recipient)):
        refuse("wire.malformed")
    return Envelope(kind, mesh, sender, recipient, time, header, body, data)


def take_envelope(data: bytes, limits: dict[str, int], own: Identity, mesh: str) -> Envelope:
    """What a recipient checks, section 4."""
    envelope = parse_envelope(data, limits)
    if envelope.recipient != own.did:
        refuse("envelope.recipient")
    if envelope.sender == own.did:
        refuse("envelope.reflected")
    if envelope.mesh != mesh:
        refuse("envelope.mesh")
    return envelope


# -- Handshake, ACCEPT and REJECT: section 5 -------------------------------------------------------------------------


@dataclass(frozen=True)
class Handshake:
    """What both sides have when a KNOCK was made or opened."""

    th: bytes
    session_id: bytes
    root: bytes
    intent_key: bytes
    hk_ba: bytes
    hk_ab: bytes

    def named(self, *names: str) -> Json:
        """Some of the values, for an output."""
        return {name: getattr(self, name) for name in names}


ALL_KEYS = ("th", "session_id", "root", "intent_key", "hk_ba", "hk_ab")


def transcript_hash(
    mesh: str, ik_a: bytes, ik_b: bytes, ref: bytes, ek: bytes, ct: bytes, expires: int, trace: Trace
) -> bytes:
    """Th of section 5."""
    trace["ephemeral"] = ek
    trace["list"] = prefixed(mesh.encode(), ik_a, ik_b, ref, ek, ct, expires.to_bytes(8, "big"))
    trace["th"] = kdf(b"", "am1-transcript", trace["list"], 64)
    return trace["th"]


def handshake_keys(th: bytes, dh1: bytes, dh2: bytes, dh3: bytes, ss: bytes, trace: Trace) -> Handshake:
    """All below th in section 5."""
    prk = kdf(th, "am1-extract", dh1 + dh2 + dh3 + ss, 64)
    keys = Handshake(
        th=th,
        session_id=kdf(prk, "am1-session-id", b"", 16),
        root=kdf(prk, "am1-first-root", b"", 32),
        intent_key=kdf(prk, "am1-knock-key", b"", 32),
        hk_ba=kdf(prk, "am1-header-ba", b"", 32),
        hk_ab=kdf(prk, "am1-header-ab", b"", 32),
    )
    trace |= {"dh1": dh1, "dh2": dh2, "dh3": dh3, "ss": ss, "prk": prk} | keys.named(*ALL_KEYS)
    return keys


def initiate(given: Json, now: int, trace: Trace) -> tuple[Bundle, bytes, Handshake]:
    """A's side: the bundle, EK and the keys."""
    own, e = Identity(unhex(given["identity_seed"])), unhex(given["ephemeral_secret"])
    ct, ss, mesh = unhex(given["kem_ciphertext"]), unhex(given["kem_shared_secret"]), given["mesh"]
    bundle = verify_bundle(unhex(given["bundle"]), given["did"], mesh, now)
    ek, responder_dh = x25519_public(e), to_x25519(bundle.identity)
    trace |= {"initiator_dh": to_x25519(own.key), "responder_dh": responder_dh}
    dh1, dh2, dh3 = agree(own.dh_secret, bundle.prekey), agree(e, responder_dh), agree(e, bundle.prekey)
    th = transcript_hash(mesh, own.key, bundle.identity, bundle.ref, ek, ct, given["expires_ms"], trace)
    return bundle, ek, handshake_keys(th, dh1, dh2, dh3, ss, trace)


def respond(
    own: Identity, ik_a: bytes, ek: bytes, ct: bytes, th: bytes, prekey: bytes, seed: bytes, trace: Trace
) -> Handshake:
    """B's side, from th on."""
    initiator_dh = to_x25519(ik_a)
    trace |= {"initiator_dh": initiator_dh, "responder_dh": to_x25519(own.key)}
    check_x25519(ek)
    dh1, dh2, dh3 = agree(prekey, initiator_dh), agree(own.dh_secret, ek), agree(prekey, ek)
    return handshake_keys(th, dh1, dh2, dh3, decapsulate(seed, ct), trace)


def conditions_of(given: Json) -> list[Any]:
    """The array of conditions (section 5.2) of an input."""
    return [given["max_messages"], given["ttl_seconds"], given["allowed_actions"]]


def conditions_out(conditions: list[Any]) -> Json:
    """Conditions as README.md shows them."""
    return dict(zip(("max_messages", "ttl_seconds", "allowed_actions"), conditions, strict=True))


def signed_header(header: bytes, rest: bytes) -> bytes:
    """What a KNOCK, ACCEPT or REJECT signs behind the label."""
    return prefixed(header) + rest


def build_reject(
    own: Identity, mesh: str, recipient: str, time: int, receipt: bytes, reason: str, retry: int, trace: Trace
) -> bytes:
    """A REJECT envelope, section 5.2."""
    header = encode_header(REJECT, mesh, own.did, recipient, time)
    content = encode([receipt, reason, retry])
    trace |= {"header": header, "content": content, "signed": label_of("reject") + signed_header(header, content)}
    return encode([header, encode([content, own.sign("reject", signed_header(header, content))])])


# -- Double Ratchet, section 6 ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sending:
    """A sending chain; `before` counts the messages of all earlier chains of the direction."""

    ck: bytes
    hk: bytes
    pn: int
    n: int
    before: int


@dataclass(frozen=True)
class Receiving:
    """A receiving chain; n is the number that is expected next."""

    ck: bytes
    hk: bytes
    peer: bytes
    pn: int
    n: int
    before: int


@dataclass(frozen=True)
class Past:
    """A receiving chain that ended."""

    hk: bytes
    length: int
    before: int


@dataclass(frozen=True)
class Kept:
    """A skipped message key."""

    hk: bytes
    n: int
    mk: bytes
    at: int


@dataclass(frozen=True)
class Opened:
    """What opening a message gives. Its `finish` gives the state that follows, once all other checks have passed."""

    finish: Callable[[], Ratchet]
    content: bytes
    peer: bytes
    n: int
    position: int


@dataclass(frozen=True)
class Ratchet:
    """One side's state. Every step gives a new one."""

    rk: bytes
    secret: bytes
    public: bytes
    sending: Sending | None
    receiving: Receiving | None
    nhks: bytes
    nhkr: bytes
    past: tuple[Past, ...] = ()
    kept: tuple[Kept, ...] = ()

    @classmethod
    def start_initiator(cls, root: bytes, hk_ab: bytes, hk_ba: bytes, secret: bytes) -> Ratchet:
        """A, knocking."""
        return cls(root, secret, x25519_public(secret), None, None, hk_ab, hk_ba)

    @classmethod
    def start_responder(
        cls, root: bytes, hk_ab: bytes, hk_ba: bytes, secret: bytes, ek: bytes, trace: Trace
    ) -> Ratchet:
        """B, accepting."""
        public, dh = x25519_public(secret), agree(secret, ek)
        rk, cks, nhks = kdf_root(root, dh)
        trace |= {"ratchet_public": public, "dh_sending": dh, "rk": rk, "cks": cks, "nhks": nhks}
        return cls(rk, secret, public, Sending(cks, hk_ba, 0, 0, 0), None, nhks, hk_ab)

    @property
    def next_position(self) -> int:
        """The number of messages of the direction before the next one to send."""
        if self.sending is None or self.sending.n >= COUNTER_MAX:
            refuse("ratchet.exhausted")
        return self.sending.before + self.sending.n

    def seal(self, plaintext: bytes, nonce: bytes, tail: bytes, trace: Trace) -> tuple[Ratchet, bytes, int]:
        """A message without its session id, and its position among those of the ratchet."""
        position, chain = self.next_position, self.sending
        assert chain is not None
        header = self.public + u32(chain.pn) + u32(chain.n)
        sealed_header = secretbox(header, nonce, chain.hk)
        ck_next, mk = kdf_chain(chain.ck)
        trace |= {"hk": chain.hk, "ratchet_header": header, "ck": chain.ck, "ck_next": ck_next, "mk": mk}
        bk, kc = box_keys(mk, "am1-message", nonce + sealed_header + tail, trace)
        trace["box_content"] = plaintext
        after = replace(self, sending=replace(chain, ck=ck_next, n=chain.n + 1))
        return after, nonce + sealed_header + kc + secretbox(plaintext, nonce, bk), position

    def open_header(self, nonce: bytes, sealed: bytes, trace: Trace) -> tuple[Receiving | Past | None, bytes]:
        """The chain whose header key opens the sealed header, None for the next one, and the header."""
        current = [(self.receiving, self.receiving.hk)] if self.receiving else []
        past = [(chain, chain.hk) for chain in reversed(self.past)]
        for chain, hk in [*current, (None, self.nhkr), *past]:
            header = secretbox_open(sealed, nonce, hk)
            if header is not None:
                trace |= {"hk": hk, "ratchet_header": header}
                return chain, header
        refuse("message.unopened")

    def open(
        self, message: bytes, tail: bytes, now: int, secret: bytes | None, limits: dict[str, int], trace: Trace
    ) -> Opened:
        """Open a message without its session id: the table of section 6, then kc, then the box."""
        nonce, sealed_header, commitment, box = message[:24], message[24:80], message[80:112], message[112:]
        chain, header = self.open_header(nonce, sealed_header, trace)
        peer, pn, n = header[:32], int.from_bytes(header[32:36], "big"), int.from_bytes(header[36:], "big")
        turn = None
        if isinstance(chain, Receiving) and (peer != chain.peer or pn != chain.pn or n == COUNTER_MAX):
            refuse("message.contradiction")
        if isinstance(chain, Past) and n >= chain.length:
            refuse("message.contradiction")
        if chain is None:
            turn, rest = self._begin_turn(peer, pn, n, now, limits, trace)
            after, mk = turn._advance(turn.receiving, n, now, trace)
            after = replace(after, kept=self.kept + rest + after.kept)
            before = turn.receiving.before if turn.receiving else 0
        elif isinstance(chain, Receiving) and n >= chain.n:
            if n - chain.n > limits["skipped_keys_per_step"]:
                refuse("message.gap")
            advanced, mk = self._advance(chain, n, now, trace)
            after, before = replace(advanced, kept=self.kept + advanced.kept), chain.before
        else:
            mk = self._kept_key(chain.hk, n, now, limits)
            trace["mk"] = mk
            served = tuple(k for k in self.kept if (k.hk, k.n) != (chain.hk, n))
            after, before = replace(self, kept=served), chain.before
        bk, kc = box_keys(mk, "am1-message", nonce + sealed_header + tail, trace)
        if not hmac.compare_digest(kc, commitment):
            refuse("message.unopened")
        content = secretbox_open(box, nonce, bk)
        if content is None:
            refuse("message.unopened")
        trace["box_content"] = content

        def finish() -> Ratchet:
            return (after if turn is None else after._finish_turn(secret, trace))._tidied(now, limits)

        return Opened(finish, content, peer, n, before + n)

    def _begin_turn(
        self, peer: bytes, pn: int, n: int, now: int, limits: dict[str, int], trace: Trace
    ) -> tuple[Ratchet, tuple[Kept, ...]]:
        """Steps 1 and 2 of a turn, and the skipped keys of the old chain."""
        old = self.receiving
        expected = old.n if old else 0
        if pn < expected or (old is None and pn > 0) or n == COUNTER_MAX:
            refuse("message.contradiction")
        if pn - expected + n > limits["skipped_keys_per_step"]:
            refuse("message.gap")
        dh = agree(self.secret, peer)
        rest: list[Kept] = []
        past, before = self.past, 0
        if old is not None:
            ck = old.ck
            for number in range(expected, pn):
                ck, mk = kdf_chain(ck)
                rest.append(Kept(old.hk, number, mk, now))
            past, before = (*past, Past(old.hk, pn, old.before)), old.before + pn
        rk, ckr, nhkr = kdf_root(self.rk, dh)
        trace |= {"dh_receiving": dh, "rk_between": rk, "ckr": ckr, "nhkr": nhkr}
        chain = Receiving(ckr, self.nhkr, peer, pn, 0, before)
        return replace(self, rk=rk, receiving=chain, nhkr=nhkr, past=past), tuple(rest)

    def _finish_turn(self, secret: bytes | None, trace: Trace) -> Ratchet:
        """Steps 3 and 4 of a turn."""
        if secret is None or self.receiving is None:
            raise Unusable("the step takes a turn, and has no ratchet_secret")
        sent, before = (self.sending.n, self.sending.before) if self.sending else (0, 0)
        public, dh = x25519_public(secret), agree(secret, self.receiving.peer)
        rk, cks, nhks = kdf_root(self.rk, dh)
        trace |= {"ratchet_public": public, "dh_sending": dh, "rk": rk, "cks": cks, "nhks": nhks}
        sending = Sending(cks, self.nhks, sent, 0, before + sent)
        return replace(self, rk=rk, secret=secret, public=public, sending=sending, nhks=nhks)

    def _advance(self, chain: Receiving | None, n: int, now: int, trace: Trace) -> tuple[Ratchet, bytes]:
        """Step a chain up to n; the state's kept keys are then those that were skipped on the way."""
        assert chain is not None
        ck, skipped = chain.ck, []
        for number in range(chain.n, n):
            ck, mk = kdf_chain(ck)
            skipped.append(Kept(chain.hk, number, mk, now))
        ck_next, mk = kdf_chain(ck)
        trace |= {"ck": ck, "ck_next": ck_next, "mk": mk}
        return replace(self, receiving=replace(chain, ck=ck_next, n=n + 1), kept=tuple(skipped)), mk

    def _kept_key(self, hk: bytes, n: int, now: int, limits: dict[str, int]) -> bytes:
        lifetime = limits["skipped_key_lifetime_seconds"] * 1000
        for key in self.kept:
            if (key.hk, key.n) == (hk, n) and now - key.at <= lifetime:
                return key.mk
        refuse("message.duplicate")

    def _tidied(self, now: int, limits: dict[str, int]) -> Ratchet:
        """Without the chains and the keys that are no longer kept."""
        past = self.past[-KEPT_CHAINS:]
        chains = {chain.hk for chain in past} | ({self.receiving.hk} if self.receiving else set())
        lifetime = limits["skipped_key_lifetime_seconds"] * 1000
        kept = tuple(key for key in self.kept if key.hk in chains and now - key.at <= lifetime)
        return replace(self, past=past, kept=kept[-limits["skipped_keys_per_session"] :])


def ratchet_out(state: Ratchet) -> Json:
    """A state as README.md shows it."""
    sending, receiving = state.sending, state.receiving
    return {
        "rk": state.rk,
        "ratchet_secret": state.secret,
        "ratchet_public": state.public,
        "sending": sending and {"ck": sending.ck, "hk": sending.hk, "pn": sending.pn, "n": sending.n},
        "receiving": receiving
        and {
            "ck": receiving.ck,
            "hk": receiving.hk,
            "ratchet_public": receiving.peer,
            "pn": receiving.pn,
            "n": receiving.n,
        },
        "nhks": state.nhks,
        "nhkr": state.nhkr,
        "past": [{"hk": chain.hk, "length": chain.length} for chain in state.past],
        "skipped": [{"hk": key.hk, "n": key.n, "mk": key.mk, "kept_at_ms": key.at} for key in state.kept],
    }


def ratchet_in(given: Json) -> Ratchet:
    """The state of an input. It does not say what was before its chains; nothing in ratchet.run asks."""
    sending, receiving = given["sending"], given["receiving"]
    return Ratchet(
        rk=unhex(given["rk"]),
        secret=unhex(given["ratchet_secret"]),
        public=unhex(given["ratchet_public"]),
        sending=sending and Sending(unhex(sending["ck"]), unhex(sending["hk"]), sending["pn"], sending["n"], 0),
        receiving=receiving
        and Receiving(
            unhex(receiving["ck"]),
            unhex(receiving["hk"]),
            unhex(receiving["ratchet_public"]),
            receiving["pn"],
            receiving["n"],
            0,
        ),
        nhks=unhex(given["nhks"]),
        nhkr=unhex(given["nhkr"]),
        past=tuple(Past(unhex(chain["hk"]), chain["length"], 0) for chain in given["past"]),
        kept=tuple(Kept(unhex(key["hk"]), key["n"], unhex(key["mk"]), key["kept_at_ms"]) for key in given["skipped"]),
    )


# -- A session, sections 5.2 to 7 ------------------------------------------------------------------------------------


def make_accept(
    own: Identity,
    peer: str,
    mesh: str,
    keys: Json,
    ek: bytes,
    receipt: bytes,
    conditions: Json,
    step: Json,
    trace: Trace,
) -> tuple[Ratchet, bytes]:
    """B accepts: the ratchet after its first message, and the ACCEPT envelope."""
    secret, nonce = unhex(step["ratchet_secret"]), unhex(step["nonce"])
    ratchet = Ratchet.start_responder(keys["root"], keys["hk_ab"], keys["hk_ba"], secret, ek, trace)
    header = encode_header(ACCEPT, mesh, own.did, peer, step["now_ms"])
    offer = encode(conditions_of(conditions))
    signature = own.sign("accept", signed_header(header, keys["th"] + receipt + ratchet.public + offer))
    plaintext = bytes([ACCEPT_TYPE]) + encode([offer, signature])
    tail = keys["session_id"] + keys["th"] + header
    ratchet, message, _ = ratchet.seal(pad(plaintext), nonce, tail, trace)
    return ratchet, encode([header, keys["session_id"] + message])


@dataclass(frozen=True)
class PeerClose:
    """The close of the other side."""

    position: int
    data_sent: int
    at: int


@dataclass
class Session:
    """One side of one session. All values in it are immutable, so that a shallow copy is a snapshot."""

    own: Identity
    peer: bytes
    mesh: str
    limits: dict[str, int]
    keys: Json
    status: str
    ratchet: Ratchet | None = None
    conditions: list[Any] = field(default_factory=lambda: [None, None, None])
    accepted_at: int = 0
    data_sent: int = 0
    data_opened: int = 0
    latest_position: int = -1
    closed_at: int | None = None
    peer_close: PeerClose | None = None

    @classmethod
    def of(cls, given: Json) -> Session:
        """The session of an input of session.run."""
        hexes = ("th", "session_id", "root", "hk_ba", "hk_ab", "ephemeral", "ephemeral_secret", "knock_receipt")
        keys = {name: unhex(v) if name in hexes else v for name, v in given["session"].items()}
        own, peer = Identity(unhex(given["identity_seed"])), unhex(given["peer"])
        if given["role"] == "responder":
            return cls(own, peer, given["mesh"], limits_of(given), keys, "undecided")
        ratchet = Ratchet.start_initiator(keys["root"], keys["hk_ab"], keys["hk_ba"], keys["ephemeral_secret"])
        early = int(keys["early_payload"])
        return cls(own, peer, given["mesh"], limits_of(given), keys, "pending", ratchet, data_sent=early)

    @functools.cached_property
    def initiator(self) -> bool:
        """Whether this side is A."""
        return "ephemeral_secret" in self.keys

    def offset(self, from_initiator: bool) -> int:
        """What section 6.2 adds to the number of a message."""
        return (2 if self.keys["early_payload"] else 1) if from_initiator else 0

    @property
    def ends(self) -> int | None:
        """The end of the time to live."""
        ttl = self.conditions[1]
        return None if ttl is None else self.accepted_at + ttl * 1000

    @property
    def complete(self) -> bool:
        """Whether the peer closed, and nothing that it announced is missing."""
        return self.peer_close is not None and self.data_opened >= self.peer_close.data_sent

    def phase(self, now: int) -> str:
        """The phase of section 7."""
        if self.status == "pending":
            return "expired" if now > self.keys["expires_ms"] + PENDING_GRACE_MS else "pending"
        if self.status == "undecided":
            return "expired" if now > self.keys["expires_ms"] else "undecided"
        if self.status != "established":
            return self.status
        if self.complete:
            return "closed"
        closing_at = self.peer_close.at if self.peer_close else self.closed_at
        if closing_at is not None and now > closing_at + LATE_WINDOW_MS:
            return "truncated"
        if self._past_end(now - TOLERANCE_MS):
            return "expired" if closing_at is None else "truncated"
        return "established"

    def take(self, step: Json, trace: Trace) -> Json:
        """One step of session.run."""
        now = step["now_ms"]
        phase = self.phase(now)
        if phase != self.status:
            self.status, self.ratchet = phase, None
        steps: dict[str, Callable[[Json, int, Trace], Json]] = {
            "receive": self._receive,
            "accept": self._accept,
            "reject": self._reject,
            "send": self._send,
            "close": self._close,
            "poll": lambda *_: {},
        }
        if step["do"] not in steps:
            raise Unusable(f"unknown step {step['do']!r}")
        result = steps[step["do"]](step, now, trace)
        return result | {"phase": self.phase(now)}

    def _accept(self, step: Json, now: int, trace: Trace) -> Json:
        if self.status != "undecided":
            refuse("knock.not_pending")
        keys = self.keys
        self.ratchet, envelope = make_accept(
            self.own,
            did_of(self.peer),
            self.mesh,
            keys,
            keys["ephemeral"],
            keys["knock_receipt"],
            step["conditions"],
            step,
            trace,
        )
        self.status, self.accepted_at, self.conditions = "established", now, conditions_of(step["conditions"])
        self.data_opened = int(keys["early_payload"])
        return {"envelope": envelope}

    def _reject(self, step: Json, now: int, trace: Trace) -> Json:
        if self.status != "undecided":
            refuse("knock.not_pending")
        self.status = "rejected"
        receipt, retry = self.keys["knock_receipt"], step["retry_after_seconds"]
        recipient = did_of(self.peer)
        return {"envelope": build_reject(self.own, self.mesh, recipient, now, receipt, step["reason"], retry, trace)}

    def _seal(self, plaintext: bytes, now: int, step: Json, trace: Trace) -> tuple[bytes, int]:
        """An envelope of kind 4, and its position."""
        if self.ratchet is None or "nonce" not in step:
            raise Unusable("the step seals a message, and has no nonce")
        header = encode_header(MESSAGE, self.mesh, self.own.did, did_of(self.peer), now)
        tail = self.keys["session_id"] + self.keys["th"] + header
        self.ratchet, message, position = self.ratchet.seal(pad(plaintext), unhex(step["nonce"]), tail, trace)
        return encode([header, self.keys["session_id"] + message]), position + self.offset(self.initiator)

    def _past_end(self, time: int) -> bool:
        """Whether a time is past the time to live."""
        return self.ends is not None and time > self.ends

    def _check_open(self, now: int) -> None:
        """A side that closed, or was closed to, or is past the time to live, sends nothing."""
        closing = self.closed_at is not None or self.peer_close is not None
        if self.status != "established" or closing or self._past_end(now):
            refuse("session.not_open")

    def _check_conditions(self, action: str, position: int, code: str) -> None:
        most, _, actions = self.conditions
        if (most is not None and position > most) or (actions is not None and action not in actions):
            refuse(code)

    def _send(self, step: Json, now: int, trace: Trace) -> Json:
        self._check_open(now)
        assert self.ratchet is not None
        position = self.ratchet.next_position + self.offset(self.initiator)
        self._check_conditions(step["action"] or self.keys["action"], position, "session.condition")
        named = (step["action"] or "").encode()
        plaintext = bytes([DATA_TYPE, len(named)]) + named + unhex(step["plaintext"])
        envelope, position = self._seal(plaintext, now, step, trace)
        self.data_sent += 1
        return {"envelope": envelope, "number": position}

    def _close(self, step: Json, now: int, trace: Trace) -> Json:
        self._check_open(now)
        return {"envelope": self._make_close(step["reason"], now, step, trace)}

    def _make_close(self, reason: str, now: int, step: Json, trace: Trace) -> bytes:
        plaintext = bytes([CLOSE_TYPE]) + encode([reason, self.data_sent, self.data_opened])
        self.closed_at = now
        return self._seal(plaintext, now, step, trace)[0]

    def _receive(self, step: Json, now: int, trace: Trace) -> Json:
        envelope = take_envelope(unhex(step["envelope"]), self.limits, self.own, self.mesh)
        if envelope.kind == KNOCK:
            check_knock_time(parse_knock(envelope), envelope, now)
            refuse("knock.unknown_bundle")
        if envelope.kind == REJECT:
            return self._receive_reject(envelope)
        return self._receive_message(envelope, step, now, trace)

    def _receive_reject(self, envelope: Envelope) -> Json:
        receipt, reason, retry, content, signature = parse_reject(envelope)
        known = self.status == "pending" and hmac.compare_digest(receipt, self.keys["knock_receipt"])
        if not known or envelope.sender != did_of(self.peer):
            refuse("verdict.unmatched")
        verify(self.peer, "reject", signed_header(envelope.header, content), signature)
        self.status, self.ratchet = "rejected", None
        return {"event": "rejected", "reason": reason, "retry_after_seconds": retry}

    def _receive_message(self, envelope: Envelope, step: Json, now: int, trace: Trace) -> Json:
        """The table of section 6.1."""
        session_id, message = split_session_id(envelope)
        if session_id != self.keys["session_id"] or self.status == "undecided":
            refuse("message.unknown_session")
        if envelope.sender != did_of(self.peer):
            refuse("envelope.sender")
        if self.status not in ("pending", "established") or self.ratchet is None:
            refuse("message.closed_session")
        if self.status == "pending" and envelope.kind == MESSAGE:
            self.ratchet.open_header(message[:24], message[24:80], trace)
            refuse("message.not_yet")
        if len(envelope.body) < 144:
            refuse("wire.malformed")
        tail = session_id + self.keys["th"] + envelope.header
        secret = unhex(step["ratchet_secret"]) if "ratchet_secret" in step else None
        opened = self.ratchet.open(message, tail, now, secret, self.limits, trace)
        plaintext = unpad(opened.content)
        kind, content = plaintext[:1], plaintext[1:]
        if kind == b"" or (envelope.kind == ACCEPT) != (kind[0] == ACCEPT_TYPE):
            refuse("message.refused")
        position = opened.position + self.offset(not self.initiator)
        if kind[0] == ACCEPT_TYPE:
            result = self._take_accept(envelope, opened, content, now)
        else:
            if self.peer_close is not None and position > self.peer_close.position:
                refuse("message.after_close")
            if kind[0] == DATA_TYPE:
                result = self._take_data(envelope, content, position)
            elif kind[0] == CLOSE_TYPE:
                result = self._take_close(envelope, content, position, now)
            else:
                refuse("message.refused")
        self.ratchet = opened.finish()
        self.latest_position = max(self.latest_position, position)
        if kind[0] == CLOSE_TYPE:
            result["envelope"] = None
            if self.closed_at is None and not self._past_end(now):
                trace["answer"] = {}
                result["envelope"] = self._make_close("", now, step, trace["answer"])
        return result

    def _check_time(self, envelope: Envelope) -> None:
        if self._past_end(envelope.time):
            refuse("message.condition")

    def _take_accept(self, envelope: Envelope, opened: Opened, content: bytes, now: int) -> Json:
        if self.status != "pending" or opened.n != 0:
            refuse("message.refused")
        offer, signature = unpack(content, is_bin, is_bin, code="message.refused")
        signed = self.keys["th"] + self.keys["knock_receipt"] + opened.peer + offer
        verify(self.peer, "accept", signed_header(envelope.header, signed), signature)
        forms = (or_nil(is_uint), or_nil(is_uint), or_nil(array_of(is_action, 256)))
        self.conditions = unpack(offer, *forms, code="message.refused")
        self.status, self.accepted_at = "established", envelope.time
        if self._past_end(now - TOLERANCE_MS):
            refuse("message.condition")
        return {"event": "established", "conditions": conditions_out(self.conditions)}

    def _take_data(self, envelope: Envelope, content: bytes, position: int) -> Json:
        size = content[0] if content else refuse("message.refused")
        if size > 128 or len(content) < 1 + size:
            refuse("message.refused")
        try:
            action = content[1 : 1 + size].decode() or self.keys["action"]
        except UnicodeDecodeError:
            refuse("message.refused")
        data = content[1 + size :]
        if len(data) > self.limits["plaintext_max_bytes"]:
            refuse("wire.too_large")
        self._check_conditions(action, position, "message.condition")
        self._check_time(envelope)
        self.data_opened += 1
        return {"event": "message", "plaintext": data, "action": action, "number": position}

    def _take_close(self, envelope: Envelope, content: bytes, position: int, now: int) -> Json:
        reason, sent, opened = unpack(content, text_of(0, 128), is_uint, is_uint, code="message.refused")
        if position < self.latest_position:
            refuse("message.refused")
        self._check_time(envelope)
        self.peer_close = PeerClose(position, sent, now)
        missing = max(0, sent - self.data_opened)
        return {"event": "closed", "reason": reason, "missing": missing, "peer_opened": opened}


def split_session_id(envelope: Envelope) -> tuple[bytes, bytes]:
    """The session id of a body of kind 2 or 4, and the rest."""
    if len(envelope.body) < 16:
        refuse("wire.malformed")
    return envelope.body[:16], envelope.body[16:]


def parse_reject(envelope: Envelope) -> tuple[bytes, str, int, bytes, bytes]:
    """Receipt, reason, advice, content and signature of a REJECT (section 5.2)."""
    if len(envelope.body) > REJECT_MAX_BYTES:
        refuse("wire.too_large")
    content, signature = unpack(envelope.body, is_bin, is_bin)
    receipt, reason, retry = unpack(content, exactly(32), is_text, is_uint)
    if reason not in ("busy", "bundle", "policy", "stale"):
        refuse("wire.malformed")
    return receipt, reason, retry, content, signature


# -- B's gate, section 5.1 -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Knock:
    """The inner part of a KNOCK, and what signs it."""

    identity: bytes
    ref: bytes
    ephemeral: bytes
    ciphertext: bytes
    expires: int
    sealed: bytes
    inner: bytes
    signature: bytes


def parse_knock(envelope: Envelope) -> Knock:
    """Body and inner of a KNOCK, section 5."""
    inner, signature = unpack(envelope.body, is_bin, is_bin)
    fields = unpack(inner, exactly(32), exactly(32), exactly(32), exactly(1088), is_uint, is_bin)
    return Knock(*fields, inner=inner, signature=signature)


def check_knock_time(knock: Knock, envelope: Envelope, now: int) -> None:
    """The times of step 1."""
    if envelope.time > now + TOLERANCE_MS:
        refuse("knock.future")
    lives = envelope.time < knock.expires <= envelope.time + KNOCK_LIFETIME_MAX_MS
    if now > knock.expires + TOLERANCE_MS or not lives:
        refuse("knock.expired")


def open_intent(
    own: Identity, envelope: Envelope, knock: Knock, th: bytes, prekey: bytes, seed: bytes, trace: Trace
) -> tuple[Handshake, bytes]:
    """The keys of a KNOCK, and the content of its sealed intent."""
    keys = respond(own, knock.identity, knock.ephemeral, knock.ciphertext, th, prekey, seed, trace)
    trace["content"] = unpad(open_sealed(keys.intent_key, "am1-intent", envelope.header, knock.sealed, {}))
    return keys, trace["content"]


@dataclass
class Budget:
    """A token bucket: nothing is spent at first, `back` tokens come back each period."""

    size: int
    period_ms: int
    back: int = 1
    spent: int = 0
    since: int = 0

    def available(self, now: int) -> bool:
        """Refill, and tell whether there is a token."""
        if self.spent == 0:
            self.since = now
        periods = max(0, now - self.since) // self.period_ms
        self.spent, self.since = max(0, self.spent - periods * self.back), self.since + periods * self.period_ms
        return self.spent < self.size

    def spend(self, now: int) -> bool:
        """Take a token, if there is one."""
        if not self.available(now):
            return False
        self.spent += 1
        return True


@dataclass
class Published:
    """A bundle that B published, with its secrets while it has them."""

    ref: bytes
    bundle_class: int
    not_before: int
    not_after: int
    secrets: tuple[bytes, bytes] | None
    failed: Budget

    def has_secrets(self, now: int) -> bool:
        """Whether the secrets are still there: they go with the validity at the latest."""
        return self.secrets is not None and now <= self.not_after + TOLERANCE_MS

    def serves(self, knock: Knock, now: int) -> bool:
        """Whether the bundle is unused and valid, and the KNOCK does not outlive it."""
        valid = self.not_before - TOLERANCE_MS <= now <= self.not_after + TOLERANCE_MS
        return self.has_secrets(now) and valid and knock.expires <= self.not_after


@dataclass
class Remembered:
    """What B remembers of a KNOCK, by its th."""

    receipt: bytes
    sender: str
    expires: int
    until: int
    repeats: Budget
    answer: bytes | None = None


@dataclass
class Held:
    """A session that a KNOCK began."""

    envelope: Envelope
    knock: Knock
    keys: Handshake
    fresh: int
    early_payload: bytes | None
    status: str = "undecided"
    ends: int | None = None

    def open_at(self, now: int) -> bool:
        """Whether the session counts as open, section 7."""
        if self.status == "undecided":
            return now <= self.knock.expires
        return self.status == "established" and (self.ends is None or now <= self.ends + TOLERANCE_MS)


class Gate:
    """B, who takes KNOCKs. A refusal changes budgets and the memory of step 4 alone."""

    def __init__(self, given: Json) -> None:
        self.own = Identity(unhex(given["identity_seed"]))
        self.mesh = given["mesh"]
        self.limits = limits_of(given)
        self.blocked = set(given.get("blocked", []))
        self.policy = given.get("policy")
        self.bundles: dict[bytes, Published] = {}
        for b in given["bundles"]:
            ref, secrets = unhex(b["bundle_ref"]), (unhex(b["prekey_secret"]), unhex(b["kem_seed"]))
            failed = self._budget("failed_checks_per_bundle", "failed_checks_refill_seconds")
            self.bundles[ref] = Published(ref, b["class"], b["not_before_ms"], b["not_after_ms"], secrets, failed)
        per_second = self.limits["signature_checks_per_second"]
        self.checks = Budget(per_second, 1000, per_second)
        self.rates: dict[str, Budget] = {}
        self.peers: dict[str, bytes] = {}
        self.memory: dict[bytes, Remembered] = {}
        self.latest: dict[str, int] = {}
        self.held: list[Held] = []

    def _budget(self, size: str, period: str) -> Budget:
        return Budget(self.limits[size], self.limits[period] * 1000)

    def take(self, step: Json, trace: Trace) -> Json:
        """One step of knock.run."""
        if step["do"] == "receive":
            return self._receive(step, step["now_ms"], trace)
        if step["do"] not in ("accept", "reject"):
            raise Unusable(f"unknown step {step['do']!r}")
        held = self.held[-1] if self.held else refuse("knock.not_pending")
        if held.status != "undecided" or not held.open_at(step["now_ms"]):
            refuse("knock.not_pending")
        if step["do"] == "reject":
            held.status = "rejected"
            return {"envelope": self._rejection(held.envelope, held.keys.th, step)}
        return self._accept(held, step["conditions"], step, trace)

    def _receive(self, step: Json, now: int, trace: Trace) -> Json:
        envelope = take_envelope(unhex(step["envelope"]), self.limits, self.own, self.mesh)
        if envelope.kind == REJECT:
            parse_reject(envelope)
            refuse("verdict.unmatched")
        if envelope.kind != KNOCK:
            split_session_id(envelope)
            refuse("message.unknown_session")
        knock = parse_knock(envelope)
        check_knock_time(knock, envelope, now)
        if envelope.sender in self.blocked:
            refuse("knock.not_admitted")
        bundle = self._authenticate(envelope, knock, now)
        th = transcript_hash(
            self.mesh, knock.identity, self.own.key, knock.ref, knock.ephemeral, knock.ciphertext, knock.expires, {}
        )
        answer = self._repeat(envelope, th, now)
        if answer is not None:
            return {"event": "answered", "envelope": answer}
        self._remember(envelope, knock, th, now)
        rate = self.rates.setdefault(envelope.sender, self._budget("knocks_per_identity", "knock_refill_seconds"))
        if not rate.spend(now):
            return self._rejected(envelope, th, "busy", now)
        if not bundle.serves(knock, now):
            return self._rejected(envelope, th, "bundle", now)
        held, content = self._open(envelope, knock, th, bundle)
        self.memory[th].until = max(self.memory[th].until, bundle.not_after + TOLERANCE_MS)
        if bundle.bundle_class == 1:
            bundle.secrets = None
        return self._decide(held, content, bundle, step, now, trace)

    def _authenticate(self, envelope: Envelope, knock: Knock, now: int) -> Published:
        """Step 3."""
        bundle = self.bundles.get(knock.ref)
        if bundle is None or now > bundle.not_after + TOLERANCE_MS:
            refuse("knock.unknown_bundle")
        if did_of(knock.identity) != envelope.sender:
            refuse("envelope.sender")
        if self.peers.get(envelope.sender, knock.identity) != knock.identity:
            refuse("identity.conflict")
        if bundle.bundle_class == 1 and not bundle.failed.available(now):
            refuse("knock.busy")
        if not self.checks.spend(now):
            refuse("knock.busy")
        try:
            verify(knock.identity, "knock", signed_header(envelope.header, knock.inner), knock.signature)
        except Refused:
            bundle.failed.spend(now)
            raise
        return bundle

    def _repeat(self, envelope: Envelope, th: bytes, now: int) -> bytes | None:
        """Step 4: the answer to a KNOCK that is known, None for a new one."""
        self.memory = {key: known for key, known in self.memory.items() if now <= known.until}
        known = self.memory.get(th)
        if known is None:
            return None
        if known.receipt != envelope.receipt or known.answer is None or now > known.expires:
            refuse("knock.replayed")
        if not known.repeats.spend(now):
            refuse("knock.answer_overdue")
        return known.answer

    def _remember(self, envelope: Envelope, knock: Knock, th: bytes, now: int) -> None:
        """Step 4: th is remembered before anything is charged."""
        of_sender = sum(known.sender == envelope.sender for known in self.memory.values())
        full = len(self.memory) >= self.limits["remembered_knocks"]
        if full or of_sender >= self.limits["remembered_knocks_per_identity"]:
            refuse("knock.busy")
        repeats = self._budget("answers_per_knock", "answer_refill_seconds")
        until = knock.expires + TOLERANCE_MS
        self.memory[th] = Remembered(envelope.receipt, envelope.sender, knock.expires, until, repeats)

    def _open(self, envelope: Envelope, knock: Knock, th: bytes, bundle: Published) -> tuple[Held, list[Any]]:
        """Step 5."""
        assert bundle.secrets is not None
        limits = self.limits
        is_intent = array_of(lambda _: True, 3)
        try:
            keys, content = open_intent(self.own, envelope, knock, th, *bundle.secrets, trace={})
            intent, early_payload, fresh = unpack(content, is_intent, or_nil(is_bin), is_uint)
            forms = (is_action, array_of(text_of(0, 128), limits["capabilities_max"]), is_bin)
            if len(intent) != 3 or not all(form(value) for form, value in zip(forms, intent, strict=True)):
                refuse("knock.unopened")
            if len(intent[2]) > limits["intent_detail_max_bytes"] or fresh not in (0, 1):
                refuse("knock.unopened")
            if early_payload is not None and len(early_payload) > limits["plaintext_max_bytes"]:
                refuse("knock.unopened")
        except Refused:
            refuse("knock.unopened")
        return Held(envelope, knock, keys, fresh, early_payload), intent

    def _decide(self, held: Held, intent: list[Any], bundle: Published, step: Json, now: int, trace: Trace) -> Json:
        """Step 6."""
        envelope, th = held.envelope, held.keys.th
        sender = envelope.sender
        self.peers[sender] = held.knock.identity
        stale = sender in self.latest and envelope.time <= self.latest[sender]
        self.latest[sender] = max(envelope.time, self.latest.get(sender, 0))
        if stale:
            return self._rejected(envelope, th, "stale", now)
        sessions = [other for other in self.held if other.open_at(now)]
        others = [other for other in sessions if other.envelope.sender == sender and not self._superseded(other, held)]
        if len(others) >= OPEN_SESSIONS_PER_PEER or len(sessions) >= self.limits["sessions_max"]:
            return self._rejected(envelope, th, "busy", now)
        policy = self.policy
        if policy is not None and policy["decision"] == "reject":
            return self._rejected(envelope, th, policy["reason"], now, policy["retry_after_seconds"])
        if policy is not None and policy["decision"] == "accept":
            self.held.append(held)
            accepted = self._accept(held, policy["conditions"], step, trace)
            return {"event": "accepted", "session_id": held.keys.session_id} | accepted
        if policy is not None:
            raise Unusable("unknown decision")
        if now > held.knock.expires:
            return self._rejected(envelope, th, "stale", now)
        if self.undecided(now) >= self.limits["undecided_knocks"]:
            return self._rejected(envelope, th, "busy", now)
        self.held.append(held)
        action, capabilities, detail = intent
        return {
            "event": "knock",
            "initiator": held.knock.identity,
            "class": bundle.bundle_class,
            "action": action,
            "capabilities": capabilities,
            "detail": detail,
            "early_payload": held.early_payload,
            "fresh": held.fresh,
            "receipt": envelope.receipt,
        } | held.keys.named("th", "session_id", "root", "hk_ba", "hk_ab")

    @staticmethod
    def _superseded(other: Held, by: Held) -> bool:
        """Whether accepting a KNOCK with fresh = 1 would supersede a session, section 7."""
        same = other.envelope.sender == by.envelope.sender and other.envelope.time < by.envelope.time
        return by.fresh == 1 and same and other.status == "established"

    def _accept(self, held: Held, conditions: Json, step: Json, trace: Trace) -> Json:
        keys = held.keys.named("th", "session_id", "root", "hk_ba", "hk_ab")
        peer, receipt = held.envelope.sender, held.envelope.receipt
        _, envelope = make_accept(
            self.own, peer, self.mesh, keys, held.knock.ephemeral, receipt, conditions, step, trace
        )
        for other in self.held:
            if self._superseded(other, held):
                other.status = "superseded"
        ttl = conditions["ttl_seconds"]
        held.status, held.ends = "established", None if ttl is None else step["now_ms"] + ttl * 1000
        self.memory[held.keys.th].answer = envelope
        return {"envelope": envelope, "early_payload": held.early_payload}

    def _rejection(self, envelope: Envelope, th: bytes, verdict: Json) -> bytes:
        now, reason, retry = verdict["now_ms"], verdict["reason"], verdict["retry_after_seconds"]
        answer = build_reject(self.own, self.mesh, envelope.sender, now, envelope.receipt, reason, retry, {})
        self.memory[th].answer = answer
        return answer

    def _rejected(self, envelope: Envelope, th: bytes, reason: str, now: int, retry_after: int = 0) -> Json:
        verdict = {"now_ms": now, "reason": reason, "retry_after_seconds": retry_after}
        return {"event": "rejected", "reason": reason, "envelope": self._rejection(envelope, th, verdict)}

    def undecided(self, now: int) -> int:
        """How many KNOCKs wait for the application."""
        return sum(held.status == "undecided" and held.open_at(now) for held in self.held)

    def bundles_left(self, now: int) -> list[bytes]:
        """The bundle_refs whose secrets are still there."""
        return [bundle.ref for bundle in self.bundles.values() if bundle.has_secrets(now)]


# -- The operations of README.md -------------------------------------------------------------------------------------


def unhex(text: str) -> bytes:
    """A byte string of a vector."""
    if not isinstance(text, str) or re.fullmatch("([0-9a-f]{2})*", text) is None:
        raise Unusable("not lower-case hexadecimal")
    return bytes.fromhex(text)


def did_derive(given: Json, trace: Trace) -> Json:
    """did.derive."""
    key = unhex(given["public_key"])
    trace["sha256"] = hashlib.sha256(key).digest()
    trace["hash"] = trace["sha256"][:20]
    return {"did": did_of(key)}


def keys_identity(given: Json, trace: Trace) -> Json:
    """keys.identity."""
    own = Identity(unhex(given["seed"]))
    trace["sha512_first_half"] = hashlib.sha512(own.seed).digest()[:32]
    return {
        "public_key": own.key,
        "did": own.did,
        "x25519_secret": own.dh_secret,
        "x25519_public": x25519_public(own.dh_secret),
    }


def keys_sign(given: Json, trace: Trace) -> Json:
    """keys.sign."""
    body = unhex(given["body"])
    trace["signed"] = label_of(given["label"]) + body
    return {"signature": Identity(unhex(given["seed"])).sign(given["label"], body)}


def keys_verify(given: Json, _: Trace) -> Json:
    """keys.verify."""
    verify(unhex(given["public_key"]), given["label"], unhex(given["body"]), unhex(given["signature"]))
    return {}


def keys_kem_check(given: Json, _: Trace) -> Json:
    """keys.kem_check."""
    check_kem_key(unhex(given["kem_key"]))
    return {}


def kdf_hash(given: Json, trace: Trace) -> Json:
    """kdf.hash."""
    trace["personalisation"] = personalisation(given["label"])
    return {"derived": kdf(unhex(given["key"]), given["label"], unhex(given["data"]), given["length"])}


def aead_seal(given: Json, trace: Trace) -> Json:
    """aead.seal."""
    key, context, plaintext, nonce = (unhex(given[name]) for name in ("key", "context", "plaintext", "nonce"))
    return {"sealed": seal(key, given["label"], context, plaintext, nonce, trace)}


def aead_open(given: Json, trace: Trace) -> Json:
    """aead.open."""
    key, context, sealed = (unhex(given[name]) for name in ("key", "context", "sealed"))
    return {"plaintext": open_sealed(key, given["label"], context, sealed, trace)}


def bundle_issue(given: Json, trace: Trace) -> Json:
    """bundle.issue."""
    own = Identity(unhex(given["identity_seed"]))
    prekey, kem_key = x25519_public(unhex(given["prekey_secret"])), kem_public(unhex(given["kem_seed"]))
    validity = given["not_before_ms"], given["not_after_ms"]
    body = encode([1, given["class"], given["mesh"], own.key, prekey, kem_key, *validity])
    signature = own.sign("bundle", body)
    trace |= {"identity": own.key, "prekey": prekey, "body": body}
    trace |= {"signed": label_of("bundle") + body, "signature": signature}
    return {"bundle": encode([body, signature]), "bundle_ref": hashlib.sha256(body).digest()}


def bundle_verify(given: Json, _: Trace) -> Json:
    """bundle.verify."""
    bundle = verify_bundle(unhex(given["bundle"]), given["did"], given["mesh"], given["now_ms"])
    return {
        "class": bundle.bundle_class,
        "identity": bundle.identity,
        "prekey": bundle.prekey,
        "kem_key": bundle.kem_key,
        "not_before_ms": bundle.not_before,
        "not_after_ms": bundle.not_after,
        "bundle_ref": bundle.ref,
    }


def handshake_initiate(given: Json, trace: Trace) -> Json:
    """handshake.initiate."""
    _, ek, keys = initiate(given, given["now_ms"], trace)
    return {"ephemeral": ek} | keys.named(*ALL_KEYS)


def handshake_respond(given: Json, trace: Trace) -> Json:
    """handshake.respond."""
    own, mesh, expires = Identity(unhex(given["identity_seed"])), given["mesh"], given["expires_ms"]
    names = ("initiator", "bundle_ref", "ephemeral", "kem_ciphertext", "prekey_secret", "kem_seed")
    initiator, ref, ek, ct, prekey, seed = (unhex(given[name]) for name in names)
    th = transcript_hash(mesh, initiator, own.key, ref, ek, ct, expires, trace)
    return respond(own, initiator, ek, ct, th, prekey, seed, trace).named(*ALL_KEYS)


def envelope_build(given: Json, _: Trace) -> Json:
    """envelope.build."""
    header = encode_header(*(given[name] for name in ("kind", "mesh", "sender", "recipient", "time_ms")))
    return {"header": header, "envelope": encode([header, unhex(given["body"])])}


def envelope_parse(given: Json, _: Trace) -> Json:
    """envelope.parse."""
    envelope = parse_envelope(unhex(given["envelope"]), limits_of(given))
    return {
        "kind": envelope.kind,
        "mesh": envelope.mesh,
        "sender": envelope.sender,
        "recipient": envelope.recipient,
        "time_ms": envelope.time,
        "header": envelope.header,
        "body": envelope.body,
    }


def receipt_compute(given: Json, trace: Trace) -> Json:
    """receipt.compute."""
    envelope = parse_envelope(unhex(given["envelope"]), limits_of(given))
    trace["hashed"] = label_of("receipt") + envelope.data
    return {"receipt": envelope.receipt}


def knock_build(given: Json, trace: Trace) -> Json:
    """knock.build."""
    own, mesh, expires = Identity(unhex(given["identity_seed"])), given["mesh"], given["expires_ms"]
    bundle, ek, keys = initiate(given, given["time_ms"], trace)
    header = encode_header(KNOCK, mesh, own.did, given["did"], given["time_ms"])
    early_payload = None if given["early_payload"] is None else unhex(given["early_payload"])
    intent = [given["action"], given["capabilities"], unhex(given["detail"])]
    content = encode([intent, early_payload, given["fresh"]])
    sealed = seal(keys.intent_key, "am1-intent", header, pad(content), unhex(given["nonce"]), {})
    inner = encode([own.key, bundle.ref, ek, unhex(given["kem_ciphertext"]), expires, sealed])
    signature = own.sign("knock", signed_header(header, inner))
    trace |= {"header": header, "content": content, "padded": pad(content), "sealed": sealed}
    trace |= {"inner": inner, "signature": signature}
    data = encode([header, encode([inner, signature])])
    receipt = parse_envelope(data, LIMITS).receipt
    return {"envelope": data, "receipt": receipt, "ephemeral": ek} | keys.named(*ALL_KEYS)


def reject_build(given: Json, trace: Trace) -> Json:
    """reject.build."""
    own, receipt = Identity(unhex(given["identity_seed"])), unhex(given["knock_receipt"])
    recipient, time, reason, retry = (given[k] for k in ("recipient", "time_ms", "reason", "retry_after_seconds"))
    return {"envelope": build_reject(own, given["mesh"], recipient, time, receipt, reason, retry, trace)}


Step = Callable[[Json, Trace], Json]


def run_steps(steps: list[Json], trace: Trace, take: Step) -> tuple[list[Json], str]:
    """The results of the steps, and the code of the file."""
    results, code = [], "ok"
    trace["steps"] = []
    for step in steps:
        values: Trace = {}
        try:
            results.append({"expect": "ok"} | take(step, values))
        except Refused as refused:
            code = refused.code
            results.append({"expect": code})
        trace["steps"].append(values)
    return results, code


def first_knock_values(given: Json) -> Trace:
    """The values of section 5 of the first KNOCK, whatever the gate made of it."""
    own, trace = Identity(unhex(given["identity_seed"])), {}
    envelope = parse_envelope(unhex(given["steps"][0]["envelope"]), limits_of(given))
    knock = parse_knock(envelope)
    secrets = [b for b in given["bundles"] if unhex(b["bundle_ref"]) == knock.ref]
    ek, ct = knock.ephemeral, knock.ciphertext
    th = transcript_hash(given["mesh"], knock.identity, own.key, knock.ref, ek, ct, knock.expires, trace)
    for bundle in secrets:
        open_intent(own, envelope, knock, th, unhex(bundle["prekey_secret"]), unhex(bundle["kem_seed"]), trace)
    return trace


def knock_run(given: Json, trace: Trace) -> tuple[Json, str]:
    """knock.run."""
    gate = Gate(given)
    results, code = run_steps(given["steps"], trace, gate.take)
    if code == "ok":
        trace["steps"][0] |= first_knock_values(given)
    now = given["steps"][-1]["now_ms"]
    return {"steps": results, "bundles_left": gate.bundles_left(now), "undecided": gate.undecided(now)}, code


def session_run(given: Json, trace: Trace) -> tuple[Json, str]:
    """session.run. Each step works on a copy, which a refusal drops."""
    session = Session.of(given)

    def take(step: Json, values: Trace) -> Json:
        nonlocal session
        trial = copy.copy(session)
        result = trial.take(step, values)
        session = trial
        return result

    results, code = run_steps(given["steps"], trace, take)
    output: Json = {"steps": results}
    phase = session.phase(given["steps"][-1]["now_ms"])
    if phase not in ("pending", "undecided"):
        output |= {"data_sent": session.data_sent, "data_opened": session.data_opened}
    if code == "ok" and session.ratchet is not None and phase in ("pending", "established"):
        output["state"] = ratchet_out(session.ratchet)
    return output, code


def ratchet_run(given: Json, trace: Trace) -> tuple[Json, str]:
    """ratchet.run."""
    context, limits = unhex(given["context"]), limits_of(given)
    if "state" in given:
        state = ratchet_in(given["state"])
    else:
        names = ("root", "hk_ab", "hk_ba", "ephemeral_secret", "ephemeral", "ratchet_secret")
        start = {name: unhex(given["start"][name]) for name in names if name in given["start"]}
        keys = start["root"], start["hk_ab"], start["hk_ba"]
        if given["start"]["role"] == "initiator":
            state = Ratchet.start_initiator(*keys, start["ephemeral_secret"])
        else:
            trace["start"] = {}
            state = Ratchet.start_responder(*keys, start["ratchet_secret"], start["ephemeral"], trace["start"])

    def take(step: Json, values: Trace) -> Json:
        nonlocal state
        if step["do"] == "seal":
            state, message, _ = state.seal(unhex(step["plaintext"]), unhex(step["nonce"]), context, values)
            return {"message": message}
        if step["do"] != "open":
            raise Unusable(f"unknown step {step['do']!r}")
        message = unhex(step["message"])
        if len(message) < 128:
            refuse("wire.malformed")
        secret = unhex(step["ratchet_secret"]) if "ratchet_secret" in step else None
        opened = state.open(message, context, step["now_ms"], secret, limits, values)
        state = opened.finish()
        return {"plaintext": opened.content}

    results, code = run_steps(given["steps"], trace, take)
    output: Json = {"steps": results}
    if code == "ok":
        output |= {"state": ratchet_out(state)} if len(state.kept) <= 16 else {"skipped_count": len(state.kept)}
    return output, code


ONE_CALL: dict[str, Step] = {
    "did.derive": did_derive,
    "did.parse": lambda given, _: {"hash": parse_did(given["did"])},
    "keys.identity": keys_identity,
    "keys.convert": lambda given, _: {"x25519_public": to_x25519(unhex(given["public_key"]))},
    "keys.sign": keys_sign,
    "keys.verify": keys_verify,
    "keys.agree": lambda given, _: {"shared_secret": agree(unhex(given["secret"]), unhex(given["public"]))},
    "keys.kem_key": lambda given, _: {"kem_key": kem_public(unhex(given["kem_seed"]))},
    "keys.kem_check": keys_kem_check,
    "keys.kem_decapsulate": lambda given, _: {
        "kem_shared_secret": decapsulate(unhex(given["kem_seed"]), unhex(given["kem_ciphertext"]))
    },
    "kdf.hash": kdf_hash,
    "kdf.root": lambda given, _: dict(
        zip(("rk_next", "ck", "nhk"), kdf_root(unhex(given["rk"]), unhex(given["dh"])), strict=True)
    ),
    "kdf.chain": lambda given, _: dict(zip(("ck_next", "mk"), kdf_chain(unhex(given["ck"])), strict=True)),
    "aead.seal": aead_seal,
    "aead.open": aead_open,
    "padding.length": lambda given, _: {"padded_lengths": [padme(length) for length in given["lengths"]]},
    "padding.pad": lambda given, _: {"padded": pad(unhex(given["plaintext"]))},
    "padding.unpad": lambda given, _: {"plaintext": unpad(unhex(given["padded"]))},
    "bundle.issue": bundle_issue,
    "bundle.verify": bundle_verify,
    "handshake.initiate": handshake_initiate,
    "handshake.respond": handshake_respond,
    "envelope.build": envelope_build,
    "envelope.parse": envelope_parse,
    "receipt.compute": receipt_compute,
    "knock.build": knock_build,
    "reject.build": reject_build,
}
WITH_STEPS: dict[str, Callable[[Json, Trace], tuple[Json, str]]] = {
    "knock.run": knock_run,
    "session.run": session_run,
    "ratchet.run": ratchet_run,
}
# The operations of a family, where they do not begin with its name.
FAMILIES = {
    "did": ("did.",),
    "keys": ("keys.",),
    "kdf": ("kdf.",),
    "aead": ("aead.",),
    "padding": ("padding.",),
    "bundle": ("bundle.",),
    "handshake": ("handshake.",),
    "envelope": ("envelope.",),
    "receipt": ("receipt.",),
    "knock": ("knock.",),
    "accept": ("session.",),
    "reject": ("reject.", "session."),
    "ratchet": ("ratchet.",),
    "message": ("session.",),
}


# -- Comparing -------------------------------------------------------------------------------------------------------


def plain(value: Any) -> Any:
    """A result as JSON has it."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {key: plain(element) for key, element in value.items()}
    if isinstance(value, list | tuple):
        return [plain(element) for element in value]
    return value


def shown(value: Any) -> str:
    """A value in at most some 80 characters."""
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:60]}... ({len(text)} characters)"


def differences(where: str, wanted: Any, got: Any, partly: bool = False) -> Iterator[str]:
    """Where two JSON values differ. With `partly` an object may have more members than are wanted."""
    if isinstance(wanted, dict) and isinstance(got, dict):
        for key in wanted:
            if key not in got:
                yield f"{where}.{key}: wanted {shown(wanted[key])}, got nothing"
            else:
                yield from differences(f"{where}.{key}", wanted[key], got[key], partly)
        if not partly:
            yield from (f"{where}.{key}: wanted nothing, got {shown(got[key])}" for key in got if key not in wanted)
    elif isinstance(wanted, list) and isinstance(got, list) and len(wanted) == len(got):
        for index, (one, other) in enumerate(zip(wanted, got, strict=True)):
            yield from differences(f"{where}[{index}]", one, other, partly)
    elif type(wanted) is not type(got) or wanted != got:
        yield f"{where}: wanted {shown(wanted)}, got {shown(got)}"


def run(vector: Json) -> tuple[str, Json, Trace]:
    """The code, the output and the values on the way that this implementation has for a vector's input."""
    operation, given, trace = vector["operation"], vector["input"], {}
    if vector["version"] != 1:
        raise Unusable("unknown version")
    if not operation.startswith(FAMILIES.get(vector["family"], ())):
        raise Unusable(f"no operation {operation!r} in a family {vector['family']!r}")
    if operation in WITH_STEPS:
        output, code = WITH_STEPS[operation](given, trace)
        return code, output, trace
    if operation not in ONE_CALL:
        raise Unusable(f"unknown operation {operation!r}")
    try:
        return "ok", ONE_CALL[operation](given, trace), trace
    except Refused as refused:
        return refused.code, {}, trace


def check(path: Path) -> tuple[str, bool, list[str]]:
    """A file's family, whether it is a valid one, and what is wrong with it."""
    family, valid = path.parent.name, False
    try:
        vector = json.loads(path.read_text(encoding="utf-8"))
        family, valid = vector["family"], vector["expect"] == "ok"
        code, output, trace = run(vector)
        wrong = list(differences("expect", vector["expect"], code))
        wrong += differences("output", vector["output"], plain(output))
        wrong += differences("intermediate", vector["intermediate"], plain(trace), partly=True)
        if vector["name"] != path.stem:
            wrong.append(f"name: {vector['name']!r} is not the file's")
    except Exception as error:
        return family, valid, [f"cannot be run: {type(error).__name__}: {error}"]
    return family, valid, wrong


def main(arguments: list[str] | None = None) -> int:
    """Check the files, print what was found, and return the exit status."""
    parser = argparse.ArgumentParser(prog="verify.py", description="Check the test vectors, independently.")
    parser.add_argument("path", nargs="*", type=Path, default=[Path(__file__).resolve().parent / "v1"])
    paths = parser.parse_args(arguments).path
    if missing := [str(path) for path in paths if not path.exists()]:
        parser.error(f"no such file or folder: {', '.join(missing)}")
    files = [file for path in paths for file in ([path] if path.is_file() else sorted(path.rglob("*.json")))]
    counts: dict[str, Counter[str]] = {}
    passed = 0
    for file in files:
        family, valid, wrong = check(file)
        count = counts.setdefault(family, Counter())
        count.update(["files", "valid" if valid else "invalid", "failed" if wrong else "passed"])
        passed += not wrong
        for line in wrong:
            print(f"{file}: {line}")
    for family, count in counts.items():
        numbers = ", ".join(f"{count[name]} {name}" for name in ("files", "valid", "invalid", "passed"))
        print(f"{family}: {numbers}")
    print(f"{passed} passed, {len(files) - passed} failed")
    return 0 if files and passed == len(files) else 1


if __name__ == "__main__":
    sys.exit(main())
