"""A large attachment on a store that answers as it likes, read at random and from both ends, in memory that stays flat.

AGENTMESH_DEPTH above 1 makes it 1 GiB, sealed by threads, and measures memory; else it is small.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import textwrap
from collections import Counter
from pathlib import Path
from random import Random

import pytest

import agentmesh
from agentmesh.attachments import Attachment
from agentmesh.errors import ChunkBroken, FetchFailed, IndexBroken
from agentmesh.store import AttachmentFile, open_file, save_file, seal_file

DEPTH = int(os.environ.get("AGENTMESH_DEPTH") or "1")
SIZE = (1 << 30) + 12_345 if DEPTH > 1 else (6 << 20) + 12_345
READS = 2000 if DEPTH > 1 else 300
EXPONENT = 18 if DEPTH > 1 else 16
MEMORY_MAX_KIB = 16 << 10
BLOCK = 1 << 16  # of the data, each made of its number, so that any part is known without the whole


def data_at(offset: int, length: int) -> bytes:
    """The data of the large file: what stands at a place."""
    first, last = offset // BLOCK, (offset + length + BLOCK - 1) // BLOCK
    blocks = b"".join(Random(number).randbytes(BLOCK) for number in range(first, last))
    return blocks[offset - first * BLOCK :][:length]


class HostileStore:
    """A store that has the blob, and answers one time in three with something else, raises, or is out of time."""

    def __init__(self, path: Path, seed: int) -> None:
        self._descriptor = os.open(path, os.O_RDONLY)
        self._chance = Random(seed)
        self.answers: Counter[str] = Counter()
        self.is_hostile = True

    def close(self) -> None:
        os.close(self._descriptor)

    def _have(self, offset: int, length: int) -> bytes:
        return os.pread(self._descriptor, length, max(0, offset))

    def fetch(self, offset: int, length: int) -> bytes:
        kinds = ("short", "long", "shifted", "random", "raises", "out of time", "empty", "another", "flipped")
        kind = self._chance.choice(kinds) if self.is_hostile and self._chance.random() < 1 / 3 else "right"
        self.answers[kind] += 1
        match kind:
            case "short":
                return self._have(offset, self._chance.randrange(length))
            case "long":
                return self._have(offset, length) + self._chance.randbytes(self._chance.randrange(1, 1000))
            case "shifted":
                return self._have(offset + self._chance.choice((-1, 1, 72, 65536)), length)
            case "random":
                return self._chance.randbytes(length)
            case "raises":
                raise ConnectionResetError
            case "out of time":
                raise TimeoutError
            case "empty":
                return b""
            case "another":
                return self._have(self._chance.randrange(1 << 20), length)
            case "flipped":
                answer = bytearray(self._have(offset, length))
                answer[self._chance.randrange(length)] ^= 1 << self._chance.randrange(8)
                return bytes(answer)
        return self._have(offset, length)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("large")


@pytest.fixture(scope="module")
def attachment(folder: Path) -> Attachment:
    """The large file, sealed in the folder."""
    with (folder / "data").open("wb") as file:
        for offset in range(0, SIZE, 1 << 20):
            file.write(data_at(offset, min(1 << 20, SIZE - offset)))
    return seal_file(folder / "data", folder / "blob", chunk_exponent=EXPONENT, threads=2)


def opened(attachment: Attachment, store: HostileStore) -> AttachmentFile:
    while True:
        try:
            return open_file(attachment, store.fetch)
        except (ChunkBroken, IndexBroken, FetchFailed):
            pass


def read_at(file: AttachmentFile, place: int, length: int) -> bytes:
    """Read from a place, again for as long as the store has something else."""
    while True:
        assert file.seek(place) == place
        try:
            return file.read(length)
        except (ChunkBroken, FetchFailed) as error:
            named = error.number
        assert place >> EXPONENT <= named <= (place + length) >> EXPONENT
        assert file.tell() == place


def test_what_is_read_of_a_hostile_store_is_what_was_sealed(folder: Path, attachment: Attachment) -> None:
    chance = Random(20)
    store = HostileStore(folder / "blob", 15)
    with opened(attachment, store) as file:
        assert file.seek(0, os.SEEK_END) == SIZE
        assert read_at(file, 0, 100) == data_at(0, 100)
        assert read_at(file, SIZE - 100, 1000) == data_at(SIZE - 100, 100)
        for _ in range(READS):
            place = chance.randrange(SIZE)
            length = min(chance.choice((1, 100, 70_000, 200_000)), SIZE - place)
            assert read_at(file, place, length) == data_at(place, length)
        for from_end in range(0, 20 << EXPONENT, 3 << (EXPONENT - 1)):  # backwards, in steps that chunks do not divide
            place = max(0, SIZE - from_end - 5000)
            assert read_at(file, place, 5000) == data_at(place, 5000)
    store.close()
    assert len(store.answers) == 10
    assert min(store.answers.values()) > 0


def test_what_is_saved_of_a_hostile_store_is_what_was_sealed(folder: Path, attachment: Attachment) -> None:
    store = HostileStore(folder / "blob", 16)
    tries = 0
    while not (folder / "copy").exists():
        tries += 1
        store.is_hostile = tries % 5 != 0  # so that it ends: what came stays
        try:
            save_file(attachment, store.fetch, folder / "copy", threads=2)
        except (ChunkBroken, IndexBroken, FetchFailed):
            assert not (folder / "copy").exists()
    store.close()
    with (folder / "copy").open("rb") as copy, (folder / "data").open("rb") as data:
        assert hashlib.file_digest(copy, "sha256").digest() == hashlib.file_digest(data, "sha256").digest()
    (folder / "copy").unlink()


MEASURED = r"""
    import re
    from pathlib import Path

    from agentmesh.store import open_file, save_file, seal_file

    # What is loaded, and kept ready, on the way to the first file counts for the start.
    seal_file("small", "small.blob", threads=2)

    def peak():
        # Not by getrusage, which counts what the process was before it became this program.
        return int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])

    start = peak()
    attachment = seal_file("data", "blob2", threads=2)
    sealed = peak()
    with open_file(attachment, "blob2") as file:
        while file.read(1 << 16):
            pass
        file.seek(-1, 2)
        file.read()
    read = peak()
    save_file(attachment, "blob2", "copy2", threads=2)
    print(sealed - start, read - start, peak() - start)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="/proc tells the highest memory of a process")
def test_memory_stays_flat(folder: Path, attachment: Attachment) -> None:
    (folder / "small").write_bytes(b"small")
    environment = {**os.environ, "PYTHONPATH": str(Path(agentmesh.__file__).resolve().parent.parent)}
    command = [sys.executable, "-c", textwrap.dedent(MEASURED)]
    done = subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True, text=True, timeout=600)
    grown = [int(number) for number in done.stdout.split()]
    assert max(grown) < MEMORY_MAX_KIB, grown
    for name in ("blob2", "copy2", "small", "small.blob"):
        (folder / name).unlink()
