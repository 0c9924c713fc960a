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
        raise ArgumentInvalid(name, "not an int from 0 up")


@frozen
class Rate:
    """A burst of `burst` tokens, refilled at `tokens` each `period_ms`. All positive integers, so nothing drifts."""

    burst: int = field(validator=positive)
    tokens: int = field(validator=positive)
    period_ms: int = field(validator=positive)


@final
class Elapsed:
    """How much time has passed on a clock that may be set, or be read late. It never goes back.

    Time that only returns adds nothing: in all no more passes than lies between the earliest and the latest time that
    was seen. A leap forward counts as `most_ms`, after which nothing is owed any more; so a clock that was ahead for a
    while, and is right again, does not stand still until the old time comes back. Not locked: its owner is.
    """

    __slots__ = ("_earliest", "_latest", "_most_ms", "_ms", "_seen")

    def __init__(self, most_ms: int) -> None:
        self._most_ms = most_ms
        self._ms = 0
        self._seen: int | None = None
        self._earliest = self._latest = 0

    def at(self, now_ms: int) -> int:
        """Return how many milliseconds have passed since the first call, at this time."""
        if self._seen is None:
            self._earliest = self._latest = self._seen = now_ms
        self._earliest, self._latest = min(self._earliest, now_ms), max(self._latest, now_ms)
        forward_ms = min(max(0, now_ms - self._seen), self._most_ms)
        self._ms = min(self._ms + forward_ms, self._latest - self._earliest)
        self._seen = now_ms
        return self._ms


@final
class Buckets:
    """A bucket for each key. Where no more keys can be remembered, an unknown one is refused: it fails closed.

    Whatever the times are, and in whichever order they come, a key gets at most its burst and what is refilled between
    the earliest and the latest of them. One call takes one token: there is no amount to get wrong.
    """

    __slots__ = ("_debts", "_elapsed", "_lock", "_max_keys", "_rate")

    def __init__(self, rate: Rate, *, max_keys: int) -> None:
        """Make buckets that are all full.

        Raises:
            ArgumentInvalid: not a `Rate`, or not a number of keys.
        """
        if not isinstance(rate, Rate):
            raise ArgumentInvalid("rate", "not a Rate")
        _natural("max_keys", max_keys)
        self._rate = rate
        self._max_keys = max_keys
        self._lock = threading.Lock()
        self._elapsed = Elapsed(-(-rate.burst * rate.period_ms // rate.tokens))
        # key -> (what is owed, in 1/period_ms of a token; when that was so, in elapsed time)
        self._debts: dict[Hashable, tuple[int, int]] = {}

    def __len__(self) -> int:
        return len(self._debts)

    def _debt(self, entry: tuple[int, int] | None, elapsed_ms: int) -> int:
        if entry is None:
            return 0
        debt, then_ms = entry
        return max(0, debt - (elapsed_ms - then_ms) * self._rate.tokens)

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
            return self._has(key, self._at(now_ms), leave, leave_keys)

    def take(self, key: Hashable, now_ms: int, *, leave: int = 0, leave_keys: int = 0) -> bool:
        """Take a token and return True, or return False and change nothing. Arguments as `has`."""
        with self._lock:
            elapsed_ms = self._at(now_ms)
            if not self._has(key, elapsed_ms, leave, leave_keys):
                return False
            entry = self._debts.pop(key, None)
            if entry is None:
                self._sweep(elapsed_ms, _SWEEP_ALWAYS)
            self._debts[key] = (self._debt(entry, elapsed_ms) + self._rate.period_ms, elapsed_ms)
            return True

    def give_back(self, key: Hashable) -> None:
        """Return a token that was taken for nothing."""
        with self._lock:
            entry = self._debts.get(key)
            if entry is not None:
                self._debts[key] = (max(0, entry[0] - self._rate.period_ms), entry[1])

    def owed(self, key: Hashable) -> int:
        """Return what a key owed when a token of it was taken last, in 1/`period_ms` of a token."""
        with self._lock:
            return self._debts.get(key, (0, 0))[0]

    def owe(self, key: Hashable, debt: int, at_ms: int) -> None:
        """Let a key begin with what it owed at a time, as `owed` said; no more than a burst, which is all it can."""
        with self._lock:
            self._debts[key] = (min(debt, self._rate.burst * self._rate.period_ms), self._at(at_ms))

    def _at(self, now_ms: int) -> int:
        if type(now_ms) is not int:
            raise ArgumentInvalid("now_ms", "not an int")
        return self._elapsed.at(now_ms)

    def _has(self, key: Hashable, elapsed_ms: int, leave: int, leave_keys: int) -> bool:
        _natural("leave", leave)
        _natural("leave_keys", leave_keys)
        entry = self._debts.get(key)
        if entry is None and not self._make_room(elapsed_ms, leave_keys):
            return False
        owed = self._debt(entry, elapsed_ms) + (1 + leave) * self._rate.period_ms
        return owed <= self._rate.burst * self._rate.period_ms

    def _make_room(self, elapsed_ms: int, leave_keys: int) -> bool:
        if len(self._debts) < self._max_keys - leave_keys:
            return True
        self._sweep(elapsed_ms, _SWEEP)
        return len(self._debts) < self._max_keys - leave_keys

    def _sweep(self, elapsed_ms: int, most: int) -> None:
        oldest = [key for key, _ in zip(self._debts, range(most), strict=False)]
        for key in oldest:
            if self._debt(self._debts[key], elapsed_ms) == 0:
                del self._debts[key]
