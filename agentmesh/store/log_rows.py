"""The audit log in a store: entries as rows that are written with the step which they record (section 8.3).

| kind | key | bytes |
|---|---|---|
| `log` | the entry's number, 8 bytes, big-endian | the entry |
| `milestone` | the chunk's number, 8 bytes, big-endian | its hash (32) and that of its last entry (32) |
| `tail` | empty | msgpack [1, size, head (32), owner] of the log |

The rows of the kind `log` stand in no set hash of the store: they have their chain. What the chain does not show, that
its end is there, the tail does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Final, NoReturn, final

from attrs import frozen

from agentmesh.audit.handover import FIRST_PREVIOUS
from agentmesh.audit.merkle import CHUNK, EntryHash, leaf_hash
from agentmesh.audit.prepared import Prepared
from agentmesh.audit.sink import Milestone
from agentmesh.errors import ArgumentInvalid, LogBroken, RemoteError, StoreBroken
from agentmesh.limits import DID_MAX_BYTES
from agentmesh.primitives import _wire
from agentmesh.store.rows import Name

LOG: Final = "log"
MILESTONE: Final = "milestone"
TAIL: Final = "tail"
_VERSION: Final = 1
_HASH_BYTES: Final = 32
_PAGE: Final = 1024  # rows that are read at once, so that no transaction stays open while their reader pauses
_LAYOUT: Final = _wire.array(_wire.Uint(), _wire.Uint(), _wire.Bin(_HASH_BYTES), _wire.Text(0, DID_MAX_BYTES))
_TAIL_MAX_BYTES: Final = 256
Read = Callable[[int], Iterator[tuple[bytes, bytes]]]


@frozen
class _Tail:
    size: int = 0
    head: EntryHash = FIRST_PREVIOUS
    owner: str = ""


@frozen
class _Staged:
    entries: Sequence[bytes]
    tail: _Tail
    milestones: int


@final
class StoreLog:
    """A sink for `AuditLog` in an agent's store. What it takes was written there already, with the step it records.

    So records reach it through the agent alone: `AuditLog.append` is refused with `ArgumentInvalid`, as is `rotate`.
    """

    __slots__ = ("_milestones", "_read", "_staged", "_tail", "_written")

    is_sealed: bool = True  # all rows but the entries stand in the store's set hash; these, one by one, under its key

    def __init__(self, read: Read, rows: Mapping[Name, bytes]) -> None:
        """Open the log that is in a store; an empty one, where there is none.

        Args:
            read: Returns (key, entry) of the rows of the kind `log` from a number on, by key, opened.
            rows: The agent's plain rows; those of the kinds `milestone` and `tail` are looked at.

        Raises:
            StoreBroken: one of these is none, or there are entries and no tail.
            StoreError: the store cannot be read.
        """
        self._read = read
        self._tail = _tail_of(rows.get((TAIL, b"")))
        if not self._tail.size and next(read(0), None) is not None:
            raise StoreBroken(TAIL)
        self._milestones = _milestones_of(rows, self._tail.size)
        self._written = len(self._milestones)  # how many of them the store has
        self._staged: _Staged | None = None

    # --- writing -----------------------------------------------------------------------------------------------------

    def rows_for(self, prepared: Prepared) -> dict[Name, bytes]:
        """Return the rows to write for what was prepared; what was prepared before, and not appended, is forgotten."""
        tail = _Tail(prepared.size, prepared.hashes[-1], prepared.owner)
        rows: dict[Name, bytes] = {(TAIL, b""): _wire.encode([_VERSION, tail.size, tail.head, tail.owner])}
        for number, entry in enumerate(prepared.entries, prepared.first):
            rows[LOG, number.to_bytes(8, "big")] = entry
        for number, milestone in enumerate(self._milestones[self._written :], self._written):
            rows[MILESTONE, number.to_bytes(8, "big")] = milestone.node + milestone.head
        self._staged = _Staged(prepared.entries, tail, len(self._milestones))
        return rows

    def append(self, entries: Sequence[bytes], /) -> None:
        """Take note that the rows of these entries, the very ones of the last `rows_for`, are written.

        Raises:
            ArgumentInvalid: they are others.
        """
        staged = self._staged
        if staged is None or entries is not staged.entries:
            raise ArgumentInvalid("records")
        self._written = staged.milestones
        self._tail = staged.tail
        self._staged = None

    def mark(self, _owner: str, milestones: Sequence[Milestone], /) -> None:
        """Keep further milestones; they are written with the next entries."""
        self._milestones = [*self._milestones, *milestones]

    def rotate(self, _to: Any, _handover: bytes, /) -> NoReturn:
        """Refuse: a log in a store goes on in it. `export_log` copies it to a file.

        Raises:
            ArgumentInvalid: always.
        """
        raise ArgumentInvalid("sink")

    # --- reading -----------------------------------------------------------------------------------------------------

    @property
    def handover(self) -> bytes:
        """Nothing: the log begins here."""
        return b""

    @property
    def owner(self) -> str:
        """Whose log it is, or empty text."""
        return self._tail.owner

    @property
    def milestones(self) -> Sequence[Milestone]:
        """The hashes of the chunks that are complete."""
        return self._milestones

    def entries(self) -> Iterator[bytes]:
        """Yield the entries, in order, up to the last that was there when the call was made.

        Raises:
            LogBroken: one is missing (`cut`), or the last is another (`index`).
            StoreError: the store cannot be read.
        """
        return self.entries_from(0)

    def entries_from(self, sequence: int, /) -> Iterator[bytes]:
        """Yield the entries from that number on; otherwise as `entries`.

        Raises:
            ArgumentInvalid: no number.
        """
        if type(sequence) is not int or sequence < 0:
            raise ArgumentInvalid("sequence")
        return self._entries(sequence, self._tail)

    def _entries(self, sequence: int, tail: _Tail) -> Iterator[bytes]:
        while sequence < tail.size:
            page = list(islice(self._read(sequence), min(_PAGE, tail.size - sequence)))
            for key, entry in page:
                if key != sequence.to_bytes(8, "big"):
                    break
                sequence += 1
                if sequence == tail.size and leaf_hash(entry) != tail.head:
                    raise LogBroken(sequence - 1, "index")
                yield entry
            else:
                if page:
                    continue
            raise LogBroken(sequence, "cut")


def _tail_of(data: bytes | None) -> _Tail:
    if data is None:
        return _Tail()
    try:
        version, size, head, owner = _wire.decode(data, _LAYOUT, _TAIL_MAX_BYTES)
        if version == _VERSION and size:
            return _Tail(size, EntryHash(head), owner)
    except RemoteError:
        pass
    raise StoreBroken(TAIL)


def _milestones_of(rows: Mapping[Name, bytes], size: int) -> list[Milestone]:
    """Return the milestones among these rows, which are those of the first chunks, without a gap."""
    found = {key: data for (kind, key), data in rows.items() if kind == MILESTONE}
    milestones: list[Milestone] = []
    for number in range(len(found)):
        data = found.get(number.to_bytes(8, "big"), b"")
        if len(data) != 2 * _HASH_BYTES:
            raise StoreBroken(MILESTONE)
        milestones.append(Milestone(data[:_HASH_BYTES], EntryHash(data[_HASH_BYTES:])))
    if len(milestones) > size // CHUNK:
        raise StoreBroken(MILESTONE)
    return milestones
