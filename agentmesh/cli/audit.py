"""`python -m agentmesh audit verify|show|compare`: an audit log, read by somebody who holds its file and no key."""

from __future__ import annotations

import argparse
import datetime
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NoReturn

from attrs import field, frozen

from agentmesh.audit import (
    AuditEvent,
    Checkpoint,
    Comparison,
    Finding,
    Found,
    Record,
    claimed_by,
    compare,
    owner_of,
    verified_records,
    verify_checkpoint,
    verify_entries,
)
from agentmesh.audit.checkpoint import CHECKPOINT_MAX_BYTES
from agentmesh.cli.streams import overwrite, remark
from agentmesh.cli.text import amount, columns, complain, escaped, fail, reason, short_did, short_hex
from agentmesh.errors import AgentMeshError, ArgumentInvalid, LogBroken, StoreFailed
from agentmesh.identity import IdentityKey
from agentmesh.store import read_log_file

_SHOW_WIDTHS: Final = (7, 23, 16, 12, 12, 7, 8)
_SHOW_RIGHT: Final = frozenset({0, 5})
_FOUND_WIDTHS: Final = (31, 23, 8)
_LISTED: Final = 100
_WATCHED_FROM_BYTES: Final = 8 << 20
_FAULTS: Final = {
    "entry": "entry {} is not an entry of a log",
    "sequence": "entry {} has another number",
    "previous": "entry {} does not follow the one before it",
    "torn": "what stands behind {} whole entries is torn: by a crash, or it is being written now",
    "cut": "it ends after {} entries, before the checkpoint does",
    "root": "the first {} entries are not those that the checkpoint was signed over",
}


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `audit` and its three commands to the command line."""
    parser = commands.add_parser(
        "audit",
        help="verify, show or compare audit logs",
        description="Read audit logs. No key is needed, and no content is in them.",
    )
    audits = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    verify = audits.add_parser(
        "verify",
        help="check that a log is whole, and what a checkpoint says of it",
        description="Check every entry of a log and its chain. Without a checkpoint from elsewhere, a tail that was "
        "cut and a log that was written anew go unnoticed.",
    )
    verify.add_argument("log", metavar="LOG", help="a log file")
    verify.add_argument("--checkpoint", metavar="FILE", help="a checkpoint that the log's owner signed")
    verify.add_argument("--issuer", metavar="DID-OR-KEY", help="the owner: a DID, or its key in hexadecimal")
    verify.add_argument("--mesh", metavar="NAME", help="the mesh that the checkpoint must be of")
    verify.set_defaults(run=_verify, usage_error=verify.error)

    show = audits.add_parser("show", help="show a log as a table", description="Show a log, verified as it goes by.")
    show.add_argument("log", metavar="LOG", help="a log file")
    show.set_defaults(run=_show)

    compared = audits.add_parser(
        "compare",
        help="hold two agents' logs against one another",
        description="Report what one agent sent and the other did not open, and what differs, in both directions. "
        "Exit status 1 if anything was found.",
    )
    compared.add_argument("first", metavar="A", help="the log file of one agent")
    compared.add_argument("second", metavar="B", help="the log file of the other")
    compared.add_argument("--relay", metavar="R", help="the log file of a relay between them")
    compared.add_argument("--all", action="store_true", help=f"list every finding, not the first {_LISTED} alone")
    compared.set_defaults(run=_compare)

    for one in (verify, show, compared):
        one.add_argument("--progress", action="store_true", help="tell progress on stderr, terminal or not")


# --- reading ---------------------------------------------------------------------------------------------------------


@frozen
class _Log:
    """A log file: its path, and how it is named in what is printed."""

    path: str
    shown: str = field(init=False)

    @shown.default
    def _(self) -> str:
        return escaped(self.path)

    def fail(self, error: AgentMeshError) -> NoReturn:
        """End the command, saying what is wrong with this log."""
        if isinstance(error, LogBroken):
            fault = _FAULTS.get(error.fault, "entry {} is wrong").format(f"{error.sequence:,}")
            fail(f"{self.shown}: {fault} [{error.code}: {error.fault} at {error.sequence}]")
        if isinstance(error, StoreFailed) and isinstance(error.__cause__, OSError):
            fail(f"cannot read {self.shown}: {reason(error.__cause__)}")
        fail(f"{self.shown}: {reason(error)}")

    @contextmanager
    def watched(self, wanted: bool) -> Iterator[tuple[Iterator[bytes], Callable[[int], None]]]:
        """Yield the entries, and what tells on stderr how many have been verified."""
        on_terminal = sys.stderr.isatty()
        path = Path(self.path)
        try:
            size = path.stat().st_size
        except (OSError, ValueError):
            size = 0  # whoever reads it will say why
        read = 0
        told = False

        def entries() -> Iterator[bytes]:
            nonlocal read
            for entry in read_log_file(path):
                read += len(entry) + 4
                yield entry

        def tell(count: int) -> None:
            nonlocal told
            if wanted or (on_terminal and size >= _WATCHED_FROM_BYTES):
                text = f"verifying {min(99, read * 100 // max(1, size)):3d} %  {amount(count, 'entries')}"
                (overwrite if on_terminal else remark)(text)
                told = True

        try:
            yield entries(), tell
        except AgentMeshError as error:
            self.fail(error)
        finally:
            if told and on_terminal:
                overwrite("")


def _time(time_ms: int) -> str:
    try:
        moment = datetime.datetime.fromtimestamp(time_ms // 1000, tz=datetime.UTC)
    except (OverflowError, OSError, ValueError):
        return f"{time_ms} ms"
    return f"{moment:%Y-%m-%d %H:%M:%S}.{time_ms % 1000:03d}"


# --- verify ----------------------------------------------------------------------------------------------------------


def _verify(arguments: argparse.Namespace) -> int:
    if (arguments.checkpoint is None) != (arguments.issuer is None):
        arguments.usage_error("--checkpoint and --issuer go together")
    if arguments.mesh is not None and arguments.checkpoint is None:
        arguments.usage_error("--mesh goes with --checkpoint")
    log = _Log(arguments.log)
    checkpoint = None
    if arguments.checkpoint is not None:
        checkpoint = _read_checkpoint(arguments.checkpoint, arguments.issuer, arguments.mesh)
    with log.watched(arguments.progress) as (entries, tell):
        verified = verify_entries(entries, checkpoint=checkpoint, progress=tell)
    print(f"log         {log.shown}")
    print(f"entries     {verified.size:,}, whole and in order")
    print(f"root        {verified.root.hex()}")
    if checkpoint is None:
        print("checkpoint  none: a tail that was cut, or a log written anew, would go unnoticed")
        return 0
    print(f"checkpoint  covers {amount(checkpoint.size, 'entries')}; {verified.size - checkpoint.size:,} came after it")
    print(f"signed by   {checkpoint.issuer.did}")
    print(f"            in {checkpoint.mesh}, at {_time(checkpoint.time_ms)}")
    return 0


def _read_checkpoint(path: str, issuer: str, mesh: str | None) -> Checkpoint:
    shown = escaped(path)
    try:
        with Path(path).open("rb") as file:
            statement = file.read(CHECKPOINT_MAX_BYTES + 1)
    except OSError as error:
        fail(f"cannot read {shown}: {reason(error)}")
    except ValueError:
        fail(f"cannot read {shown}: not a file name")
    try:
        claimed, claimed_mesh = claimed_by(statement)
        return verify_checkpoint(statement, _issuer(issuer, claimed), mesh=claimed_mesh if mesh is None else mesh)
    except AgentMeshError as error:
        fail(f"{shown}: {reason(error)}")


def _issuer(issuer: str, claimed: IdentityKey) -> IdentityKey:
    """Return the key that `issuer` names. A DID commits to its key, so the key may come from the checkpoint."""
    if issuer.startswith("did:"):
        if claimed.did != issuer:
            fail(f"the checkpoint is not of {escaped(issuer)}")
        return claimed
    try:
        raw = bytes.fromhex(issuer)
    except ValueError:
        raw = b""
    if len(raw) != 32:
        fail("--issuer is neither a DID nor a key of 64 hexadecimal digits")
    return IdentityKey(raw)


# --- show ------------------------------------------------------------------------------------------------------------


def _show(arguments: argparse.Namespace) -> int:
    log = _Log(arguments.log)
    print(
        columns([("", "time (UTC)", "event", "from", "to", "bytes", "receipt")], _SHOW_WIDTHS, _SHOW_RIGHT)[0]
        + "  more"
    )
    count = 0
    with log.watched(arguments.progress) as (entries, tell):
        try:
            for record in verified_records(entries, progress=tell):
                print(_row(count, record))
                count += 1
        finally:
            sys.stdout.flush()  # before what is wrong with the next is said on stderr
    print(amount(count, "entries"))
    return 0


def _row(sequence: int, record: Record) -> str:
    cells = (
        str(sequence),
        _time(record.at_ms),
        escaped(record.event),
        _party(record.sender),
        _party(record.recipient),
        str(record.size_bytes) if record.size_bytes else "",
        short_hex(record.receipt.hex()),
    )
    more = [escaped(record.reason)] if record.reason else []
    if record.number:
        more.append(f"no. {record.number}")
    if record.count != 1:
        more.append(f"{record.count:,} times")
    return "  ".join([*columns([cells], _SHOW_WIDTHS, _SHOW_RIGHT), ", ".join(more)]).rstrip()


def _party(did: str) -> str:
    return short_did(did) if did else "-"


# --- compare ---------------------------------------------------------------------------------------------------------


def _compare(arguments: argparse.Namespace) -> int:
    logs = [_Log(path) for path in (arguments.first, arguments.second)]
    records = [_read(log, arguments.progress) for log in logs]
    relay = None if arguments.relay is None else _read(_Log(arguments.relay), arguments.progress)
    owners = [_owner(log, some) for log, some in zip(logs, records, strict=True)]
    if owners[0] == owners[1]:
        fail(f"both logs are of {owners[0]}")
    found = 0
    for sender, recipient in ((0, 1), (1, 0)):
        result = compare(owners[sender], records[sender], owners[recipient], records[recipient], relay)
        print(f"from  {owners[sender]}  ({logs[sender].shown})")
        print(f"to    {owners[recipient]}  ({logs[recipient].shown})")
        _print_result(result, has_relay=relay is not None, listed=None if arguments.all else _LISTED)
        found += len(result.found)
    if found:
        sys.stdout.flush()
        complain(amount(found, "findings"))
    return 1 if found else 0


def _read(log: _Log, progress: bool) -> list[Record]:
    with log.watched(progress) as (entries, tell):
        return list(verified_records(entries, progress=tell))
    raise AssertionError  # `watched` ends the command where the log cannot be read


def _owner(log: _Log, records: list[Record]) -> str:
    try:
        return owner_of(records)
    except ArgumentInvalid:
        fail(f"{log.shown}: not the log of one agent")


def _print_result(result: Comparison, *, has_relay: bool, listed: int | None) -> None:
    print(f"      {amount(result.matched, 'envelopes')} sent, opened and recorded alike")
    if not result.in_order:
        overtaken = sum(
            1 for one, after in zip(result.opened_order, result.opened_order[1:], strict=False) if after < one
        )
        print(f"      not opened in the order of sending: {amount(overtaken, 'places')}")
    if has_relay:
        print(f"      {amount(len(result.seen_order), 'envelopes')} sent and seen by the relay")
    shown = result.found if listed is None else result.found[:listed]
    for one in shown:
        print(_finding(one))
    if len(shown) < len(result.found):
        print(f"      and {len(result.found) - len(shown):,} more: --all lists them")
    print()


def _finding(found: Found) -> str:
    record = found.record
    cells = (str(found.finding), _time(record.at_ms), short_hex(found.receipt.hex()))
    more = ", ".join(found.differing)
    if found.finding in (Finding.SENT_REFUSED, Finding.REFUSED_NOT_SENT):
        more = escaped(record.reason) + (f", {record.count:,} times" if record.count != 1 else "")
    elif record.event is not AuditEvent.ENVELOPE_SEEN and not more:
        more = f"{escaped(record.event)} no. {record.number}"
    return "    - " + "  ".join([*columns([cells], _FOUND_WIDTHS), more]).rstrip()
