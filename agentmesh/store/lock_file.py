"""A lock beside a store's file: one process writes it, and whoever is refused is told which one does."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import weakref
from typing import Final, final

from agentmesh.errors import StoreFailed, StoreLocked, StoreMoved
from agentmesh.primitives.forked import in_each_child
from agentmesh.store import files

_HOLDER: Final = re.compile(rb"([0-9]{1,10}) ([A-Za-z0-9._-]{1,64})\n")
_TRIES: Final = 8
_open_here: weakref.WeakSet[LockFile] = weakref.WeakSet()


@final
class LockFile:
    """A file that is locked as long as this is open. It stays when it is closed, because who waits may have it open."""

    def __init__(self, path: str) -> None:
        """Lock it, made if it is new. What a killed process left is no obstacle: the lock went with the process.

        Raises:
            StoreLocked: it is locked already.
            StoreFailed: the operating system refuses.
            StoreMoved: somebody removes it all the time.
        """
        self._descriptor = -1
        for _ in range(_TRIES):
            descriptor = files.open_file(path, os.O_RDWR | os.O_CREAT)
            try:
                _lock(descriptor)
                if files.is_at(path, descriptor):  # and was not removed before it was locked
                    _say(descriptor, f"{os.getpid()} {_host()}\n".encode())
                    self._descriptor = descriptor
                    _open_here.add(self)
                    return
            except OSError as error:
                raise StoreFailed from error
            finally:
                if self._descriptor != descriptor:
                    os.close(descriptor)
        raise StoreMoved

    def close(self) -> None:
        """Let go of the lock, for every process that inherited it too. Closing twice is no error."""
        if self._descriptor < 0:
            return
        with contextlib.suppress(OSError):
            _say(self._descriptor, b"")
            files.unlock(self._descriptor)
        self.leave()  # last: if this is broken off before, the lock can still be let go of

    def holds(self, found: tuple[int, int]) -> bool:
        """Say whether it is that file."""
        return self._descriptor >= 0 and files.identity(self._descriptor) == found

    def leave(self) -> None:
        """Let go of what a fork copied: the lock is the parent's, and ends with the parent."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __del__(self) -> None:
        self.close()


def _lock(descriptor: int) -> None:
    try:
        files.lock(descriptor)
        return
    except BlockingIOError:
        pass
    found = files.identity(descriptor)
    match = _HOLDER.fullmatch(files.read_at(descriptor, 128, 0))
    holder = f"process {match[1].decode()} on {match[2].decode()}" if match else ""
    raise StoreLocked(any(one.holds(found) for one in list(_open_here)), holder)


def _say(descriptor: int, holder: bytes) -> None:
    os.ftruncate(descriptor, 0)
    os.lseek(descriptor, 0, os.SEEK_SET)
    if holder:
        files.append(descriptor, holder)


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "-", platform.node())[:64] or "-"


def _leave_in_child() -> None:
    for one in list(_open_here):
        one.leave()


in_each_child(_leave_in_child)
