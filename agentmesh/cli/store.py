"""`python -m agentmesh store info|check|backup|rekey|vacuum`: a store in a file of SQLite."""

from __future__ import annotations

import argparse
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NoReturn

from agentmesh.cli.keys import add_key_arguments, key_of
from agentmesh.cli.streams import remark
from agentmesh.cli.text import PROGRAM, Exit, amount, escaped, exit_table, fail, reason
from agentmesh.errors import (
    AgentMeshError,
    LogBroken,
    StateMalformed,
    StateVersionUnknown,
    StoreBroken,
    StoreFailed,
    StoreKeyWrong,
    StoreLocked,
)
from agentmesh.store import AgentInfo, SQLiteBackend, SQLiteStore, care
from agentmesh.store.rows import LOG
from agentmesh.store.sqlite_file import FORMAT

_FREE_AT_MOST: Final = 4  # one part in four of the pages may be free before it is worth a vacuum
_BROKEN: Final = {
    "file": "the file is damaged, or no store",
    "key": "the row that holds the data key is missing or damaged",
    "head": "the head is not the one that was written last: a row was altered, or an older copy of it put back",
    "rows": "the rows are not those that were written last: one was taken out, put back, or is an older copy",
}

_STATUSES: Final[dict[type[AgentMeshError], Exit]] = {
    StateMalformed: Exit.TAMPERED,
    StateVersionUnknown: Exit.MALFORMED,
    StoreKeyWrong: Exit.KEY,
    StoreLocked: Exit.LOCKED,
}


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `store` and its commands to the command line."""
    parser = _add(commands, "store", "look after the file that agents are kept in", "Look after a store in a file.")
    stores = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    info = _add(
        stores, "info", "show what is in it, without its key",
        "Show whose rows there are, how many, and how large. No key is needed, and nothing is written; another process "
        "may have the store open.",
    )  # fmt: skip
    info.set_defaults(run=_info)

    check = _add(
        stores, "check", "open every row, and the audit logs",
        "Open every row of every agent, hold them to one another, and verify the audit logs. Nothing is written; "
        "another process may have the store open. An older copy of the whole store passes: only a counter outside "
        "tells it.",
    )  # fmt: skip
    add_key_arguments(check)
    check.set_defaults(run=_check)

    backup = _add(
        stores, "backup", "copy it, while it is in use",
        "Copy the store, as it is at one moment, to a new file of mode 0600. No key is needed; another process may "
        "have the store open. The copy opens under the same key.",
    )  # fmt: skip
    backup.set_defaults(run=_backup)

    rekey = _add(
        stores, "rekey", "seal it anew, under another key",
        "Seal every row anew, under new keys and another key or passphrase. Each agent is one transaction: broken off, "
        "run it again with the same two keys. No other process may have the store open.",
    )  # fmt: skip
    add_key_arguments(rekey)
    add_key_arguments(rekey, "new-")
    rekey.set_defaults(run=_rekey)

    vacuum = _add(
        stores, "vacuum", "give free space back to the file system",
        "Write the file anew without the space that removed rows have left. Takes as much room again meanwhile. No "
        "other process may have the store open.",
    )  # fmt: skip
    vacuum.set_defaults(run=_vacuum)

    for one in (info, check, backup, rekey, vacuum):
        one.add_argument("path", metavar="PATH", help="the store's file")
    backup.add_argument("to", metavar="TO", help="where the copy is to stand; nothing may be there")


def _add(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, what: str, description: str
) -> argparse.ArgumentParser:
    return commands.add_parser(
        name, help=what, description=description, epilog=exit_table(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,  # because `--key` with a key behind it must not pass for `--key-file`, and be shown
    )  # fmt: skip


# --- opening ---------------------------------------------------------------------------------------------------------


@contextmanager
def _answering(path: str) -> Iterator[None]:
    """End the command where the store does not do what it is asked for; warnings become remarks."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", UserWarning)
        try:
            yield
        except AgentMeshError as error:
            _refused(path, error)
        finally:
            for warning in told:
                remark(f"{PROGRAM}: {escaped(path)}: {escaped(str(warning.message), 200)}")


