"""A registry of bundles in memory: what any server that hands out bundles does, and all that it must do."""

from __future__ import annotations

from collections import deque
from typing import final

from agentmesh.engine.upkeep import Shelf
from agentmesh.identity import parse_did


@final
class BundleShelf:
    """Serves each one-time bundle of an agent once, then its last-resort bundle as often as it is asked for.

    It verifies nothing, because whoever takes a bundle does.
    """

    def __init__(self) -> None:
        self._one_time: dict[str, deque[bytes]] = {}
        self._last_resort: dict[str, bytes] = {}

    def put(self, did: str, shelf: Shelf) -> None:
        """Add what `Agent.publish_bundles` returned. A new last-resort bundle takes the old one's place.

        Raises:
            BadDid: not a DID.
        """
        self._one_time.setdefault(parse_did(did), deque()).extend(shelf.one_time)
        if shelf.last_resort is not None:
            self._last_resort[did] = shelf.last_resort

    def take(self, did: str) -> bytes:
        """Return a bundle of this agent, the oldest one-time bundle first.

        Raises:
            LookupError: there is none.
        """
        one_time = self._one_time.get(did)
        if one_time:
            return one_time.popleft()
        if did not in self._last_resort:
            raise LookupError("no bundle of this DID")
        return self._last_resort[did]

    def stock(self, did: str) -> int:
        """Return how many one-time bundles of this agent are left."""
        return len(self._one_time.get(did, ()))

    def withdraw(self, did: str) -> None:
        """Drop every bundle of this agent: it has lost their secrets."""
        self._one_time.pop(did, None)
        self._last_resort.pop(did, None)
