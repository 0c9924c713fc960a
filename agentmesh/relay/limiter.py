"""Limits for relays and routers, on outer envelopes alone: they hold no keys (docs/protocol.md, section 4).

A relay cannot verify who sent an envelope: the header's sender is a claim. Charge by what the relay itself has
authenticated, a connection or an account, and let it pass that as `source`; where there is nothing of the kind the
sender's name is charged, and the limits protect the relay, not the sender.

One call checks everything and then charges everything, under one lock: what is refused costs nobody anything. The clock
is read under that lock too, so that no thread brings a time that another has overtaken; and of a clock that is set back
only the time between the earliest and the latest that it showed counts.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable
from typing import Final, final

from agentmesh.envelope import OuterEnvelope
from agentmesh.errors import ArgumentInvalid, Busy, EnvelopeReplayed
from agentmesh.primitives.arguments import uint_argument
from agentmesh.primitives.buckets import Buckets, Elapsed, Rate

_SECOND_MS: Final = 1000


def monotonic_ms() -> int:
    """Return the milliseconds of a clock that nobody sets: what a limit needs, which asks for no date."""
    return time.monotonic_ns() // 1_000_000


@final
class RelayLimiter:
    """Token buckets for each source and for all, and a memory of receipts. Safe to use from several threads."""

    __slots__ = (
        "_clock",
        "_elapsed",
        "_is_known",
        "_keys_kept",
        "_lock",
        "_max_receipts",
        "_order",
        "_receipts",
        "_receipts_kept",
        "_sources",
        "_together",
        "_tokens_kept",
        "_window_ms",
    )

    def __init__(
        self,
        *,
        per_identity: int = 50,
        together: int = 500,
        is_known: Callable[[Hashable], bool] | None = None,
        reserved_one_in: int = 4,
        max_identities: int = 65_536,
        replay_window_seconds: int = 300,
        max_receipts: int | None = None,
        clock: Callable[[], int] = monotonic_ms,
    ) -> None:
        """Make a limiter.

        Args:
            per_identity: Envelopes a second of one source, and its burst.
            together: Envelopes a second of all sources, and their burst.
            is_known: Says of a source whether it is known here, a customer or a member. What strangers cannot use up
                serves the known ones alone. Whatever goes wrong in it makes a stranger.
            reserved_one_in: One part in so many, of `together` and of both memories, is kept for the known.
            max_identities: How many sources are remembered. Where no more can be, a new one is refused.
            replay_window_seconds: How long a receipt is remembered.
            max_receipts: How many are remembered; what `together` lets through in a window if `None`. Where no more can
                be, envelopes are refused: no receipt goes before its time.
            clock: Returns milliseconds, from whenever they count. It is called under the lock, once or twice a call.

        Raises:
            ArgumentInvalid: an argument of another type or range.
        """
        for name, value in (
            ("per_identity", per_identity),
            ("together", together),
            ("reserved_one_in", reserved_one_in),
            ("max_identities", max_identities),
            ("replay_window_seconds", replay_window_seconds),
        ):
            uint_argument(name, value, minimum=1)
        for name, hook in (("is_known", is_known), ("clock", clock)):
            if not callable(hook) and (name == "clock" or hook is not None):
                raise ArgumentInvalid(name, "not callable")
        most = (replay_window_seconds + 1) * together if max_receipts is None else max_receipts
        uint_argument("max_receipts", most, minimum=1)
        self._clock = clock
        self._is_known = is_known
        self._sources = Buckets(Rate(per_identity, per_identity, _SECOND_MS), max_keys=max_identities)
        self._together = Buckets(Rate(together, together, _SECOND_MS), max_keys=1)
        self._window_ms = replay_window_seconds * _SECOND_MS
        self._max_receipts = most
        kept = 0 if is_known is None else reserved_one_in
        self._tokens_kept = together // kept if kept else 0
        self._keys_kept = max_identities // kept if kept else 0
        self._receipts_kept = most // kept if kept else 0
        self._receipts: set[bytes] = set()
        self._order: deque[tuple[int, bytes]] = deque()
        self._lock = threading.Lock()
        # Longer than any bucket takes to fill: what is over in the window is over everywhere.
        self._elapsed = Elapsed(self._window_ms + 1)

    def __len__(self) -> int:
        """Return how many receipts are remembered."""
        return len(self._receipts)

    def admit(self, outer: OuterEnvelope, *, source: Hashable | None = None) -> OuterEnvelope:
        """Return the envelope if it may pass, charged and remembered.

        Args:
            outer: The envelope, parsed.
            source: Whom to charge: what the relay has authenticated. The header's sender, a claim, if `None`.

        Raises:
            ArgumentInvalid: not an `OuterEnvelope`, `source` cannot be a key, or the clock gives no time.
            Busy: a bucket is empty or a memory full. Nobody was charged; it may be offered again.
            EnvelopeReplayed: it passed already, within the window. Drop it; nobody was charged.
        """
        if not isinstance(outer, OuterEnvelope):
            raise ArgumentInvalid("outer", "not an OuterEnvelope")
        if not _is_hashable(source):
            raise ArgumentInvalid("source", "not hashable")
        charged = outer.header.sender if source is None else source
        known = self._known(charged)
        with self._lock:
            self._look(charged, self._advance(), known)
        # Only now, because it hashes the whole envelope; and outside the lock, because that may be megabytes.
        receipt = outer.receipt
        with self._lock:
            elapsed_ms = self._advance()
            if receipt in self._receipts:
                raise EnvelopeReplayed
            self._look(charged, elapsed_ms, known)
            # Only then taken, so that whom one bucket refuses the other does not charge.
            self._sources.take(charged, elapsed_ms)
            self._together.take(None, elapsed_ms)
            self._receipts.add(receipt)
            self._order.append((elapsed_ms, receipt))
        return outer

    def _look(self, charged: Hashable, elapsed_ms: int, known: bool) -> None:
        """Refuse where a bucket is empty or a memory full; take nothing."""
        leave_receipts, leave, leave_keys = (
            (0, 0, 0) if known else (self._receipts_kept, self._tokens_kept, self._keys_kept)
        )
        if len(self._receipts) >= self._max_receipts - leave_receipts:
            raise Busy
        if not self._together.has(None, elapsed_ms, leave=leave):
            raise Busy
        if not self._sources.has(charged, elapsed_ms, leave_keys=leave_keys):
            raise Busy

    def _known(self, charged: Hashable) -> bool:
        if self._is_known is None:
            return False
        try:
            return self._is_known(charged) is True
        except Exception:
            return False

    def _advance(self) -> int:
        """Return the time that has passed, and forget the receipts whose window is over."""
        try:
            now_ms: object = self._clock()
        except Exception:
            now_ms = None
        if type(now_ms) is not int:
            raise ArgumentInvalid("clock", "gives no int")
        elapsed_ms = self._elapsed.at(now_ms)
        while self._order and self._order[0][0] + self._window_ms < elapsed_ms:
            self._receipts.discard(self._order.popleft()[1])
        return elapsed_ms


def _is_hashable(source: object) -> bool:
    try:
        hash(source)
    except Exception:
        return False
    return True
