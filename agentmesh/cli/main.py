"""The command line: which commands there are, and how they end.

A command is a module with `add`, which adds a parser with `run` as a default; it stands in `_COMMANDS`. What it ends
with is a status of `Exit`; where that is not 0, one line on stderr says why.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Final

from agentmesh import __version__
from agentmesh.cli import completion, identities, inspection, releases, trust, vectors
from agentmesh.cli.command import Commands, Parser, program
from agentmesh.cli.demo import parent
from agentmesh.cli.streams import fill_missing_streams, silence
from agentmesh.cli.text import PROGRAM, Exit, complain, fail, reason
from agentmesh.namesake import about_namesake
from agentmesh.primitives import build


def _add_reading(commands: Commands) -> None:
    """Add what reads and writes stores; where the system lacks what all of them stand on, ones that say so."""
    try:
        from agentmesh.cli import attach, audit, store
    except ModuleNotFoundError as missing:
        for name, what in (
            ("attach", "seal a file for any store, and open it again"),
            ("audit", "verify, show, compare or draw audit logs"),
            ("store", "look after a store"),
        ):
            text = f"{name} does not run on this system: Python has no module {missing.name} here"
            parser = commands.add_parser(name, help=f"{what}; not on this system")
            parser.add_argument("rest", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
            parser.set_defaults(run=lambda _arguments, text=text: fail(text))
    else:
        attach.add(commands)
        audit.add(commands)
        store.add(commands)


_COMMANDS: Final[tuple[Callable[[Commands], None], ...]] = (
    parent.add,
    identities.add,
    inspection.add,
    _add_reading,
    trust.add,
    vectors.add,
    releases.add,
)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    top: argparse.ArgumentParser = Parser(
        prog=program(), description="End-to-end encrypted, auditable conversations between AI agents.", example="demo"
    )
    top.add_argument("--version", action="version", version=f"{PROGRAM} {__version__} ({build.BUILD})")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for add in _COMMANDS:
        add(commands)
    completion.add(commands, top)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status.

    Raises:
        SystemExit: wrong usage, `--help` or `--version`, or a failure; its code is the status.
    """
    fill_missing_streams()
    try:
        try:
            return _run(argv)
        finally:
            sys.stdout.flush()
    except KeyboardInterrupt:
        complain("interrupted")
        return Exit.INTERRUPTED
    except OSError as error:
        # Nobody takes our output.
        silence(sys.stdout)
        if not isinstance(error, BrokenPipeError):
            complain(f"cannot write: {reason(error)}")
        return Exit.FAILED


def _run(argv: Sequence[str] | None) -> int:
    try:
        arguments = parser().parse_args(argv)
        shared = about_namesake()
        if shared:
            complain(shared)
        run: Callable[[argparse.Namespace], int] = arguments.run
        return run(arguments)
    except SystemExit as stopped:
        for line in getattr(stopped, "__notes__", ()):
            complain(line)
        raise
