"""Which data messages were opened, and which are acknowledged: sections 6.2 and 6.4."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from verifier.common import ACK_RANGES_MAX
from verifier.encoding import u32

Range = tuple[int, int]
AGAIN_MS = 1000  # how often a duplicate is acknowledged again


@dataclass(frozen=True)
class Ranges:
    """A set of indices, as ascending ranges that do not touch. What is at most `floor` was forgotten."""

    ranges: tuple[Range, ...] = ()
    floor: int = 0
    count: int = 0

    def __contains__(self, index: int) -> bool:
        return index <= self.floor or any(first <= index <= last for first, last in self.ranges)

    @property
    def highest(self) -> int:
        """The highest index of all."""
        return self.ranges[-1][1] if self.ranges else self.floor

    def gaps(self, first: int, last: int) -> list[Range]:
        """Which indices from first to last are not in the set."""
        gaps, at = [], max(first, self.floor + 1)
        for low, high in self.ranges:
            if low > last:
                break
            if at < low:
                gaps.append((at, low - 1))
            at = max(at, high + 1)
        return [*gaps, (at, last)] if at <= last else gaps

    def with_all(self, new: Sequence[Range], most: int) -> Ranges:
        """With some ranges that are not in it. Where it then has more than may be kept, the lowest are forgotten."""
        merged: list[Range] = []
        count = self.count + sum(last - first + 1 for first, last in new)
        for first, last in sorted([*self.ranges, *new]):
            if merged and first <= merged[-1][1] + 1:
                merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
            else:
                merged.append((first, last))
        gone = max(0, len(merged) - most)
        floor = merged[gone - 1][1] if gone else self.floor
        return Ranges(tuple(merged[gone:]), floor, count)

    def ack(self) -> bytes:
        """The part that acknowledges them, empty if there are none."""
        half = ACK_RANGES_MAX // 2
        named = self.ranges if len(self.ranges) <= ACK_RANGES_MAX else self.ranges[:half] + self.ranges[-half:]
        return bytes([len(named)]) + b"".join(u32(first) + u32(last) for first, last in named) if named else b""


@dataclass(frozen=True)
class Budget:
    """What makes duplicates due, at most once a second: section 5.1 says what comes back by a clock that is set."""

    owing: int = 0
    clock: tuple[int, int, int, int] | None = None  # elapsed; the time that was seen last, the earliest, the latest

    def at(self, now: int) -> Budget:
        """With what has come back by this time."""
        elapsed, seen, earliest, latest = self.clock or (0, now, now, now)
        earliest, latest = min(earliest, now), max(latest, now)
        after = min(elapsed + min(max(0, now - seen), AGAIN_MS), latest - earliest)
        return Budget(max(0, self.owing - (after - elapsed)), (after, now, earliest, latest))


@dataclass(frozen=True)
class Owed:
    """What a side that acknowledges has not acknowledged yet, and since when."""

    messages: int = 0
    since: int = 0
    again: bool = False
    budget: Budget = Budget()

    @property
    def is_owed(self) -> bool:
        """Whether data that leaves has an ack to carry."""
        return self.again or self.messages > 0

    def one_more(self, now: int) -> Owed:
        """Data was opened."""
        return replace(self, messages=self.messages + 1, since=self.since if self.messages else now)

    def duplicate(self, now: int) -> Owed:
        """A message came again: its sender did not hear."""
        budget = self.budget.at(now)
        if budget.owing:
            return replace(self, budget=budget)
        return replace(self, again=True, budget=replace(budget, owing=AGAIN_MS))

    def paid(self) -> Owed:
        """An ack was sealed."""
        return Owed(budget=self.budget)

    def is_due(self, now: int, limits: dict[str, int]) -> bool:
        """Whether a signal leaves."""
        waited = self.messages > 0 and not self.since <= now < self.since + limits["ack_delay_ms"]
        return self.again or waited or self.messages >= limits["ack_after_messages"]
