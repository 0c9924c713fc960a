"""The frames of AGT's relay: one JSON object each, built and read (docs/agt.md).

The relay authenticates a frame's `from` when it takes the frame, and nobody anything else: the clear fields are claims
until a message has opened. Fields that are not known are passed over, as the peers do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeAlias, final
from uuid import UUID

from attrs import field, frozen

from agentmesh.agt.encoding import read_object, read_timestamp, std64, timestamp, unbase64, write_object
from agentmesh.agt_identity import AgtIdentity, parse_mesh_did
from agentmesh.envelope import receipt_of
from agentmesh.errors import ArgumentInvalid, Malformed, TooLarge, UnknownVersion
from agentmesh.handshake.prekeys import BundleClass
from agentmesh.limits import ACTION_MAX_BYTES, COUNTER_MAX
from agentmesh.outgoing import Outgoing
from agentmesh.primitives import _crypto, _wire
from agentmesh.primitives.arguments import received_argument
from agentmesh.primitives.entropy import Entropy
from agentmesh.primitives.keys import Receipt, SessionId, X25519PublicKey

FRAME_MAX_BYTES: Final = 1 << 20  # what leaves: a larger one never reaches a client of kars, and nobody is told
RELAY_MAX_BYTES: Final = 16 << 20  # what the relay itself takes

ESTABLISH: Final = "establish_session"  # what every client's KNOCK asks for
DENIED: Final = "policy_denied"  # what a client's refusal says

_VERSION: Final = 1
_KEY_BYTES: Final = 32
_HEADER_BYTES: Final = _KEY_BYTES + 4 + 4
_SEALED_MIN_BYTES: Final = 12 + 16  # nonce and tag
FRAME_ID_MAX_BYTES: Final = 128  # all clients send 36
_DETAIL_MAX_CHARS: Final = 200
# More than all of a message's frame but its ciphertext, with the blanks of a relay that writes the JSON anew.
_FRAMING_BYTES: Final = 512
MESSAGE_MAX_BYTES: Final = _HEADER_BYTES + (FRAME_MAX_BYTES - _FRAMING_BYTES) // 4 * 3


# --- what leaves -----------------------------------------------------------------------------------------------------


@frozen(repr=False)
class AgtFrame(Outgoing):
    """A frame to hand to the relay, as one text of the WebSocket. Send it once, and never again.

    Attributes:
        envelope: The JSON, ASCII.
    """

    @property
    def text(self) -> str:
        """The frame as text: what a WebSocket takes."""
        return self.envelope.decode("ascii")

    @property
    def receipt(self) -> Receipt:
        """The receipt of the frame's fields (`frame_receipt`); of one that no peer gets, that of its bytes."""
        try:
            return frame_receipt(parse_frame(self.envelope, RELAY_MAX_BYTES))
        except UnknownVersion:
            return receipt_of(self.envelope)


@final
@frozen(repr=False, kw_only=True)
class AgtSealed(AgtFrame):
    """A data message.

    Attributes:
        number: Its number in the session, counted from 1.
        frame_id: The frame's id, which the relay and the peer know it by.
    """

    number: int
    frame_id: str


@final
@frozen(repr=False, kw_only=True)
class AgtKnock(AgtFrame):
    """A KNOCK. Nothing need be waited for: messages may follow at once.

    Attributes:
        session_id: The session that it begins, 16 bytes; on this side alone.
        bundle_class: Whether the fetched bundle had a one-time prekey.
        frame_id: The frame's id, which an answer names.
    """

    session_id: SessionId
    bundle_class: BundleClass
    frame_id: str


def frame_id(entropy: Entropy) -> str:
    """Return a fresh id: a random UUID, as text.

    Raises:
        RandomnessFailed: the source broke its contract.
    """
    return str(UUID(bytes=entropy.token(16), version=4))


def connect_frame(identity: AgtIdentity, now_ms: int, token: str | None = None) -> bytes:
    """Return the first frame of a connection. Its signature covers the timestamp alone: keep it to this relay."""
    time = timestamp(now_ms)
    return write_object(
        {
            "v": _VERSION,
            "type": "connect",
            "from": identity.did,
            "public_key": std64(identity.key.raw),
            "timestamp": time,
            "signature": std64(identity.sign(time.encode("ascii"))),
            **({} if token is None else {"token": token}),
        }
    )


