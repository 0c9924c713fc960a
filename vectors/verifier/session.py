"""One side of a session: sections 5.2, 6.1, 6.2, 6.4 and 7."""

from __future__ import annotations

import functools
import hmac
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from verifier.acks import Owed, Range, Ranges
from verifier.common import (
    ACCEPT,
    ACCEPT_TYPE,
    CLOSE_TYPE,
    COUNTER_MAX,
    DATA_TYPE,
    KNOCK,
    LATE_WINDOW_MS,
    MESSAGE,
    MESSAGE_MIN_BYTES,
    PENDING_GRACE_MS,
    REJECT,
    SIGNAL_TYPE,
    TOLERANCE_MS,
    Json,
    Trace,
    Unusable,
    limits_of,
    refuse,
    unhex,
)
from verifier.content import (
    ANSWER,
    OFFER,
    Parts,
    check_offer,
    close_plaintext,
    data_plaintext,
    read_action,
    read_close,
    read_data,
    read_signal,
    signal_plaintext,
)
from verifier.encoding import array_of, encode, is_action, is_bin, is_uint, or_nil, unpack
from verifier.epochs import encapsulated_of
from verifier.handshake import (
    build_reject,
    check_knock_time,
    conditions_of,
    conditions_out,
    parse_knock,
    parse_reject,
    signed_header,
)
from verifier.primitives import pad, unpad, verify
from verifier.ratchet import SEALED_END, Opened, Ratchet
from verifier.structures import Envelope, Identity, did_of, encode_header, split_session_id, take_envelope


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
    ratchet, message = ratchet.seal(pad(plaintext), nonce, tail, trace)
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
    opened: Ranges = field(default_factory=Ranges)
    delivered: Ranges = field(default_factory=Ranges)
    owed: Owed = field(default_factory=Owed)
    acknowledge: bool = False
    told_ahead: bool = False
    latest_position: int = -1
    closed_at: int | None = None
    peer_close: PeerClose | None = None
    heard: bool = False  # A has sealed a message, or B has opened one
    superseded_at: int | None = None
    ended_at: int | None = None

    @classmethod
    def of(cls, given: Json) -> Session:
        """The session of an input of session.run."""
        hexes = ("th", "session_id", "root", "hk_ba", "hk_ab", "ephemeral", "ephemeral_secret", "knock_receipt")
        keys = {name: unhex(v) if name in hexes else v for name, v in given["session"].items()}
        own, peer = Identity(unhex(given["identity_seed"])), unhex(given["peer"])
        if given["role"] == "responder":
            session = cls(own, peer, given["mesh"], limits_of(given), keys, "undecided")
            session.acknowledge = given.get("acknowledge", False)
            return session
        ratchet = Ratchet.start_initiator(keys["root"], keys["hk_ab"], keys["hk_ba"], keys["ephemeral_secret"])
        session = cls(own, peer, given["mesh"], limits_of(given), keys, "pending", ratchet)
        session.data_sent = int(keys["early_payload"])
        session.acknowledge = given.get("acknowledge", False)
        return session

    @functools.cached_property
    def initiator(self) -> bool:
        """Whether this side is A."""
        return "ephemeral_secret" in self.keys

    @property
    def confirmed(self) -> bool:
        """Whether the peer has shown that it holds the session."""
        return self.initiator or self.heard

    @property
    def entered(self) -> int:
        """When the peer entered it, by its own clock: its KNOCK's time, or its ACCEPT's."""
        time: int = self.accepted_at if self.initiator else self.keys["knock_time_ms"]
        return time

    def is_open(self, now: int) -> bool:
        """Whether it counts for the five."""
        return self.phase(now) in ("pending", "undecided", "established") and self.superseded_at is None

    def sends(self, now: int) -> bool:
        """Whether it may be the one that sends, section 7."""
        closing = (self.closed_at, self.peer_close, self.superseded_at) != (None, None, None)
        over = self.phase(now) != "established" or self._past_end(now) or self._unconfirmed(now)
        return not closing and not over

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
        if self.peer_close is None or self.peer_close.data_sent == 0:
            return self.peer_close is not None
        return self.opened.floor == 0 and not self.opened.gaps(1, self.peer_close.data_sent)

    @property
    def missing(self) -> list[Range]:
        """Which indices of the peer are known to be missing, section 6.2."""
        announced = self.peer_close.data_sent if self.peer_close else 0
        return self.opened.gaps(1, max(self.opened.highest, announced))

    @property
    def ranges_max(self) -> int:
        """How many ranges are kept."""
        return self.limits["skipped_keys_per_session"] + 1

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
        if self.superseded_at is not None and now > self.superseded_at + LATE_WINDOW_MS:
            return "truncated"
        if self._past_end(now - TOLERANCE_MS) or self._unconfirmed(now - PENDING_GRACE_MS):
            return "expired" if closing_at is None and self.superseded_at is None else "truncated"
        return "established"

    def settle(self, now: int) -> None:
        """Take note of what time has ended."""
        phase = self.phase(now)
        if phase != self.status:
            self.status, self.ratchet = phase, None
        if self.ended_at is None and phase not in ("pending", "undecided", "established"):
            self.ended_at = now

    def drop(self, now: int) -> None:
        """The application ends it without a word."""
        self.status = "expired" if self.status == "pending" else "truncated"
        self.ratchet, self.ended_at = None, now

    def take(self, step: Json, trace: Trace) -> Json:
        """One step of session.run."""
        now = step["now_ms"]
        self.settle(now)
        steps: dict[str, Callable[[Json, int, Trace], Json]] = {
            "receive": self._receive,
            "accept": self.accept,
            "reject": self._reject,
            "send": self._send,
            "close": self._close,
            "poll": self._poll,
        }
        if step["do"] not in steps:
            raise Unusable(f"unknown step {step['do']!r}")
        result = steps[step["do"]](step, now, trace)
        self.settle(now)
        return result | {"phase": self.phase(now)}

    def accept(self, step: Json, now: int, trace: Trace) -> Json:
        """B accepts; a policy does so also past expires, within the tolerance."""
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
        if keys["early_payload"]:
            self.opened = self.opened.with_all([(1, 1)], self.ranges_max)
        return {"envelope": envelope}

    def _reject(self, step: Json, now: int, trace: Trace) -> Json:
        if self.status != "undecided":
            refuse("knock.not_pending")
        self.status = "rejected"
        receipt, retry = self.keys["knock_receipt"], step["retry_after_seconds"]
        recipient = did_of(self.peer)
        return {"envelope": build_reject(self.own, self.mesh, recipient, now, receipt, step["reason"], retry, trace)}

    def _poll(self, step: Json, now: int, trace: Trace) -> Json:
        """Time passes; a side that acknowledges makes the signal that is due."""
        if self.ratchet is not None:
            self.ratchet = self.ratchet.without_old_keys(now, self.limits)
        if not self.acknowledge:
            return {}
        if not self._may_signal(now) or not self.owed.is_due(now, self.limits):
            return {"envelope": None}
        item, ack = self._item(step, now), self._ack()
        return {"envelope": self._seal(signal_plaintext(item, ack), now, step, trace)}

    def heard_again(self, now: int) -> None:
        """A message came that was opened before."""
        if self._may_signal(now):
            self.owed = self.owed.duplicate(now)

    def _may_signal(self, now: int) -> bool:
        """Whether a signal could leave, and would say something."""
        able = self.ratchet is not None and not self.ratchet.is_exhausted
        return able and self.sends(now) and bool(self.opened.ranges)

    def _item(self, step: Json, now: int) -> bytes:
        """The item that the next data message or signal carries."""
        assert self.ratchet is not None
        seed = unhex(step["kem_seed"]) if "kem_seed" in step else None
        self.ratchet, item = self.ratchet.with_item(now, seed, self.limits)
        return item

    def _ack(self) -> bytes:
        """The ack of all that was opened; nothing is owed then."""
        self.owed = self.owed.paid()
        return self.opened.ack()

    def _seal(self, plaintext: bytes, now: int, step: Json, trace: Trace) -> bytes:
        """An envelope of kind 4."""
        if self.ratchet is None or "nonce" not in step:
            raise Unusable("the step seals a message, and has no nonce")
        header = encode_header(MESSAGE, self.mesh, self.own.did, did_of(self.peer), now)
        tail = self.keys["session_id"] + self.keys["th"] + header
        self.heard = self.heard or self.initiator
        self.ratchet, message = self.ratchet.seal(pad(plaintext), unhex(step["nonce"]), tail, trace)
        return encode([header, self.keys["session_id"] + message])

    def _past_end(self, time: int) -> bool:
        """Whether a time is past the time to live."""
        return self.ends is not None and time > self.ends

    def _unconfirmed(self, time: int) -> bool:
        """Whether no message of A is known of, and a time is past that until which there should be one."""
        return not self.heard and time > self.keys["expires_ms"] + PENDING_GRACE_MS

    def _check_conditions(self, action: str, index: int, code: str) -> None:
        most, _, actions = self.conditions
        if (most is not None and index > most) or (actions is not None and action not in actions):
            refuse(code)

    def _send(self, step: Json, now: int, trace: Trace) -> Json:
        if not self.sends(now):
            refuse("session.not_open")
        assert self.ratchet is not None
        index = self.data_sent + 1
        if index > COUNTER_MAX or self.ratchet.is_exhausted:
            refuse("ratchet.exhausted")
        self._check_conditions(step["action"] or self.keys["action"], index, "session.condition")
        item = self._item(step, now)
        ack = self._ack() if self.acknowledge and self.owed.is_owed else b""
        references = [unhex(reference) for reference in step.get("references", [])]
        plaintext = data_plaintext(index, item, ack, references, step["action"] or "", unhex(step["plaintext"]))
        self.data_sent = index
        return {"envelope": self._seal(plaintext, now, step, trace), "number": index}

    def _close(self, step: Json, now: int, trace: Trace) -> Json:
        if self.status != "established" or self.closed_at is not None or self._past_end(now):
            refuse("session.not_open")
        return {"envelope": self._make_close(step["reason"], now, step, trace)}

    def _make_close(self, reason: str, now: int, step: Json, trace: Trace) -> bytes:
        self.closed_at = now
        return self._seal(close_plaintext(reason, self.data_sent, self.opened.count), now, step, trace)

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
        if len(envelope.body) < MESSAGE_MIN_BYTES:
            refuse("wire.malformed")
        if self.status == "pending" and envelope.kind == MESSAGE:
            self.ratchet.open_header(message[:24], message[24:SEALED_END], trace)
            refuse("message.not_yet")
        tail = session_id + self.keys["th"] + envelope.header
        secret = unhex(step["ratchet_secret"]) if "ratchet_secret" in step else None
        opened = self.ratchet.open(message, tail, now, secret, self.limits, trace)
        plaintext = unpad(opened.content)
        kind, content = plaintext[0] if plaintext else None, plaintext[1:]
        if (envelope.kind == ACCEPT) != (kind == ACCEPT_TYPE):
            refuse("message.refused")
        position = opened.position + self.offset(not self.initiator)
        parts: Parts | None = None
        if kind == ACCEPT_TYPE:
            result = self._take_accept(envelope, opened, content, now)
        else:
            if self.peer_close is not None and position > self.peer_close.position:
                refuse("message.after_close")
            if kind == DATA_TYPE:
                parts, result = self._take_data(envelope, content, position, now)
            elif kind == SIGNAL_TYPE:
                parts, result = self._take_signal(envelope, content)
            elif kind == CLOSE_TYPE:
                result = self._take_close(envelope, content, position, now)
            else:
                refuse("message.refused")
        self.ratchet = opened.finish(parts.item if parts else b"", encapsulated_of(step))
        if parts is not None:
            result |= self._take_ack(parts.ack)
        self.heard = self.heard or not self.initiator
        self.latest_position = max(self.latest_position, position)
        if kind == CLOSE_TYPE:
            result["envelope"] = None
            if self.closed_at is None and self.superseded_at is None and not self._past_end(now):
                trace["answer"] = {}
                result["envelope"] = self._make_close("", now, step, trace["answer"])
        return result

    @property
    def _peer_items(self) -> int:
        """The bit of the item that the peer may send."""
        return ANSWER if self.initiator else OFFER

    def _take_ack(self, ack: tuple[Range, ...]) -> Json:
        """Which messages it acknowledges for the first time, and whether it names what was never sent."""
        if ack and ack[-1][1] > self.data_sent:
            ahead, self.told_ahead = not self.told_ahead, True
            return {"delivered": [], "ahead": ahead}
        news: list[Range] = []
        for first, last in ack:
            gaps = self.delivered.gaps(first, last)
            self.delivered = self.delivered.with_all(gaps, self.ranges_max)
            news += gaps
        return {"delivered": news, "ahead": False}

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
        if self.keys["early_payload"]:
            self.delivered = self.delivered.with_all([(1, 1)], self.ranges_max)
        return {"event": "established", "conditions": conditions_out(self.conditions)}

    def _take_data(self, envelope: Envelope, content: bytes, position: int, now: int) -> tuple[Parts, Json]:
        parts = read_data(content, self._peer_items)
        check_offer(parts.item)
        index = parts.index
        if not 1 <= index <= position or index in self.opened:
            refuse("message.contradiction")
        named, data = read_action(parts.rest)
        action = named or self.keys["action"]
        if len(data) > self.limits["plaintext_max_bytes"]:
            refuse("wire.too_large")
        self._check_conditions(action, index, "message.condition")
        self._check_time(envelope)
        self.opened = self.opened.with_all([(index, index)], self.ranges_max)
        self.owed = self.owed.one_more(now)
        told = {"references": parts.references} if parts.references else {}
        return parts, {"event": "message", "plaintext": data, "action": action, "number": index} | told

    def _take_signal(self, envelope: Envelope, content: bytes) -> tuple[Parts, Json]:
        parts = read_signal(content, self._peer_items)
        check_offer(parts.item)
        self._check_time(envelope)
        return parts, {"event": "signal"}

    def _take_close(self, envelope: Envelope, content: bytes, position: int, now: int) -> Json:
        reason, sent, opened = read_close(content)
        if position < self.latest_position:
            refuse("message.refused")
        self._check_time(envelope)
        self.peer_close = PeerClose(position, sent, now)
        return {"event": "closed", "reason": reason, "missing": self.opened.gaps(1, sent), "peer_opened": opened}
