"""vodozemac, Matrix's Olm in Rust, through its Python binding.

`frame` is what Matrix sends: the event's encrypted content as JSON, the message in base64. A set-up is an outbound
session on a one-time key whose signature was verified, as Matrix clients do, its first message, and the inbound session
made of it. Olm keeps 40 skipped keys, so there is no row for a hundred messages in reverse: 59 of them are lost.
"""

from __future__ import annotations

import base64
import importlib.metadata
import json
from collections.abc import Iterator

from serve import Call, Server, Workload, memory_bytes
from vodozemac import Account, AnyOlmMessage, Session

SIZES = (64, 256, 1024, 16_384, 1 << 20)
ALGORITHM = "m.olm.v1.curve25519-aes-sha2"
PICKLE_KEY = bytes(32)


def set_up_on(alice: Account, bob: Account, signature: object) -> tuple[Session, Session]:
    [key] = bob.one_time_keys.values()
    bob.ed25519_key.verify_signature(key.to_base64().encode(), signature)
    alices = alice.create_outbound_session(bob.curve25519_key, key)
    first = alices.encrypt(b"hello").to_pre_key()
    bobs, _ = bob.create_inbound_session(alice.curve25519_key, first)
    return alices, bobs


def fresh(bob: Account) -> object:
    """Give Bob one one-time key, and return its signature."""
    bob.generate_one_time_keys(1)
    [key] = bob.one_time_keys.values()
    return bob.sign(key.to_base64().encode())


def sessions() -> tuple[Session, Session]:
    alice, bob = Account(), Account()
    alices, bobs = set_up_on(alice, bob, fresh(bob))
    alices.decrypt(bobs.encrypt(b"hello"))
    bobs.decrypt(alices.encrypt(b"hello"))
    return alices, bobs


def set_up() -> Iterator[Call]:
    alice = Account()
    while True:
        bob = Account()
        signature = fresh(bob)
        yield lambda bob=bob, signature=signature: set_up_on(alice, bob, signature)


def encrypt(size: int) -> Iterator[Call]:
    (alices, _), data = sessions(), bytes(size)
    while True:
        yield lambda: alices.encrypt(data)


def decrypt(size: int) -> Iterator[Call]:
    (alices, bobs), data = sessions(), bytes(size)
    while True:
        message = alices.encrypt(data)
        yield lambda message=message: bobs.decrypt(message)


def ping_pong() -> Iterator[Call]:
    (alices, bobs), data = sessions(), bytes(256)

    def turn() -> None:
        bobs.decrypt(alices.encrypt(data))
        alices.decrypt(bobs.encrypt(data))

    while True:
        yield turn


def hundred() -> Iterator[Call]:
    (alices, bobs), data = sessions(), bytes(256)
    while True:
        messages = [alices.encrypt(data) for _ in range(100)]

        def open_all(messages: list[AnyOlmMessage] = messages) -> None:
            for message in messages:
                bobs.decrypt(message)

        yield open_all


def frame(size: int) -> Iterator[Call]:
    (alices, bobs), data = sessions(), bytes(size)
    sender, recipient = (Account().curve25519_key.to_base64() for _ in range(2))

    def there() -> None:
        kind, body = alices.encrypt(data).to_parts()
        part = {"type": kind, "body": base64.b64encode(body).decode()}
        content = {"algorithm": ALGORITHM, "sender_key": sender, "ciphertext": {recipient: part}}
        wire = json.dumps(content).encode()
        content = json.loads(wire)
        if content["algorithm"] != ALGORITHM or content["sender_key"] != sender:
            raise ValueError("frame")
        part = content["ciphertext"][recipient]
        bobs.decrypt(AnyOlmMessage.from_parts(part["type"], base64.b64decode(part["body"])))

    while True:
        yield there


def serialise() -> Iterator[Call]:
    session = sessions()[0]
    while True:
        yield lambda: session.pickle(PICKLE_KEY)


def restore() -> Iterator[Call]:
    pickle = sessions()[0].pickle(PICKLE_KEY)
    while True:
        yield lambda: Session.from_pickle(pickle, PICKLE_KEY)


def mem_session_bytes(count: int) -> float:
    """Return the memory of one more idle session: Alice's side alone, Bob's is dropped."""
    kept = [sessions()[0] for _ in range(count // 5)]
    before = memory_bytes()
    kept.extend(sessions()[0] for _ in range(count))
    used: float = memory_bytes() - before
    return used / count


WORKLOADS = {
    "handshake_pair": Workload(set_up),
    "pingpong": Workload(ping_pong, 2),
    "inorder100": Workload(hundred, 100),
    "serialise": Workload(serialise),  # sealed: there is no other way
    "restore": Workload(restore),
}
for _size in SIZES:
    WORKLOADS |= {
        f"enc_{_size}": Workload(lambda size=_size: encrypt(size)),
        f"dec_{_size}": Workload(lambda size=_size: decrypt(size)),
        f"frame_{_size}": Workload(lambda size=_size: frame(size)),
    }

if __name__ == "__main__":
    facts = {"vodozemac": importlib.metadata.version("vodozemac")}
    Server(facts, WORKLOADS, {"mem_session_bytes": mem_session_bytes}).serve()