def heartbeat_frame(sender: str, now_ms: int) -> bytes:
    """Return a sign of life."""
    return write_object({"v": _VERSION, "type": "heartbeat", "from": sender, "ts": timestamp(now_ms)})


def disconnect_frame(sender: str) -> bytes:
    """Return the last frame of a connection."""
    return write_object({"v": _VERSION, "type": "disconnect", "from": sender})


def ack_frame(frame_id: str | float) -> bytes:
    """Return what has the relay forget a frame that it stored, by its id as it came: a broken one's may be no text."""
    return write_object({"v": _VERSION, "type": "ack", "id": frame_id})


def _routed(kind: str, sender: str, recipient: str, frame_id: str) -> dict[str, Any]:
    return {"v": _VERSION, "type": kind, "from": sender, "to": recipient, "id": frame_id}


def knock_frame(
    sender: str,
    recipient: str,
    frame_id: str,
    now_ms: int,
    *,
    dh: X25519PublicKey,
    ephemeral: X25519PublicKey,
    one_time_id: int | None,
    action: str = ESTABLISH,
) -> bytes:
    """Return a KNOCK. `one_time_id` is `None` where the bundle had no one-time prekey; 0 is an id as any other."""
    establishment: dict[str, Any] = {"ik": std64(dh), "ek": std64(ephemeral)}
    if one_time_id is not None:
        establishment["otk"] = one_time_id
    frame = _routed("knock", sender, recipient, frame_id)
    return write_object(
        {**frame, "ts": timestamp(now_ms), "intent": {"action": action}, "establishment": establishment}
    )


def message_frame(sender: str, recipient: str, frame_id: str, now_ms: int, message: bytes) -> bytes:
    """Return a message.

    Args:
        sender: This agent's DID.
        recipient: The peer's DID.
        frame_id: A fresh id.
        now_ms: The time, milliseconds since the epoch.
        message: dh (32) || pn (4) || n (4) || nonce (12) || ciphertext || tag, as agentmesh.agt.suite makes it; at most
            `MESSAGE_MAX_BYTES`.

    Raises:
        ArgumentInvalid: it is longer, so the frame would reach some peers and silently not reach others.
    """
    if len(message) > MESSAGE_MAX_BYTES:
        raise ArgumentInvalid("data", "over the limit", len(message), MESSAGE_MAX_BYTES)
    header = {
        "dh": std64(message[:_KEY_BYTES]),
        "pn": int.from_bytes(message[_KEY_BYTES : _KEY_BYTES + 4], "big"),
        "n": int.from_bytes(message[_KEY_BYTES + 4 : _HEADER_BYTES], "big"),
    }
    frame = _routed("message", sender, recipient, frame_id)
    return write_object(
        {**frame, "ts": timestamp(now_ms), "header": header, "ciphertext": std64(message[_HEADER_BYTES:])}
    )


def accept_frame(sender: str, recipient: str, frame_id: str, now_ms: int, knock_id: str) -> bytes:
    """Return the acceptance of a KNOCK, named by its frame's id."""
    frame = _routed("knock_accept", sender, recipient, frame_id)
    return write_object({**frame, "knock_id": knock_id, "ts": timestamp(now_ms)})


def reject_frame(sender: str, recipient: str, frame_id: str, now_ms: int, knock_id: str, reason: str = DENIED) -> bytes:
    """Return the refusal of a KNOCK, named by its frame's id."""
    frame = _routed("knock_reject", sender, recipient, frame_id)
    return write_object({**frame, "knock_id": knock_id, "reason": reason, "ts": timestamp(now_ms)})


# --- what comes ------------------------------------------------------------------------------------------------------


def _hidden(_value: object) -> str:
    return "<redacted>"


def _size(value: bytes) -> str:
    return f"<{len(value)} bytes>"


