"""The audit log at an agent's commit seam: no record, no envelope."""

from __future__ import annotations

from enum import Enum
from typing import final

from agentmesh.audit.log import AuditLog
from agentmesh.audit.record import Record
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
        self.log = log
        self.unrecorded = 0
        self._on_failure = on_failure

    reads_changes = False  # what a step changes is not for the trail

    def commit(self, _changes: object, records: tuple[Record, ...], /) -> None:
        """Record a step.

        Raises:
            ForkedChild: this process is a fork of the one that opened the log.
            StoreError: the sink did not take the records, and the agent is to stop. What else a caller's own sink
                raises goes up as it is.
        """
        if not records:
            return
        try:
            self.log.append(records)
        except ForkedChild:
            raise  # nothing is to be carried on in a copy of the agent
        except Exception:
            if self._on_failure is OnFailure.STOP:
                raise
            self.unrecorded += len(records)
