"""What a refused envelope costs, beside opening a genuine one on the same session.

The receiver has conversed for a while and keeps five past chains, so that a header which opens under none costs the
most openings that it can. A refusal changes nothing, so one forgery serves for all calls.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial

from agentmesh.errors import DecryptionFailed, DuplicateMessage, RemoteError
from benchmarks.pairs import Pair, conversation
from benchmarks.peers.serve import Call, Workload

_TURNS = 8
_HEADER = slice(0, 24 + 56)  # nonce and sealed header, counted from behind the session id
_COMMITMENT_AT = 24 + 56

Forge = Callable[[bytes, int], bytes]


def random_header(envelope: bytes, at: int) -> bytes:
    """Return the envelope with another nonce and sealed header."""
    return envelope[:at] + os.urandom(_HEADER.stop) + envelope[at + _HEADER.stop :]


def _flipped(envelope: bytes, at: int) -> bytes:
    return envelope[:at] + bytes([envelope[at] ^ 1]) + envelope[at + 1 :]


def changed_commitment(envelope: bytes, at: int) -> bytes:
    """Return the envelope with one bit of kc changed."""
    return _flipped(envelope, at + _COMMITMENT_AT)


def changed_body(envelope: bytes, _at: int) -> bytes:
    """Return the envelope with its last bit changed."""
    return _flipped(envelope, len(envelope) - 1)


def received() -> Pair:
    """Return a conversation in which the next message of Alice is on the chain that Bob receives on."""
    pair = conversation(turns=_TURNS)
    pair.bob.receive(pair.alice.send(pair.bob.did, b"hello"))
    return pair


def genuine(size: int) -> Iterator[Call]:
    """Yield openings of genuine envelopes."""
    (alice, bob, _), data = received(), bytes(size)
    while True:
        envelope = alice.send(bob.did, data).envelope
        yield partial(bob.receive, envelope)


def forged(forge: Forge, size: int) -> Iterator[Call]:
    """Yield refusals of one forged envelope, whose genuine form was not delivered."""
    alice, bob, _ = received()
    envelope = alice.send(bob.did, bytes(size)).envelope
    at = envelope.index(alice.session(bob.did).session_id) + 16
    yield from _refused(bob.receive, forge(envelope, at), DecryptionFailed)


def duplicate(size: int) -> Iterator[Call]:
    """Yield refusals of an envelope that was opened before."""
    alice, bob, _ = received()
    envelope = alice.send(bob.did, bytes(size)).envelope
    bob.receive(envelope)
    yield from _refused(bob.receive, envelope, DuplicateMessage)


def _refused(receive: Callable[[bytes], object], envelope: bytes, error: type[RemoteError]) -> Iterator[Call]:
    def call() -> None:
        try:
            receive(envelope)
        except error:
            return
        raise RuntimeError("it was not refused")

    while True:
        yield call


WORKLOADS = {
    "genuine_256": Workload(partial(genuine, 256)),
    "genuine_1048576": Workload(partial(genuine, 1 << 20)),
    "refused_header_256": Workload(partial(forged, random_header, 256)),
    "refused_commitment_256": Workload(partial(forged, changed_commitment, 256)),
    "refused_body_256": Workload(partial(forged, changed_body, 256)),
    "refused_duplicate_256": Workload(partial(duplicate, 256)),
    "refused_header_1048576": Workload(partial(forged, random_header, 1 << 20)),
}
