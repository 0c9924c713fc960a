"""Identity, bundle and envelope: sections 2 to 4."""

from __future__ import annotations

import functools
import hashlib
import re
from dataclasses import dataclass
from typing import Any

import nacl.signing

from verifier.common import ACCEPT, BUNDLE_MAX_BYTES, HEADER_MAX_BYTES, KNOCK, MESSAGE, REJECT, TOLERANCE_MS, refuse
from verifier.encoding import encode, exactly, is_bin, is_mesh, is_text, is_uint, text_of, unpack
from verifier.primitives import check_kem_key, check_x25519, label_of, verify

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
        body, is_uint, is_uint, text_of(1, 64), exactly(32), exactly(32), exactly(1184), is_uint, is_uint
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


def split_session_id(envelope: Envelope) -> tuple[bytes, bytes]:
    """The session id of a body of kind 2 or 4, and the rest."""
    if len(envelope.body) < 16:
        refuse("wire.malformed")
    return envelope.body[:16], envelope.body[16:]
