"""A mesh of thousands of agents on one machine, over a relay that loses and alters, and the check that nothing is lost.

    python -m benchmarks.fleet --agents 10000 [--seed N] [--json F] [--plot F.svg]

Agents publish bundles, KNOCK, converse, confirm, send again, close, restart; time passes on a manual clock. At the end
every payload that an application handed over must have been delivered exactly once, unaltered and in its place, and
every audit log must hold. The exit status is 0 only then. docs/how-to/fleet.md says more.
"""

from __future__ import annotations

import argparse
import json
import secrets
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from benchmarks.fleet.report import report_of, tables
from benchmarks.fleet.run import Fleet, resident_bytes
from benchmarks.fleet.settings import PLANTS, SINKS, Settings

_SET = ("agents", "conversations", "days", "loss", "restarts", "audit", "plant")  # as they are on the command line
_LOOK_EVERY = 256  # calls: because looking at a clock costs more than most of what happens between


class Progress:
    """Tells on stderr how far a run is: every second where somebody watches, else every ten."""

    def __init__(self) -> None:
        self._watched = sys.stderr.isatty()
        self._calls = 0
        self._part = ""
        self._began = self._told = time.monotonic()

    def __call__(self, part: str, share: float, fleet: Fleet) -> None:
        """Tell, if it is time to."""
        self._calls += 1
        if self._calls % _LOOK_EVERY and part == self._part:
            return
        now = time.monotonic()
        if part != self._part:
            self._part, self._began = part, now
        elif now - self._told < (1 if self._watched else 10):
            return
        self._told = now
        spent = now - self._began
        left = f"{spent * (1 - share) / share:,.0f} s left" if share > 0.01 and spent > 1 else ""
        text = f"{part} {share:4.0%}  {resident_bytes() >> 20:,} MiB  {left}"
        if part == "conversing" and spent > 1:
            sessions, payloads = fleet.world.counts["sessions established"], fleet.world.ledger.delivered
            text += f"  {sessions:,} sessions ({sessions / spent:,.0f}/s)"
            text += f"  {payloads:,} payloads ({payloads / spent:,.0f}/s)"
        print(
            f"\r\033[K{text}" if self._watched else text, end="" if self._watched else "\n", file=sys.stderr, flush=True
        )

    def end(self) -> None:
        """Leave the line."""
        if self._watched:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


def arguments_of(words: Sequence[str] | None) -> argparse.Namespace:
    """Return the command line's arguments."""
    default = Settings()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fleet", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--agents", type=int, default=default.agents, help="how many (%(default)s)")
    parser.add_argument(
        "--conversations", type=float, default=default.conversations, help="for each agent, on average (%(default)s)"
    )
    parser.add_argument("--days", type=float, default=default.days, help="of the manual clock (%(default)s)")
    parser.add_argument(
        "--seed",
        type=int,
        help="repeat a run. Keys and nonces then come from the seed too: none of them is secret. "
        "Without it they come from the operating system, and the course of the run from a seed that is told",
    )
    parser.add_argument(
        "--loss", type=float, default=default.loss, help="share of copies that the relay loses (%(default)s)"
    )
    parser.add_argument(
        "--restarts", type=float, default=default.restarts, help="of each agent, on average (%(default)s)"
    )
    parser.add_argument("--audit", choices=SINKS, default=default.audit, help="where the audit logs are (%(default)s)")
    parser.add_argument("--plant", choices=PLANTS, help="do this wrong once, to see the check fail")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything as JSON")
    parser.add_argument("--plot", type=Path, metavar="FILE.svg", help="draw it; needs matplotlib")
    parser.add_argument("--quiet", action="store_true", help="show no progress")
    arguments = parser.parse_args(words)
    if arguments.plot is not None and find_spec("matplotlib") is None:
        parser.error("--plot needs matplotlib: pip install 'agentmesh-e2ee[bench]'")
    for path in (arguments.json, arguments.plot):
        if path is not None and not path.absolute().parent.is_dir():
            parser.error(f"no folder for {path}")
    try:
        arguments.settings = Settings(
            seed=secrets.randbits(32) if arguments.seed is None else arguments.seed,
            seeded_secrets=arguments.seed is not None,
            **{name: getattr(arguments, name) for name in _SET},
        )
    except ValueError as error:
        parser.error(str(error))
    return arguments


def main(words: Sequence[str] | None = None) -> int:
    """Run a fleet, show what it showed, and return 0 if nothing was lost, doubled or altered, else 1."""
    arguments = arguments_of(words)
    settings: Settings = arguments.settings
    if settings.seeded_secrets:
        print("keys and nonces come from --seed: nothing in this run is secret", file=sys.stderr)
    progress = None if arguments.quiet else Progress()
    fleet = Fleet(settings) if progress is None else Fleet(settings, progress)
    try:
        fleet.run()
    finally:
        fleet.close()
        if progress is not None:
            progress.end()
    report = report_of(fleet)
    print(tables(report))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if arguments.plot is not None:
        from benchmarks.fleet.plot import plot

        plot(report, arguments.plot)
    return 0 if report["check"]["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
