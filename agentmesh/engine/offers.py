"""When an envelope that waits is to be handed to the relay again: in memory alone (section 7.3).

After a restart all that waits is offered at once: whether the last offer arrived is not known.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, final

from agentmesh.engine.outbox import Outbox, Waiting
from agentmesh.limits import Limits
from agentmesh.primitives.buckets import Elapsed
from agentmesh.primitives.keys import Receipt

_LONGEST_DOUBLING: Final = 32  # of no pause that a limit allows is more left to double
_STALE: Final = 64  # of envelopes that are gone: more than there are others, and they are forgotten


@final
class Offers:
    """Which envelopes were handed to the relay, how often, and when they are due again."""

    __slots__ = ("_elapsed", "_first_ms", "_longest_ms", "_paused")

    def __init__(self, limits: Limits) -> None:
        self._first_ms = limits.resend_first_ms
        self._longest_ms = limits.resend_longest_ms
        self._elapsed = Elapsed(2 * limits.resend_longest_ms)
        self._paused: dict[Receipt, tuple[int, int]] = {}  # how often it was handed over, when it is due again

    def handed_over(self, receipt: Receipt, outbox: Outbox, now_ms: int) -> None:
        """Note that the relay has taken an envelope."""
        times, _ = self._paused.get(receipt, (0, 0))
        pause_ms = _spread(min(self._first_ms << min(times, _LONGEST_DOUBLING), self._longest_ms), receipt, times)
        self._paused[receipt] = (times + 1, self._elapsed.at(now_ms) + pause_ms)
        if len(self._paused) > 2 * len(outbox) + _STALE:
            self._paused = {key: paused for key, paused in self._paused.items() if outbox.find(key) is not None}

    def was_handed_over(self, receipt: Receipt) -> bool:
        """Say whether the relay has taken it, since the agent was made or restored."""
        return receipt in self._paused

    def due(self, waiting: Iterable[Waiting], now_ms: int) -> tuple[Waiting, ...]:
        """Return which are to be handed over now."""
        elapsed_ms = self._elapsed.at(now_ms)
        paused = self._paused
        return tuple(one for one in waiting if one.receipt not in paused or paused[one.receipt][1] <= elapsed_ms)

    def due_ms(self, waiting: Iterable[Waiting], now_ms: int) -> int | None:
        """Return when the next of them is to be handed over, or `None` where there is none."""
        elapsed_ms = self._elapsed.at(now_ms)
        due = min((self._paused.get(one.receipt, (0, 0))[1] for one in waiting), default=None)
        return None if due is None else now_ms + max(0, due - elapsed_ms)


def _spread(pause_ms: int, receipt: Receipt, times: int) -> int:
    """Return a pause that is up to a quarter shorter or longer, so that many agents do not come at once."""
    # A receipt is a hash, so its bytes are as good as random, and the same at every try.
    return pause_ms * (768 + 2 * receipt[times % len(receipt)]) // 1024
