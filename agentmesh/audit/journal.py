"""The audit log at an agent's commit seam: no record, no envelope."""

from __future__ import annotations

from enum import Enum
from typing import final

from agentmesh.audit.log import AuditLog
from agentmesh.audit.record import Record, decode_entry
from agentmesh.errors import ArgumentInvalid, ForkedChild


class OnFailure(Enum):
    """What a failing sink means."""

    STOP = "stop"  # no envelope leaves, no plaintext is released, the state stays as it was
    CARRY_ON = "carry_on"  # the agent goes on; what is missing from the log is counted


@final
class AuditJournal:
    """A journal for `Agent.create(journal=...)` that records every step in an `AuditLog`.

    Attributes:
        log: The log.
        on_failure: What a failing sink means.
        unrecorded: How many records a failing sink did not take, where the agent carried on. The log itself does not
            show that they are missing; the other side's log does.
    """

    def __init__(self, log: AuditLog, *, on_failure: OnFailure = OnFailure.STOP) -> None:
        """Record in `log`.

        Raises:
            ArgumentInvalid: not an `AuditLog`, or not an `OnFailure`.
        """
        if not isinstance(log, AuditLog):
            raise ArgumentInvalid("log")
        if not isinstance(on_failure, OnFailure):
            raise ArgumentInvalid("on_failure")
        self.log: AuditLog = log
        self.unrecorded: int = 0
        self.on_failure: OnFailure = on_failure
        self._size = len(log)  # when the last commit was over, or it was asked what became of it
        self._told: tuple[int, tuple[Record, ...]] = 0, ()  # that size before the last commit, and its records

    reads_changes = False  # what a step changes is not for the trail

    def begin(self) -> None:
        """Take note that another step follows, which is not recorded yet."""
        self._told = 0, ()

    def commit(self, _changes: object, records: tuple[Record, ...], /) -> None:
        """Record a step.

        Raises:
            ForkedChild: this process is a fork of the one that opened the log.
            StoreError: the sink did not take the records, and the agent is to stop. What else a caller's own sink
                raises goes up as it is.
        """
        if not records:
            self._told = 0, ()
            return
        self._told = self._size, records
        try:
            self._size = self.log.append(records)
        except ForkedChild:
            raise  # nothing is to be carried on in a copy of the agent
        except Exception:
            if self.on_failure is OnFailure.STOP:
                raise
            self.unrecorded += len(records)

    def settled(self) -> bool:
        """Say whether the records of the last commit stand in the log, though it was broken off.

        Raises:
            ForkedChild: this process is a fork of the one that opened the log.
            LogBroken, StoreError: the log cannot be read, and the agent is to stop.
        """
        size, records = self._told
        try:
            self._size = self.log.append(())  # a log that was broken off reads its sink again
            entries = self.log.entries(max(size, self.log.handover.size))
            found = [decode_entry(entry)[2] for entry in entries]
        except ForkedChild:
            raise
        except Exception:
            if self.on_failure is OnFailure.STOP:
                raise
            return False
        # Not by size alone: somebody else may append to the same log.
        return bool(records) and any(found[at : at + len(records)] == [*records] for at in range(len(found)))
