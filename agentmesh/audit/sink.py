"""Where a log's entries are kept: what `AuditLog` asks of it, and a list (docs/protocol.md, section 8.2)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol, final, runtime_checkable

from attrs import field, frozen

from agentmesh.audit.merkle import EntryHash
from agentmesh.errors import ArgumentInvalid


class Sink(Protocol):
    """Where a log's entries are kept."""

    def append(self, entries: Sequence[bytes], /) -> None:
        """Keep these entries, all or none, as durably as the sink promises.

        Raises:
            StoreError: they were not kept; the log stays as it was.
        """
        ...

    def entries(self) -> Iterable[bytes]:
        """Return the entries kept so far, in order."""
        ...


@frozen
class Milestone:
    """What is kept of a complete chunk: its hash, and the hash of its last entry."""

    node: bytes = field(repr=False)
    head: EntryHash = field(repr=lambda head: head.hex())


@runtime_checkable
class LongSink(Protocol):
    """A sink that also keeps milestones, and can end one file and begin the next: `agentmesh.store.LogFile`."""

    @property
    def handover(self) -> bytes:
        """What the file begins with, or nothing where it is a log's first."""
        ...

    @property
    def owner(self) -> str:
        """Whose log it is, as `mark` was told, or empty text."""
        ...

    @property
    def milestones(self) -> Sequence[Milestone]:
        """Those of the chunks that end in this file, in order."""
        ...

    def append(self, entries: Sequence[bytes], /) -> None:
        """As that of `Sink`."""
        ...

    def entries(self) -> Iterable[bytes]:
        """Return the entries of this file, in order."""
        ...

    def entries_from(self, sequence: int, /) -> Iterable[bytes]:
        """Return the entries of this file from that number on."""
        ...

    def mark(self, owner: str, milestones: Sequence[Milestone], /) -> None:
        """Keep further milestones, if that can be done; they can be made again from the entries."""
        ...

    def rotate(self, to: Any, handover: bytes, /) -> None:
        """End this file under the name `to`, and begin the next in its place with `handover`.

        Raises:
            StoreError: nothing has changed.
        """
        ...


@runtime_checkable
class SealedSink(LongSink, Protocol):
    """One that nobody can alter without its owner's key, milestones included: the log in an agent's own store."""

    is_sealed: bool  # True


@final
class MemorySink:
    """Entries in memory: for tests, and for what another system keeps."""

    __slots__ = ("_entries",)

    def __init__(self, entries: Iterable[bytes] = ()) -> None:
        """Take the entries of a log.

        Raises:
            ArgumentInvalid: not entries.
        """
        if not isinstance(entries, Iterable) or isinstance(entries, str | bytes | bytearray | memoryview):
            raise ArgumentInvalid("entries")
        self._entries = list(entries)

    def append(self, entries: Sequence[bytes], /) -> None:
        """Keep these entries."""
        self._entries.extend(entries)

    def entries(self) -> Sequence[bytes]:
        """Return the entries kept so far, in order."""
        return tuple(self._entries)
