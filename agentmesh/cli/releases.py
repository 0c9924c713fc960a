"""`agentmesh version`: what is installed here, for a report of a fault."""

from __future__ import annotations

import argparse
import platform
from importlib import metadata
from typing import Final

from agentmesh import __version__
from agentmesh.cli.command import Commands, add_command, answer
from agentmesh.cli.text import PROGRAM, Exit
from agentmesh.envelope import VERSION
from agentmesh.namesake import DISTRIBUTION, namesakes
from agentmesh.primitives.build import BUILD

_LIBRARIES: Final = ("attrs", "cryptography", "msgpack", "pynacl")


def add(commands: Commands) -> None:
    """Add `version` to the command line."""
    add_command(
        commands, "version", _version,
        what="show what is installed here",
        description="Show the versions of the package, of the protocol and of the libraries under it, whether its "
        "calls are compiled, and who else is installed under its name. Put it into a report.",
        example="--json",
    )  # fmt: skip


def _version(arguments: argparse.Namespace) -> int:
    libraries = {name: _installed(name) for name in _LIBRARIES}
    others = namesakes()
    value = {
        "version": __version__,
        "distribution": DISTRIBUTION,
        "build": BUILD,
        "protocol": VERSION,
        "python": platform.python_version(),
        "libraries": libraries,
        "namesakes": list(others),
    }
    lines = [
        f"{PROGRAM}      {__version__}, of {DISTRIBUTION}",
        f"build          {BUILD}",
        f"protocol       {VERSION}",
        f"python         {platform.python_version()}",
        *(f"{name:<15}{version or 'not found'}" for name, version in libraries.items()),
        *(f"namesake       {name}: it overwrites files of this one" for name in others),
    ]
    answer(arguments, value, lines)
    return Exit.OK


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
