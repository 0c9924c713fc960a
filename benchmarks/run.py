"""Everything, in one interleaved run: `python -m benchmarks.run [--quick] [--rounds N] [--json FILE] [--page]`.

Prints each target with the ratio that was measured, and whether it was met. Peers are installed from the package index
into environments of their own under --cache; one that cannot be had is reported as missing, with the reason. So is the
compiled build, where it is not installed.

A part by itself, and the rest as another run found it; each part is of one run, so its ratios are too:

    python -m benchmarks.run --only logs instructions --merge before.json --json after.json --page
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks import targets
from benchmarks.machine import is_compiled, machine
from benchmarks.measure import FIGURES, FULL, GROUPS, QUICK, STORES, TINY, Progress, Run, Scale, groups
from benchmarks.page import write_page
from benchmarks.targets import TARGETS, Outcome, Target, middle, outcome, ratio_of
from benchmarks.workers import COMPILED, DEFAULT_CACHE, OURS, PEERS, WorkerFailed, peer_command

PARTS = (*GROUPS, *FIGURES)
# The same primitives under two names: what their ratio strays from 1 is the machine's noise.
CONTROL = ("bare:enc_256", "bare:frame_out_256")


def show_progress() -> Progress:
    """Return what tells the user how far it is: one line that is written over, or a line a group where it is no tty."""
    begun, last = time.monotonic(), ""

    def show(text: str) -> None:
        nonlocal last
        if sys.stderr.isatty():
            print(f"\r\x1b[K[{time.monotonic() - begun:4.0f} s] {text}", end="", file=sys.stderr, flush=True)
        elif text.partition(":")[0] != last:
            last = text.partition(":")[0]
            print(f"[{time.monotonic() - begun:4.0f} s] {last}", file=sys.stderr, flush=True)

    return show


def report(
    run: Run, about: dict[str, str], rounds: int, quick: bool, table_of_all: Sequence[Target] = TARGETS
) -> dict[str, Any]:
    """Return all that was found, as it is written to JSON."""

    def outcomes(table: Sequence[Target]) -> list[dict[str, Any]]:
        return [_row(outcome(target, run.measured, run.missing | run.failed)) for target in table]

    noise: dict[str, float] = {}
    if all(key in run.measured for key in CONTROL):
        noise = dict(zip(("ratio", "low", "high"), ratio_of(run.measured, *CONTROL), strict=True))
    return {
        "machine": about,
        "facts": run.facts(),
        "missing": run.missing,
        "failed": run.failed,
        "rounds": rounds,
        "quick": quick,
        "merged": False,
        "control": noise,
        "targets": outcomes(table_of_all),
        "compiled": outcomes(targets.COMPILED if table_of_all else ()),
        "stores": outcomes(targets.STORES),
        "instructions": {key: round(value) for key, value in sorted(run.instructions.items())},
        "medians": {key: round(middle(values), 3) for key, values in sorted(run.measured.items())},
        "measured": {key: [round(value, 3) for value in values] for key, values in sorted(run.measured.items())},
    }


def _row(row: Outcome) -> dict[str, Any]:
    return {
        **row.target._asdict(),
        "ratio": row.ratio,
        "low": row.low,
        "high": row.high,
        "met": row.met,
        "missing": row.missing,
    }


def table(found: dict[str, Any]) -> str:
    """Return the targets as text."""
    lines = [f"{'ratio':>7} {'middle half':>13} {'target':>7}"]
    for row in (*found["targets"], *found["compiled"], *found["stores"]):
        if row["ratio"] is None:
            lines.append(f"{'-':>7} {'':>13} {row['at_most']:>7.2f}  missing   {row['says']} ({row['missing']})")
            continue
        spread = f"{row['low']:.2f}..{row['high']:.2f}"
        verdict = "met    " if row["met"] else "NOT met"
        lines.append(f"{row['ratio']:>7.2f} {spread:>13} {row['at_most']:>7.2f}  {verdict}   {row['says']}")
    for party, reason in found["missing"].items():
        lines.append(f"missing: {party}: {reason}")
    for key, reason in found["failed"].items():
        lines.append(f"failed: {key}: {reason}")
    if found["control"]:
        lines.append("control, the same primitives twice: {ratio:.2f}, middle half {low:.2f}..{high:.2f}".format(
            **found["control"]
        ))  # fmt: skip
    for name, instructions in found["instructions"].items():
        lines.append(f"instructions: {instructions / 1000:12,.1f} k  {name}")
    return "\n".join(lines)


def commands(cache: Path, progress: Progress) -> tuple[dict[str, Sequence[str]], dict[str, str]]:
    """Return the workers' commands, ours first, and why some peers have none."""
    found: dict[str, Sequence[str]] = {"ours": OURS}
    missing: dict[str, str] = {}
    for peer in PEERS:
        progress(f"environment of {peer.title}")
        try:
            found[peer.name] = peer_command(peer, cache)
        except WorkerFailed as error:
            missing[peer.name] = str(error)
    return found, missing


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.run", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, help=f"interleaved rounds ({FULL.rounds}; {QUICK.rounds} with --quick)")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="short blocks, small sizes: the numbers mean little")
    size.add_argument("--tiny", action="store_true", help="as little as can be: shows that it runs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was found, after each part")
    parser.add_argument("--page", action="store_true", help="write docs/benchmarks.md anew, and its plots")
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE, help="where the peers' environments are kept")
    parser.add_argument("--no-peers", action="store_true", help="ours and the floor alone")
    parser.add_argument("--stores", action="store_true", help="stores alone; so is what is written of them")
    parser.add_argument("--only", nargs="+", choices=PARTS, metavar="PART", help=f"these alone: {', '.join(PARTS)}")
    parser.add_argument("--merge", type=Path, metavar="FILE", help="take what is not measured from an earlier --json")
    options = parser.parse_args(arguments)
    if options.page and options.only and options.merge is None:
        parser.error("--only leaves out what the page has: --page needs --merge beside it")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    scale = TINY if options.tiny else QUICK if options.quick else FULL
    if options.rounds is not None:
        scale = scale._replace(rounds=max(1, options.rounds))
    progress, about = show_progress(), machine()
    found: dict[str, Sequence[str]] = {"ours": OURS}
    missing = {peer.name: "left out by --no-peers" for peer in PEERS} if options.no_peers else {}
    if not options.no_peers and not options.stores:
        found, missing = commands(options.cache.resolve(), progress)
    if is_compiled():
        found["compiled"] = COMPILED
    else:
        missing["compiled"] = "it is not installed"
    earlier = None if options.merge is None else json.loads(options.merge.read_text(encoding="utf-8"))
    run = Run(found, progress)
    run.missing |= missing
    quick = options.quick or options.tiny

    def result() -> dict[str, Any]:
        table_of_all = () if options.stores else TARGETS
        if earlier is None:
            return report(run, about, scale.rounds, quick, table_of_all)
        found = report(merged(run, earlier), about, scale.rounds, quick, table_of_all)
        return found | {"merged": True, "facts": earlier["facts"] | run.facts()}

    try:
        for _ in measure(run, scale, {STORES} if options.stores else set(options.only or PARTS)):
            if options.json is not None:
                options.json.write_text(json.dumps(result(), indent=1, sort_keys=True) + "\n", encoding="utf-8")
    finally:
        run.close()
    print(file=sys.stderr)
    print(table(result()))
    if options.page:
        write_page(result())
    return 0


def measure(run: Run, scale: Scale, parts: Collection[str]) -> Iterator[str]:
    """Measure these parts, and yield the name of each when it is done."""
    for name, jobs in groups(scale).items():
        if name in parts:
            run.interleave(name, jobs, scale)
            if name == STORES:
                run.take_store_figures(scale)
            yield name
    for name, take in (("figures", run.take_figures), ("logs", run.take_logs), ("hubs", run.take_hubs)):
        if name in parts:
            take(scale)
            yield name
    if "instructions" in parts and scale.counted:
        run.take_instructions()
        yield "instructions"


def merged(run: Run, earlier: dict[str, Any]) -> Run:
    """Return a run that has also found what an earlier one found and it has not measured."""
    both = copy.copy(run)
    both.measured = earlier["measured"] | run.measured
    both.instructions = earlier["instructions"] | run.instructions
    both.failed = {key: why for key, why in earlier["failed"].items() if key not in both.measured} | run.failed
    both.missing = {party: why for party, why in run.missing.items() if party not in earlier["facts"]}
    return both


if __name__ == "__main__":
    sys.exit(main())
