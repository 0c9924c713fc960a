"""An agent with all its sessions with one peer: section 7, and A's side of section 5."""

from __future__ import annotations

import copy

from verifier.common import KNOCK, OPEN_SESSIONS_PER_PEER, REJECT, TOLERANCE_MS, Json, Trace, Unusable, refuse, unhex
from verifier.encoding import encode
from verifier.gate import Gate
from verifier.handshake import initiate, parse_reject, signed_header
from verifier.primitives import pad, seal
from verifier.ratchet import Ratchet
from verifier.session import Session
from verifier.structures import Envelope, did_of, encode_header, parse_envelope, split_session_id


class Agent(Gate):
    """B at its gate and in its sessions, and A who knocks."""

    def __init__(self, given: Json) -> None:
        super().__init__(given)
        self.peer = unhex(given["peer"])
        self.last_knock: int | None = None

    def take(self, step: Json, trace: Trace) -> Json:
        """One step of agent.run."""
        now = step["now_ms"]
        for session in self.sessions.values():
            session.settle(now)
        if step["do"] == "knock":
            result = self._knock(step, now)
        elif step["do"] in ("send", "close"):
            session = self._named(step)
            result = self._in_session(session, step, trace) | {"session_id": session.keys["session_id"]}
            del result["phase"]
        elif step["do"] == "poll":
            result = {}
        else:
            result = super().take(step, trace)
        return result | {"sessions": self._told(now)}

    def _told(self, now: int) -> list[Json]:
        """Where all sessions stand."""
        sending = self._sending(now)
        return [
            {"session_id": session.keys["session_id"], "phase": session.phase(now), "sends": session is sending}
            for session in self.sessions.values()
        ]

    def _sending(self, now: int) -> Session | None:
        """The one that sends."""
        able = [session for session in self.sessions.values() if session.sends(now)]
        order = sorted(able, key=lambda one: (not one.confirmed, -one.keys["knock_time_ms"], one.keys["th"]))
        return order[0] if order else None

    def _named(self, step: Json) -> Session:
        """The session that a step names, or the one that sends."""
        if step["session_id"] is None:
            return self._sending(step["now_ms"]) or refuse("session.none")
        named = [one for one in self.sessions.values() if one.keys["session_id"] == unhex(step["session_id"])]
        if not named or (named[0].status in ("pending", "undecided") and step["do"] in ("send", "close")):
            refuse("session.none")
        return named[0]

    def _in_session(self, session: Session, step: Json, trace: Trace) -> Json:
        """A step of one session; a refusal leaves it as it was."""
        trial = copy.copy(session)
        result = trial.take(step, trace)
        self.sessions[session.keys["th"]] = trial
        return result

    def _receive_in_session(self, envelope: Envelope, step: Json, trace: Trace) -> Json:
        """A REJECT, an ACCEPT or a message."""
        if envelope.kind == REJECT:
            receipt = parse_reject(envelope)[0]
            of = [one for one in self.sessions.values() if one.initiator and one.keys["knock_receipt"] == receipt]
            session = of[0] if of else refuse("verdict.unmatched")
        else:
            session_id, _ = split_session_id(envelope)
            named = [one for one in self.sessions.values() if one.keys["session_id"] == session_id]
            session = named[0] if named else refuse("message.unknown_session")
        result = self._in_session(session, step, trace)
        if not session.initiator:  # a first message of A: the answer has come
            self.opened[session.keys["th"]].answer = None
        told = {name: value for name, value in result.items() if name not in ("phase", "delivered", "ahead")}
        return told | {"session_id": session.keys["session_id"]}

    def _knock(self, step: Json, now: int) -> Json:
        """A makes a KNOCK, section 5."""
        full = self.is_full(now, self.limits["sessions_max"])
        if full or len(self._open_with(self.peer, now)) >= OPEN_SESSIONS_PER_PEER:
            refuse("session.too_many")
        time, last = now, self.last_knock
        if last is not None and last <= now + TOLERANCE_MS:
            time = max(now, last + 1)
        holds = any(one.phase(now) in ("pending", "undecided", "established") for one in self.sessions.values())
        did, lifetime = did_of(self.peer), step["expires_in_seconds"] * 1000
        given = step | {"identity_seed": self.own.seed.hex(), "mesh": self.mesh, "did": did}
        given |= {"expires_ms": time + lifetime, "ephemeral_secret": step["ratchet_secret"]}
        bundle, ek, keys = initiate(given, now, {})
        if bundle.not_after < time + lifetime:
            raise Unusable("the KNOCK outlives its bundle")
        header = encode_header(KNOCK, self.mesh, self.own.did, did, time)
        content = encode([[step["action"], [], b""], None, 1 if time == now and not holds else 0])
        sealed = seal(keys.intent_key, "am1-intent", header, pad(content), unhex(step["nonce"]), {})
        inner = encode([self.own.key, bundle.ref, ek, unhex(step["kem_ciphertext"]), time + lifetime, sealed])
        body = encode([inner, self.own.sign("knock", signed_header(header, inner))])
        envelope = encode([header, body])
        facts = keys.named("th", "session_id", "root", "hk_ba", "hk_ab") | {
            "ephemeral_secret": unhex(step["ratchet_secret"]),
            "knock_receipt": parse_envelope(envelope, self.limits).receipt,
            "knock_time_ms": time,
            "expires_ms": time + lifetime,
            "action": step["action"],
            "early_payload": False,
        }
        ratchet = Ratchet.start_initiator(keys.root, keys.hk_ab, keys.hk_ba, facts["ephemeral_secret"])
        self.sessions[keys.th] = Session(self.own, self.peer, self.mesh, self.limits, facts, "pending", ratchet)
        self.last_knock = time
        return {"envelope": envelope, "session_id": keys.session_id}
