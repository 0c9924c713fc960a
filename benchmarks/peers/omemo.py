"""DoubleRatchet and X3DH, the Python libraries under OMEMO, with their recommended parts: HKDF, HMAC, AES-CBC, X25519.

`frame` is JSON with header and ciphertext in base64. A set-up is both halves of X3DH with a one-time prekey, and the
first message out and in. Their calls are coroutines; they are run to the end without an event loop, which costs less.
"""

from __future__ import annotations

import base64
import importlib.metadata
import json
import time
from collections.abc import Coroutine, Iterator
from typing import Any

import doubleratchet
import x3dh
from doubleratchet.recommended import (
    HashFunction,
    aead_aes_hmac,
    diffie_hellman_ratchet_curve25519,
    kdf_hkdf,
    kdf_separate_hmacs,
)
from serve import Call, Server, Workload, memory_bytes

SIZES = (64, 256, 1024, 16_384, 1 << 20)


class Aead(aead_aes_hmac.AEAD):
    @staticmethod
    def _get_hash_function() -> HashFunction:
        return HashFunction.SHA_256

    @staticmethod
    def _get_info() -> bytes:
        return b"benchmark message"


class RootKdf(kdf_hkdf.KDF):
    @staticmethod
    def _get_hash_function() -> HashFunction:
        return HashFunction.SHA_256

    @staticmethod
    def _get_info() -> bytes:
        return b"benchmark root"


class ChainKdf(kdf_separate_hmacs.KDF):
    @staticmethod
    def _get_hash_function() -> HashFunction:
        return HashFunction.SHA_256


class Ratchet(doubleratchet.DoubleRatchet):
    @staticmethod
    def _build_associated_data(associated_data: bytes, header: doubleratchet.Header) -> bytes:
        return (
            associated_data
            + header.ratchet_pub
            + header.sending_chain_length.to_bytes(8, "big")
            + header.previous_sending_chain_length.to_bytes(8, "big")
        )


class State(x3dh.BaseState):
    @staticmethod
    def _encode_public_key(key_format: x3dh.IdentityKeyFormat, pub: bytes) -> bytes:
        return key_format.value.encode() + pub


SETTINGS: dict[str, Any] = {
    "diffie_hellman_ratchet_class": diffie_hellman_ratchet_curve25519.DiffieHellmanRatchet,
    "root_chain_kdf": RootKdf,
    "message_chain_kdf": ChainKdf,
    "message_chain_constant": b"\x01\x02",
    "dos_protection_threshold": 1000,
    "max_num_skipped_message_keys": 2000,
    "aead": Aead,
}


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine that never waits."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    raise RuntimeError("it waited")


def person() -> State:
    return State.create(x3dh.IdentityKeyFormat.ED_25519, x3dh.HashFunction.SHA_256, b"benchmark")


async def _set_up(alice: State, bob: State, bundle: x3dh.Bundle) -> tuple[Ratchet, Ratchet, bytes]:
    secret, context, header = await alice.get_shared_secret_active(bundle)
    alices, first = await Ratchet.encrypt_initial_message(
        **SETTINGS,
        shared_secret=secret,
        recipient_ratchet_pub=bundle.signed_pre_key,
        message=b"hello",
        associated_data=context,
    )
    secret, _, signed = await bob.get_shared_secret_passive(header)
    bobs, _ = await Ratchet.decrypt_initial_message(
        **SETTINGS, shared_secret=secret, own_ratchet_priv=signed.priv, message=first, associated_data=context
    )
    bob.delete_pre_key(header.pre_key)
    return alices, bobs, context


def one_key(bob: State) -> x3dh.Bundle:
    """Return Bob's bundle with one prekey. He holds no other: their class computes all public keys anew at each use."""
    bob.generate_pre_keys(1)
    return bob.bundle


_alice, _bob = person(), person()


