"""A clock that only moves when it is told to."""

from __future__ import annotations

from typing import Final

EPOCH_MS: Final = 1_767_225_600_000  # 2026-01-01T00:00:00Z: any time after which 64-bit milliseconds are needed


class ManualClock:
    """A clock for `Agent.create(clock=...)`: call it for the time, `advance` it, or set `now_ms`.

    Attributes:
        now_ms: What it shows, milliseconds since the epoch.
    """

    def __init__(self, now_ms: int = EPOCH_MS) -> None:
        self.now_ms: int = now_ms

    def __call__(self) -> int:
        """Return the time."""
        return self.now_ms

    def advance(self, *, seconds: int = 0, ms: int = 0) -> int:
        """Move by that much, backwards if negative, and return the new time."""
        self.now_ms += seconds * 1000 + ms
        return self.now_ms
