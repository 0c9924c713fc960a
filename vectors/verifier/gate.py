"""B at its gate: section 5.1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from verifier.common import (
    KNOCK,
    OPEN_SESSIONS_PER_PEER,
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
from verifier.session import Session
from verifier.structures import Envelope, Identity, did_of, split_session_id, take_envelope


@dataclass
class Budget:
    """A token bucket, full at first: `back` tokens come back each period, evenly."""

    size: int
    period_ms: int
    back: int = 1
    owed: int = 0  # in parts of a token, as many as a period has milliseconds
    since: int = 0

    def spend(self, now: int, leave: int = 0) -> bool:
        """Take a token, if there is one, and as many are left as must be."""
        if self.owed == 0:
            self.since = now
        owed = max(0, self.owed - max(0, now - self.since) * self.back)
        if owed + self.period_ms > (self.size - leave) * self.period_ms:
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
    answer: bytes | None = None
    accepted: bool = False


@dataclass
class Waiting:
    """What a KNOCK gave that opened, beside its session."""

    fresh: int
    intent: list[Any]
    early_payload: bytes | None


class Gate:
    """B, who takes KNOCKs. A refusal changes budgets and the memory of what did not open alone."""

    def __init__(self, given: Json) -> None:
        self.own = Identity(unhex(given["identity_seed"]))
        self.mesh = given["mesh"]
        self.limits = limits_of(given)
        self.blocked = set(given.get("blocked", []))
        self.policy = given.get("policy")
        self.known = set(given["known"]) if "known" in given else None
        self.bundles: dict[bytes, Published] = {}
        for b in given["bundles"]:
            ref, secrets = unhex(b["bundle_ref"]), (unhex(b["prekey_secret"]), unhex(b["kem_seed"]))
            self.bundles[ref] = Published(ref, b["class"], b["not_before_ms"], b["not_after_ms"], secrets)
        per_second = self.limits["signature_checks_per_second"]
        self.checks = Budget(per_second, 1000, per_second)
        self.known_checks: dict[bytes, Budget] = {}
        self.rates: dict[str, Budget] = {}
        self.peers: dict[str, bytes] = {}
        self.opened: dict[bytes, Remembered] = {}
        self.unopened: dict[bytes, Remembered] = {}  # the oldest first
        self.repeats: dict[bytes, Budget] = {}
        self.latest: dict[str, int] = {}
        self.sessions: dict[bytes, Session] = {}  # by th, in the order in which they began
        self.waiting: dict[bytes, Waiting] = {}

    def _budget(self, size: str, period: str) -> Budget:
        return Budget(self.limits[size], self.limits[period] * 1000)

    def _is_known(self, key: bytes) -> bool:
        return self.known is not None and key.hex() in self.known

    def _room(self, limit: str, key: bytes) -> int:
        """A limit, without the part that a sender must leave to those that the policy knows."""
        most = self.limits[limit]
        apart = self.known is not None and not self._is_known(key)
        return most - (most // self.limits["reserved_one_in"] if apart else 0)

    def take(self, step: Json, trace: Trace) -> Json:
        """One step of knock.run."""
        for session in self.sessions.values():
            session.settle(step["now_ms"])
        if step["do"] == "receive":
            return self._receive(step, step["now_ms"], trace)
        session = self._named(step) if self.sessions else refuse("knock.not_pending")
        if step["do"] == "drop":
            session.drop(step["now_ms"])
            return {}
        if step["do"] not in ("accept", "reject"):
            raise Unusable(f"unknown step {step['do']!r}")
        if step["do"] == "accept":
            return self._accept(session, step, trace)
        result = session.take(step, trace)
        self.opened[session.keys["th"]].answer = result["envelope"]
        return {"envelope": result["envelope"]}

    def _named(self, _step: Json) -> Session:
        """The session that a step is about: in knock.run the latest."""
        return next(reversed(self.sessions.values()))

    def _receive(self, step: Json, now: int, trace: Trace) -> Json:
        envelope = take_envelope(unhex(step["envelope"]), self.limits, self.own, self.mesh)
        if envelope.kind != KNOCK:
            return self._receive_in_session(envelope, step, trace)
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
        self._check_room(envelope, knock.identity)
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
            session, content = self._open(envelope, knock, th, bundle)
        except Refused:
            self._remember_unopened(th, remembered)
            raise
        self.opened[th] = remembered
        if bundle.bundle_class == 1:
            bundle.secrets = None
        return self._decide(envelope, session, content, bundle, step, now, trace)

    def _receive_in_session(self, envelope: Envelope, _step: Json, _trace: Trace) -> Json:
        """An envelope of another kind: in knock.run no session is of it."""
        if envelope.kind == REJECT:
            parse_reject(envelope)
            refuse("verdict.unmatched")
        split_session_id(envelope)
        return refuse("message.unknown_session")

    def _authenticate(self, envelope: Envelope, knock: Knock, now: int) -> Published:
        """Step 3."""
        bundle = self.bundles.get(knock.ref)
        if bundle is None or now > bundle.not_after + TOLERANCE_MS:
            refuse("knock.unknown_bundle")
        if did_of(knock.identity) != envelope.sender:
            refuse("envelope.sender")
        if self.peers.get(envelope.sender, knock.identity) != knock.identity:
            refuse("identity.conflict")
        if not self._take_check(knock.identity, now):
            refuse("knock.busy")
        verify(knock.identity, "knock", signed_header(envelope.header, knock.inner), knock.signature)
        return bundle

    def _take_check(self, key: bytes, now: int) -> bool:
        """A known key has what strangers must leave at its own rate; beyond it, it is one of them."""
        if self._is_known(key):
            own = self.known_checks.setdefault(key, self._budget("knocks_per_identity", "knock_refill_seconds"))
            if own.spend(now):
                if self.checks.spend(now):
                    return True
                own.give_back()
        return self.checks.spend(
            now,
            self.limits["signature_checks_per_second"] // self.limits["reserved_one_in"]
            if self.known is not None
            else 0,
        )

    def _repeat(self, envelope: Envelope, th: bytes, now: int) -> bytes | None:
        """Step 4: the answer to a KNOCK that is known, None for a new one."""
        self.opened = {key: known for key, known in self.opened.items() if now <= known.until}
        known = self.opened.get(th) or self.unopened.get(th)
        if known is None:
            return None
        if known.receipt != envelope.receipt or known.answer is None or now > known.expires:
            refuse("knock.replayed")
        if known.accepted and self.sessions[th].phase(now) != "established":
            refuse("knock.replayed")
        if not self.repeats.setdefault(th, self._budget("answers_per_knock", "answer_refill_seconds")).spend(now):
            refuse("knock.answer_overdue")
        return known.answer

    def _check_room(self, envelope: Envelope, key: bytes) -> None:
        """Step 4: A could be tracked, and th remembered, before anything is charged."""
        if envelope.sender not in self.peers and len(self.peers) >= self._room("tracked_identities", key):
            refuse("knock.busy")
        of_sender = sum(known.sender == envelope.sender for known in self.opened.values())
        full = len(self.opened) >= self._room("remembered_knocks", key)
        if full or of_sender >= self.limits["remembered_knocks_per_identity"]:
            refuse("knock.busy")

    def _remember_unopened(self, th: bytes, remembered: Remembered) -> None:
        """Step 4: in the memory whose oldest makes room."""
        while len(self.unopened) >= self.limits["unopened_knocks"]:
            del self.unopened[next(iter(self.unopened))]
        self.unopened[th] = remembered

    def _open(self, envelope: Envelope, knock: Knock, th: bytes, bundle: Published) -> tuple[Session, Waiting]:
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
        facts = keys.named("th", "session_id", "root", "hk_ba", "hk_ab") | {
            "ephemeral": knock.ephemeral,
            "knock_receipt": envelope.receipt,
            "knock_time_ms": envelope.time,
            "expires_ms": knock.expires,
            "action": intent[0],
            "early_payload": early_payload is not None,
        }
        session = Session(self.own, knock.identity, self.mesh, limits, facts, "undecided")
        return session, Waiting(fresh, intent, early_payload)

    def _decide(
        self,
        envelope: Envelope,
        session: Session,
        content: Waiting,
        bundle: Published,
        step: Json,
        now: int,
        trace: Trace,
    ) -> Json:
        """Step 6."""
        th = session.keys["th"]
        remembered = self.opened[th]
        sender = envelope.sender
        self.peers[sender] = session.peer
        stale = sender in self.latest and envelope.time <= self.latest[sender]
        self.latest[sender] = max(envelope.time, self.latest.get(sender, 0))
        if stale:
            return self._rejected(envelope, remembered, "stale", now)
        superseded = self._superseded(session, content.fresh, now)
        others = [other for other in self._open_with(session.peer, now) if other not in superseded]
        if len(others) >= OPEN_SESSIONS_PER_PEER or self.is_full(now, self._room("sessions_max", session.peer)):
            return self._rejected(envelope, remembered, "busy", now)
        policy = self.policy
        if policy is not None and policy["decision"] == "reject":
            return self._rejected(envelope, remembered, policy["reason"], now, policy["retry_after_seconds"])
        if policy is not None and policy["decision"] == "accept":
            self.sessions[th], self.waiting[th] = session, content
            accepted = self._accept(session, step | {"conditions": policy["conditions"]}, trace)
            return {"event": "accepted", "session_id": session.keys["session_id"]} | accepted
        if policy is not None:
            raise Unusable("unknown decision")
        if now > session.keys["expires_ms"]:
            return self._rejected(envelope, remembered, "stale", now)
        if self.undecided(now) >= self._room("undecided_knocks", session.peer):
            return self._rejected(envelope, remembered, "busy", now)
        self.sessions[th], self.waiting[th] = session, content
        action, capabilities, detail = content.intent
        return {
            "event": "knock",
            "initiator": session.peer,
            "class": bundle.bundle_class,
            "action": action,
            "capabilities": capabilities,
            "detail": detail,
            "early_payload": content.early_payload,
            "fresh": content.fresh,
            "receipt": envelope.receipt,
        } | {name: session.keys[name] for name in ("th", "session_id", "root", "hk_ba", "hk_ab")}

    def _open_with(self, peer: bytes, now: int) -> list[Session]:
        """The open sessions with a peer, section 7."""
        return [session for session in self.sessions.values() if session.peer == peer and session.is_open(now)]

    def is_full(self, now: int, most: int) -> bool:
        """Whether there are as many sessions as may be, those included whose end is remembered."""
        kept = self.limits["ended_session_seconds"] * 1000
        held = [s for s in self.sessions.values() if s.ended_at is None or now <= s.ended_at + kept]
        return len(held) >= most

    def _superseded(self, by: Session, fresh: int, now: int) -> list[Session]:
        """The sessions that accepting a KNOCK supersedes, section 7."""
        others = [other for other in self._open_with(by.peer, now) if other.keys["th"] != by.keys["th"]]
        established = [other for other in others if other.status == "established"]
        time: int = by.keys["knock_time_ms"]
        if fresh == 1:
            return [other for other in established if other.entered < time]
        unheard = [o for o in established if not o.confirmed and o.keys["knock_time_ms"] < time]
        surplus = len(others) + 1 - OPEN_SESSIONS_PER_PEER
        return sorted(unheard, key=lambda o: (o.keys["knock_time_ms"], o.keys["th"]))[: max(0, surplus)]

    def _accept(self, session: Session, step: Json, trace: Trace) -> Json:
        now, th = step["now_ms"], session.keys["th"]
        superseded = self._superseded(session, self.waiting[th].fresh, now)
        envelope = session.accept(step, now, trace)["envelope"]
        for other in superseded:
            other.superseded_at = now
        self.opened[th].answer, self.opened[th].accepted = envelope, True
        return {"envelope": envelope, "early_payload": self.waiting[th].early_payload}

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
        return sum(session.phase(now) == "undecided" for session in self.sessions.values())

    def bundles_left(self, now: int) -> list[bytes]:
        """The bundle_refs whose secrets are still there."""
        return [bundle.ref for bundle in self.bundles.values() if bundle.has_secrets(now)]
