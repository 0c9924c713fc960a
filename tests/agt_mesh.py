"""A mesh of AGT's in memory, and a peer in it that shares no code with ours.

The registry and the relay do what AGT's do: a bundle's one-time prekey is given out once; frames to whoever is
connected are passed on and forgotten; those to others are stored, once an id, and pushed at each connection until they
are acknowledged. `Peer` is a client's side, with the package `cryptography` alone; its receiver is strict, as ours is.
`Scene` puts an agent of ours beside it.

Tests reach this module through the fixture `agt_mesh`.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
from collections.abc import Callable
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from agentmesh.agt import AgtAgent, AgtIdentity
from agentmesh.audit.record import Record
from agentmesh.limits import Limits
from agentmesh.policy import Ask, ClaimedSender, Decision, Grant, KnockRequest
from agentmesh.testing import ManualClock, SeededEntropy

F, ZEROS = b"\xff" * 32, bytes(32)
Frame = dict[str, Any]


def url64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def std64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def un64(text: str) -> bytes:
    return base64.b64decode(text.replace("-", "+").replace("_", "/") + "=" * (-len(text) % 4))


def hkdf(ikm: bytes, salt: bytes, info: bytes, size: int) -> bytes:
    return HKDF(algorithm=hashes.SHA256(), length=size, salt=salt, info=info).derive(ikm)


def dh(secret: bytes, public: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(secret).exchange(X25519PublicKey.from_public_bytes(public))


def public_of(secret: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()


# --- the registry and the relay ---------------------------------------------------------------------------------------


class Registry:
    """What agents upload, and what is given out."""

    def __init__(self) -> None:
        self.shelves: dict[str, dict[str, Any]] = {}

    def put(self, request: Any) -> None:
        """Take an upload: it replaces everything."""
        assert request.method == "PUT"
        did = request.path.split("/")[3].replace("%3A", ":")
        self.shelves[did] = json.loads(request.body)

    def answer(self, did: str) -> bytes:
        """Give out a bundle, with the first one-time prekey that is left."""
        shelf = self.shelves[did]
        one_time = shelf["one_time_pre_keys"].pop(0) if shelf["one_time_pre_keys"] else None
        bundle = {name: shelf[name] for name in ("identity_key", "identity_key_ed", "signed_pre_key")}
        return json.dumps({**bundle, "one_time_pre_key": one_time}).encode()


class Relay:
    """Frames under way: `mail` of who is connected, and `stored` of all."""

    def __init__(self) -> None:
        self.stored: dict[str, dict[str, str]] = {}
        self.mail: dict[str, list[str]] = {}
        self.seen: list[Frame] = []

    def connect(self, did: str) -> None:
        """Push all that is stored."""
        self.mail[did] = [*self.stored.get(did, {}).values()]

    def disconnect(self, did: str) -> list[str]:
        """Forget what was on the wire, and return it."""
        return self.mail.pop(did, [])

    def give(self, frame: Any, sender: str) -> None:
        """Take a frame from a connection."""
        sent = text(frame)
        fields = json.loads(sent)
        if fields["type"] == "ack":
            self.stored.get(sender, {}).pop(fields["id"], None)
            return
        assert fields["from"] == sender
        self.seen.append(fields)
        to = fields["to"]
        if to in self.mail:
            self.mail[to].append(sent)
        else:
            self.stored.setdefault(to, {}).setdefault(fields["id"], sent)


# --- a peer -----------------------------------------------------------------------------------------------------------


class Refused(Exception):
    """The peer does not take a frame."""


class Ratchet:
    """The Double Ratchet, as the Signal specification has it, over AGT's primitives."""

    def __init__(self, root: bytes, context: bytes, *, mine: bytes, theirs: bytes | None) -> None:
        self.root, self.context = root, context
        self.secret, self.theirs = mine, theirs
        self.sending: bytes | None = None
        self.receiving: bytes | None = None
        self.sent = self.received = self.before = 0
        self.skipped: dict[tuple[bytes, int], bytes] = {}
        if theirs is not None:
            self.sending = self._step(theirs)

    def _step(self, theirs: bytes) -> bytes:
        keys = hkdf(dh(self.secret, theirs), self.root, b"AgentMesh_Ratchet_v1", 64)
        self.root = keys[:32]
        return keys[32:]

    def _next(self, chain: bytes) -> tuple[bytes, bytes]:
        return hmac.digest(chain, b"\x02", "sha256"), hmac.digest(chain, b"\x01", "sha256")

    def seal(self, plaintext: bytes) -> tuple[dict[str, Any], bytes]:
        assert self.sending is not None
        self.sending, key = self._next(self.sending)
        public, n = public_of(self.secret), self.sent
        header = public + self.before.to_bytes(4, "big") + n.to_bytes(4, "big")
        nonce = os.urandom(12)
        self.sent += 1
        sealed = nonce + ChaCha20Poly1305(key).encrypt(nonce, plaintext, self.context + header)
        return {"dh": std64(public), "pn": self.before, "n": n}, sealed

    def open(self, header: dict[str, Any], sealed: bytes) -> bytes:
        kept = dict(self.__dict__, skipped=dict(self.skipped))
        try:
            return self._open(un64(header["dh"]), header["pn"], header["n"], sealed)
        except InvalidTag:
            self.__dict__.update(kept)
            raise Refused from None

    def _open(self, theirs: bytes, previous: int, n: int, sealed: bytes) -> bytes:
        key = self.skipped.pop((theirs, n), None)
        if key is None:
            if theirs != self.theirs:
                self._skip(previous)
                self.theirs, self.before, self.received, self.sent = theirs, self.sent, 0, 0
                self.receiving = self._step(theirs)
                self.secret = os.urandom(32)
                self.sending = self._step(theirs)
            elif n < self.received or self.receiving is None:
                raise InvalidTag
            self._skip(n)
            assert self.receiving is not None
            self.receiving, key = self._next(self.receiving)
            self.received += 1
        header = theirs + previous.to_bytes(4, "big") + n.to_bytes(4, "big")
        return ChaCha20Poly1305(key).decrypt(sealed[:12], sealed[12:], self.context + header)

    def _skip(self, until: int) -> None:
        while self.receiving is not None and self.received < until:
            self.receiving, key = self._next(self.receiving)
            assert self.theirs is not None
            self.skipped[self.theirs, self.received] = key
            self.received += 1