@final
@frozen(kw_only=True)
class KnockFrame:
    """A KNOCK as it came: all of it is a claim.

    Attributes:
        sender: Who is said to knock, a `did:mesh` DID; the relay compared it with the connection.
        recipient: Whom the frame is for.
        frame_id: Its id, 1 to 128 bytes of text that the peer chose.
        time_ms: When it was made, by its `ts`; 0 where that is missing or not to be read. Nobody vouches for it.
        action: What is asked for, 1 to 128 bytes.
        dh: The sender's X25519 identity key, 32 bytes; `identity_of_dh` compares it with `sender`.
        ephemeral: The X25519 key of this KNOCK, 32 bytes.
        one_time_id: Which one-time prekey it uses, 0 to 2^32 - 1, or `None`.
    """

    sender: str
    recipient: str
    frame_id: str = field(repr=_hidden)
    time_ms: int
    action: str = field(repr=_hidden)
    dh: X25519PublicKey = field(repr=_size)
    ephemeral: X25519PublicKey = field(repr=_size)
    one_time_id: int | None


@final
@frozen(kw_only=True)
class MessageFrame:
    """A message as it came. The attributes that it shares with `KnockFrame` mean the same.

    Attributes:
        message: dh (32) || pn (4) || n (4) || nonce (12) || ciphertext || tag, as agentmesh.agt.suite takes it.
    """

    sender: str
    recipient: str
    frame_id: str = field(repr=_hidden)
    time_ms: int
    message: bytes = field(repr=_size)


@final
@frozen(kw_only=True)
class VerdictFrame:
    """An acceptance or refusal of a KNOCK as it came. The attributes that it shares with `KnockFrame` mean the same.

    Attributes:
        knock_id: Which KNOCK it says that it answers, by the id of that one's frame.
        accepted: Which of the two it is.
        reason: Why it was refused, in the peer's words, at most 128 bytes; empty where none is given.
    """

    sender: str
    recipient: str
    frame_id: str = field(repr=_hidden)
    time_ms: int
    knock_id: str = field(repr=_hidden)
    accepted: bool
    reason: str = field(repr=_hidden)


@final
@frozen
class RelayNotice:
    """What the relay has against something that this side sent. No peer is at fault, and nothing is to acknowledge.

    Attributes:
        detail: Its words, at most 200 characters; for a person to read.
    """

    detail: str = field(repr=_hidden)


Routed: TypeAlias = KnockFrame | MessageFrame | VerdictFrame


def parse_frame(data: bytes | str, max_bytes: int) -> Routed | RelayNotice:
    """Return what a frame from the relay says. Nothing of it is authenticated yet.

    Args:
        data: A text of the WebSocket, or its UTF-8.
        max_bytes: How large it may be: `limits.envelope_max_bytes`.

    Raises:
        ArgumentInvalid: neither text nor bytes.
        TooLarge: more than `max_bytes`; nothing was parsed.
        Malformed: no JSON object, or a field that is missing or out of its form.
        BadDid: `from` or `to` is no `did:mesh` DID.
        BadPoint: a key in an encoding that no honest client writes.
        UnknownVersion: another type of frame, or version.
    """
    frame = frame_object(data, max_bytes)
    kind = frame.get("type")
    if type(kind) is not str:
        raise Malformed
    if kind == "error":
        detail = frame.get("detail")
        return RelayNotice(detail[:_DETAIL_MAX_CHARS] if type(detail) is str else "")
    read = _READERS.get(kind)
    version = frame.get("v", _VERSION)  # no peer looks at it
    if read is None or type(version) is not int or version != _VERSION:
        raise UnknownVersion
    return read(frame)


def frame_object(data: bytes | str, max_bytes: int) -> dict[str, Any]:
    """Return the JSON object of a frame.

    Raises:
        ArgumentInvalid: neither text nor bytes.
        TooLarge: more than `max_bytes`; nothing was parsed.
        Malformed: no such object.
    """
    if isinstance(data, str):
        if len(data) > max_bytes:  # a character is a byte at least
            raise TooLarge(len(data), max_bytes)
        try:
            data = str.encode(data)
        except UnicodeEncodeError:
            data = b""
    return read_object(received_argument("data", data, max_bytes), max_bytes)


