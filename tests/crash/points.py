"""Where a process can be made to die: points that it passes, counted, down to each write of SQLite's own files.

SQLite is looked at from two sides: each statement by its trace, each write, cut and fsync of a file by a layer between
SQLite and the operating system (its VFS, patched in this process; there it can also tear a write in two). Where the
library is linked so that it has no name to be found by, the second is left out.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sqlite3
from collections.abc import Callable
from typing import Any


class Points:
    """Counts the points that are passed, and ends the process at the one that is chosen."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._left: int | None = None
        self._only: str | None = None
        self.passed: list[str] = []

    def arm(self, number: int | None, only: str | None = None) -> None:
        """Die at the point of this number from now on, 0 the next; of those alone whose names begin with `only`."""
        self._left, self._only = number, only
        self.passed = []

    def __call__(self, name: str, before: Callable[[], None] | None = None) -> None:
        self.passed.append(name)
        if self._left is None or (self._only is not None and not name.startswith(self._only)):
            return
        self._left -= 1
        if self._left < 0:
            if before is not None:
                before()
            self._say(name)
            os.kill(os.getpid(), signal.SIGKILL)


# --- SQLite's statements ---------------------------------------------------------------------------------------------


def trace_statements(points: Points) -> None:
    """Pass a point before each statement of every connection that is opened from now on."""
    connect = sqlite3.connect

    def traced(*args: Any, **kwargs: Any) -> sqlite3.Connection:
        connection = connect(*args, **kwargs)
        connection.set_trace_callback(lambda sql: points(f"sql {sql.split(None, 1)[0]}"))
        return connection

    sqlite3.connect = traced  # type: ignore[assignment]


# --- SQLite's files --------------------------------------------------------------------------------------------------

_Write = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_int64)
_Truncate = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int64)
_Sync = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int)
_Open = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
_WRITE, _TRUNCATE, _SYNC, _METHODS = 3, 4, 5, 19  # places in sqlite3_io_methods, counted in pointers
_OPEN = 5  # place in sqlite3_vfs
_FILES = {0x100: "file", 0x800: "journal", 0x80000: "wal"}
_kept: list[object] = []  # what SQLite points to must not be collected


def watch_files(points: Points) -> bool:
    """Pass a point before each write, cut and fsync of a file of SQLite's; False where SQLite cannot be got at."""
    import _sqlite3

    try:
        find = ctypes.CDLL(_sqlite3.__file__).sqlite3_vfs_find
    except (AttributeError, OSError):
        return False
    find.restype = ctypes.c_void_p
    table = ctypes.cast(find(None), ctypes.POINTER(ctypes.c_void_p))
    opens = _Open(table[_OPEN])
    patched: dict[tuple[int, str], ctypes.Array[ctypes.c_void_p]] = {}

    def opened(vfs: int, name: int, file: int, flags: int, out: int) -> int:
        result = opens(vfs, name, file, flags, out)
        kind = next((kind for flag, kind in _FILES.items() if flags & flag), None)
        methods_at = ctypes.cast(file, ctypes.POINTER(ctypes.c_void_p))
        methods = methods_at[0]
        if result == 0 and kind is not None and methods:
            if (methods, kind) not in patched:
                patched[methods, kind] = _patched(methods, kind, points)
            methods_at[0] = ctypes.addressof(patched[methods, kind])
        return result

    hook = _Open(opened)
    _kept.extend((hook, patched))
    table[_OPEN] = ctypes.cast(hook, ctypes.c_void_p)
    return True


def _patched(methods: int, kind: str, points: Points) -> ctypes.Array[ctypes.c_void_p]:
    """Return a copy of what SQLite calls a file by, with points in it."""
    table = (ctypes.c_void_p * _METHODS).from_buffer_copy(ctypes.string_at(methods, _METHODS * 8))
    write, truncate, sync = _Write(table[_WRITE]), _Truncate(table[_TRUNCATE]), _Sync(table[_SYNC])

    def writes(file: int, data: int, size: int, at: int) -> int:
        points(f"{kind} write")
        points(f"{kind} torn", lambda: write(file, data, size // 2, at) and None)
        return write(file, data, size, at)

    def truncates(file: int, size: int) -> int:
        points(f"{kind} cut")
        return truncate(file, size)

    def syncs(file: int, flags: int) -> int:
        points(f"{kind} fsync")
        return sync(file, flags)

    hooks = (_Write(writes), _Truncate(truncates), _Sync(syncs))
    for place, hook in zip((_WRITE, _TRUNCATE, _SYNC), hooks, strict=True):
        table[place] = ctypes.cast(hook, ctypes.c_void_p)
    _kept.extend((*hooks, table))
    return table
