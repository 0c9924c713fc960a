"""The index beside a log file: where its chunks end, so that to open a long log takes no time (section 8.2).

    index = "agentmesh-idx-1" 0x0a || body || SHA-256(all before)
    body  = msgpack [1, owner, first, rows],  row = last (8) || end (8) || head (32) || node (32)

It can be made again from the log, so whatever happens to it costs time and nothing else: one that is missing or damaged
is none. One that is whole is written after the entries are on disk; so where it contradicts the log, the log is at
fault, and is refused. Its check is against damage: whoever can write it can forge it. So what it alone says of the log
is read from the log before it is signed or handed over (`AuditLog.checkpoint`), proved or verified.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Sequence
from typing import Final, Self, final

from attrs import define, field, frozen

from agentmesh.audit.merkle import EntryHash
from agentmesh.audit.record import ENTRY_MAX_BYTES, is_name
from agentmesh.audit.sink import Milestone
from agentmesh.errors import RemoteError
from agentmesh.limits import DID_MAX_BYTES
from agentmesh.primitives import _crypto, _wire
from agentmesh.store.frames import LENGTH_BYTES

_MAGIC: Final = b"agentmesh-idx-1\n"
_VERSION: Final = 1
_CHECK_BYTES: Final = 32
_ROW_BYTES: Final = 80
_MAX_BYTES: Final = 1 << 26  # three thousand million entries
_LAYOUT: Final = _wire.array(_wire.Uint(), _wire.Text(0, DID_MAX_BYTES), _wire.Uint(), _wire.Bin(0, _MAX_BYTES))


@frozen
class Row:
    """Where a chunk ends: at which place of the file its last frame begins, and at which it ends."""

    last: int
    end: int


@final
@define
class LogIndex:
    """What is known of the chunks of one log file.

    Attributes:
        path: Where it is kept.
        first: The number of the file's first entry.
        owner: The log's owner, or empty text.
        rows: Where the chunks end, of all that are complete.
        milestones: Their hashes, of those that `AuditLog` told of: not more than there are rows.
    """

    path: str
    first: int
    owner: str = ""
    rows: list[Row] = field(factory=list)
    milestones: list[Milestone] = field(factory=list)

    @classmethod
    def read(cls, path: str, first: int) -> Self:
        """Return the index at a path; an empty one, where there is none that can be read, or another file's."""
        index = cls(path, first)
        try:
            with open(_regular(path, os.O_RDONLY), "rb") as file:
                data = file.read(_MAX_BYTES)
            body, check = data[len(_MAGIC) : -_CHECK_BYTES], data[-_CHECK_BYTES:]
            if not data.startswith(_MAGIC) or _crypto.sha256(data[:-_CHECK_BYTES]) != check:
                return index
            version, owner, claimed, rows = _wire.decode(body, _LAYOUT, _MAX_BYTES)
        except (OSError, ValueError, RemoteError):
            return index
        if version != _VERSION or claimed != first or len(rows) % _ROW_BYTES or not is_name(owner):
            return index
        places, milestones, before = [], [], 0
        for at in range(0, len(rows), _ROW_BYTES):
            row = rows[at : at + _ROW_BYTES]
            place = Row(int.from_bytes(row[:8], "big"), int.from_bytes(row[8:16], "big"))
            if not before <= place.last < place.end <= place.last + LENGTH_BYTES + ENTRY_MAX_BYTES:
                return index
            before = place.end
            places.append(place)
            milestones.append(Milestone(row[48:], EntryHash(row[16:48])))
        index.owner, index.rows, index.milestones = owner, places, milestones
        return index

    def add(self, owner: str, milestones: Sequence[Milestone]) -> None:
        """Take in the hashes of further chunks."""
        self.owner = owner
        self.milestones += milestones

    def write(self) -> None:
        """Keep the index, whole or not at all; where that cannot be done, the next time does it."""
        rows = b"".join(
            row.last.to_bytes(8, "big") + row.end.to_bytes(8, "big") + milestone.head + milestone.node
            for row, milestone in zip(self.rows, self.milestones, strict=False)
        )
        data = _MAGIC + _wire.encode([_VERSION, self.owner, self.first, rows])
        beside = f"{self.path}.new"
        with contextlib.suppress(OSError):
            # Never written over: what stands there may be another name of somebody's file.
            with contextlib.suppress(FileNotFoundError):
                os.unlink(beside)
            with open(_regular(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb") as file:
                file.write(data + _crypto.sha256(data))
            os.replace(beside, self.path)

    def forget(self) -> None:
        """Remove it, because another file is about to stand beside it.

        Raises:
            OSError: it stays.
        """
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)


def _regular(path: str, flags: int) -> int:
    """Return a descriptor of a regular file. A pipe that somebody put there would wait for its other end for ever."""
    for name in ("O_CLOEXEC", "O_NONBLOCK", "O_BINARY", "O_NOINHERIT"):
        flags |= getattr(os, name, 0)
    descriptor = os.open(path, flags, 0o600)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise OSError(errno.EINVAL, "not a regular file")
