"""A copy of a log as a log file: what an auditor reads of a log in a store, without its key (section 8.3)."""

from __future__ import annotations

import os
from itertools import islice
from typing import Final

from agentmesh.audit.log import AuditLog
from agentmesh.audit.record import Record, decode_entry
from agentmesh.errors import ArgumentInvalid, LogBroken, RemoteError
from agentmesh.primitives import _crypto
from agentmesh.store.log_file import LogFile

_AT_ONCE: Final = 1024


def export_log(log: AuditLog, path: str | os.PathLike[str]) -> int:
    """Copy a log to a log file, and return how many entries the file has then.

    A file that is there already is a copy of before, and gets what is missing. `read_log_file`, `verify_entries` and
    the command line read it.

    Args:
        log: The log, which may go on meanwhile.
        path: Where. Mode 0600, with an index beside it, as `LogFile`.

    Raises:
        ArgumentInvalid: not an `AuditLog`, one whose first entries are in an earlier file, or no path.
        LogBroken: an entry of the log is not what it should be; or the file, left as it was, is no copy (`root`).
        StoreError: the log cannot be read, or the file cannot be written. What the file has is the log's all the same.
    """
    if not isinstance(log, AuditLog) or log.handover.size:
        raise ArgumentInvalid("log")
    with LogFile(path) as file:
        copy = AuditLog(file)
        size = len(copy)
        if size > len(log) or not _crypto.constant_time_equal(copy.root(), log.root(size)):
            raise LogBroken(size, "root")
        entries = iter(log.entries(size))
        while records := [_record(entry, size) for entry in islice(entries, _AT_ONCE)]:
            size = copy.append(records)
        if not _crypto.constant_time_equal(copy.root(), log.root(size)):
            raise LogBroken(size, "root")
        return size


def _record(entry: bytes, size: int) -> Record:
    try:
        return decode_entry(entry)[2]
    except RemoteError:
        pass
    raise LogBroken(size, "entry")