class Peer:
    """A client: it answers no KNOCK, acknowledges nothing, and replaces its session by the next KNOCK."""

    def __init__(self, seed: bytes) -> None:
        self.signing = Ed25519PrivateKey.from_private_bytes(seed)
        self.raw = self.signing.public_key().public_bytes_raw()
        self.did = "did:mesh:" + hashlib.sha256(self.raw).hexdigest()[:32]
        self.dh_secret = hashlib.sha512(seed).digest()[:32]
        self.signed_secret = os.urandom(32)
        self.one_time = {number: os.urandom(32) for number in range(10)}
        self.listed = [*self.one_time]
        self.sessions: dict[str, Ratchet] = {}
        self.count = 0

    @property
    def dh(self) -> bytes:
        return public_of(self.dh_secret)

    def bundle(self, **changes: Any) -> bytes:
        """What the registry answers for this peer."""
        signed = public_of(self.signed_secret)
        one_time = None
        if self.listed:
            number = self.listed.pop(0)
            one_time = {"key_id": number, "public_key": url64(public_of(self.one_time[number]))}
        fields = {
            "identity_key": url64(self.dh),
            "identity_key_ed": url64(self.raw),
            "signed_pre_key": {
                "key_id": 0, "public_key": url64(signed), "signature": url64(self.signing.sign(signed)),
            },
            "one_time_pre_key": one_time,
            **changes,
        }  # fmt: skip
        return json.dumps(fields).encode()

    def frame(self, kind: str, to: str, **fields: Any) -> Frame:
        """Any frame in this peer's name."""
        self.count += 1
        name = f"{self.did[9:17]}-{self.count}"
        return {
            "v": 1,
            "type": kind,
            "from": self.did,
            "to": to,
            "id": name,
            "ts": "2026-08-24T06:18:02.472Z",
            **fields,
        }

    def knock(self, did: str, answer: bytes, *, legacy: bool = False, **changes: Any) -> Frame:
        """Ask for a session; it is this side's from now on."""
        bundle = json.loads(answer)
        ed, theirs = un64(bundle["identity_key_ed"]), un64(bundle["identity_key"])
        signed = un64(bundle["signed_pre_key"]["public_key"])
        Ed25519PublicKey.from_public_bytes(ed).verify(un64(bundle["signed_pre_key"]["signature"]), signed)
        secret = os.urandom(32)
        agreed = dh(self.dh_secret, signed) + dh(secret, theirs) + dh(secret, signed)
        establishment: dict[str, Any] = {"ik": std64(self.dh), "ek": std64(public_of(secret))}
        one_time = bundle["one_time_pre_key"]
        if one_time is not None:
            agreed += dh(secret, un64(one_time["public_key"]))
            establishment["otk"] = one_time["key_id"]
        ikm, salt = (agreed, F) if legacy else (F + agreed, ZEROS)
        root = hkdf(ikm, salt, b"AgentMesh_X3DH_v1", 32)
        context = f"{self.did}|{did}".encode() + self.dh + theirs
        self.sessions[did] = Ratchet(root, context, mine=os.urandom(32), theirs=signed)
        frame = self.frame("knock", did, intent={"action": "establish_session"}, establishment=establishment)
        return {**frame, **changes}

    def send(self, did: str, data: str, *, raw: bytes | None = None) -> Frame:
        """Seal a message as a JSON string, or these bytes as they are."""
        header, sealed = self.sessions[did].seal(json.dumps(data).encode() if raw is None else raw)
        return self.frame("message", did, header=header, ciphertext=std64(sealed))

    def take(self, frame: Any) -> str | None:
        """Take a frame; return what a message says."""
        fields = frame if isinstance(frame, dict) else json.loads(bytes(frame) if not isinstance(frame, str) else frame)
        assert fields["to"] == self.did
        if fields["type"] == "knock":
            self._taken(fields)
        if fields["type"] != "message":
            return None
        ratchet = self.sessions.get(fields["from"])
        if ratchet is None:
            raise Refused
        text: str = json.loads(ratchet.open(fields["header"], un64(fields["ciphertext"])))
        return text

    def _taken(self, fields: Frame) -> None:
        establishment = fields["establishment"]
        theirs, ephemeral = un64(establishment["ik"]), un64(establishment["ek"])
        agreed = dh(self.signed_secret, theirs) + dh(self.dh_secret, ephemeral) + dh(self.signed_secret, ephemeral)
        if "otk" in establishment:
            agreed += dh(self.one_time.pop(establishment["otk"]), ephemeral)
        root = hkdf(F + agreed, ZEROS, b"AgentMesh_X3DH_v1", 32)
        context = f"{fields['from']}|{self.did}".encode() + theirs + self.dh
        self.sessions[fields["from"]] = Ratchet(root, context, mine=self.signed_secret, theirs=None)