def ratchets() -> tuple[Ratchet, Ratchet, bytes]:
    alices, bobs, context = run(_set_up(_alice, _bob, one_key(_bob)))
    run(alices.decrypt_message(run(bobs.encrypt_message(b"hello", context)), context))
    run(bobs.decrypt_message(run(alices.encrypt_message(b"hello", context)), context))
    return alices, bobs, context


def set_up() -> Iterator[Call]:
    alice, bob = person(), person()
    while True:
        bundle = one_key(bob)
        yield lambda bundle=bundle: run(_set_up(alice, bob, bundle))


def encrypt(size: int) -> Iterator[Call]:
    (alices, _, context), data = ratchets(), bytes(size)
    while True:
        yield lambda: run(alices.encrypt_message(data, context))


def decrypt(size: int) -> Iterator[Call]:
    (alices, bobs, context), data = ratchets(), bytes(size)
    while True:
        message = run(alices.encrypt_message(data, context))
        yield lambda message=message: run(bobs.decrypt_message(message, context))


def ping_pong() -> Iterator[Call]:
    (alices, bobs, context), data = ratchets(), bytes(256)

    def turn() -> None:
        run(bobs.decrypt_message(run(alices.encrypt_message(data, context)), context))
        run(alices.decrypt_message(run(bobs.encrypt_message(data, context)), context))

    while True:
        yield turn


def hundred(backwards: bool) -> Iterator[Call]:
    (alices, bobs, context), data = ratchets(), bytes(256)
    while True:
        messages = [run(alices.encrypt_message(data, context)) for _ in range(100)]
        if backwards:
            messages.reverse()

        def open_all(messages: list[Any] = messages) -> None:
            for message in messages:
                run(bobs.decrypt_message(message, context))

        yield open_all


def frame(size: int) -> Iterator[Call]:
    (alices, bobs, context), data = ratchets(), bytes(size)

    def there() -> None:
        message = run(alices.encrypt_message(data, context))
        key, previous, n = message.header
        fields = {
            "dh": base64.b64encode(key).decode(),
            "pn": previous,
            "n": n,
            "ts": int(time.time() * 1000),
            "ciphertext": base64.b64encode(message.ciphertext).decode(),
        }
        wire = json.dumps(fields).encode()
        fields = json.loads(wire)
        header = doubleratchet.Header(base64.b64decode(fields["dh"]), fields["pn"], fields["n"])
        arrived = doubleratchet.EncryptedMessage(header, base64.b64decode(fields["ciphertext"]))
        run(bobs.decrypt_message(arrived, context))

    while True:
        yield there


def serialise() -> Iterator[Call]:
    alices = ratchets()[0]
    while True:
        yield lambda: json.dumps(alices.json)


def restore() -> Iterator[Call]:
    text = json.dumps(ratchets()[0].json)
    while True:
        yield lambda: Ratchet.from_json(json.loads(text), **SETTINGS)


def mem_session_bytes(count: int) -> float:
    """Return the memory of one more idle session: Alice's side alone, Bob's is dropped."""
    kept = [ratchets()[0] for _ in range(count // 5)]
    before = memory_bytes()
    kept.extend(ratchets()[0] for _ in range(count))
    used: float = memory_bytes() - before
    return used / count


WORKLOADS = {
    "handshake_pair": Workload(set_up),
    "pingpong": Workload(ping_pong, 2),
    "reverse100": Workload(lambda: hundred(True), 100),
    "inorder100": Workload(lambda: hundred(False), 100),
    "serialise": Workload(serialise),
    "restore": Workload(restore),
}
for _size in SIZES:
    WORKLOADS |= {
        f"enc_{_size}": Workload(lambda size=_size: encrypt(size)),
        f"dec_{_size}": Workload(lambda size=_size: decrypt(size)),
        f"frame_{_size}": Workload(lambda size=_size: frame(size)),
    }

if __name__ == "__main__":
    facts = {name: importlib.metadata.version(name) for name in ("DoubleRatchet", "X3DH")}
    Server(facts, WORKLOADS, {"mem_session_bytes": mem_session_bytes}).serve()
