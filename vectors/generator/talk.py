"""One side of a session as a scenario, its peer beside it, and whatever that peer could seal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Final

from runner.agents import SessionRunner

from agentmesh.envelope import OuterEnvelope
from agentmesh.identity import Identity, signed_part
from agentmesh.primitives import _crypto
from agentmesh.primitives._labels import SIGN_ACCEPT
from agentmesh.primitives.keys import HeaderKey, RootKey, X25519PublicKey, X25519Secret
from agentmesh.primitives.padding import pad, unpad
from agentmesh.session.chains import SendingChain
from agentmesh.session.content import pad_close, pad_data, pad_signal
from agentmesh.session.established import Session
from agentmesh.session.suite import SUITE
from generator import trace, wire
from generator.forge import ACTION, ForgedKnock, content, knock
from generator.scenario import Scenario
from generator.tables import Step, step
from generator.world import ALICE, BOB, EXPIRES_MS, MESH, NOW_MS, UNLIMITED, Files, token

Json = dict[str, Any]
Range = tuple[int, int]

ACCEPTED_MS: Final = NOW_MS + 1000
LATER_MS: Final = NOW_MS + 2000


def data(
    content: bytes = b"hello",
    action: str = "",
    *,
    index: int = 0,
    item: bytes = b"",
    ack: tuple[Range, ...] = (),
    references: Sequence[bytes] = (),
) -> bytes:
    """Return a data message's plaintext, as the library writes it.

    The action is the KNOCK's where it is empty; index 0 is filled in by `sealed_by_peer`, with the one that is due.
    """
    return unpad(pad_data(index, action.encode(), content, item, ack, references))


def signal(*ack: Range, item: bytes = b"") -> bytes:
    """Return a signal's plaintext, as the library writes it."""
    return unpad(pad_signal(item, ack))


def closing(sent: int = 0, opened: int = 0) -> bytes:
    """Return a close's plaintext without a reason, as the library writes it."""
    return unpad(pad_close("", sent, opened))


@cache
def knocked(early_payload: bool = False) -> ForgedKnock:
    """Return the KNOCK that begins every session here."""
    return knock(inside=content(early_payload=b"the first words" if early_payload else None))


def side(role: str, *, early_payload: bool = False, **more: Any) -> Json:
    """Return the input of `session.run` for one side: `initiator` is Alice, `responder` is Bob."""
    made = knocked(early_payload)
    initiator = role == "initiator"
    own, peer = (ALICE, BOB) if initiator else (BOB, ALICE)
    values = made.values
    session = {
        "th": values["th"],
        "session_id": values["session_id"],
        "root": values["root"],
        "hk_ba": values["hk_ba"],
        "hk_ab": values["hk_ab"],
        "ephemeral": values["ephemeral"],
        **({"ephemeral_secret": token("alice/ephemeral/0").hex()} if initiator else {}),
        "knock_receipt": made.receipt.hex(),
        "knock_time_ms": NOW_MS,
        "expires_ms": EXPIRES_MS,
        "action": ACTION,
        "early_payload": early_payload,
    }
    return {
        "role": role,
        "identity_seed": own.seed.reveal().hex(),
        "peer": peer.key.raw.hex(),
        "mesh": MESH,
        "session": session,
        **more,
    }


def header_items(kind: int, time_ms: int, sender: Identity = BOB, recipient: Identity = ALICE) -> list[bytes]:
    """Return the encoded fields of an outer header."""
    return [
        wire.uint(1),
        wire.uint(kind),
        wire.text(MESH.encode()),
        wire.text(sender.did.encode()),
        wire.text(recipient.did.encode()),
        wire.uint(time_ms),
    ]


def enveloped(header: bytes, body: bytes) -> bytes:
    """Return an envelope."""
    return wire.pair(header, body)


def split(envelope: bytes) -> tuple[bytes, bytes]:
    """Return header and body of a good envelope."""
    outer = OuterEnvelope.parse(envelope)
    return outer.header_bytes, outer.body


def context(header: bytes, th: bytes | None = None) -> bytes:
    """Return what a message of the session authenticates beside itself."""
    values = knocked().values
    return bytes.fromhex(values["session_id"]) + (th or bytes.fromhex(values["th"])) + header


def under(header: bytes, envelope: bytes) -> bytes:
    """Return the body of an envelope under another header."""
    return enveloped(header, split(envelope)[1])


