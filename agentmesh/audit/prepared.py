"""Records that are to be a log's next entries: encoded, and not in it yet (docs/protocol.md, section 8.3).

    row `records` = msgpack [1, entries]

Where a store commits a step together with its records, the entries must be known before the log has them. What was
prepared says where it belongs, so that the log can tell afterwards whether it has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Self, final

from attrs import field, frozen

from agentmesh.audit.merkle import EntryHash
from agentmesh.audit.owner import owner_named
from agentmesh.audit.page import check_entry
from agentmesh.audit.record import ENTRY_MAX_BYTES, Record, decode_entry
from agentmesh.errors import LogBroken, RemoteError, StoreBroken
from agentmesh.primitives import _wire

_VERSION: Final = 1
_MOST: Final = 1 << 32  # the byte cap is what bounds them
_LAYOUT: Final = _wire.array(_wire.Uint(), _wire.ArrayOf(_wire.Bin(1, ENTRY_MAX_BYTES), _MOST))
_MAX_BYTES: Final = 1 << 32


@final
@frozen
class Prepared:
    """Entries as they stand behind a log of one size.

    Attributes:
        records: What they record.
        entries: Their bytes.
        hashes: Their entry hashes.
        first: The number of the first.
        previous: The hash of the entry before it.
        owner: Whose log it is once it has them, as far as that was known, or empty text.
    """

    records: tuple[Record, ...]
    entries: Sequence[bytes]
    hashes: Sequence[EntryHash]
    first: int
    previous: EntryHash = field(repr=lambda previous: previous.hex())
    owner: str

    @property
    def size(self) -> int:
        """The size of the log once it has them."""
        return self.first + len(self.entries)

    def encode(self) -> bytes:
        """Return the row that a store keeps until the log has them."""
        return _wire.encode([_VERSION, list(self.entries)])

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Return what such a row holds.

        Raises:
            StoreBroken: it is no such row, or was written by a newer release.
        """
        try:
            version, entries = _wire.decode(data, _LAYOUT, _MAX_BYTES)
            if version == _VERSION and entries:
                return cls._of(entries)
        except (RemoteError, LogBroken):
            pass
        raise StoreBroken("records")

    @classmethod
    def _of(cls, entries: list[bytes]) -> Self:
        first, previous, _ = decode_entry(entries[0])
        head, owner = EntryHash(previous), ""
        records: list[Record] = []
        hashes: list[EntryHash] = []
        for sequence, entry in enumerate(entries, first):
            head, record = check_entry(entry, sequence, head)
            records.append(record)
            hashes.append(head)
            owner = owner or owner_named(record)
        return cls(tuple(records), entries, hashes, first, EntryHash(previous), owner)
