"""The command line: which commands there are, and their exit status.

Exit status: 0 all is well, 1 something failed (one line on stderr says what), 2 wrong usage, 130 interrupted. A command
is a module with `add_command`, which adds a parser with `run` as a default; it stands in `_COMMANDS`.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import Final

from agentmesh import __version__
from agentmesh.cli import audit, inspection
from agentmesh.cli.demo import demo
from agentmesh.cli.text import PROGRAM, complain, reason

_COMMANDS: Final = (demo.add_command, inspection.add_command, audit.add_command)
_INTERRUPTED: Final = 130


def parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    top = argparse.ArgumentParser(
        prog=f"python -m {PROGRAM}",
        description="End-to-end encrypted, auditable conversations between AI agents.",
        epilog="Exit status: 0 all is well, 1 something failed, 2 wrong usage, 130 interrupted.",
    )
    top.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for add_command in _COMMANDS:
        add_command(commands)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status.

    Raises:
        SystemExit: wrong usage, `--help` or `--version`, or a failure whose one line it carries.
    """
    arguments = parser().parse_args(argv)
    run: Callable[[argparse.Namespace], int] = arguments.run
    try:
        status = run(arguments)
        sys.stdout.flush()
    except KeyboardInterrupt:
        complain("interrupted")
        return _INTERRUPTED
    except OSError as error:
        # Nobody takes our output. At exit Python would write the rest once more, and fail aloud.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            complain(f"cannot write: {reason(error)}")
        return 1
    return status
