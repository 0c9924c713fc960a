"""A regression guard for CI: `python -m benchmarks.guard` fails when the library has become slower than its limits.

Each limit is a ratio of two rows of one run: to the floor, the same primitives called bare, or by the clock to another
row of ours. No time and no count is stored, so the machine does not matter.

What is compared are instructions, counted by callgrind (`benchmarks/instructions.py`): two runs give the same ratio to
half a percent, on a busy machine too, so that a limit stands 3 % above what was measured. Where valgrind is not
installed the clock has to do, with slack. What moves many bytes is judged by the clock always, because a copy of a
megabyte is few instructions.

    python -m benchmarks.guard --measure     # count, and print the table of limits anew: put it in place of LIMITS
    python -m benchmarks.guard --clock       # by the clock alone
"""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from benchmarks import instructions
from benchmarks.instructions import COUNTED, NotCounted
from benchmarks.machine import is_compiled
from benchmarks.measure import Run, Scale
from benchmarks.targets import middle
from benchmarks.workers import MAYBE_COMPILED, OURS


class Limit(NamedTuple):
    """`ours` may be at most so many times `versus`: of the pure build, and of the compiled one where that is judged."""

    ours: str
    versus: str
    pure: float
    compiled: float | None
    what: str


class ClockLimit(NamedTuple):
    """The same by the clock, with slack."""

    ours: str
    versus: str
    at_most: float
    what: str


MARGIN: Final = 1.03
# Another interpreter spends other instructions on the same code: there the limits are this much wider.
WIDER: Final = 1.12
LIMITS_ARE_OF: Final = "CPython 3.11.7, GCC 12.2.0"
# fmt: off
LIMITS: Final = (
    Limit("frame_256", "bare:frame_256", 2.084, 1.641, "256 bytes to the wire and back, beside its primitives"),
    Limit("frameaudit_256", "bare:frameaudit_256", 2.036, 1.78, "the same with an audit record on both sides"),
    Limit("framefile_256", "bare:frameaudit_256", 2.212, 1.956, "the same with a log in a file"),
    Limit("frameaudit_1048576", "bare:box_and_hash_1048576", 1.089, 1.034, "1 MiB, beside secretbox and SHA-256"),
    Limit("pingpong", "bare:pingpong", 1.259, 1.169, "a message of a ping-pong, beside its primitives"),
    Limit("handshake_pair", "bare:handshake_pair", 1.178, 1.142, "establishing a pair, beside its primitives"),
    Limit("handshake_pair_cold", "bare:handshake_pair_cold", 1.048, 1.019, "a pair that has not met, likewise"),
    Limit("inorder100", "bare:inorder100", 2.062, 1.662, "opening one of a hundred, beside its primitives"),
    Limit("reverse100", "bare:reverse100", 2.482, 2.083, "the same in reverse, beside its primitives"),
    Limit("refused_header_256", "bare:frame_256", 1.253, 0.957, "refusing a random header, beside a message's floor"),
    Limit("restore", "bare:frame_256", 1.29, 1.294, "restoring a session, beside a message's primitives"),
    Limit("serialise", "bare:frame_256", 0.549, 0.549, "exporting it, likewise"),
    Limit("audit_append_1k", "bare:audit_append_1k", 1.978, 1.975, "an audit append, beside its two hashes"),
    Limit("audit_append_at_10k", "bare:audit_append_1k", 1.983, 1.976, "the same at 10,000 records"),
    Limit("audit_verify_1k", "bare:audit_verify_1k", 2.139, 2.136, "verifying a record, beside its two hashes"),
)
# fmt: on

# By the clock: 1.15 to 1.4 times what a quiet machine measures.
CLOCK: Final = (
    ClockLimit("handshake_pair", "bare:handshake_pair", 2.1, "establishing a pair, beside its primitives"),
    ClockLimit("frame_256", "bare:frame_256", 4.2, "256 bytes to the wire and back, beside its primitives"),
    ClockLimit("frameaudit_256", "bare:frameaudit_256", 5.2, "the same with an audit record on both sides"),
    ClockLimit("frameaudit_1048576", "bare:box_and_hash_1048576", 1.7, "1 MiB, beside secretbox and SHA-256"),
    ClockLimit("pingpong", "bare:pingpong", 2.1, "a message of a ping-pong, beside its primitives"),
    ClockLimit("reverse100", "inorder100", 1.5, "a hundred messages in reverse, beside in order"),
    ClockLimit("refused_header_256", "genuine_256", 2.4, "refusing a random header, beside opening a genuine envelope"),
    ClockLimit(
        "audit_append_at_100k", "audit_append_1k", 1.5, "an audit append at 100,000 records, beside the first 1,000"
    ),
)
LARGE: Final = tuple(limit for limit in CLOCK if limit.ours.endswith("_1048576"))
SCALE: Final = Scale(rounds=9, block_ms=30)


def interpreter() -> str:
    """Return what the limits depend on beside the code."""
    return f"{platform.python_implementation()} {platform.python_version()}, {platform.python_compiler()}"


# --- by instructions -------------------------------------------------------------------------------------------------


