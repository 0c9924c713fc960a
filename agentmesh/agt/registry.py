"""AGT's registry: the HTTP requests to it, and what its answers are held to (docs/agt.md).

The caller moves them. The registry is not believed: a bundle has to prove that it is of the DID that was asked for. A
signed header serves whoever sees it for five minutes, for any request: so the caller should have TLS.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Final, final

from attrs import field, frozen

from agentmesh.agt.encoding import read_object, timestamp, unbase64, url64, write_object
from agentmesh.agt.frames import read_counter
from agentmesh.agt_identity import AgtIdentity, AgtIdentityKey, key_of, mesh_did_argument
from agentmesh.errors import ArgumentInvalid, BundleIdentityMismatch, Malformed, RegistryRefused
from agentmesh.limits import CAPABILITY_MAX_BYTES, COUNTER_MAX
from agentmesh.outgoing import Withholding
from agentmesh.primitives import _crypto
from agentmesh.primitives.arguments import received_argument, text_argument, texts_argument, uint_argument
from agentmesh.primitives.keys import Signature, X25519PublicKey

PAGE_MAX: Final = 200  # results that one search gives at most

_KEY_BYTES: Final = 32
_TEXT_MAX_BYTES: Final = 1024
_CAPABILITIES_MAX: Final = 64
_UNRESERVED: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


# --- requests --------------------------------------------------------------------------------------------------------


@final
@frozen(repr=False)
class HttpRequest(Withholding):
    """A request for the caller to make.

    Attributes:
        method: GET, POST, PUT or DELETE.
        path: What follows the registry's address, query included.
        headers: What to send; whoever sees them can make requests in this agent's name for five minutes.
        body: What to send, or nothing.
    """

    withheld: ClassVar[tuple[str, ...]] = ("body",)
    method: str
    path: str
    headers: dict[str, str] = field(factory=dict)
    body: bytes = b""

    def __repr__(self) -> str:
        body = f"<{len(self.body)} bytes>" if self.can_read("body") else "<withheld>"
        return f"HttpRequest({self.method} {self.path}, headers=<{len(self.headers)}>, body={body})"


@final
@frozen
class SignedPublic:
    """A signed prekey, as it is uploaded.

    Attributes:
        key_id: Its number, 0 to 2^32 - 1. A KNOCK does not name it.
        public: The X25519 key, 32 bytes.
        signature: The identity's signature over these 32 bytes alone, 64 bytes.
    """

    key_id: int
    public: X25519PublicKey
    signature: Signature


@final
@frozen
class OneTimePublic:
    """A one-time prekey, as it is uploaded.

    Attributes:
        key_id: Its number, 0 to 2^32 - 1, which a KNOCK names.
        public: The X25519 key, 32 bytes.
    """

    key_id: int
    public: X25519PublicKey


def sign_prekey(identity: AgtIdentity, key_id: int, public: X25519PublicKey) -> SignedPublic:
    """Return a prekey with the identity's signature over its 32 bytes."""
    return SignedPublic(uint_argument("key_id", key_id, COUNTER_MAX), public, identity.sign(public))


def registration(
    identity: AgtIdentity,
    now_ms: int,
    *,
    capabilities: Iterable[str] = (),
    metadata: Mapping[str, str] | None = None,
) -> HttpRequest:
    """Return what makes this identity known, with proof that it holds its key.

    Args:
        identity: Whose.
        now_ms: The time, milliseconds since the epoch; the registry's clock may differ by five minutes.
        capabilities: What it can be found by, at most 64 of at most 128 bytes; AGT's clients put their name here.
        metadata: Texts by name, which anybody may read.

    Raises:
        ArgumentInvalid: an argument of another form.
    """
    names = texts_argument("capabilities", capabilities, 1, CAPABILITY_MAX_BYTES, most=_CAPABILITIES_MAX)
    public_key, time = url64(identity.key.raw), timestamp(now_ms)
    body = {
        "public_key": public_key,
        "proof": url64(identity.sign((public_key + time).encode("ascii"))),  # of the text, not of the key's bytes
        "proof_timestamp": time,
        "capabilities": list(names),
        "metadata": _metadata({} if metadata is None else metadata),
    }
    return _with_body("POST", "/v1/agents", {}, body)


