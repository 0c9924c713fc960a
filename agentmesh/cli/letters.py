"""Which characters show as they are, and which as an escape because they could do harm on a terminal.

ASCII always shows as it is. Beyond it, and only where all that is written is seen on a terminal that knows UTF-8,
letters, digits, punctuation and symbols show too, with at most two marks on a letter. Escaped remain: control and
format characters, spaces other than the one, what is invisible or not assigned, marks on anything else than a letter or
piled up, and what is written from right to left, because some terminals then move what stands beside it.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from typing import Final

MARKS_MAX: Final = 2
_SHOWN: Final = frozenset(
    {"Lu", "Ll", "Lt", "Lm", "Lo", "Nd", "Nl", "No", "Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po", "Sc", "So"}
)
_MARKS: Final = frozenset({"Mn", "Mc"})
_DIRECTIONS: Final = frozenset({"L", "EN", "ES", "ET", "CS", "NSM", "ON"})
# Letters, marks and a symbol that no font draws: fillers, selectors of variants, the empty pattern of Braille.
_INVISIBLE: Final = frozenset(
    map(
        chr,
        (
            0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2800, 0x3164, 0xFFA0, *range(0x180B, 0x1810),
            *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0),
        ),
    )
)  # fmt: skip


def pieces(text: str, *, beyond_ascii: bool) -> Iterator[tuple[str, int]]:
    """Yield how each character shows, and in how many columns.

    Args:
        text: Any text.
        beyond_ascii: Whether what is harmless beyond ASCII shows as it is.
    """
    marks_left = 0  # that the character before can still bear
    for character in text:
        category = unicodedata.category(character)
        if " " <= character <= "~":
            shown = "\\\\" if character == "\\" else character
            yield shown, len(shown)
        elif beyond_ascii and category in _MARKS and marks_left and _is_plain(character):
            marks_left -= 1
            yield character, int(category == "Mc")
            continue
        elif beyond_ascii and category in _SHOWN and _is_plain(character):
            yield character, 2 if unicodedata.east_asian_width(character) in ("W", "F") else 1
        else:
            shown = _escape(character)
            yield shown, len(shown)
            category = ""
        marks_left = MARKS_MAX if category.startswith("L") else 0


def _is_plain(character: str) -> bool:
    return unicodedata.bidirectional(character) in _DIRECTIONS and character not in _INVISIBLE


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
