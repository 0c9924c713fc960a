"""Sums over entries that come and go, which a change that was broken off and is done again counts once."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final, final

Sum = tuple[int, int]  # how many, and how many bytes
NOTHING: Final[Sum] = (0, 0)


@final
class Tally:
    """How many entries there are, in all and of each name, and how many bytes they have together.

    Its owner counts an entry before it is there, or before it is gone, and no other in between. So where that was
    broken off, the same entry is counted again, and then from the sum that was there before it.

    Attributes:
        total: (How many, how many bytes) in all.
    """

    __slots__ = ("_before", "_sums", "total")

    def __init__(self) -> None:
        self.total: Sum = NOTHING
        self._sums: dict[Hashable, Sum] = {}
        self._before: tuple[int, Sum, Sum] = 0, NOTHING, NOTHING

    def of(self, name: Hashable) -> Sum:
        """Return (how many, how many bytes)."""
        return self._sums.get(name, NOTHING)

    def come(self, sequence: int, name: Hashable, size_bytes: int) -> None:
        """Count an entry that is to come; sequences are from 1 up."""
        self._count(sequence, name, 1, size_bytes)

    def go(self, sequence: int, name: Hashable, size_bytes: int) -> None:
        """Count an entry that is to go."""
        self._count(-sequence, name, -1, -size_bytes)

    def _count(self, change: int, name: Hashable, number: int, size_bytes: int) -> None:
        if self._before[0] != change:
            self._before = change, self.total, self._sums.get(name, NOTHING)
        _, (all_count, all_bytes), (count, total_bytes) = self._before
        self.total = all_count + number, all_bytes + size_bytes
        if count + number:
            self._sums[name] = count + number, total_bytes + size_bytes
        else:
            self._sums.pop(name, None)