def upload(identity: AgtIdentity, now_ms: int, signed: SignedPublic, one_time: Iterable[OneTimePublic]) -> HttpRequest:
    """Return what publishes prekeys. It replaces all that were published: give each that is to be had."""
    body = {
        "identity_key": url64(identity.key.dh),
        "identity_key_ed": url64(identity.key.raw),
        "signed_pre_key": {**_prekey(signed), "signature": url64(signed.signature)},
        "one_time_pre_keys": [_prekey(prekey) for prekey in one_time],
    }
    return _with_body("PUT", _path(identity.did, "/prekeys"), _authorization(identity, now_ms), body)


def fetch(did: str) -> HttpRequest:
    """Return what asks for an agent's keys. The registry gives out one of the one-time prekeys, to anybody who asks.

    Raises:
        ArgumentInvalid: `did` is no `did:mesh` DID.
    """
    return HttpRequest("GET", _path(did, "/prekeys"))


def describe(did: str) -> HttpRequest:
    """Return what asks for what is known of an agent; its key is not.

    Raises:
        ArgumentInvalid: `did` is no `did:mesh` DID.
    """
    return HttpRequest("GET", _path(did, ""))


def discover(capability: str, limit: int = 20) -> HttpRequest:
    """Return what asks for the agents of a capability.

    Raises:
        ArgumentInvalid: no text of 1 to 128 bytes, or a limit that is not 1 to 200.
    """
    wanted = text_argument("capability", capability, 1, CAPABILITY_MAX_BYTES).encode()
    quoted = "".join(chr(byte) if byte in _UNRESERVED else f"%{byte:02X}" for byte in wanted)
    return HttpRequest(
        "GET", f"/v1/discover?capability={quoted}&limit={uint_argument('limit', limit, PAGE_MAX, minimum=1)}"
    )


def presence(did: str) -> HttpRequest:
    """Return what asks when an agent was last seen.

    Raises:
        ArgumentInvalid: `did` is no `did:mesh` DID.
    """
    return HttpRequest("GET", _path(did, "/presence"))


def heartbeat(identity: AgtIdentity, now_ms: int) -> HttpRequest:
    """Return what tells the registry that this agent lives; at most every ten seconds. The relay has its own."""
    return HttpRequest("POST", _path(identity.did, "/heartbeat"), _authorization(identity, now_ms))


def withdrawal(identity: AgtIdentity, now_ms: int) -> HttpRequest:
    """Return what makes this identity unknown again."""
    return HttpRequest("DELETE", _path(identity.did, ""), _authorization(identity, now_ms))


def reputation(identity: AgtIdentity, now_ms: int, did: str, score: float, reason: str) -> HttpRequest:
    """Return what rates another agent.

    Args:
        identity: Who rates.
        now_ms: The time, milliseconds since the epoch.
        did: The other agent; the registry refuses one's own.
        score: 0 to 1.
        reason: Why, at most 1024 bytes of text.

    Raises:
        ArgumentInvalid: an argument of another form.
    """
    if type(score) not in (int, float) or not 0 <= score <= 1:
        raise ArgumentInvalid("score", "not a number from 0 to 1")
    body = {"score": score, "reason": text_argument("reason", reason, 0, _TEXT_MAX_BYTES)}
    path = _path(mesh_did_argument("did", did, own=identity.did), "/reputation")
    return _with_body("POST", path, _authorization(identity, now_ms), body)


def _path(did: str, rest: str) -> str:
    return f"/v1/agents/{mesh_did_argument('did', did)}{rest}"


def _authorization(identity: AgtIdentity, now_ms: int) -> dict[str, str]:
    time = timestamp(now_ms)
    signature = url64(identity.sign(time.encode("ascii")))
    return {"Authorization": f"Ed25519-Timestamp {identity.did} {time} {signature}"}


def _with_body(method: str, path: str, headers: dict[str, str], body: dict[str, Any]) -> HttpRequest:
    return HttpRequest(method, path, {"Content-Type": "application/json", **headers}, write_object(body))


def _prekey(prekey: SignedPublic | OneTimePublic) -> dict[str, Any]:
    return {"key_id": uint_argument("key_id", prekey.key_id, COUNTER_MAX), "public_key": url64(prekey.public)}