# --- an agent of ours in it -------------------------------------------------------------------------------------------


class Rules:
    """A policy whose answers can be told: values, or functions."""

    def __init__(self) -> None:
        self.admits: Any = True
        self.decides: Any = Grant()
        self.allows: Any = True
        self.knows: Any = False
        self.converses: Any = True
        self.requests: list[KnockRequest] = []
        self.uses: list[Any] = []

    def _answer(self, answer: Any, *about: Any) -> Any:
        return answer(*about) if callable(answer) else answer

    def may_knock(self, sender: ClaimedSender, /) -> bool:
        return bool(self._answer(self.admits, sender))

    def decide(self, knock: KnockRequest, /) -> Decision:
        self.requests.append(knock)
        answer: Decision = self._answer(self.decides, knock)
        return answer

    def still_allowed(self, peer: Any, /) -> bool:
        return bool(self._answer(self.allows, peer))

    def is_known(self, key: bytes, /) -> bool:
        return bool(self._answer(self.knows, key))

    def may_converse(self, peer: Any, guarantees: Any, /) -> bool:
        return bool(self._answer(self.converses, peer, guarantees))

    def used(self, *use: Any) -> None:
        self.uses.append(use)


class Log:
    """A journal that keeps rows as a store does, and records, and can say whether it has what it was told."""

    def __init__(self) -> None:
        self.rows: dict[Any, bytes] = {}
        self.records: list[Record] = []
        self.failing = self.is_taken = False

    def begin(self) -> None:
        self.is_taken = False

    def settled(self) -> bool:
        return self.is_taken

    def commit(self, changes: Any, records: tuple[Record, ...], /) -> None:
        if self.failing:
            raise OSError
        rows = changes.rows()
        for name, data in rows.items():
            if data is None:
                self.rows.pop(name, None)
            else:
                self.rows[name] = data
        self.records += records
        self.is_taken = True


