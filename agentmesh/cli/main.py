"""The command line: which commands there are, and how they end.

A command is a module with `add_command`, which adds a parser with `run` as a default; it stands in `_COMMANDS`. What it
ends with is a status of `Exit`; where that is not 0, one line on stderr says why.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Final, NoReturn

from agentmesh import __version__
from agentmesh.cli import inspection
from agentmesh.cli.demo import parent
from agentmesh.cli.streams import fill_missing_streams, silence
from agentmesh.cli.text import PROGRAM, WIDTH, Exit, complain, escaped, exit_table, fail, reason
from agentmesh.namesake import about_namesake
from agentmesh.primitives import build


def _add_reading(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add what reads and writes stores; where the system lacks what all of them stand on, ones that say so."""
    try:
        from agentmesh.cli import attach, audit, store
    except ModuleNotFoundError as missing:
        for name, what in (
            ("attach", "seal a file for any store, and open it again"),
            ("audit", "verify, show or compare audit logs"),
            ("store", "look after a store"),
        ):
            text = f"{name} does not run on this system: Python has no module {missing.name} here"
            parser = commands.add_parser(name, help=f"{what}; not on this system")
            parser.add_argument("rest", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
            parser.set_defaults(run=lambda _arguments, text=text: fail(text))
    else:
        attach.add_command(commands)
        audit.add_command(commands)
        store.add_command(commands)


_COMMANDS: Final = (parent.add_command, inspection.add_command, _add_reading)


class _Parser(argparse.ArgumentParser):
    """A parser whose help lists the exit status, and whose errors are safe to print; its commands' are of its class."""

    def format_help(self) -> str:
        return f"{super().format_help()}\n{exit_table()}"

    def error(self, message: str) -> NoReturn:
        super().error(escaped(message, 4 * WIDTH))


def parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    top: argparse.ArgumentParser = _Parser(
        prog=f"python -m {PROGRAM}", description="End-to-end encrypted, auditable conversations between AI agents."
    )
    top.add_argument("--version", action="version", version=f"{PROGRAM} {__version__} ({build.BUILD})")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for add_command in _COMMANDS:
        add_command(commands)
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