def _metadata(metadata: Mapping[str, str]) -> dict[str, str]:
    if not isinstance(metadata, Mapping) or len(metadata) > _CAPABILITIES_MAX:
        raise ArgumentInvalid("metadata", "not at most 64 texts by name")
    given = {name: metadata[name] for name in metadata}
    return {_metadatum(name): _metadatum(text) for name, text in given.items()}


def _metadatum(text: object) -> str:
    return text_argument("metadata", text, 0, _TEXT_MAX_BYTES)


# --- answers ---------------------------------------------------------------------------------------------------------

_WHY: Final = {
    400: "the registry cannot read a key in the request",
    401: "the proof or the time in it was not taken: compare the clocks, and register first",
    403: "this identity may not do that to this DID",
    404: "the registry knows no such agent, or no prekeys of it: register, or have the peer upload",
    409: "the DID is registered already",
    422: "the registry wants another request: it may be of another release",
    429: "too soon: wait before the next request",
}


@final
@frozen
class FetchedBundle:
    """An agent's keys that proved to be those of the DID that was asked for.

    Attributes:
        key: Who it is.
        signed_id: The number of the signed prekey.
        signed: The signed prekey, whose signature verified under `key`.
        one_time_id: The number of the one-time prekey, or `None` where the registry has none left.
        one_time: The one-time prekey, or `None`. Nothing signs it: the registry may have given any.
    """

    key: AgtIdentityKey
    signed_id: int
    signed: X25519PublicKey
    one_time_id: int | None
    one_time: X25519PublicKey | None


def read_answer(status: int, body: bytes, max_bytes: int) -> dict[str, Any]:
    """Return the object that the registry answered with; an empty one where it answered with nothing.

    Args:
        status: The answer's status.
        body: Its body.
        max_bytes: How large it may be.

    Raises:
        ArgumentInvalid: no status, no bytes, or no size.
        RegistryRefused: the status is none of success. `status` and `why` say more; the body is not looked at.
        TooLarge: more than `max_bytes`; nothing was parsed.
        Malformed: no JSON object.
    """
    if not 200 <= uint_argument("status", status, 999) < 300:
        raise RegistryRefused(status, _WHY.get(status, "the registry failed" if status >= 500 else ""))
    body = received_argument("body", body, uint_argument("max_bytes", max_bytes))
    return read_object(body, max_bytes) if body else {}


def read_bundle(did: str, body: bytes, max_bytes: int) -> FetchedBundle:
    """Return the keys that the registry answered `fetch` with.

    Its clients check the prekey's signature alone. Here the key that it verifies under must be that of the DID, and the
    X25519 identity key its image: else a registry could put itself in between.

    Args:
        did: Whom they were asked for.
        body: The answer's body; where the status may be another than 200, `read_answer` says what that means.
        max_bytes: How large it may be.

    Raises:
        ArgumentInvalid: `did` is no `did:mesh` DID, no bytes, or no size.
        TooLarge: more than `max_bytes`; nothing was parsed.
        Malformed: no JSON object, or a field that is missing or out of its form.
        BundleIdentityMismatch: the keys are another identity's.
        BadIdentityKey: the identity's key is one that no honest agent has.
        BadSignature: the prekey's signature does not verify.
        BadPoint: a prekey in an encoding that no honest client writes.
    """
    did = mesh_did_argument("did", did)
    bundle = read_object(received_argument("body", body, uint_argument("max_bytes", max_bytes)), max_bytes)
    key = key_of(did, unbase64(bundle.get("identity_key_ed"), _KEY_BYTES))
    if unbase64(bundle.get("identity_key"), _KEY_BYTES) != key.dh:
        raise BundleIdentityMismatch
    signed_id, signed, fields = _read_prekey(bundle.get("signed_pre_key"))
    key.verify_bare(signed, unbase64(fields.get("signature"), _crypto.SIGNATURE_BYTES))
    one_time_id, one_time = None, None
    if bundle.get("one_time_pre_key") is not None:
        one_time_id, one_time, _ = _read_prekey(bundle["one_time_pre_key"])
    return FetchedBundle(key, signed_id, signed, one_time_id, one_time)


def _read_prekey(prekey: object) -> tuple[int, X25519PublicKey, dict[str, Any]]:
    if type(prekey) is not dict:
        raise Malformed
    public = unbase64(prekey.get("public_key"), _KEY_BYTES)
    _crypto.check_x25519_encoding(public)
    return read_counter(prekey.get("key_id")), X25519PublicKey(public), prekey