class Scene:
    """Bob, an agent of ours with rules and a journal, Alice, another, and Pete, who is not ours. One clock."""

    def __init__(self, limits: Limits | None = None, *, reliable: bool = False) -> None:
        self.clock, self.rules, self.log = ManualClock(), Rules(), Log()
        self.limits, self.reliable = limits, reliable
        self.registry = Registry()
        self.alice, self.bob = self.agent("alice"), self.agent("bob", policy=self.rules, journal=self.log)
        self.pete = Peer(bytes(31) + b"p")
        self.publish(self.alice, self.bob)

    def agent(self, name: str, **given: Any) -> AgtAgent:
        identity = AgtIdentity.generate(SeededEntropy(name))
        given = {"policy": always(Grant()), "limits": self.limits, "reliable": self.reliable, **given}
        return AgtAgent.create("mesh", identity=identity, clock=self.clock, entropy=SeededEntropy(name + "!"), **given)

    def publish(self, *agents: AgtAgent, one_time: int = 20, rotate: bool = False) -> None:
        for agent in agents:
            self.registry.put(agent.publish_prekeys(one_time, rotate=rotate))

    def ask(self) -> None:
        """Leave each KNOCK to the application."""
        self.rules.decides = Ask()

    def restart(self, agent: AgtAgent | None = None, **given: Any) -> AgtAgent:
        """An agent from what it exported; Bob, with the same hooks, if none is named."""
        name = "alice" if agent is self.alice else "bob"
        policy = always(Grant()) if agent is self.alice else self.rules
        given = {"policy": policy, "limits": self.limits, "reliable": self.reliable, **given}
        made = AgtAgent.restore((agent or self.bob).export_state(), clock=self.clock, **given)
        setattr(self, name, made)
        return made

    def knock(self, sender: Any = None, **changes: Any) -> Any:
        """Pete's KNOCK on Bob, or that of another peer."""
        return (sender or self.pete).knock(self.bob.did, self.registry.answer(self.bob.did), **changes)

    def meet(self, sender: Any = None, data: str = "hello") -> Any:
        """A session that Pete, or another peer, began with Bob; what Bob tells of the first message."""
        peer = sender or self.pete
        assert self.bob.receive(text(self.knock(peer))) == ()
        return self.bob.receive(text(peer.send(self.bob.did, data)))


def always(decision: Decision) -> Rules:
    rules = Rules()
    rules.decides = decision
    return rules


def text(frame: Any) -> str:
    """A frame as the relay writes it."""
    if isinstance(frame, dict):
        return json.dumps(frame)
    return frame if isinstance(frame, str) else bytes(frame).decode()


def look(agent: AgtAgent) -> tuple[Any, ...]:
    """All that a refusal must leave: what is exported, and what is held in memory."""
    early = agent._core.early
    return agent.export_state(), {did: early.of(did) for did in [*early._by_did]}


def said(events: Any) -> list[bytes]:
    """What the messages among events say."""
    return [event.plaintext for event in events if hasattr(event, "plaintext")]


def counting(monkeypatch: Any, *names: str) -> Callable[[], int]:
    """Count the calls of primitives from now on."""
    from agentmesh.primitives import _crypto

    count = 0

    def wrap(function: Any) -> Any:
        def counted(*args: Any) -> Any:
            nonlocal count
            count += 1
            return function(*args)

        return counted

    for name in names:
        monkeypatch.setattr(_crypto, name, wrap(getattr(_crypto, name)))
    return lambda: count
