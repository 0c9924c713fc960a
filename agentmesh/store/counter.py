"""A number outside the store that never goes back: it tells an older copy of a store from the last (section 7.2)."""

from __future__ import annotations

import contextlib
import os
import re
from typing import Final, Protocol, final

from agentmesh.errors import StoreBroken, StoreFailed
from agentmesh.limits import UINT_MAX
from agentmesh.primitives.arguments import uint_argument
from agentmesh.store import files

_TEXT_MAX_BYTES: Final = 20
_NUMBER: Final = re.compile(rb"[0-9]{1,19}\n")


class Counter(Protocol):
    """Two calls over a number that whoever can put back the store cannot put back: elsewhere, by another's hand."""

    def read(self) -> int:
        """Return the number, 0 before the first.

        Raises:
            StoreError: it cannot be read: nothing is opened then.
        """
        ...

    def advance(self, to: int, /) -> None:
        """Keep this number, durably, unless a greater one is kept.

        Raises:
            StoreError: it was not kept; nothing leaves the agent before it is.
        """
        ...


@final
class FileCounter:
    """A counter in a file of its own, mode 0600: on another volume than the store, which no backup of the store holds.

    The number is written beside the file and put in its place, forced to disk each time. Whoever can write the file can
    set the number: it is as good as its place.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Count in this file, made by the first `advance`.

        Raises:
            ArgumentInvalid: not a path.
        """
        self._path = files.path_argument("path", path)
        self._is_forced = False  # that the number which is there is: another may have put it there and been killed

    def read(self) -> int:
        """Return the number, 0 where there is no file.

        Raises:
            StoreFailed: the operating system refuses, or it is not a regular file.
            StoreBroken: no number stands there.
        """
        if not os.path.lexists(self._path):
            return 0
        descriptor = files.open_file(self._path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
        try:
            text = files.read_at(descriptor, _TEXT_MAX_BYTES + 1, 0)
        except OSError as error:
            raise StoreFailed from error
        finally:
            os.close(descriptor)
        if not _NUMBER.fullmatch(text):
            raise StoreBroken("counter")
        return min(int(text), UINT_MAX)

    def advance(self, to: int, /) -> None:
        """Keep this number, forced to disk, unless a greater one is there.

        Raises:
            ArgumentInvalid: not a count.
            StoreFailed: the operating system refuses; the old number stands.
            StoreBroken: no number stands there.
        """
        to = uint_argument("to", to)
        number = self.read()
        if to < number or (to == number and self._is_forced):
            return
        beside = f"{self._path}.new"
        self._is_forced = False
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(beside)  # of a process that was killed
            descriptor = files.open_file(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
            try:
                files.append(descriptor, b"%d\n" % to)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            os.replace(beside, self._path)
            files.force_folder(self._path)
            self._is_forced = True
        except OSError as error:
            raise StoreFailed from error
