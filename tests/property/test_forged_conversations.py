"""Conversations under attack: everything genuine arrives, everything else is refused and changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentmesh import Agent, Kind, MessageReceived, RemoteError
from agentmesh.envelope import OuterEnvelope
from agentmesh.errors import (
    DecryptionFailed,
    DuplicateMessage,
    EnvelopeReflected,
    Malformed,
    SenderMismatch,
    TooLarge,
    UnknownSession,
    UnknownVersion,
    WrongMesh,
    WrongRecipient,
)
from agentmesh.identity import Identity
from agentmesh.session.facts import SESSION_ID_BYTES
from agentmesh.testing import Mutation, SeededEntropy, Tampering, established_pair, with_body, with_header

GENUINE = 300  # in each direction
FORGERIES_BEFORE_EACH = 20
STRANGER = Identity.generate(SeededEntropy("a stranger"))
NONCE_AND_HEADER = 24 + 56  # of a message, behind the session id; the commitment and the box follow
Refusal = type[RemoteError]


def opened(recipient: Agent, envelope: bytes) -> MessageReceived:
    [event] = recipient.receive(envelope)
    assert isinstance(event, MessageReceived)
    return event


def assert_refused(recipient: Agent, envelope: bytes, *expected: Refusal) -> None:
    before = recipient.export_state()
    with pytest.raises(RemoteError) as caught:
        recipient.receive(envelope)
    assert type(caught.value) in expected
    assert recipient.export_state() == before


# --- twenty forgeries before every genuine message -------------------------------------------------------------------


class Attack(NamedTuple):
    """What an attacker has: a genuine envelope that has not arrived, and earlier ones of the same direction."""

    random: Random
    envelope: bytes
    earlier: list[bytes]
    recipient: Agent
    sender: Agent

    @property
    def outer(self) -> OuterEnvelope:
        return OuterEnvelope.parse(self.envelope)

    @property
    def bystander(self) -> str:
        return STRANGER.did

    def flip(self, start: int, end: int) -> bytes:
        """Return the envelope with one bit flipped in these bytes of its body."""
        body_at = len(self.envelope) - len(self.outer.body)
        bit = self.random.randrange(8 * (body_at + start), 8 * (body_at + end))
        return Mutation(how=Tampering.FLIP, at=bit).apply(self.envelope)

    def mutate(self, how: Tampering) -> bytes:
        return Mutation(how=how, at=self.random.getrandbits(32), amount=self.random.getrandbits(32)).apply(
            self.envelope
        )


Forgery = tuple[Callable[[Attack], bytes], tuple[Refusal, ...]]

FRAMING = (Malformed, TooLarge, UnknownVersion, WrongRecipient, WrongMesh, SenderMismatch, DecryptionFailed)
FORGERIES: dict[str, Forgery] = {
    "session id flipped": (lambda a: a.flip(0, SESSION_ID_BYTES), (UnknownSession,)),
    "sealed header flipped": (
        lambda a: a.flip(SESSION_ID_BYTES, SESSION_ID_BYTES + NONCE_AND_HEADER),
        (DecryptionFailed,),
    ),
    "sealed body flipped": (
        lambda a: a.flip(SESSION_ID_BYTES + NONCE_AND_HEADER, len(a.outer.body)),
        (DecryptionFailed,),
    ),
    "framing flipped": (lambda a: a.flip(len(a.outer.body) - len(a.envelope), 0), FRAMING),
    "truncated": (lambda a: a.mutate(Tampering.TRUNCATE), (Malformed,)),
    "extended": (lambda a: a.mutate(Tampering.EXTEND), (Malformed,)),
    "body truncated": (
        lambda a: with_body(a.envelope, a.outer.body[: a.random.randrange(SESSION_ID_BYTES)]),
        (Malformed,),
    ),
    "body extended": (lambda a: with_body(a.envelope, a.outer.body + b"\x00"), (DecryptionFailed,)),
    "as a knock": (lambda a: with_header(a.envelope, kind=Kind.KNOCK), (Malformed,)),
    "as an accept": (lambda a: with_header(a.envelope, kind=Kind.ACCEPT), (DecryptionFailed,)),
    "as a reject": (lambda a: with_header(a.envelope, kind=Kind.REJECT), (Malformed, TooLarge)),
    "another time": (lambda a: with_header(a.envelope, time_ms=a.outer.header.time_ms + 1), (DecryptionFailed,)),
    "another sender": (lambda a: with_header(a.envelope, sender=a.bystander), (SenderMismatch,)),
    "another recipient": (lambda a: with_header(a.envelope, recipient=a.bystander), (WrongRecipient,)),
    "another mesh": (lambda a: with_header(a.envelope, mesh="another/mesh"), (WrongMesh,)),
    "from the recipient": (lambda a: with_header(a.envelope, sender=a.recipient.did), (EnvelopeReflected,)),
    "an earlier body": (
        lambda a: with_body(a.envelope, OuterEnvelope.parse(a.random.choice(a.earlier)).body),
        (DecryptionFailed, DuplicateMessage),
    ),
    "an earlier envelope": (lambda a: a.random.choice(a.earlier), (DuplicateMessage,)),
    "noise": (lambda a: a.random.randbytes(len(a.envelope)), (Malformed,)),
    "noise for a body": (
        lambda a: with_body(a.envelope, a.outer.body[:SESSION_ID_BYTES] + a.random.randbytes(200)),
        (DecryptionFailed,),
    ),
}
REFLECTIONS: dict[str, Forgery] = {
    "reflected": (lambda a: a.envelope, (WrongRecipient,)),
    "reflected under the other name": (
        lambda a: with_header(a.envelope, sender=a.recipient.did, recipient=a.sender.did),
        (DecryptionFailed,),
    ),
}


def test_every_genuine_message_arrives_among_twenty_forgeries_each() -> None:
    pair = established_pair()
    random = Random("forgeries")
    left = {pair.alice: GENUINE, pair.bob: GENUINE}
    received: dict[Agent, list[bytes]] = {pair.alice: [], pair.bob: []}
    earlier: dict[Agent, list[bytes]] = {pair.alice: [], pair.bob: []}
    tried = dict.fromkeys((*FORGERIES, *REFLECTIONS), 0)
    for sender, recipient in ((pair.alice, pair.bob), (pair.bob, pair.alice)):
        earlier[sender].append(sender.send(recipient.did, b"first").envelope)
        assert opened(recipient, earlier[sender][0]).plaintext == b"first"
    while any(left.values()):
        sender = random.choice([agent for agent, count in left.items() if count])
        recipient = pair.bob if sender is pair.alice else pair.alice
        pair.clock.advance(ms=1)
        data = b"%d" % left[sender]
        envelope = sender.send(recipient.did, data).envelope
        attack = Attack(random, envelope, earlier[sender], recipient, sender)
        for name in random.choices(list(tried), k=FORGERIES_BEFORE_EACH):
            make, expected = FORGERIES.get(name) or REFLECTIONS[name]
            assert_refused(recipient if name in FORGERIES else sender, make(attack), *expected)
            tried[name] += 1
        received[recipient].append(opened(recipient, envelope).plaintext)
        # Each message may be a turn, and past the chains of five turns a replay looks like a forgery.
        earlier[sender] = [*earlier[sender], envelope][-5:]
        left[sender] -= 1
    for messages in received.values():
        assert messages == [b"%d" % number for number in range(GENUINE, 0, -1)]
    assert sum(tried.values()) == 2 * GENUINE * FORGERIES_BEFORE_EACH
    assert all(tried.values())


# --- every envelope three times --------------------------------------------------------------------------------------

WINDOWS_LATE = 4  # a window is a turn at most, and the chains of five turns are kept


@given(
    windows=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=8),
    seed=st.integers(0, 2**32),
)
def test_of_three_deliveries_one_opens_and_two_are_duplicates(windows: list[tuple[int, int]], seed: int) -> None:
    pair = established_pair()
    random = Random(seed)
    later: list[list[tuple[Agent, bytes, bytes]]] = [[] for _ in range(len(windows) + WINDOWS_LATE)]
    expected: list[bytes] = []
    arrived: list[bytes] = []
    seen: set[bytes] = set()

    def arrive(window: int) -> None:
        random.shuffle(later[window])
        for recipient, envelope, data in later[window]:
            if envelope in seen:
                assert_refused(recipient, envelope, DuplicateMessage)
                continue
            seen.add(envelope)
            assert opened(recipient, envelope).plaintext == data
            arrived.append(data)

    for window, (from_alice, from_bob) in enumerate(windows):
        for sender, recipient, count in ((pair.alice, pair.bob, from_alice), (pair.bob, pair.alice, from_bob)):
            for _ in range(count):
                data = b"%d" % len(expected)
                expected.append(data)
                envelope = sender.send(recipient.did, data).envelope
                for _ in range(3):
                    later[window + random.randrange(WINDOWS_LATE)].append((recipient, envelope, data))
        arrive(window)
    for window in range(len(windows), len(later)):
        arrive(window)
    assert sorted(arrived) == sorted(expected)
