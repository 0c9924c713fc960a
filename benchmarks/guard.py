"""A regression guard for CI: `python -m benchmarks.guard` fails when the library has become slower than its slack.

Each limit is a ratio of two rows of one interleaved run, the median call of the quickest round of each: to the floor,
the same primitives called bare a moment before and after, or to another row of ours. No time is stored, so the machine
does not matter. One that is busy for a moment does: what is over its limit is measured once more, and fails if it is
over it again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Final, NamedTuple

from benchmarks.measure import Run, Scale
from benchmarks.targets import middle
from benchmarks.workers import OURS


class Limit(NamedTuple):
    """`ours` may be at most `at_most` times `versus`."""

    ours: str
    versus: str
    at_most: float
    what: str


# The one place for the guard's slack: 1.15 to 1.4 times what a quiet machine measures.
LIMITS: Final = (
    Limit("handshake_pair", "bare:handshake_pair", 2.1, "establishing a pair, beside its primitives"),
    Limit("frame_256", "bare:frame_256", 4.2, "256 bytes to the wire and back, beside its primitives"),
    Limit("frameaudit_256", "bare:frameaudit_256", 5.2, "the same with an audit record on both sides"),
    Limit("frameaudit_1048576", "bare:box_and_hash_1048576", 1.7, "1 MiB with audit, beside secretbox and SHA-256"),
    Limit("pingpong", "bare:pingpong", 2.1, "a message of a ping-pong, beside its primitives"),
    Limit("reverse100", "inorder100", 1.5, "a hundred messages in reverse, beside in order"),
    Limit("refused_header_256", "genuine_256", 2.4, "refusing a random header, beside opening a genuine envelope"),
    Limit("audit_append_at_100k", "audit_append_1k", 1.5, "an audit append at 100,000 records, beside the first 1,000"),
)
SCALE: Final = Scale(rounds=9, block_ms=30)


def measure(limits: Sequence[Limit], command: Sequence[str], scale: Scale = SCALE) -> dict[str, list[float]]:
    """Return what one interleaved run of ours and the floor gives for these limits."""
    jobs = dict.fromkeys(name.removeprefix("bare:") for limit in limits for name in (limit.ours, limit.versus))
    run = Run({"ours": command}, lambda _: None, block_value=lambda _, calls: middle(calls))
    try:
        run.interleave("guard", jobs, scale)
    finally:
        run.close()
    return run.measured


def over(limits: Sequence[Limit], measured: dict[str, list[float]]) -> list[Limit]:
    """Print each ratio beside its limit, and return the limits that are passed."""
    found = []
    for limit in limits:
        versus = limit.versus if limit.versus.startswith("bare:") else f"ours:{limit.versus}"
        # The quickest round of each: what a busy machine does to a round only ever adds to it.
        ratio = min(measured[f"ours:{limit.ours}"]) / min(measured[versus])
        verdict = "OVER" if ratio > limit.at_most else "ok"
        print(f"{ratio:6.2f}  at most {limit.at_most:.2f}  {verdict:5} {limit.what}")
        if ratio > limit.at_most:
            found.append(limit)
    return found


def main(
    arguments: Sequence[str] | None = None,
    *,
    command: Sequence[str] = OURS,
    limits: Sequence[Limit] = LIMITS,
    scale: Scale = SCALE,
) -> int:
    argparse.ArgumentParser(prog="python -m benchmarks.guard", description=__doc__).parse_args(arguments)
    late = over(limits, measure(limits, command, scale))
    if late:
        print(f"guard: {len(late)} over the limit; measured once more, in case the machine was busy")
        late = over(late, measure(late, command, scale))
    for limit in late:
        print(f"guard: too slow: {limit.what}: more than {limit.at_most:.2f} times", file=sys.stderr)
    return 1 if late else 0


if __name__ == "__main__":
    sys.exit(main())
