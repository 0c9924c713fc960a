"""The operations of the audit structures: records, logs, trees, checkpoints and disclosures."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from agentmesh.agent import Agent
from agentmesh.audit import (
    AuditEvent,
    AuditJournal,
    AuditLog,
    Checkpoint,
    MemorySink,
    Outcome,
    Record,
    RootHash,
    decode_entry,
    leaf_hash,
    sign_checkpoint,
    verify_checkpoint,
    verify_consistency,
    verify_disclosure,
    verify_entries,
    verify_entry,
    verify_growth,
    verify_inclusion,
)
from agentmesh.audit.merkle import MerkleTree, RunningRoot
from agentmesh.envelope import OuterEnvelope
from agentmesh.errors import RemoteError
from agentmesh.handshake.prekeys import BundleClass
from agentmesh.identity import IdentityKey
from agentmesh.primitives.keys import Disclosure, Receipt, SessionId
from agentmesh.relay import relay_record
from agentmesh.session.content import ContentType
from agentmesh.store import LogFile, read_log_file
from runner.values import Json, identity_of, limits_of, unhex


def _all(values: Iterable[str]) -> list[bytes]:
    return [unhex(value) for value in values]


def _hex(values: Iterable[bytes]) -> list[str]:
    return [value.hex() for value in values]


# --- record ----------------------------------------------------------------------------------------------------------


def record_of(fields: Json) -> Record:
    """Return the record of a JSON object with its fields."""
    return Record(
        AuditEvent(fields["event"]),
        at_ms=fields["at_ms"],
        mesh=fields["mesh"],
        sender=fields["sender"],
        recipient=fields["recipient"],
        envelope_time_ms=fields["envelope_time_ms"],
        receipt=Receipt(unhex(fields["receipt"])),
        session_id=SessionId(unhex(fields["session_id"])),
        number=fields["number"],
        size_bytes=fields["size"],
        bundle_class=BundleClass(fields["class"]) if fields["class"] else None,
        outcome=Outcome(fields["decision"]),
        reason=fields["reason"],
        count=fields["count"],
    )


def _record_json(record: Record) -> Json:
    return {
        "at_ms": record.at_ms,
        "event": str(record.event),
        "mesh": record.mesh,
        "sender": record.sender,
        "recipient": record.recipient,
        "envelope_time_ms": record.envelope_time_ms,
        "receipt": record.receipt.hex(),
        "session_id": record.session_id.hex(),
        "number": record.number,
        "size": record.size_bytes,
        "class": int(record.bundle_class or 0),
        "decision": str(record.outcome),
        "reason": record.reason,
        "count": record.count,
    }


def _entry_json(record: Record, given: Json) -> Json:
    entry = record.encode(given["sequence"], unhex(given["previous"]))
    return {"entry": entry.hex(), "entry_hash": leaf_hash(entry).hex()}


def _record_build(given: Json) -> Json:
    return _entry_json(record_of(given), given)


def _record_decode(given: Json) -> Json:
    entry = unhex(given["entry"])
    sequence, previous, record = decode_entry(entry)
    return {
        "sequence": sequence,
        "previous": previous.hex(),
        **_record_json(record),
        "entry_hash": leaf_hash(entry).hex(),
    }


def _record_see(given: Json) -> Json:
    outer = OuterEnvelope.parse(unhex(given["envelope"]), limits_of(given))
    return _entry_json(relay_record(outer, at_ms=given["at_ms"]), given)


class _Clock:
    now_ms = 0

    def __call__(self) -> int:
        return self.now_ms


def _record_count(given: Json) -> Json:
    clock, log = _Clock(), AuditLog(MemorySink())
    agent = Agent.create(
        given["mesh"],
        identity=identity_of(given),
        clock=clock,
        limits=limits_of(given),
        journal=AuditJournal(log),
    )
    for refusal in given["refusals"]:
        clock.now_ms = refusal["now_ms"]
        try:
            agent.receive(unhex(refusal["envelope"]))
        except RemoteError as error:
            if error.code != refusal["code"]:
                raise ValueError(f"refused with {error.code} and not {refusal['code']}") from error
        else:
            raise ValueError("an envelope that is not refused")
    clock.now_ms = given["now_ms"]
    agent.poll()
    return {"entries": _hex(log.entries())}


# --- merkle ----------------------------------------------------------------------------------------------------------


def _tree(given: Json) -> MerkleTree:
    tree, running = MerkleTree(), RunningRoot()
    for entry in _all(given["entries"]):
        tree.append(leaf_hash(entry))
        running.append(leaf_hash(entry))
    if running.root() != tree.root():
        raise AssertionError("two roots of one tree")
    return tree


def _merkle_root(given: Json) -> Json:
    return {"root": _tree(given).root().hex()}


def _merkle_inclusion_proofs(given: Json) -> Json:
    tree = _tree(given)
    return {"root": tree.root().hex(), "proofs": [_hex(tree.inclusion_proof(index)) for index in range(len(tree))]}


def _merkle_consistency_proofs(given: Json) -> Json:
    tree = _tree(given)
    sizes = range(len(tree) + 1)
    return {
        "old_roots": [tree.root(size).hex() for size in sizes],
        "proofs": [_hex(tree.consistency_proof(size)) for size in sizes],
    }


def _merkle_verify_inclusion(given: Json) -> Json:
    entry_hash = leaf_hash(unhex(given["entry"]))
    verify_inclusion(entry_hash, given["index"], given["size"], _all(given["proof"]), RootHash(unhex(given["root"])))
    return {"entry_hash": entry_hash.hex()}


def _merkle_verify_consistency(given: Json) -> Json:
    verify_consistency(
        given["old_size"],
        RootHash(unhex(given["old_root"])),
        given["size"],
        RootHash(unhex(given["root"])),
        _all(given["proof"]),
    )
    return {}


# --- checkpoint ------------------------------------------------------------------------------------------------------


def _verified(given: Json, name: str = "checkpoint") -> Checkpoint:
    return verify_checkpoint(unhex(given[name]), IdentityKey(unhex(given["owner"])), mesh=given["mesh"])


def _checkpoint_json(checkpoint: Checkpoint) -> Json:
    return {"size": checkpoint.size, "time_ms": checkpoint.time_ms, "root": checkpoint.root.hex()}


def _checkpoint_sign(given: Json) -> Json:
    checkpoint = sign_checkpoint(
        identity_of(given),
        mesh=given["mesh"],
        size=given["size"],
        time_ms=given["time_ms"],
        root=RootHash(unhex(given["root"])),
    )
    return {"checkpoint": checkpoint.statement.hex()}


def _checkpoint_verify(given: Json) -> Json:
    return _checkpoint_json(_verified(given))


def _checkpoint_grow(given: Json) -> Json:
    old, new = _verified(given, "old"), _verified(given, "new")
    return _checkpoint_json(verify_growth(old, new, _all(given["proof"])))


# --- log -------------------------------------------------------------------------------------------------------------


def _log_build(given: Json) -> Json:
    log = AuditLog(MemorySink())
    log.append([record_of(fields) for fields in given["records"]])
    return {"entries": _hex(log.entries()), "root": log.root().hex()}


def _log_verify(given: Json) -> Json:
    checkpoint = _verified(given) if "checkpoint" in given else None
    verified = verify_entries(_all(given["entries"]), checkpoint=checkpoint)
    return {"size": verified.size, "root": verified.root.hex()}


def _log_verify_entry(given: Json) -> Json:
    entry = unhex(given["entry"])
    record = verify_entry(entry, _all(given["proof"]), _verified(given))
    return _record_json(record)


def _with_file(content: bytes, read: Callable[[Path], Json]) -> Json:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log"
        path.touch(mode=0o600)  # as the library makes its own: it warns of others
        path.write_bytes(content)
        return read(path)


def _log_read(given: Json) -> Json:
    return _with_file(unhex(given["file"]), lambda path: {"entries": _hex(read_log_file(path))})


def _log_append(given: Json) -> Json:
    def append(path: Path) -> Json:
        with LogFile(path, fsync_every=None) as file:
            found = {"entries": _hex(file.entries()), "torn_bytes": file.torn_bytes}
            if given["more"]:
                file.append(_all(given["more"]))
        return {**found, "file": path.read_bytes().hex()}

    return _with_file(unhex(given["file"]), append)


# --- disclosure ------------------------------------------------------------------------------------------------------


def _disclosure_verify(given: Json) -> Json:
    _, _, record = decode_entry(unhex(given["entry"]))
    disclosed = verify_disclosure(
        unhex(given["envelope"]), Disclosure(unhex(given["disclosure"])), record, limits=limits_of(given)
    )
    kind = {ContentType.DATA: "data", ContentType.CLOSE: "close"}[disclosed.content_type]
    return {"type": kind, "action": disclosed.action, "content": disclosed.data.hex()}


CALLS: dict[str, Callable[[Json], Json]] = {
    "record.build": _record_build,
    "record.decode": _record_decode,
    "record.see": _record_see,
    "record.count": _record_count,
    "merkle.root": _merkle_root,
    "merkle.inclusion_proofs": _merkle_inclusion_proofs,
    "merkle.consistency_proofs": _merkle_consistency_proofs,
    "merkle.verify_inclusion": _merkle_verify_inclusion,
    "merkle.verify_consistency": _merkle_verify_consistency,
    "checkpoint.sign": _checkpoint_sign,
    "checkpoint.verify": _checkpoint_verify,
    "checkpoint.grow": _checkpoint_grow,
    "log.build": _log_build,
    "log.verify": _log_verify,
    "log.verify_entry": _log_verify_entry,
    "log.read": _log_read,
    "log.append": _log_append,
    "disclosure.verify": _disclosure_verify,
}
