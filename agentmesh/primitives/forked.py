"""Which process made a value, because a fork copies locks that nobody in the child will ever release."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final, final

from agentmesh.errors import ForkedChild

# How many forks lie between this process and the one that imported this module. It costs a look, where `Birthplace`
# asks the operating system; but it knows only the forks that run Python's own handlers, so it may stand in front of a
# `Birthplace` that is asked later all the same, and not in its place.
generation: int = 0


def _count() -> None:
    global generation
    generation += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_count)


def in_each_child(call: Callable[[], object]) -> None:
    """Have something called in each child that a fork by Python makes. One by native code alone calls nothing."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=call)


@final
class Birthplace:
    """The process that made a value. Ask it before any lock, in reading calls too."""

    __slots__ = ("_process",)

    def __init__(self) -> None:
        self._process: Final = os.getpid()

    @property
    def is_here(self) -> bool:
        """Whether this process is the one."""
        return os.getpid() == self._process

    def check(self) -> None:
        """Refuse a child of a fork.

        Raises:
            ForkedChild: this process is not the one that made the value.
        """
        if os.getpid() != self._process:
            raise ForkedChild
