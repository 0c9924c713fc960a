"""The memory of KNOCKs by transcript hash: no KNOCK serves twice (docs/protocol.md, section 5.1, step 4).

It is keyed by th and not by receipt, because th does not change with the framing of an envelope or with a malleable
signature. There are two. What *opened* is remembered durably, bounded for each sender and in all; when that is full,
nothing new is taken. What did *not* open is remembered in memory alone, and the oldest makes room: whoever fills that
one wins a check of a KNOCK that he could have sent anew.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Final, final

from attrs import evolve, field, frozen

from agentmesh.limits import Limits
from agentmesh.primitives.keys import Ed25519PublicKey, Receipt, TranscriptHash


@frozen(kw_only=True)
class KnockMemo:
    """What is remembered of one KNOCK.

    Attributes:
        th: Its transcript hash, 64 bytes.
        initiator: Who signed it, 32 bytes.
        receipt: The receipt of the envelope that was answered.
        expires_ms: The KNOCK's own expiry: until then its answer is repeated.
        forget_at_ms: Until when it is remembered.
        answer: The ACCEPT or REJECT that was given, until the initiator's first message or the expiry.
    """

    th: TranscriptHash = field(repr=False)
    initiator: Ed25519PublicKey = field(repr=False)
    receipt: Receipt = field(repr=lambda receipt: receipt.hex())
    expires_ms: int
    forget_at_ms: int
    answer: bytes | None = field(default=None, repr=False)

    def answered(self, answer: bytes | None) -> KnockMemo:
        """Return this memory with another answer."""
        return evolve(self, answer=answer)


@final
class UnopenedKnocks:
    """The KNOCKs that were genuine and did not open, the oldest first, in bounded memory."""

    __slots__ = ("_by_th", "_most")

    def __init__(self, most: int) -> None:
        self._by_th: dict[TranscriptHash, KnockMemo] = {}
        self._most = most

    def __len__(self) -> int:
        return len(self._by_th)

    def get(self, th: TranscriptHash) -> KnockMemo | None:
        """Return what is remembered of this KNOCK."""
        return self._by_th.get(th)

    def remember(self, memo: KnockMemo) -> None:
        """Add a memory; the oldest goes where there is no room."""
        if memo.th not in self._by_th and len(self._by_th) >= self._most:
            self._by_th.pop(next(iter(self._by_th)), None)
        self._by_th[memo.th] = memo


_STALE_ENTRIES: Final = 64  # of memories that are gone: more than there are others, and the order is made anew


class KnockMemory:
    """All KNOCKs that opened, in `by_th`."""

    __slots__ = ("_of", "_order", "by_th")

    def __init__(self) -> None:
        self.by_th: dict[TranscriptHash, KnockMemo] = {}
        # Which are a sender's, because a count cannot be set twice. Most have one, and a set is four times as large.
        self._of: dict[Ed25519PublicKey, TranscriptHash | set[TranscriptHash]] = {}
        self._order: list[tuple[int, TranscriptHash]] = []  # a heap; entries of replaced memos are skipped

    def __len__(self) -> int:
        return len(self.by_th)

    def __iter__(self) -> Iterator[KnockMemo]:
        return iter(self.by_th.values())

    def get(self, th: TranscriptHash) -> KnockMemo | None:
        """Return what is remembered of this KNOCK."""
        return self.by_th.get(th)

    def is_full(self, initiator: Ed25519PublicKey, limits: Limits, *, leave: int = 0) -> bool:
        """Say whether another KNOCK of this sender cannot be remembered, with room left for `leave` of others."""
        of = self._of.get(initiator, ())
        return (
            len(self.by_th) >= limits.remembered_knocks - leave
            or (1 if isinstance(of, bytes) else len(of)) >= limits.remembered_knocks_per_identity
        )

    def remember(self, memo: KnockMemo) -> None:
        """Add or replace a memory; `by_th` says that it is there, so it comes behind what follows from it."""
        before = self.by_th.get(memo.th)
        if before is None:
            of = self._of.setdefault(memo.initiator, memo.th)
            if isinstance(of, set):
                of.add(memo.th)
            elif of != memo.th:
                self._of[memo.initiator] = {of, memo.th}
        if before is None or before.forget_at_ms != memo.forget_at_ms:
            heapq.heappush(self._order, (memo.forget_at_ms, memo.th))
        self.by_th[memo.th] = memo
        if len(self._order) > 2 * len(self.by_th) + _STALE_ENTRIES:
            order = [(held.forget_at_ms, held.th) for held in self.by_th.values()]
            heapq.heapify(order)
            self._order = order

    def due(self, now_ms: int) -> tuple[TranscriptHash, ...]:
        """Return which memories are past their time."""
        order = self._order
        while order and not self._is_live(order[0]):
            heapq.heappop(order)
        if not order or order[0][0] >= now_ms:
            return ()
        return tuple(memo.th for memo in self.by_th.values() if memo.forget_at_ms < now_ms)

    def _is_live(self, entry: tuple[int, TranscriptHash]) -> bool:
        memo = self.by_th.get(entry[1])
        return memo is not None and memo.forget_at_ms == entry[0]

    def drop(self, th: TranscriptHash) -> None:
        """Forget a KNOCK, if it is remembered."""
        memo = self.by_th.get(th)
        if memo is None:
            return
        of = self._of.get(memo.initiator)
        if isinstance(of, set):
            of.discard(th)
        if not of or of == th:
            self._of.pop(memo.initiator, None)
        self.by_th.pop(th, None)
