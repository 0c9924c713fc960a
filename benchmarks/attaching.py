"""Attachments, a chunk of 256 KiB at a time, beside bare secretbox and BLAKE2b of the same bytes; memory; two threads.

*Bare* is what no way of sealing and committing to these bytes can avoid: secretbox, and one hash of what it gives. A
sealer adds the derived key and its commitment, one copy, and the index; an opener the same, and a look at the padding.

Threads: `python -m benchmarks.attaching 15`.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final

from nacl import bindings

from agentmesh.attachments import AttachmentOpener, AttachmentSealer
from benchmarks.peers.serve import Call, Workload, memory_bytes

CHUNK: Final = 1 << 18
_PIECES: Final = 32  # of what threads seal: 8 MiB
_ALLOWED_BYTES: Final = 16 << 20
_KEY: Final = os.urandom(32)


def _sealing() -> Iterator[Call]:
    """Yield the sealing of a chunk, of an attachment that goes on."""
    data = os.urandom(CHUNK)
    sealer = AttachmentSealer()
    sealer.update(data)  # which is held back: it may be the last
    while True:
        yield partial(sealer.update, data)


def _opening() -> Iterator[Call]:
    """Yield the opening of a chunk."""
    data = os.urandom(2 * CHUNK)
    sealer = AttachmentSealer(size=len(data))
    chunks = [*sealer.update(data), *sealer.finish()]
    opener = AttachmentOpener(sealer.attachment)
    opener.take_tail(chunks[-2] + chunks[-1])
    while True:
        yield partial(opener.open, 0, chunks[0])


def _hashed(box: bytes) -> bytes:
    return hashlib.blake2b(box, digest_size=32, person=b"benchmark").digest()


def _bare_sealing() -> Iterator[Call]:
    data = os.urandom(CHUNK)
    while True:
        yield lambda: _hashed(bindings.crypto_secretbox_easy(data, os.urandom(24), _KEY))


def _bare_opening() -> Iterator[Call]:
    nonce = os.urandom(24)
    box = bindings.crypto_secretbox_easy(os.urandom(CHUNK), nonce, _KEY)

    def call() -> None:
        _hashed(box)
        bindings.crypto_secretbox_open_easy(box, nonce, _KEY)

    while True:
        yield call


def attach_memory(size: int) -> dict[str, float]:
    """Return what sealing and then opening so many bytes takes above the start, and how much that is of 16 MiB.

    What the bytes themselves would take is not in it: the data is one piece over and over, and chunks are let go.
    """
    data = os.urandom(CHUNK)
    start = most = memory_bytes()
    sealer = AttachmentSealer(size=size)
    kept = b""
    for number in range(size // CHUNK):
        for chunk in sealer.update(data):
            kept = chunk
        if number % 64 == 0:
            most = max(most, memory_bytes())
    for chunk in sealer.finish():
        kept += chunk  # the last chunk and the index are the tail
    opener = AttachmentOpener(sealer.attachment)
    opener.take_tail(kept)
    most = max(most, memory_bytes())
    return {"bytes": most - start, "of_allowed": (most - start) / _ALLOWED_BYTES}


WORKLOADS: Final = {
    f"attach_seal_{CHUNK}": Workload(_sealing),
    f"attach_open_{CHUNK}": Workload(_opening),
}
BARE: Final = {f"attach_seal_{CHUNK}": Workload(_bare_sealing), f"attach_open_{CHUNK}": Workload(_bare_opening)}
FIGURES: Final = {"attach_memory": attach_memory}


def threads(rounds: int) -> dict[str, list[float]]:
    """Return the milliseconds of 8 MiB sealed by one thread and by two, of each round, all in turn.

    And of the bare primitives likewise: what two cores give here, where others use them too.
    """
    data = os.urandom(CHUNK)
    sealer = AttachmentSealer(size=_PIECES * CHUNK)

    def ours(number: int) -> object:
        return sealer.seal_chunk(number, data)

    def bare(_number: int) -> object:
        return _hashed(bindings.crypto_secretbox_easy(data, os.urandom(24), _KEY))

    found: dict[str, list[float]] = {"one": [], "two": [], "bare_one": [], "bare_two": []}
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(2) as two:
        for _ in range(rounds):
            for name, pool, call in (
                ("one", one, ours), ("two", two, ours), ("bare_one", one, bare), ("bare_two", two, bare),
            ):  # fmt: skip
                start = time.perf_counter()
                for _ in pool.map(call, range(_PIECES)):
                    pass
                found[name].append((time.perf_counter() - start) * 1000)
    return found


if __name__ == "__main__":
    # In a process of its own, and not in a worker: what is set there for its allocator makes a thread take each buffer
    # anew, which none who seals a file would set.
    print(json.dumps(threads(int(sys.argv[1]))))
