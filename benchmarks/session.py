"""What a session costs beside the bare primitives that it needs, measured in one interleaved run.

    python -m benchmarks.session [--rounds N]

Each row is a median over interleaved rounds, in microseconds, with the ratio to the floor measured in the same rounds.
Machines are noisy: only the ratios mean anything, and differences under 15 % do not.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable

from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from nacl import bindings

from agentmesh import Agent, Intent, KnockReceived

SIZES = (64, 256, 1024, 16_384, 1 << 20)


def blake2b(key: bytes, data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=64, key=key, person=b"bench").digest()


class Bare:
    """The same primitives with nothing around them."""

    def __init__(self) -> None:
        self.key = os.urandom(32)
        self.public, self.signing = bindings.crypto_sign_seed_keypair(os.urandom(32))
        self.kem_public = MLKEM768PrivateKey.generate().public_key().public_bytes_raw()
        self.kem = MLKEM768PrivateKey.generate()

    def message(self, size: int) -> None:
        """Seal and open one message: two KDFs and two boxes a side, and a receipt."""
        nonce, plaintext = os.urandom(24), bytes(size)
        header = bindings.crypto_secretbox_easy(b"h" * 40, nonce, self.key)
        for _ in range(2):
            blake2b(self.key, b"")
            blake2b(self.key, nonce + header + b"c" * 193)
        box = bindings.crypto_secretbox_easy(plaintext, nonce, self.key)
        bindings.crypto_secretbox_open_easy(header, nonce, self.key)
        bindings.crypto_secretbox_open_easy(box, nonce, self.key)
        hashlib.sha256(box).digest()

    def pair(self) -> None:
        """What one establishment needs: 3 verifications, 3 signatures, 5 key pairs, 9 agreements, and the KEM.

        Without the bundle's own key generation, and with identities met before.
        """
        for _ in range(3):
            signed = bindings.crypto_sign(bytes(1400), self.signing)
            bindings.crypto_sign_open(signed, self.public)
        secret = os.urandom(32)
        for _ in range(3):
            public = bindings.crypto_scalarmult_base(secret)
        for _ in range(9):
            bindings.crypto_scalarmult(secret, public)
        _, ciphertext = MLKEM768PublicKey.from_public_bytes(self.kem_public).encapsulate()
        self.kem.decapsulate(ciphertext)


class Conversation:
    """Two agents with a session, and bundles for more of them."""

    def __init__(self) -> None:
        self.alice, self.bob = Agent.create("example/bench"), Agent.create("example/bench")
        self.bundles: list[bytes] = []
        self.establish()

    def establish(self) -> None:
        if not self.bundles:
            self.bundles = list(self.bob.publish_bundles(64, last_resort=False).one_time)
        knock = self.alice.knock(self.bob.did, self.bundles.pop(), Intent("bench"))
        [event] = self.bob.receive(knock)
        if not isinstance(event, KnockReceived):
            raise RuntimeError("the KNOCK was not taken")
        self.alice.receive(self.bob.accept(event).reply)

    def message(self, data: bytes) -> None:
        self.bob.receive(self.alice.send(self.bob.did, data))

    def turn(self) -> None:
        self.bob.receive(self.alice.send(self.bob.did, bytes(256)))
        self.alice.receive(self.bob.send(self.alice.did, bytes(256)))


def timed(call: Callable[[], object], times: int) -> float:
    start = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - start) / times * 1e6


def establish_timed() -> float:
    """Return the median cost of four establishments between agents that have met."""
    conversation = Conversation()
    return statistics.median(timed(conversation.establish, 1) for _ in range(4))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=15, help="interleaved rounds (default 15)")
    rounds = parser.parse_args().rounds
    bare, conversation = Bare(), Conversation()
    rows: dict[str, list[float]] = {}
    for number in range(rounds):
        if sys.stderr.isatty():
            print(f"\rround {number + 1} of {rounds}", end="", file=sys.stderr)
        rows.setdefault("establish", []).append(establish_timed())
        rows.setdefault("establish, bare", []).append(timed(bare.pair, 4))
        for size in SIZES:
            times = 200 if size < 100_000 else 6
            data = bytes(size)
            rows.setdefault(f"message {size}", []).append(timed(lambda data=data: conversation.message(data), times))
            rows.setdefault(f"message {size}, bare", []).append(timed(lambda size=size: bare.message(size), times))
        rows.setdefault("turn, both messages", []).append(timed(conversation.turn, 50))
    print(
        f"\n{platform.python_implementation()} {platform.python_version()}, {os.cpu_count()} cores, {rounds} rounds\n"
    )
    print(f"{'':24}{'us':>10}{'bare us':>10}{'ratio':>8}")
    for name, values in rows.items():
        if name.endswith(", bare"):
            continue
        median, floor = statistics.median(values), rows.get(f"{name}, bare")
        shown = f"{statistics.median(floor):>10.1f}{median / statistics.median(floor):>8.2f}" if floor else ""
        print(f"{name:24}{median:>10.1f}{shown}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
