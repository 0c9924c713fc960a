"""The memory of KNOCKs by transcript hash: no KNOCK serves twice (docs/protocol.md, section 5.1, step 4).

It is keyed by th and not by receipt, because th does not change with the framing of an envelope or with a malleable
signature. It is bounded, per sender and in all, and fails closed: when it is full, nothing new is taken.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Final

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
        durable: It opened (step 5), so the memory survives a restart.
        answer: The ACCEPT or REJECT that was given, until the initiator's first message or the expiry.
    """

    th: TranscriptHash = field(repr=False)
    initiator: Ed25519PublicKey = field(repr=False)
    receipt: Receipt = field(repr=lambda receipt: receipt.hex())
    expires_ms: int
    forget_at_ms: int
    durable: bool = False
    answer: bytes | None = field(default=None, repr=False)

    def answered(self, answer: bytes | None) -> KnockMemo:
        """Return this memory with another answer."""
        return evolve(self, answer=answer)


_STALE_ENTRIES: Final = 64  # of memories that are gone: more than there are others, and the order is made anew


class KnockMemory:
    """All KNOCKs that are remembered, in `by_th`."""

    __slots__ = ("_of", "_order", "by_th")

    def __init__(self) -> None:
        self.by_th: dict[TranscriptHash, KnockMemo] = {}
        self._of: dict[Ed25519PublicKey, set[TranscriptHash]] = {}  # sets, because a count cannot be set twice
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
        return (
            len(self.by_th) >= limits.remembered_knocks - leave
            or len(self._of.get(initiator, ())) >= limits.remembered_knocks_per_identity
        )

    def remember(self, memo: KnockMemo) -> None:
        """Add or replace a memory; `by_th` says that it is there, so it comes behind what follows from it."""
        before = self.by_th.get(memo.th)
        if before is None:
            self._of.setdefault(memo.initiator, set()).add(memo.th)
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

    def withdraw(self, th: TranscriptHash) -> None:
        """Drop a memory that was never committed."""
        memo = self.by_th.get(th)
        if memo is not None and not memo.durable:
            self.drop(th)

    def drop(self, th: TranscriptHash) -> None:
        """Forget a KNOCK, if it is remembered."""
        memo = self.by_th.get(th)
        if memo is None:
            return
        of = self._of.get(memo.initiator, set())
        of.discard(th)
        if not of:
            self._of.pop(memo.initiator, None)
        self.by_th.pop(th, None)
