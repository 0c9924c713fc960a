"""The one seam through which an agent's state changes: compute a step, tell the journal, apply, return.

Here stand the agent's lock, the guard against hooks that call back, and the counting of refusals for the journal.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar, final

from agentmesh.audit.record import Record
from agentmesh.audit.refusals import Refusals
from agentmesh.engine.core import Core
from agentmesh.engine.rows import ChangesOf
from agentmesh.engine.state import Change, Journal, Step
from agentmesh.envelope import Header, OuterEnvelope, receipt_of
from agentmesh.errors import AgentMeshError, CommitFailed, PeerNotAllowed, ReentrantCall
from agentmesh.primitives.keys import Receipt, Redacted

_Output = TypeVar("_Output")


@final
class Seam(Redacted):
    """The lock, the journal and the commit of one agent.

    Attributes:
        lock: Held during every call; reading calls take it too.
    """

    __slots__ = ("_busy", "_core", "_journal", "_refusals", "_unread", "lock")

    def __init__(self, core: Core, journal: Journal | None) -> None:
        self.lock = threading.RLock()
        self._busy = False
        self._core = core
        self._journal = journal
        # One for all steps, where the journal does not read what they change.
        self._unread = ChangesOf((), core.state) if getattr(journal, "reads_changes", True) is False else None
        state = core.state
        self._refusals = Refusals(state.mesh, state.identity.did, max_peers=core.limits.refusal_records_per_minute)

    def run(self, compute: Callable[[int], Step[_Output]], *, envelope: bytes | None = None) -> _Output:
        """Compute a step from the state, commit it, return its output.

        A refusal of `envelope` is counted, where a journal reads the counts, and so is the policy's word that a peer
        is not to be sent anything.

        Raises:
            ReentrantCall: a hook called back.
            CommitFailed: the journal did not take the step; the state is as it was.
        """
        with self.lock:
            if self._busy:
                raise ReentrantCall
            self._busy = True
            try:
                now_ms = self._core.now_ms()
                if self._refusals.counts:
                    self._record(self._refusals.due(now_ms))
                try:
                    step = compute(now_ms)
                except AgentMeshError as error:
                    if self._journal is not None and envelope is not None:
                        self._count(error.code, envelope, now_ms)
                    elif self._journal is not None and isinstance(error, PeerNotAllowed):
                        self._refusals.count_unsent(error.code, error.did, now_ms=now_ms)
                    raise
                self._commit(step)
            finally:
                self._busy = False
            return step.output

    def _count(self, reason: str, envelope: bytes, now_ms: int) -> None:
        peer = _claimed_sender(envelope, self._core)
        known = self._refusals.is_known(reason, peer)
        self._refusals.count(
            reason,
            peer,
            receipt=_UNREAD if known else receipt_of(envelope),
            size_bytes=len(envelope),
            now_ms=now_ms,
        )

    @property
    def refusals_due_ms(self) -> int | None:
        """When the refusals that are counted now are to be recorded, or `None`."""
        return self._refusals.due_ms

    def record_refusals(self) -> None:
        """Record the refusals counted so far.

        Raises:
            ReentrantCall: a hook called back.
            StoreError, CommitFailed: the journal did not take them; they are still counted.
        """
        with self.lock:
            if self._busy:
                raise ReentrantCall
            self._busy = True
            try:
                self._record(self._refusals.counted())
            finally:
                self._busy = False

    def _record(self, refusals: tuple[Record, ...]) -> None:
        if refusals:
            self._tell((), refusals)
            self._refusals.recorded()

    def _commit(self, step: Step[Any]) -> None:
        if self._journal is not None and (step.changes or step.records):
            try:
                self._tell(step.changes, step.records)
            except BaseException:
                if step.charged is not None:
                    self._core.budgets.knocks.give_back(step.charged)
                raise
        for change in step.changes:
            change.apply(self._core.state)
        if step.afterwards is not None:
            step.afterwards()

    def _tell(self, changes: tuple[Change, ...], records: tuple[Record, ...]) -> None:
        if self._journal is None:
            return
        try:
            told = ChangesOf(changes, self._core.state) if self._unread is None else self._unread
            self._journal.commit(told, records)
        except AgentMeshError:
            raise
        except Exception as error:
            # What the journal's own frames hold is the journal's; ours go.
            trace = error.__traceback__
            raise CommitFailed from error.with_traceback(None if trace is None else trace.tb_next)


_UNREAD = Receipt(b"")


def _claimed_sender(envelope: bytes, core: Core) -> str:
    """Return who an envelope says it is from, or nothing where it says nothing readable."""
    try:
        header: Header = OuterEnvelope(envelope, core.limits).header
        return header.sender
    except AgentMeshError:
        return ""
