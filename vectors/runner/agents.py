"""One agent of a scenario: B at its gate, and one side of a session."""

from __future__ import annotations

from agentmesh.agent import Agent
from agentmesh.attachments.reference import Attachment, parse_reference
from agentmesh.engine.export import export_agent
from agentmesh.engine.state import AgentState
from agentmesh.envelope import OuterEnvelope
from agentmesh.events import (
    AnswerRepeated,
    Delivered,
    Event,
    KnockReceived,
    KnockRefused,
    MessageReceived,
    PeerAhead,
    PeerClosed,
    SessionEstablished,
    SessionOver,
    SessionRejected,
    SignalDue,
)
from agentmesh.handshake.knock import Intent, KnockContent
from agentmesh.handshake.prekeys import BundleClass, BundleSecrets, PublishedBundle
from agentmesh.handshake.verdict import Reason
from agentmesh.identity import IdentityKey
from agentmesh.outgoing import Sealed
from agentmesh.policy import Ask, ClaimedSender, Decision, Deny, Grant, KnockRequest
from agentmesh.primitives.keys import (
    BundleRef,
    HeaderKey,
    KemSeed,
    PrekeySecret,
    Receipt,
    RootKey,
    SessionId,
    TranscriptHash,
    X25519PublicKey,
)
from agentmesh.session.established import Session
from agentmesh.session.facts import SESSION_ID_BYTES, Ended, Facts
from agentmesh.session.pending import Pending, Undecided
from runner.ratchets import initial_ratchet, ratchet_json
from runner.values import Draws, Json, conditions_json, conditions_of, hex_or_none, identity_of, limits_of, unhex


class _StepClock:
    now_ms = 0

    def __call__(self) -> int:
        return self.now_ms


class _Policy:
    """Decides as the vector says."""

    def __init__(self, given: Json) -> None:
        self._blocked = frozenset(given.get("blocked", ()))
        self._policy = given.get("policy", {"decision": "ask"})

    def may_knock(self, sender: ClaimedSender, /) -> bool:
        return sender.did not in self._blocked

    def decide(self, _knock: KnockRequest, /) -> Decision:
        policy = self._policy
        if policy["decision"] == "accept":
            return Grant(conditions_of(policy["conditions"]))
        if policy["decision"] == "reject":
            return Deny(Reason(policy["reason"]), policy["retry_after_seconds"])
        return Ask()

    def still_allowed(self, _peer: IdentityKey, /) -> bool:
        return True


class _KnowingPolicy(_Policy):
    """Tells senders apart, too."""

    def __init__(self, given: Json) -> None:
        super().__init__(given)
        self._known = frozenset(map(unhex, given["known"]))

    def is_known(self, key: bytes, /) -> bool:
        return key in self._known


def _restore(state: AgentState, given: Json, draws: Draws, clock: _StepClock) -> Agent:
    policy = _KnowingPolicy(given) if "known" in given else _Policy(given)
    return Agent.restore(
        export_agent(state, clock.now_ms),
        clock=clock,
        entropy=draws,
        policy=policy,
        limits=limits_of(given),
        acknowledge=given.get("acknowledge", False),
    )


def _accept(agent: Agent, waiting: KnockReceived, step: Json) -> Json:
    accepted = agent.accept(waiting, conditions_of(step["conditions"]))
    return {"envelope": accepted.envelope.hex(), "early_payload": hex_or_none(accepted.early_payload)}


def _reject(agent: Agent, waiting: KnockReceived, step: Json) -> Json:
    envelope = agent.reject(waiting, Reason(step["reason"]), retry_after_seconds=step["retry_after_seconds"]).envelope
    return {"envelope": envelope.hex()}


def _knock_event(agent: Agent, event: Event) -> Json | None:
    """Return what a KNOCK gave, or `None` for another event."""
    if isinstance(event, KnockReceived):
        return {"event": "knock", **_knock_json(agent, event)}
    if isinstance(event, KnockRefused):
        return {"event": "rejected", "reason": str(event.reason), "envelope": event.reply.envelope.hex()}
    if isinstance(event, AnswerRepeated):
        return {"event": "answered", "envelope": event.reply.envelope.hex()}
    if isinstance(event, SessionEstablished) and event.reply is not None:
        return {
            "event": "accepted",
            "session_id": event.session_id.hex(),
            "early_payload": hex_or_none(event.early_payload),
            "envelope": event.reply.envelope.hex(),
        }
    return None


