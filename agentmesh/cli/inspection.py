"""`python -m agentmesh inspect FILE`: an envelope, a bundle or a checkpoint as anybody sees it who holds no key."""

from __future__ import annotations

import argparse
import datetime
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

from agentmesh.audit.checkpoint import claimed_by, verify_checkpoint
from agentmesh.cli.text import WIDTH, Exit, amount, escaped, fail, reason
from agentmesh.envelope import Kind, OuterEnvelope
from agentmesh.errors import AgentMeshError, BadSignature, Malformed, RemoteError, TooLarge
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

Fields = list[tuple[str, str]]


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `inspect` to the command line."""
    parser = commands.add_parser(
        "inspect",
        help="show an envelope or a bundle as a relay sees it, or a checkpoint of an audit log",
        description="Show what anybody can read who holds the bytes of an envelope, a bundle or a checkpoint of an "
        "audit log, and no key.",
    )
    parser.add_argument("file", metavar="FILE", help="the bytes of one of them; - for standard input")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the fields of what the file holds; fail with a typed error's line if it is none of the three."""
    shown = escaped(arguments.file, 4 * WIDTH)
    try:
        if arguments.file == "-":
            data = sys.stdin.buffer.read(_MAX_BYTES + 1)
        else:
            with Path(arguments.file).open("rb") as file:
                data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        fail(f"cannot read {shown}: {reason(error)}", Exit.UNREADABLE)
    except ValueError:
        fail(f"cannot read {shown}: not a file name", Exit.UNREADABLE)
    try:
        fields = describe(data)
    except AgentMeshError as error:
        fail(f"{shown}: {error}", Exit.TAMPERED if isinstance(error, BadSignature) else Exit.MALFORMED)
    for name, value in fields:
        print(f"{name:<9}  {value}")
    return Exit.OK


def describe(data: bytes) -> Fields:
    """Return names and printable values of what the bytes show without a key.

    Raises:
        RemoteError: none of the three, or a bundle or a checkpoint whose signature is not its owner's.
    """
    try:
        return _envelope(OuterEnvelope.parse(data))
    except RemoteError as error:
        refused = error
    if len(data) <= BUNDLE_MAX_BYTES:
        # Of no other shape either: then what is wrong with it as an envelope says more.
        for other in (_checkpoint, _bundle):
            with suppress(TooLarge, Malformed):
                return other(data)
    raise refused


def _envelope(outer: OuterEnvelope) -> Fields:
    header = outer.header
    fields = [
        ("envelope", header.kind.name.lower()),
        ("mesh", header.mesh),
        ("from", escaped(header.sender, 88)),
        ("to", escaped(header.recipient, 88)),
        ("time", _time(header.time_ms)),
        ("size", f"{amount(outer.size_bytes, 'bytes')}: header {len(outer.header_bytes):,}, body {len(outer.body):,}"),
        ("receipt", outer.receipt.hex()),
    ]
    if header.kind in (Kind.ACCEPT, Kind.MESSAGE) and len(outer.body) >= SESSION_ID_BYTES:
        fields.append(("session", outer.body[:SESSION_ID_BYTES].hex()))
    return [*fields, ("unproved", "only the recipient can tell whether the header is true")]


def _bundle(data: bytes) -> Fields:
    body, _ = split_statement(data, BUNDLE_MAX_BYTES)
    _, _, mesh, owner, _, _, not_before_ms, _ = _wire.decode(body, _CLAIMS, BUNDLE_MAX_BYTES)
    # Held to its own claims, because nobody here knows whom to expect: its signature is checked all the same.
    bundle = verify_bundle(data, did=did_of(owner), mesh=mesh, now_ms=not_before_ms)
    return [
        ("bundle", bundle.bundle_class.name.lower().replace("_", "-")),
        ("mesh", escaped(bundle.mesh)),
        ("owner", bundle.identity.did),
        ("valid", f"{_time(bundle.not_before_ms)} to"),
        ("", _time(bundle.not_after_ms)),
        ("size", amount(len(data), "bytes")),
        ("reference", bundle.ref.hex()),
        ("proved", "the owner signed this bundle"),
    ]


def _checkpoint(data: bytes) -> Fields:
    issuer, mesh = claimed_by(data)
    checkpoint = verify_checkpoint(data, issuer, mesh=mesh)  # its own claims, as above
    return [
        ("audit", "checkpoint"),
        ("mesh", escaped(checkpoint.mesh)),
        ("issuer", checkpoint.issuer.did),
        ("covers", f"the first {amount(checkpoint.size, 'entries')} of the log"),
        ("root", checkpoint.root.hex()),
        ("time", _time(checkpoint.time_ms)),
        ("size", amount(len(data), "bytes")),
        ("proved", "the issuer signed this checkpoint"),
        ("unproved", "whether a log is the one that it covers: `audit verify LOG --checkpoint` tells"),
    ]


def _time(time_ms: int) -> str:
    try:
        moment = datetime.datetime.fromtimestamp(time_ms // 1000, tz=datetime.UTC)
    except (OverflowError, OSError, ValueError):
        return f"{time_ms} ms since the epoch"
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{time_ms % 1000:03d}Z"
