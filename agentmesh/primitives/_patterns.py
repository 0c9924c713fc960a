"""What canonical encodings look like, as regular expressions over bytes (docs/protocol.md, section 1.3).

Theory of operation. The canonical encodings of one layout are a regular language, as long as its lists and strings are
short: each form of a length or a number is an alternative of its own, told from the others by its first byte. So one
match says of bytes that types, sizes and ranges are the layout's, *and* that they are the one encoding of what they
hold, without a call for each field. What is longer matches nothing here: it is looked at field by field.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from agentmesh.limits import COUNTER_MAX, UINT_MAX

SHORT_STRING: Final = 48  # a DID has 42 bytes at most
SHORT_LIST: Final = 6  # there are as many past chains at most, where nothing is late; most lists are shorter
NIL: Final = rb"\xc0"

# The longer forms of numbers, each by the most that it can say, and without what a shorter form says.
_LONG_FORMS: Final = (
    (0xFF, rb"\xcc[\x80-\xff]"),
    (0xFFFF, rb"\xcd[^\x00]."),
    (COUNTER_MAX, rb"\xce(?!\x00\x00).{4}"),
    (UINT_MAX, rb"\xcf(?!\x00{4})\x00[\x00-\x1f].{6}"),
)


def one_of(forms: Iterable[bytes]) -> bytes:
    """Return the pattern of any of these."""
    return b"(?:%b)" % b"|".join(forms)


def uint(maximum: int) -> bytes:
    """Return the pattern of numbers up to a maximum, without the forms that can say more."""
    short = rb"[\x00-\x%02x]" % min(maximum, 0x7F)
    return one_of([short, *(form for most, form in _LONG_FORMS if most <= maximum)])


def strings(heads: Iterable[tuple[bytes, int]]) -> bytes:
    """Return the pattern of strings, of which each head and size is given."""
    return one_of(b"%b.{%d}" % (re.escape(head), size) for head, size in heads)


def _array_head(size: int) -> bytes:
    return rb"\x%02x" % (0x90 | size)


def array(items: list[bytes]) -> bytes:
    """Return the pattern of an array of these items, of which there are fewer than 16."""
    return _array_head(len(items)) + b"".join(items)


def arrays(item: bytes, maximum: int) -> bytes:
    """Return the pattern of short arrays of at most so many like items."""
    counts = range(min(maximum, SHORT_LIST) + 1)
    return one_of(_array_head(count) + b"(?:%b){%d}" % (item, count) for count in counts)
