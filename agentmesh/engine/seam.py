"""The one seam through which an agent's state changes: compute a step, tell the journal, apply, return.

Theory of operation. A signal, a timer or a lack of memory may raise between any two byte codes. So a step is kept
until it is applied whole and its call has taken its output: whoever comes next finishes it first, by applying it again.
Where the journal was being told, the journal says whether it has the step. What a call that was broken off was to
return is given to the same call, made again.

In a *batch* steps take effect at once, and the journal is told of all of them at its end. What they made is withheld
until then. Where the journal does not take them, whoever comes next tells it again, before anything else is done.

Here stand too: the agent's lock, the refusal of a child of a fork and of hooks that call an agent, and the counting of
refusals for the journal.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

from agentmesh.audit.record import Record
from agentmesh.engine import delivery
from agentmesh.engine.batch import Batch
from agentmesh.engine.draft import Noted
from agentmesh.engine.hooks import Hooks
from agentmesh.engine.rows import ChangesNoted, ChangesOf
from agentmesh.engine.state import Changes, Journal, Step
from agentmesh.envelope import Header, OuterEnvelope, receipt_of
from agentmesh.errors import AgentMeshError, BatchOpen, CommitFailed, ForkedChild, PeerNotAllowed, ReentrantCall
from agentmesh.events import Event
from agentmesh.limits import UINT_MAX
from agentmesh.primitives.forked import Birthplace, in_each_child
from agentmesh.primitives.keys import Receipt, Redacted

_Output = TypeVar("_Output")
_UNRETURNED: Final = 8  # outputs of calls that were broken off; the oldest makes room


# The locks of the agents that are in a call, of any thread. While there is none, a call need not be looked at closer.
INSIDE: Final[dict[Any, None]] = {}


def is_inside() -> bool:
    """Say whether this thread is in a call of some agent: one of its hooks is calling.

    The locks themselves say who holds them, so one that a call left behind when it was broken off means nothing.
    """
    return any(lock._is_owned() for lock in [*INSIDE])


# In a child of a fork each call is looked at closer. Of a fork that native code makes behind Python's back only
# `Birthplace` knows.
in_each_child(lambda: INSIDE.setdefault(threading.RLock()))


class Seam(Redacted):
    """The lock, the journal and the commit of one agent; the four methods of its first part are a native agent's.

    Attributes:
        lock: Held during every call; reading calls take it too.
        birthplace: The process that made the agent.
        step: What the call changes that is under way, or was broken off; `None` once its output is its caller's.
        left: Steps whose calls were broken off behind them. Appended to without the lock: the wait for it may be broken
            off too.
        batch: What is committed together, while a batch is open, or its end has not been taken.
    """

    __slots__ = (
        "_begin", "_core", "_counted", "_journal", "_running", "_telling", "_unread", "_unreturned", "batch",
        "birthplace", "left", "lock", "step",
    )  # fmt: skip

    def __init__(self, core: Hooks, journal: Journal | None) -> None:
        self.birthplace: Birthplace = Birthplace()
        self.lock: threading.RLock = threading.RLock()
        self._core: Any = core
        self._journal = journal
        # Without it, what a journal says of the last step would be taken for the next one.
        self._begin: Callable[[], None] | None = getattr(journal, "begin", None)
        # One for all steps, where the journal does not read what they change.
        self._unread = ChangesOf((), core.state, 0) if getattr(journal, "reads_changes", True) is False else None
        self.step: Step[Any] | None = None
        self.left: list[Step[Any]] = []
        self._telling: Step[Any] | None = None  # what the journal is told, until it is known to have it
        self._unreturned: list[tuple[object, Any]] = []  # calls, and what they were to return
        self._counted = core.counted
        self.batch: Batch | None = None
        self._running = threading.RLock()  # while a batch has not been left

    # --- what differs between agents of two protocols ----------------------------------------------------------------

    def _kept(self, step: Step[_Output], now_ms: int) -> Step[_Output]:
        """Return a step of a reliable agent with what it keeps."""
        return delivery.kept(self._core, step, now_ms)

    def _changes_of(self, step: Step[Any]) -> Changes:
        """Return what a journal is told of a step that has not taken effect."""
        return ChangesOf(step.changes, self._core.state, step.generation)

    def _new_batch(self) -> Batch:
        """Return a batch over the state as it is."""
        noted = Noted(self._core.state)
        return Batch(noted, lambda changes: ChangesNoted(changes, noted))

    def _claimed_sender(self, envelope: bytes) -> str:
        """Return who an envelope says it is from, or nothing where it says nothing readable."""
        try:
            header: Header = OuterEnvelope(envelope, self._core.limits).header
            return header.sender
        except AgentMeshError:
            return ""

    # --- calls -------------------------------------------------------------------------------------------------------

    def refusal(self) -> AgentMeshError | None:
        """Return why no call that changes something can be made here, or `None`."""
        if not self.birthplace.is_here:
            return ForkedChild()
        return ReentrantCall() if is_inside() else None

    def look(self, reading: Callable[[], _Output]) -> _Output:
        """Return what a reading call reads, once the last step is whole. A hook may look at the agent that calls it.

        Raises:
            ForkedChild: this process is a fork of the one that made the agent.
            ReentrantCall: a hook of another agent made the call.
            StoreError: a step was broken off, and the journal cannot say whether it has it.
        """
        self.birthplace.check()
        if is_inside():
            if not self.lock._is_owned():  # type: ignore[attr-defined]
                raise ReentrantCall
            return reading()
        with self.lock:
            INSIDE[self.lock] = None
            try:
                self._resume()
                return reading()
            finally:
                del INSIDE[self.lock]

    def run(
        self, compute: Callable[..., Step[_Output]], asked: tuple[Any, ...] | None = None, envelope: bytes | None = None
    ) -> _Output:
        """Compute a step from the state, commit it, return its output; within a call that is guarded.

        A refusal of `envelope` is counted, where a journal reads the counts, and so is the policy's word that a peer
        is not to be sent anything.

        Args:
            compute: Gives the step of the time that it is given; of (core, asked, time) where something is asked.
            asked: What the call was given, where `compute` is no closure over it.
            envelope: What was received, if that is what the call is about.

        Raises:
            CommitFailed: the journal did not take the step; the state is as it was.
        """
        if self.step is not None or self.batch is not None:
            self._resume()
        if self.left:
            self._take_up()
        if self._unreturned:
            again: Step[_Output] | None = self._again((compute, asked) if envelope is None else envelope)
            if again is not None:
                return again.output
        now_ms = self._core.now_ms()
        if self._counted.counts:
            self._record(self._counted.due(now_ms))
        try:
            step = compute(now_ms) if asked is None else compute(self._core, asked, now_ms)
            if self._core.reliable:
                step = self._kept(step, now_ms)
        except AgentMeshError as error:
            if self._journal is not None and envelope is not None:
                self._count(error.code, envelope, now_ms)
            elif self._journal is not None and isinstance(error, PeerNotAllowed):
                self._counted.count_unsent(error.code, error.did, now_ms=now_ms)
            raise
        step.call = (compute, asked) if envelope is None else envelope
        self._commit(step)
        return step.output

    # --- committing --------------------------------------------------------------------------------------------------

    def _commit(self, step: Step[Any]) -> None:
        generation = self._core.state.generation
        if step.changes and generation < UINT_MAX:
            generation += 1
        step.generation = generation  # absolute, because a step that is broken off is applied again
        if self.batch is None and self._journal is not None and (step.changes or step.records):
            if self._begin is not None:
                self._announce(self._begin, step)
            self._telling = step
            self.step = step
            self._tell(self._journal, step)
            self._telling = None
        else:
            self.step = step
        self._apply(step)

    def _announce(self, begin: Callable[[], None], step: Step[Any]) -> None:
        """Tell the journal that a step follows; where that fails, none does."""
        try:
            begin()
        except Exception as error:
            self._forget(step)
            if isinstance(error, AgentMeshError):
                raise
            raise CommitFailed from error

    def _tell(self, journal: Journal, step: Step[Any]) -> None:
        try:
            told = self._unread
            journal.commit(self._changes_of(step) if told is None else told, step.records)
        except AgentMeshError:
            self._forget(step)
            raise
        except Exception as error:
            # Left for the next call to settle: a signal's handler may have raised it, after the journal took the step.
            # What the journal's own frames hold is the journal's; ours go.
            trace = error.__traceback__
            raise CommitFailed from error.with_traceback(None if trace is None else trace.tb_next)

    def _apply(self, step: Step[Any]) -> None:
        state, batch = self._core.state, self.batch
        noted = state if batch is None else batch.take(step)
        for change in step.changes:
            change.apply(noted)
        state.generation = step.generation
        if step.afterwards is not None:
            step.afterwards()
            step.afterwards = None  # a policy counts what it is told

    def _forget(self, step: Step[Any]) -> None:
        """Let go of a step that takes no effect."""
        charged, step.charged = step.charged, None
        if charged is not None:
            self._core.budgets.knocks.give_back(charged)
        self.step = None
        self._telling = None

    # --- batches -----------------------------------------------------------------------------------------------------

    @contextmanager
    def together(self) -> Iterator[Batch]:
        """Commit the steps of a with statement together, at its end; other threads wait for it.

        A generator, because it lets go of the lock wherever it is broken off.

        Raises:
            ForkedChild, ReentrantCall: as for every call.
            BatchOpen: a batch is open already.
            StoreError, CommitFailed: at the end: the journal did not take them; whoever comes next tells it again.
        """
        refusal = self.refusal()
        if refusal is not None:
            raise refusal
        with self.lock:
            self._resume()
            if self.left:
                self._take_up()
            if self.batch is not None:
                raise BatchOpen
            batch = self.batch = self._new_batch()
            try:
                with self._running:
                    yield batch
            finally:
                if self.birthplace.is_here:  # the batch is the parent's, who commits it
                    self._resume()
            self.birthplace.check()

    def _end(self, batch: Batch) -> None:
        """Tell the journal of a batch, again where that was broken off or failed; then what it made is given out."""
        whole = batch.whole
        is_told = batch.is_told and (self._telling is not whole or self._was_taken())
        whole.call, whole.generation = None, self._core.state.generation  # where it is settled behind the batch's end
        self.step = whole
        told, records = batch.told(), batch.records
        if not is_told and self._journal is not None and (len(told) or records):
            if self._begin is not None:
                self._announce(self._begin, whole)
            self._telling = whole  # first, because what is told and not known to be taken is asked for
            batch.is_told = True
            try:
                self._journal.commit(told, records)
            except AgentMeshError:
                batch.is_told = False  # it was not taken; told again by whoever comes next
                raise
            except Exception as error:
                trace = error.__traceback__
                raise CommitFailed from error.with_traceback(None if trace is None else trace.tb_next)
        self._telling = None
        batch.release()
        self.batch = None
        self.step = None

    # --- what was broken off -----------------------------------------------------------------------------------------

    def _resume(self) -> None:
        """Finish the step, and then the batch, that was broken off; with the lock held."""
        if self.step is not None:
            self._settle(self.step)
        if self.batch is not None and not self._running._is_owned():  # type: ignore[attr-defined]
            self._end(self.batch)  # its with statement was left, and its end not begun

    def _settle(self, step: Step[Any]) -> None:
        """Finish a step that was broken off, if it is to take effect; with the lock held."""
        if self.batch is not None and step is self.batch.whole:
            self._end(self.batch)
            return
        if step is self._telling:
            if not self._was_taken():
                self._forget(step)
                return
            self._telling = None
        self._apply(step)
        self._keep(step)
        self.step = None

    def _was_taken(self) -> bool:
        settled = getattr(self._journal, "settled", None)
        try:
            return settled is not None and settled() is True
        except AgentMeshError:
            raise
        except Exception as error:
            raise CommitFailed from error

    def keep(self) -> None:
        """Keep what calls were to return whose steps are `left`; where this is broken off, the next call does it."""
        with self.lock:
            self._take_up()

    def _take_up(self) -> None:
        while self.left:
            if self.left[0] is not self.step:  # that one is for the next call to settle
                self._keep(self.left[0])
            del self.left[0]

    def _keep(self, step: Step[Any]) -> None:
        if step.call is not None and not any(one[1] is step.output is not None for one in self._unreturned):
            self._unreturned = [*self._unreturned, (_named(step.call), step.output)][-_UNRETURNED:]
        step.call = None

    def _again(self, call: object) -> Step[Any] | None:
        """Return a step with what this call was to return before, if it was broken off.

        Events say what has happened, so they are kept until their call is made again. Of any other call nothing is
        kept once another is made: what it was to return may not fit what comes then.
        """
        named = _named(call)
        for kept, output in self._unreturned:
            if kept == named:
                again: Step[Any] = Step((), (), output)
                again.call = call
                again.generation = self._core.state.generation
                self.step = again
                self._unreturned = [one for one in self._unreturned if one[0] != named]
                return again
        self._unreturned = [one for one in self._unreturned if _are_events(one[1])]
        return None

    # --- refusals ----------------------------------------------------------------------------------------------------

    def _count(self, reason: str, envelope: bytes, now_ms: int) -> None:
        peer = self._claimed_sender(envelope)
        known = self._counted.is_known(reason, peer)
        self._counted.count_refused(
            reason,
            peer,
            receipt=_UNREAD if known else receipt_of(envelope),
            size_bytes=len(envelope),
            now_ms=now_ms,
        )

    @property
    def refusals_due_ms(self) -> int | None:
        """When the refusals that are counted now are to be recorded, or `None`."""
        return self._counted.due_ms

    def record_refusals(self) -> None:
        """Record the refusals counted so far; within a call that is `changing`.

        Raises:
            StoreError, CommitFailed: the journal did not take them; they are still counted.
        """
        self._resume()
        self._record(self._counted.counted())

    def _record(self, refusals: tuple[Record, ...]) -> None:
        if refusals:
            step = Step((), refusals, None, afterwards=self._counted.recorded)
            step.call = None
            self._commit(step)
            self.step = None


_UNREAD = Receipt(b"")


def _named(call: Any) -> object:
    """Return what is equal for the same call alone: the envelope, or the function over equal arguments."""
    if type(call) is bytes:
        return call
    compute, asked = call
    if asked is None:  # a closure over them
        return compute.__code__, [cell.cell_contents for cell in compute.__closure__ or ()]
    return call


def _are_events(output: object) -> bool:
    return type(output) is tuple and all(isinstance(one, Event) for one in output)
