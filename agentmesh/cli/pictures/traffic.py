"""What pictures are drawn from: the records of a log, in columns, and their sums by who wrote to whom."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from attrs import define, field

from agentmesh.audit import Handover, Outcome, Record
from agentmesh.audit.merkle import RunningRoot, leaf_hash
from agentmesh.cli.text import escaped

_Ends = tuple[int, int]  # the numbers of sender and recipient
TEXT_MAX: Final = 200  # of any text in a picture; a DID has 128 characters at most


@define
class Pair:
    """What one agent sent to another, as this log has it.

    Attributes:
        envelopes: How many; a record may stand for several.
        refused: How many of them were refused or rejected.
        size_bytes: Of all that have a size.
        first_ms: The time of the first record.
        last_ms: The time of the last.
    """

    envelopes: int = 0
    refused: int = 0
    size_bytes: int = 0
    first_ms: int = 0
    last_ms: int = 0


@define
class Traffic:
    """The records of a log.

    Attributes:
        rows: The records.
        agents: Each DID with its number, in the order of first appearance; the empty one is nobody.
        pairs: By the numbers of sender and recipient.
        first: The number of the first record in the log.
    """

    rows: list[Record] = field(factory=list)
    agents: dict[str, int] = field(factory=dict)
    pairs: dict[tuple[int, int], Pair] = field(factory=dict)
    first: int = 0
    _tree: RunningRoot = field(factory=RunningRoot)

    def begin(self, handover: Handover) -> None:
        """Take note that the log goes on where another file ended."""
        self.first = handover.size
        self._tree = RunningRoot(handover.size, handover.nodes)

    def see(self, entry: bytes) -> None:
        """Take an entry into the root."""
        self._tree.append(leaf_hash(entry))

    def add(self, record: Record) -> None:
        """Take a record, which was verified."""
        self.rows.append(record)
        sender, recipient = self._number(record.sender), self._number(record.recipient)
        if record.sender and record.recipient:
            pair = self.pairs.setdefault((sender, recipient), Pair(first_ms=record.at_ms))
            pair.envelopes += record.count
            pair.refused += record.count if is_refusal(record) else 0
            pair.size_bytes += record.size_bytes
            pair.last_ms = record.at_ms

    def _number(self, did: str) -> int:
        return self.agents.setdefault(did, len(self.agents))

    @property
    def root(self) -> str:
        """The Merkle root over all entries, in hexadecimal: what a checkpoint signs."""
        return self._tree.root().hex()

    @property
    def span_ms(self) -> tuple[int, int]:
        """The earliest and the latest time."""
        times = [row.at_ms for row in self.rows]
        return (min(times), max(times)) if times else (0, 0)

    @property
    def envelopes(self) -> int:
        """How many envelopes the records are about."""
        return sum(pair.envelopes for pair in self.pairs.values())

    @property
    def refused(self) -> int:
        """How many of them were refused."""
        return sum(pair.refused for pair in self.pairs.values())

    def busiest(self, most: int) -> list[tuple[tuple[int, int], Pair]]:
        """Return the pairs with the most envelopes, the most first; equal ones as they appeared."""
        return sorted(self.pairs.items(), key=lambda item: -item[1].envelopes)[:most]

    def names(self) -> list[str]:
        """Return every agent as it may be shown: ASCII, without what could act on a page or turn its direction."""
        return [safe(did) for did in self.agents]

    def binned(self, count: int, pairs: Iterable[_Ends]) -> dict[_Ends, tuple[list[int], list[int]]]:
        """Return for some pairs how many envelopes, and how many refused, fall into each of `count` equal times."""
        first, last = self.span_ms
        step = max(1, last - first + 1)
        found = {pair: ([0] * count, [0] * count) for pair in pairs}
        for row in self.rows:
            bins = found.get((self.agents[row.sender], self.agents[row.recipient]))
            if bins is not None:
                taken, refused = bins
                (refused if is_refusal(row) else taken)[(row.at_ms - first) * count // step] += row.count
        return found


def is_refusal(record: Record) -> bool:
    """Say whether a record tells of a refusal or a rejection."""
    return record.outcome is Outcome.DENY


def safe(text: str) -> str:
    """Return text of a log as it may stand in a picture, before it is escaped for the form of the file."""
    return escaped(text, TEXT_MAX, plain=True)


def short(name: str) -> str:
    """Return the end of a name, which tells two DIDs apart."""
    return name if len(name) <= 8 else f"..{name[-6:]}"