def _read_knock(frame: dict[str, Any]) -> KnockFrame:
    intent, establishment = frame.get("intent"), frame.get("establishment")
    if type(establishment) is not dict or type(intent) not in (dict, type(None)):
        raise Malformed
    action = ESTABLISH if intent is None or intent.get("action") is None else intent["action"]
    one_time_id = establishment.get("otk")
    return KnockFrame(
        **_routing(frame),
        action=_text(action, 1, ACTION_MAX_BYTES),
        dh=_point(establishment.get("ik")),
        ephemeral=_point(establishment.get("ek")),
        one_time_id=None if one_time_id is None else read_counter(one_time_id),
    )


def _read_message(frame: dict[str, Any]) -> MessageFrame:
    header = frame.get("header")
    sealed = unbase64(frame.get("ciphertext"))
    if type(header) is not dict or len(sealed) < _SEALED_MIN_BYTES:
        raise Malformed
    counters = (read_counter(header.get(name)).to_bytes(4, "big") for name in ("pn", "n"))
    return MessageFrame(**_routing(frame), message=b"".join((_point(header.get("dh")), *counters, sealed)))


def _read_accept(frame: dict[str, Any]) -> VerdictFrame:
    return VerdictFrame(**_routing(frame), knock_id=_frame_id(frame.get("knock_id")), accepted=True, reason="")


def _read_reject(frame: dict[str, Any]) -> VerdictFrame:
    reason = frame.get("reason")
    return VerdictFrame(
        **_routing(frame),
        knock_id=_frame_id(frame.get("knock_id")),
        accepted=False,
        reason="" if reason is None else _text(reason, 0, FRAME_ID_MAX_BYTES),
    )


_READERS: Final[dict[str, Callable[[dict[str, Any]], Routed]]] = {
    "knock": _read_knock,
    "message": _read_message,
    "knock_accept": _read_accept,
    "knock_reject": _read_reject,
}


def _routing(frame: dict[str, Any]) -> dict[str, Any]:
    try:
        time_ms = read_timestamp(frame.get("ts"))
    except Malformed:
        time_ms = 0
    return {
        "sender": parse_mesh_did(frame.get("from")),
        "recipient": parse_mesh_did(frame.get("to")),
        "frame_id": _frame_id(frame.get("id")),
        "time_ms": time_ms,
    }


def _frame_id(value: object) -> str:
    return _text(value, 1, FRAME_ID_MAX_BYTES)


def _text(value: object, minimum: int, maximum: int) -> str:
    if type(value) is not str or not minimum <= len(value.encode()) <= maximum:
        raise Malformed
    return value


def _point(value: object) -> X25519PublicKey:
    key = unbase64(value, _KEY_BYTES)
    _crypto.check_x25519_encoding(key)
    return X25519PublicKey(key)


def read_counter(value: object) -> int:
    """Return a number or id of the wire.

    Raises:
        Malformed: not an int from 0 to 2^32 - 1; no bool or float is one.
    """
    if type(value) is not int or not 0 <= value <= COUNTER_MAX:
        raise Malformed
    return value


# --- receipts --------------------------------------------------------------------------------------------------------


def frame_receipt(frame: Routed | RelayNotice) -> Receipt:
    """Return the receipt of a frame, 32 bytes: that of its type and fields, because the relay writes the JSON anew.

    The time is no part of it: nobody vouches for it, and a sender and a recipient are to name the same.
    """
    parts: list[Any]
    if isinstance(frame, RelayNotice):
        parts = ["error", frame.detail]
    elif isinstance(frame, KnockFrame):
        parts = ["knock", frame.action, frame.dh, frame.ephemeral, frame.one_time_id]
    elif isinstance(frame, MessageFrame):
        parts = ["message", frame.message]
    else:
        parts = ["knock_accept" if frame.accepted else "knock_reject", frame.knock_id, frame.reason]
    if not isinstance(frame, RelayNotice):
        parts += [frame.sender, frame.recipient, frame.frame_id]
    return receipt_of(_wire.encode(parts))
