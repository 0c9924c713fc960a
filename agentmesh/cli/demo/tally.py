"""What one side of the demo notes of the envelopes that pass it: what each was, counts, and their receipts."""

from __future__ import annotations

from typing import Any

from agentmesh.primitives._crypto import Sha256Stream


class Tally:
    """What was noted, and for each sender the count, the bytes, and one hash over all receipts in order."""

    def __init__(self) -> None:
        self._noted: list[Any] = []
        self._receipts: dict[str, Sha256Stream] = {}
        self._counts: dict[str, list[int]] = {}

    def note(self, entry: Any) -> None:
        """Keep an entry: there are about ten in a demo."""
        self._noted.append(entry)

    def count(self, sender: str, receipt: bytes, size_bytes: int) -> None:
        """Count an envelope of `sender`."""
        self._receipts.setdefault(sender, Sha256Stream()).update(receipt)
        counts = self._counts.setdefault(sender, [0, 0])
        counts[0] += 1
        counts[1] += size_bytes

    def report(self) -> dict[str, Any]:
        """Return what was noted, as values that JSON can carry."""
        return {
            "noted": self._noted,
            "envelopes": {
                sender: [count, size_bytes, self._receipts[sender].digest().hex()]
                for sender, (count, size_bytes) in self._counts.items()
            },
        }
