"""Files that a command reads or writes whole: bounded, and what is wrong is one line."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path

from agentmesh.cli.text import WIDTH, Exit, escaped, fail, reason


def shown(path: str) -> str:
    """Return how a file is named in what is printed."""
    return escaped(path, 4 * WIDTH)


def read(path: str, max_bytes: int) -> bytes:
    """Return the bytes of a file, `-` for standard input: one more than `max_bytes` where it is longer.

    Raises:
        SystemExit: it cannot be read.
    """
    try:
        if path == "-":
            return sys.stdin.buffer.read(max_bytes + 1)
        with Path(path).open("rb") as file:
            return file.read(max_bytes + 1)
    except OSError as error:
        fail(f"cannot read {shown(path)}: {reason(error)}", Exit.UNREADABLE)
    except ValueError:
        fail(f"cannot read {shown(path)}: not a file name", Exit.UNREADABLE)


def write_new(path: str, pieces: Iterable[bytes]) -> int:
    """Write a new file of mode 0600, whole and durable; nothing stands there where that failed. Return its size.

    Raises:
        SystemExit: something is there already, or it cannot be written.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with open(descriptor, "wb") as file:
                size_bytes = sum(map(file.write, pieces))
                file.flush()
                os.fsync(descriptor)
        except BaseException:
            # Half a key would stand in the way of the next try, or pass for one.
            os.unlink(path)
            raise
        return size_bytes
    except FileExistsError:
        fail(f"{shown(path)} is there already; nothing is replaced", Exit.USAGE)
    except OSError as error:
        fail(f"cannot write {shown(path)}: {reason(error)}", Exit.UNREADABLE)
    except ValueError:
        fail(f"cannot write {shown(path)}: not a file name", Exit.UNREADABLE)
