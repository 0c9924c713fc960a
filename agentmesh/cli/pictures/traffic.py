"""What pictures are drawn from: the sums of a log by who wrote to whom, when, and what a page lists of its records.

No record is kept. The time of each is, in twenty bytes: what a picture counts by, a part of the time between the first
and the last, is known at the end of the log.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from typing import Final

from attrs import define, field

from agentmesh.audit import Handover, Outcome, Record
from agentmesh.audit.merkle import RunningRoot, leaf_hash
from agentmesh.audit.owner import owner_named
from agentmesh.cli.pictures.listed import Listed
from agentmesh.cli.text import escaped

_Ends = tuple[int, int]  # the numbers of sender and recipient
TEXT_MAX: Final = 200  # of any text in a picture; a DID has 128 characters at most


@define
class Pair:
    """What one agent sent to another, as this log has it.

    Attributes:
        number: The how many-th pair it is, from 0.
        envelopes: How many; a record may stand for several.
        refused: How many of them were refused or rejected.
        size_bytes: Of all that have a size.
        first_ms: The time of the first record.
        last_ms: The time of the last.
    """

    number: int
    envelopes: int = 0
    refused: int = 0
    size_bytes: int = 0
    first_ms: int = 0
    last_ms: int = 0


@define
class Traffic:
    """What is drawn of a log.

    Attributes:
        listed: The last records, as many as it holds.
        records: How many there are.
        span_ms: The earliest and the latest time.
        agents: Each DID with its number, in the order of first appearance; the empty one is nobody.
        pairs: By the numbers of sender and recipient.
        first: The number of the first record in the log.
    """

    listed: Listed = field(factory=Listed)
    records: int = 0
    span_ms: tuple[int, int] = (0, 0)
    agents: dict[str, int] = field(factory=dict)
    pairs: dict[tuple[int, int], Pair] = field(factory=dict)
    first: int = 0
    _owners: set[str] = field(factory=set)  # two are as bad as many, and a hostile log may name a million
    _times: array[int] = field(factory=lambda: array("Q"))  # of each record that is between two
    _ways: array[int] = field(factory=lambda: array("I"))  # twice the number of its pair, and one where it was refused
    _counts: array[int] = field(factory=lambda: array("Q"))
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
        at_ms, refused = record.at_ms, record.outcome is Outcome.DENY
        first, last = self.span_ms if self.records else (at_ms, at_ms)
        self.span_ms = (min(first, at_ms), max(last, at_ms))
        self.records += 1
        owner = owner_named(record)
        if owner and len(self._owners) < 2:
            self._owners.add(owner)
        sender, recipient = self._number(record.sender), self._number(record.recipient)
        if self.listed.most:
            event, reason = safe(str(record.event)), safe(record.reason)
            self.listed.add(record, sender, recipient, event, reason, refused=refused)
        if record.sender and record.recipient:
            pair = self.pairs.get((sender, recipient))
            if pair is None:
                pair = self.pairs[sender, recipient] = Pair(len(self.pairs), first_ms=at_ms)
            pair.envelopes += record.count
            pair.refused += record.count if refused else 0
            pair.size_bytes += record.size_bytes
            pair.last_ms = at_ms
            self._times.append(at_ms)
            self._ways.append(2 * pair.number + refused)
            self._counts.append(record.count)

    def _number(self, did: str) -> int:
        return self.agents.setdefault(did, len(self.agents))

    @property
    def owner(self) -> str:
        """Whose log it is, as the records have it, or empty text where they name nobody, or more than one."""
        return "".join(self._owners) if len(self._owners) == 1 else ""

    @property
    def root(self) -> str:
        """The Merkle root over all entries, in hexadecimal: what a checkpoint signs."""
        return self._tree.root().hex()

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
        by_way = {2 * self.pairs[pair].number + side: bins[side] for pair, bins in found.items() for side in (0, 1)}
        for at_ms, way, envelopes in zip(self._times, self._ways, self._counts, strict=True):
            bins = by_way.get(way)
            if bins is not None:
                bins[(at_ms - first) * count // step] += envelopes
        return found


def safe(text: str) -> str:
    """Return text of a log as it may stand in a picture, before it is escaped for the form of the file."""
    return escaped(text, TEXT_MAX, plain=True)


def short(name: str) -> str:
    """Return the end of a name, which tells two DIDs apart."""
    return name if len(name) <= 8 else f"..{name[-6:]}"
