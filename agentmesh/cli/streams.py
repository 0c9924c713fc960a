"""The standard streams, which may be missing, closed, full or no terminal: none of that is a failure of a command."""

from __future__ import annotations

import os
import shutil
import sys
from contextlib import suppress
from typing import Final, TextIO

MAX_WIDTH: Final = 100
_MIN_WIDTH: Final = 60


def fill_missing_streams() -> None:
    """Put the null device wherever the process was started without a standard stream.

    The descriptors are filled too: else the next file that is opened, a log perhaps, becomes standard error, and takes
    what is written there.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        with suppress(OSError):
            if not _is_open(number):
                null = os.open(os.devnull, os.O_RDWR)
                if null != number:
                    os.dup2(null, number)
                    os.close(null)
                else:
                    os.set_inheritable(number, True)
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_RDWR)
            # For good, as Python's own streams are: nobody closes them.
            stream = open(null, "r" if number == 0 else "w", encoding="utf-8", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def silence(stream: TextIO) -> None:
    """Let what is still to be written to a stream that fails go nowhere: at exit Python would try again, aloud."""
    with suppress(OSError):
        null = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(null, stream.fileno())
        finally:
            os.close(null)


def remark(text: str, end: str = "\n") -> None:
    """Write to standard error. Where nobody takes it nothing happens: it is no part of what was asked for."""
    try:
        print(text, end=end, file=sys.stderr, flush=True)
    except (OSError, ValueError):  # a ValueError where it was closed
        silence(sys.stderr)


def overwrite(text: str) -> None:
    """Write a line on a terminal in the place of the last one that was written so; an empty one wipes it."""
    width = _columns(sys.stderr) - 1  # one more, and some terminals begin a line
    remark(f"\r{text[:width].ljust(width)}" if text else f"\r{' ' * width}\r", end="")


def _columns(stream: TextIO) -> int:
    try:
        columns = os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError):
        columns = 0
    return min(columns, MAX_WIDTH) or MAX_WIDTH


def page_width() -> int:
    """Return how many columns to lay a page out in: from 60 to 100, and 100 where no terminal says how wide it is."""
    columns = shutil.get_terminal_size((MAX_WIDTH, 24)).columns  # heeds COLUMNS, as argparse does
    return max(_MIN_WIDTH, min(columns, MAX_WIDTH))


def shows_all_letters() -> bool:
    """Return whether all that is written is seen on a terminal that knows UTF-8."""
    return all(
        stream.isatty() and (stream.encoding or "").lower().replace("-", "") == "utf8"
        for stream in (sys.stdout, sys.stderr)
    )
