"""Messages: the ratchet alone, and plaintext to wire bytes and back, with an audit record on each side and without.

`enc` and `dec` are the ratchet's seal and open, padding and state included, because that is what peers call encrypt and
decrypt. `frame` is `Agent.send` and `Agent.receive`: envelope, conditions, policy and events included. `frameaudit` is
the same with a journal and a log in memory, `framefile` with a log in a file that the operating system syncs.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from agentmesh import BundleClass, Identity, Limits, SystemEntropy
from agentmesh.handshake.agreement import initiate, respond
from agentmesh.handshake.prekeys import issue_bundle, verify_bundle
from agentmesh.primitives.padding import pad, unpad
from agentmesh.session.ratchet import Ratchet
from agentmesh.session.suite import SUITE
from agentmesh.store import LogFile
from benchmarks.pairs import Pair, audited, conversation
from benchmarks.peers.serve import Call, Workload
from benchmarks.sizes import CONTEXT_BYTES, MESH, SIZES

_ENTROPY, _LIMITS, _CONTEXT = SystemEntropy(), Limits(), bytes(CONTEXT_BYTES)
_HUNDRED = 100

# --- the ratchet alone -----------------------------------------------------------------------------------------------


def ratchets() -> tuple[Ratchet, Ratchet]:
    """Return the two ends of a ratchet over a handshake; the first has received and can seal."""
    now_ms = time.time_ns() // 1_000_000
    alice, bob = Identity.generate(), Identity.generate()
    data, published = issue_bundle(
        bob,
        bundle_class=BundleClass.ONE_TIME,
        mesh=MESH,
        not_before_ms=now_ms,
        not_after_ms=now_ms + 86_400_000,
        entropy=_ENTROPY,
    )
    if published.secrets is None:
        raise RuntimeError("a fresh bundle has secrets")
    bundle = verify_bundle(data, did=bob.did, mesh=MESH, now_ms=now_ms)
    sent = initiate(alice, bundle, expires_ms=now_ms + 60_000, entropy=_ENTROPY)
    received = respond(
        bob,
        published.secrets,
        initiator=alice.key,
        ephemeral=sent.ephemeral,
        kem_ciphertext=sent.kem_ciphertext,
        th=sent.keys.th,
    )
    ab, ba = sent.keys.header_key_ab, sent.keys.header_key_ba
    bobs = Ratchet.responder(SUITE, received.root, sent.ephemeral, header_key_ab=ab, header_key_ba=ba, entropy=_ENTROPY)
    alices = Ratchet.initiator(
        SUITE, sent.keys.root, sent.ephemeral_secret, sent.ephemeral, header_key_ab=ab, header_key_ba=ba
    )
    ratchet_open(alices, ratchet_seal(bobs, b"accept"))
    ratchet_open(bobs, ratchet_seal(alices, b"hello"))
    return alices, bobs


def ratchet_seal(ratchet: Ratchet, data: bytes) -> bytes:
    """Seal one message and move on."""
    parts, _, sending = ratchet.seal(pad(data), _CONTEXT, _ENTROPY.token(24))
    ratchet.apply_sealed(sending)
    return b"".join(parts)


def ratchet_open(ratchet: Ratchet, message: bytes) -> bytes:
    """Open one message and move on."""
    opened = ratchet.open(message, _CONTEXT, now_ms=0, limits=_LIMITS)
    ratchet.apply(opened.delta(_ENTROPY))
    return unpad(opened.plaintext)


def seal(size: int) -> Iterator[Call]:
    """Yield sealings of one size."""
    (alices, _), data = ratchets(), bytes(size)
    while True:
        yield lambda: ratchet_seal(alices, data)


def unseal(size: int) -> Iterator[Call]:
    """Yield openings of one size."""
    (alices, bobs), data = ratchets(), bytes(size)
    while True:
        message = ratchet_seal(alices, data)
        yield partial(ratchet_open, bobs, message)


# --- wire frames -----------------------------------------------------------------------------------------------------


def there(make: Callable[[], Pair], size: int) -> Iterator[Call]:
    """Yield plaintext to wire and back."""
    (alice, bob, _), data = make(), bytes(size)
    did = bob.did
    while True:
        yield lambda: bob.receive(alice.send(did, data).envelope)


def out(make: Callable[[], Pair], size: int) -> Iterator[Call]:
    """Yield plaintext to wire."""
    (alice, bob, _), data = make(), bytes(size)
    did = bob.did
    while True:
        yield lambda: alice.send(did, data)


def back(make: Callable[[], Pair], size: int) -> Iterator[Call]:
    """Yield wire to plaintext."""
    (alice, bob, _), data = make(), bytes(size)
    while True:
        envelope = alice.send(bob.did, data).envelope
        yield partial(bob.receive, envelope)


def in_files(size: int) -> Iterator[Call]:
    """Yield plaintext to wire and back, with an audit log in a file on each side."""
    with tempfile.TemporaryDirectory() as folder:
        sinks = [LogFile(Path(folder) / name, fsync_every=None) for name in ("alice.log", "bob.log")]
        yield from there(lambda: conversation(*sinks), size)


def ping_pong() -> Iterator[Call]:
    """Yield one message each way: a turn of the ratchet on both sides."""
    pair = conversation()
    while True:
        yield pair.turn


def hundred(*, backwards: bool) -> Iterator[Call]:
    """Yield the opening of a hundred messages, in order or in reverse."""
    alice, bob, _ = conversation()
    while True:
        envelopes = [alice.send(bob.did, bytes(256)).envelope for _ in range(_HUNDRED)]
        if backwards:
            envelopes.reverse()

        def open_all(envelopes: list[bytes] = envelopes) -> None:
            if sum(len(bob.receive(envelope)) for envelope in envelopes) != _HUNDRED:
                raise RuntimeError("not all were delivered")

        yield open_all


WORKLOADS = {
    "pingpong": Workload(ping_pong, 2),
    "reverse100": Workload(partial(hundred, backwards=True), _HUNDRED),
    "inorder100": Workload(partial(hundred, backwards=False), _HUNDRED),
}
for _size in SIZES:
    WORKLOADS |= {
        f"enc_{_size}": Workload(partial(seal, _size)),
        f"dec_{_size}": Workload(partial(unseal, _size)),
        f"frame_{_size}": Workload(partial(there, conversation, _size)),
        f"frame_out_{_size}": Workload(partial(out, conversation, _size)),
        f"frame_in_{_size}": Workload(partial(back, conversation, _size)),
        f"frameaudit_{_size}": Workload(partial(there, audited, _size)),
        f"frameaudit_out_{_size}": Workload(partial(out, audited, _size)),
        f"frameaudit_in_{_size}": Workload(partial(back, audited, _size)),
    }
for _size in (256, 1 << 20):
    WORKLOADS[f"framefile_{_size}"] = Workload(partial(in_files, _size))


def overhead_bytes(size: int) -> int:
    """Return how many bytes beyond the plaintext a message of this size has on the wire."""
    alice, bob, _ = conversation()
    return len(alice.send(bob.did, bytes(size)).envelope) - size


FIGURES: dict[str, Callable[..., Any]] = {"overhead_bytes": overhead_bytes}
