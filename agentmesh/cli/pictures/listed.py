"""The last records of a log, as a page lists them: by the column, as numbers, which take a quarter of the room."""

from __future__ import annotations

from array import array
from collections.abc import MutableSequence
from typing import Any, Final

from attrs import define, field

from agentmesh.audit import Record

RECEIPT_BYTES: Final = 8  # the first of a receipt, which tell it from others
# Each column of numbers with its type, in the order of the page.
_TYPES: Final = {
    "at": "Q", "event": "I", "from": "I", "to": "I", "size": "Q", "count": "Q", "number": "Q", "refused": "B",
    "reason": "I",
}  # fmt: skip


def _empty() -> dict[str, MutableSequence[Any]]:
    return {**{name: array(kind) for name, kind in _TYPES.items()}, "receipt": []}


@define
class Listed:
    """The last records.

    Attributes:
        most: How many.
        words: Each event and reason with its number; that of no word is 0.
    """

    most: int = 0
    words: dict[str, int] = field(factory=lambda: {"": 0})
    _columns: dict[str, MutableSequence[Any]] = field(factory=_empty)

    def add(self, record: Record, sender: int, recipient: int, event: str, reason: str, *, refused: bool) -> None:
        """Take a record: the numbers of its agents, and its words as they may be shown."""
        words = self.words
        event_at, reason_at = words.setdefault(event, len(words)), words.setdefault(reason, len(words))
        row = (
            record.at_ms, event_at, sender, recipient, record.size_bytes, record.count, record.number, refused,
            reason_at, record.receipt[:RECEIPT_BYTES],
        )  # fmt: skip
        for column, value in zip(self._columns.values(), row, strict=True):
            column.append(value)
        if len(self._columns["at"]) > self.most + self.most // 8:  # not for each, because what stays is moved
            self.columns()

    def columns(self) -> dict[str, MutableSequence[Any]]:
        """Return the columns by their names, the receipts as bytes."""
        surplus = max(0, len(self._columns["at"]) - self.most)
        for column in self._columns.values():
            del column[:surplus]
        return self._columns
