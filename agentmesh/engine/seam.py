"""The one seam through which an agent's state changes: compute a step, tell the journal, apply, return.

Theory of operation. A signal, a timer or a lack of memory may raise between any two byte codes. So the seam keeps a step
until it is applied whole: whoever comes next finishes it first, by applying it again. Where the journal was being told,
the journal says whether it has the step. What a step was to return is given to the same call made again. For that the
thread remembers the step until its call has returned.

Here stand too: the agent's lock, the refusal of a child of a fork and of hooks that call an agent, and the counting of
refusals for the journal.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Final, TypeVar, final

from agentmesh.audit.record import Record
from agentmesh.audit.refusals import Refusals
from agentmesh.engine.core import Core
from agentmesh.engine.rows import ChangesOf
from agentmesh.engine.state import Journal, Step
from agentmesh.envelope import Header, OuterEnvelope, receipt_of
from agentmesh.errors import AgentMeshError, CommitFailed, ForkedChild, PeerNotAllowed, ReentrantCall
from agentmesh.primitives.forked import Birthplace
from agentmesh.primitives.keys import Receipt, Redacted

_Output = TypeVar("_Output")
_UNRETURNED: Final = 8  # outputs of calls that were broken off; the oldest makes room


class _Thread(threading.local):
    """What a thread is at: the lock of the agent that it called last, and the step of the call that it is in."""

    lock: Any = None
    step: Step[Any] | None = None


THREAD: Final = _Thread()


@final
class Seam(Redacted):
    """The lock, the journal and the commit of one agent.

    Attributes:
        lock: Held during every call; reading calls take it too.
        birthplace: The process that made the agent.
    """

    __slots__ = ("_core", "_is_taken", "_journal", "_refusals", "_step", "_unreturned", "birthplace", "lock")

    def __init__(self, core: Core, journal: Journal | None) -> None:
        self.birthplace = Birthplace()
        self.lock = threading.RLock()
        self._core = core
        self._journal = journal
        self._step: Step[Any] | None = None  # committed, and not yet applied whole
        self._is_taken = True  # the journal has it, if there is a journal
        self._unreturned: list[tuple[object, Any]] = []  # calls, and what they were to return
        state = core.state
        self._refusals = Refusals(state.mesh, state.identity.did, max_peers=core.limits.refusal_records_per_minute)

    # --- calls -------------------------------------------------------------------------------------------------------

    def refuse_entry(self) -> AgentMeshError | None:
        """Return, before any lock, why a call that changes something must not be made here, or `None`.

        `ForkedChild`: this process is a fork of the one that made the agent. `ReentrantCall`: a hook made the call, of
        this agent or of another, whose lock is held.
        """
        if not self.birthplace.is_here:
            return ForkedChild()
        lock = THREAD.lock
        # Who holds a lock says the lock itself, so that nothing can be left behind by a call that was broken off.
        return ReentrantCall() if lock is not None and lock._is_owned() else None

    def look(self, reading: Callable[[], _Output]) -> _Output:
        """Return what a reading call reads, once the last step is whole. A hook may look at the agent that calls it.

        Raises:
            ForkedChild: this process is a fork of the one that made the agent.
            ReentrantCall: a hook of another agent made the call.
            StoreError: a step was broken off, and the journal cannot say whether it has it.
        """
        self.birthplace.check()
        lock = THREAD.lock
        is_inside = lock is not None and lock._is_owned()
        if is_inside and lock is not self.lock:
            raise ReentrantCall
        with self.lock:
            THREAD.lock = self.lock
            if self._step is not None and not is_inside:
                self._settle(self._step)
            return reading()

    def run(
        self, compute: Callable[[int], Step[_Output]], call: object = None, *, envelope: bytes | None = None
    ) -> _Output:
        """Compute a step from the state, commit it, return its output.

        A refusal of `envelope` is counted, where a journal reads the counts, and so is the policy's word that a peer
        is not to be sent anything.

        Args:
            compute: Gives the step of the time that it is given.
            call: What is called, with all its arguments; equal for the same call alone.
            envelope: What was received. It is the call, then.

        Raises:
            CommitFailed: the journal did not take the step; the state is as it was.
        """
        with self.lock:
            THREAD.lock = self.lock
            if self._step is not None:
                self._settle(self._step)
            if envelope is not None:
                call = envelope
            if self._unreturned and self._is_given_again(call):
                return THREAD.step.output  # type: ignore[union-attr]
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
            step.call = call
            self._commit(step)
            return step.output

    # --- committing --------------------------------------------------------------------------------------------------

    def _commit(self, step: Step[Any]) -> None:
        if self._journal is not None and (step.changes or step.records):
            self._is_taken = False
            self._step = THREAD.step = step  # the seam first: what only the thread has is whole
            self._tell(self._journal, step)
            self._is_taken = True
        else:
            self._is_taken = True
            self._step = THREAD.step = step
        self._apply(step)
        self._step = None

    def _apply(self, step: Step[Any]) -> None:
        for change in step.changes:
            change.apply(self._core.state)
        if step.afterwards is not None:
            step.afterwards()

    def _tell(self, journal: Journal, step: Step[Any]) -> None:
        try:
            journal.commit(ChangesOf(step.changes, self._core.state), step.records)
        except AgentMeshError:
            self._forget(step)
            raise
        except Exception as error:
            # Left for the next call to settle: a signal's handler may have raised it, after the journal took the step.
            # What the journal's own frames hold is the journal's; ours go.
            trace = error.__traceback__
            raise CommitFailed from error.with_traceback(None if trace is None else trace.tb_next)

    def _forget(self, step: Step[Any]) -> None:
        """Let go of a step that takes no effect."""
        step.call = None
        charged, step.charged = step.charged, None
        if charged is not None:
            self._core.budgets.knocks.give_back(charged)
        self._step = None

    # --- what was broken off -----------------------------------------------------------------------------------------

    def _settle(self, step: Step[Any]) -> None:
        """Finish a step that was broken off, if it is to take effect; with the lock held."""
        if not self._is_taken:
            if not self._was_taken():
                self._forget(step)
                return
            self._is_taken = True
        self._apply(step)
        self._keep(step)
        self._step = None

    def _was_taken(self) -> bool:
        settled = getattr(self._journal, "settled", None)
        try:
            return settled is not None and settled() is True
        except AgentMeshError:
            raise
        except Exception as error:
            raise CommitFailed from error

    def broken_off(self) -> None:
        """Keep what this thread's call was to return, if its step took effect."""
        step = THREAD.step
        if step is not None:
            with self.lock:
                if step is not self._step:  # that one is for the next call to settle
                    self._keep(step)
            THREAD.step = None

    def _keep(self, step: Step[Any]) -> None:
        if step.call is not None and not any(output is step.output for _, output in self._unreturned):
            self._unreturned = [*self._unreturned, (step.call, step.output)][-_UNRETURNED:]
        step.call = None

    def _is_given_again(self, call: object) -> bool:
        """Say whether this call was broken off before it returned; the thread's step has its output then.

        An envelope may come again at any time. Of any other call nothing is kept once another is made: what it was to
        return may not fit what comes then.
        """
        for kept, output in self._unreturned:
            if kept == call:
                again: Step[Any] = Step((), (), output)
                again.call = call
                THREAD.step = again
                self._unreturned = [one for one in self._unreturned if one[1] is not output]
                return True
        self._unreturned = [one for one in self._unreturned if type(one[0]) is bytes]
        return False

    # --- refusals ----------------------------------------------------------------------------------------------------

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
            StoreError, CommitFailed: the journal did not take them; they are still counted.
        """
        with self.lock:
            THREAD.lock = self.lock
            if self._step is not None:
                self._settle(self._step)
            self._record(self._refusals.counted())

    def _record(self, refusals: tuple[Record, ...]) -> None:
        if refusals:
            self._commit(Step((), refusals, None, afterwards=self._refusals.recorded))


_UNREAD = Receipt(b"")


def _claimed_sender(envelope: bytes, core: Core) -> str:
    """Return who an envelope says it is from, or nothing where it says nothing readable."""
    try:
        header: Header = OuterEnvelope(envelope, core.limits).header
        return header.sender
    except AgentMeshError:
        return ""
