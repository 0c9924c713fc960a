"""`agentmesh audit compare`: two agents' logs, held against one another."""

from __future__ import annotations

import argparse
import sys
from typing import Any, Final

from agentmesh.audit import (
    AuditEvent,
    Comparison,
    Finding,
    Found,
    Record,
    compare,
    owner_of,
    verified_records,
)
from agentmesh.cli.audit_log import Log, log_time, record_value
from agentmesh.cli.command import Commands, add_command, as_json
from agentmesh.cli.text import Exit, amount, columns, complain, escaped, fail, short_hex
from agentmesh.errors import ArgumentInvalid

_FOUND_WIDTHS: Final = (31, 23, 8)
_LISTED: Final = 100


def add(audits: Commands) -> None:
    """Add `audit compare` to the command line."""
    parser = add_command(
        audits, "compare", _compare,
        what="hold two agents' logs against one another",
        description="Report what one agent sent and the other did not open, and what differs, in both directions. "
        "Copies that a transport made and what a crash can leave are told, and are no findings.",
        example="alice.log bob.log --relay relay.log",
    )  # fmt: skip
    parser.add_argument("first", metavar="A", help="the log file of one agent, `-` for standard input")
    parser.add_argument("second", metavar="B", help="the log file of the other")
    parser.add_argument("--relay", metavar="R", help="the log file of a relay between them")
    for letter, name in (("a", "A"), ("b", "B"), ("r", "R")):
        parser.add_argument(
            f"--earlier-{letter}", metavar="FILE", action="append", default=[],
            help=f"a file of {name}'s log before it; several in order",
        )  # fmt: skip
    parser.add_argument("--all", action="store_true", help=f"list every finding, not {_LISTED} alone, and the copies")
    parser.add_argument("--progress", action="store_true", help="tell progress on stderr, terminal or not")


def _compare(arguments: argparse.Namespace) -> int:
    logs = [
        Log([*arguments.earlier_a, arguments.first]),
        Log([*arguments.earlier_b, arguments.second]),
    ]
    records = [_read(log, arguments.progress) for log in logs]
    relay = None
    if arguments.relay is not None:
        relay = _read(Log([*arguments.earlier_r, arguments.relay]), arguments.progress)
    owners = [_owner(log, some) for log, some in zip(logs, records, strict=True)]
    if owners[0] == owners[1]:
        fail(f"both logs are of {owners[0]}", Exit.MALFORMED)
    found = 0
    directions = []
    listed = None if arguments.all else _LISTED
    for sender, recipient in ((0, 1), (1, 0)):
        result = compare(owners[sender], records[sender], owners[recipient], records[recipient], relay)
        found += len(result.found)
        if arguments.json:
            directions.append({"sender": owners[sender], "recipient": owners[recipient], **_value(result, listed)})
            continue
        print(f"from  {owners[sender]}  ({logs[sender].shown})")
        print(f"to    {owners[recipient]}  ({logs[recipient].shown})")
        _print_result(result, has_relay=relay is not None, listed=listed)
    if arguments.json:
        print(as_json({"findings": found, "directions": directions}))
    if found:
        sys.stdout.flush()
        complain(amount(found, "findings"))
    return Exit.FOUND if found else Exit.OK


def _read(log: Log, progress: bool) -> list[Record]:
    with log.watched(progress) as (entries, tell):
        return list(verified_records(entries, progress=tell))
    raise AssertionError  # `watched` ends the command where the log cannot be read


def _owner(log: Log, records: list[Record]) -> str:
    try:
        return owner_of(records)
    except ArgumentInvalid:
        fail(f"{log.shown}: not the log of one agent", Exit.MALFORMED)


def _value(result: Comparison, listed: int | None) -> dict[str, Any]:
    def values(some: tuple[Found, ...]) -> list[dict[str, Any]]:
        return [
            {
                "finding": str(one.finding), "receipt": one.receipt.hex(), "differing": list(one.differing),
                "record": record_value(one.record),
            }
            for one in some[:listed]
        ]  # fmt: skip

    return {
        "matched": result.matched,
        "in_order": result.in_order,
        "findings": len(result.found),
        "found": values(result.found),
        "crashes": values(result.crashes),
        "copies": values(result.copies),
    }


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
    cells = (str(found.finding), log_time(record.at_ms), short_hex(found.receipt.hex()))
    more = ", ".join(found.differing)
    if found.finding in (Finding.SENT_REFUSED, Finding.REFUSED_NOT_SENT, Finding.COPY_REFUSED):
        more = escaped(record.reason) + (f", {record.count:,} times" if record.count != 1 else "")
    elif record.event is not AuditEvent.ENVELOPE_SEEN and not more:
        more = f"{escaped(record.event)} no. {record.number}"
    return "    - " + "  ".join([*columns([cells], _FOUND_WIDTHS), more]).rstrip()