def _refused(path: str, error: AgentMeshError, agent: str = "") -> NoReturn:
    where = f"{escaped(path)}, {escaped(agent)}" if agent else escaped(path)
    if isinstance(error, StoreFailed) and isinstance(error.__cause__, OSError):
        fail(f"cannot read or write {where}: {reason(error.__cause__)}", Exit.UNREADABLE)
    if isinstance(error, StoreBroken):
        said = _BROKEN.get(error.what, f"a row of the kind `{error.what}` is not what was written")
        status = Exit.MALFORMED if error.what == "file" else Exit.TAMPERED
        fail(f"{where}: {said} [{error.code}: {error.what}]", status)
    if isinstance(error, LogBroken):
        fail(f"{where}: the audit log is not what was written [{error.code}: {error.fault} at {error.sequence}]",
             Exit.TAMPERED)  # fmt: skip
    fail(f"{where}: {reason(error)}", _STATUSES.get(type(error), Exit.FAILED))


@contextmanager
def _looked_at(path: str) -> Iterator[SQLiteBackend]:
    """Yield the store as it is at this moment, to be read alone."""
    with _answering(path), SQLiteBackend(path, read_only=True) as backend:
        yield backend


@contextmanager
def _opened(path: str, key: bytes | str) -> Iterator[SQLiteStore]:
    """Yield the store, opened for writing; none is made."""
    if not os.path.lexists(path):
        fail(f"cannot read {escaped(path)}: no such file", Exit.UNREADABLE)
    with _answering(path), SQLiteStore(path, key=key) as store:
        yield store


# --- the commands ----------------------------------------------------------------------------------------------------


def _info(arguments: argparse.Namespace) -> int:
    with _looked_at(arguments.path) as backend:
        _print_file(arguments.path, *backend.space())
        for name in backend.names():
            _print_agent(care.info(backend, name))
    return Exit.OK


def _print_file(path: str, size_bytes: int, free_bytes: int) -> None:
    print(f"store     {escaped(path)}")
    print(f"format    {FORMAT}")
    print(f"size      {amount(size_bytes, 'bytes')}, {free_bytes:,} of them free")
    if free_bytes * _FREE_AT_MOST > size_bytes:
        print("          more than a quarter is free: `store vacuum` gives it back")


def _print_agent(info: AgentInfo) -> None:
    print(f"name      {escaped(info.name)}")
    print(f"  commits {info.commits:,}")
    if info.passphrase_costs is not None:
        passes, memory_kib = info.passphrase_costs
        print(f"  sealed  under a passphrase: Argon2id, {amount(passes, 'passes')}, {memory_kib:,} KiB")
    elif info.commits:
        print("  sealed  under a key")
    print(f"  rows    {sum(info.rows.values()):,}, {amount(info.size_bytes, 'bytes')}")
    for kind, count in info.rows.items():
        print(f"          {escaped(kind):<10}{count:>10,}")


def _check(arguments: argparse.Namespace) -> int:
    key = key_of(arguments)
    with _looked_at(arguments.path) as backend:
        for name in backend.names():
            try:
                found = care.check(backend, name, key)
            except AgentMeshError as error:
                _refused(arguments.path, error, name)
            entries = found.rows.get(LOG, 0)
            rows = f"{amount(sum(found.rows.values()) - entries, 'rows')} open and agree"
            log = f", {amount(entries, 'entries')} of its log verified" if entries else ""
            print(f"{escaped(name)}: {rows}{log}")
    return Exit.OK


def _backup(arguments: argparse.Namespace) -> int:
    shown = escaped(arguments.to)
    if os.path.lexists(arguments.to):
        fail(f"{shown} is there already; a backup replaces nothing", Exit.USAGE)
    with _looked_at(arguments.path) as backend:
        backend.backup(arguments.to)
    print(f"{shown}: {amount(Path(arguments.to).stat().st_size, 'bytes')}")
    print("It opens under the store's key as it is now. Put back, it is an older copy: see `Back up and restore`.")
    return Exit.OK


def _rekey(arguments: argparse.Namespace) -> int:
    old, new = key_of(arguments), key_of(arguments, "new_")
    with _opened(arguments.path, old) as store:
        done = store.rekey(new)
        left = len(store.names()) - len(done)
    print(f"{len(done):,} sealed anew, under new keys; to be done no more: {left:,}")
    print(
        "Backups and copies from before open under the old key, for ever: make a new backup, and delete the old ones."
    )
    return Exit.OK


def _vacuum(arguments: argparse.Namespace) -> int:
    if not os.path.lexists(arguments.path):
        fail(f"cannot read {escaped(arguments.path)}: no such file", Exit.UNREADABLE)
    with _answering(arguments.path), SQLiteBackend(arguments.path) as backend:
        before, _ = backend.space()
        backend.vacuum()
        after, _ = backend.space()
    print(f"{escaped(arguments.path)}: {amount(after, 'bytes')}, {before - after:,} less")
    return Exit.OK
