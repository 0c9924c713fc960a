"""The memory of KNOCKs by transcript hash: no KNOCK serves twice (docs/protocol.md, section 5.1, step 4).

It is keyed by th and not by receipt, because th does not change with the framing of an envelope or with a malleable
signature. It is bounded, per sender and in all, and fails closed: when it is full, nothing new is taken.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import final

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
        charged: Its sender's rate was charged for it.
        answer: The ACCEPT or REJECT that was given, until the initiator's first message or the expiry.
    """

    th: TranscriptHash = field(repr=False)
    initiator: Ed25519PublicKey = field(repr=False)
    receipt: Receipt = field(repr=lambda receipt: receipt.hex())
    expires_ms: int
    forget_at_ms: int
    durable: bool = False
    answer: bytes | None = field(default=None, repr=False)
    charged: bool = False

    def answered(self, answer: bytes | None) -> KnockMemo:
        """Return this memory with another answer."""
        return evolve(self, answer=answer)


@final
class KnockMemory:
    """All KNOCKs that are remembered."""

    __slots__ = ("_by_th", "_counts", "_order")

    def __init__(self) -> None:
        self._by_th: dict[TranscriptHash, KnockMemo] = {}
        self._counts: dict[Ed25519PublicKey, int] = {}
        self._order: list[tuple[int, TranscriptHash]] = []  # a heap; entries of replaced memos are skipped

    def __len__(self) -> int:
        return len(self._by_th)

    def __iter__(self) -> Iterator[KnockMemo]:
        return iter(self._by_th.values())

    def get(self, th: TranscriptHash) -> KnockMemo | None:
        """Return what is remembered of this KNOCK."""
        return self._by_th.get(th)

    def is_full(self, initiator: Ed25519PublicKey, limits: Limits, *, leave: int = 0) -> bool:
        """Say whether another KNOCK of this sender cannot be remembered, with room left for `leave` of others."""
        return (
            len(self._by_th) >= limits.remembered_knocks - leave
            or self._counts.get(initiator, 0) >= limits.remembered_knocks_per_identity
        )

    def remember(self, memo: KnockMemo) -> None:
        """Add or replace a memory."""
        if memo.th not in self._by_th:
            self._counts[memo.initiator] = self._counts.get(memo.initiator, 0) + 1
        self._by_th[memo.th] = memo
        heapq.heappush(self._order, (memo.forget_at_ms, memo.th))

    def next_forget_ms(self) -> int | None:
        """Return when the next memory may go."""
        return self._order[0][0] if self._order else None

    def withdraw(self, th: TranscriptHash) -> None:
        """Drop a memory that was never committed."""
        memo = self._by_th.get(th)
        if memo is not None and not memo.durable:
            self._drop(memo)

    def _drop(self, memo: KnockMemo) -> None:
        del self._by_th[memo.th]
        left = self._counts[memo.initiator] - 1
        if left:
            self._counts[memo.initiator] = left
        else:
            del self._counts[memo.initiator]

    def forget(self, now_ms: int, *, durable_too: bool) -> None:
        """Drop what is past its time; durable memories only where the caller commits that."""
        kept: list[tuple[int, TranscriptHash]] = []
        while self._order and self._order[0][0] < now_ms:
            entry = heapq.heappop(self._order)
            memo = self._by_th.get(entry[1])
            if memo is None or memo.forget_at_ms != entry[0]:
                continue
            if memo.durable and not durable_too:
                kept.append(entry)
                continue
            self._drop(memo)
        for entry in kept:
            heapq.heappush(self._order, entry)
