"""The journal of an agent in a store: each step, or batch of steps, is one write (docs/protocol.md, section 7.2).

Theory of operation. The rows of a step are sealed and written with its audit records in one transaction, numbered one
more than the last. Then the log outside the store, if there is one, gets the records, and the counter outside, if there
is one, the generation; the seam lets the step take effect, and what it made leaves, only behind that.

Where a write fails and nobody knows whether the store has it, the number of the last write tells, and is asked for
before anything else is done with the agent. So a step is never written twice, and none is lost that was.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, final

from agentmesh.audit.record import Record
from agentmesh.engine.state import Changes, RowKind
from agentmesh.errors import AgentMeshError, LocalError, StoreClosed, StoreFenced
from agentmesh.primitives.keys import Redacted
from agentmesh.store.counter import Counter
from agentmesh.store.rows import Name, Rows
from agentmesh.store.sealing import Sealer
from agentmesh.store.trail import Trail

_GENERATION: Final = (RowKind.GENERATION, b"")
_UNSETTLED: Final = "it is not known whether the step was written, or log or counter have not followed"


@final
class Keeping(Redacted):
    """What keeps an agent in its rows.

    Attributes:
        rows: The agent's rows.
        number: That of the last write which is known.
    """

    __slots__ = ("_counter", "_generation", "_outcome", "_sealer", "_told", "_trail", "number", "rows")

    def __init__(self, rows: Rows, sealer: Sealer, trail: Trail, counter: Counter | None, *, generation: int) -> None:
        self.rows: Rows = rows
        self.number: int = rows.commit_number
        self._sealer = sealer
        self._trail = trail
        self._counter = counter
        self._generation = generation  # of the state that is written
        self._told: tuple[int, int] = self.number, generation  # of the last write that was to be made
        self._outcome: bool | None = True  # whether it was made, and log and counter have it; `None` where nobody knows

    def begin(self) -> None:
        """Take note that another step follows: `settled` is about that one from now on, and it is not written."""
        if self._outcome:  # else the last is not settled
            self._outcome = False

    def commit(self, changes: Changes, records: tuple[Record, ...], /) -> None:
        """Write a step.

        Raises:
            StoreError: nothing was written, or the log took no records; the step takes no effect. Where it is not known
                what was written, or log or counter do not have what was, it raises what is no error of the library, so
                that `settled` is asked.
        """
        self._outcome = False
        plain: dict[Name, bytes | None] = dict(changes.rows().items())
        generation_row = plain.pop(_GENERATION, None)
        generation = self._generation if generation_row is None else int.from_bytes(generation_row, "big")
        plain.update(self._trail.rows_for(records, changes))
        self.write(plain, generation)

    def write(self, plain: Mapping[Name, bytes | None], generation: int) -> None:
        """Write rows. The last write is settled.

        Raises:
            StoreError: as `commit`, and so is what else it raises.
        """
        self._outcome = False
        try:
            put, removed = self._sealer.seal_rows(plain, self.number + 1, generation)
            self._told = self.number + 1, generation
            self._outcome = None
            self.rows.write(self.number + 1, put, removed)
        except AgentMeshError as error:
            if not self._was_written(error):
                raise
        self._follow()

    def settled(self) -> bool:
        """Say whether the last step was written; then log and counter have it too.

        Raises:
            StoreError: the store, the log or the counter does not answer.
        """
        if self._outcome is None:
            written = self.rows.commit_number
            if written not in (self.number, self._told[0]):
                raise StoreFenced
            if written == self._told[0]:
                self._take_up()
            else:
                self._outcome = False
        if not self._outcome:
            self._trail.dropped()
        return self._outcome is True

    def _was_written(self, failure: AgentMeshError) -> bool:
        if isinstance(failure, StoreFenced | StoreClosed | LocalError):
            self._outcome = False  # nothing was written, and the store need not be asked
        try:
            return self.settled()
        except AgentMeshError:
            raise RuntimeError(_UNSETTLED) from failure

    def _follow(self) -> None:
        """Let log and counter follow what is written."""
        try:
            self._take_up()
        except AgentMeshError as error:
            raise RuntimeError(_UNSETTLED) from error

    def _take_up(self) -> None:
        if self._outcome:
            return
        number, generation = self._told
        if self.number != number:
            self._sealer.written()
            self._generation = generation
            self.number = number  # last, because it says that this is done
        self._trail.kept()
        if self._counter is not None:
            self._counter.advance(generation)
        self._outcome = True