def _knock_json(agent: Agent, event: KnockReceived) -> Json:
    held = agent._core.state.sessions[event.session_id]
    if not isinstance(held, Undecided):
        raise TypeError("a KNOCK that waits is held as undecided")
    return {
        "initiator": event.peer.raw.hex(),
        "class": int(event.bundle_class),
        "action": event.intent.action,
        "capabilities": list(event.intent.capabilities),
        "detail": event.intent.detail.hex(),
        "early_payload": hex_or_none(held.content.early_payload),
        "fresh": int(event.fresh),
        "receipt": event.receipt.hex(),
        "th": held.facts.th.hex(),
        "session_id": event.session_id.hex(),
        "root": held.root.hex(),
        "hk_ba": held.header_key_ba.hex(),
        "hk_ab": held.header_key_ab.hex(),
    }


def _ranges_json(ranges: tuple[range, ...]) -> list[list[int]]:
    """Return the first and the last of each."""
    return [[one.start, one.stop - 1] for one in ranges]


def _delivered_json(event: Event) -> list[list[int]]:
    return _ranges_json(event.indices) if isinstance(event, Delivered) else []


def _session_event(event: Event) -> Json:
    """Return what an ACCEPT, a REJECT or a message gave."""
    if isinstance(event, SessionEstablished):
        return {"event": "established", "conditions": conditions_json(event.conditions)}
    if isinstance(event, SessionRejected):
        return {"event": "rejected", "reason": str(event.reason), "retry_after_seconds": event.retry_after_seconds}
    if isinstance(event, MessageReceived):
        return {
            "event": "message",
            "plaintext": event.plaintext.hex(),
            "action": event.action,
            "number": event.number,
            **({"references": [one.encode().hex() for one in event.attachments]} if event.attachments else {}),
        }
    if isinstance(event, PeerClosed):
        return {
            "event": "closed",
            "reason": event.reason,
            "missing": _ranges_json(event.missing),
            "peer_opened": event.peer_opened,
            "envelope": None if event.reply is None else event.reply.envelope.hex(),
        }
    raise TypeError(f"an event that no vector causes: {event!r}")


class KnockRunner:
    """B at its gate: `knock.run`."""

    def __init__(self, given: Json, draws: Draws | None = None) -> None:
        self._draws = draws or Draws()
        self._clock = _StepClock()
        state = AgentState(identity_of(given), given["mesh"])
        for fields in given["bundles"]:
            secrets = BundleSecrets(PrekeySecret(unhex(fields["prekey_secret"])), KemSeed(unhex(fields["kem_seed"])))
            published = PublishedBundle(
                ref=BundleRef(unhex(fields["bundle_ref"])),
                bundle_class=BundleClass(fields["class"]),
                not_before_ms=fields["not_before_ms"],
                not_after_ms=fields["not_after_ms"],
                secrets=secrets,
            )
            state.bundles[published.ref] = published
        self.agent = _restore(state, given, self._draws, self._clock)
        self._latest: KnockReceived | None = None

    def step(self, step: Json, /) -> Json:
        """Receive a KNOCK, or decide on the latest that was left to the application."""
        self._clock.now_ms = step["now_ms"]
        self._draws.begin(step)
        if step["do"] == "accept":
            return _accept(self.agent, self._waiting(), step)
        if step["do"] == "reject":
            return _reject(self.agent, self._waiting(), step)
        if step["do"] == "drop":
            waiting = self._waiting()
            self.agent.drop(waiting.peer.did, waiting.session_id)
            return {}
        [event] = self.agent.receive(unhex(step["envelope"]))
        given = self._note(event)
        if given is None:
            raise TypeError(f"an event that no KNOCK causes: {event!r}")
        return given

    def _note(self, event: Event) -> Json | None:
        if isinstance(event, KnockReceived):
            self._latest = event
        return _knock_event(self.agent, event)

    def _waiting(self) -> KnockReceived:
        if self._latest is None:
            raise LookupError("no KNOCK was left to the application yet")
        return self._latest

    def state(self) -> Json:
        """Return which bundles can still serve, and how many KNOCKs wait."""
        bundles, now_ms = self.agent._core.state.bundles.values(), self._clock.now_ms
        left = [bundle for bundle in bundles if bundle.secrets is not None and now_ms <= bundle.forget_at_ms]
        return {
            "bundles_left": [bundle.ref.hex() for bundle in left],
            "undecided": len(self.agent.pending_knocks()),
        }

    def export(self) -> bytes:
        """Return the whole state, whatever the time is."""
        return export_agent(self.agent._core.state, now_ms=0)


