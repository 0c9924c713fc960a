"""How the command line writes: escaped, aligned, at most 100 columns; and the exit status it ends with."""

from __future__ import annotations

import datetime
import textwrap
from collections.abc import Iterable, Sequence
from enum import IntEnum
from typing import Final, NoReturn

from agentmesh.cli.letters import MARKS_MAX, pieces
from agentmesh.cli.streams import MAX_WIDTH, remark, shows_all_letters
from agentmesh.errors import AgentMeshError
from agentmesh.identity import DID_PREFIX

PROGRAM: Final = "agentmesh"
WIDTH: Final = MAX_WIDTH
_SHORT: Final = 6


def escaped(text: str, width: int = WIDTH, *, plain: bool = False) -> str:
    """Return `text` as it is safe to print, cut to `width` columns with `..` at its end.

    What `letters` holds for harmful becomes a backslash escape, and a backslash two, so that no text that a peer or a
    file name chose can move the cursor, break a line or pass for another text of ASCII.

    Args:
        text: Any text.
        width: In columns of a terminal.
        plain: Printable ASCII alone, whatever the terminal knows.
    """
    if len(text) <= width and text.isascii() and text.isprintable() and "\\" not in text:
        return text  # as most are: a picture has a million names
    beyond_ascii = not (plain or text.isascii()) and shows_all_letters()
    # What is beyond cannot show: a megabyte is not escaped to be cut away.
    seen = text[: (width + 1) * (1 + MARKS_MAX if beyond_ascii else 1)]
    shown, used, kept = "", 0, 0
    for piece, columns in pieces(seen, beyond_ascii=beyond_ascii):
        if used + columns > width:
            return shown[:kept] + ".."
        shown += piece
        used += columns
        if used <= width - 2:
            kept = len(shown)
    return shown


def short_did(did: str) -> str:
    """Return the last characters of a DID, which tell two apart: `did:..x9QzAb`."""
    return "did:.." + escaped(did.removeprefix(DID_PREFIX)[-_SHORT:], _SHORT)


def short_hex(text: str) -> str:
    """Return the first characters of a hash in hexadecimal: enough to compare by eye."""
    return escaped(text[:8], 8)


def amount(count: int, unit: str) -> str:
    """Return `1,234 bytes`, `1 byte`, `1 entry`, `1 pass`: a count with its unit, which is given in the plural."""
    if count == 1:
        endings = {"ies": "y", "sses": "ss", "s": ""}
        unit = next(unit.removesuffix(many) + one for many, one in endings.items() if unit.endswith(many))
    return f"{count:,} {unit}"


def moment(time_ms: int) -> str:
    """Return a time as `2026-01-01T00:00:00.000Z`, or the number where no calendar has it."""
    try:
        second = datetime.datetime.fromtimestamp(time_ms // 1000, tz=datetime.UTC)
    except (OverflowError, OSError, ValueError):
        return f"{time_ms} ms since the epoch"
    return f"{second:%Y-%m-%dT%H:%M:%S}.{time_ms % 1000:03d}Z"


def folded(head: str, text: str, width: int) -> list[str]:
    """Return `text` behind `head`, in lines of at most `width` columns, each as far from the edge as the first."""
    room = width - len(head)
    lines = textwrap.wrap(text, room, break_on_hyphens=False)
    return [(head if number == 0 else " " * len(head)) + line for number, line in enumerate(lines)] or [head.rstrip()]


def reason(error: OSError | AgentMeshError) -> str:
    """Return in one escaped line why a call failed, without the path, which the caller names."""
    return escaped((isinstance(error, OSError) and error.strerror) or str(error), 2 * WIDTH)


def columns(rows: Iterable[Sequence[str]], widths: Sequence[int], right: frozenset[int] = frozenset()) -> list[str]:
    """Return each row as a line: cells cut and padded to `widths`, two spaces apart.

    Args:
        rows: Cells of printable ASCII, one for each width.
        widths: The columns' widths, in characters.
        right: The columns that are aligned to the right.
    """
    return [
        "  ".join(
            cell[:width].rjust(width) if index in right else cell[:width].ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


# --- how a command ends ----------------------------------------------------------------------------------------------


class Exit(IntEnum):
    """The exit status of every command."""

    OK = 0
    FAILED = 1  # Python's own for a crash, so no crash passes for something that was found
    USAGE = 2  # argparse's own
    UNREADABLE = 3
    MALFORMED = 4
    TAMPERED = 5
    FOUND = 6
    TORN = 7
    KEY = 8
    LOCKED = 9
    INTERRUPTED = 130  # as a shell reports SIGINT, and below it SIGTERM
    TERMINATED = 143


EXITS: Final = {
    Exit.OK: "all is well",
    Exit.FAILED: "something else failed",
    Exit.USAGE: "wrong usage",
    Exit.UNREADABLE: "a file is not there, or cannot be read",
    Exit.MALFORMED: "a file is not what it should be",
    Exit.TAMPERED: "a signature, a chain or a root does not hold: altered, cut, or somebody else's",
    Exit.FOUND: "a comparison or a check found something",
    Exit.TORN: "the end of a log is torn: by a crash, or it is being written now",
    Exit.KEY: "a key or a passphrase is not the one that a store is sealed under",
    Exit.LOCKED: "another process has the store open",
    Exit.INTERRUPTED: "interrupted",
    Exit.TERMINATED: "terminated",
}


def exit_table() -> str:
    """Return the lines of `--help` on the exit status."""
    return "exit status:\n" + "".join(f"  {status:<20d}  {meaning}\n" for status, meaning in EXITS.items())


def fail(text: str, status: Exit = Exit.FAILED) -> NoReturn:
    """End this command with one line on stderr, which `main` writes once everything that was begun has been unwound.

    Raises:
        SystemExit: always, with the status and the line as its note.
    """
    stopped = SystemExit(status)
    stopped.add_note(text)
    raise stopped


def complain(text: str) -> None:
    """Write one line to stderr."""
    remark(f"{PROGRAM}: {text}")
