"""Ledgers, graphs, revocations, successions and lists in a store: no change returns before it is durable (section 7.2).

Theory of operation. Each state is one row, its export, written whole. A state is changed first and then written, both
with the lock held that all states of one `States` share; it holds on to the change until it is told that the change is
durable (`agentmesh.trust.steps`). So where a write fails, or is broken off, whoever comes next to that state writes it
again before anything else; and with it goes whatever else is owed.

In a batch the changes of its thread are owed until its end. No lock is held meanwhile, because what is done in a batch
may wait for an agent, and an agent for what its policy asks here. So if another thread comes to what is owed, it writes
that, and nobody but the batch's own thread sees what is not durable.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final, TypeVar, final

from agentmesh.errors import AgentMeshError, ArgumentInvalid, StateStale, StoreFailed
from agentmesh.primitives.arguments import text_argument
from agentmesh.primitives.entropy import CheckedEntropy
from agentmesh.primitives.forked import Birthplace
from agentmesh.primitives.keys import Redacted
from agentmesh.store.counter import Counter
from agentmesh.store.data_key import StoreKey
from agentmesh.store.keeping import Keeping
from agentmesh.store.opened import is_new
from agentmesh.store.rows import NAME_MAX_BYTES, Backend, Name, Rows
from agentmesh.store.sealing import Sealer
from agentmesh.store.trail import Trail
from agentmesh.trust.steps import Stepwise

TRUST: Final = "trust"  # the kind of rows; the key is the state's name
_State = TypeVar("_State", bound=Stepwise)


@final
class States(Redacted):
    """What a policy decides by, kept. Safe to use from several threads; a child of a fork gets `ForkedChild`."""

    __slots__ = ("_batches", "_birthplace", "_found", "_keeping", "_kept", "_lock", "_owed")

    def __init__(
        self, backend: Backend, name: str, key: StoreKey, entropy: CheckedEntropy, counter: Counter | None
    ) -> None:
        """Open the rows of a name, and read all of them; `Store.open_states` does.

        Raises:
            ArgumentInvalid: the name is an agent's.
            StateStale: the counter knows of later ones.
            StoreError: they are open elsewhere, cannot be read, are damaged, or sealed under another key.
        """
        self._birthplace = Birthplace()
        self._lock = threading.RLock()
        self._kept: dict[Stepwise, bytes] = {}
        self._owed: set[Stepwise] = set()
        self._batches: dict[int, threading.Lock] = {}  # by thread; one that is locked is open
        rows = backend.open_rows(name, create=True)
        assert rows is not None  # it was to be made
        try:
            sealer, self._found, generation = _read(rows, name, key, entropy)
            if counter is not None:
                if generation < counter.read():  # not the number of writes, which new keys raise too
                    raise StateStale
                counter.advance(generation)
            self._keeping = Keeping(rows, sealer, Trail(None, {}), counter, generation=generation)
        except BaseException:
            rows.close()
            raise

    def keep(self, name: str, state: _State) -> _State:
        """Keep a state from now on, and return it. If there is one of this name, it becomes that one first.

        Each call that changes it is durable before it returns. Where it cannot be written the call raises `StoreError`,
        and so does every other call on the state, and whatever asks a policy that decides by it is denied, until it is.

        Args:
            name: What it is called here, 1 to 128 bytes.
            state: A new `TrustLedger`, `TrustGraph`, `TrustProjection`, `RevocationList`, `Successions` or
                `AdmissionLists`, made as the one that is there was; or one that was restored from elsewhere, if there
                is none of this name. Nothing else uses it yet.

        Raises:
            ArgumentInvalid: not such a state, one that is kept already, or one that differs from what is there: its
                kind is the same, and its mesh, its changes, or what it was made with are not.
            StateMalformed, StateVersionUnknown: as `restore` of the state; what is there is kept as it is.
            StoreError: it cannot be written.
        """
        key = text_argument("name", name, 1, NAME_MAX_BYTES).encode()
        self._birthplace.check()
        if not isinstance(state, Stepwise):
            raise ArgumentInvalid("state", "not a ledger, a graph, revocations, successions or lists")
        with self._lock:
            if self._kept.get(state) == key and state._keeper is self:
                return state
            if state._keeper is not None:
                raise ArgumentInvalid("state", "kept already")
            if any(held == key and other is not state for other, held in self._kept.items()):
                raise ArgumentInvalid("name", "kept already")
            found = self._found.get((TRUST, key))
            if found is None:
                self._write({(TRUST, key): state.export_state()})
            else:
                state._begin_as(found)
            state._lock = self._lock
            self._kept[state] = key
            state._keeper = self  # last, because a call that is broken off is made again
            self._found.pop((TRUST, key), None)
        return state

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Write the changes of a with statement together, at its end: one write for many statements.

        They are durable then, and not before. It is no transaction: what was changed before an exception is written
        too. Await nothing in it.

        Raises:
            StoreError: at the end: they are not durable; whoever comes next to them writes them again.
        """
        self._birthplace.check()
        if self._in_batch():
            yield
            return
        opened = threading.Lock()
        try:
            with opened:
                self._batches[threading.get_ident()] = opened
                yield
        finally:
            self._batches.pop(threading.get_ident(), None)
            self._pay()

    def _in_batch(self) -> bool:
        opened = self._batches.get(threading.get_ident())
        return opened is not None and opened.locked()

    def changed(self, state: Stepwise, /) -> bool:
        """Write the last change of a state, and whatever else is owed; or say no, in a batch. See `Keeper`.

        Raises:
            StoreError: it is not durable.
        """
        self._owed.add(state)
        if self._in_batch():
            return False
        self._pay()
        return True

    # --- writing -----------------------------------------------------------------------------------------------------

    def _pay(self) -> None:
        with self._lock:
            owed = tuple(self._owed)
            if not owed:
                return
            self._write({(TRUST, self._kept[state]): state._whole() for state in owed})
            for state in owed:
                state._is_durable()
                self._owed.discard(state)

    def _write(self, rows: Mapping[Name, bytes]) -> None:
        try:
            self._keeping.settled()
            self._keeping.write(rows, self._keeping.number + 1)
            return
        except AgentMeshError:
            raise
        except Exception as error:  # it is not known what was written, or it is a backend of the caller's that fails
            failure = error
        raise StoreFailed from failure


def _read(rows: Rows, name: str, key: StoreKey, entropy: CheckedEntropy) -> tuple[Sealer, dict[Name, bytes], int]:
    """Return what seals the rows, what they hold, and their generation."""
    if is_new(rows):
        return Sealer.new(name, key, entropy=entropy), {}, 0
    sealer, found, generation = Sealer.open(name, key, rows.read(), rows.commit_number, entropy=entropy)
    if any(kind != TRUST for kind, _ in found):
        raise ArgumentInvalid("name", "that of an agent")
    return sealer, dict(found), generation
