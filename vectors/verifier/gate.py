"""B at its gate: section 5.1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from verifier.common import (
    KNOCK,
    LATE_WINDOW_MS,
    OPEN_SESSIONS_PER_PEER,
    PENDING_GRACE_MS,
    REJECT,
    TOLERANCE_MS,
    Json,
    Refused,
    Trace,
    Unusable,
    limits_of,
    refuse,
    unhex,
)
from verifier.encoding import array_of, is_action, is_bin, is_uint, or_nil, text_of, unpack
from verifier.handshake import (
    Handshake,
    Knock,
    build_reject,
    check_knock_time,
    open_intent,
    parse_knock,
    parse_reject,
    signed_header,
    transcript_hash,
)
from verifier.primitives import verify
from verifier.session import make_accept
from verifier.structures import Envelope, Identity, did_of, split_session_id, take_envelope


@dataclass
class Budget:
    """A token bucket, full at first: `back` tokens come back each period, evenly."""

    size: int
    period_ms: int
    back: int = 1
    owed: int = 0  # in parts of a token, as many as a period has milliseconds
    since: int = 0

    def spend(self, now: int) -> bool:
        """Take a token, if there is one."""
        if self.owed == 0:
            self.since = now
        owed = max(0, self.owed - max(0, now - self.since) * self.back)
        if owed + self.period_ms > self.size * self.period_ms:
            return False
        self.owed, self.since = owed + self.period_ms, max(self.since, now)
        return True

    def give_back(self) -> None:
        """Return the token that was taken last."""
        self.owed -= self.period_ms


@dataclass
class Published:
    """A bundle that B published, with its secrets while it has them."""

    ref: bytes
    bundle_class: int
    not_before: int
    not_after: int
    secrets: tuple[bytes, bytes] | None

    def has_secrets(self, now: int) -> bool:
        """Whether the secrets are still there: they go with the validity at the latest."""
        return self.secrets is not None and now <= self.not_after + TOLERANCE_MS

    def can_ever_serve(self, knock: Knock) -> bool:
        """Whether the bundle is unused, and the KNOCK does not outlive it."""
        return self.secrets is not None and knock.expires <= self.not_after


@dataclass
class Remembered:
    """What B remembers of a KNOCK, by its th."""

    receipt: bytes
    sender: str
    expires: int
    until: int
    held: Held | None = None  # the session that the answer began, if it is an ACCEPT
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
    superseded: int = 0

    def open_at(self, now: int) -> bool:
        """Whether the session counts as open, section 7."""
        if self.status == "undecided":
            return now <= self.knock.expires
        return self.status == "established" and not self.over(now)

    def over(self, now: int) -> bool:
        """Whether a session that was accepted has ended, section 7."""
        if self.status == "dropped" or (self.ends is not None and now > self.ends + TOLERANCE_MS):
            return True
        if self.status != "undecided" and now > self.knock.expires + 2 * PENDING_GRACE_MS:
            return True
        return self.status == "superseded" and now > self.superseded + LATE_WINDOW_MS


class Gate:
    """B, who takes KNOCKs. A refusal changes budgets and the memory of what did not open alone."""

    def __init__(self, given: Json) -> None:
        self.own = Identity(unhex(given["identity_seed"]))
        self.mesh = given["mesh"]
        self.limits = limits_of(given)
        self.blocked = set(given.get("blocked", []))
        self.policy = given.get("policy")
        self.bundles: dict[bytes, Published] = {}
        for b in given["bundles"]:
            ref, secrets = unhex(b["bundle_ref"]), (unhex(b["prekey_secret"]), unhex(b["kem_seed"]))
            self.bundles[ref] = Published(ref, b["class"], b["not_before_ms"], b["not_after_ms"], secrets)
        per_second = self.limits["signature_checks_per_second"]
        self.checks = Budget(per_second, 1000, per_second)
        self.rates: dict[str, Budget] = {}
        self.peers: dict[str, bytes] = {}
        self.opened: dict[bytes, Remembered] = {}
        self.unopened: dict[bytes, Remembered] = {}  # the oldest first
        self.repeats: dict[bytes, Budget] = {}
        self.latest: dict[str, int] = {}
        self.held: list[Held] = []

    def _budget(self, size: str, period: str) -> Budget:
        return Budget(self.limits[size], self.limits[period] * 1000)

    def take(self, step: Json, trace: Trace) -> Json:
        """One step of knock.run."""
        if step["do"] == "receive":
            return self._receive(step, step["now_ms"], trace)
        if step["do"] not in ("accept", "reject", "drop"):
            raise Unusable(f"unknown step {step['do']!r}")
        held = self.held[-1] if self.held else refuse("knock.not_pending")
        if step["do"] == "drop":
            held.status = "dropped"
            return {}
        if held.status != "undecided" or not held.open_at(step["now_ms"]):
            refuse("knock.not_pending")
        if step["do"] == "reject":
            held.status = "rejected"
            return {"envelope": self._rejection(held.envelope, self.opened[held.keys.th], step)}
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
        self._check_room(envelope)
        rate = self.rates.setdefault(envelope.sender, self._budget("knocks_per_identity", "knock_refill_seconds"))
        if not rate.spend(now):
            refuse("knock.busy")
        until = max(knock.expires, bundle.not_after) + TOLERANCE_MS
        remembered = Remembered(envelope.receipt, envelope.sender, knock.expires, until)
        if not bundle.can_ever_serve(knock):
            self._remember_unopened(th, remembered)
            return self._rejected(envelope, remembered, "bundle", now)
        if now < bundle.not_before - TOLERANCE_MS:
            rate.give_back()
            refuse("knock.busy")
        try:
            held, content = self._open(envelope, knock, th, bundle)
        except Refused:
            self._remember_unopened(th, remembered)
            raise
        self.opened[th] = remembered
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
        if not self.checks.spend(now):
            refuse("knock.busy")
        verify(knock.identity, "knock", signed_header(envelope.header, knock.inner), knock.signature)
        return bundle

    def _repeat(self, envelope: Envelope, th: bytes, now: int) -> bytes | None:
        """Step 4: the answer to a KNOCK that is known, None for a new one."""
        self.opened = {key: known for key, known in self.opened.items() if now <= known.until}
        known = self.opened.get(th) or self.unopened.get(th)
        if known is None:
            return None
        if known.receipt != envelope.receipt or known.answer is None or now > known.expires:
            refuse("knock.replayed")
        if known.held is not None and known.held.over(now):
            refuse("knock.replayed")
        if not self.repeats.setdefault(th, self._budget("answers_per_knock", "answer_refill_seconds")).spend(now):
            refuse("knock.answer_overdue")
        return known.answer

    def _check_room(self, envelope: Envelope) -> None:
        """Step 4: A could be tracked, and th remembered, before anything is charged."""
        if envelope.sender not in self.peers and len(self.peers) >= self.limits["tracked_identities"]:
            refuse("knock.busy")
        of_sender = sum(known.sender == envelope.sender for known in self.opened.values())
        full = len(self.opened) >= self.limits["remembered_knocks"]
        if full or of_sender >= self.limits["remembered_knocks_per_identity"]:
            refuse("knock.busy")

    def _remember_unopened(self, th: bytes, remembered: Remembered) -> None:
        """Step 4: in the memory whose oldest makes room."""
        while len(self.unopened) >= self.limits["unopened_knocks"]:
            del self.unopened[next(iter(self.unopened))]
        self.unopened[th] = remembered

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
        envelope, remembered = held.envelope, self.opened[held.keys.th]
        sender = envelope.sender
        self.peers[sender] = held.knock.identity
        stale = sender in self.latest and envelope.time <= self.latest[sender]
        self.latest[sender] = max(envelope.time, self.latest.get(sender, 0))
        if stale:
            return self._rejected(envelope, remembered, "stale", now)
        sessions = [other for other in self.held if other.open_at(now)]
        superseded = self._superseded(held, now)
        others = [other for other in sessions if other.envelope.sender == sender and other not in superseded]
        if len(others) >= OPEN_SESSIONS_PER_PEER or len(sessions) >= self.limits["sessions_max"]:
            return self._rejected(envelope, remembered, "busy", now)
        policy = self.policy
        if policy is not None and policy["decision"] == "reject":
            return self._rejected(envelope, remembered, policy["reason"], now, policy["retry_after_seconds"])
        if policy is not None and policy["decision"] == "accept":
            self.held.append(held)
            accepted = self._accept(held, policy["conditions"], step, trace)
            return {"event": "accepted", "session_id": held.keys.session_id} | accepted
        if policy is not None:
            raise Unusable("unknown decision")
        if now > held.knock.expires:
            return self._rejected(envelope, remembered, "stale", now)
        if self.undecided(now) >= self.limits["undecided_knocks"]:
            return self._rejected(envelope, remembered, "busy", now)
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

    def _superseded(self, by: Held, now: int) -> list[Held]:
        """The sessions that accepting a KNOCK supersedes, section 7. No message of A comes here: none is confirmed."""
        same = [other for other in self.held if other.envelope.sender == by.envelope.sender and other.open_at(now)]
        before = [o for o in same if o.status == "established" and o.envelope.time < by.envelope.time]
        if by.fresh == 1:
            return before
        surplus = sum(other is not by for other in same) + 1 - OPEN_SESSIONS_PER_PEER
        return sorted(before, key=lambda o: (o.envelope.time, o.keys.th))[: max(0, surplus)]

    def _accept(self, held: Held, conditions: Json, step: Json, trace: Trace) -> Json:
        keys = held.keys.named("th", "session_id", "root", "hk_ba", "hk_ab")
        peer, receipt = held.envelope.sender, held.envelope.receipt
        _, envelope = make_accept(
            self.own, peer, self.mesh, keys, held.knock.ephemeral, receipt, conditions, step, trace
        )
        for other in self._superseded(held, step["now_ms"]):
            other.status, other.superseded = "superseded", step["now_ms"]
        ttl = conditions["ttl_seconds"]
        held.status, held.ends = "established", None if ttl is None else step["now_ms"] + ttl * 1000
        remembered = self.opened[held.keys.th]
        remembered.answer, remembered.held = envelope, held
        return {"envelope": envelope, "early_payload": held.early_payload}

    def _rejection(self, envelope: Envelope, remembered: Remembered, verdict: Json) -> bytes:
        now, reason, retry = verdict["now_ms"], verdict["reason"], verdict["retry_after_seconds"]
        answer = build_reject(self.own, self.mesh, envelope.sender, now, envelope.receipt, reason, retry, {})
        remembered.answer = answer
        return answer

    def _rejected(
        self, envelope: Envelope, remembered: Remembered, reason: str, now: int, retry_after: int = 0
    ) -> Json:
        verdict = {"now_ms": now, "reason": reason, "retry_after_seconds": retry_after}
        return {"event": "rejected", "reason": reason, "envelope": self._rejection(envelope, remembered, verdict)}

    def undecided(self, now: int) -> int:
        """How many KNOCKs wait for the application."""
        return sum(held.status == "undecided" and held.open_at(now) for held in self.held)

    def bundles_left(self, now: int) -> list[bytes]:
        """The bundle_refs whose secrets are still there."""
        return [bundle.ref for bundle in self.bundles.values() if bundle.has_secrets(now)]
