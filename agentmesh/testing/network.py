"""What is under way between simulated agents. It sees what a relay sees: the bytes of envelopes."""

from __future__ import annotations

from collections import Counter, deque
from typing import Final, final

from attrs import Attribute, field, fields, frozen

from agentmesh.errors import ArgumentInvalid
from agentmesh.testing.mutation import split

_REMEMBERED_MAX: Final = 64  # of what was received


def _percent(_instance: object, attribute: Attribute[int], value: int) -> None:
    if type(value) is not int or not 0 <= value <= 100:
        raise ArgumentInvalid(attribute.name)


def _chance(default: int) -> int:
    made: int = field(default=default, validator=_percent)
    return made


@frozen(kw_only=True)
class Faults:
    """How often a simulated mesh misbehaves, in percent; `HONEST` is never.

    Attributes:
        drop_percent: Of the envelopes handled: gone for good.
        delay_percent: Of the envelopes handled: put aside, until chance or `settle` takes them up again.
        reorder_percent: Of the steps: any envelope is handled, not the oldest.
        duplicate_percent: Of the envelopes handled: delivered, and under way once more.
        tamper_percent: Of the envelopes handled: a forgery made of it arrives first.
        replay_percent: Of the steps: an envelope that was received before arrives again.
        crash_percent: Of the steps: an agent restarts from the state that it last exported.
        lost_state_percent: Of the steps: an agent restarts with its identity alone.
    """

    drop_percent: int = _chance(3)
    delay_percent: int = _chance(10)
    reorder_percent: int = _chance(30)
    duplicate_percent: int = _chance(10)
    tamper_percent: int = _chance(20)
    replay_percent: int = _chance(10)
    crash_percent: int = _chance(5)
    lost_state_percent: int = _chance(0)


HONEST: Final = Faults(**dict.fromkeys((chance.name for chance in fields(Faults)), 0))


@final
@frozen(eq=False)
class Carried:
    """An envelope under way.

    Attributes:
        envelope: Its bytes.
        sender: Whom its header names.
        recipient: Whom its header names.
        sequence: The order in which envelopes were handed over.
        answers_before: How many envelopes had gone the other way when it was handed over.
    """

    envelope: bytes
    sender: str
    recipient: str
    sequence: int
    answers_before: int


@final
class Network:
    """The envelopes under way, those put aside, and some that were received, all in bounded memory.

    Attributes:
        queue: Under way, oldest first.
        aside: Put aside, oldest first.
        received: The latest that were received, to replay.
    """

    def __init__(self, *, in_flight_max: int, late_answers_max: int | None) -> None:
        self.queue: list[Carried] = []
        self.aside: list[Carried] = []
        self.received: deque[Carried] = deque(maxlen=_REMEMBERED_MAX)
        self._in_flight_max = in_flight_max
        self._late_answers_max = late_answers_max
        self._sequence = 0
        self._gone: Counter[tuple[str, str]] = Counter()

    def hand_over(self, envelope: bytes) -> Carried | None:
        """Carry an envelope. Return the oldest one, taken off, if more are under way than the network holds."""
        self._sequence += 1
        header, _, _ = split(envelope)
        answers_before = self._gone[header.recipient, header.sender]
        self.queue.append(Carried(envelope, header.sender, header.recipient, self._sequence, answers_before))
        return self.queue.pop(0) if len(self.queue) > self._in_flight_max else None

    def put_aside(self, carried: Carried) -> Carried | None:
        """Put an envelope aside. Return the oldest one, dropped, if more were put aside than the network holds."""
        self.aside.append(carried)
        return self.aside.pop(0) if len(self.aside) > self._in_flight_max else None

    def take_up(self, index: int | None = None) -> None:
        """Put one envelope that was put aside, or all of them, back in its place in the queue."""
        taken = self.aside[:] if index is None else [self.aside[index]]
        self.aside = [] if index is None else self.aside[:index] + self.aside[index + 1 :]
        self.queue = sorted(self.queue + taken, key=lambda carried: carried.sequence)

    def note_received(self, carried: Carried) -> None:
        """Count an envelope that its recipient took, and remember it."""
        self._gone[carried.sender, carried.recipient] += 1
        self.received.append(carried)

    def holds(self, envelope: bytes) -> bool:
        """Say whether a copy of these bytes is still under way or put aside."""
        return any(carried.envelope == envelope for carried in (*self.queue, *self.aside))

    def take_overdue(self, before: Carried, tried: set[int]) -> Carried | None:
        """Take off the oldest envelope that may not be overtaken by `before`, or return `None`.

        A peer can take as many turns as it gets answers, and late messages open in a bounded number of past turns. So
        what is under way one way goes before that many envelopes have gone the other way.
        """
        if self._late_answers_max is None:
            return None
        overdue = self._gone[before.sender, before.recipient] - self._late_answers_max
        oldest: Carried | None = None
        for carried in (*self.queue, *self.aside):
            if (
                carried.answers_before <= overdue
                and carried.sender == before.recipient
                and carried.recipient == before.sender
                and carried.sequence not in tried
                and (oldest is None or carried.sequence < oldest.sequence)
            ):
                oldest = carried
        if oldest is not None:
            (self.queue if oldest in self.queue else self.aside).remove(oldest)
        return oldest
