"""The verification of a fleet's audit logs, as an auditor does it who is given their bytes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from attrs import define, field

from agentmesh.audit import Finding, Record, compare, verified_records, verify_checkpoint, verify_entries
from agentmesh.errors import LogBroken
from benchmarks.fleet.host import FleetHost
from benchmarks.fleet.settings import MESH

_HARMLESS: Final = frozenset({Finding.SENT_NOT_OPENED, Finding.SENT_REFUSED, Finding.REFUSED_NOT_SENT})


@define
class LogReport:
    """What the verification of all logs found.

    Attributes:
        logs: How many were verified from their first entry to their last, each against its checkpoint if it has one.
        records: Their entries.
        size_bytes: The bytes of their entries.
        checkpoints: How many logs were held against a checkpoint that was signed while the run went on.
        compared: How many directions between two agents were compared, both sides' logs.
        matched: Envelopes that both sides recorded alike.
        findings: What the comparisons found. What one side sealed and the other never opened is no fault: KNOCKs
            that were dropped, acknowledgements that a session's end overtook, messages of a crash before the write.
        broken: What is wrong, in words.
    """

    logs: int = 0
    records: int = 0
    size_bytes: int = 0
    checkpoints: int = 0
    compared: int = 0
    matched: int = 0
    findings: Counter[str] = field(factory=Counter)
    broken: list[str] = field(factory=list)


def verify_logs(
    owners: Sequence[FleetHost], pairs: Sequence[tuple[int, int]], progress: Callable[[int, int], None]
) -> LogReport:
    """Verify every log, and hold the logs of some pairs against one another."""
    report = LogReport()
    for done, owner in enumerate(owners):
        progress(done, len(owners))
        _verify(owner, report)
    if not report.broken:
        for one, other in pairs:
            _compare(owners[one], owners[other], report)
    return report


def _verify(owner: FleetHost, report: LogReport) -> None:
    sizes = Counter[str]()

    def entries() -> Iterator[bytes]:
        for entry in owner.entries():
            sizes["bytes"] += len(entry)
            yield entry

    checkpoint = owner.checkpoint
    if checkpoint is not None:
        # As an auditor does who was given the bytes.
        checkpoint = verify_checkpoint(checkpoint.statement, owner.agent.key, mesh=MESH)
        report.checkpoints += 1
    try:
        report.records += verify_entries(entries(), checkpoint=checkpoint).size
    except LogBroken as error:
        report.broken.append(f"the log of {owner.did} is broken at entry {error.sequence}: {error.fault}")
    report.logs += 1
    report.size_bytes += sizes["bytes"]


def _compare(one: FleetHost, other: FleetHost, report: LogReport) -> None:
    logs: dict[str, list[Record]] = {owner.did: list(verified_records(owner.entries())) for owner in (one, other)}
    for sender, recipient in ((one, other), (other, one)):
        result = compare(sender.did, logs[sender.did], recipient.did, logs[recipient.did])
        report.compared += 1
        report.matched += result.matched
        for found in result.found:
            report.findings[str(found.finding)] += 1
            # A crash before the write leaves a record of a step that is done again.
            if found.finding not in _HARMLESS and not (sender.rolled_back or recipient.rolled_back):
                report.broken.append(f"{found.finding}, from {sender.did} to {recipient.did}")
