"""Keys and passphrases of stores: read from a file or a descriptor, or asked for at the terminal.

Never from an argument or a variable of the environment: other users and child processes can read those.
"""

from __future__ import annotations

import argparse
import getpass
import os
import re
import stat
import warnings
from typing import Final

from agentmesh.cli.streams import remark
from agentmesh.cli.text import PROGRAM, Exit, escaped, fail
from agentmesh.cli.whole_files import read
from agentmesh.store.data_key import PASSPHRASE_MAX_BYTES

_KEY_BYTES: Final = 32
_OTHERS: Final = 0o077
_HEX: Final = re.compile(rb"[0-9A-Fa-f]{64}\s*")


def add_key_arguments(parser: argparse.ArgumentParser, new: str = "") -> None:
    """Add the two options that say where a key comes from; `new` stands before their names."""
    which = "the new key" if new else "the store's key"
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        f"--{new}key-file", metavar="FILE",
        help=f"{which}: 32 bytes, or 64 hexadecimal digits; `-` for standard input, /dev/fd/3 for a descriptor",
    )  # fmt: skip
    group.add_argument(
        f"--{new}passphrase-file", metavar="FILE",
        help="a passphrase instead: the first line; without either option it is asked for at the terminal",
    )  # fmt: skip


def key_of(arguments: argparse.Namespace, new: str = "") -> bytes | str:
    """Return the key that the two options name, or the passphrase that is typed."""
    key_file = getattr(arguments, f"{new}key_file")
    passphrase_file = getattr(arguments, f"{new}passphrase_file")
    if key_file is not None:
        return key_in(key_file)
    if passphrase_file is not None:
        return _first_line(passphrase_file)
    return _asked("new passphrase: ", again=True) if new else _asked("passphrase: ")


def key_in(path: str) -> bytes:
    """Return the 32 bytes of a key file; it is remarked on where others on this machine may read it."""
    data = _secret_in(path)
    if _HEX.fullmatch(data):
        return bytes.fromhex(data.decode())
    if len(data) != _KEY_BYTES:
        fail(f"{escaped(path)}: no key: neither 32 bytes nor 64 hexadecimal digits", Exit.MALFORMED)
    return data


def _secret_in(path: str) -> bytes:
    data = read(path, 2 * PASSPHRASE_MAX_BYTES)
    try:
        mode = os.stat(path).st_mode if path != "-" else 0
    except OSError:
        mode = 0  # it could be read, and is gone
    if os.name == "posix" and stat.S_ISREG(mode) and mode & _OTHERS:
        remark(f"{PROGRAM}: {escaped(path)} may be read by others, mode {stat.S_IMODE(mode):04o}: chmod 600")
    return data


def _first_line(path: str) -> str:
    line = _secret_in(path).split(b"\n", 1)[0].removesuffix(b"\r")
    try:
        passphrase = line.decode()
    except UnicodeDecodeError:
        passphrase = ""
    if not 1 <= len(line) <= PASSPHRASE_MAX_BYTES or not passphrase:
        fail(f"{escaped(path)}: no passphrase: a line of 1 to {PASSPHRASE_MAX_BYTES:,} bytes of UTF-8", Exit.MALFORMED)
    return passphrase


def _asked(prompt: str, *, again: bool = False) -> str:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", getpass.GetPassWarning)  # where it would be shown as it is typed
            passphrase = getpass.getpass(prompt)
            if again and getpass.getpass("the same again: ") != passphrase:
                fail("the two are not the same; nothing was changed", Exit.USAGE)
    except (EOFError, getpass.GetPassWarning):
        fail("no terminal to ask for a passphrase: give a file", Exit.USAGE)
    if not passphrase:
        fail("no passphrase", Exit.USAGE)
    return passphrase
