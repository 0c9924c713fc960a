"""KNOCK and REJECT, and what they give: section 5."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from verifier.common import KNOCK_LIFETIME_MAX_MS, REJECT, REJECT_MAX_BYTES, TOLERANCE_MS, Json, Trace, refuse, unhex
from verifier.encoding import at_least, encode, exactly, is_bin, is_text, is_uint, prefixed, unpack
from verifier.primitives import (
    agree,
    check_x25519,
    decapsulate,
    kdf,
    label_of,
    open_sealed,
    to_x25519,
    unpad,
    x25519_public,
)
from verifier.structures import Bundle, Envelope, Identity, encode_header, verify_bundle


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
    """The transcript hash `th`, section 5."""
    listed = prefixed(mesh.encode(), ik_a, ik_b, ref, ek, ct, expires.to_bytes(8, "big"))
    th = kdf(b"", "am1-transcript", listed, 64)
    trace |= {"ephemeral": ek, "list": listed, "th": th}
    return th


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
    identity, ref, ephemeral, ciphertext, expires, sealed = unpack(
        inner, exactly(32), exactly(32), exactly(32), exactly(1088), is_uint, at_least(136)
    )
    return Knock(identity, ref, ephemeral, ciphertext, expires, sealed, inner, signature)


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


def parse_reject(envelope: Envelope) -> tuple[bytes, str, int, bytes, bytes]:
    """Receipt, reason, advice, content and signature of a REJECT (section 5.2)."""
    if len(envelope.body) > REJECT_MAX_BYTES:
        refuse("wire.too_large")
    content, signature = unpack(envelope.body, is_bin, is_bin)
    receipt, reason, retry = unpack(content, exactly(32), is_text, is_uint)
    if reason not in ("busy", "bundle", "policy", "stale"):
        refuse("wire.malformed")
    return receipt, reason, retry, content, signature