def count(limits: Sequence[Limit], command: Sequence[str] = COUNTED, prefix: Sequence[str] = ()) -> dict[str, float]:
    """Return the instructions of all that these limits name, in two processes.

    Raises:
        NotCounted: they cannot be counted here.
    """
    halves = [
        list(dict.fromkeys(name for limit in half for name in (limit.ours, limit.versus)))
        for half in (limits[::2], limits[1::2])
    ]
    return instructions.count([half for half in halves if half], command=command, prefix=prefix)


def over(limits: Sequence[Limit], counts: Mapping[str, float], build: str, wider: float) -> list[str]:
    """Print each ratio of instructions beside its limit, and return what is over it."""
    found = []
    for limit in limits:
        at_most = limit.pure if build == "pure" else limit.compiled
        if at_most is None:
            continue
        at_most *= wider
        ratio = counts[limit.ours] / counts[limit.versus]
        print(f"{ratio:7.3f}  at most {at_most:6.3f}  {'OVER' if ratio > at_most else 'ok':5} {limit.what}, {build}")
        if ratio > at_most:
            found.append(f"{limit.what}, {build}: {ratio:.3f} times, at most {at_most:.3f}")
    return found


def measured_table(limits: Sequence[Limit], counts: Mapping[str, Mapping[str, float]]) -> str:
    """Return the limits as they would stand in this file, by what was counted of each build now."""

    def at_most(limit: Limit, build: str) -> float | None:
        found = counts.get(build)
        return None if found is None else round(found[limit.ours] / found[limit.versus] * MARGIN, 3)

    lines = [f'LIMITS_ARE_OF: Final = "{interpreter()}"', "# fmt: off", "LIMITS: Final = ("]
    lines += [
        f'    Limit("{limit.ours}", "{limit.versus}", {at_most(limit, "pure")}, {at_most(limit, "compiled")}, '
        f'"{limit.what}"),'
        for limit in limits
    ]
    return "\n".join([*lines, ")", "# fmt: on"])


def _counts_of_builds(limits: Sequence[Limit], command: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return the counts of each build that is installed."""
    found = {"pure": count(limits, command)}
    if is_compiled():
        found["compiled"] = count(limits, command, MAYBE_COMPILED)
    return found


# --- by the clock ----------------------------------------------------------------------------------------------------


def clocked(limits: Sequence[ClockLimit], command: Sequence[str], scale: Scale = SCALE) -> dict[str, list[float]]:
    """Return what one interleaved run of ours and the floor gives for these limits."""
    jobs = dict.fromkeys(name.removeprefix("bare:") for limit in limits for name in (limit.ours, limit.versus))
    run = Run({"ours": command}, lambda _: None, block_value=lambda _, calls: middle(calls))
    try:
        run.interleave("guard", jobs, scale)
    finally:
        run.close()
    return run.measured


def late(limits: Sequence[ClockLimit], measured: Mapping[str, list[float]]) -> list[ClockLimit]:
    """Print each ratio of times beside its limit, and return the limits that are passed."""
    found = []
    for limit in limits:
        versus = limit.versus if limit.versus.startswith("bare:") else f"ours:{limit.versus}"
        # The quickest round of each: what a busy machine does to a round only ever adds to it.
        ratio = min(measured[f"ours:{limit.ours}"]) / min(measured[versus])
        verdict = "OVER" if ratio > limit.at_most else "ok"
        print(f"{ratio:7.2f}  at most {limit.at_most:6.2f}  {verdict:5} {limit.what}, by the clock")
        if ratio > limit.at_most:
            found.append(limit)
    return found


def _by_the_clock(limits: Sequence[ClockLimit], command: Sequence[str], scale: Scale) -> list[str]:
    found = late(limits, clocked(limits, command, scale))
    if found:
        print(f"guard: {len(found)} over the limit; measured once more, in case the machine was busy")
        found = late(found, clocked(found, command, scale))
    return [f"{limit.what}: more than {limit.at_most:.2f} times" for limit in found]


def main(
    arguments: Sequence[str] | None = None,
    *,
    command: Sequence[str] = OURS,
    clock: Sequence[ClockLimit] = CLOCK,
    large: Sequence[ClockLimit] = LARGE,
    scale: Scale = SCALE,
    counted: Sequence[str] = COUNTED,
    limits: Sequence[Limit] = LIMITS,
) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.guard", description=(__doc__ or "").split("\n")[0])
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--measure", action="store_true", help="print the table of limits anew, by what is counted now")
    choice.add_argument("--clock", action="store_true", help="by the clock alone, as where valgrind is not installed")
    options = parser.parse_args(arguments)
    found: list[str] = []
    try:
        if options.clock:
            raise NotCounted("asked to go by the clock")
        counts = _counts_of_builds(limits, counted)
    except NotCounted as error:
        print(f"guard: {error}: {'nothing can be measured' if options.measure else 'by the clock, with its slack'}")
        if options.measure:
            return 1
        found = _by_the_clock(clock, command, scale)
    else:
        if options.measure:
            print(measured_table(limits, counts))
            return 0
        wider = 1.0 if interpreter() == LIMITS_ARE_OF else WIDER
        if wider > 1:
            print(f"guard: the limits are of {LIMITS_ARE_OF}; this is {interpreter()}: {wider:.2f} times as wide")
        for build, those in counts.items():
            found += over(limits, those, build, wider)
        found += _by_the_clock(large, command, scale) if large else []
    for fault in found:
        print(f"guard: too slow: {fault}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
