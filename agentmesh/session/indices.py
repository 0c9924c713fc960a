"""Which data messages of one direction are known: their indices, as ranges (docs/protocol.md, section 6.2).

Theory of operation. A range is (first, last), both included. Where nothing is lost there is one; each gap makes one
more, and gaps are the peer's doing: it skips indices, it acknowledges every second one. So their number is bounded, and
where there are too many the lowest is forgotten. What lies there is not claimed to be known, and nothing more is taken
of it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from typing import Final, final

from attrs import define

IndexRange = tuple[int, int]


@final
@define(weakref_slot=False)
class Indices:
    """Known indices: a value. Not frozen, because one is made for every message.

    Attributes:
        ranges: Each unbroken run above `floor`, ascending; no two touch.
        count: How many are known, those that were forgotten included.
        floor: Of indices up to this one nothing is kept, and nothing is new.
    """

    ranges: tuple[IndexRange, ...] = ()
    count: int = 0
    floor: int = 0

    @property
    def last(self) -> int:
        """The highest that is known; 0 before the first."""
        return self.ranges[-1][1] if self.ranges else self.floor

    def is_new(self, index: int) -> bool:
        """Say whether this index could still become known; 0 never does. In constant time where it is the highest."""
        ranges = self.ranges
        if not ranges or index > ranges[-1][1]:
            return index > self.floor
        at = bisect_left(ranges, (index + 1,))
        return index > self.floor and (at == 0 or ranges[at - 1][1] < index)

    def gaps(self, until: int, first: int = 1) -> tuple[range, ...]:
        """Return the indices from `first` to `until` that are not known and could still become so."""
        gaps: list[range] = []
        at = max(first, self.floor + 1)
        ranges = self.ranges
        # From the last that begins before: an acknowledgement of many ranges would else walk over all for each.
        for place in range(max(0, bisect_left(ranges, (at,)) - 1), len(ranges)):
            begin, end = ranges[place]
            if begin > until:
                break
            if begin > at:
                gaps.append(range(at, begin))
            at = max(at, end + 1)
        if at <= until:
            gaps.append(range(at, until + 1))
        return tuple(gaps)

    def has_all(self, until: int) -> bool:
        """Say whether each index from 1 to `until` is known."""
        return until == 0 or (bool(self.ranges) and self.ranges[0][0] == 1 and self.ranges[0][1] >= until)

    def with_index(self, index: int, most: int) -> Indices:
        """Return the indices with this one, which is new: most often the next. Otherwise as `with_range`."""
        ranges = self.ranges
        if ranges and ranges[-1][1] + 1 == index:
            last = ((ranges[-1][0], index),)
            return Indices(last if len(ranges) == 1 else ranges[:-1] + last, self.count + 1, self.floor)
        return self.with_range(index, index, most)

    def with_range(self, first: int, last: int, most: int) -> Indices:
        """Return the indices with these, some of which may be known already; of more than `most` ranges the lowest go.

        In time that grows with the ranges only as copying them does.
        """
        first = max(first, self.floor + 1)
        if last < first:
            return self
        ranges = self.ranges
        low, high = bisect_left(ranges, (first,)), bisect_left(ranges, (last + 2,))
        if low and ranges[low - 1][1] >= first - 1:  # the one before overlaps, or touches
            low -= 1
        joined = ranges[low:high]
        count = self.count
        if joined:
            first, last = min(first, joined[0][0]), max(last, joined[-1][1])
            count -= sum(end - begin + 1 for begin, end in joined)
        ranges = (*ranges[:low], (first, last), *ranges[high:])
        count += last - first + 1
        if len(ranges) <= most:
            return Indices(ranges, count, self.floor)
        return Indices(ranges[-most:], count, ranges[-most - 1][1])

    def with_ranges(self, ranges: Iterable[IndexRange], most: int) -> Indices:
        """Return the indices with those of several ranges."""
        known = self
        for first, last in ranges:
            known = known.with_range(first, last, most)
        return known


NONE: Final = Indices()
FIRST: Final = Indices(((1, 1),), 1)  # an early payload
