"""Microsoft's Agent Governance Toolkit, Python: its double ratchet, its mesh's JSON frames, its audit log.

`frame` is a message frame as its mesh clients send it: JSON with version, type, DIDs, a random id, a time, the ratchet
header and the ciphertext in base64. The audit rows log one entry on each side, without a hash of the frame: less work
than our record does. Set-up is X3DH with a one-time key and a verified signed prekey, no KNOCK, nothing signed.
"""

from __future__ import annotations

import base64
import importlib.metadata
import json
import tempfile
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from agentmesh.encryption.channel import ChannelEstablishment, SecureChannel
from agentmesh.encryption.ratchet import DoubleRatchet, EncryptedMessage, MessageHeader, RatchetState
from agentmesh.encryption.x3dh import PreKeyBundle, X3DHKeyManager
from agentmesh.governance.audit import AuditLog
from agentmesh.governance.audit_backends import FileAuditSink
from nacl.bindings import crypto_sign_keypair
from serve import Call, Server, Workload, memory_bytes

SIZES = (64, 256, 1024, 16_384, 1 << 20)
DIDS = ("did:mesh:6d92abd732a5e02800997df38235cad9", "did:mesh:7afb1a66f5afb056dffe0097427b62d5")
CONTEXT = "|".join(DIDS).encode()


def manager() -> X3DHKeyManager:
    public, secret = crypto_sign_keypair()
    made = X3DHKeyManager.from_ed25519_keys(secret, public)
    made.generate_signed_pre_key()
    return made


def shelf(responder: X3DHKeyManager) -> PreKeyBundle:
    [one_time] = responder.generate_one_time_pre_keys(1)
    return responder.get_public_bundle(one_time.key_id)


def pair_on(alice: X3DHKeyManager, bob: X3DHKeyManager, bundle: PreKeyBundle) -> tuple[SecureChannel, SecureChannel]:
    """Set up both sides. Bob's side can send only after Alice's first message, which is part of a set-up."""
    alices, sent = SecureChannel.create_sender(alice, bundle, CONTEXT)
    arrived = ChannelEstablishment(sent.initiator_identity_key, sent.ephemeral_public_key, sent.used_one_time_key_id)
    bobs = SecureChannel.create_receiver(bob, arrived, CONTEXT)
    bobs.receive(alices.send(b"hello"))
    return alices, bobs


def channels() -> tuple[SecureChannel, SecureChannel]:
    alice, bob = manager(), manager()
    alices, bobs = pair_on(alice, bob, shelf(bob))
    alices.receive(bobs.send(b"hello"))
    bobs.receive(alices.send(b"hello"))
    return alices, bobs


def set_up() -> Iterator[Call]:
    alice, bob = manager(), manager()
    while True:
        bundle = shelf(bob)
        yield lambda bundle=bundle: pair_on(alice, bob, bundle)


def encrypt(size: int) -> Iterator[Call]:
    (alices, _), data = channels(), bytes(size)
    while True:
        yield lambda: alices.send(data)


def decrypt(size: int) -> Iterator[Call]:
    (alices, bobs), data = channels(), bytes(size)
    while True:
        message = alices.send(data)
        yield lambda message=message: bobs.receive(message)


def ping_pong() -> Iterator[Call]:
    (alices, bobs), data = channels(), bytes(256)

    def turn() -> None:
        bobs.receive(alices.send(data))
        alices.receive(bobs.send(data))

    while True:
        yield turn


def hundred(backwards: bool) -> Iterator[Call]:
    (alices, bobs), data = channels(), bytes(256)
    while True:
        messages = [alices.send(data) for _ in range(100)]
        if backwards:
            messages.reverse()

        def open_all(messages: list[EncryptedMessage] = messages) -> None:
            for message in messages:
                bobs.receive(message)

        yield open_all


# --- frames ----------------------------------------------------------------------------------------------------------


def frame_out(channel: SecureChannel, data: bytes) -> tuple[bytes, str]:
    message = channel.send(data)
    header, frame_id = message.header, str(uuid.uuid4())
    frame = {
        "v": 1,
        "type": "message",
        "from": DIDS[0],
        "to": DIDS[1],
        "id": frame_id,
        "ts": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "header": {
            "dh": base64.b64encode(header.dh_public_key).decode(),
            "pn": header.previous_chain_length,
            "n": header.message_number,
        },
        "ciphertext": base64.b64encode(message.ciphertext).decode(),
    }
    return json.dumps(frame).encode(), frame_id


def frame_in(channel: SecureChannel, wire: bytes) -> tuple[bytes, str]:
    frame = json.loads(wire)
    if frame["type"] != "message" or frame["from"] != DIDS[0] or frame["to"] != DIDS[1]:
        raise ValueError("frame")
    fields = frame["header"]
    header = MessageHeader(base64.b64decode(fields["dh"]), fields["pn"], fields["n"])
    return channel.receive(EncryptedMessage(header, base64.b64decode(frame["ciphertext"]))), frame["id"]


