"""Our key agreement and our ratchet under AGT's suite against libraries that share nothing with either: X3DH and
DoubleRatchet, the Python packages under OMEMO, with AGT's parameters.

Where both are told what they would draw, both must give the same bytes, message for message.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Any

import pytest

from agentmesh.agt.agreement import initiate, respond
from agentmesh.agt.suite import receiving_first, sending_first
from agentmesh.agt_identity import AgtIdentity
from agentmesh.errors import RemoteError
from agentmesh.limits import Limits
from agentmesh.primitives import _crypto
from agentmesh.primitives.keys import RootKey, X25519PublicKey, X25519Secret
from agentmesh.session.ratchet import Ratchet

AGREEMENTS = 1000
STEPS = 10_000
SESSIONS = 10
LIMITS = Limits()
CONTEXT = b"did:mesh:6d92abd732a5e02800997df38235cad9|did:mesh:7afb1a66f5afb056dffe0097427b62d5" + bytes(64)


class Referee:
    """The process of the referees: bytes in, bytes out."""

    def __init__(self, worker: Any) -> None:
        self._worker = worker

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        given = {name: value.hex() if isinstance(value, bytes) else value for name, value in arguments.items()}
        answer = self._worker.ask(do, **given)
        return {name: bytes.fromhex(value) if isinstance(value, str) else value for name, value in answer.items()}


@pytest.fixture
def referees(started: Any, referee_environment: Any) -> tuple[Referee, Referee]:
    one, other = (Referee(started.worker(referee_environment, "referee.py")) for _ in range(2))
    return one, other


class Told:
    """What draws nothing: it gives what it is told."""

    def __init__(self, value: bytes) -> None:
        self._value = value

    def token(self, size: int, /) -> bytes:
        assert size == len(self._value)
        return self._value

    def encapsulate(self, public_key: bytes, /) -> tuple[bytes, bytes]:
        raise AssertionError


def pair(chance: Random) -> tuple[X25519Secret, X25519PublicKey]:
    secret = X25519Secret(chance.randbytes(32))
    return secret, X25519PublicKey(_crypto.x25519_public(secret))


def agreements(referee: Referee, chance: Random, count: int) -> Iterator[bool]:
    """Agree `count` times, each side in turn initiating, and yield whether there was a one-time prekey."""
    for number in range(count):
        ours = AgtIdentity.from_seed(chance.randbytes(32))
        seed = chance.randbytes(32)
        theirs = AgtIdentity.from_seed(seed)
        with_one_time = chance.random() < 0.5
        person = referee.ask("person", seed=seed, one_time=int(with_one_time))
        assert person["identity"] == theirs.key.raw
        _crypto.ed25519_verify(theirs.key.raw, person["signed"], person["signature"])
        if number % 2:
            ephemeral, public = pair(chance)
            one_time = None if person["one_time"] is None else X25519PublicKey(person["one_time"])
            agreed = initiate(ours, theirs.key.dh, X25519PublicKey(person["signed"]), one_time, ephemeral)
            answer = referee.ask(
                "respond",
                identity=ours.key.raw,
                ephemeral=public,
                signed=person["signed"],
                one_time=person["one_time"],
            )
        else:
            (signed, signed_public), (one, one_public) = pair(chance), pair(chance)
            answer = referee.ask(
                "initiate",
                identity=ours.key.raw,
                signed=signed_public,
                signature=ours.sign(signed_public),
                one_time=one_public if with_one_time else None,
            )
            assert answer["one_time"] == (one_public if with_one_time else None)
            ephemeral_public = X25519PublicKey(answer["ephemeral"])
            agreed = respond(ours, theirs.key.dh, ephemeral_public, signed, one if with_one_time else None)
        assert agreed == answer["secret"]
        yield with_one_time


def test_a_thousand_agreements_are_equal(referees: tuple[Referee, Referee]) -> None:
    had = list(agreements(referees[0], Random(14), AGREEMENTS))
    assert len(had) == AGREEMENTS
    assert 400 < sum(had) < 600


class Twins:
    """One side twice: our ratchet, and the referee's. Both are told the same, and must do the same."""

    def __init__(self, referee: Referee, chance: Random, root: RootKey) -> None:
        self._referee, self._chance, self._root = referee, chance, root
        self._ratchet: Ratchet | None = None
        self._signed: X25519Secret | None = None
        self.turns = 0

    def knocks(self, signed: X25519PublicKey, plaintext: bytes) -> bytes:
        """Return the first message of the side that sends first."""
        fresh = self._chance.randbytes(32)
        self._ratchet = sending_first(self._root, signed, Told(fresh))
        return self._sealed(plaintext, do="first_out", secret=bytes(self._root), signed=bytes(signed), fresh=fresh)

    def is_knocked_on(self, signed: X25519Secret, signed_public: X25519PublicKey) -> None:
        self._ratchet = receiving_first(self._root, signed, signed_public)
        self._signed = signed

    def seal(self, plaintext: bytes) -> bytes:
        return self._sealed(plaintext, do="seal")

    def _sealed(self, plaintext: bytes, **request: Any) -> bytes:
        assert self._ratchet is not None
        nonce = self._chance.randbytes(12)
        parts, _, chain = self._ratchet.seal(plaintext, CONTEXT, nonce)
        self._ratchet.apply_sealed(chain)
        message = b"".join(parts)
        assert self._referee.ask(plaintext=plaintext, context=CONTEXT, nonce=nonce, **request) == {"message": message}
        return message

    def open(self, message: bytes) -> bytes | None:
        """Return what both open, or `None` where both refuse."""
        assert self._ratchet is not None
        fresh = self._chance.randbytes(32)
        before = self._ratchet.root
        plaintext: bytes | None
        try:
            opened = self._ratchet.open(message, CONTEXT, 0, LIMITS)
        except RemoteError:
            plaintext = None
        else:
            self._ratchet.apply(opened.delta(Told(fresh)))
            plaintext = opened.plaintext
        self.turns += self._ratchet.root != before
        if self._signed is None:
            answer = self._referee.ask("open", message=message, context=CONTEXT, fresh=fresh)
        else:
            assert plaintext is not None
            begun = {"secret": bytes(self._root), "signed_secret": bytes(self._signed)}
            answer = self._referee.ask("first_in", message=message, context=CONTEXT, fresh=fresh, **begun)
            self._signed = None
        assert answer == {"plaintext": plaintext}
        return plaintext

    def are_equal(self) -> None:
        """Compare all that is secret in the two: keys, chains, and what is kept for late messages."""
        ratchet = self._ratchet
        assert ratchet is not None
        assert ratchet.sending is not None
        assert ratchet.receiving is not None
        assert self._referee.ask("state") == {
            "secret": ratchet.secret,
            "peer": ratchet.receiving.peer_key,
            "root": ratchet.root,
            "sending": ratchet.sending.key,
            "receiving": ratchet.receiving.key,
            "skipped": b"".join(sorted(key for key, _ in ratchet.skipped.values())),
        }


