"""`agentmesh audit graph` and `agentmesh audit report`: pictures of a log, written once all of it has been verified."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from functools import partial

from agentmesh.audit import Handover, verified_records
from agentmesh.cli.audit_log import Log
from agentmesh.cli.command import Commands, Parser, add_command, answer
from agentmesh.cli.pictures.graph import graph
from agentmesh.cli.pictures.listed import Listed
from agentmesh.cli.pictures.report import ROWS_MAX, report
from agentmesh.cli.pictures.traffic import Traffic
from agentmesh.cli.text import Exit, amount, escaped, fail
from agentmesh.cli.whole_files import write_new


def add(audits: Commands) -> tuple[Parser, Parser]:
    """Add the two to `audit`; return their parsers, which take logs as the others do."""
    drawn = add_command(
        audits, "graph", partial(_picture, lambda traffic: iter([graph(traffic)]), 0),
        what="draw who talked to whom, and when, as an SVG",
        description="Draw who talked to whom, how much and when, refusals in a colour of their own. Of many agents "
        "and ways the busiest are drawn, and how many are left is said. The same log gives the same bytes.",
        example="alice.log -o mesh.svg",
    )  # fmt: skip
    page = add_command(
        audits, "report", partial(_picture, report, ROWS_MAX),
        what="write a page with a timeline, filters and all records",
        description="Write one HTML file with sums, a timeline, filters and all records. It loads nothing from "
        "elsewhere, and its policy lets nothing else run. The same log gives the same bytes.",
        example="alice.log -o report.html",
    )  # fmt: skip
    for one in (drawn, page):
        one.add_argument("-o", "--output", metavar="FILE", required=True, help="where the picture is to stand, nothing "
                         "may be there; `-` for standard output")  # fmt: skip
    return drawn, page


def _picture(draw: Callable[[Traffic], Iterator[str]], listed: int, arguments: argparse.Namespace) -> int:
    to = arguments.output
    if to == "-" and arguments.json:
        fail("standard output is the picture's or the answer's, and not both", Exit.USAGE)
    if to != "-" and os.path.lexists(to):
        fail(f"{escaped(to)} is there already; nothing is replaced", Exit.USAGE)
    traffic = Traffic(Listed(listed))
    _read(traffic, Log(arguments.log), arguments.progress)
    if to == "-":
        sys.stdout.writelines(draw(traffic))
        return Exit.OK
    size_bytes = write_new(to, (piece.encode() for piece in draw(traffic)))
    value = {
        "path": to, "size_bytes": size_bytes, "records": traffic.records, "envelopes": traffic.envelopes,
        "refused": traffic.refused, "root": traffic.root,
    }  # fmt: skip
    answer(arguments, value, (f"{escaped(to)}: {amount(traffic.records, 'records')}",))
    return Exit.OK


def _read(traffic: Traffic, log: Log, progress: bool) -> None:
    with log.watched(progress) as (entries, tell):

        def seen() -> Iterator[bytes | Handover]:
            for number, entry in enumerate(entries):
                if isinstance(entry, bytes):
                    traffic.see(entry)
                elif number == 0:
                    traffic.begin(entry)
                yield entry

        for record in verified_records(seen(), progress=tell):
            traffic.add(record)
