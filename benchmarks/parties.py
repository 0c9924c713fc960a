"""Who is measured, and how each is named and drawn."""

from __future__ import annotations

from typing import Final

# Party: name, colour, marker.
PARTIES: Final = {
    "ours": ("AgentMesh", "#0b6e99", "o"),
    "compiled": ("AgentMesh, compiled", "#1fa187", "v"),
    "bare": ("the floor: primitives alone", "#888888", "x"),
    "agt": ("AGT Python", "#c2571a", "s"),
    "vodozemac": ("vodozemac (Rust)", "#5a8f29", "^"),
    "omemo": ("DoubleRatchet + X3DH", "#8250a0", "D"),
}

Medians = dict[str, float]  # `party:name` to a median
