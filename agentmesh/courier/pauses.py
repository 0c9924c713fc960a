"""Pauses that grow and are spread: many agents that lost one broker must not all come back in one moment."""

from __future__ import annotations

from typing import Final, final

from agentmesh.primitives.arguments import uint_argument
from agentmesh.primitives.entropy import Entropy, SystemEntropy

_FRACTION_BITS: Final = 32


@final
class Pauses:
    """How long to wait before the next try: twice as long each time, up to a bound, of which at most half is cut off.

    It is only told of tries and never waits, so it serves where there is no asyncio too.
    """

    __slots__ = ("_entropy", "_first", "_longest", "_next")

    def __init__(self, *, first_ms: int = 250, longest_ms: int = 30_000, entropy: Entropy | None = None) -> None:
        """Begin with the shortest.

        Args:
            first_ms: The first pause, before it is cut.
            longest_ms: No pause is longer.
            entropy: Where the jitter comes from; the operating system if `None`.

        Raises:
            ArgumentInvalid: not milliseconds from 1 up.
        """
        self._longest = uint_argument("longest_ms", longest_ms, minimum=1)
        self._first = min(uint_argument("first_ms", first_ms, minimum=1), self._longest)
        self._next = self._first
        self._entropy: Entropy = SystemEntropy() if entropy is None else entropy

    def next_seconds(self) -> float:
        """Return how long to wait now."""
        pause, self._next = self._next, min(2 * self._next, self._longest)
        cut = int.from_bytes(self._entropy.token(_FRACTION_BITS // 8), "big") / (1 << _FRACTION_BITS)
        return pause * (1 - cut / 2) / 1000

    def reset(self) -> None:
        """Begin anew: a try went well."""
        self._next = self._first
