"""What heals after a whole state was stolen, and what does not: the sentences of docs/security.md, one test each."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentmesh.errors import RemoteError
from agentmesh.limits import Limits
from agentmesh.primitives.keys import HeaderKey, RootKey
from agentmesh.session.ratchet import Ratchet
from agentmesh.session.suite import SUITE
from agentmesh.testing import SeededEntropy

LIMITS = Limits()
NOW_MS = 1_767_225_600_000
CONTEXT = b"the session"
PAGE = Path(__file__).resolve().parents[2] / "docs" / "security.md"


class Side:
    """A ratchet with its owner's randomness; or a thief's copy, with his own."""

    def __init__(self, ratchet: Ratchet, seed: str) -> None:
        self.ratchet = ratchet
        self.entropy = SeededEntropy(seed)

    def seal(self, plaintext: bytes) -> bytes:
        parts, _, after = self.ratchet.seal(plaintext, CONTEXT, self.entropy.token(24))
        self.ratchet.apply_sealed(after)
        return b"".join(parts)

    def open(self, message: bytes) -> bytes:
        opened = self.ratchet.open(message, CONTEXT, NOW_MS, LIMITS)
        self.ratchet.apply(opened.delta(self.entropy))
        return opened.plaintext

    def stolen(self) -> Side:
        return Side(self.ratchet.copy(), "the thief's own")

    def reads(self, message: bytes) -> bool:
        """Whether a thief opens it; his copy goes on as its owner's would."""
        try:
            self.open(message)
        except RemoteError:
            return False
        return True


def conversing(turns: int) -> tuple[Side, Side]:
    entropy = SeededEntropy("shared")
    secret, public = SUITE.key_pair(entropy)
    root, ab, ba = RootKey(entropy.token(32)), HeaderKey(entropy.token(32)), HeaderKey(entropy.token(32))
    a = Side(Ratchet.initiator(SUITE, root, secret, public, header_key_ab=ab, header_key_ba=ba), "a")
    b = Side(
        Ratchet.responder(SUITE, root, public, header_key_ab=ab, header_key_ba=ba, entropy=SeededEntropy("b0")), "b"
    )
    a.open(b.seal(b"accept"))
    for turn in range(turns):
        speaker, listener = (a, b) if turn % 2 == 0 else (b, a)
        listener.open(speaker.seal(b"turn"))
    return a, b


either = given(turns=st.integers(1, 6), from_a=st.booleans(), more=st.integers(0, 2))


def victim_peer_thief(turns: int, from_a: bool) -> tuple[Side, Side, Side]:
    a, b = conversing(turns)
    victim, peer = (a, b) if from_a else (b, a)
    peer.open(victim.seal(b"the peer knows the victim's present key"))
    return victim, peer, victim.stolen()


@either
def test_what_the_victim_seals_is_read_until_it_opens_the_first_message_of_a_new_turn_of_the_peer(
    turns: int, from_a: bool, more: int
) -> None:
    victim, peer, thief = victim_peer_thief(turns, from_a)
    for _ in range(1 + more):
        message = victim.seal(b"before")
        assert thief.ratchet.sending is not None
        assert derives(thief, message)
        peer.open(message)
    victim.open(peer.seal(b"a new turn of the peer"))
    for _ in range(1 + more):
        assert not derives(thief, victim.seal(b"after"))


def derives(thief: Side, message: bytes) -> bool:
    """Whether the sending chain of a stolen state has the key of this message."""
    sending = thief.ratchet.sending
    assert sending is not None
    frame = SUITE.parse(message, 0)
    header = SUITE.open_header(sending.header_key, frame)
    if header is None:
        return False
    chain_key = sending.key
    _, _, _, n = header
    for _ in range(n - sending.n):
        chain_key, _ = SUITE.kdf_chain(chain_key)
    _, message_key = SUITE.kdf_chain(chain_key)
    try:
        SUITE.open_body(message_key, frame, CONTEXT)
    except RemoteError:
        return False
    return True


@either
def test_what_the_peer_seals_is_read_until_the_peer_has_opened_a_message_of_the_victims_next_turn(
    turns: int, from_a: bool, more: int
) -> None:
    victim, peer, thief = victim_peer_thief(turns, from_a)
    first = peer.seal(b"the first of the peer's next turn")
    assert thief.reads(first)
    victim.open(first)
    turned = victim.seal(b"the victim's next turn, with a key that was not stolen")
    # The peer has not heard it yet: what it seals meanwhile is read, however late that arrives.
    meanwhile = [peer.seal(b"sealed before it heard") for _ in range(1 + more)]
    assert all(thief.reads(message) for message in meanwhile)
    peer.open(turned)
    healed = [peer.seal(b"sealed after it heard") for _ in range(1 + more)]
    assert not any(thief.reads(message) for message in healed)
    assert [victim.open(message) for message in (*meanwhile, *healed)] != []


@either
def test_a_gap_in_the_stolen_chain_can_be_filled_by_the_thief_as_long_as_its_key_is_kept(
    turns: int, from_a: bool, more: int
) -> None:
    victim, peer, thief = victim_peer_thief(turns, from_a)
    forged = [thief.seal(b"forged") for _ in range(1 + more)]  # at the numbers of what is lost
    for _ in range(1 + more):
        victim.seal(b"lost on the way")
    peer.open(victim.seal(b"arrives"))
    for _ in range(2):  # two round trips: everything else has healed
        victim.open(peer.seal(b"peer"))
        peer.open(victim.seal(b"victim"))
    assert [peer.open(message) for message in forged] == [b"forged"] * (1 + more)
    with pytest.raises(RemoteError):  # but no number that was not lost
        peer.open(thief.seal(b"forged"))


@either
def test_a_thief_who_answers_in_the_victims_place_stays_in_the_session(turns: int, from_a: bool, more: int) -> None:
    _, peer, thief = victim_peer_thief(turns, from_a)
    thief.open(peer.seal(b"to the victim"))
    assert peer.open(thief.seal(b"not from the victim")) == b"not from the victim"
    for _ in range(more):
        assert thief.open(peer.seal(b"peer")) == b"peer"
        assert peer.open(thief.seal(b"thief")) == b"thief"


def test_the_page_says_each_of_these() -> None:
    text = " ".join(PAGE.read_text(encoding="utf-8").split())
    section = re.search(r"### What heals (.*?) ### ", text)
    assert section is not None
    for sentence in (
        "What the victim seals is read until it has opened the first message of a new turn of its peer",
        "What the peer seals is read until it has opened a message of the victim's next turn",
        "A gap that was left in the stolen chain can be filled by the thief",
        "A thief who answers in the victim's place stays in the session",
    ):
        assert sentence in section[1]
