"""The audit trail of an agent in a store: no step without its records, no record without its step (section 8.3).

Theory of operation. Where the log is in the store, a step's entries are rows of the step's own transaction. Where it is
elsewhere, in a file beside the store, the transaction carries one row, `records`, with the entries that the log is to
get next; the log gets them once the transaction is durable, before anything leaves. The row stays until the next one
takes its place. So at opening the log has these entries or has not, and gets what is missing: whichever is ahead,
nothing is recorded twice or lost.

How a commit goes:

    put |= trail.rows_for(records, changes)     # nothing has changed; raises: the step takes no effect
    rows.write(number, seal(put), removed)
    trail.kept()                                # durable: the log gets them. Or, where nothing was written:
    trail.dropped()

Each `rows_for` that returned is followed by `kept` or `dropped`, once it is known which. `kept` may raise, or be broken
off; then it is called again, before anything else. At opening it is called once, before the first step.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, final

from agentmesh.audit.journal import AuditJournal, OnFailure
from agentmesh.audit.prepared import Prepared
from agentmesh.audit.record import Record
from agentmesh.engine.state import Changes, Journal
from agentmesh.errors import ForkedChild, StoreFailed
from agentmesh.store.log_rows import StoreLog
from agentmesh.store.rows import Name

RECORDS: Final = "records"


@final
class Trail:
    """What an agent's journal is told, in step with the store."""

    __slots__ = ("_inside", "_journal", "_prepared")

    def __init__(self, journal: Journal | None, rows: Mapping[Name, bytes]) -> None:
        """Take up the trail where the store left it; `kept` is to be called before anything else.

        Args:
            journal: What the agent was given: an `AuditJournal`, over a log in this store (`StoreLog`) or elsewhere;
                one of the caller's own, which is told of each step before it is written; or `None`.
            rows: The agent's plain rows; those of the kind `records` are looked at.

        Raises:
            StoreBroken: the row `records` is none.
        """
        self._journal = journal
        sink = journal.log.sink if isinstance(journal, AuditJournal) else None
        self._inside = sink if isinstance(sink, StoreLog) else None
        self._prepared: Prepared | None = None  # what the store has, and the log may not have
        row = rows.get((RECORDS, b""))
        if row is not None and sink is not None and self._inside is None:
            self._prepared = Prepared.decode(row)

    def rows_for(self, records: tuple[Record, ...], changes: Changes | tuple[()] = ()) -> dict[Name, bytes]:
        """Return the plain rows that the step's transaction writes besides its own. Nothing has changed.

        Raises:
            StoreError, OwnerMismatch: the log cannot take the records, and the agent is to stop (`OnFailure.STOP`).
                What a caller's own journal raises goes up as it is.
        """
        if self._prepared is not None:
            raise StoreFailed  # what became of the last is to be known first
        journal = self._journal
        if not isinstance(journal, AuditJournal):
            if journal is not None:
                journal.commit(changes, records)  # type: ignore[arg-type]
            return {}
        if not records:
            return {}
        try:
            prepared = journal.log.prepare(records)
        except ForkedChild:
            raise
        except Exception:
            if journal.on_failure is OnFailure.STOP:
                raise
            journal.unrecorded += len(records)
            return {}
        rows = {(RECORDS, b""): prepared.encode()} if self._inside is None else self._inside.rows_for(prepared)
        self._prepared = prepared
        return rows

    def kept(self) -> None:
        """Give the log what `rows_for` was asked for last, because it is durable.

        Raises:
            StoreError: the log did not take it. The step has happened all the same: call this again, before anything
                else and before anything leaves.
        """
        journal, prepared = self._journal, self._prepared
        if prepared is None or not isinstance(journal, AuditJournal):
            return
        try:
            journal.log.keep(prepared)
        except ForkedChild:
            raise
        except Exception:
            # In the store they are recorded, whatever the log could not read there.
            if journal.on_failure is OnFailure.STOP or self._inside is not None:
                raise
            self._prepared = None
            journal.unrecorded += len(prepared.records)
        self._prepared = None

    def dropped(self) -> None:
        """Forget what `rows_for` was asked for last, because nothing of it was written."""
        self._prepared = None
