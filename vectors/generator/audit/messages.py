"""For the family disclosure: messages with their keys and records, genuine ones, and ones that anybody could make."""

from __future__ import annotations

from functools import cache
from typing import Any, Final

from attrs import evolve, frozen
from runner.agents import SessionRunner

from agentmesh.envelope import receipt_of
from agentmesh.identity import Identity
from agentmesh.primitives import _crypto
from agentmesh.primitives._labels import MESSAGE
from agentmesh.primitives.padding import pad
from agentmesh.session.established import Session
from agentmesh.session.suite import SUITE
from generator import trace, wire
from generator.audit.entries import entry, record
from generator.forge import knock
from generator.handshakes import derived
from generator.talk import ACCEPTED_MS, LATER_MS, enveloped, header_items, side, split
from generator.twokeys import one_time_key
from generator.world import ALICE, BOB, LAST_RESORT, UNLIMITED, token

Json = dict[str, Any]

_CLAMP: Final = 0x0FFFFFFC0FFFFFFC0FFFFFFC0FFFFFFF
_P1305: Final = 2**130 - 5
_AGREEING: Final = (42_374, 54_695)  # found by a birthday search over numbers


@frozen(kw_only=True)
class Message:
    """An envelope of kind 4 in parts, its message key, and the record that its sender's log has of it."""

    sender: Identity
    recipient: Identity
    th: bytes
    mk: bytes
    header: bytes
    session_id: bytes
    nonce: bytes
    sealed_header: bytes
    padded: bytes
    time_ms: int = LATER_MS
    number: int = 1
    bundle_class: int = 1
    kc: bytes | None = None
    box: bytes | None = None

    @property
    def keys(self) -> tuple[bytes, bytes]:
        """The box key and the commitment: section 6."""
        context = self.session_id + self.th + self.header
        both = _crypto.kdf(self.mk, MESSAGE, self.nonce + self.sealed_header + context, 64)
        return both[:32], both[32:]

    @property
    def body(self) -> bytes:
        """The envelope's body."""
        bk, kc = self.keys
        box = _crypto.secretbox(self.padded, self.nonce, bk) if self.box is None else self.box
        return self.session_id + self.nonce + self.sealed_header + (kc if self.kc is None else self.kc) + box

    @property
    def envelope(self) -> bytes:
        """The envelope."""
        return enveloped(self.header, self.body)

    @property
    def disclosure(self) -> bytes:
        """What discloses it."""
        return self.th + self.mk

    def record(self, envelope: bytes | None = None, **changes: Any) -> Json:
        """Return the record of it, or of another envelope with its names and session."""
        envelope = self.envelope if envelope is None else envelope
        fields = {
            "at_ms": self.time_ms,
            "sender": self.sender.did,
            "recipient": self.recipient.did,
            "envelope_time_ms": self.time_ms,
            "receipt": receipt_of(envelope).hex(),
            "session_id": self.session_id.hex(),
            "number": self.number,
            "size": len(envelope),
            "class": self.bundle_class,
        }
        return record(1, **{**fields, **changes})

    def keys_json(self) -> Json:
        """Return the values on the way."""
        bk, kc = self.keys
        return {"bk": bk.hex(), "kc": kc.hex(), "box_content": self.padded.hex()}


def given(message: Message, envelope: bytes | None = None, **changes: Any) -> Json:
    """Return the input of `disclosure.verify`; the record follows the envelope but for `changes`."""
    envelope = message.envelope if envelope is None else envelope
    return {
        "envelope": envelope.hex(),
        "disclosure": message.disclosure.hex(),
        "entry": entry(message.record(envelope, **changes), 7, token("audit/previous/disclosure")).hex(),
    }


# --- a session that was held ----------------------------------------------------------------------------------------


class _Party:
    def __init__(self, name: str, role: str, session: Json | None) -> None:
        given = side(role)
        if session is not None:
            given["session"] = {**given["session"], **session}
        self.who, self.peer = (ALICE, BOB) if role == "initiator" else (BOB, ALICE)
        self.runner = SessionRunner(given, trace.Recorder(f"disclosure/{name}/{role}"))
        self.th = bytes.fromhex(given["session"]["th"])

    def step(self, do: str, now_ms: int = LATER_MS, **fields: Any) -> Json:
        return self.runner.step({"do": do, "now_ms": now_ms, **fields})

    def receive(self, envelope: bytes, now_ms: int = LATER_MS) -> None:
        self.step("receive", now_ms, envelope=envelope.hex())

    def say(self, do: str = "send", **fields: Any) -> Message:
        """Seal something and return it with its key, checked against what the library hands out."""
        held = self.runner.agent._core.state.sessions[self.runner._session_id]
        if not isinstance(held, Session) or held.ratchet.sending is None:
            raise TypeError("no established session")
        _, mk = SUITE.kdf_chain(held.ratchet.sending.key)
        made = self.step(do, **fields)
        header, body = split(bytes.fromhex(made["envelope"]))
        message = Message(
            sender=self.who,
            recipient=self.peer,
            th=self.th,
            mk=bytes(mk),
            header=header,
            session_id=body[:16],
            nonce=body[16:40],
            sealed_header=body[40:100],
            padded=b"",
            number=made.get("number", 1),
            kc=body[100:132],
            box=body[132:],
        )
        return evolve(
            message, padded=_crypto.secretbox_open(body[132:], message.nonce, message.keys[0]), kc=None, box=None
        )


