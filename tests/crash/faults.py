"""Faults to plant in a worker, each of which the matrix must see."""

from __future__ import annotations

from typing import Any

from agentmesh.engine.rows import ChangesNoted, ChangesOf
from agentmesh.engine.seam import Seam
from agentmesh.engine.state import RowKind
from agentmesh.errors import StoreFailed
from agentmesh.events import MessageReceived
from agentmesh.outgoing import Sealed
from agentmesh.store.keeping import Keeping


def plant(name: str, worker: Any) -> None:
    _FAULTS[name](worker)


def _without_rows(kind: RowKind, *, removed: bool) -> None:
    """Leave rows out of what a step writes: those that it puts, or those that it removes."""
    for owner in (ChangesOf, ChangesNoted):
        rows = owner.rows

        def fewer(self: Any, rows: Any = rows) -> Any:
            return {
                name: data for name, data in rows(self).items() if name[0] is not kind or (data is None) is not removed
            }

        owner.rows = fewer  # type: ignore[method-assign]


def _before_telling(early: Any) -> None:
    tell = Seam._tell

    def telling(self: Any, journal: Any, step: Any) -> None:
        early(step.output)
        tell(self, journal, step)

    Seam._tell = telling  # type: ignore[method-assign]


def _handed_up_early(worker: Any) -> None:
    def early(output: Any) -> None:
        for event in output if type(output) is tuple else ():
            if isinstance(event, MessageReceived):
                worker.tell_event(event)

    _before_telling(early)


def _left_early(worker: Any) -> None:
    def early(output: Any) -> None:
        if isinstance(output, Sealed):
            worker.tell("left", "EARLY", b"", 0, b"", output.receipt, output.envelope)

    _before_telling(early)


def _failure_ignored(worker: Any) -> None:
    commit = Keeping.commit

    def committed(self: Any, *args: Any) -> None:
        try:
            commit(self, *args)
        except StoreFailed:
            self._outcome = True

    Keeping.commit = committed  # type: ignore[method-assign]


def _never_settled(worker: Any) -> None:
    def settled(self: Any) -> bool:
        self._trail.dropped()
        return False

    Keeping.settled = settled  # type: ignore[method-assign]


_FAULTS: dict[str, Any] = {
    "an envelope is not written with its step": lambda _: _without_rows(RowKind.OUTBOX, removed=False),
    "an event is not written with its step": lambda _: _without_rows(RowKind.INBOX, removed=False),
    "done is not written": lambda _: _without_rows(RowKind.INBOX, removed=True),
    "handed up before the write": _handed_up_early,
    "leaves before the write": _left_early,
    "a write that failed is ignored": _failure_ignored,
    "a durable write is taken for none": _never_settled,
}