def with_body(envelope: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """Return an envelope with its body changed."""
    header, body = split(envelope)
    return enveloped(header, change(body))


def _envelope(given: Json) -> bytes:
    return bytes.fromhex(given.get("envelope") or "")


class Talk:
    """A scenario of `session.run`, and the peer."""

    def __init__(
        self,
        files: Files,
        name: str,
        comment: str,
        role: str = "initiator",
        *,
        spec: str,
        conditions: Json | None = None,
        early_payload: bool = False,
        established: bool = True,
        **more: Any,
    ) -> None:
        self.role = role
        self._early_payload = early_payload
        self.scenario = Scenario(
            files, name, "session.run", comment, spec=spec, given=side(role, early_payload=early_payload, **more)
        )
        other = "responder" if role == "initiator" else "initiator"
        self._peer_draws = trace.Recorder(f"{files.family}/{name}/peer")
        acknowledge = {"acknowledge": True} if more.get("acknowledge") else {}
        self.peer = SessionRunner(side(other, early_payload=early_payload, **acknowledge), self._peer_draws)
        self.conditions = conditions or UNLIMITED
        if established:
            self.establish()

    # --- steps of the side that the file is about --------------------------------------------------------------------

    def step(self, do: str, expect: str = "ok", *, now_ms: int = LATER_MS, **fields: Any) -> Json:
        """Take a step."""
        return self.scenario.step(do, expect, now_ms=now_ms, **fields)

    def receive(self, envelope: bytes, expect: str = "ok", *, now_ms: int = LATER_MS) -> Json:
        """Receive an envelope."""
        return self.step("receive", expect, now_ms=now_ms, envelope=envelope)

    def send(
        self,
        plaintext: bytes,
        expect: str = "ok",
        *,
        action: str | None = None,
        now_ms: int = LATER_MS,
        references: Sequence[bytes] = (),
    ) -> Json:
        """Send data; a good envelope goes to the peer by `deliver`."""
        named = {"references": [one.hex() for one in references]} if references else {}
        return self.step("send", expect, now_ms=now_ms, plaintext=plaintext, action=action, **named)

    def say(self, plaintext: bytes, **fields: Any) -> bytes:
        """Send data, have the peer receive it, and return the envelope."""
        envelope = _envelope(self.send(plaintext, **fields))
        self.deliver(envelope)
        return envelope

    def close(self, reason: str = "", expect: str = "ok", *, now_ms: int = LATER_MS) -> bytes:
        """Close, and return the envelope."""
        return _envelope(self.step("close", expect, now_ms=now_ms, reason=reason))

    def poll(self, now_ms: int) -> bytes:
        """Look at what time brought, and return the signal that it made."""
        return _envelope(self.step("poll", now_ms=now_ms))

    def accept(self, expect: str = "ok", *, now_ms: int = ACCEPTED_MS) -> bytes:
        """Accept the KNOCK, and return the ACCEPT."""
        return _envelope(self.step("accept", expect, now_ms=now_ms, conditions=self.conditions))

    def reject(self) -> None:
        """Reject the KNOCK."""
        self.step("reject", reason="policy", retry_after_seconds=0)

    def finish(self) -> None:
        """Write the file."""
        self.scenario.finish()

    # --- the peer ----------------------------------------------------------------------------------------------------

    def peer_step(self, do: str, *, now_ms: int = LATER_MS, **fields: Any) -> Json:
        """Have the peer take a step, which must succeed."""
        step = {name: value.hex() if isinstance(value, bytes) else value for name, value in fields.items()}
        return self.peer.step({"do": do, "now_ms": now_ms, **step})

    def hear(self, plaintext: bytes = b"hello", *, action: str | None = None, now_ms: int = LATER_MS) -> bytes:
        """Return data that the peer sends."""
        return _envelope(self.peer_step("send", plaintext=plaintext, action=action, now_ms=now_ms))

    def deliver(self, envelope: bytes, *, now_ms: int = LATER_MS) -> bytes:
        """Have the peer receive an envelope, and return its answer."""
        return _envelope(self.peer_step("receive", envelope=envelope, now_ms=now_ms))

    # --- offers and answers ------------------------------------------------------------------------------------------

    def offers(self, plaintext: bytes) -> None:
        """Send data with an offer, which the peer answers."""
        self._deliver_offer(_envelope(self.send(plaintext)))

    def signals_offer(self, now_ms: int) -> None:
        """Look at what time brought: a signal with an offer, which the peer answers."""
        self._deliver_offer(self.poll(now_ms))

    def _deliver_offer(self, envelope: bytes) -> None:
        seed = bytes.fromhex(self.scenario.given["steps"][-1]["kem_seed"])
        self.peer_step("receive", envelope=envelope, **self._encapsulated(seed))

    def receive_offer(self, envelope: bytes) -> Json:
        """Receive data with an offer of the peer's, and answer it."""
        return self.step("receive", envelope=envelope, **self._encapsulated(self.held_by_peer.ratchet.epochs.secret))

    def _encapsulated(self, seed: bytes) -> Json:
        # A ciphertext of nobody, and what the key's owner makes of it all the same (FIPS 203, implicit rejection).
        ciphertext = token(f"message/ciphertext/{seed.hex()}", _crypto.KEM_CIPHERTEXT_BYTES)
        shared = _crypto.kem_decapsulate(_crypto.kem_key(seed), ciphertext)
        return {"kem_ciphertext": ciphertext, "kem_shared_secret": shared}

    # --- what the peer sends by itself -------------------------------------------------------------------------------

    def peer_accept(self, *, now_ms: int = ACCEPTED_MS) -> bytes:
        """Return the ACCEPT that the peer sends."""
        return _envelope(self.peer_step("accept", conditions=self.conditions, now_ms=now_ms))

    def peer_poll(self, *, now_ms: int) -> bytes:
        """Return the signal that the peer makes."""
        return _envelope(self.peer_step("poll", now_ms=now_ms))

    def peer_close(self, reason: str = "") -> bytes:
        """Return the close that the peer sends."""
        return _envelope(self.peer_step("close", reason=reason))

    def establish(self) -> None:
        """Have the KNOCK accepted, whichever side it is that accepts."""
        if self.role == "initiator":
            self.receive(self.peer_accept(), now_ms=ACCEPTED_MS)
        else:
            self.deliver(self.accept(), now_ms=ACCEPTED_MS)

    @property
    def held_by_peer(self) -> Session:
        """The peer's session."""
        held = self.peer.agent._core.state.sessions[self.peer._session_id]
        if not isinstance(held, Session):
            raise TypeError("the peer holds no established session")
        return held

    def sealed_by_peer(
        self,
        inside: bytes | None = None,
        *,
        padded: bytes | None = None,
        kind: int = 4,
        time_ms: int = LATER_MS,
        header: bytes | None = None,
        sealed_for: bytes | None = None,
        ahead: int = 0,
        ratchet_key: bytes | None = None,
        pn: int | None = None,
        n: int | None = None,
        kept: bool = True,
        filled: bool = True,
    ) -> bytes:
        """Return what the peer could seal if it wished to break a rule.

        Args:
            inside: The plaintext with its type byte; data if `None`.
            padded: What is sealed, if it is not `inside` in good padding.
            kind: The kind in the outer header.
            time_ms: The time in the outer header.
            header: Another outer header.
            sealed_for: The outer header that it is sealed for, if it is not that which it gets.
            ahead: How many numbers are skipped before it.
            ratchet_key: Another key in the ratchet header.
            pn: Another pn.
            n: Another n, sealed under the key that is due.
            kept: The peer goes on behind it, so that its next message has the next number.
            filled: An index of 0 becomes the one that is due.
        """
        session = self.held_by_peer
        ratchet = session.ratchet
        chain = ratchet.sending
        if chain is None:
            raise TypeError("the peer has no sending chain")
        inside = data() if inside is None else inside
        if (
            filled and inside[:1] == b"\x00" and inside[2:6] == bytes(4)
        ):  # data, whose index is to be the one that is due
            inside = inside[:2] + (session.data_sent + 1).to_bytes(4, "big") + inside[6:]
            session.data_sent += kept
        own, other = (BOB, ALICE) if self.role == "initiator" else (ALICE, BOB)
        header = wire.array(*header_items(kind, time_ms, own, other)) if header is None else header
        key = chain.key
        for _ in range(ahead):
            key, _ = SUITE.kdf_chain(key)
        after, message_key = SUITE.kdf_chain(key)
        number = chain.n + ahead
        sent = (
            X25519PublicKey(ratchet.public if ratchet_key is None else ratchet_key),
            ratchet.epochs.epoch,
            chain.previous_length if pn is None else pn,
            number if n is None else n,
        )
        values = side("responder", early_payload=self._early_payload)["session"]
        session_id = bytes.fromhex(values["session_id"])
        parts = SUITE.seal(
            chain.header_key,
            message_key,
            sent,
            session_id + bytes.fromhex(values["th"]) + (header if sealed_for is None else sealed_for),
            pad(inside) if padded is None else padded,
            self._peer_draws.draw({}, "nonce", 24),
        )
        if kept:
            ratchet.apply_sealed(SendingChain(after, chain.header_key, number + 1, chain.previous_length, chain.start))
        return enveloped(header, session_id + b"".join(parts))


# --- what stands in a table -------------------------------------------------------------------------------------------

receive, send, say, close, poll = map(step, (Talk.receive, Talk.send, Talk.say, Talk.close, Talk.poll))
peer_poll = step(Talk.peer_poll)
offers, signals_offer, receive_offer = map(step, (Talk.offers, Talk.signals_offer, Talk.receive_offer))
accept, reject, establish = step(Talk.accept), step(Talk.reject), step(Talk.establish)
hear, deliver, sealed_by_peer = step(Talk.hear), step(Talk.deliver), step(Talk.sealed_by_peer)
peer_accept, peer_close = step(Talk.peer_accept), step(Talk.peer_close)
moved = step(lambda _, header, envelope: under(header, envelope))


def _bodily(change: Callable[..., bytes]) -> Callable[..., Step]:
    return step(lambda _, envelope, *given: with_body(envelope, lambda body: change(body, *given)))


body_flipped = _bodily(wire.flipped)
body_cut = _bodily(lambda body, size: body[:size])
body_longer = _bodily(lambda body, more: body + more)


# --- an ACCEPT in parts ----------------------------------------------------------------------------------------------


def conditions_bytes(*fields: bytes) -> bytes:
    """Return encoded conditions; unlimited if no fields are given."""
    return wire.array(*(fields or (wire.NIL, wire.NIL, wire.NIL)))


def forged_accept(
    *,
    header: bytes | None = None,
    ratchet_secret: bytes | None = None,
    ratchet_key: bytes | None = None,
    signed_key: bytes | None = None,
    signed_header: bytes | None = None,
    signed_th: bytes | None = None,
    signed_receipt: bytes | None = None,
    signed_conditions: bytes | None = None,
    sealed_th: bytes | None = None,
    conditions: bytes | None = None,
    signer: Identity = BOB,
    label: bytes = SIGN_ACCEPT,
    signature: bytes | None = None,
    accept_content: bytes | None = None,
    inside: bytes | None = None,
    padded: bytes | None = None,
    pn: int = 0,
    n: int = 0,
    session_id: bytes | None = None,
    time_ms: int = ACCEPTED_MS,
) -> bytes:
    """Return an ACCEPT of Bob's by someone who holds the session's keys, with any part another one."""
    made = knocked()
    values = made.values
    header = wire.array(*header_items(2, time_ms)) if header is None else header
    th = bytes.fromhex(values["th"])
    secret = X25519Secret(ratchet_secret or token("bob/forged/ratchet"))
    public = _crypto.x25519_public(secret)
    root = RootKey(bytes.fromhex(values["root"]))
    _, chain_key, _ = SUITE.kdf_root(root, _crypto.x25519(secret, bytes.fromhex(values["ephemeral"])))
    for _ in range(n):
        chain_key, _ = SUITE.kdf_chain(chain_key)
    _, message_key = SUITE.kdf_chain(chain_key)
    conditions = conditions_bytes() if conditions is None else conditions
    signed = signed_part(
        header if signed_header is None else signed_header,
        (th if signed_th is None else signed_th)
        + (made.receipt if signed_receipt is None else signed_receipt)
        + (public if signed_key is None else signed_key)
        + (conditions if signed_conditions is None else signed_conditions),
    )
    signature = signer.sign(label, signed) if signature is None else signature  # type: ignore[arg-type]
    if accept_content is None:
        accept_content = wire.pair(conditions, signature)
    inside = b"\x01" + accept_content if inside is None else inside
    parts = SUITE.seal(
        HeaderKey(bytes.fromhex(values["hk_ba"])),
        message_key,
        (X25519PublicKey(public if ratchet_key is None else ratchet_key), 0, pn, n),
        context(header, sealed_th),
        pad(inside) if padded is None else padded,
        token("bob/forged/nonce", 24),
    )
    session_id = bytes.fromhex(values["session_id"]) if session_id is None else session_id
    return enveloped(header, session_id + b"".join(parts))