def _parties(name: str, session: Json | None = None) -> tuple[_Party, _Party]:
    """Return Alice and Bob with a session between them."""
    alice, bob = _Party(name, "initiator", session), _Party(name, "responder", session)
    accept = bob.step("accept", ACCEPTED_MS, conditions=UNLIMITED)["envelope"]
    alice.receive(bytes.fromhex(accept), ACCEPTED_MS)
    return alice, bob


@cache
def said() -> dict[str, Message]:
    """Return what Alice and Bob said to each other, by name."""
    alice, bob = _parties("session")
    talk = {"first": alice.say(plaintext=b"what did you find?".hex(), action=None)}
    talk["second"] = alice.say(plaintext=b"and what does it cost?".hex(), action="ask")
    bob.receive(talk["second"].envelope)
    talk["answer"] = bob.say(plaintext=b"a hundred".hex(), action=None)
    alice.receive(talk["answer"].envelope)
    talk["empty"] = alice.say(plaintext="", action=None)
    talk["long"] = alice.say(plaintext=(bytes(range(250)) * 3).hex(), action=None)
    talk["close"] = alice.say("close", reason="enough")
    return talk


@cache
def said_on_last_resort() -> Message:
    """Return a message of a session that began with a last-resort bundle."""
    made = knock(LAST_RESORT)
    values = derived(LAST_RESORT, ALICE, token("alice/ephemeral/0"), 0)
    names = ("th", "session_id", "root", "hk_ba", "hk_ab", "ephemeral")
    session = {**{name: values[name] for name in names}, "knock_receipt": made.receipt.hex()}
    alice, _ = _parties("last-resort", session)
    return evolve(alice.say(plaintext=b"hello again".hex(), action=None), bundle_class=2)


def crafted(
    inside: bytes = b"\x00\x00\x00\x00\x00\x01\x00hello", *, kind: int = 4, padded: bytes | None = None
) -> Message:
    """Return a message that anybody could make who knows of the session: with a key of its own."""
    base = said()["first"]
    return evolve(
        base,
        mk=token("disclosure/crafted/mk"),
        header=wire.array(*header_items(kind, LATER_MS, ALICE, BOB)),
        padded=pad(inside) if padded is None else padded,
    )


# --- a box that opens under two keys ---------------------------------------------------------------------------------


def two_keys() -> tuple[Message, Message]:
    """Return two messages with one box: each has its own key, its own commitment, and its own well-formed data.

    Both streams must agree in the four bytes that are not free: type, parts, action length, and the marker at the end.
    The two blocks in the middle then solve two linear equations, one for each tag.
    """
    base = crafted()
    one, other = (evolve(base, mk=token(f"disclosure/two-keys/{number}")) for number in _AGREEING)
    streams = [_crypto.secretbox(bytes(64), each.nonce, each.keys[0])[16:] for each in (one, other)]
    if any(streams[0][at] != streams[1][at] for at in (0, 1, 6, 63)):
        raise ArithmeticError("another pair of keys is to be found")
    box = _box_for_two((one, other), streams[0])
    one, other = (
        evolve(each, box=box, padded=_crypto.secretbox_open(box, each.nonce, each.keys[0])) for each in (one, other)
    )
    return one, other


def _box_for_two(pair: tuple[Message, Message], stream: bytes) -> bytes:
    (r1, s1), (r2, s2) = (
        (int.from_bytes(key[:16], "little") & _CLAMP, int.from_bytes(key[16:], "little"))
        for key in (one_time_key(message.keys[0], message.nonce) for message in pair)
    )
    head, tail = stream[:2] + bytes(4) + stream[6:7] + bytes(9), bytes(15) + bytes([stream[63] ^ 0x80])
    h, t = (int.from_bytes(block + b"\x01", "little") for block in (head, tail))
    inverse = pow(pow(r1, 3) * pow(r2, 2) - pow(r2, 3) * pow(r1, 2), -1, _P1305)
    for attempt in range(10_000):
        w1, w2 = (
            ((attempt - s) % (1 << 128) - h * pow(r, 4, _P1305) - t * r) % _P1305 for r, s in ((r1, s1), (r2, s2))
        )
        a = (w1 * pow(r2, 2) - w2 * pow(r1, 2)) * inverse % _P1305
        b = (w2 * pow(r1, 3) - w1 * pow(r2, 3)) * inverse % _P1305
        if a >> 128 == b >> 128 == 1:
            middle = b"".join((block % (1 << 128)).to_bytes(16, "little") for block in (a, b))
            return attempt.to_bytes(16, "little") + head + middle + tail
    raise ArithmeticError("no solution")
