"""Token buckets, one a key, in bounded memory. Pure values: the caller brings the time. Exact under threads."""

from __future__ import annotations

import threading
from collections.abc import Hashable
from typing import Final, final

from attrs import field, frozen

from agentmesh.errors import ArgumentInvalid
from agentmesh.primitives.arguments import positive

# A full bucket says nothing, so its entry can go. Entries stand in the order of their last use, the fullest first.
_SWEEP: Final = 16  # looked at where there is no room
_SWEEP_ALWAYS: Final = 2  # looked at for each new key, so that memory follows those that owe something


def _natural(name: str, value: int) -> None:
    if type(value) is not int or value < 0:
        raise ArgumentInvalid(name)


@frozen
class Rate:
    """A burst of `burst` tokens, refilled at `tokens` each `period_ms`. All positive integers, so nothing drifts."""

    burst: int = field(validator=positive)
    tokens: int = field(validator=positive)
    period_ms: int = field(validator=positive)


@final
class Buckets:
    """A bucket for each key. Where no more keys can be remembered, an unknown one is refused: it fails closed.

    A clock set back gives nothing, and takes nothing. One call takes one token: there is no amount to get wrong.
    """

    __slots__ = ("_debts", "_lock", "_max_keys", "_rate")

    def __init__(self, rate: Rate, *, max_keys: int) -> None:
        """Make buckets that are all full.

        Raises:
            ArgumentInvalid: not a `Rate`, or not a number of keys.
        """
        if not isinstance(rate, Rate):
            raise ArgumentInvalid("rate")
        _natural("max_keys", max_keys)
        self._rate = rate
        self._max_keys = max_keys
        self._lock = threading.Lock()
        # key -> (what is owed, in 1/period_ms of a token; when that was so)
        self._debts: dict[Hashable, tuple[int, int]] = {}

    def __len__(self) -> int:
        return len(self._debts)

    def _debt(self, entry: tuple[int, int] | None, now_ms: int) -> int:
        # Of an entry that is not from the future: what is, is brought here first.
        if entry is None:
            return 0
        debt, then_ms = entry
        return max(0, debt - (now_ms - then_ms) * self._rate.tokens)

    def has(self, key: Hashable, now_ms: int, *, leave: int = 0, leave_keys: int = 0) -> bool:
        """Say whether a token is there, without taking it.

        Args:
            key: Whose bucket.
            now_ms: The time.
            leave: So many tokens must be left in the bucket after this one: the share of others.
            leave_keys: A new key must leave room for so many more.

        Raises:
            ArgumentInvalid: a number that is none. A negative one would give what is not there.
        """
        with self._lock:
            return self._has(key, now_ms, leave, leave_keys)

    def take(self, key: Hashable, now_ms: int, *, leave: int = 0, leave_keys: int = 0) -> bool:
        """Take a token and return True, or return False and change nothing. Arguments as `has`."""
        with self._lock:
            if not self._has(key, now_ms, leave, leave_keys):
                return False
            entry = self._debts.pop(key, None)
            if entry is None:
                self._sweep(now_ms, _SWEEP_ALWAYS)
            debt = self._debt(entry, now_ms) + self._rate.period_ms
            self._debts[key] = (debt, now_ms)
            return True

    def give_back(self, key: Hashable) -> None:
        """Return a token that was taken for nothing."""
        with self._lock:
            entry = self._debts.get(key)
            if entry is not None:
                self._debts[key] = (max(0, entry[0] - self._rate.period_ms), entry[1])

    def _has(self, key: Hashable, now_ms: int, leave: int, leave_keys: int) -> bool:
        if type(now_ms) is not int:
            raise ArgumentInvalid("now_ms")
        _natural("leave", leave)
        _natural("leave_keys", leave_keys)
        entry = self._debts.get(key)
        if entry is not None and now_ms < entry[1]:  # the clock was set back: what is owed is owed from here on
            entry = self._debts[key] = (entry[0], now_ms)
        if entry is None and not self._make_room(now_ms, leave_keys):
            return False
        return self._debt(entry, now_ms) + (1 + leave) * self._rate.period_ms <= self._rate.burst * self._rate.period_ms

    def _make_room(self, now_ms: int, leave_keys: int) -> bool:
        if len(self._debts) < self._max_keys - leave_keys:
            return True
        self._sweep(now_ms, _SWEEP)
        return len(self._debts) < self._max_keys - leave_keys

    def _sweep(self, now_ms: int, most: int) -> None:
        oldest = [key for key, _ in zip(self._debts, range(most), strict=False)]
        for key in oldest:
            debt, then_ms = self._debts[key]
            if now_ms < then_ms:  # as above: else whoever came while the clock was ahead would stay until it is there
                self._debts[key] = (debt, now_ms)
            elif self._debt((debt, then_ms), now_ms) == 0:
                del self._debts[key]
