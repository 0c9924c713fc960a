"""Whole logs, single entries of them, and log files: sections 8 and 8.2."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from verifier.audit_record import (
    ENTRY_MAX_BYTES,
    FIRST_PREVIOUS,
    chain,
    decode_entry,
    entry_hash,
    record_in,
    record_out,
)
from verifier.audit_tree import EMPTY_ROOT, Checkpoint, checkpoint_in, proof_in, root_of, verify_inclusion
from verifier.common import Json, Refused, Trace, refuse, unhex
from verifier.encoding import u32

MAGIC = b"agentmesh-log-1\n"


def broken(fault: str, number: int) -> Refused:
    """The refusal of a whole log."""
    return Refused("audit.broken", {"fault": fault, "number": number})


def verify_log(entries: Sequence[bytes], checkpoint: Checkpoint | None) -> list[bytes]:
    """The table "Verifying a log", in its order: the hashes of the entries."""
    leaves: list[bytes] = []
    previous = FIRST_PREVIOUS
    for k, entry in enumerate(entries):
        try:
            fields = decode_entry(entry)
        except Refused:
            raise broken("entry", k) from None
        if fields["sequence"] != k:
            raise broken("sequence", k)
        if fields["previous"] != previous:
            raise broken("previous", k)
        previous = entry_hash(entry)
        leaves.append(previous)
        if checkpoint is not None and checkpoint.size == k + 1 and root_of(leaves) != checkpoint.root:
            raise broken("root", checkpoint.size)
    if checkpoint is not None and checkpoint.size > len(leaves):
        raise broken("cut", len(leaves))
    if checkpoint is not None and checkpoint.size == 0 and checkpoint.root != EMPTY_ROOT:
        raise broken("root", 0)
    return leaves


@dataclass(frozen=True)
class LogFile:
    """What is in a log file up to its first fault, if it has one."""

    entries: list[bytes]
    ends: int
    fault: str | None = None

    def refused(self) -> Refused:
        """The refusal for the fault."""
        return broken(str(self.fault), len(self.entries))


def scan(data: bytes) -> LogFile:
    """The frames of a file, the first fault, and where what is before it ends."""
    if data[: len(MAGIC)] != MAGIC:
        return LogFile([], 0, "entry")
    entries: list[bytes] = []
    at = len(MAGIC)
    while at < len(data):
        head = data[at : at + 4]
        size = int.from_bytes(head, "big")
        if len(head) < 4 or (size == 0 and not any(data[at:])):
            return LogFile(entries, at, "torn")
        if not 1 <= size <= ENTRY_MAX_BYTES:
            return LogFile(entries, at, "entry")
        if len(data) < at + 4 + size:
            return LogFile(entries, at, "torn")
        entries.append(data[at + 4 : at + 4 + size])
        at += 4 + size
    return LogFile(entries, at)


def log_build(given: Json, _: Trace) -> Json:
    """log.build."""
    entries = chain(record_in(record) for record in given["records"])
    return {"entries": entries, "root": root_of([entry_hash(entry) for entry in entries])}


def log_verify(given: Json, _: Trace) -> Json:
    """log.verify."""
    checkpoint = checkpoint_in(given) if "checkpoint" in given else None
    leaves = verify_log([unhex(entry) for entry in given["entries"]], checkpoint)
    return {"size": len(leaves), "root": root_of(leaves)}


def log_verify_entry(given: Json, _: Trace) -> Json:
    """log.verify_entry."""
    checkpoint, entry = checkpoint_in(given), unhex(given["entry"])
    fields = decode_entry(entry)
    verify_inclusion(entry_hash(entry), fields["sequence"], checkpoint.size, proof_in(given), checkpoint.root)
    return record_out(fields)


def log_read(given: Json, _: Trace) -> Json:
    """log.read."""
    found = scan(unhex(given["file"]))
    if found.fault is not None:
        raise found.refused()
    return {"entries": found.entries}


def is_new(data: bytes) -> bool:
    """Whether a file is one that a writer has still to begin: a part of the first 16 bytes, then zeros, if anything."""
    begun = data.rstrip(b"\x00")
    return begun != MAGIC and MAGIC.startswith(begun)


def log_append(given: Json, _: Trace) -> Json:
    """log.append. A new file gets its first 16 bytes when it is opened."""
    data, more = unhex(given["file"]), [unhex(entry) for entry in given["more"]]
    new = is_new(data)
    found = LogFile([], 0) if new else scan(data)
    if found.fault == "entry":
        raise found.refused()
    if not all(1 <= len(entry) <= ENTRY_MAX_BYTES for entry in more):
        refuse("call.argument")
    file = MAGIC + data[len(MAGIC) :] if new else data
    if more:
        file = (MAGIC if new else data[: found.ends]) + b"".join(u32(len(entry)) + entry for entry in more)
    return {"entries": found.entries, "torn_bytes": len(data) - found.ends, "file": file}


OPERATIONS = {
    "log.build": log_build,
    "log.verify": log_verify,
    "log.verify_entry": log_verify_entry,
    "log.read": log_read,
    "log.append": log_append,
}
