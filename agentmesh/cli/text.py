"""How the command line writes: plain ASCII, escaped, aligned, at most 100 columns."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Final, NoReturn

from agentmesh.errors import AgentMeshError
from agentmesh.identity import DID_PREFIX

PROGRAM: Final = "agentmesh"
WIDTH: Final = 100
_SHORT: Final = 6


def escaped(text: str, width: int = WIDTH) -> str:
    """Return `text` in printable ASCII, cut to `width` characters with `..` at its end.

    What is not printable ASCII becomes a backslash escape, and a backslash two, so that no text that a peer or a file
    name chose can move the cursor, break a line or pass for another text.
    """
    # A character is at least one wide, so what is beyond cannot show: a megabyte is not escaped to be cut away.
    seen = text[: width + 1]
    shown = "".join(
        "\\\\" if character == "\\" else character if " " <= character <= "~" else _escape(character)
        for character in seen
    )
    return shown if len(shown) <= width else shown[: width - 2] + ".."


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def short_did(did: str) -> str:
    """Return the last characters of a DID, which tell two apart: `did:..x9QzAb`."""
    return "did:.." + escaped(did.removeprefix(DID_PREFIX)[-_SHORT:], _SHORT)


def short_hex(text: str) -> str:
    """Return the first characters of a hash in hexadecimal: enough to compare by eye."""
    return escaped(text[:8], 8)


def amount(count: int, unit: str) -> str:
    """Return `1,234 bytes`, `1 byte`: a count with its unit, which is given in the plural."""
    return f"{count:,} {unit.removesuffix('s') if count == 1 else unit}"


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


def complain(text: str) -> None:
    """Write one line to stderr."""
    print(f"{PROGRAM}: {text}", file=sys.stderr)


def fail(text: str) -> NoReturn:
    """End this command with exit status 1 and one line on stderr.

    Raises:
        SystemExit: always. It carries the line, and Python's exit writes it.
    """
    raise SystemExit(f"{PROGRAM}: {text}")