class PairRunner(KnockRunner):
    """An agent with all its sessions with one peer: `agent.run`."""

    def __init__(self, given: Json, draws: Draws | None = None) -> None:
        super().__init__(given, draws)
        self._peer = IdentityKey(unhex(given["peer"])).did

    def step(self, step: Json, /) -> Json:
        """Knock, receive, accept, send, close, drop, or look at what time brought."""
        self._clock.now_ms = step["now_ms"]
        self._draws.begin(step)
        given = getattr(self, "_" + step["do"])(step)
        views = self.agent.sessions(self._peer)
        told = [
            {"session_id": view.session_id.hex(), "phase": str(view.status.phase), "sends": view.status.sends}
            for view in views
        ]
        return {**given, "sessions": told}

    def _knock(self, step: Json) -> Json:
        made = self.agent.knock(
            self._peer,
            unhex(step["bundle"]),
            Intent(step["action"]),
            expires_in_seconds=step["expires_in_seconds"],
        )
        return {"envelope": made.envelope.hex(), "session_id": made.session_id.hex()}

    def _receive(self, step: Json) -> Json:
        event = self.agent.receive(unhex(step["envelope"]))[0]
        given = self._note(event)
        if given is not None:
            return given
        # Each of them is of a session.
        return {**_session_event(event), "session_id": event.session_id.hex()}  # type: ignore[union-attr]

    def _accept(self, step: Json) -> Json:
        [waiting] = [one for one in self.agent.pending_knocks() if one.session_id.hex() == step["session_id"]]
        return _accept(self.agent, waiting, step)

    def _send(self, step: Json) -> Json:
        sealed = self.agent.send(self._peer, unhex(step["plaintext"]), action=step["action"], session_id=_named(step))
        return {**_sealed_json(sealed), "number": sealed.number}

    def _close(self, step: Json) -> Json:
        sealed = self.agent.close(self._peer, step["reason"], session_id=_named(step))
        return _sealed_json(sealed)

    def _drop(self, step: Json) -> Json:
        self.agent.drop(self._peer, SessionId(unhex(step["session_id"])))
        return {}

    def _poll(self, _step: Json) -> Json:
        self.agent.poll()
        return {}

    def state(self) -> Json:
        """Return nothing: each step says where the sessions stand."""
        return {}


def _sealed_json(sealed: Sealed) -> Json:
    body = OuterEnvelope.parse(sealed.envelope).body
    return {"envelope": sealed.envelope.hex(), "session_id": body[:SESSION_ID_BYTES].hex()}


def _named(step: Json) -> SessionId | None:
    return None if step["session_id"] is None else SessionId(unhex(step["session_id"]))


