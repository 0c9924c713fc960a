"""`agentmesh trust show FILE`: a signed statement, or what an exported state of trust says of itself."""

from __future__ import annotations

import argparse
from contextlib import suppress
from typing import Any, Final

from agentmesh.at_rest import head_of
from agentmesh.cli.command import Commands, add_command, add_group, answer
from agentmesh.cli.text import Exit, amount, fail, moment, reason
from agentmesh.cli.whole_files import read, shown
from agentmesh.errors import AgentMeshError, BadIdentityKey, BadSignature, StateMalformed
from agentmesh.trust.statements import Continuity, Revocation, Statement, TrustEdge, TrustUpdate, verify_as_claimed

_MAX_BYTES: Final = 64 << 20
_KINDS: Final[dict[type[Statement], tuple[str, str]]] = {
    TrustUpdate: ("update", "the issuer signed this update"),
    TrustEdge: ("edge", "the issuer signed this edge"),
    Continuity: ("continuity", "both signed that the issuer goes on as the subject"),
    Revocation: ("revocation", "the issuer signed that the subject is not to be trusted"),
}


def add(commands: Commands) -> None:
    """Add `trust` to the command line."""
    trusts = add_group(
        commands, "trust", what="show statements of trust", description="Look at what agents sign of one another."
    )
    show = add_command(
        trusts, "show", _show,
        what="show a signed statement, or an exported state",
        description="Show a statement of trust (an update, an edge, a continuity, a revocation) and check its "
        "signatures; whether it counts anywhere depends on whom you believe. Of an exported ledger, graph or list it "
        "shows what it says of itself: kind, mesh and generation.",
        example="statement.bin",
    )  # fmt: skip
    show.add_argument("file", metavar="FILE", help="its bytes; `-` for standard input")


def _show(arguments: argparse.Namespace) -> int:
    data = read(arguments.file, _MAX_BYTES)
    with suppress(StateMalformed):
        head = head_of(data)
        value: dict[str, Any] = {
            "what": "state", "kind": str(head.kind), "version": head.version, "mesh": head.mesh,
            "generation": head.generation, "size_bytes": len(data),
        }  # fmt: skip
        answer(arguments, value, (
            f"state      of kind {head.kind}, version {head.version}",
            f"mesh       {head.mesh}",
            f"changes    {head.generation:,}",
            f"size       {amount(len(data), 'bytes')}",
            "unproved   that it is the newest, and who wrote it: a checksum finds damage alone",
        ))  # fmt: skip
        return Exit.OK
    try:
        statement = verify_as_claimed(data)
    except AgentMeshError as error:
        status = Exit.TAMPERED if isinstance(error, BadSignature | BadIdentityKey) else Exit.MALFORMED
        fail(f"{shown(arguments.file)}: {reason(error)}", status)
    kind, proved = _KINDS[type(statement)]
    weight = statement.signal if isinstance(statement, TrustUpdate) else getattr(statement, "weight", None)
    value = {
        "what": "statement", "kind": kind, "mesh": statement.mesh, "issuer": statement.issuer.did,
        "subject": statement.subject.did, "sequence": statement.sequence, "time_ms": statement.time_ms,
        "value": weight,
    }  # fmt: skip
    lines = [
        f"statement  {kind}" + ("" if weight is None else f" of {weight}"),
        f"mesh       {statement.mesh}",
        f"issuer     {statement.issuer.did}",
        f"subject    {statement.subject.did}",
        f"sequence   {statement.sequence}",
        f"time       {moment(statement.time_ms)}",
        f"proved     {proved}",
        "unproved   whether it counts: that depends on whom you believe",
    ]
    answer(arguments, value, lines)
    return Exit.OK
