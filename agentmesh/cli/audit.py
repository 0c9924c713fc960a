"""`agentmesh audit`: an audit log, read by somebody who holds its files and no key."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, Final

from agentmesh.audit import (
    Checkpoint,
    VerifiedLog,
    claimed_by,
    verify_checkpoint,
    verify_entries,
)
from agentmesh.audit.checkpoint import CHECKPOINT_MAX_BYTES
from agentmesh.audit.page import Page
from agentmesh.audit.verification import verified_pages
from agentmesh.cli import audit_comparison, audit_pictures
from agentmesh.cli.audit_log import Log, log_time, record_value
from agentmesh.cli.command import Commands, add_command, add_group, answer, as_json
from agentmesh.cli.text import Exit, amount, columns, escaped, fail, reason, short_did
from agentmesh.cli.whole_files import read
from agentmesh.errors import AgentMeshError
from agentmesh.identity import IdentityKey

_SHOW_WIDTHS: Final = (7, 23, 16, 12, 12, 7, 8)
_SHOW_RIGHT: Final = frozenset({0, 5})
_HEAD: Final = (
    columns([("", "time (UTC)", "event", "from", "to", "bytes", "receipt")], _SHOW_WIDTHS, _SHOW_RIGHT)[0] + "  more"
)


def add(commands: Commands) -> None:
    """Add `audit` and its commands to the command line."""
    audits = add_group(
        commands, "audit",
        what="verify, show, compare or draw audit logs",
        description="Read audit logs. No key is needed, and no content is in them.",
    )  # fmt: skip
    verify = add_command(
        audits, "verify", _verify,
        what="check that a log is whole, and what a checkpoint says of it",
        description="Check every entry of a log and its chain. Without a checkpoint from elsewhere, a tail that was "
        "cut and a log that was written anew go unnoticed.",
        example="alice.log",
    )  # fmt: skip
    verify.add_argument("--checkpoint", metavar="FILE", help="a checkpoint that the log's owner signed")
    verify.add_argument("--issuer", metavar="DID-OR-KEY", help="the owner: a DID, or its key in hexadecimal")
    verify.add_argument("--mesh", metavar="NAME", help="the mesh that the checkpoint must be of")
    show = add_command(
        audits, "show", _show,
        what="show a log as a table",
        description="Show a log, verified as it goes by.",
        example="alice.log",
    )  # fmt: skip
    for one in (verify, show, *audit_pictures.add(audits)):
        one.add_argument(
            "log", metavar="LOG", nargs="+", help="a log file, `-` for standard input; of a log that was rotated its "
            "files in order, or the last alone",
        )  # fmt: skip
        one.add_argument("--progress", action="store_true", help="tell progress on stderr, terminal or not")
    audit_comparison.add(audits)


# --- verify ----------------------------------------------------------------------------------------------------------


def _verify(arguments: argparse.Namespace) -> int:
    if (arguments.checkpoint is None) != (arguments.issuer is None):
        arguments.usage_error("--checkpoint and --issuer go together")
    if arguments.mesh is not None and arguments.checkpoint is None:
        arguments.usage_error("--mesh goes with --checkpoint")
    log = Log(arguments.log)
    checkpoint = None
    if arguments.checkpoint is not None:
        checkpoint = _read_checkpoint(arguments.checkpoint, arguments.issuer, arguments.mesh)
    with log.watched(arguments.progress) as (entries, tell):
        verified = verify_entries(entries, checkpoint=checkpoint, progress=tell)
    if len(verified.owners) > 1:
        fail(f"{log.shown}: records of more than one owner", Exit.TAMPERED)
    if checkpoint is not None and verified.owners - {checkpoint.issuer.did}:
        fail(f"{log.shown}: another's log than the checkpoint's", Exit.TAMPERED)
    answer(arguments, _verified_value(verified), _verified_lines(log, verified))
    return Exit.OK


def _verified_value(verified: VerifiedLog) -> dict[str, Any]:
    checkpoint = verified.checkpoint
    return {
        "owner": next(iter(verified.owners), None),
        "entries": verified.size,
        "earlier_entries": verified.first,
        "root": verified.root.hex(),
        "checkpoint": None if checkpoint is None else {
            "entries": checkpoint.size, "issuer": checkpoint.issuer.did, "mesh": checkpoint.mesh,
            "time_ms": checkpoint.time_ms,
        },
    }  # fmt: skip


def _verified_lines(log: Log, verified: VerifiedLog) -> Iterator[str]:
    yield f"log         {log.shown}"
    yield f"owner       {', '.join(map(escaped, verified.owners)) or 'none named: a relay, or nothing of its own yet'}"
    yield f"entries     {verified.size:,}, whole and in order"
    if verified.first:
        yield f"            the first {verified.first:,} in earlier files, which are not at hand"
        signed = None if log.handover is None else log.handover.checkpoint
        by = "unsigned" if signed is None else f"signed by {signed.issuer.did}, at {log_time(signed.time_ms)}"
        yield f"            handed over {by}"
    yield f"root        {verified.root.hex()}"
    checkpoint = verified.checkpoint
    if checkpoint is None:
        yield "checkpoint  none: a tail that was cut, or a log written anew, would go unnoticed"
        return
    yield f"checkpoint  covers {checkpoint.size:,} entries; {verified.size - checkpoint.size:,} came after it"
    yield f"signed by   {checkpoint.issuer.did}"
    yield f"            in {checkpoint.mesh}, at {log_time(checkpoint.time_ms)}"


def _read_checkpoint(path: str, issuer: str, mesh: str | None) -> Checkpoint:
    shown = "standard input" if path == "-" else escaped(path)
    statement = read(path, CHECKPOINT_MAX_BYTES)
    try:
        claimed, claimed_mesh = claimed_by(statement)
    except AgentMeshError as error:
        fail(f"{shown}: {reason(error)}", Exit.MALFORMED)
    try:
        wanted = claimed_mesh if mesh is None else mesh
        return verify_checkpoint(statement, _issuer(issuer, claimed), mesh=wanted)
    except AgentMeshError as error:
        fail(f"{shown}: {reason(error)}", Exit.TAMPERED)


def _issuer(issuer: str, claimed: IdentityKey) -> IdentityKey:
    """Return the key that `issuer` names. A DID commits to its key, so the key may come from the checkpoint."""
    if issuer.startswith("did:"):
        if claimed.did != issuer:
            fail(f"the checkpoint is not of {escaped(issuer)}", Exit.TAMPERED)
        return claimed
    try:
        raw = bytes.fromhex(issuer)
    except ValueError:
        raw = b""
    if len(raw) != 32:
        fail("--issuer is neither a DID nor a key of 64 hexadecimal digits", Exit.USAGE)
    try:
        return IdentityKey(raw)
    except AgentMeshError as error:
        fail(f"--issuer: {reason(error)}", Exit.USAGE)


# --- show ------------------------------------------------------------------------------------------------------------


def _show(arguments: argparse.Namespace) -> int:
    log = Log(arguments.log)
    if not arguments.json:
        print(_HEAD)
    count = 0
    with log.watched(arguments.progress) as (entries, tell):
        try:
            for page in verified_pages(entries, progress=tell):
                print("\n".join(_lines_of_json(page) if arguments.json else map(_row, page.rows)))
                count += len(page.rows)
        finally:
            sys.stdout.flush()  # before what is wrong with the next is said on stderr
    if not arguments.json:
        print(amount(count, "entries"))
    return Exit.OK


def _lines_of_json(page: Page) -> Iterator[str]:
    for row, record in zip(page.rows, page.records(), strict=True):
        yield as_json({"sequence": row[1], **record_value(record)})


def _row(row: Sequence[Any]) -> str:
    # Written out, because a log has millions of them. Its cells are numbers, fixed words, and what `_party` escaped.
    _, sequence, _, at_ms, event, _, sender, recipient, _, receipt, _, number, size, _, _, why, count = row
    line = (
        f"{sequence:>7}  {log_time(at_ms):<23}  {_what(event, sender, recipient)}  {size or '':>7}  "
        f"{receipt[:4].hex():<8}"
    )
    if not why and count == 1:
        return f"{line}  no. {number}" if number else line.rstrip()
    more = [escaped(why)] if why else []
    if number:
        more.append(f"no. {number}")
    if count != 1:
        more.append(f"{count:,} times")
    return f"{line}  {', '.join(more)}"


@lru_cache(maxsize=4_096)  # a log has few of them
def _what(event: str, sender: str, recipient: str) -> str:
    return f"{event:<16.16}  {_party(sender):<12}  {_party(recipient):<12}"


def _party(did: str) -> str:
    return short_did(did) if did else "-"
