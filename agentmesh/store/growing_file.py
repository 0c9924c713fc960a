"""A file that grows beside the name that it is to have, and takes the name once it is whole."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from types import TracebackType
from typing import Final, final

from agentmesh.errors import ArgumentInvalid, StoreFailed, StoreLocked, StoreMoved
from agentmesh.store import files

SUFFIX: Final = ".agentmesh-part"
KEY_SUFFIX: Final = ".agentmesh-key"  # of a sealing
_TRIES: Final = 8
_NO_HARD_LINKS: Final = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


@final
class GrowingFile:
    """A file at `path` + `.agentmesh-part`, mode 0600, locked as long as it is open; it stays where it is not finished.

    Whoever finds what another call left looks at every byte of it before it is used: a crash may have kept any of them
    from the disk, and somebody may have written others.
    """

    def __init__(self, path: str) -> None:
        """Open it, made if it is new. What may be another's, or stands under another name too, is left behind.

        Raises:
            StoreFailed: something stands at `path` itself, which is never replaced, or the operating system refuses.
            StoreLocked: another call has it open.
            StoreMoved: somebody removes it all the time.
        """
        self._path = path
        self._beside = path + SUFFIX
        self._descriptor = -1
        try:
            if not path:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
            if os.path.lexists(path):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
            for _ in range(_TRIES):
                if self._open():
                    return
        except (OSError, ValueError) as error:
            raise StoreFailed from error
        raise StoreMoved

    def _open(self) -> bool:
        descriptor = files.open_file(self._beside, os.O_RDWR | os.O_CREAT)
        try:
            if not _locked(descriptor):
                raise StoreLocked
            if not files.is_at(self._beside, descriptor):
                return False  # another call finished it before it was locked
            if is_private(os.fstat(descriptor)):
                self._descriptor = descriptor
                return True
        finally:
            if self._descriptor < 0:
                os.close(descriptor)
        os.unlink(self._beside)
        return False

    def __enter__(self) -> GrowingFile:
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def size(self) -> int:
        """Return how many bytes there are.

        Raises:
            StoreFailed: the operating system refuses.
        """
        try:
            return os.fstat(self._descriptor).st_size
        except OSError as error:
            raise StoreFailed from error

    def read(self, at: int, size: int) -> bytes:
        """Return `size` bytes from a place, or those that there are.

        Raises:
            StoreFailed: the operating system refuses.
        """
        try:
            return files.read_fully(self._descriptor, size, at)
        except OSError as error:
            raise StoreFailed from error

    def write(self, at: int, data: bytes) -> None:
        """Write at a place. Threads may, at different places.

        Raises:
            StoreFailed: the operating system refuses.
        """
        try:
            files.write_at(self._descriptor, data, at)
        except OSError as error:
            raise StoreFailed from error

    def cut(self, size: int) -> None:
        """Let go of what stands behind so many bytes.

        Raises:
            StoreFailed: the operating system refuses.
        """
        try:
            os.ftruncate(self._descriptor, size)
        except OSError as error:
            raise StoreFailed from error

    def finish(self) -> None:
        """Force it to disk, let it stand at its path, and close it.

        Raises:
            StoreFailed: something stands there by now, or the operating system refuses.
            StoreMoved: somebody removed it, or put another file in its place.
        """
        try:
            os.fsync(self._descriptor)
            self._check_at(self._beside)
            try:
                os.link(self._beside, self._path)  # which replaces nothing
            except OSError as error:
                if error.errno not in _NO_HARD_LINKS or os.path.lexists(self._path):
                    raise
                self.close()
                os.rename(self._beside, self._path)
            else:
                self._check_at(self._path)
                self.close()  # first, because an open file cannot be removed everywhere
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self._beside)
            files.force_folder(self._path)
        except OSError as error:
            raise StoreFailed from error

    def _check_at(self, path: str) -> None:
        """Refuse what another put where this file stands: it has a name that others can guess."""
        if not files.is_at(path, self._descriptor):
            raise StoreMoved

    def close(self) -> None:
        """Close it. Closing twice is no error."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def refuse_own(name: str, source: str, path: str) -> None:
    """Refuse a source that is one of the files beside `path`: they are written over, or removed.

    Raises:
        ArgumentInvalid: it is one, under whatever name.
    """
    for suffix in (SUFFIX, KEY_SUFFIX):
        # Whatever keeps one of the two from being looked at keeps it from being opened, too.
        with contextlib.suppress(OSError, ValueError):
            if os.path.samestat(os.stat(source), os.lstat(path + suffix)):
                raise ArgumentInvalid(name, "a file that this call makes itself")


def is_private(found: os.stat_result) -> bool:
    """Say whether a file is this user's alone: nobody else's, no rights of others, no second name."""
    if not hasattr(os, "geteuid"):
        return found.st_nlink == 1
    return found.st_uid == os.geteuid() and not stat.S_IMODE(found.st_mode) & 0o077 and found.st_nlink == 1


def _locked(descriptor: int) -> bool:
    try:
        files.lock(descriptor)
        return True
    except BlockingIOError:
        return False