class SessionRunner:
    """One side of one session, from its KNOCK on: `session.run`."""

    def __init__(self, given: Json, draws: Draws | None = None) -> None:
        self._draws = draws or Draws()
        self._clock = _StepClock()
        identity = identity_of(given)
        state = AgentState(identity, given["mesh"])
        peer, session = IdentityKey(unhex(given["peer"])), given["session"]
        initiator = given["role"] == "initiator"
        facts = Facts(
            session_id=SessionId(unhex(session["session_id"])),
            th=TranscriptHash(unhex(session["th"])),
            mesh=given["mesh"],
            own_did=identity.did,
            peer=peer,
            initiator=initiator,
            bundle_class=BundleClass.ONE_TIME,
            knock_time_ms=session["knock_time_ms"],
            knock_receipt=Receipt(unhex(session["knock_receipt"])),
            action=session["action"],
            early_payload=session["early_payload"],
        )
        held: Pending | Undecided
        if initiator:
            ratchet = initial_ratchet({"role": "initiator", **session})
            held = Pending(facts, ratchet, expires_ms=session["expires_ms"], knock=b"\x00")
        else:
            content = KnockContent(
                intent=Intent(session["action"]),
                early_payload=b"" if session["early_payload"] else None,
                fresh=True,
            )
            held = Undecided(
                facts,
                root=RootKey(unhex(session["root"])),
                header_key_ab=HeaderKey(unhex(session["hk_ab"])),
                header_key_ba=HeaderKey(unhex(session["hk_ba"])),
                ephemeral=X25519PublicKey(unhex(session["ephemeral"])),
                expires_ms=session["expires_ms"],
                content=content,
            )
        state.hold(state.ensure_peer(peer), held)
        self._did, self._session_id = peer.did, facts.session_id
        self.agent = _restore(state, given, self._draws, self._clock)
        self._waiting = self.agent.pending_knocks()

    def step(self, step: Json, /) -> Json:
        """Accept, reject, send, close, receive, or look at what time brought."""
        self._clock.now_ms = step["now_ms"]
        self._draws.begin(step)
        given = getattr(self, "_" + step["do"])(step)
        return {**given, "phase": str(self.agent.session(self._did, self._session_id).status.phase)}

    def _accept(self, step: Json) -> Json:
        [waiting] = self._waiting
        return {"envelope": _accept(self.agent, waiting, step)["envelope"]}

    def _reject(self, step: Json) -> Json:
        [waiting] = self._waiting
        return _reject(self.agent, waiting, step)

    def _send(self, step: Json) -> Json:
        named = [parse_reference(unhex(one)) for one in step.get("references", ())]
        sealed = self.agent.send(
            self._did,
            unhex(step["plaintext"]),
            action=step["action"],
            session_id=self._session_id,
            attachments=[one for one in named if isinstance(one, Attachment)],
        )
        return {"envelope": sealed.envelope.hex(), "number": sealed.number}

    def _close(self, step: Json) -> Json:
        return {"envelope": self.agent.close(self._did, step["reason"], session_id=self._session_id).envelope.hex()}

    def _poll(self, _step: Json) -> Json:
        # The stock of bundles is low, too.
        signals = [event.reply.envelope.hex() for event in self.agent.poll() if isinstance(event, SignalDue)]
        return {"envelope": signals[0] if signals else None} if self.agent._core.acknowledge else {}

    def _receive(self, step: Json) -> Json:
        # An end, if there is one, is what `phase` says.
        events = self.agent.receive(unhex(step["envelope"]))
        said = [event for event in events if not isinstance(event, Delivered | PeerAhead | SessionOver)]
        given = _session_event(said[0]) if said else {"event": "signal"}
        if given["event"] in ("message", "signal"):
            given["delivered"] = [one for event in events for one in _delivered_json(event)]
            given["ahead"] = any(isinstance(event, PeerAhead) for event in events)
        return given

    def state(self) -> Json:
        """Return the counts, and the ratchet while there is one."""
        held = self.agent._core.state.sessions[self._session_id]
        if isinstance(held, Ended | Session):
            counts = {"data_sent": held.data_sent, "data_opened": held.data_opened}
            if isinstance(held, Session):
                counts["missing"] = _ranges_json(held.missing)
                counts["delivered"] = [list(one) for one in held.acknowledged.ranges]
        else:
            counts = {}
        ratchet = held.ratchet if isinstance(held, Session | Pending) else None
        return {**counts, **({} if ratchet is None else ratchet_json(ratchet))}

    def export(self) -> bytes:
        """Return the whole state."""
        return self.agent.export_state()
