"""What is counted and not recorded one by one, so that nobody fills a disk: refusals and signals (section 8).

There is one record for each reason, route and minute.
"""

from __future__ import annotations

from typing import Final, final

from agentmesh.audit.record import AuditEvent, Record
from agentmesh.primitives.keys import Receipt

_MINUTE_MS: Final = 60_000
_NO_RECEIPT: Final = Receipt(b"")
_OTHERS: Final = ""  # peers beyond the number that a minute's records may name
_SIGNAL: Final = ""  # no refusal is without a reason


@final
class Counts:
    """What is counted in the minute that runs, and in earlier ones that have not been recorded, in `counts`."""

    __slots__ = ("_max_peers", "_mesh", "_minute", "_owner", "counts")

    def __init__(self, mesh: str, owner: str, *, max_peers: int) -> None:
        self._mesh = mesh
        self._owner = owner
        self._max_peers = max_peers
        self._minute = 0
        self.counts: dict[tuple[str, str, str], Record] = {}  # by reason, sender and recipient

    def is_known(self, reason: str, peer: str) -> bool:
        """Say whether the minute already has a record for this: its receipt is not needed then."""
        counts = self.counts
        others = (reason, _OTHERS, self._owner)
        return (reason, peer, self._owner) in counts or (len(counts) >= self._max_peers and others in counts)

    def count_refused(self, reason: str, peer: str, *, receipt: Receipt, size_bytes: int, now_ms: int) -> None:
        """Count a refused envelope. Call `due` first, so that a new minute begins with new records."""
        self._count_from(reason, peer, receipt, size_bytes, now_ms)

    def count_unsent(self, reason: str, peer: str, *, now_ms: int) -> None:
        """Count an envelope to a peer that was not made. Call `due` first."""
        self._count_to(reason, peer, now_ms)

    def count_signal_in(self, peer: str, now_ms: int) -> None:
        """Count a signal of a peer. Call `due` first."""
        self._count_from(_SIGNAL, peer, _NO_RECEIPT, 0, now_ms)

    def count_signals_out(self, peers: tuple[str, ...], now_ms: int) -> None:
        """Count a signal to each of these peers. Call `due` first."""
        for peer in peers:
            self._count_to(_SIGNAL, peer, now_ms)

    def _count_from(self, reason: str, peer: str, receipt: Receipt, size_bytes: int, now_ms: int) -> None:
        if (reason, peer, self._owner) not in self.counts and len(self.counts) >= self._max_peers:
            peer = _OTHERS
        self._add(reason, peer, self._owner, receipt, size_bytes, now_ms)

    def _count_to(self, reason: str, peer: str, now_ms: int) -> None:
        if (reason, self._owner, peer) not in self.counts and len(self.counts) >= self._max_peers:
            peer = _OTHERS
        self._add(reason, self._owner, peer, _NO_RECEIPT, 0, now_ms)

    def _add(self, reason: str, sender: str, recipient: str, receipt: Receipt, size_bytes: int, now_ms: int) -> None:
        if not self.counts:
            self._minute = now_ms // _MINUTE_MS
        record = self.counts.get((reason, sender, recipient))
        if record is not None:
            record.count += 1
            return
        self.counts[reason, sender, recipient] = Record(
            AuditEvent.MESSAGE_SIGNAL if reason == _SIGNAL else AuditEvent.MESSAGE_REFUSED,
            at_ms=now_ms,
            mesh=self._mesh,
            sender=sender,
            recipient=recipient,
            receipt=receipt,
            size_bytes=size_bytes,
            reason=reason,
        )

    @property
    def due_ms(self) -> int | None:
        """When the minute that is counted is over, or `None` where nothing is counted."""
        return (self._minute + 1) * _MINUTE_MS if self.counts else None

    def due(self, now_ms: int) -> tuple[Record, ...]:
        """Return the records of a minute that is over; `recorded` drops them."""
        return () if now_ms // _MINUTE_MS == self._minute else self.counted()

    def counted(self) -> tuple[Record, ...]:
        """Return the records of what is counted so far; `recorded` drops them."""
        return tuple(self.counts.values())

    def recorded(self) -> None:
        """Drop what `due` or `counted` returned: it is in the log now."""
        self.counts.clear()