def converse(referees: tuple[Referee, Referee], chance: Random, steps: int) -> tuple[int, int]:
    """Let two sides exchange `steps` messages, and return (turns, refusals)."""
    root = RootKey(chance.randbytes(32))
    sides = [Twins(referee, chance, root) for referee in referees]
    signed, signed_public = pair(chance)
    sides[1].is_knocked_on(signed, signed_public)
    sent = {0: [(b"first", sides[0].knocks(signed_public, b"first"))], 1: []}
    seen: list[tuple[int, bytes]] = []
    opened = refused = 0
    while opened < steps:
        side = chance.randrange(2) if opened else 0
        if opened or side == 0:
            for _ in range(chance.randrange(5)):
                plaintext = chance.randbytes(chance.randrange(40))
                sent[side].append((plaintext, sides[side].seal(plaintext)))
        waiting = sent[side]
        chance.shuffle(waiting)
        # One in thirty is lost, one in five comes later, behind what the next turns bring.
        for _ in range(len(waiting) - len(waiting) // 5):
            plaintext, message = waiting.pop()
            if chance.random() < 1 / 30 and opened:
                continue
            assert sides[1 - side].open(message) == plaintext
            seen.append((1 - side, message))
            opened += 1
        if opened and chance.random() < 0.2:
            to, message = chance.choice(seen[-20:])
            at = chance.randrange(32, len(message))
            forged = message[:at] + bytes([message[at] ^ 1 << chance.randrange(8)]) + message[at + 1 :]
            for bad in (message, forged):
                assert sides[to].open(bad) is None
                refused += 1
    for side in sides:
        side.are_equal()
    return sides[0].turns + sides[1].turns, refused


def test_ten_thousand_steps_are_equal(referees: tuple[Referee, Referee]) -> None:
    chance = Random(1414)
    done = [converse(referees, chance, STEPS // SESSIONS) for _ in range(SESSIONS)]
    assert sum(turns for turns, _ in done) > 1000
    assert sum(refused for _, refused in done) > 500
