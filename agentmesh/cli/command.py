"""What every command has: a parser whose help ends with an example and the exit status, and an answer in two forms."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NoReturn, TypeAlias

from agentmesh.cli.text import PROGRAM, WIDTH, escaped, exit_table

SCRIPTS: Final = (PROGRAM, "agentmesh-e2ee")
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


class Parser(argparse.ArgumentParser):
    """A parser whose help ends with an example and the exit status, and whose errors are safe to print.

    Attributes:
        example: What stands behind the command's name in an example that works, or `None` where there is none.
    """

    def __init__(self, *, example: str | None = None, **options: Any) -> None:
        # No abbreviations, because `--key` with a key behind it must not pass for `--key-file`, and be shown.
        super().__init__(**{"allow_abbrev": False, **options})
        self.example: str | None = example

    def format_help(self) -> str:
        """Return the help, with the example and the exit status at its end."""
        example = "" if self.example is None else f"\nexample:\n  {self.prog} {self.example}".rstrip() + "\n"
        return f"{super().format_help()}{example}\n{exit_table()}"

    def error(self, message: str) -> NoReturn:
        """End with wrong usage."""
        super().error(escaped(message, 4 * WIDTH))


def program() -> str:
    """Return what the command line was called by."""
    called = os.path.basename(sys.argv[0]) if sys.argv else ""
    return called if called in SCRIPTS else f"python -m {PROGRAM}"


def add_group(commands: Commands, name: str, *, what: str, description: str) -> Commands:
    """Add a command that has commands of its own; return what takes them."""
    parser = commands.add_parser(name, help=what, description=description)
    return parser.add_subparsers(title="commands", metavar="COMMAND", required=True)


def add_command(
    commands: Commands,
    name: str,
    run: Callable[[argparse.Namespace], int],
    *,
    what: str,
    description: str,
    example: str,
    answers: bool = True,
) -> Parser:
    """Add a command.

    Args:
        commands: Where to.
        name: Its name.
        run: What does it, and returns the exit status.
        what: One line for the list of commands.
        description: A paragraph for its own help.
        example: What stands behind its name in an example that works.
        answers: Whether what it says can be had as JSON.
    """
    parser = commands.add_parser(name, help=what, description=description)
    assert isinstance(parser, Parser)  # the class of whatever was above it
    parser.example = example
    parser.set_defaults(run=run, usage_error=parser.error, json=False)
    if answers:
        parser.add_argument("--json", action="store_true", help="answer in JSON; its form is in the documentation")
    return parser


def answer(arguments: argparse.Namespace, value: Mapping[str, Any], lines: Iterable[str]) -> None:
    """Write what a command found: one JSON object where that was asked for, else lines for people."""
    if arguments.json:
        print(as_json(value))
    else:
        for line in lines:
            print(line)


def as_json(value: Mapping[str, Any]) -> str:
    """Return one line of JSON, ASCII alone: so no text that a peer or a file name chose can act on a terminal."""
    return json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
