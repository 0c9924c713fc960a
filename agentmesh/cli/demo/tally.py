"""What one side of the demo notes of the envelopes that pass it: counts, the first and the last, and their receipts."""

from __future__ import annotations

from collections import deque
from typing import Any, Final

from agentmesh.primitives._crypto import Sha256Stream

SHOWN: Final = 8  # at each end of the table
KEPT: Final = 64  # at each end of a tally: two sides see envelopes in different orders, by no more than the window


class Tally:
    """The first and last entries, and for each sender the count, the bytes, and one hash over all receipts in order.

    Args:
        kept: How many entries are kept at each end.
    """

    def __init__(self, kept: int = KEPT) -> None:
        self._first: list[Any] = []
        self._last: deque[Any] = deque(maxlen=kept)
        self._kept = kept
        self._entries = 0
        self._receipts: dict[str, Sha256Stream] = {}
        self._counts: dict[str, list[int]] = {}

    def note(self, entry: Any) -> None:
        """Keep an entry if it is among the first or the last."""
        self._entries += 1
        if len(self._first) < self._kept:
            self._first.append(entry)
        else:
            self._last.append(entry)

    def count(self, sender: str, receipt: bytes, size_bytes: int) -> None:
        """Count an envelope of `sender`."""
        self._receipts.setdefault(sender, Sha256Stream()).update(receipt)
        counts = self._counts.setdefault(sender, [0, 0])
        counts[0] += 1
        counts[1] += size_bytes

    def report(self) -> dict[str, Any]:
        """Return what was noted, as values that JSON can carry."""
        return {
            "first": self._first,
            "last": list(self._last),
            "left_out": self._entries - len(self._first) - len(self._last),
            "envelopes": {
                sender: [count, size_bytes, self._receipts[sender].digest().hex()]
                for sender, (count, size_bytes) in self._counts.items()
            },
        }
