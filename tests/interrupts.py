"""Breaking a call off between any two byte codes, as a signal, a timer or a lack of memory does.

A test says how to make a subject and what to call on it. For each byte code of the product that the call runs, a fresh
subject is made, the call is made, and an exception is raised in front of that byte code:

    for subject in interrupts.each(make, lambda ledger: ledger.apply(statement, now_ms=NOW)):
        ...  # every call works, the export can be restored, and the call can be made again with the effect of one

Tests reach this module through the fixture `interrupts`.
"""

from __future__ import annotations

import dis
import sys
import threading
from collections.abc import Callable, Iterator
from functools import cache, partial
from itertools import count
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, TypeVar

import agentmesh
from agentmesh.errors import AgentMeshError

PACKAGE = Path(agentmesh.__file__).parent
Made = TypeVar("Made")
Place = tuple[CodeType, int]


class BrokenOff(KeyboardInterrupt):
    """What is raised unless a test says otherwise: like Ctrl-C, no `Exception`."""


class _Interrupter:
    """A trace function that counts the byte codes of some rooms, or their lines, and raises in front of one of them."""

    def __init__(
        self, rooms: tuple[str, ...], *, at: int | None, once: bool, lines: bool, raising: type[BaseException]
    ) -> None:
        self._rooms = tuple(str(PACKAGE / room) for room in rooms)
        self._at = at
        self._seen: set[Place] | None = set() if once else None
        self._event = "line" if lines else "opcode"
        self._raising = raising
        self.count = 0
        self.raised = False

    def __call__(self, frame: FrameType, event: str, _arg: object) -> Any:
        if event == "call":
            if not frame.f_code.co_filename.startswith(self._rooms):
                return None
            frame.f_trace_opcodes = self._event == "opcode"
        elif event == self._event:
            self._pass(frame.f_code, frame.f_lasti)
        return self

    def _pass(self, code: CodeType, offset: int) -> None:
        if offset in _leaving_with(code):
            return
        if self._seen is not None:
            if (code, offset) in self._seen:
                return
            self._seen.add((code, offset))
        if self.count == self._at:
            self.raised = True
            raise self._raising
        self.count += 1


@cache
def _leaving_with(code: CodeType) -> frozenset[int]:
    """Where a `with` block that ran to its end is about to call `__exit__`, where nothing is done, and a call's return.

    The exception table does not cover these byte codes (a `try` in a `with` begins with a NOP, a `return` in a `try`
    has left it), and CPython looks for signals at none of them, because a lock would then be held for ever.
    """
    found = {step.offset for step in dis.get_instructions(code) if step.opname in {"NOP", "RETURN_VALUE"}}
    steps = [step for step in dis.get_instructions(code) if step.opname != "PRECALL"]
    exits = 3 if sys.version_info >= (3, 14) else 2  # arguments of the CALL of __exit__, as the compiler counts them
    for place in range(len(steps) - 3):
        nones, called = steps[place : place + 3], steps[place + 3]
        if not all(step.opname == "LOAD_CONST" and step.argval is None for step in nones):
            continue
        if called.opname == "CALL" and called.arg == exits:
            first = place
            while first and steps[first - 1].opname in {"COPY", "NOP", "SWAP"}:
                first -= 1
            found.update(range(steps[first].offset, called.offset + 1))
    return frozenset(found)


def at(
    place: int,
    call: Callable[[], object],
    *,
    rooms: tuple[str, ...] = ("",),
    once: bool = False,
    lines: bool = False,
    raising: type[BaseException] = BrokenOff,
) -> bool:
    """Make a call, break it off at one place, and say whether there was that place. The arguments are those of `each`.

    What is an `Exception` may leave the call as an error of ours, where the library answers for a hook that raised it.
    """
    trace = _Interrupter(rooms, at=place, once=once, lines=lines, raising=raising)
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    except raising:
        assert trace.raised, "the call raised this by itself"
    except AgentMeshError:
        if not trace.raised or not issubclass(raising, Exception):
            raise
    finally:
        sys.settrace(before)
    return trace.raised


def each(
    make: Callable[[], Made],
    call: Callable[[Made], object],
    *,
    rooms: tuple[str, ...] = ("",),
    once: bool = False,
    lines: bool = False,
    raising: type[BaseException] = BrokenOff,
    places: Callable[[int], bool] = lambda _: True,
) -> Iterator[Made]:
    """Yield a subject for each byte code that `call` runs, with the call broken off in front of that byte code.

    Args:
        make: Makes a fresh subject, the same each time.
        call: What is broken off.
        rooms: Paths below the package, files or folders: only their byte codes count.
        once: Only the first time that each place is passed, for calls with long loops.
        lines: In front of each line, and not of each byte code.
        raising: What is raised.
        places: Which of the places, by number, where not all.
    """
    last = -1
    for place in count():
        if not places(place):
            continue
        subject = make()
        if not at(place, partial(call, subject), rooms=rooms, once=once, lines=lines, raising=raising):
            break
        last = place
        yield subject
    assert last > 9, "so short a call was never entered"


def is_free(lock: Any) -> bool:
    """Say whether another thread could take this lock now: one that is re-entrant hides a leak from its own."""
    taken: list[bool] = []

    def take() -> None:
        taken.append(lock.acquire(blocking=False))
        if taken[0]:
            lock.release()

    thread = threading.Thread(target=take)
    thread.start()
    thread.join()
    return taken[0]
