"""Stepwise: what ledger, graph, revocations and successions share: changes that are whole, whatever breaks them off.

A signal, a timer or a lack of memory may raise between any two byte codes. So a change is computed first, without
altering anything, into a function that writes what is new; that function is kept, run, and let go. It writes absolute
values, so it may run twice: whoever comes next runs it again where it was broken off, before anything is read.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from agentmesh.limits import UINT_MAX
from agentmesh.primitives.forked import Birthplace


class Stepwise:
    """One process, one lock, a count of changes, and the change that is not yet whole."""

    __slots__ = ("_birthplace", "_generation", "_lock", "_step")

    def __init__(self) -> None:
        self._birthplace = Birthplace()
        self._lock = threading.RLock()
        self._step: tuple[Callable[[], None], int] | None = None
        self._generation = 0

    @property
    def generation(self) -> int:
        """How often it changed. Keep it elsewhere too, to notice an older state that was put back.

        Raises:
            ForkedChild: this is a child of the process that made it.
        """
        self._ready()
        return self._generation

    def _ready(self) -> None:
        """Make sure of what every call begins with: the process is the right one, and the last change is whole."""
        self._birthplace.check()
        if self._step is not None:
            with self._lock:
                self._finish()

    def _change(self, write: Callable[[], None]) -> None:
        """Make a change, with the lock held: from here on it happens, now or before the next call."""
        self._step = (write, min(self._generation + 1, UINT_MAX))  # a count past the last could not be restored
        self._finish()

    def _finish(self) -> None:
        """Run the change that is not yet whole, with the lock held."""
        if self._step is not None:
            write, generation = self._step
            write()
            self._generation = generation
            self._step = None
