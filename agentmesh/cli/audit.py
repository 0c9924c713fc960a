"""`python -m agentmesh audit verify|show|compare`: an audit log, read by somebody who holds its files and no key."""

from __future__ import annotations

import argparse
import datetime
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, Final, NoReturn, cast

from attrs import define, field

from agentmesh.audit import (
    AuditEvent,
    Checkpoint,
    Comparison,
    Finding,
    Found,
    Handover,
    Record,
    VerifiedLog,
    claimed_by,
    compare,
    owner_of,
    verified_records,
    verify_checkpoint,
    verify_entries,
)
from agentmesh.audit.checkpoint import CHECKPOINT_MAX_BYTES
from agentmesh.audit.verification import verified_pages
from agentmesh.cli.streams import overwrite, remark
from agentmesh.cli.text import Exit, amount, columns, complain, escaped, exit_table, fail, reason, short_did, short_hex
from agentmesh.errors import AgentMeshError, ArgumentInvalid, LogBroken, StoreFailed
from agentmesh.identity import IdentityKey
from agentmesh.store import read_log_parts
from agentmesh.store.frames import CONTINUED, MAGIC

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
    "handover": "the file does not go on behind {} entries, where the one before it ends",
}


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `audit` and its three commands to the command line."""
    parser = commands.add_parser(
        "audit",
        help="verify, show or compare audit logs",
        description="Read audit logs. No key is needed, and no content is in them.",
        epilog=exit_table(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    audits = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    verify = audits.add_parser(
        "verify",
        help="check that a log is whole, and what a checkpoint says of it",
        description="Check every entry of a log and its chain. Without a checkpoint from elsewhere, a tail that was "
        "cut and a log that was written anew go unnoticed.",
        epilog=exit_table(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verify.add_argument("--checkpoint", metavar="FILE", help="a checkpoint that the log's owner signed")
    verify.add_argument("--issuer", metavar="DID-OR-KEY", help="the owner: a DID, or its key in hexadecimal")
    verify.add_argument("--mesh", metavar="NAME", help="the mesh that the checkpoint must be of")
    verify.set_defaults(run=_verify, usage_error=verify.error)

    show = audits.add_parser(
        "show",
        help="show a log as a table",
        description="Show a log, verified as it goes by.",
        epilog=exit_table(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    show.set_defaults(run=_show)
    for one in (verify, show):
        one.add_argument(
            "log", metavar="LOG", nargs="+", help="a log file, `-` for standard input; of a log that was rotated its "
            "files in order, or the last alone",
        )  # fmt: skip

    compared = audits.add_parser(
        "compare",
        help="hold two agents' logs against one another",
        description="Report what one agent sent and the other did not open, and what differs, in both directions. "
        "Copies that a transport made and what a crash can leave are told, and are no findings.",
        epilog=exit_table(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    compared.add_argument("first", metavar="A", help="the log file of one agent, `-` for standard input")
    compared.add_argument("second", metavar="B", help="the log file of the other")
    compared.add_argument("--relay", metavar="R", help="the log file of a relay between them")
    for letter, name in (("a", "A"), ("b", "B"), ("r", "R")):
        compared.add_argument(
            f"--earlier-{letter}", metavar="FILE", action="append", default=[],
            help=f"a file of {name}'s log before it; several in order",
        )  # fmt: skip
    compared.add_argument("--all", action="store_true", help=f"list every finding, not {_LISTED} alone, and the copies")
    compared.set_defaults(run=_compare)

    for one in (verify, show, compared):
        one.add_argument("--progress", action="store_true", help="tell progress on stderr, terminal or not")


# --- reading ---------------------------------------------------------------------------------------------------------


class _Input:
    """Standard input as a file, of which the beginning is remembered."""

    def __init__(self) -> None:
        self.begun = b""
        self._file: Any = getattr(sys.stdin, "buffer", None)

    def read(self, size: int) -> bytes:
        if self._file is None:
            raise OSError("standard input is closed")
        data: bytes = self._file.read(size)
        self.begun = (self.begun + data[: len(MAGIC)])[: len(MAGIC)]
        return data


@define
class _Log:
    """The files of a log: their paths, and how they are named in what is printed.

    Attributes:
        handover: What the first of them begins with, once it is read.
    """

    paths: list[str]
    shown: str = field(init=False)
    handover: Handover | None = field(init=False, default=None)
    _input: _Input = field(init=False, factory=_Input)

    @shown.default
    def _(self) -> str:
        return ", ".join("standard input" if path == "-" else escaped(path) for path in self.paths)

    def fail(self, error: AgentMeshError) -> NoReturn:
        """End the command, saying what is wrong with this log."""
        if isinstance(error, LogBroken):
            fault = _FAULTS.get(error.fault, "entry {} is wrong").format(f"{error.sequence:,}")
            status = Exit.TORN if error.fault == "torn" else Exit.TAMPERED
            if (error.fault, error.sequence) == ("entry", 0) and not self._begin_as_logs():
                status, fault = Exit.MALFORMED, f"not an audit log: {fault}"
            fail(f"{self.shown}: {fault} [{error.code}: {error.fault} at {error.sequence}]", status)
        if isinstance(error, StoreFailed) and isinstance(error.__cause__, OSError):
            fail(f"cannot read {self.shown}: {reason(error.__cause__)}", Exit.UNREADABLE)
        if isinstance(error, StoreFailed):
            fail(f"{self.shown}: {reason(error)}", Exit.UNREADABLE)
        if isinstance(error, ArgumentInvalid) and error.argument == "checkpoint":
            fail(f"{self.shown}: the checkpoint is of before; give the earlier files too, in order", Exit.USAGE)
        fail(f"{self.shown}: {reason(error)}", Exit.TAMPERED)

    def _begin_as_logs(self) -> bool:
        for path in self.paths:
            begun = self._input.begun
            if path != "-":
                with Path(path).open("rb") as file:
                    begun = file.read(len(MAGIC))
            if begun not in (MAGIC, CONTINUED):
                return False
        return True

    @contextmanager
    def watched(self, wanted: bool) -> Iterator[tuple[Iterator[bytes | Handover], Callable[[int], None]]]:
        """Yield the entries, and what tells on stderr how many have been verified."""
        on_terminal = sys.stderr.isatty()
        size = sum(map(_size_of, self.paths))
        read = 0
        told = False

        def entries() -> Iterator[bytes | Handover]:
            nonlocal read
            sources = [cast(BinaryIO, self._input) if path == "-" else path for path in self.paths]
            for entry in read_log_parts(*sources):
                if isinstance(entry, bytes):
                    read += len(entry) + 4
                elif self.handover is None and not read:
                    self.handover = entry
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


def _size_of(path: str) -> int:
    try:
        return 0 if path == "-" else Path(path).stat().st_size
    except (OSError, ValueError):
        return 0  # whoever reads it will say why


@lru_cache(maxsize=1)  # a log has many records of one second
def _second(seconds: int) -> str | None:
    try:
        return f"{datetime.datetime.fromtimestamp(seconds, tz=datetime.UTC):%Y-%m-%d %H:%M:%S}"
    except (OverflowError, OSError, ValueError):
        return None


def _time(time_ms: int) -> str:
    second = _second(time_ms // 1000)
    return f"{time_ms} ms" if second is None else f"{second}.{time_ms % 1000:03d}"


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
    if len(verified.owners) > 1:
        fail(f"{log.shown}: records of more than one owner", Exit.TAMPERED)
    if checkpoint is not None and verified.owners - {checkpoint.issuer.did}:
        fail(f"{log.shown}: another's log than the checkpoint's", Exit.TAMPERED)
    _print_verified(log, verified)
    return 0


def _print_verified(log: _Log, verified: VerifiedLog) -> None:
    print(f"log         {log.shown}")
    print(f"owner       {', '.join(map(escaped, verified.owners)) or 'none named: a relay, or nothing of its own yet'}")
    print(f"entries     {verified.size:,}, whole and in order")
    if verified.first:
        print(f"            the first {verified.first:,} in earlier files, which are not at hand")
        signed = None if log.handover is None else log.handover.checkpoint
        by = "unsigned" if signed is None else f"signed by {signed.issuer.did}, at {_time(signed.time_ms)}"
        print(f"            handed over {by}")
    print(f"root        {verified.root.hex()}")
    checkpoint = verified.checkpoint
    if checkpoint is None:
        print("checkpoint  none: a tail that was cut, or a log written anew, would go unnoticed")
        return
    print(f"checkpoint  covers {checkpoint.size:,} entries; {verified.size - checkpoint.size:,} came after it")
    print(f"signed by   {checkpoint.issuer.did}")
    print(f"            in {checkpoint.mesh}, at {_time(checkpoint.time_ms)}")


def _read_checkpoint(path: str, issuer: str, mesh: str | None) -> Checkpoint:
    shown = "standard input" if path == "-" else escaped(path)
    try:
        if path == "-":
            statement = _Input().read(CHECKPOINT_MAX_BYTES + 1)
        else:
            with Path(path).open("rb") as file:
                statement = file.read(CHECKPOINT_MAX_BYTES + 1)
    except OSError as error:
        fail(f"cannot read {shown}: {reason(error)}", Exit.UNREADABLE)
    except ValueError:
        fail(f"cannot read {shown}: not a file name", Exit.UNREADABLE)
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
    log = _Log(arguments.log)
    print(
        columns([("", "time (UTC)", "event", "from", "to", "bytes", "receipt")], _SHOW_WIDTHS, _SHOW_RIGHT)[0]
        + "  more"
    )
    count = 0
    with log.watched(arguments.progress) as (entries, tell):
        try:
            for page in verified_pages(entries, progress=tell):
                print("\n".join(map(_row, page.rows)))
                count += len(page.rows)
        finally:
            sys.stdout.flush()  # before what is wrong with the next is said on stderr
    print(amount(count, "entries"))
    return 0


def _row(row: Sequence[Any]) -> str:
    # Written out, because a log has millions of them. Its cells are numbers, fixed words, and what `_party` escaped.
    _, sequence, _, at_ms, event, _, sender, recipient, _, receipt, _, number, size, _, _, why, count = row
    line = (
        f"{sequence:>7}  {_time(at_ms):<23}  {_what(event, sender, recipient)}  {size or '':>7}  {receipt[:4].hex():<8}"
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


# --- compare ---------------------------------------------------------------------------------------------------------


def _compare(arguments: argparse.Namespace) -> int:
    logs = [
        _Log([*arguments.earlier_a, arguments.first]),
        _Log([*arguments.earlier_b, arguments.second]),
    ]
    records = [_read(log, arguments.progress) for log in logs]
    relay = None
    if arguments.relay is not None:
        relay = _read(_Log([*arguments.earlier_r, arguments.relay]), arguments.progress)
    owners = [_owner(log, some) for log, some in zip(logs, records, strict=True)]
    if owners[0] == owners[1]:
        fail(f"both logs are of {owners[0]}", Exit.MALFORMED)
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
    return Exit.FOUND if found else Exit.OK


def _read(log: _Log, progress: bool) -> list[Record]:
    with log.watched(progress) as (entries, tell):
        return list(verified_records(entries, progress=tell))
    raise AssertionError  # `watched` ends the command where the log cannot be read


def _owner(log: _Log, records: list[Record]) -> str:
    try:
        return owner_of(records)
    except ArgumentInvalid:
        fail(f"{log.shown}: not the log of one agent", Exit.MALFORMED)


def _print_result(result: Comparison, *, has_relay: bool, listed: int | None) -> None:
    print(f"      {amount(result.matched, 'envelopes')} sent, opened and recorded alike")
    if not result.in_order:
        overtaken = sum(
            1 for one, after in zip(result.opened_order, result.opened_order[1:], strict=False) if after < one
        )
        print(f"      not opened in the order of sending: {amount(overtaken, 'places')}")
    if has_relay:
        print(f"      {amount(len(result.seen_order), 'envelopes')} sent and seen by the relay")
    if result.copies:
        copies = "1 copy" if len(result.copies) == 1 else f"{len(result.copies):,} copies"
        print(f"      {copies} seen again by the relay or refused, as a transport makes them")
    for one in result.copies if listed is None else ():
        print(_finding(one))
    if result.crashes:
        print(f"      {amount(len(result.crashes), 'envelopes')} as a crash between log and state leaves them:")
    for one in result.crashes[:listed]:
        print(_finding(one))
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
    if found.finding in (Finding.SENT_REFUSED, Finding.REFUSED_NOT_SENT, Finding.COPY_REFUSED):
        more = escaped(record.reason) + (f", {record.count:,} times" if record.count != 1 else "")
    elif record.event is not AuditEvent.ENVELOPE_SEEN and not more:
        more = f"{escaped(record.event)} no. {record.number}"
    return "    - " + "  ".join([*columns([cells], _FOUND_WIDTHS), more]).rstrip()