def record(log: AuditLog, owner: int, action: str, frame_id: str) -> None:
    log.log("message", DIDS[owner], action, resource=DIDS[1 - owner], data={"message_id": frame_id})


def frame(size: int, audited: bool) -> Iterator[Call]:
    (alices, bobs), data = channels(), bytes(size)
    alices_log, bobs_log = AuditLog(), AuditLog()

    def there() -> None:
        wire, sent_id = frame_out(alices, data)
        if audited:
            record(alices_log, 0, "send", sent_id)
        _, opened_id = frame_in(bobs, wire)
        if audited:
            record(bobs_log, 1, "receive", opened_id)

    while True:
        yield there


def frame_half(size: int, inwards: bool) -> Iterator[Call]:
    (alices, bobs), data = channels(), bytes(size)
    while True:
        if inwards:
            wire, _ = frame_out(alices, data)
            yield lambda wire=wire: frame_in(bobs, wire)
        else:
            yield lambda: frame_out(alices, data)


# --- state and audit -------------------------------------------------------------------------------------------------


def serialise() -> Iterator[Call]:
    ratchet = channels()[0]._ratchet
    while True:
        yield lambda: json.dumps(ratchet.state.to_dict())


def restore() -> Iterator[Call]:
    text = json.dumps(channels()[0]._ratchet.state.to_dict())
    while True:
        yield lambda: DoubleRatchet(RatchetState.from_dict(json.loads(text)))


def audit_append(count: int) -> Iterator[Call]:
    while True:
        log = AuditLog()

        def append_all(log: AuditLog = log) -> None:
            for _ in range(count):
                record(log, 0, "send", "e58a043a-76be-4429-b3d3-6d8a2ce9c6f9")

        yield append_all


def mem_session_bytes(count: int) -> float:
    """Return the memory of one more idle channel: Alice's side alone, Bob's is dropped."""
    kept = [channels()[0] for _ in range(count // 5)]
    before = memory_bytes()
    kept.extend(channels()[0] for _ in range(count))
    used: float = memory_bytes() - before
    return used / count


def overhead_bytes(size: int) -> int:
    return len(frame_out(channels()[0], bytes(size))[0]) - size


def exported_bytes() -> int:
    return len(json.dumps(channels()[0]._ratchet.state.to_dict()))


def audit_memory(count: int) -> float:
    """Return the memory of one more record with a file sink."""
    with tempfile.TemporaryDirectory() as folder:
        log = AuditLog(sink=FileAuditSink(Path(folder) / "audit.jsonl", b"k" * 32))
        for _ in range(count // 5):
            record(log, 0, "send", "e58a043a-76be-4429-b3d3-6d8a2ce9c6f9")
        before = memory_bytes()
        for _ in range(count):
            record(log, 0, "send", "e58a043a-76be-4429-b3d3-6d8a2ce9c6f9")
        used: float = memory_bytes() - before
    return used / count


def audit_growth(sizes: list[int]) -> dict[str, Any]:
    """Return, for each size, the microseconds of an append on the way there, the longest, and those of a proof."""
    found: dict[str, Any] = {}
    log, spent, longest, done = AuditLog(), 0, 0, 0
    for size in sizes:
        for _ in range(size - done):
            start = time.perf_counter_ns()
            entry = log.log("message", DIDS[0], "send", resource=DIDS[1], data={"message_id": "e58a043a"})
            pause = time.perf_counter_ns() - start
            spent, longest = spent + pause, max(longest, pause)
        done = size
        start = time.perf_counter_ns()
        log._chain.get_proof(entry.entry_id)
        proof = time.perf_counter_ns() - start
        found[str(size)] = {"append": spent / size / 1000, "longest": longest / 1000, "proof": proof / 1000}
    return found


WORKLOADS = {
    "handshake_pair": Workload(set_up),
    "pingpong": Workload(ping_pong, 2),
    "reverse100": Workload(lambda: hundred(True), 100),
    "inorder100": Workload(lambda: hundred(False), 100),
    "serialise": Workload(serialise),
    "restore": Workload(restore),
    "audit_append_1k": Workload(lambda: audit_append(1000), 1000),
}
for _size in SIZES:
    WORKLOADS |= {
        f"enc_{_size}": Workload(lambda size=_size: encrypt(size)),
        f"dec_{_size}": Workload(lambda size=_size: decrypt(size)),
        f"frame_out_{_size}": Workload(lambda size=_size: frame_half(size, False)),
        f"frame_in_{_size}": Workload(lambda size=_size: frame_half(size, True)),
        f"frame_{_size}": Workload(lambda size=_size: frame(size, False)),
        f"frameaudit_{_size}": Workload(lambda size=_size: frame(size, True)),
    }
FIGURES = {
    "mem_session_bytes": mem_session_bytes,
    "overhead_bytes": overhead_bytes,
    "exported_bytes": exported_bytes,
    "audit_memory": audit_memory,
    "audit_growth": audit_growth,
}

if __name__ == "__main__":
    facts = {name: importlib.metadata.version(name) for name in ("agentmesh_platform", "cryptography", "PyNaCl")}
    Server(facts, WORKLOADS, FIGURES).serve()
