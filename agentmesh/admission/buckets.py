"""Token buckets, one a key, in bounded memory. Pure values: the caller brings the time."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final, final

from attrs import frozen

# A full bucket says nothing, so its entry can go. Entries stand in the order of their last use, the fullest first.
_SWEEP: Final = 16


@frozen
class Rate:
    """A burst of `burst` tokens, refilled at `tokens` each `period_ms`. All integers, so nothing drifts."""

    burst: int
    tokens: int
    period_ms: int


@final
class Buckets:
    """A bucket for each key. Where no more keys can be remembered, an unknown one is refused: it fails closed.

    A clock set back gives nothing, and takes nothing.
    """

    __slots__ = ("_debts", "_max_keys", "_rate")

    def __init__(self, rate: Rate, *, max_keys: int) -> None:
        self._rate = rate
        self._max_keys = max_keys
        # key -> (what is owed, in 1/period_ms of a token; when that was so)
        self._debts: dict[Hashable, tuple[int, int]] = {}

    def __len__(self) -> int:
        return len(self._debts)

    def _debt(self, entry: tuple[int, int] | None, now_ms: int) -> int:
        if entry is None:
            return 0
        debt, then_ms = entry
        return max(0, debt - max(0, now_ms - then_ms) * self._rate.tokens)

    def has(self, key: Hashable, now_ms: int) -> bool:
        """Say whether a token is there, without taking it."""
        entry = self._debts.get(key)
        if entry is not None and now_ms < entry[1]:  # the clock was set back: what is owed is owed from here on
            entry = self._debts[key] = (entry[0], now_ms)
        if entry is None and not self._make_room(now_ms):
            return False
        return self._debt(entry, now_ms) + self._rate.period_ms <= self._rate.burst * self._rate.period_ms

    def take(self, key: Hashable, now_ms: int) -> bool:
        """Take a token and return True, or return False and change nothing."""
        if not self.has(key, now_ms):
            return False
        debt = self._debt(self._debts.pop(key, None), now_ms) + self._rate.period_ms
        self._debts[key] = (debt, now_ms)
        return True

    def give_back(self, key: Hashable) -> None:
        """Return a token that was taken for nothing."""
        entry = self._debts.get(key)
        if entry is not None:
            self._debts[key] = (max(0, entry[0] - self._rate.period_ms), entry[1])

    def _make_room(self, now_ms: int) -> bool:
        if len(self._debts) < self._max_keys:
            return True
        oldest = [key for key, _ in zip(self._debts, range(_SWEEP), strict=False)]
        for key in oldest:
            if self._debt(self._debts[key], now_ms) == 0:
                del self._debts[key]
        return len(self._debts) < self._max_keys
