"""Stepwise: what ledger, graph, revocations, successions and lists share: whole changes, whatever breaks them off.

A signal, a timer or a lack of memory may raise between any two byte codes. So a change is computed first, without
altering anything, into a function that writes what is new; that function is kept, run, and let go. It writes absolute
values, so it may run twice: whoever comes next runs it again where it was broken off, before anything is read.

A state that a store keeps lets go of a change only once that is durable. Where it cannot be written, the call raises
and whoever comes next writes it first, so that nothing is read, or changed, that a restart would not know of. Only who
was already reading at that very moment, in another thread, may have seen it.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, ClassVar, Protocol, Self

from agentmesh.at_rest import StateKind, export_fields
from agentmesh.errors import ArgumentInvalid
from agentmesh.limits import UINT_MAX
from agentmesh.primitives.forked import Birthplace


class Keeper(Protocol):
    """What makes changes durable: a store."""

    def changed(self, state: Stepwise, /) -> bool:
        """Make the last change of a state durable, with its lock held; or say no, where that is for later.

        Raises:
            StoreError: it is not durable. The state offers it again.
        """
        ...

    def batch(self) -> AbstractContextManager[None]:
        """Make changes within a with statement durable together."""
        ...


class Stepwise(ABC):
    """One process, one lock, a count of changes, and the change that is not yet whole, or not yet durable."""

    __slots__ = ("_birthplace", "_generation", "_keeper", "_lock", "_step")

    _KIND: ClassVar[StateKind]
    mesh: str

    def __init__(self) -> None:
        self._birthplace = Birthplace()
        self._lock = threading.RLock()
        self._step: tuple[Callable[[], None], int] | None = None
        self._generation = 0
        self._keeper: Keeper | None = None

    @property
    def generation(self) -> int:
        """How often it changed. Keep it elsewhere too, to notice an older state that was put back.

        Raises:
            ForkedChild: this is a child of the process that made it.
        """
        self._ready()
        return self._generation

    def export_state(self) -> bytes:
        """Return the whole state as canonical bytes. Seal them: whoever can alter them decides whom it trusts."""
        self._ready()
        with self._lock:
            self._finish()
            return self._exported()

    # --- what each kind says -----------------------------------------------------------------------------------------

    @abstractmethod
    def _fields(self) -> list[Any]:
        """Return what is exported of it; with the lock held."""

    @abstractmethod
    def _restored(self, exported: bytes) -> Self:
        """Return the state that was exported, with the arguments that this one was made with."""

    # --- changes -----------------------------------------------------------------------------------------------------

    def _ready(self) -> None:
        """Make sure of what every call begins with: the process is the right one, and the last change is done."""
        self._birthplace.check()
        if self._step is not None:
            with self._lock:
                self._finish()

    def _change(self, write: Callable[[], None]) -> None:
        """Make a change, with the lock held: from here on it happens, now or before the next call."""
        self._step = (write, min(self._generation + 1, UINT_MAX))  # a count past the last could not be restored
        self._finish()

    def _finish(self) -> None:
        """Run the change that is not yet done, with the lock held."""
        if self._step is not None:
            self._make_whole()
            if self._keeper is None or self._keeper.changed(self):
                self._step = None

    def _make_whole(self) -> None:
        if self._step is not None:
            write, generation = self._step
            write()
            self._generation = generation

    # --- for a keeper ------------------------------------------------------------------------------------------------

    def _exported(self) -> bytes:
        return export_fields(self._KIND, self.mesh, self._generation, self._fields())

    def _whole(self) -> bytes:
        """Return the bytes of the state with its last change, durable or not; with the lock held."""
        self._make_whole()
        return self._exported()

    def _is_durable(self) -> None:
        """Let go of the last change; with the lock held."""
        self._step = None

    @contextmanager
    def _together(self) -> Iterator[None]:
        """Make changes of this and of what is kept beside it durable together; whoever else asks waits for it."""
        if self._keeper is None:
            yield
            return
        with self._lock, self._keeper.batch():
            yield

    def _begin_as(self, exported: bytes) -> None:
        """Become the state that was exported. This one is nobody else's yet.

        Raises:
            ArgumentInvalid: it has changes of its own, or the other is of another mesh, or was made otherwise.
            StateMalformed, StateVersionUnknown: as `restore`.
        """
        self._ready()
        if self._generation:
            if self._exported() != exported:
                raise ArgumentInvalid("state", "has changes of its own, and one of this name is kept already")
            return
        other = self._restored(exported)
        if other.mesh != self.mesh:
            raise ArgumentInvalid("state", "of another mesh than the one that is kept by this name")
        kinds = type(self).__mro__[: type(self).__mro__.index(Stepwise)]
        names = [name for kind in kinds for name in getattr(kind, "__slots__", ())]

        def write() -> None:
            for name in names:
                setattr(self, name, getattr(other, name))

        self._step = (write, other._generation)
        self._finish()
