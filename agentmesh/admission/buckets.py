"""Token buckets, one a key, in bounded memory. Pure values: the caller brings the time. Exact under threads."""

from __future__ import annotations

import threading
from collections.abc import Hashable
from typing import Any, Final, final

from attrs import Attribute, field, frozen

from agentmesh.errors import ArgumentInvalid
from agentmesh.limits import UINT_MAX

# A full bucket says nothing, so its entry can go. Entries stand in the order of their last use, the fullest first.
_SWEEP: Final = 16


def _positive(_instance: object, attribute: Attribute[Any], value: Any) -> None:
    if type(value) is not int or not 0 < value <= UINT_MAX:
        raise ArgumentInvalid(attribute.name)


@frozen
class Rate:
    """A burst of `burst` tokens, refilled at `tokens` each `period_ms`. All positive integers, so nothing drifts."""

    burst: int = field(validator=_positive)
    tokens: int = field(validator=_positive)
    period_ms: int = field(validator=_positive)


@final
class Buckets:
    """A bucket for each key. Where no more keys can be remembered, an unknown one is refused: it fails closed.

    A clock set back gives nothing, and takes nothing. One call takes one token: there is no amount to get wrong.
    """

    __slots__ = ("_debts", "_lock", "_max_keys", "_rate")

    def __init__(self, rate: Rate, *, max_keys: int) -> None:
        self._rate = rate
        self._max_keys = max_keys
        self._lock = threading.Lock()
        # key -> (what is owed, in 1/period_ms of a token; when that was so)
        self._debts: dict[Hashable, tuple[int, int]] = {}

    def __len__(self) -> int:
        return len(self._debts)

    def _debt(self, entry: tuple[int, int] | None, now_ms: int) -> int:
        if entry is None:
            return 0
        debt, then_ms = entry
        return max(0, debt - max(0, now_ms - then_ms) * self._rate.tokens)

    def has(self, key: Hashable, now_ms: int, *, leave: int = 0, leave_keys: int = 0) -> bool:
        """Say whether a token is there, without taking it.

        Args:
            key: Whose bucket.
            now_ms: The time.
            leave: So many tokens must be left in the bucket after this one: the share of others.
            leave_keys: A new key must leave room for so many more.
        """
        with self._lock:
            return self._has(key, now_ms, leave, leave_keys)

    def take(self, key: Hashable, now_ms: int, *, leave: int = 0, leave_keys: int = 0) -> bool:
        """Take a token and return True, or return False and change nothing. Arguments as `has`."""
        with self._lock:
            if not self._has(key, now_ms, leave, leave_keys):
                return False
            debt = self._debt(self._debts.pop(key, None), now_ms) + self._rate.period_ms
            self._debts[key] = (debt, now_ms)
            return True

    def give_back(self, key: Hashable) -> None:
        """Return a token that was taken for nothing."""
        with self._lock:
            entry = self._debts.get(key)
            if entry is not None:
                self._debts[key] = (max(0, entry[0] - self._rate.period_ms), entry[1])

    def _has(self, key: Hashable, now_ms: int, leave: int, leave_keys: int) -> bool:
        entry = self._debts.get(key)
        if entry is not None and now_ms < entry[1]:  # the clock was set back: what is owed is owed from here on
            entry = self._debts[key] = (entry[0], now_ms)
        if entry is None and not self._make_room(now_ms, leave_keys):
            return False
        return self._debt(entry, now_ms) + (1 + leave) * self._rate.period_ms <= self._rate.burst * self._rate.period_ms

    def _make_room(self, now_ms: int, leave_keys: int) -> bool:
        if len(self._debts) < self._max_keys - leave_keys:
            return True
        oldest = [key for key, _ in zip(self._debts, range(_SWEEP), strict=False)]
        for key in oldest:
            if self._debt(self._debts[key], now_ms) == 0:
                del self._debts[key]
        return len(self._debts) < self._max_keys - leave_keys
