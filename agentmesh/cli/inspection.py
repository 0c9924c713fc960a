"""`agentmesh inspect FILE`: what anybody sees who holds no key, of an envelope, a bundle or what stands in a file.

It runs on every system, so it imports nothing of `agentmesh.store`: what files begin with stands here too.
"""

from __future__ import annotations

import argparse
from contextlib import suppress
from typing import Any, Final

from attrs import frozen

from agentmesh.attachments import Attachment, parse_reference
from agentmesh.audit.checkpoint import claimed_by, verify_checkpoint
from agentmesh.cli.command import Commands, add_command, answer
from agentmesh.cli.text import Exit, amount, escaped, fail, moment
from agentmesh.cli.whole_files import read, shown
from agentmesh.envelope import Kind, OuterEnvelope
from agentmesh.errors import AgentMeshError, BadSignature, Malformed, RemoteError, TooLarge, UnknownVersion
from agentmesh.handshake.prekeys import BUNDLE_MAX_BYTES, verify_bundle
from agentmesh.identity import did_of, split_statement
from agentmesh.limits import MESH_MAX_BYTES, Limits
from agentmesh.primitives import _wire
from agentmesh.session.facts import SESSION_ID_BYTES

_MAX_BYTES: Final = Limits().envelope_max_bytes
# A bundle's body up to the fields that name its owner and its validity; `verify_bundle` checks the whole.
_CLAIMS: Final = _wire.array(
    _wire.Uint(),
    _wire.Uint(),
    _wire.Text(1, MESH_MAX_BYTES),
    _wire.Bin(32),
    _wire.Bin(0, BUNDLE_MAX_BYTES),
    _wire.Bin(0, BUNDLE_MAX_BYTES),
    _wire.Uint(),
    _wire.Uint(),
)

# What a store in a file of SQLite and a log file begin with (docs/protocol.md, sections 7.2 and 8.2).
_SQLITE: Final = b"SQLite format 3\x00"
_SQLITE_HEADER_BYTES: Final = 100
_STORE: Final = b"ams1"
_LOG: Final = b"agentmesh-log-1\n"
_LOG_CONTINUED: Final = b"agentmesh-log-1+"

Fields = list[tuple[str, str]]


@frozen
class Described:
    """What the bytes show without a key.

    Attributes:
        value: For programs, in the types of JSON.
        fields: For people: names and printable values.
    """

    value: dict[str, Any]
    fields: Fields


def add(commands: Commands) -> None:
    """Add `inspect` to the command line."""
    parser = add_command(
        commands, "inspect", run,
        what="show what anybody sees of an envelope, a bundle, a checkpoint, a reference, a store or a log",
        description="Show what anybody can read who holds the bytes of an envelope, a bundle, a checkpoint of an audit "
        "log or the reference of an attachment, or the beginning of a store or of an audit log, and no key. What is "
        "secret in a reference is not shown.",
        example="knock.bin",
    )  # fmt: skip
    parser.add_argument("file", metavar="FILE", help="the bytes of one of them; - for standard input")


def run(arguments: argparse.Namespace) -> int:
    """Print the fields of what the file holds; fail with a typed error's line if it is none of these."""
    data = read(arguments.file, _MAX_BYTES)
    try:
        found = describe(data)
    except AgentMeshError as error:
        status = Exit.TAMPERED if isinstance(error, BadSignature) else Exit.MALFORMED
        fail(f"{shown(arguments.file)}: {error}", status)
    answer(arguments, found.value, (f"{name:<9}  {value}" for name, value in found.fields))
    return Exit.OK


def describe(data: bytes) -> Described:
    """Return what the bytes show without a key.

    Raises:
        RemoteError: none of these, or a bundle or a checkpoint whose signature is not its owner's.
    """
    if data.startswith(_SQLITE):
        return _store(data)
    if data.startswith((_LOG, _LOG_CONTINUED)):
        return _log(data)
    try:
        return _envelope(OuterEnvelope.parse(data))
    except RemoteError as error:
        refused = error
    if len(data) <= BUNDLE_MAX_BYTES:
        # Of no other shape either: then what is wrong with it as an envelope says more.
        for other in (_checkpoint, _bundle, _reference):
            with suppress(TooLarge, Malformed):
                return other(data)
    raise refused


