"""`agentmesh store info|check|backup|rekey|vacuum`: a store in a file of SQLite."""

from __future__ import annotations

import argparse
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, Final, NoReturn

from agentmesh.cli.command import Commands, add_command, add_group, answer
from agentmesh.cli.keys import add_key_arguments, key_of
from agentmesh.cli.streams import remark
from agentmesh.cli.text import PROGRAM, Exit, amount, escaped, fail, reason
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


def add(commands: Commands) -> None:
    """Add `store` and its commands to the command line."""
    stores = add_group(
        commands, "store", what="look after the file that agents are kept in", description="Look after a store."
    )
    info = add_command(
        stores, "info", _info,
        what="show what is in it, without its key",
        description="Show whose rows there are, how many, and how large. No key is needed, and nothing is written; "
        "another process may have the store open.",
        example="alice.mesh",
    )  # fmt: skip
    check = add_command(
        stores, "check", _check,
        what="open every row and the audit logs, and say each agent's DID",
        description="Open every row of every agent, hold them to one another, verify the audit logs, and say each "
        "agent's DID. Nothing is written; another process may have the store open. An older copy of the whole store "
        "passes: only a counter outside tells it.",
        example="alice.mesh --key-file alice.key",
    )  # fmt: skip
    add_key_arguments(check)
    backup = add_command(
        stores, "backup", _backup,
        what="copy it, while it is in use",
        description="Copy the store, as it is at one moment, to a new file of mode 0600. No key is needed; another "
        "process may have the store open. The copy opens under the same key.",
        example="alice.mesh alice.mesh.1",
    )  # fmt: skip
    rekey = add_command(
        stores, "rekey", _rekey,
        what="seal it anew, under another key",
        description="Seal every row anew, under new keys and another key or passphrase. Each agent is one transaction: "
        "broken off, run it again with the same two keys. No other process may have the store open.",
        example="alice.mesh --key-file alice.key --new-key-file new.key",
    )  # fmt: skip
    add_key_arguments(rekey)
    add_key_arguments(rekey, "new-")
    vacuum = add_command(
        stores, "vacuum", _vacuum,
        what="give free space back to the file system",
        description="Write the file anew without the space that removed rows have left. Takes as much room again "
        "meanwhile. No other process may have the store open.",
        example="alice.mesh",
    )  # fmt: skip
    for one in (info, check, backup, rekey, vacuum):
        one.add_argument("path", metavar="PATH", help="the store's file")
    backup.add_argument("to", metavar="TO", help="where the copy is to stand; nothing may be there")


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
        size_bytes, free_bytes = backend.space()
        agents = [care.info(backend, name) for name in backend.names()]
    value = {
        "format": FORMAT, "size_bytes": size_bytes, "free_bytes": free_bytes,
        "agents": [_agent_value(info) for info in agents],
    }  # fmt: skip
    lines = _file_lines(arguments.path, size_bytes, free_bytes)
    answer(arguments, value, chain(lines, *map(_agent_lines, agents)))
    return Exit.OK


def _agent_value(info: AgentInfo) -> dict[str, Any]:
    costs = info.passphrase_costs
    return {
        "name": info.name,
        "commits": info.commits,
        "sealed": "passphrase" if costs is not None else "key" if info.commits else None,
        "size_bytes": info.size_bytes,
        "rows": info.rows,
    }


def _file_lines(path: str, size_bytes: int, free_bytes: int) -> Iterator[str]:
    yield f"store     {escaped(path)}"
    yield f"format    {FORMAT}"
    yield f"size      {amount(size_bytes, 'bytes')}, {free_bytes:,} of them free"
    if free_bytes * _FREE_AT_MOST > size_bytes:
        yield "          more than a quarter is free: `store vacuum` gives it back"


def _agent_lines(info: AgentInfo) -> Iterator[str]:
    yield f"name      {escaped(info.name)}"
    yield f"  commits {info.commits:,}"
    if info.passphrase_costs is not None:
        passes, memory_kib = info.passphrase_costs
        yield f"  sealed  under a passphrase: Argon2id, {amount(passes, 'passes')}, {memory_kib:,} KiB"
    elif info.commits:
        yield "  sealed  under a key"
    yield f"  rows    {sum(info.rows.values()):,}, {amount(info.size_bytes, 'bytes')}"
    for kind, count in info.rows.items():
        yield f"          {escaped(kind):<10}{count:>10,}"


def _check(arguments: argparse.Namespace) -> int:
    key = key_of(arguments)
    agents, lines = [], []
    with _looked_at(arguments.path) as backend:
        for name in backend.names():
            try:
                found = care.check(backend, name, key)
            except AgentMeshError as error:
                _refused(arguments.path, error, name)
            entries = found.rows.get(LOG, 0)
            others = sum(found.rows.values()) - entries
            log = f", {amount(entries, 'entries')} of its log verified" if entries else ""
            agents.append({"name": name, "did": found.did, "rows": others, "log_entries": entries})
            lines.append(f"{escaped(name)}: {amount(others, 'rows')} open and agree{log}")
            lines += [] if found.did is None else [f"  did     {escaped(found.did)}"]
    answer(arguments, {"agents": agents}, lines)
    return Exit.OK


def _backup(arguments: argparse.Namespace) -> int:
    shown = escaped(arguments.to)
    if os.path.lexists(arguments.to):
        fail(f"{shown} is there already; a backup replaces nothing", Exit.USAGE)
    with _looked_at(arguments.path) as backend:
        backend.backup(arguments.to)
    size_bytes = Path(arguments.to).stat().st_size
    answer(arguments, {"path": arguments.to, "size_bytes": size_bytes}, (
        f"{shown}: {amount(size_bytes, 'bytes')}",
        "It opens under the store's key as it is now. Put back, it is an older copy: see `Back up and restore`.",
    ))  # fmt: skip
    return Exit.OK


def _rekey(arguments: argparse.Namespace) -> int:
    old, new = key_of(arguments), key_of(arguments, "new_")
    with _opened(arguments.path, old) as store:
        done = store.rekey(new)
        left = len(store.names()) - len(done)
    answer(arguments, {"sealed_anew": len(done), "sealed_before": left}, (
        f"{len(done):,} sealed anew, under new keys; to be done no more: {left:,}",
        "Backups and copies from before open under the old key, for ever: make a new backup, and delete the old ones.",
    ))  # fmt: skip
    return Exit.OK


def _vacuum(arguments: argparse.Namespace) -> int:
    if not os.path.lexists(arguments.path):
        fail(f"cannot read {escaped(arguments.path)}: no such file", Exit.UNREADABLE)
    with _answering(arguments.path), SQLiteBackend(arguments.path) as backend:
        before, _ = backend.space()
        backend.vacuum()
        after, _ = backend.space()
    value = {"path": arguments.path, "size_bytes": after, "freed_bytes": before - after}
    answer(arguments, value, (f"{escaped(arguments.path)}: {amount(after, 'bytes')}, {before - after:,} less",))
    return Exit.OK
