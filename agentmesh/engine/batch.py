"""Many steps, one commit: what they changed, and what they made and must not leave before it is durable (section 7.2).

What calls return in a batch is withheld: an envelope, a bundle or a payload cannot be read before the batch has ended,
and events are given out by the batch, at its end. So nothing leaves, and nothing is handed up, that a crash could undo.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import Any, final

from agentmesh.audit.record import Record
from agentmesh.engine.state import Change, Changes, Step
from agentmesh.errors import BatchOpen
from agentmesh.events import Event, Events
from agentmesh.outgoing import Withholding
from agentmesh.primitives.keys import Redacted


@final
class Batch(Redacted):
    """What `Agent.batch` gives: the events of its calls, once it has ended.

    Attributes:
        whole: Stands for all of its steps while the journal is told of them. The seam's.
        is_told: The journal was told, and has not said no. The seam's.
    """

    __slots__ = ("_held", "_is_open", "_noted", "_outputs", "_steps", "_tell", "is_told", "whole")

    def __init__(self, noted: Any, told: Callable[[tuple[Change, ...]], Changes]) -> None:
        self.whole: Step[None] = Step((), (), None)
        self.is_told: bool = False
        self._noted = noted
        self._tell = told
        self._steps: list[Step[Any]] = []
        self._outputs: dict[int, Events] = {}
        self._held: list[tuple[object, str, Any]] = []
        self._is_open = True

    @property
    def events(self) -> Events:
        """What the calls of the batch had to tell, in order; those of `receive` and `poll` are here alone.

        Raises:
            BatchOpen: it has not ended, or what it changed has not been taken.
        """
        if self._is_open:
            raise BatchOpen
        return tuple(event for events in self._outputs.values() for event in events)

    # --- for the seam ------------------------------------------------------------------------------------------------

    def take(self, step: Step[Any]) -> Any:
        """Add a step that is to take effect, once; return the state to apply it to."""
        if not self._steps or self._steps[-1] is not step:
            self._steps.append(step)
        return self._noted

    @property
    def changes(self) -> tuple[Change, ...]:
        """All that its steps changed."""
        return tuple(chain.from_iterable(step.changes for step in self._steps))

    @property
    def records(self) -> tuple[Record, ...]:
        """All that its steps recorded."""
        return tuple(chain.from_iterable(step.records for step in self._steps))

    def told(self) -> Changes:
        """Return what a journal is told."""
        return self._tell(self.changes)

    def hold(self, output: Any) -> Any:
        """Return what a call may return now: events wait for the end, and what is to leave cannot be read before."""
        if isinstance(output, Withholding):
            for name in output.withheld:
                if output.can_read(name):
                    self._held.append((output, name, getattr(output, name)))  # first, because a signal may come between
                    object.__delattr__(output, name)
        elif type(output) is tuple and output and isinstance(output[0], Event):
            self._outputs[id(output)] = output  # held, so that its id stays its own; once, where a call is made again
            return ()
        return output

    def release(self) -> None:
        """Give out what was withheld; again changes nothing."""
        for output, name, value in self._held:
            object.__setattr__(output, name, value)
        self._is_open = False