def _envelope(outer: OuterEnvelope) -> Described:
    header = outer.header
    has_session = header.kind in (Kind.ACCEPT, Kind.MESSAGE) and len(outer.body) >= SESSION_ID_BYTES
    session = outer.body[:SESSION_ID_BYTES].hex() if has_session else None
    kind = header.kind.name.lower()
    fields = [
        ("envelope", kind),
        ("mesh", header.mesh),
        ("from", escaped(header.sender, 88)),
        ("to", escaped(header.recipient, 88)),
        ("time", moment(header.time_ms)),
        ("size", f"{amount(outer.size_bytes, 'bytes')}: header {len(outer.header_bytes):,}, body {len(outer.body):,}"),
        ("receipt", outer.receipt.hex()),
    ]
    if session is not None:
        fields.append(("session", session))
    return Described(
        {
            "what": "envelope", "kind": kind, "mesh": header.mesh, "sender": header.sender,
            "recipient": header.recipient, "time_ms": header.time_ms, "size_bytes": outer.size_bytes,
            "body_bytes": len(outer.body), "receipt": outer.receipt.hex(), "session_id": session,
        },
        [*fields, ("unproved", "only the recipient can tell whether the header is true")],
    )  # fmt: skip


def _bundle(data: bytes) -> Described:
    body, _ = split_statement(data, BUNDLE_MAX_BYTES)
    _, _, mesh, owner, _, _, not_before_ms, _ = _wire.decode(body, _CLAIMS, BUNDLE_MAX_BYTES)
    # Held to its own claims, because nobody here knows whom to expect: its signature is checked all the same.
    bundle = verify_bundle(data, did=did_of(owner), mesh=mesh, now_ms=not_before_ms)
    name = bundle.bundle_class.name.lower().replace("_", "-")
    return Described(
        {
            "what": "bundle", "class": name, "mesh": bundle.mesh, "owner": bundle.identity.did,
            "not_before_ms": bundle.not_before_ms, "not_after_ms": bundle.not_after_ms, "size_bytes": len(data),
            "bundle_ref": bundle.ref.hex(),
        },
        [
            ("bundle", name),
            ("mesh", escaped(bundle.mesh)),
            ("owner", bundle.identity.did),
            ("valid", f"{moment(bundle.not_before_ms)} to"),
            ("", moment(bundle.not_after_ms)),
            ("size", amount(len(data), "bytes")),
            ("reference", bundle.ref.hex()),
            ("proved", "the owner signed this bundle"),
        ],
    )  # fmt: skip


def _checkpoint(data: bytes) -> Described:
    issuer, mesh = claimed_by(data)
    checkpoint = verify_checkpoint(data, issuer, mesh=mesh)  # its own claims, as above
    return Described(
        {
            "what": "checkpoint", "mesh": checkpoint.mesh, "issuer": checkpoint.issuer.did, "entries": checkpoint.size,
            "root": checkpoint.root.hex(), "time_ms": checkpoint.time_ms, "size_bytes": len(data),
        },
        [
            ("audit", "checkpoint"),
            ("mesh", escaped(checkpoint.mesh)),
            ("issuer", checkpoint.issuer.did),
            ("covers", f"the first {amount(checkpoint.size, 'entries')} of the log"),
            ("root", checkpoint.root.hex()),
            ("time", moment(checkpoint.time_ms)),
            ("size", amount(len(data), "bytes")),
            ("proved", "the issuer signed this checkpoint"),
            ("unproved", "whether a log is the one that it covers: `audit verify LOG --checkpoint` tells"),
        ],
    )  # fmt: skip


def _reference(data: bytes) -> Described:
    """Show of a reference what is not secret; whoever has it and the blob has the file."""
    found = parse_reference(data)
    if not isinstance(found, Attachment):
        raise UnknownVersion
    return Described(
        {
            "what": "reference", "size_bytes": found.size, "blob_bytes": found.blob_bytes, "chunks": found.chunks,
            "blob_id": found.blob_id.hex(), "receipt": found.receipt.hex(),
        },
        [
            ("reference", "of an attachment: as secret as the file"),
            ("size", amount(found.size, "bytes")),
            ("blob", f"{amount(found.blob_bytes, 'bytes')} in {amount(found.chunks, 'chunks')}"),
            ("blob id", found.blob_id.hex()),
            ("receipt", found.receipt.hex()),
            ("unproved", "whether a blob is the one that it names: `attach open` tells"),
        ],
    )  # fmt: skip


def _store(data: bytes) -> Described:
    """Show the header of a store in a file of SQLite, whose offsets are SQLite's own."""
    if len(data) < _SQLITE_HEADER_BYTES or data[68:72] != _STORE:
        raise Malformed
    page_bytes = int.from_bytes(data[16:18], "big")
    form = int.from_bytes(data[60:64], "big")
    return Described(
        {"what": "store", "format": form, "page_bytes": page_bytes},
        [
            ("store", "a file of SQLite"),
            ("format", str(form)),
            ("pages", f"of {amount(page_bytes, 'bytes')}"),
            ("unproved", "what is in it: `store info` tells whose rows, `store check` whether they open"),
        ],
    )


def _log(data: bytes) -> Described:
    """Show what a log file begins with."""
    continues = data.startswith(_LOG_CONTINUED)
    return Described(
        {"what": "log", "continues": continues},
        [
            ("log", "goes on where another file ended" if continues else "begins here"),
            ("unproved", "its entries: `audit verify` tells"),
        ],
    )
