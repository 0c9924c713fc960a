"""A number outside the store that never goes back: it tells an older copy of a store from the last (section 7.2)."""

from __future__ import annotations

from typing import Protocol


class Counter(Protocol):
    """Two calls over a number that whoever can put back the store cannot put back: elsewhere, by another's hand."""

    def read(self) -> int:
        """Return the number, 0 before the first.

        Raises:
            StoreError: it cannot be read: nothing is opened then.
        """
        ...

    def advance(self, to: int, /) -> None:
        """Keep this number, durably, unless a greater one is kept.

        Raises:
            StoreError: it was not kept; nothing leaves the agent before it is.
        """
        ...
