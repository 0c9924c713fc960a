"""The audit trail: records, the log, its proofs, and what it is good for (docs/protocol.md, section 8).

An agent writes one through a journal; anybody verifies it with the functions of this package, which look at their
arguments alone. The file sink is `agentmesh.store.LogFile`.

The names below are loaded when one of them is first asked for, because every agent makes records and few keep a log.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentmesh.audit.checkpoint import Checkpoint, claimed_by, sign_checkpoint, verify_checkpoint, verify_growth
    from agentmesh.audit.comparison import Comparison, Finding, Found, compare
    from agentmesh.audit.disclosure import Disclosed, verify_disclosure
    from agentmesh.audit.exports import (
        agt_canonical_text,
        to_agt_entries,
        to_cloud_events,
        to_json_lines,
        to_kars_events,
    )
    from agentmesh.audit.handover import Handover
    from agentmesh.audit.journal import AuditJournal, OnFailure
    from agentmesh.audit.log import AuditLog
    from agentmesh.audit.merkle import EntryHash, RootHash, leaf_hash, verify_consistency, verify_inclusion
    from agentmesh.audit.owner import owner_of
    from agentmesh.audit.record import AuditEvent, Outcome, Record, decode_entry
    from agentmesh.audit.sink import LongSink, MemorySink, Milestone, Sink
    from agentmesh.audit.verification import VerifiedLog, verified_records, verify_entries, verify_entry

__all__ = [
    "AuditEvent",
    "AuditJournal",
    "AuditLog",
    "Checkpoint",
    "Comparison",
    "Disclosed",
    "EntryHash",
    "Finding",
    "Found",
    "Handover",
    "LongSink",
    "MemorySink",
    "Milestone",
    "OnFailure",
    "Outcome",
    "Record",
    "RootHash",
    "Sink",
    "VerifiedLog",
    "agt_canonical_text",
    "claimed_by",
    "compare",
    "decode_entry",
    "leaf_hash",
    "owner_of",
    "sign_checkpoint",
    "to_agt_entries",
    "to_cloud_events",
    "to_json_lines",
    "to_kars_events",
    "verified_records",
    "verify_checkpoint",
    "verify_consistency",
    "verify_disclosure",
    "verify_entries",
    "verify_entry",
    "verify_growth",
    "verify_inclusion",
]


def __getattr__(name: str) -> Any:
    """Load what the package offers, once. PEP 562."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from agentmesh.audit import (
        checkpoint,
        comparison,
        disclosure,
        exports,
        handover,
        journal,
        log,
        merkle,
        owner,
        record,
        sink,
        verification,
    )

    rooms = (
        checkpoint, comparison, disclosure, exports, handover, journal, log, merkle, owner, record, sink,
        verification,
    )  # fmt: skip
    globals().update({offered: vars(room)[offered] for room in rooms for offered in __all__ if offered in vars(room)})
    return globals()[name]


def __dir__() -> list[str]:
    return sorted(__all__)
