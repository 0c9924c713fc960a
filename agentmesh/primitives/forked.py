"""Which process made a value, because a fork copies locks that nobody in the child will ever release."""

from __future__ import annotations

import os
from typing import Final, final

from agentmesh.errors import ForkedChild


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
